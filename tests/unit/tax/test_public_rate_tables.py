"""The tables beside two public ones: they agree, or the difference is listed with its reason."""

import csv
import json
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from services.tax.rulebook import Regime
from tests.tax_builders import BOOK

SHARED = Path(__file__).parents[4] / "shared" / "data" / "tax-rates"
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the public rate tables in ../shared/data/tax-rates are absent"
)

FIRST_DAY = date(2019, 1, 1)
PUBLISHED = date(2025, 9, 18)
"""When the dated table was published; later days are compared with the other table."""

IRISH_CUT = "Ireland cut its rate from September 2020 to February 2021; the table lacks it"
INCLUSIVE_ENDS = "the table ends this row on its last day instead of the day after"
KNOWN_DIFFERENCES = {
    **{("IE", date(2020, 9, 1) + timedelta(days)): ("21", "23", IRISH_CUT) for days in range(181)},
    ("HR", date(2022, 12, 31)): ("25", "none", INCLUSIVE_ENDS),
    ("LU", date(2022, 12, 31)): ("17", "none", INCLUSIVE_ENDS),
    ("LU", date(2023, 12, 31)): ("16", "none", INCLUSIVE_ENDS),
}


@cache
def dated_rows() -> tuple[tuple[str, date, date, Decimal], ...]:
    """Read the dated table: code, first day, day after the last, rate in percent."""
    with (SHARED / "vat_rates_kdeldycke.csv").open(encoding="utf-8") as file:
        return tuple(
            (
                code,
                date.fromisoformat(row["start_date"]),
                date.fromisoformat(row["stop_date"] or "9999-12-31"),
                Decimal(row["rate"]) * 100,
            )
            for row in csv.DictReader(file)
            for code in row["territory_codes"].split("\n")
        )


def published_rate(code: str, day: date) -> str:
    """Answer what the dated table says of a day."""
    found = [
        rate for name, start, stop, rate in dated_rows() if name == code and start <= day < stop
    ]
    return f"{found[0].normalize():f}" if found else "none"


def our_rate(code: str, day: date) -> str:
    """Answer what our table says of a day."""
    return f"{BOOK.rate_on(code, 'VAT', day).rate_percent.normalize():f}"


def member_states() -> list[str]:
    """Name the member states of today."""
    return sorted(code for code, rows in BOOK.countries.items() if rows[-1].regime is Regime.EU_VAT)


@pytest.mark.parametrize("code", member_states())
def test_the_standard_rate_agrees_on_every_day_since_2019(code: str) -> None:
    """Day by day, with each known difference and nothing else."""
    days = [FIRST_DAY + timedelta(each) for each in range((PUBLISHED - FIRST_DAY).days + 1)]

    differences = {
        (code, day): (our_rate(code, day), published_rate(code, day))
        for day in days
        if our_rate(code, day) != published_rate(code, day)
    }

    assert differences == {
        key: figures[:2] for key, figures in KNOWN_DIFFERENCES.items() if key[0] == code
    }


@pytest.mark.parametrize("code", member_states())
def test_the_standard_rate_agrees_with_the_commission_on_its_day(code: str) -> None:
    """The other table is a picture of the Commission's TEDB on one day."""
    table = json.loads(
        (SHARED / "eu_vat_rates_vatnode.json").read_text(encoding="utf-8"), parse_float=Decimal
    )
    day = date.fromisoformat(table["version"])

    standard = Decimal(table["rates"][code]["standard"])

    assert our_rate(code, day) == f"{standard.normalize():f}"
