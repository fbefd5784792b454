"""Where intervals are cut: at the calendar of the zone, whatever its clock does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from kit.errors import InvalidInput
from kit.interval import Interval
from services.meter.model import Window
from services.meter.windows import cut, parse_time_zone


@dataclass(frozen=True, slots=True)
class Case:
    """An interval, how it is cut, and the bounds and split hours that must come out."""

    id: str
    window: Window
    zone: str
    bounds: str
    split_hours: str = ""


def instants(written: str) -> list[datetime]:
    """Read instants of UTC, such as `2026-03-01T12:00`."""
    return [datetime.fromisoformat(each).replace(tzinfo=UTC) for each in written.split()]


CASES = [
    Case("the whole is not cut", Window.WHOLE, "UTC", "2026-03-01T00:00 2026-04-01T00:00"),
    Case(
        "a whole within one hour has that hour split",
        Window.WHOLE,
        "UTC",
        "2026-03-01T10:10 2026-03-01T10:20",
        "2026-03-01T10:00",
    ),
    Case(
        "both edges may split an hour",
        Window.WHOLE,
        "UTC",
        "2026-03-01T10:10 2026-03-01T14:00:00.000001",
        "2026-03-01T10:00 2026-03-01T14:00",
    ),
    Case(
        "hours of UTC",
        Window.HOUR,
        "UTC",
        "2026-03-01T10:30 2026-03-01T11:00 2026-03-01T12:00 2026-03-01T12:15",
        "2026-03-01T10:00 2026-03-01T12:00",
    ),
    Case(
        "hours of a zone half an hour off split every hour",
        Window.HOUR,
        "Asia/Kolkata",
        "2026-03-01T10:30 2026-03-01T11:30 2026-03-01T12:30",
        "2026-03-01T10:00 2026-03-01T11:00 2026-03-01T12:00",
    ),
    Case(
        "days of Berlin, of which one has 23 hours",
        Window.DAY,
        "Europe/Berlin",
        "2026-03-27T23:00 2026-03-28T23:00 2026-03-29T22:00 2026-03-30T22:00",
    ),
    Case(
        "a repeated hour of New York is two windows",
        Window.HOUR,
        "America/New_York",
        "2026-11-01T05:00 2026-11-01T06:00 2026-11-01T07:00",
    ),
    Case(
        "days of Nepal, 45 minutes off",
        Window.DAY,
        "Asia/Kathmandu",
        "2026-03-01T00:00 2026-03-01T18:15 2026-03-02T00:00",
        "2026-03-01T18:00",
    ),
    Case(
        "a day without midnight begins when the clock is set",
        Window.DAY,
        "Asia/Beirut",
        "2026-03-28T10:00 2026-03-28T22:00 2026-03-29T21:00 2026-03-30T00:00",
    ),
    Case(
        "a day that Samoa left out is no window",
        Window.DAY,
        "Pacific/Apia",
        "2011-12-29T10:00 2011-12-30T10:00 2011-12-31T10:00",
    ),
    Case(
        "where the clock is set by half an hour, shorter hours",
        Window.HOUR,
        "Australia/Lord_Howe",
        "2026-04-04T14:00 2026-04-04T15:00 2026-04-04T15:30 2026-04-04T16:30",
        "2026-04-04T15:00 2026-04-04T16:00",
    ),
    Case(
        "months of Tokyo",
        Window.MONTH,
        "Asia/Tokyo",
        "2026-01-10T00:00 2026-01-31T15:00 2026-02-28T15:00 2026-03-05T00:00",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_interval_is_cut_at_the_calendar(case: Case) -> None:
    """Windows begin and end at the calendar of the zone, and the hours they split are named."""
    bounds = instants(case.bounds)

    pieces = cut(Interval(bounds[0], bounds[-1]), case.window, parse_time_zone(case.zone, "zone"))

    starts = [window.start for window in pieces.windows]
    assert [*starts, pieces.windows[-1].end] == bounds
    assert list(pieces.split_hours) == instants(case.split_hours)


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "Europe", "europe/berlin", " "])
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    """Only names of the IANA database are zones."""
    with pytest.raises(InvalidInput) as refused:
        parse_time_zone(name, "time_zone")

    assert [each.field for each in refused.value.violations] == ["time_zone"]


def test_no_time_zone_is_utc() -> None:
    """An empty name stands for UTC."""
    assert parse_time_zone("", "time_zone").key == "UTC"
