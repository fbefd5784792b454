"""Goods and exempt products as a decision table: seller x buyer x where the goods go."""

from datetime import date

import pytest

from kit.errors import Precondition
from services.tax.model import Buyer, ProductCategory, RegistrationScheme, Seller
from tests.tax_builders import (
    CALIFORNIAN,
    TODAY,
    Case,
    a_buyer,
    a_registration,
    a_seller,
    determined,
    lines_of,
    ruled,
)

GOODS = ProductCategory.GOODS
UNION_OSS = a_registration("DE", scheme=RegistrationScheme.UNION_OSS)
BERLINER = a_seller("DE", UNION_OSS)


def of_goods(
    id_: str, law: str, seller: Seller, buyer: Buyer, *expected: str, day: date = TODAY
) -> Case:
    """Make the case of goods."""
    return Case(id_, law, buyer, expected, seller, day, GOODS)


CASES = [
    of_goods(
        "at home in the EU",
        "Directive 2006/112/EC Art. 31; UStG § 12(1)",
        BERLINER,
        a_buyer("DE"),
        "DE VAT 19 TAXED eu.domestic = 19.00",
    ),
    of_goods(
        "to a business in another member state",
        "Directive 2006/112/EC Art. 138",
        BERLINER,
        a_buyer("FR", "FR40303265045"),
        "DE VAT 0 NOT_TAXABLE eu.goods.intra_community = 0.00",
    ),
    of_goods(
        "to a consumer in another member state",
        "Directive 2006/112/EC Art. 33(a) and 369a",
        BERLINER,
        a_buyer("FR"),
        "FR VAT 20 TAXED eu.b2c.union_oss = 20.00",
    ),
    of_goods(
        "to a consumer in another member state, below 10,000 euro",
        "Directive 2006/112/EC Art. 59c",
        a_seller("DE", a_registration("DE", scheme=RegistrationScheme.EU_BELOW_THRESHOLD)),
        a_buyer("FR"),
        "DE VAT 19 TAXED eu.b2c.below_threshold = 19.00",
    ),
    of_goods(
        "from a small business, to a business in another member state",
        "Directive 2006/112/EC Art. 139(1)",
        a_seller("FR", scheme=RegistrationScheme.SMALL_BUSINESS),
        a_buyer("DE", "DE136695976"),
        "FR VAT 0 NOT_TAXABLE eu.small_business = 0.00",
    ),
    of_goods(
        "out of the EU",
        "Directive 2006/112/EC Art. 146(1)(a)",
        BERLINER,
        a_buyer("JP", business=True),
        "DE VAT 0 NOT_TAXABLE goods.export = 0.00",
    ),
    of_goods(
        "to the Canary Islands",
        "Directive 2006/112/EC Art. 146(1)(a) and 6(1)(b)",
        a_seller("ES"),
        a_buyer("ES-TF"),
        "ES VAT 0 NOT_TAXABLE goods.export = 0.00",
    ),
    of_goods(
        "from Switzerland to a business in the EU",
        "Mehrwertsteuergesetz Art. 23(2)(1)",
        a_seller("CH"),
        a_buyer("DE", "DE136695976"),
        "CH VAT 0 NOT_TAXABLE goods.export = 0.00",
    ),
    of_goods(
        "from the EU to a state where the seller is registered",
        "Directive 2006/112/EC Art. 146(1)(a); New York Tax Law § 1105(a)",
        a_seller("DE", a_registration("US", "NY")),
        a_buyer("US-NY"),
        "DE VAT 0 NOT_TAXABLE goods.export = 0.00",
        "US-NY Sales tax 4 TAXED us.ny.taxed = 4.00",
    ),
    of_goods(
        "between states: goods are taxed where services are not",
        "California R&TC § 6051",
        a_seller("US-NV", a_registration("US", "CA")),
        a_buyer("US-CA"),
        "US-CA Sales tax 7.25 TAXED us.ca.taxed = 7.25",
    ),
    of_goods(
        "to a state without sales tax",
        "Oregon levies no sales tax",
        CALIFORNIAN,
        a_buyer("US-OR"),
        "US-OR Sales tax 0 OUT_OF_SCOPE us.or.out_of_scope = 0.00",
    ),
    of_goods(
        "within Canada",
        "Excise Tax Act s. 165(1); Provincial Sales Tax Act s. 34",
        a_seller("CA", a_registration("CA", "BC")),
        a_buyer("CA-BC"),
        "CA GST 5 TAXED ca.gst = 5.00",
        "CA-BC PST 7 TAXED ca.pst = 7.00",
    ),
    Case(
        "an exempt product",
        "the category that the seller gave it",
        a_buyer("DE"),
        ("DE VAT 0 NOT_TAXABLE product.exempt = 0.00",),
        BERLINER,
        category=ProductCategory.EXEMPT,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_goods_are_taxed_by_where_they_go(case: Case) -> None:
    """They stay, leave for another member state, or leave the area of the tax."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize(
    ("seller", "buyer", "missing"),
    [
        (CALIFORNIAN, a_buyer("DE"), "rules for goods to consumers from abroad."),
        (BERLINER, a_buyer("GB"), "rules for goods to consumers from abroad."),
        (
            BERLINER,
            a_buyer("GB", "GB980780684", postal_code="BT1 5GS"),
            "rules for goods to Northern Ireland from abroad",
        ),
        (BERLINER, a_buyer("AX"), "rules for goods to the Åland Islands from abroad"),
        (
            a_seller("DE", a_registration("JP")),
            a_buyer("JP", business=True),
            "who imports the goods: the seller is registered there",
        ),
    ],
)
def test_what_is_not_covered_of_goods_is_an_error(
    seller: Seller, buyer: Buyer, missing: str
) -> None:
    """Low-value imports, Northern Ireland and importing sellers are never guessed."""
    with pytest.raises(Precondition) as caught:
        determined(buyer, seller, lines_of(10_000, category=GOODS))

    assert (caught.value.reason, caught.value.metadata["missing"]) == ("TAX_UNDETERMINED", missing)
