"""What holds for every determination, whatever the country: errors, sums and evidence."""

from dataclasses import replace
from datetime import date

import pytest

from kit.errors import DomainError, InvalidInput, Precondition
from kit.money import Money
from services.tax.model import (
    Buyer,
    DateRange,
    LineTax,
    ProductCategory,
    Ruling,
    Seller,
    Tax,
    TaxIdStatus,
    Treatment,
)
from tests.tax_builders import (
    BEFORE_ALL,
    CALIFORNIAN,
    NON_UNION_OSS,
    TODAY,
    a_buyer,
    a_registration,
    a_seller,
    determined,
    lines_of,
)

GSTIN = "IN27AAPFU0939F1ZV"

WORK = ProductCategory.PROFESSIONAL_SERVICE


def failure(
    buyer: Buyer,
    seller: Seller = CALIFORNIAN,
    *,
    day: date = TODAY,
    category: ProductCategory = ProductCategory.ELECTRONIC_SERVICE,
) -> tuple[str, str]:
    """Determine what must fail, and answer the reason and what is missing."""
    with pytest.raises(Precondition) as caught:
        determined(buyer, seller, lines_of(1, category=category), day=day)
    return caught.value.reason, caught.value.metadata.get("missing", caught.value.message)


@pytest.mark.parametrize(
    ("buyer", "missing"),
    [
        (a_buyer("BR"), "rules for this country"),
        (a_buyer("US"), "the region of the buyer's address"),
        (a_buyer("CA"), "the region of the buyer's address"),
        (a_buyer("GB"), "a registration of the seller in GB; there is no threshold."),
        (
            a_buyer("FI", postal_code="22100"),
            "a registration of the seller in FI; no One Stop Shop covers the Åland Islands",
        ),
        (
            a_buyer("FR", postal_code="97110"),
            "a registration of the seller in FR; no One Stop Shop covers Guadeloupe",
        ),
        (a_buyer("FR", postal_code="97133"), "rules for Saint Barthélemy (taxes of its own)"),
        (a_buyer("GB", postal_code="JE2 3XP"), "rules for Jersey (Jersey GST)"),
    ],
)
def test_what_no_rule_covers_is_an_error(buyer: Buyer, missing: str) -> None:
    """An undetermined tax is never 0; the error says what is missing."""
    assert failure(buyer) == ("TAX_UNDETERMINED", missing)


@pytest.mark.parametrize(
    ("seller", "missing"),
    [
        (a_seller("US-CA"), "a NON_UNION_OSS registration of the seller, or one in FR"),
        (a_seller("DE"), "a UNION_OSS registration of the seller, or one in FR"),
        (
            a_seller("US-CA", replace(NON_UNION_OSS, valid=DateRange(BEFORE_ALL, TODAY))),
            "a NON_UNION_OSS registration of the seller, or one in FR",
        ),
        (
            a_seller("US-CA", a_registration("FR", start=date(2027, 1, 1))),
            "a NON_UNION_OSS registration of the seller, or one in FR",
        ),
        (
            a_seller("FR", scheme=NON_UNION_OSS.scheme),
            "a registration of the seller in FR",
        ),
    ],
)
def test_a_consumer_in_the_eu_needs_a_registration_in_force(seller: Seller, missing: str) -> None:
    """One that ended, or has not begun, does not count."""
    assert failure(a_buyer("FR"), seller) == ("TAX_UNDETERMINED", missing)


@pytest.mark.parametrize(
    ("buyer", "seller", "category", "missing"),
    [
        (
            a_buyer("JP", business=True),
            CALIFORNIAN,
            WORK,
            "rules for professional services from abroad",
        ),
        (
            a_buyer("NO"),
            CALIFORNIAN,
            WORK,
            "rules for professional services to consumers from abroad.",
        ),
        (
            a_buyer("CA-BC"),
            a_seller("US-CA", a_registration("CA"), a_registration("CA", "BC")),
            WORK,
            "whether PST taxes professional services in CA-BC",
        ),
        (
            a_buyer("CA-ON"),
            a_seller("CA-ON"),
            ProductCategory.ELECTRONIC_SERVICE,
            "a registration of the seller in CA without region",
        ),
        (
            a_buyer("JP"),
            a_seller("JP", scheme=NON_UNION_OSS.scheme),
            ProductCategory.ELECTRONIC_SERVICE,
            "a registration of the seller in JP",
        ),
        (
            a_buyer("IN"),
            a_seller("IN-KA"),
            ProductCategory.ELECTRONIC_SERVICE,
            "the region of the buyer's address",
        ),
    ],
)
def test_the_other_laws_fail_for_want_of_a_rule_too(
    buyer: Buyer, seller: Seller, category: ProductCategory, missing: str
) -> None:
    """Each law says what it lacks."""
    assert failure(buyer, seller, category=category) == ("TAX_UNDETERMINED", missing)


def test_a_day_before_the_tables_is_an_error() -> None:
    """The tables begin in 2019, and nothing is carried back."""
    assert failure(a_buyer("FR"), day=date(2018, 12, 31)) == (
        "TAX_UNDETERMINED",
        "rules on 2018-12-31; they begin on 2019-01-01",
    )


@pytest.mark.parametrize(
    ("seller", "message"),
    [
        (
            Seller((NON_UNION_OSS,)),
            "the seller says nowhere that it is established there on 2026-10-31",
        ),
        (
            a_seller("DE", a_registration("FR", established=True)),
            (
                "the seller says in more than one registration that it is established there on"
                " 2026-10-31"
            ),
        ),
    ],
)
def test_a_seller_has_one_seat(seller: Seller, message: str) -> None:
    """Where the seller is decides everything, so it is not guessed."""
    assert failure(a_buyer("FR"), seller) == ("SELLER_NOT_ESTABLISHED", message)


def test_lines_of_several_currencies_are_refused() -> None:
    """An invoice has one currency."""
    lines = (*lines_of(1, currency="EUR"), *lines_of(1, currency="USD"))

    with pytest.raises(InvalidInput) as caught:
        determined(a_buyer("FR"), lines=lines)

    assert [violation.field for violation in caught.value.violations] == ["lines"]


def test_sums_beyond_18_digits_are_refused() -> None:
    """Each line may have 18 digits; so may the sum."""
    with pytest.raises(DomainError) as caught:
        determined(a_buyer("FR"), lines=lines_of(10**18 - 1, 1))

    assert caught.value.message == "lines: must sum to at most 18 digits"


def test_the_largest_amounts_are_exact() -> None:
    """18 digits are taxed to the unit, and cancel out to nothing."""
    lines = lines_of(10**18 - 1, 1 - 10**18)

    found = determined(a_buyer("FR"), lines=lines)

    assert [line.taxes[0].tax_amount.minor_units for line in found.lines] == [
        200_000_000_000_000_000,
        -200_000_000_000_000_000,
    ]
    assert found.tax_total == Money("EUR", 0)


def test_a_determination_says_everything_about_each_line() -> None:
    """Rate, amounts, treatment, rule, reason, source, and the number it is declared under."""
    found = determined(a_buyer("FR"), lines=lines_of(1999))
    ruling = Ruling(
        jurisdiction="FR",
        name="VAT",
        treatment=Treatment.TAXED,
        rule_id="eu.b2c.non_union_oss",
        reason=(
            "A consumer in France buys an electronic service from abroad: the rate of France"
            " applies, declared under the One Stop Shop in IE."
        ),
        source="Directive 2006/112/EC Art. 58; Code général des impôts Art. 278",
        rate_percent=found.totals[0].ruling.rate_percent,
        seller_tax_id="IE NON_UNION_OSS",
        explanation=(
            "VAT of the consumer's country applies, declared through the One Stop Shop"
            " (Art. 58 of Directive 2006/112/EC)."
        ),
        rate_valid=DateRange(date(2014, 1, 1)),
        declared_in="IE",
    )
    tax = Tax(ruling, Money("EUR", 1999), Money("EUR", 400))

    assert found.lines == (LineTax("1", (tax,), Money("EUR", 1999)),)
    assert found.totals == (tax,)
    assert (found.tax_total, found.net_total) == (Money("EUR", 400), Money("EUR", 1999))


@pytest.mark.parametrize(
    ("buyer", "seller", "day", "sources"),
    [
        (a_buyer("IN", GSTIN), CALIFORNIAN, TODAY, ["Income-tax Act 2025 s. 393(2)"]),
        (
            a_buyer("IN", GSTIN),
            CALIFORNIAN,
            date(2026, 3, 31),
            ["Income-tax Act 1961 s. 195"],
        ),
        (a_buyer("IN-KA", GSTIN), a_seller("IN-KA"), TODAY, ["Income-tax Act 2025 s. 393(1)"]),
        (a_buyer("DE", "DE136695976"), CALIFORNIAN, TODAY, []),
    ],
)
def test_a_business_that_may_withhold_income_tax_is_noted(
    buyer: Buyer, seller: Seller, day: date, sources: list[str]
) -> None:
    """By the law of its country on that day; nothing is computed."""
    found = determined(buyer, seller, day=day)

    assert [note.source for note in found.withholding_notes] == sources


def test_goods_bear_no_note_of_withholding() -> None:
    """It concerns services."""
    goods = lines_of(10_000, category=ProductCategory.GOODS)

    assert determined(a_buyer("IN-KA", GSTIN), a_seller("IN-KA"), goods).withholding_notes == ()


def test_lines_of_several_categories_are_ruled_apart_and_summed_together() -> None:
    """The same rate in the same place is one entry of the totals, whatever was sold."""
    work = lines_of(1000, category=WORK)
    berlin = a_seller("DE")

    found = determined(a_buyer("DE"), berlin, (*lines_of(2000), *work))

    assert [line.taxes[0].tax_amount.minor_units for line in found.lines] == [380, 190]
    assert [total.tax_amount.minor_units for total in found.totals] == [570]


@pytest.mark.parametrize(
    ("buyer", "canonical", "status"),
    [
        (a_buyer("DE", "DE 136 695 976"), "DE136695976", TaxIdStatus.FORMAT_VALID),
        (a_buyer("DE", "DE136695970"), None, TaxIdStatus.INVALID),
        (a_buyer("DE", "FR40303265045"), None, TaxIdStatus.FORMAT_VALID),
        (a_buyer("JP", "US12-3456789"), None, TaxIdStatus.NOT_CHECKED),
        (a_buyer("JP", business=True), None, None),
        (a_buyer("JP"), None, None),
    ],
)
def test_the_tax_id_that_was_relied_on_is_named(
    buyer: Buyer, canonical: str | None, status: TaxIdStatus | None
) -> None:
    """Only a valid id of the buyer's country is relied on; what was known of another is said."""
    found = determined(buyer)

    relied_on = found.buyer_tax_id.canonical if found.buyer_tax_id else None
    assert (relied_on, found.buyer_tax_id_status) == (canonical, status)
