"""Registrations, tax ids and tax rates, between the wire and the domain."""

from datetime import date, datetime

from kit.errors import InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.ids import parse_id
from kit.rpc.wire import render_decimal, render_time
from services.tax.convert.fields import (
    NUMBER_LENGTH_MAX,
    check_length,
    parse_address,
    parse_date,
    render_date,
)
from services.tax.model import (
    Address,
    CheckedTaxId,
    Confirmation,
    DateRange,
    Registration,
    RegistrationScheme,
    TaxId,
    TaxIdStatus,
)
from services.tax.places import parse_country
from services.tax.rulebook import Rate
from services.tax.tax_ids import check_tax_id
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

_SCHEMES = {
    tax_pb2.REGISTRATION_SCHEME_DOMESTIC: RegistrationScheme.DOMESTIC,
    tax_pb2.REGISTRATION_SCHEME_UNION_OSS: RegistrationScheme.UNION_OSS,
    tax_pb2.REGISTRATION_SCHEME_NON_UNION_OSS: RegistrationScheme.NON_UNION_OSS,
    tax_pb2.REGISTRATION_SCHEME_SIMPLIFIED: RegistrationScheme.SIMPLIFIED,
    tax_pb2.REGISTRATION_SCHEME_SMALL_BUSINESS: RegistrationScheme.SMALL_BUSINESS,
    tax_pb2.REGISTRATION_SCHEME_EU_BELOW_THRESHOLD: RegistrationScheme.EU_BELOW_THRESHOLD,
}
_SCHEME_NUMBERS = {scheme: number for number, scheme in _SCHEMES.items()}
TAX_ID_STATUSES = {
    TaxIdStatus.INVALID: tax_pb2.TAX_ID_STATUS_INVALID,
    TaxIdStatus.FORMAT_VALID: tax_pb2.TAX_ID_STATUS_FORMAT_VALID,
    TaxIdStatus.NOT_CHECKED: tax_pb2.TAX_ID_STATUS_NOT_CHECKED,
    TaxIdStatus.CONFIRMED: tax_pb2.TAX_ID_STATUS_CONFIRMED,
}


def parse_registration(message: tax_pb2.Registration, field: str) -> Registration:
    """Read a registration; its number is checked where the country's format is known."""
    v = Violations()
    if message.HasField("create_time"):
        v.add(f"{field}.create_time", "must be absent: the service sets it")
    registration_id = v.take(
        f"{field}.registration_id",
        lambda: parse_id(message.registration_id, f"{field}.registration_id"),
    )
    scheme = _SCHEMES.get(message.scheme)
    if scheme is None:
        v.add(f"{field}.scheme", "is required")
    start = v.take(
        f"{field}.start_date", lambda: parse_date(message.start_date, f"{field}.start_date")
    )
    end = (
        v.take(f"{field}.end_date", lambda: parse_date(message.end_date, f"{field}.end_date"))
        if message.HasField("end_date")
        else None
    )
    address = tax_pb2.TaxAddress(country=message.country, region=message.region)
    place = v.take(field, lambda: parse_address(address, field))
    number = message.number.strip()
    if not number:
        v.add(f"{field}.number", "is required")
    check_length(v, number, NUMBER_LENGTH_MAX, f"{field}.number")
    v.raise_if_any()
    assert scheme is not None, "a missing scheme was noted"
    if end is not None and end <= start:
        raise InvalidInput.of(f"{field}.end_date", "must be after the start date")
    if place.country == "US" and not place.region:
        raise InvalidInput.of(f"{field}.region", "is required in the US")
    return Registration(
        registration_id=registration_id,
        country=place.country,
        region=place.region,
        scheme=scheme,
        number=_number(number, place, scheme, f"{field}.number"),
        established=message.established,
        valid=DateRange(start, end),
    )


def parse_put_registration(request: tax_service_pb2.PutRegistrationRequest) -> Registration:
    """Read the registration that is put, and make sure that the request has an id."""
    v = Violations()
    v.take("request_id", lambda: parse_request_id(request.request_id))
    registration = v.take(
        "registration", lambda: parse_registration(request.registration, "registration")
    )
    v.raise_if_any()
    return registration


def parse_rates_filter(request: tax_service_pb2.ListRatesRequest) -> tuple[str, date | None]:
    """Read of which country, and on which day, rates are listed; both may be left out."""
    v = Violations()
    country, day = "", None
    if request.country:
        country = v.take("country", lambda: parse_country(request.country, "country"))
    if request.HasField("date"):
        day = v.take("date", lambda: parse_date(request.date, "date"))
    v.raise_if_any()
    return country, day


def _number(number: str, place: Address, scheme: RegistrationScheme, field: str) -> str:
    """Check the number of an ordinary national registration; others have formats of their own."""
    is_provincial = place.country == "CA" and place.region
    if scheme is not RegistrationScheme.DOMESTIC or is_provincial:
        return number
    checked = check_tax_id(TaxId(place.country, number))
    if checked.status is TaxIdStatus.INVALID:
        raise InvalidInput.of(field, checked.problem)
    return checked.canonical or number


def render_registration(registration: Registration, create_time: datetime) -> tax_pb2.Registration:
    """Write a registration as it is stored."""
    valid = registration.valid
    return tax_pb2.Registration(
        registration_id=registration.registration_id,
        country=registration.country,
        region=registration.region,
        scheme=_SCHEME_NUMBERS[registration.scheme],
        number=registration.number,
        established=registration.established,
        start_date=render_date(valid.start),
        end_date=render_date(valid.end) if valid.end else None,
        create_time=render_time(create_time),
    )


def render_rate(rate: Rate) -> tax_pb2.TaxRate:
    """Write a tax rate."""
    return tax_pb2.TaxRate(
        jurisdiction=rate.jurisdiction,
        name=rate.name,
        rate_percent=render_decimal(rate.rate_percent),
        start_date=render_date(rate.valid.start),
        end_date=render_date(rate.valid.end) if rate.valid.end else None,
        source=rate.source,
    )


def render_checked_tax_id(
    checked: CheckedTaxId, unconfirmed_reason: str
) -> tax_service_pb2.ValidateTaxIdResponse:
    """Write what is known of a tax id."""
    found = checked.confirmation
    return tax_service_pb2.ValidateTaxIdResponse(
        status=TAX_ID_STATUSES[checked.status],
        canonical=checked.canonical,
        problem=checked.problem,
        confirmation=render_confirmation(found) if found else None,
        unconfirmed_reason=unconfirmed_reason,
    )


def render_confirmation(confirmation: Confirmation) -> tax_pb2.TaxIdConfirmation:
    """Write what a register said."""
    return tax_pb2.TaxIdConfirmation(
        register=confirmation.register,
        is_valid=confirmation.is_valid,
        name=confirmation.name,
        consultation_number=confirmation.consultation_number,
        check_time=render_time(confirmation.check_time),
    )
