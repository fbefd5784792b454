"""Windows of the calendar in time zones that are hard, and rates as fractions."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.interval import Interval
from services.quota.model import CalendarPeriod, CalendarWindow
from services.quota.windows import Rate, drain_rate, window_at

HOUR, DAY, WEEK, MONTH, YEAR = CalendarPeriod


def utc(text: str) -> datetime:
    """Read an instant of UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """An instant, and the window that it lies in."""

    id: str
    period: CalendarPeriod
    zone: str
    instant: str
    start: str
    end: str


CASES = [
    Case("hour", HOUR, "UTC", "2026-03-01T10:59:59.999", "2026-03-01T10:00", "2026-03-01T11:00"),
    Case("hour starts", HOUR, "UTC", "2026-03-01T11:00", "2026-03-01T11:00", "2026-03-01T12:00"),
    Case(
        "hour of a half-hour zone",
        HOUR,
        "Asia/Kolkata",
        "2026-03-01T10:15",
        "2026-03-01T09:30",
        "2026-03-01T10:30",
    ),
    Case(
        "hour that comes twice, first time",
        HOUR,
        "Europe/Berlin",
        "2026-10-25T00:30",
        "2026-10-25T00:00",
        "2026-10-25T01:00",
    ),
    Case(
        "hour that comes twice, second time",
        HOUR,
        "Europe/Berlin",
        "2026-10-25T01:30",
        "2026-10-25T01:00",
        "2026-10-25T02:00",
    ),
    Case(
        "hour cut by a change of half an hour",
        HOUR,
        "Australia/Lord_Howe",
        "2026-04-04T14:40",
        "2026-04-04T14:00",
        "2026-04-04T15:00",
    ),
    Case(
        "half an hour after such a change",
        HOUR,
        "Australia/Lord_Howe",
        "2026-04-04T15:10",
        "2026-04-04T15:00",
        "2026-04-04T15:30",
    ),
    Case("day", DAY, "UTC", "2026-03-01T00:00", "2026-03-01T00:00", "2026-03-02T00:00"),
    Case(
        "day of 23 hours",
        DAY,
        "Europe/Berlin",
        "2026-03-29T12:00",
        "2026-03-28T23:00",
        "2026-03-29T22:00",
    ),
    Case(
        "day of 25 hours",
        DAY,
        "Europe/Berlin",
        "2026-10-25T12:00",
        "2026-10-24T22:00",
        "2026-10-25T23:00",
    ),
    Case(
        "day without a midnight",
        DAY,
        "America/Santiago",
        "2026-09-06T12:00",
        "2026-09-06T04:00",
        "2026-09-07T03:00",
    ),
    Case(
        "day with two midnights",
        DAY,
        "America/Havana",
        "2026-11-01T04:30",
        "2026-11-01T04:00",
        "2026-11-02T05:00",
    ),
    Case(
        "day whose eve comes back after midnight",
        DAY,
        "America/St_Johns",
        "2006-10-29T03:15",
        "2006-10-29T02:30",
        "2006-10-30T03:30",
    ),
    Case(
        "day before a day that never was",
        DAY,
        "Pacific/Apia",
        "2011-12-30T09:59",
        "2011-12-29T10:00",
        "2011-12-30T10:00",
    ),
    Case(
        "day after a day that never was",
        DAY,
        "Pacific/Apia",
        "2011-12-30T10:00",
        "2011-12-30T10:00",
        "2011-12-31T10:00",
    ),
    Case("week", WEEK, "UTC", "2026-03-01T23:59", "2026-02-23T00:00", "2026-03-02T00:00"),
    Case(
        "week that lacks an hour",
        WEEK,
        "Europe/Berlin",
        "2026-03-29T21:59",
        "2026-03-22T23:00",
        "2026-03-29T22:00",
    ),
    Case("month", MONTH, "UTC", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00"),
    Case(
        "month in a zone ahead",
        MONTH,
        "Asia/Tokyo",
        "2026-01-31T15:00",
        "2026-01-31T15:00",
        "2026-02-28T15:00",
    ),
    Case(
        "month with a change of the clock",
        MONTH,
        "America/New_York",
        "2026-03-15T00:00",
        "2026-03-01T05:00",
        "2026-04-01T04:00",
    ),
    Case("year", YEAR, "UTC", "2026-12-31T23:59:59", "2026-01-01T00:00", "2027-01-01T00:00"),
    Case(
        "year in a zone behind",
        YEAR,
        "America/Los_Angeles",
        "2027-01-01T07:59",
        "2026-01-01T08:00",
        "2027-01-01T08:00",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_window_follows_the_clock_on_the_wall(case: Case) -> None:
    """Windows begin where the local clock says so, also where it is set."""
    window = window_at(CalendarWindow(case.period, case.zone), utc(case.instant))

    assert window == Interval(utc(case.start), utc(case.end))


@given(
    period=st.sampled_from(CalendarPeriod),
    zone=st.sampled_from(
        [
            *("UTC", "Europe/Berlin", "America/New_York", "America/Havana", "America/St_Johns"),
            *("Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu", "Africa/Casablanca"),
        ]
    ),
    instant=st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1)),  # noqa: DTZ001 - set below.
)
def test_windows_contain_their_instants_and_leave_no_gap(
    period: CalendarPeriod, zone: str, instant: datetime
) -> None:
    """Every instant lies in its window, and the next window begins where it ends."""
    window = CalendarWindow(period, zone)
    found = window_at(window, instant.replace(tzinfo=UTC))
    following = window_at(window, found.end)
    last = window_at(window, found.end - timedelta.resolution)

    assert found.contains(instant.replace(tzinfo=UTC))
    assert following.start == found.end
    assert last == found


@pytest.mark.parametrize(
    ("capacity", "period_ms", "rate"),
    [
        (60, 60_000, Rate(drain=1, scale=1_000)),
        (1_000_000, 60_000, Rate(drain=50, scale=3)),
        (2_000_000, 86_400_000, Rate(drain=5, scale=216)),
        (7, 1_000, Rate(drain=7, scale=1_000)),
        (10**15, 1_000, Rate(drain=10**12, scale=1)),
        (0, 1_000, Rate(drain=0, scale=1)),
    ],
)
def test_a_rate_is_a_fraction_in_lowest_terms(capacity: int, period_ms: int, rate: Rate) -> None:
    """Capacity over period, exactly; a capacity of nothing never refills."""
    assert drain_rate(capacity, period_ms) == rate
