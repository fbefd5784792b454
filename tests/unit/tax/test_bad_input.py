"""Bad input as a table: each is one clear error that names the field; nothing is guessed."""

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from google.type.money_pb2 import Money as MoneyMessage

from kit.errors import DomainError
from services.tax.convert.supplies import parse_supply
from services.tax.determination import determine
from services.tax.model import DateRange, Seller
from tests.tax_builders import BOOK, CALIFORNIAN, a_registration, a_seller
from tests.tax_world import a_request
from tollkeeper.api.tax.v1 import tax_service_pb2

ENDED = a_registration("US", "CA", registration_id="seat", established=True, end=date(2026, 1, 1))
SHOP_ENDED = a_seller("DE", a_registration("FR", registration_id="fr", end=date(2026, 1, 1)))
Change = Callable[[tax_service_pb2.DetermineTaxRequest], object]


def amount(currency: str, units: int) -> Change:
    """Change the amount of the line."""
    message = MoneyMessage(currency_code=currency, units=units)
    return lambda request: request.lines[0].amount.CopyFrom(message)


def refused(request: tax_service_pb2.DetermineTaxRequest, seller: Seller) -> DomainError:
    """Ask as the service does, and answer how it failed."""
    with pytest.raises(DomainError) as caught:
        determine(seller, parse_supply(request), BOOK)
    return caught.value


@pytest.mark.parametrize(
    ("country", "change", "seller", "reason", "field"),
    [
        ("ZZ", None, CALIFORNIAN, "UNKNOWN_COUNTRY", "buyer.address.country"),
        ("BR", None, CALIFORNIAN, "TAX_UNDETERMINED", "buyer.address.country"),
        ("US-ZZ", None, CALIFORNIAN, "UNKNOWN_COUNTRY", "buyer.address.region"),
        ("US", None, CALIFORNIAN, "INVALID_FIELD", "buyer.address.region"),
        ("IN", None, a_seller("IN-KA"), "TAX_UNDETERMINED", "buyer.address.region"),
        ("FR", amount("XXX", 1), CALIFORNIAN, "INVALID_FIELD", "lines[0].amount.currency_code"),
        ("FR", amount("", 1), CALIFORNIAN, "INVALID_FIELD", "lines[0].amount.currency_code"),
        ("FR", amount("EUR", 10**17), CALIFORNIAN, "INVALID_FIELD", "lines[0].amount"),
        ("FR", amount("JPY", 10**18), CALIFORNIAN, "INVALID_FIELD", "lines[0].amount"),
    ],
)
def test_what_cannot_be_read_or_covered_names_its_field(
    country: str, change: Change | None, seller: Seller, reason: str, field: str
) -> None:
    """Unknown places, currencies, and amounts beyond 18 digits."""
    request = a_request(country)
    if change is not None:
        change(request)

    error = refused(request, seller)

    assert (error.reason, [each.field for each in error.violations]) == (reason, [field])


@pytest.mark.parametrize(
    ("fields", "seller", "reason", "named"),
    [
        ({"year": 2018, "month": 12, "day": 31}, CALIFORNIAN, "TAX_UNDETERMINED", ["supply_date"]),
        (
            {"year": 2026, "month": 1, "day": 1},
            Seller((ENDED,)),
            "SELLER_NOT_ESTABLISHED",
            ["registrations", "registrations.seat"],
        ),
        (
            {"year": 2026, "month": 1, "day": 1},
            SHOP_ENDED,
            "TAX_UNDETERMINED",
            ["registrations", "registrations.fr"],
        ),
        ({"year": 2026, "month": 2, "day": 30}, CALIFORNIAN, "INVALID_FIELD", ["supply_date"]),
        ({"year": 2026}, CALIFORNIAN, "INVALID_FIELD", ["supply_date"]),
    ],
)
def test_a_day_that_nothing_covers_names_the_day_or_the_registration(
    fields: dict[str, int], seller: Seller, reason: str, named: list[str]
) -> None:
    """Before all tables, after a registration, and days that do not exist."""
    error = refused(a_request("FR", supply_date=fields), seller)

    assert (error.reason, [each.field for each in error.violations]) == (reason, named)


def test_an_expired_registration_is_named_in_the_message() -> None:
    """Whoever reads the error knows which one has ended."""
    on_the_day: Any = {"year": 2026, "month": 1, "day": 1}

    message = refused(a_request("FR", supply_date=on_the_day), SHOP_ENDED).message

    assert SHOP_ENDED.registrations[1].valid == DateRange(date(2015, 1, 1), date(2026, 1, 1))
    assert message == (
        "the tax on a supply to FR cannot be determined: missing a UNION_OSS registration of the"
        " seller, or one in FR (not in force on 2026-01-01: fr)"
    )


@pytest.mark.parametrize(
    ("tax_id", "field"),
    [(("ZZ", "1"), "buyer.tax_ids[0].country"), (("DE", " "), "buyer.tax_ids[0].number")],
)
def test_a_tax_id_that_cannot_be_read_names_its_field(tax_id: tuple[str, str], field: str) -> None:
    """One of wrong format is no error, but makes a consumer, and the reason says so."""
    request = a_request("DE", kind="BUYER_KIND_BUSINESS", tax_ids=[tax_id])

    assert [each.field for each in refused(request, CALIFORNIAN).violations] == [field]
