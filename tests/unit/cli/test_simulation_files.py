"""Months of a simulation, names of changes, and rows of exports."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.text_format import Parse
from google.type.money_pb2 import Money

from cli.commands.plan_simulation import simulate
from cli.errors import CommandError
from cli.simulated_customers import calendar_periods, read_segments
from cli.simulation_files import COLUMNS, row_writers, rows_of
from cli.simulation_plot import bucket_name, change_text
from kit.rpc.wire import parse_interval
from tollkeeper.api.rating.v1.simulation_pb2 import ChangeBucket, CustomerOutcome

BERLIN = ZoneInfo("Europe/Berlin")


def test_an_interval_is_cut_at_the_months_of_its_calendar() -> None:
    """Whole months bill whole fees, parts their days, on the calendar that was asked for."""
    since = datetime(2026, 1, 16, tzinfo=BERLIN).astimezone(UTC)
    until = datetime(2026, 4, 1, tzinfo=BERLIN).astimezone(UTC)

    periods = calendar_periods(since, until, BERLIN)

    starts = [parse_interval(each.period, "period").start.astimezone(BERLIN) for each in periods]
    assert [(start.month, start.day, start.hour) for start in starts] == [
        (1, 16, 0),
        (2, 1, 0),
        (3, 1, 0),
    ]
    assert parse_interval(periods[-1].period, "period").end == until
    assert [each.HasField("proration") for each in periods] == [True, False, False]
    assert (periods[0].proration.billed_days, periods[0].proration.period_days) == (16, 31)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('up_to_percent { value: "-50" }', "up to -50 %"),
        ('above_percent { value: "-5" } up_to_percent { value: "0" }', "-5 to 0 %"),
        ('above_percent { value: "0" } up_to_percent { value: "0" }', "unchanged"),
        ('above_percent { value: "100" }', "above 100 %"),
        ("from_nothing: true", "from nothing"),
    ],
)
def test_each_bucket_has_a_name(written: str, name: str) -> None:
    """Bounds are named as they are, and those without."""
    assert bucket_name(Parse(written, ChangeBucket())) == name


@pytest.mark.parametrize(
    ("now", "then", "text"),
    [
        (200, 210, "+10.00 USD (+5.0 %)"),
        (200, 199, "-1.00 USD (-0.5 %)"),
        (0, 3, "+3.00 USD"),
        (3, 3, "+0.00 USD (+0.0 %)"),
    ],
)
def test_a_change_says_how_much_and_how_many_percent(now: int, then: int, text: str) -> None:
    """Of nothing there are no percent."""
    amounts = [Money(currency_code="USD", units=units) for units in (now, then)]

    assert change_text(*amounts) == text


def test_rows_are_customers_and_candidates(tmp_path: Path) -> None:
    """A customer that failed has one row that says why; amounts are exact text."""
    outcomes = [
        Parse(
            """
            customer_id: "acme" segment: "eu" current { currency_code: "USD" units: 3 }
            candidates {
              total { currency_code: "USD" units: 2 nanos: 500000000 }
              tiers { price_id: "tokens" tier: 2 }
            }
            """,
            CustomerOutcome(),
        ),
        Parse('customer_id: "bolt" error { message: "there is no plan" }', CustomerOutcome()),
    ]
    file = tmp_path / "rows.csv"

    rows = list(rows_of(outcomes, ["cheaper"]))
    with row_writers(file, None) as writers:
        writers[0].write(rows)

    assert rows[0]["change_amount"] == Decimal("-0.5")
    assert file.read_text().splitlines() == [
        ",".join(COLUMNS),
        "acme,eu,cheaper,USD,3,2.5,-0.5,tokens:2,",
        "bolt,,,,,,,,there is no plan",
    ]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """The folder may not be there; the file is named."""
    file = tmp_path / "no" / "rows"
    for files in ((file, None), (None, file)):
        with pytest.raises(CommandError, match=f"^cannot write {file}: "), row_writers(*files):
            pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"until": "2026-01-01"}, "--since 2026-01-01 must come before --until 2026-01-01"),
        ({"since": "yesterday"}, "--since 'yesterday' is not a time"),
        ({"time_zone": "Mars"}, "must be an IANA time zone"),
        ({"plot": Path("changes.pdf")}, "--plot changes.pdf must end in .svg or .png"),
    ],
)
def test_a_wrong_option_of_a_simulation_is_one_sentence(
    options: dict[str, Any], words: str
) -> None:
    """It is told before any service is asked."""
    with pytest.raises(CommandError) as refused:
        simulate([], **{"since": "2026-01-01", "until": "2026-02-01"} | options)

    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "is none of plan, country, currency, kind"),
        ("id,size", "lacks the columns"),
        ("customer_id,segment\nacme,", "row 2: a segment has 1 to 64 characters"),
    ],
)
def test_a_wrong_file_of_segments_is_one_sentence(
    text: str | None, words: str, tmp_path: Path
) -> None:
    """Segments come from a file of two columns, or are named."""
    file = tmp_path / "segments.csv"
    if text is not None:
        file.write_text(text)

    with pytest.raises(CommandError) as refused:
        read_segments(file)

    assert words in str(refused.value)


def test_segments_are_read_by_customer(tmp_path: Path) -> None:
    """Other columns are left alone."""
    file = tmp_path / "segments.csv"
    file.write_text("customer_id,size,segment\nacme,3,large\nbolt,1,small\n")

    assert read_segments(file) == {"acme": "large", "bolt": "small"}
