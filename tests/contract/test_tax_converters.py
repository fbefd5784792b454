"""The converters of tax: what is written reads back, every enum is covered, bad input is named."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from google.protobuf.descriptor import EnumDescriptor
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money as MoneyMessage

from kit.errors import InvalidInput
from services.tax.convert import fields, registrations, supplies
from services.tax.model import (
    DateRange,
    EvidenceKind,
    EvidenceStatus,
    ExemptionCertificate,
    LocationEvidence,
    PriceKind,
    ProductCategory,
    Registration,
    RegistrationScheme,
    TaxIdStatus,
    TaxRounding,
    Treatment,
)
from tests.tax_builders import a_registration
from tests.tax_world import a_registration as a_registration_message
from tests.tax_world import a_request
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

NOW = datetime(2026, 10, 31, 12, 30, 15, 250_000, tzinfo=UTC)


def names(enum: EnumDescriptor) -> set[str]:
    """Name the values of an enum of the contract without their prefix, and without UNSPECIFIED."""
    zero = enum.values[0].name
    prefix = zero.removesuffix("UNSPECIFIED")
    return {value.name.removeprefix(prefix) for value in enum.values} - {"UNSPECIFIED"}


def violations(parse: Callable[[Any], object], message: object) -> list[tuple[str, str]]:
    """Parse what is bad, and answer each violation."""
    with pytest.raises(InvalidInput) as caught:
        parse(message)
    return [(each.field, each.description) for each in caught.value.violations]


@pytest.mark.parametrize(
    ("enum", "domain"),
    [
        (tax_pb2.RegistrationScheme.DESCRIPTOR, RegistrationScheme),
        (tax_pb2.ProductCategory.DESCRIPTOR, ProductCategory),
        (tax_pb2.TaxTreatment.DESCRIPTOR, Treatment),
        (tax_pb2.TaxIdStatus.DESCRIPTOR, TaxIdStatus),
        (tax_pb2.LocationEvidenceKind.DESCRIPTOR, EvidenceKind),
        (tax_pb2.LocationEvidenceStatus.DESCRIPTOR, EvidenceStatus),
        (tax_service_pb2.TaxRounding.DESCRIPTOR, TaxRounding),
        (tax_service_pb2.PriceKind.DESCRIPTOR, PriceKind),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_every_enum_of_the_contract_is_one_of_the_domain(enum: Any, domain: Any) -> None:  # noqa: ANN401 - protobuf's descriptors.
    """Neither side has a value that the other lacks."""
    assert names(enum) == {each.name for each in domain}


@pytest.mark.parametrize(
    "registration",
    [
        a_registration("US", "CA", registration_id="seat", established=True),
        a_registration("FR", registration_id="fr", number="FR40303265045", end=date(2026, 1, 1)),
        *(
            a_registration("IE", scheme=scheme, registration_id="ie", number="EU372022452")
            for scheme in RegistrationScheme
            if scheme is not RegistrationScheme.DOMESTIC
        ),
    ],
    ids=lambda registration: f"{registration.country} {registration.scheme}",
)
def test_a_registration_reads_back_as_it_was_written(registration: Registration) -> None:
    """Nothing is lost or added but the time at which it was put."""
    message = registrations.render_registration(registration, NOW)
    assert message.create_time.ToDatetime(UTC) == NOW
    message.ClearField("create_time")

    assert registrations.parse_registration(message, "registration") == registration


@pytest.mark.parametrize("day", [date(1, 1, 1), date(2024, 2, 29), date(9999, 12, 31)])
def test_a_date_reads_back_as_it_was_written(day: date) -> None:
    """Every day of the calendar."""
    assert fields.parse_date(fields.render_date(day), "date") == day


@pytest.mark.parametrize(
    "parts",
    [(2026, 2, 29), (2026, 0, 0), (2026, 1, 0), (0, 1, 1), (10_000, 1, 1), (2026, -1, 1)],
    ids=str,
)
def test_what_is_no_day_is_refused(parts: tuple[int, int, int]) -> None:
    """Half a date is no date."""
    year, month, day = parts
    message = Date(year=year, month=month, day=day)

    assert violations(lambda each: fields.parse_date(each, "date"), message) == [
        ("date", "must be a day of the calendar")
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"registration_id": "No Spaces"}, "registration.registration_id"),
        ({"country": "XX"}, "registration.country"),
        ({"region": ""}, "registration.region"),
        ({"region": "ZZ"}, "registration.region"),
        ({"scheme": "REGISTRATION_SCHEME_UNSPECIFIED"}, "registration.scheme"),
        ({"number": " "}, "registration.number"),
        ({"number": "1" * 65}, "registration.number"),
        ({"country": "DE", "region": "", "number": "DE136695970"}, "registration.number"),
        ({"start_date": {}}, "registration.start_date"),
        ({"end_date": {"year": 2020, "month": 1, "day": 1}}, "registration.end_date"),
        ({"create_time": "2026-01-01T00:00:00Z"}, "registration.create_time"),
    ],
)
def test_a_bad_registration_names_its_field(fields: dict[str, Any], expected: str) -> None:
    """One field is wrong, and that one is named."""
    message = a_registration_message(**fields)

    found = violations(lambda each: registrations.parse_registration(each, "registration"), message)

    assert [field for field, _ in found] == [expected]


def test_a_request_that_is_wrong_everywhere_names_everything() -> None:
    """All violations come in one answer, each with its path."""
    request = a_request("ZZ", kind="BUYER_KIND_UNSPECIFIED", amounts=[], language="EN")
    request.buyer.tax_ids.add(country="DE")
    request.ClearField("supply_date")
    request.rounding = 9  # type: ignore[assignment]
    request.lines.add(line_id="1", amount=MoneyMessage(currency_code="EUR", nanos=5))
    request.lines.add(line_id="1", amount=MoneyMessage(currency_code="XXX", units=1), category=7)
    request.lines.add(amount=MoneyMessage(currency_code="JPY", units=10**18))

    assert violations(supplies.parse_supply, request) == [
        ("lines[0].amount", "must be whole minor units of EUR: 2 decimals"),
        ("lines[1].line_id", "must be unique in the request"),
        ("lines[1].amount.currency_code", "must be a currency of ISO 4217, such as EUR"),
        ("lines[1].category", "is not known"),
        ("lines[2].line_id", "is required"),
        ("lines[2].amount", "must have at most 18 digits"),
        ("rounding", "is not known"),
        ("language", "must be a code of ISO 639-1, such as de"),
        ("buyer.kind", "must be BUYER_KIND_CONSUMER or BUYER_KIND_BUSINESS"),
        ("buyer.address.country", "must be a country's code of ISO 3166-1 alpha-2, such as DE"),
        ("buyer.tax_ids[0].number", "is required"),
        ("supply_date", "is required"),
    ]


def test_a_country_that_does_not_exist_has_a_reason_of_its_own() -> None:
    """Alone among the faults of a request, it is UNKNOWN_COUNTRY."""
    with pytest.raises(InvalidInput) as caught:
        supplies.parse_supply(a_request("ZZ"))

    assert (caught.value.reason, caught.value.metadata) == ("UNKNOWN_COUNTRY", {"country": "ZZ"})


@pytest.mark.parametrize(
    ("request_", "parse"),
    [
        (a_request(amounts=["1"] * 1001), supplies.parse_supply),
        (
            tax_service_pb2.BatchDetermineTaxRequest(requests=[a_request()] * 1001),
            supplies.parse_batch,
        ),
    ],
    ids=["lines", "requests"],
)
def test_too_much_at_once_is_refused_with_the_maximum(
    request_: object, parse: Callable[[Any], object]
) -> None:
    """The caller learns how much may be asked."""
    with pytest.raises(InvalidInput) as caught:
        parse(request_)

    assert (caught.value.reason, caught.value.metadata) == (
        "PAYLOAD_TOO_LARGE",
        {"maximum": "1000"},
    )


def test_the_defaults_are_those_of_the_contract() -> None:
    """Electronic services without tax in the price, rounded for each rate, in English."""
    supply = supplies.parse_supply(a_request())

    assert (supply.lines[0].category, supply.rounding, supply.language, supply.prices) == (
        ProductCategory.ELECTRONIC_SERVICE,
        TaxRounding.PER_RATE,
        "en",
        PriceKind.TAX_EXCLUSIVE,
    )


def test_certificates_and_evidence_are_read() -> None:
    """What a buyer shows comes to the core as it was given."""
    request = a_request("US-TX")
    request.buyer.exemption_certificates.add(
        country="US", region="TX", number=" 01-339 ", start_date=Date(year=2020, month=1, day=1)
    )
    request.buyer.location_evidence.add(
        kind=tax_pb2.LOCATION_EVIDENCE_KIND_IP_ADDRESS, country="EL"
    )

    buyer = supplies.parse_supply(request).buyer

    assert (buyer.certificates, buyer.evidence) == (
        (ExemptionCertificate("US", "TX", "01-339", DateRange(date(2020, 1, 1))),),
        (LocationEvidence(EvidenceKind.IP_ADDRESS, "GR"),),
    )


def test_bad_certificates_and_evidence_are_named() -> None:
    """Each by its path in the request."""
    request = a_request("US-TX")
    start = Date(year=2020, month=1, day=1)
    certificates = request.buyer.exemption_certificates
    certificates.add(country="DE", number="1", start_date=start)
    certificates.add(country="US", number="1", start_date=start)
    certificates.add(country="US", region="TX", number=" ")
    certificates.add(country="CA", number="1", start_date=start, end_date=start)
    request.buyer.location_evidence.add(country="ZZ")
    request.prices = 9  # type: ignore[assignment]

    assert violations(supplies.parse_supply, request) == [
        ("prices", "is not known"),
        ("buyer.exemption_certificates[0].country", "must be one of US, CA"),
        ("buyer.exemption_certificates[1].region", "is required in the US"),
        ("buyer.exemption_certificates[2].number", "is required"),
        ("buyer.exemption_certificates[2].start_date", "is required"),
        ("buyer.exemption_certificates[3].end_date", "must be after the start date"),
        ("buyer.location_evidence[0].kind", "is required"),
        (
            "buyer.location_evidence[0].country",
            "must be a country's code of ISO 3166-1 alpha-2, such as DE",
        ),
    ]
