"""Rates that a seller uploads: they replace the tables' rates, or add local taxes in the US."""

from datetime import date
from decimal import Decimal

import pytest

from kit.errors import InvalidInput, Precondition
from services.tax.determination import determine
from services.tax.model import Buyer, DateRange, Determination, Seller, Supply
from services.tax.uploads import UploadedRate, check_uploads, lay_over
from tests.tax_builders import (
    BOOK,
    CALIFORNIAN,
    TODAY,
    a_buyer,
    a_registration,
    a_seller,
    lines_of,
)

START = date(2026, 1, 1)
NEW_YORKER = a_seller("US-NV", a_registration("US", "NY"), a_registration("US", "TX"))


def an_upload(
    jurisdiction: str = "US-NY",
    name: str = "New York City sales tax",
    rate: str = "4.5",
    *postal_codes: str,
    start: date = START,
    end: date | None = None,
) -> UploadedRate:
    """Make an uploaded rate."""
    return UploadedRate(
        jurisdiction, name, Decimal(rate), postal_codes, DateRange(start, end), "Publication 718"
    )


CITY = an_upload("US-NY", "New York City sales tax", "4.5", "100", "101")
DISTRICT = an_upload("US-NY", "MCTD sales tax", "0.375", "1", start=date(2026, 10, 1))


def determined(
    buyer: Buyer, *uploads: UploadedRate, seller: Seller = NEW_YORKER, day: date = TODAY
) -> Determination:
    """Determine the taxes on 100.00 with uploaded rates."""
    check_uploads(uploads, BOOK)
    return determine(seller, Supply(buyer, lines_of(10_000), day), lay_over(BOOK, uploads))


def taxes(found: Determination) -> list[tuple[str, str, int]]:
    """Answer the taxes of the line: name, rate and amount."""
    return [
        (tax.ruling.name, str(tax.ruling.rate_percent), tax.tax_amount.minor_units)
        for tax in found.lines[0].taxes
    ]


@pytest.mark.parametrize(
    ("postal_code", "day", "expected"),
    [
        (
            "10001",
            TODAY,
            [
                ("Sales tax", "4", 400),
                ("New York City sales tax", "4.5", 450),
                ("MCTD sales tax", "0.375", 38),
            ],
        ),
        ("10001", date(2026, 9, 30), [("Sales tax", "4", 400), (CITY.name, "4.5", 450)]),
        ("12207-1234", TODAY, [("Sales tax", "4", 400), ("MCTD sales tax", "0.375", 38)]),
        ("90210", TODAY, [("Sales tax", "4", 400)]),
    ],
)
def test_local_rates_are_charged_where_they_apply(
    postal_code: str, day: date, expected: list[tuple[str, str, int]]
) -> None:
    """Beside the state's rate, by the beginning of the postal code and the day."""
    buyer = a_buyer("US-NY", postal_code=postal_code)

    assert taxes(determined(buyer, CITY, DISTRICT, day=day)) == expected


def test_a_local_rate_says_who_answers_for_it() -> None:
    """The reason and the source name the upload, and the state's reason no longer excludes it."""
    found = determined(a_buyer("US-NY", postal_code="10001"), CITY)

    state, city = (tax.ruling for tax in found.totals)
    assert state.reason.endswith(" Local taxes are those that the seller uploaded.")
    assert (city.rule_id, city.reason) == (
        "us.ny.local",
        "The seller uploaded New York City sales tax for the postal code 10001.",
    )
    assert city.source.endswith("; Publication 718 (uploaded by the seller)")


def test_a_local_rate_needs_the_postal_code_of_the_buyer() -> None:
    """Without it nothing is guessed; states without uploads do not need it."""
    with pytest.raises(Precondition) as caught:
        determined(a_buyer("US-NY"), CITY)

    assert caught.value.metadata["missing"] == (
        "the postal code of the buyer's address, for local rates"
    )
    assert len(determined(a_buyer("US-TX"), CITY).totals) == 1


@pytest.mark.parametrize(
    ("day", "rate"),
    [
        (date(2026, 12, 31), "24"),
        (date(2027, 1, 1), "26"),
        (date(2027, 12, 31), "26"),
        (date(2028, 1, 1), "24"),
    ],
)
def test_a_rate_of_the_tables_is_replaced_on_its_days(day: date, rate: str) -> None:
    """A change that the release does not know yet."""
    change = an_upload("EE", "VAT", "26", start=date(2027, 1, 1), end=date(2028, 1, 1))

    found = determined(a_buyer("EE"), change, seller=CALIFORNIAN, day=day)

    assert str(found.totals[0].ruling.rate_percent) == rate


@pytest.mark.parametrize(
    ("rate", "treatment", "tax"), [("4", "TAXED", 400), ("0", "NOT_TAXABLE", 0)]
)
def test_the_seller_decides_what_a_state_has_not(rate: str, treatment: str, tax: int) -> None:
    """Alabama leaves open whether it taxes remotely accessed software."""
    seller = a_seller("US-NV", a_registration("US", "AL"))
    decision = an_upload("US-AL", "Sales tax", rate)

    (total,) = determined(a_buyer("US-AL"), decision, seller=seller).totals

    assert (total.ruling.treatment, total.tax_amount.minor_units) == (treatment, tax)
    assert "; the seller's decision" in total.ruling.source


def test_the_tables_themselves_stay_as_they_are() -> None:
    """What one seller uploads concerns no other."""
    lay_over(BOOK, [an_upload("EE", "VAT", "26"), CITY])

    assert taxes(determined(a_buyer("EE"), seller=CALIFORNIAN)) == [("VAT", "24", 2400)]


@pytest.mark.parametrize(
    ("uploads", "field"),
    [
        ([an_upload("BR", "ISS", "5")], "rates[0].jurisdiction"),
        ([an_upload("EE", "VAT", "26", "10")], "rates[0].postal_codes"),
        ([an_upload("EE", "VAT", "0")], "rates[0].rate_percent"),
        ([an_upload("US-NY", "City", "0", "100")], "rates[0].rate_percent"),
        ([an_upload("EE", "Value added tax", "26")], "rates[0].name"),
        ([an_upload("EE", "VAT", "26"), an_upload("EE", "VAT", "27")], "rates[1].start_date"),
        ([CITY, an_upload("US-NY", CITY.name, "4", "10001")], "rates[1].start_date"),
        ([an_upload("US-NY", CITY.name, "4", "10001"), CITY], "rates[1].start_date"),
        (
            [an_upload("EE", "VAT", "26", start=date(1900 + n, 1, 1)) for n in range(201)],
            "rates",
        ),
    ],
)
def test_what_contradicts_the_tables_or_itself_is_refused(
    uploads: list[UploadedRate], field: str
) -> None:
    """The field is named."""
    with pytest.raises(InvalidInput) as caught:
        check_uploads(uploads, BOOK)

    assert [each.field for each in caught.value.violations] == [field]
