"""Between the wire and the domain: parsing is validation, and names every bad field at once.

What is parsed cannot be wrong. It sets the defaults that the contract names, and no other.
"""

import re
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import partial

from google.type.date_pb2 import Date as DateMessage

from kit.decimals import parse_decimal
from kit.errors import DomainError, InvalidInput, Violation, Violations
from kit.idempotency import parse_request_id
from kit.ids import parse_id
from kit.money import Money, Rounding, minor_digits
from kit.rpc.status import render_status
from kit.rpc.wire import parse_money, render_decimal, render_money, render_time
from services.tax.assessment import AMOUNT_DIGITS_MAX
from services.tax.exchange import Conversion, ExchangeRate
from services.tax.model import (
    Address,
    Buyer,
    BuyerKind,
    CheckedTaxId,
    DateRange,
    Determination,
    ProductCategory,
    Registration,
    RegistrationScheme,
    Supply,
    Tax,
    TaxableLine,
    TaxId,
    TaxIdStatus,
    TaxRounding,
    Treatment,
)
from services.tax.places import parse_country, parse_region
from services.tax.rulebook import Rate
from services.tax.tax_ids import check_tax_id
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

LINES_MAX = 1000
BATCH_MAX = 1000
TAX_IDS_MAX = 8
LINE_ID_LENGTH_MAX = 128
NUMBER_LENGTH_MAX = 64
POSTAL_CODE_LENGTH_MAX = 16
DOMAIN = "tollkeeper.tax"

_LANGUAGE = re.compile(r"[a-z]{2}")
_COUNTRIES_WITH_REGIONS = ("CA", "US")
_AMOUNT_MAX = Decimal(10) ** AMOUNT_DIGITS_MAX
_KINDS = {
    tax_pb2.BUYER_KIND_CONSUMER: BuyerKind.CONSUMER,
    tax_pb2.BUYER_KIND_BUSINESS: BuyerKind.BUSINESS,
}
_CATEGORIES = {
    tax_pb2.PRODUCT_CATEGORY_UNSPECIFIED: ProductCategory.ELECTRONIC_SERVICE,
    tax_pb2.PRODUCT_CATEGORY_ELECTRONIC_SERVICE: ProductCategory.ELECTRONIC_SERVICE,
    tax_pb2.PRODUCT_CATEGORY_PROFESSIONAL_SERVICE: ProductCategory.PROFESSIONAL_SERVICE,
}
_TAX_ROUNDINGS = {
    tax_service_pb2.TAX_ROUNDING_UNSPECIFIED: TaxRounding.PER_RATE,
    tax_service_pb2.TAX_ROUNDING_PER_RATE: TaxRounding.PER_RATE,
    tax_service_pb2.TAX_ROUNDING_PER_LINE: TaxRounding.PER_LINE,
}
_ROUNDING_MODES = {
    tax_service_pb2.ROUNDING_MODE_UNSPECIFIED: Rounding.HALF_UP,
    tax_service_pb2.ROUNDING_MODE_HALF_UP: Rounding.HALF_UP,
    tax_service_pb2.ROUNDING_MODE_HALF_EVEN: Rounding.HALF_EVEN,
    tax_service_pb2.ROUNDING_MODE_DOWN: Rounding.DOWN,
    tax_service_pb2.ROUNDING_MODE_UP: Rounding.UP,
}
_SCHEMES = {
    tax_pb2.REGISTRATION_SCHEME_DOMESTIC: RegistrationScheme.DOMESTIC,
    tax_pb2.REGISTRATION_SCHEME_UNION_OSS: RegistrationScheme.UNION_OSS,
    tax_pb2.REGISTRATION_SCHEME_NON_UNION_OSS: RegistrationScheme.NON_UNION_OSS,
    tax_pb2.REGISTRATION_SCHEME_SIMPLIFIED: RegistrationScheme.SIMPLIFIED,
    tax_pb2.REGISTRATION_SCHEME_SMALL_BUSINESS: RegistrationScheme.SMALL_BUSINESS,
    tax_pb2.REGISTRATION_SCHEME_EU_BELOW_THRESHOLD: RegistrationScheme.EU_BELOW_THRESHOLD,
}
_SCHEME_NUMBERS = {scheme: number for number, scheme in _SCHEMES.items()}
_STATUSES = {
    TaxIdStatus.INVALID: tax_pb2.TAX_ID_STATUS_INVALID,
    TaxIdStatus.FORMAT_VALID: tax_pb2.TAX_ID_STATUS_FORMAT_VALID,
    TaxIdStatus.NOT_CHECKED: tax_pb2.TAX_ID_STATUS_NOT_CHECKED,
}
_TREATMENTS = {
    Treatment.TAXED: tax_pb2.TAX_TREATMENT_TAXED,
    Treatment.REVERSE_CHARGE: tax_pb2.TAX_TREATMENT_REVERSE_CHARGE,
    Treatment.NOT_TAXABLE: tax_pb2.TAX_TREATMENT_NOT_TAXABLE,
    Treatment.NOT_REGISTERED: tax_pb2.TAX_TREATMENT_NOT_REGISTERED,
    Treatment.OUT_OF_SCOPE: tax_pb2.TAX_TREATMENT_OUT_OF_SCOPE,
}


def parse_supply(request: tax_service_pb2.DetermineTaxRequest) -> Supply:
    """Read what the taxes are asked for."""
    _check_count(len(request.lines), LINES_MAX, "lines")
    v = Violations()
    seen: set[str] = set()
    lines = tuple(
        v.take(f"lines[{index}]", partial(_line, line, f"lines[{index}]", seen))
        for index, line in enumerate(request.lines)
    )
    rounding = _TAX_ROUNDINGS.get(request.rounding)
    if rounding is None:
        v.add("rounding", "is not known")
    language = request.language or "en"
    if not _LANGUAGE.fullmatch(language):
        v.add("language", "must be a code of ISO 639-1, such as de")
    buyer = v.take("buyer", lambda: _buyer(request.buyer, "buyer"))
    day = v.take("supply_date", lambda: parse_date(request.supply_date, "supply_date"))
    v.raise_if_any()
    return Supply(buyer, lines, day, rounding or TaxRounding.PER_RATE, language)


def parse_batch(request: tax_service_pb2.BatchDetermineTaxRequest) -> list[Supply | DomainError]:
    """Read many; what cannot be read is its own error."""
    _check_count(len(request.requests), BATCH_MAX, "requests")
    return [_supply_or_error(each) for each in request.requests]


def parse_tax_id(message: tax_pb2.TaxId, field: str) -> TaxId:
    """Read a tax id, without judging it."""
    v = Violations()
    country = v.take(f"{field}.country", lambda: parse_country(message.country, f"{field}.country"))
    if not message.number.strip():
        v.add(f"{field}.number", "is required")
    _check_length(v, message.number, NUMBER_LENGTH_MAX, f"{field}.number")
    v.raise_if_any()
    return TaxId(country, message.number)


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
    place = v.take(field, lambda: _address(address, field))
    number = message.number.strip()
    if not number:
        v.add(f"{field}.number", "is required")
    _check_length(v, number, NUMBER_LENGTH_MAX, f"{field}.number")
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


def parse_currency_pair(
    request: tax_service_pb2.GetExchangeRateRequest | tax_service_pb2.ConvertMoneyRequest,
) -> tuple[str, str, date]:
    """Read which rate is asked for: the base, the quote and the day."""
    v = Violations()
    base = v.take("base_currency", lambda: _currency(request.base_currency, "base_currency"))
    quote = v.take("quote_currency", lambda: _currency(request.quote_currency, "quote_currency"))
    day = v.take("date", lambda: parse_date(request.date, "date"))
    v.raise_if_any()
    return base, quote, day


def parse_conversion(request: tax_service_pb2.ConvertMoneyRequest) -> Conversion:
    """Read what is to be converted."""
    v = Violations()
    amount = v.take("amount", lambda: _exact_amount(request.amount.value, "amount"))
    pair = v.take("", lambda: parse_currency_pair(request))
    rounding = _ROUNDING_MODES.get(request.rounding)
    if rounding is None:
        v.add("rounding", "is not known")
    v.raise_if_any()
    assert rounding is not None, "an unknown rounding was noted"
    return Conversion(amount, *pair, rounding)


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


def parse_put_registration(request: tax_service_pb2.PutRegistrationRequest) -> Registration:
    """Read the registration that is put, and make sure that the request has an id."""
    v = Violations()
    v.take("request_id", lambda: parse_request_id(request.request_id))
    registration = v.take(
        "registration", lambda: parse_registration(request.registration, "registration")
    )
    v.raise_if_any()
    return registration


def parse_date(message: DateMessage, field: str) -> date:
    """Read a whole date.

    Raises:
        InvalidInput: it is absent, or no day of the calendar.
    """
    if not (message.year or message.month or message.day):
        raise InvalidInput.of(field, "is required")
    try:
        return date(message.year, message.month, message.day)
    except ValueError:
        raise InvalidInput.of(field, "must be a day of the calendar") from None


def render_date(day: date) -> DateMessage:
    """Write a date."""
    return DateMessage(year=day.year, month=day.month, day=day.day)


def render_determination(determination: Determination) -> tax_service_pb2.Determination:
    """Write what was determined."""
    tax_id, status = determination.buyer_tax_id, determination.buyer_tax_id_status
    return tax_service_pb2.Determination(
        lines=[
            tax_service_pb2.LineTax(line_id=line.line_id, taxes=map(_render_tax, line.taxes))
            for line in determination.lines
        ],
        totals=map(_render_tax, determination.totals),
        tax_total=render_money(determination.tax_total),
        buyer_tax_id=(
            tax_pb2.TaxId(country=tax_id.country, number=tax_id.canonical) if tax_id else None
        ),
        buyer_tax_id_status=(_STATUSES[status] if status else tax_pb2.TAX_ID_STATUS_UNSPECIFIED),
    )


def render_batch(
    results: Sequence[Determination | DomainError],
) -> tax_service_pb2.BatchDetermineTaxResponse:
    """Write many, each a determination or an error."""
    return tax_service_pb2.BatchDetermineTaxResponse(results=map(_render_result, results))


def render_checked_tax_id(checked: CheckedTaxId) -> tax_service_pb2.ValidateTaxIdResponse:
    """Write what is known of a tax id."""
    return tax_service_pb2.ValidateTaxIdResponse(
        status=_STATUSES[checked.status], canonical=checked.canonical, problem=checked.problem
    )


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


def render_exchange_rate(rate: ExchangeRate) -> tax_pb2.ExchangeRate:
    """Write an exchange rate."""
    return tax_pb2.ExchangeRate(
        base_currency=rate.base,
        quote_currency=rate.quote,
        rate=render_decimal(rate.rate),
        rate_date=render_date(rate.rate_date),
        source=rate.source,
    )


def render_conversion(
    money: Money, exact: Decimal, rate: ExchangeRate
) -> tax_service_pb2.ConvertMoneyResponse:
    """Write a converted amount, settled and exact."""
    return tax_service_pb2.ConvertMoneyResponse(
        money=render_money(money),
        unrounded_amount=render_decimal(exact),
        rate=render_exchange_rate(rate),
    )


def _supply_or_error(request: tax_service_pb2.DetermineTaxRequest) -> Supply | DomainError:
    try:
        return parse_supply(request)
    except DomainError as error:
        return error


def _line(message: tax_service_pb2.TaxableLine, field: str, seen: set[str]) -> TaxableLine:
    v = Violations()
    line_id = message.line_id
    if not line_id:
        v.add(f"{field}.line_id", "is required")
    elif line_id in seen:
        v.add(f"{field}.line_id", "must be unique in the request")
    seen.add(line_id)
    _check_length(v, line_id, LINE_ID_LENGTH_MAX, f"{field}.line_id")
    amount = v.take(f"{field}.amount", lambda: _amount(message, f"{field}.amount"))
    category = _CATEGORIES.get(message.category)
    if category is None:
        v.add(f"{field}.category", "is not known")
    v.raise_if_any()
    assert category is not None, "an unknown category was noted"
    return TaxableLine(line_id, amount, category)


def _amount(message: tax_service_pb2.TaxableLine, field: str) -> Money:
    amount = parse_money(message.amount, field)
    if abs(amount.minor_units) >= 10**AMOUNT_DIGITS_MAX:
        raise InvalidInput.of(field, f"must have at most {AMOUNT_DIGITS_MAX} digits")
    return amount


def _buyer(message: tax_pb2.Buyer, field: str) -> Buyer:
    v = Violations()
    kind = _KINDS.get(message.kind)
    if kind is None:
        v.add(f"{field}.kind", "must be BUYER_KIND_CONSUMER or BUYER_KIND_BUSINESS")
    place = f"{field}.address"
    address = v.take(place, lambda: _buyer_address(message.address, place))
    if len(message.tax_ids) > TAX_IDS_MAX:
        v.add(f"{field}.tax_ids", f"must be at most {TAX_IDS_MAX}")
    tax_ids = [
        v.take(
            f"{field}.tax_ids[{index}]", partial(parse_tax_id, tax_id, f"{field}.tax_ids[{index}]")
        )
        for index, tax_id in enumerate(message.tax_ids[:TAX_IDS_MAX])
    ]
    v.raise_if_any()
    assert kind is not None, "an unknown kind was noted"
    return Buyer(kind, address, tuple(map(check_tax_id, tax_ids)))


def _buyer_address(message: tax_pb2.TaxAddress, field: str) -> Address:
    address = _address(message, field)
    if address.country in _COUNTRIES_WITH_REGIONS and not address.region:
        raise InvalidInput.of(f"{field}.region", f"is required in {address.country}")
    return address


def _currency(text: str, field: str) -> str:
    try:
        minor_digits(text)
    except InvalidInput as error:
        raise InvalidInput.of(field, error.violations[0].description) from error
    return text


def _exact_amount(text: str, field: str) -> Decimal:
    amount = parse_decimal(text, field)
    if abs(amount) >= _AMOUNT_MAX:
        raise InvalidInput.of(
            field, f"must have at most {AMOUNT_DIGITS_MAX} digits before the point"
        )
    return amount


def _address(message: tax_pb2.TaxAddress, field: str) -> Address:
    country = parse_country(message.country, f"{field}.country")
    v = Violations()
    region = v.take(
        f"{field}.region", lambda: parse_region(message.region, country, f"{field}.region")
    )
    _check_length(v, message.postal_code, POSTAL_CODE_LENGTH_MAX, f"{field}.postal_code")
    v.raise_if_any()
    return Address(country, region, message.postal_code)


def _number(number: str, place: Address, scheme: RegistrationScheme, field: str) -> str:
    """Check the number of an ordinary national registration; others have formats of their own."""
    is_provincial = place.country == "CA" and place.region
    if scheme is not RegistrationScheme.DOMESTIC or is_provincial:
        return number
    checked = check_tax_id(TaxId(place.country, number))
    if checked.status is TaxIdStatus.INVALID:
        raise InvalidInput.of(field, checked.problem)
    return checked.canonical or number


def _check_length(v: Violations, text: str, maximum: int, field: str) -> None:
    if len(text) > maximum:
        v.add(field, f"must have at most {maximum} characters")


def _check_count(count: int, maximum: int, field: str) -> None:
    if not count:
        raise InvalidInput.of(field, "must hold at least one")
    if count > maximum:
        raise InvalidInput(
            "PAYLOAD_TOO_LARGE",
            f"{field}: must hold at most {maximum}, and holds {count}",
            metadata={"maximum": str(maximum)},
            violations=(Violation(field, f"must hold at most {maximum}"),),
        )


def _render_result(
    result: Determination | DomainError,
) -> tax_service_pb2.BatchDetermineTaxResult:
    if isinstance(result, DomainError):
        return tax_service_pb2.BatchDetermineTaxResult(error=render_status(result, DOMAIN))
    determination = render_determination(result)
    return tax_service_pb2.BatchDetermineTaxResult(determination=determination)


def _render_tax(tax: Tax) -> tax_pb2.Tax:
    ruling = tax.ruling
    return tax_pb2.Tax(
        jurisdiction=ruling.jurisdiction,
        name=ruling.name,
        rate_percent=render_decimal(ruling.rate_percent),
        taxable_amount=render_money(tax.taxable_amount),
        tax_amount=render_money(tax.tax_amount),
        treatment=_TREATMENTS[ruling.treatment],
        rule_id=ruling.rule_id,
        reason=ruling.reason,
        source=ruling.source,
        invoice_note=ruling.invoice_note,
        seller_tax_id=ruling.seller_tax_id,
    )
