"""How commands speak, on a terminal and elsewhere."""

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money
from rich.console import Console

from cli.output import (
    Column,
    Output,
    money_text,
    quantity_text,
    rate_text,
    tax_text,
    time_text,
)
from tollkeeper.api.tax.v1.tax_pb2 import (
    TAX_TREATMENT_REVERSE_CHARGE,
    TAX_TREATMENT_TAXED,
    ExchangeRate,
    Tax,
)

COLUMNS = [Column("meter", style="cyan"), Column("usage", right=True)]
ROWS = [["calls", "7"], ["[red]tokens", "1,234"]]


def spoken(*, terminal: bool, as_json: bool) -> str:
    """Say everything that an output can say, and give what was heard."""
    heard = io.StringIO()
    output = Output(as_json=as_json, console=Console(file=heard, force_terminal=terminal, width=60))
    output.section("Usage")
    output.say("of [acme]")
    output.table(COLUMNS, ROWS)
    output.table(COLUMNS, [], empty="nothing was used")
    with output.progress("calls", 8) as advance:
        for _ in range(8):
            advance(1)
    output.value({"calls": 7, "name": "東京"})
    return heard.getvalue()


def test_a_pipe_gets_plain_aligned_lines() -> None:
    """No colour, no boxes, no wrapping; progress is a line at each quarter."""
    assert spoken(terminal=False, as_json=False) == (
        "\n"
        "== Usage\n"
        "of [acme]\n"
        "meter        usage\n"
        "calls            7\n"
        "[red]tokens  1,234\n"
        "nothing was used\n"
        "calls: 2 of 8\n"
        "calls: 4 of 8\n"
        "calls: 6 of 8\n"
        "calls: 8 of 8\n"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_json_is_all_there_is_when_it_is_asked_for(terminal: bool) -> None:  # noqa: FBT001
    """A program parses the whole of standard output, also on a terminal."""
    assert json.loads(spoken(terminal=terminal, as_json=True)) == {"calls": 7, "name": "東京"}


def test_a_terminal_gets_colour_and_nothing_is_read_as_markup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a customer is called is shown as it is."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    heard = spoken(terminal=True, as_json=False)

    assert "\x1b[36m" in heard
    assert "[red]tokens" in heard
    assert "of [acme]" in heard


def test_no_color_leaves_the_table_and_takes_the_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """As https://no-color.org asks for."""
    monkeypatch.setenv("NO_COLOR", "1")

    heard = spoken(terminal=True, as_json=False)

    assert "\x1b[36m" not in heard
    assert "─" in heard


@pytest.mark.parametrize(
    ("value", "text"),
    [("0", "0"), ("1234567.50", "1,234,567.5"), ("1E+3", "1,000"), ("0.000001", "0.000001")],
)
def test_quantities_are_grouped_and_exact(value: str, text: str) -> None:
    """No digit is lost and none invented."""
    assert quantity_text(Decimal(value)) == text


@pytest.mark.parametrize(
    ("money", "text"),
    [
        (Money(currency_code="USD", units=1234, nanos=500_000_000), "1,234.50 USD"),
        (Money(currency_code="JPY", units=15725), "15,725 JPY"),
        (Money(currency_code="EUR", units=0, nanos=-10_000_000), "-0.01 EUR"),
    ],
)
def test_money_has_the_decimals_of_its_currency(money: Money, text: str) -> None:
    """Two for the dollar, none for the yen."""
    assert money_text(money) == text


def test_times_are_in_utc_and_as_fine_as_they_are() -> None:
    """Minutes where that is all there is."""
    tokyo = timezone(timedelta(hours=9))

    assert time_text(datetime(2026, 10, 1, tzinfo=tokyo)) == "2026-09-30 15:00"
    assert time_text(datetime(2026, 10, 1, 0, 0, 5, 7, tzinfo=UTC)) == "2026-10-01 00:00:05.000007"


def test_a_tax_is_named_with_its_rate_or_its_treatment() -> None:
    """A rate of zero would hide why."""
    french = Tax(
        jurisdiction="FR",
        name="VAT",
        rate_percent=DecimalMessage(value="20"),
        treatment=TAX_TREATMENT_TAXED,
    )
    german = Tax(jurisdiction="DE", name="VAT", treatment=TAX_TREATMENT_REVERSE_CHARGE)

    assert (tax_text(french), tax_text(german)) == ("FR VAT 20 %", "DE VAT: reverse charge")


def test_an_exchange_rate_is_named_with_its_day_and_source() -> None:
    """Enough to look it up."""
    rate = ExchangeRate(
        base_currency="USD",
        quote_currency="JPY",
        rate=DecimalMessage(value="157.25"),
        rate_date=Date(year=2026, month=10, day=30),
        source="ECB",
    )

    assert rate_text(rate) == "157.25 JPY for 1 USD, ECB, 2026-10-30"
