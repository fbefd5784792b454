"""The CSV of the European Central Bank: read whole or not at all."""

from datetime import date
from decimal import Decimal

import pytest

from kit.errors import InvalidInput
from services.tax.exchange import PublishedRate
from services.tax.reference_rates import new_rates, parse_reference_rates

HEADER = "Date,USD,JPY,CYP,HRK,\n"
FRIDAY = date(2026, 10, 30)


def a_rate(currency: str, units: str, day: date = FRIDAY) -> PublishedRate:
    """Make a rate of the ECB."""
    return PublishedRate("ECB", currency, day, Decimal(units))


def test_a_file_is_read_in_its_order() -> None:
    """`N/A` is no rate, a trailing comma no column, and long withdrawn currencies are left out."""
    lines = [HEADER, "2026-10-30,1.1172,175.68,0.5,N/A,\n", "2026-10-29,1.113,175.92,0.5,,\n"]

    assert list(parse_reference_rates(lines)) == [
        a_rate("USD", "1.1172"),
        a_rate("JPY", "175.68"),
        a_rate("USD", "1.113", date(2026, 10, 29)),
        a_rate("JPY", "175.92", date(2026, 10, 29)),
    ]


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ([], "line 1"),
        (["Day,USD\n"], "line 1"),
        ([HEADER, "30.10.2026,1.1,175,1,1,\n"], "line 2"),
        ([HEADER, "2026-10-30,1.1\n"], "line 2"),
        ([HEADER, "2026-10-30,NaN,175,1,1,\n"], "line 2, USD"),
        ([HEADER, "2026-10-30,1.1,-175,1,1,\n"], "line 2, JPY"),
        ([HEADER, "2026-10-30,1.1,0,1,1,\n"], "line 2, JPY"),
        ([HEADER, '2026-10-30,"1.1,0,1,1,\n'], "line 2"),
    ],
)
def test_a_file_that_cannot_be_read_names_its_line(lines: list[str], field: str) -> None:
    """Nothing is taken from a file with a fault."""
    with pytest.raises(InvalidInput) as caught:
        list(parse_reference_rates(lines))

    assert [violation.field for violation in caught.value.violations] == [field]


def test_only_rates_that_are_not_stored_are_new() -> None:
    """Importing a file again stores nothing; a longer one stores what it adds."""
    stored = [a_rate("USD", "1.1172")]

    assert new_rates([a_rate("USD", "1.11720"), a_rate("JPY", "175.68")], stored) == (
        a_rate("JPY", "175.68"),
    )


@pytest.mark.parametrize(
    ("rates", "stored"),
    [
        ([a_rate("USD", "1.2")], [a_rate("USD", "1.1")]),
        ([a_rate("USD", "1.1"), a_rate("USD", "1.2")], []),
    ],
)
def test_a_rate_that_contradicts_another_is_refused(
    rates: list[PublishedRate], stored: list[PublishedRate]
) -> None:
    """A published rate never changes; two files that differ are a mistake."""
    with pytest.raises(InvalidInput) as caught:
        new_rates(rates, stored)

    assert caught.value.message == (
        "USD on 2026-10-30: is 1.2, but was 1.1; published rates never change"
    )
