"""Rounding as a table: amounts, rate and rounding above; the tax of each line below."""

from dataclasses import dataclass
from decimal import Decimal

import pytest

from kit.decimals import exactly
from services.tax.assessment import assess
from services.tax.model import ProductCategory, Ruling, TaxRounding, Treatment
from tests.tax_builders import lines_of

SERVICE = ProductCategory.ELECTRONIC_SERVICE
PER_RATE = TaxRounding.PER_RATE
PER_LINE = TaxRounding.PER_LINE


@dataclass(frozen=True, slots=True)
class Rounded:
    """Lines in minor units, a rate on a share of the price, and the tax of each line."""

    id: str
    lines: tuple[int, ...]
    rate: str
    taxes: tuple[int, ...]
    total: int
    rounding: TaxRounding = PER_RATE
    share: str = "100"
    currency: str = "EUR"


TABLE = [
    Rounded("half up", (50,), "1", (1,), 1),
    Rounded("below the half", (49,), "1", (0,), 0),
    Rounded("half away from zero on a credit", (-50,), "1", (-1,), -1),
    # 3 x 0.19 % of 100 = 0.57: 1 in all, and to the first of equal remainders.
    Rounded("one unit for three lines", (100, 100, 100), "0.19", (1, 0, 0), 1),
    Rounded("the same on each line", (100, 100, 100), "0.19", (0, 0, 0), 0, PER_LINE),
    # 19 % of 3, 3 and 4 = 0.57, 0.57, 0.76: 2 in all, the largest remainder first.
    Rounded("the largest remainder wins", (3, 3, 4), "19", (1, 0, 1), 2),
    Rounded("and each line rounded apart is more", (3, 3, 4), "19", (1, 1, 1), 3, PER_LINE),
    # 20 % of 9999 and -333 = 1999.8 and -66.6: 1933.2 in all.
    Rounded("a credit among charges", (9999, -333), "20", (2000, -67), 1933),
    Rounded("charge and credit cancel out", (9999, -9999), "19", (1900, -1900), 0),
    Rounded("nothing", (0,), "19", (0,), 0),
    # 80 % of 1234 = 987.2 -> 987; 6.25 % of it = 61.6875.
    Rounded("a share of the price", (1234,), "6.25", (62,), 62, share="80"),
    # 80 % of 11 and 12 = 8.8 and 9.6: 18.4 -> 18 = 9 + 9; 6.25 % of each = 0.5625, of 18 = 1.125.
    Rounded("a share over two lines", (11, 12), "6.25", (1, 0), 1, share="80"),
    Rounded("yen", (105,), "10", (11,), 11, currency="JPY"),
    Rounded("dinars have three decimals", (12_345,), "5", (617,), 617, currency="KWD"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)
def test_tax_is_rounded_and_split_to_the_unit(row: Rounded) -> None:
    """The taxes of the lines are the exact ones, rounded as asked, and sum to the total."""
    ruling = Ruling(
        jurisdiction="XX",
        name="VAT",
        treatment=Treatment.TAXED,
        rule_id="test",
        reason="",
        source="",
        rate_percent=Decimal(row.rate),
        taxable_percent=Decimal(row.share),
    )

    with exactly():
        by_line, totals = assess(
            lines_of(*row.lines, currency=row.currency), {SERVICE: (ruling,)}, row.rounding
        )

    taxes = tuple(line.taxes[0].tax_amount.minor_units for line in by_line)
    assert (taxes, [each.tax_amount.minor_units for each in totals]) == (row.taxes, [row.total])
