"""Where intervals are cut: at the calendar of the zone, whatever its clock does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from kit.errors import InvalidInput
from kit.interval import Interval
from services.meter.model import Window
from services.meter.windows import Calendar, Plan, cut, parse_time_zone, plan, previous_of


@dataclass(frozen=True, slots=True)
class Case:
    """An interval, how it is cut, and the bounds that must come out."""

    id: str
    window: Window
    zone: str
    bounds: str
    anchor: str = ""


def instants(written: str) -> list[datetime]:
    """Read instants of UTC, such as `2026-03-01T12:00`."""
    return [datetime.fromisoformat(each).replace(tzinfo=UTC) for each in written.split()]


CASES = [
    Case("the whole is not cut", Window.WHOLE, "UTC", "2026-03-01T00:00 2026-04-01T00:00"),
    Case(
        "a whole within one hour",
        Window.WHOLE,
        "UTC",
        "2026-03-01T10:10 2026-03-01T10:20",
    ),
    Case(
        "a whole from any instant to any",
        Window.WHOLE,
        "UTC",
        "2026-03-01T10:10 2026-03-01T14:00:00.000001",
    ),
    Case(
        "hours of UTC",
        Window.HOUR,
        "UTC",
        "2026-03-01T10:30 2026-03-01T11:00 2026-03-01T12:00 2026-03-01T12:15",
    ),
    Case(
        "hours of a zone half an hour off",
        Window.HOUR,
        "Asia/Kolkata",
        "2026-03-01T10:30 2026-03-01T11:30 2026-03-01T12:30",
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
    ),
    Case(
        "months of Tokyo",
        Window.MONTH,
        "Asia/Tokyo",
        "2026-01-10T00:00 2026-01-31T15:00 2026-02-28T15:00 2026-03-05T00:00",
    ),
    Case(
        "minutes, the first and the last cut short",
        Window.MINUTE,
        "Asia/Kathmandu",
        "2026-03-01T00:00:30 2026-03-01T00:01 2026-03-01T00:02 2026-03-01T00:02:01",
    ),
    Case(
        "weeks from Monday",
        Window.WEEK,
        "Europe/Berlin",
        "2026-03-19T00:00 2026-03-22T23:00 2026-03-29T22:00 2026-03-31T00:00",
    ),
    Case(
        "minutes from an anchor's second",
        Window.MINUTE,
        "UTC",
        "2026-03-01T00:00 2026-03-01T00:00:20 2026-03-01T00:01",
        "2020-01-01T00:00:20",
    ),
    Case(
        "hours from an anchor's minute",
        Window.HOUR,
        "Asia/Kolkata",
        "2026-03-01T00:00 2026-03-01T00:40 2026-03-01T01:40 2026-03-01T02:00",
        "2020-01-01T00:40",
    ),
    Case(
        "days from an anchor's time of the day, in summer too",
        Window.DAY,
        "Europe/Berlin",
        "2026-03-28T00:00 2026-03-28T08:00 2026-03-29T07:00 2026-03-30T00:00",
        "2026-01-01T08:00",
    ),
    Case(
        "weeks from an anchor's weekday",
        Window.WEEK,
        "UTC",
        "2026-03-01T00:00 2026-03-04T12:00 2026-03-11T12:00 2026-03-12T00:00",
        "2026-01-07T12:00",
    ),
    Case(
        "months from the 31st, or the last day of a shorter one",
        Window.MONTH,
        "UTC",
        "2026-01-15T00:00 2026-01-31T00:00 2026-02-28T00:00 2026-03-31T00:00 2026-04-15T00:00",
        "2025-12-31T00:00",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_interval_is_cut_at_the_calendar(case: Case) -> None:
    """Windows begin and end at the calendar of the zone, or at its anchor."""
    bounds = instants(case.bounds)
    anchor = instants(case.anchor)[0] if case.anchor else None
    calendar = Calendar(case.window, parse_time_zone(case.zone, "zone"), anchor)

    windows = cut(Interval(bounds[0], bounds[-1]), calendar)

    assert [*(window.start for window in windows), windows[-1].end] == bounds


@pytest.mark.parametrize(
    ("window", "first", "previous"),
    [
        (Window.MONTH, "2026-03-01T00:00 2026-04-01T00:00", "2026-02-01T00:00 2026-03-01T00:00"),
        (Window.MONTH, "2026-03-11T00:00 2026-04-01T00:00", "2026-02-18T00:00 2026-03-11T00:00"),
        (Window.DAY, "2026-03-01T00:00 2026-03-01T06:00", "2026-02-28T00:00 2026-03-01T00:00"),
        (Window.WHOLE, "2026-03-01T00:00 2026-03-11T00:00", "2026-02-19T00:00 2026-03-01T00:00"),
    ],
)
def test_a_window_has_one_before_it(window: Window, first: str, previous: str) -> None:
    """The calendar's, where the first begins with a window; otherwise one as long."""
    calendar = Calendar(window, parse_time_zone("UTC", "zone"))

    before = previous_of(Interval(*instants(first)), calendar)

    assert before == Interval(*instants(previous))


@dataclass(frozen=True, slots=True)
class Reading:
    """Windows, and from what they are to be read."""

    id: str
    windows: str
    days: str = ""
    quarters: str = ""
    edges: str = ""


READINGS = [
    Reading(
        "a month of UTC is read from days alone",
        "2026-03-01T00:00 2026-04-01T00:00",
        days="2026-03-01T00:00 2026-04-01T00:00",
    ),
    Reading(
        "days of India from quarters of an hour",
        "2026-03-01T18:30 2026-03-02T18:30 2026-03-03T18:30",
        quarters="2026-03-01T18:30 2026-03-03T18:30",
    ),
    Reading(
        "a month of Nepal from days and from quarters around them",
        "2026-02-28T18:15 2026-03-31T18:15",
        days="2026-03-01T00:00 2026-03-31T00:00",
        quarters="2026-02-28T18:15 2026-03-01T00:00 2026-03-31T00:00 2026-03-31T18:15",
    ),
    Reading(
        "what is inside one quarter from events",
        "2026-03-01T10:01 2026-03-01T10:14",
        edges="2026-03-01T10:01 2026-03-01T10:14",
    ),
    Reading(
        "what touches two quarters and fills none from events",
        "2026-03-01T10:14 2026-03-01T10:16",
        edges="2026-03-01T10:14 2026-03-01T10:16",
    ),
    Reading(
        "both edges from events",
        "2026-03-01T10:14 2026-03-01T10:46",
        quarters="2026-03-01T10:15 2026-03-01T10:45",
        edges="2026-03-01T10:14 2026-03-01T10:15 2026-03-01T10:45 2026-03-01T10:46",
    ),
    Reading(
        "minutes from events, without a seam",
        "2026-03-01T10:00 2026-03-01T10:01 2026-03-01T10:02",
        edges="2026-03-01T10:00 2026-03-01T10:02",
    ),
]


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.id)
def test_windows_are_read_from_the_longest_spans_that_fit(reading: Reading) -> None:
    """Days, then quarters of an hour, then events; each as one interval where they touch."""
    planned = plan(pairs(reading.windows, step=1))

    assert planned == Plan(pairs(reading.days), pairs(reading.quarters), pairs(reading.edges))


def pairs(written: str, step: int = 2) -> tuple[Interval, ...]:
    """Read intervals: each two instants one, or with a step of 1 each one and the next."""
    return tuple(Interval(*both) for both in list(pairwise(instants(written)))[::step])


@pytest.mark.parametrize("name", ["Mars/Olympus", "../etc/passwd", "Europe", "europe/berlin", " "])
def test_an_unknown_time_zone_is_refused(name: str) -> None:
    """Only names of the IANA database are zones."""
    with pytest.raises(InvalidInput) as refused:
        parse_time_zone(name, "time_zone")

    assert [each.field for each in refused.value.violations] == ["time_zone"]


def test_no_time_zone_is_utc() -> None:
    """An empty name stands for UTC."""
    assert parse_time_zone("", "time_zone").key == "UTC"
