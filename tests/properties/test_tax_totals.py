"""A hundred thousand invoices under each rounding rule: lines, taxes and totals add up.

The invoices are drawn with a fixed seed, so that a failure can be repeated; the sums are built
again from the lines.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import date

import pytest

from kit.decimals import exactly
from services.tax.assessment import assess
from services.tax.determination import determine
from services.tax.model import (
    PriceKind,
    ProductCategory,
    RegistrationScheme,
    Ruling,
    Supply,
    TaxableLine,
    TaxRounding,
)
from tests.tax_builders import BOOK, a_buyer, a_registration, a_seller, lines_of

INVOICES = 100_000
DAY = date(2026, 10, 31)
SELLER = a_seller(
    "US-NV",
    a_registration("IE", scheme=RegistrationScheme.NON_UNION_OSS),
    a_registration("CA"),
    a_registration("CA", "QC"),
    a_registration("CA", "BC"),
    a_registration("US", "TX"),
    a_registration("US", "HI"),
    a_registration("CH"),
)
PLACES = ("FR", "FI", "HU", "CA-QC", "CA-BC", "CA-ON", "US-TX", "US-HI", "CH")
CURRENCIES = ("EUR", "JPY", "KWD")
SERVICE = ProductCategory.ELECTRONIC_SERVICE


def rulings_of(place: str) -> tuple[Ruling, ...]:
    """Answer what the law says of an electronic service to a consumer."""
    found = determine(SELLER, Supply(a_buyer(place), lines_of(1), DAY), BOOK)
    return tuple(tax.ruling for tax in found.lines[0].taxes)


def draw_lines(draw: random.Random) -> tuple[TaxableLine, ...]:
    """Draw one to four lines, of small and large amounts; one in ten is a credit."""
    largest = draw.choice((30, 10_000, 10**9))
    units = [draw.randrange(-largest // 10, largest) for _ in range(draw.choice((1, 2, 3, 4)))]
    return lines_of(*units, currency=draw.choice(CURRENCIES))


def faults(
    lines: tuple[TaxableLine, ...],
    rounding: TaxRounding,
    prices: PriceKind,
    rulings: tuple[Ruling, ...],
) -> Iterator[str]:
    """Answer what does not add up in one invoice."""
    taxed, totals = assess(lines, {SERVICE: rulings}, rounding, prices)
    sums: defaultdict[object, list[int]] = defaultdict(lambda: [0, 0])
    for line, answer in zip(lines, taxed, strict=True):
        tax = sum(each.tax_amount.minor_units for each in answer.taxes)
        for each in answer.taxes:
            key = each.ruling.jurisdiction, each.ruling.name
            sums[key][0] += each.taxable_amount.minor_units
            sums[key][1] += each.tax_amount.minor_units
        net = answer.net_amount.minor_units
        paid = net + (tax if prices is PriceKind.TAX_INCLUSIVE else 0)
        if paid != line.amount.minor_units:
            yield f"{line} became {net} and {tax} of tax"
        if net * line.amount.minor_units < 0 or tax * line.amount.minor_units < 0:
            yield f"{line} turned its sign: {net} and {tax} of tax"
    for each in totals:
        key = each.ruling.jurisdiction, each.ruling.name
        if sums[key] != [each.taxable_amount.minor_units, each.tax_amount.minor_units]:
            yield f"{key} sums to {sums[key]}, and is {each}"


@pytest.mark.parametrize("rounding", TaxRounding, ids=str)
def test_a_hundred_thousand_invoices_add_up(rounding: TaxRounding) -> None:
    """Net and taxes of each line, the sums of each rate, and no line that turns its sign.

    Every other invoice has prices that include tax.
    """
    draw = random.Random(str(rounding))
    laws = [rulings_of(place) for place in PLACES]
    kinds = tuple(PriceKind)

    with exactly():
        found = [
            fault
            for number in range(INVOICES)
            for fault in faults(draw_lines(draw), rounding, kinds[number % 2], draw.choice(laws))
        ]

    assert found == []
