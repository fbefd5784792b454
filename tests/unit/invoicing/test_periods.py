"""Billing periods: the grid of months, what is cut off, and where days begin."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import available_timezones

import pytest

from kit.interval import Interval
from services.invoicing.model import BillingAnchor, Subscription
from services.invoicing.periods import (
    BillingPeriod,
    day_of,
    period_containing,
    periods_until,
    start_of_day,
    to_start_of_day,
)
from tests.invoicing_builders import a_subscription

ANNIVERSARY, CALENDAR = BillingAnchor.ANNIVERSARY, BillingAnchor.CALENDAR


def at(text: str) -> datetime:
    """Read an instant such as `2026-01-31 15:00`, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def started(
    day: str, anchor: BillingAnchor = ANNIVERSARY, *, zone: str = "UTC", end: str = ""
) -> Subscription:
    """Make a subscription from the start of a day, perhaps to the start of another."""
    return a_subscription(
        start_time=start_of_day(date.fromisoformat(day), zone),
        end_time=start_of_day(date.fromisoformat(end), zone) if end else None,
        anchor=anchor,
        time_zone=zone,
    )


@dataclass(frozen=True)
class Row:
    """A subscription, and the days its first periods begin on, the end of the last included."""

    subscription: Subscription
    days: str
    billed: str


ROWS = {
    "the 31st comes back after short months": Row(
        started("2026-01-31"),
        "2026-01-31 2026-02-28 2026-03-31 2026-04-30 2026-05-31",
        "28/28 31/31 30/30 31/31",
    ),
    "the 30th waits at the end of February": Row(
        started("2026-01-30"), "2026-01-30 2026-02-28 2026-03-30", "29/29 30/30"
    ),
    "the 29th in a leap year": Row(
        started("2024-01-29"), "2024-01-29 2024-02-29 2024-03-29", "31/31 29/29"
    ),
    "the 29th of February, a year later": Row(
        started("2024-02-29", end="2024-05-29"),
        "2024-02-29 2024-03-29 2024-04-29 2024-05-29",
        "29/29 31/31 30/30",
    ),
    "over the end of a year": Row(
        started("2025-11-15"), "2025-11-15 2025-12-15 2026-01-15 2026-02-15", "30/30 31/31 31/31"
    ),
    "a calendar month cut at its start": Row(
        started("2026-01-15", CALENDAR), "2026-01-15 2026-02-01 2026-03-01", "17/31 28/28"
    ),
    "a calendar month from the first on is whole": Row(
        started("2026-01-01", CALENDAR), "2026-01-01 2026-02-01", "31/31"
    ),
    "the last day of a month alone": Row(
        started("2024-02-29", CALENDAR), "2024-02-29 2024-03-01 2024-04-01", "1/29 31/31"
    ),
    "a last period cut short": Row(
        started("2026-01-01", CALENDAR, end="2026-02-10"),
        "2026-01-01 2026-02-01 2026-02-10",
        "31/31 9/28",
    ),
    "cut at both ends within one month": Row(
        started("2026-04-10", CALENDAR, end="2026-04-20"), "2026-04-10 2026-04-20", "10/30"
    ),
    "an anniversary cut short": Row(
        started("2026-01-31", end="2026-03-10"), "2026-01-31 2026-02-28 2026-03-10", "28/28 10/31"
    ),
    "an end on a boundary leaves whole periods": Row(
        started("2026-01-15", end="2026-03-15"), "2026-01-15 2026-02-15 2026-03-15", "31/31 28/28"
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_periods_follow_the_grid_of_months(row: Row) -> None:
    """Each period ends where the next begins, and counts its days and those of its month."""
    bounds = [at(day) for day in row.days.split()]

    periods = periods_until(row.subscription, bounds[-1])

    assert [period.interval for period in periods] == [
        Interval(start, end) for start, end in pairwise(bounds)
    ]
    assert " ".join(f"{each.billed_days}/{each.period_days}" for each in periods) == row.billed


def test_a_period_knows_its_last_day_and_whether_it_is_whole() -> None:
    """The last day is the one before the end; a cut period is not whole."""
    periods = periods_until(started("2026-01-15", CALENDAR), at("2026-03-01"))

    assert periods == (
        BillingPeriod(Interval(at("2026-01-15"), at("2026-02-01")), 17, 31, date(2026, 1, 31)),
        BillingPeriod(Interval(at("2026-02-01"), at("2026-03-01")), 28, 28, date(2026, 2, 28)),
    )
    assert [period.is_whole for period in periods] == [False, True]


@pytest.mark.parametrize(
    ("zone", "day", "start"),
    [
        pytest.param("UTC", "2026-03-29", "2026-03-29 00:00", id="no zone"),
        pytest.param("Europe/Berlin", "2026-03-29", "2026-03-28 23:00", id="winter"),
        pytest.param("Europe/Berlin", "2026-03-30", "2026-03-29 22:00", id="summer"),
        pytest.param("Asia/Kolkata", "2026-02-01", "2026-01-31 18:30", id="half an hour"),
        pytest.param("Asia/Kathmandu", "2026-02-01", "2026-01-31 18:15", id="three quarters"),
        pytest.param("Australia/Lord_Howe", "2026-01-01", "2025-12-31 13:00", id="half-hour DST"),
        pytest.param("America/Sao_Paulo", "2018-11-04", "2018-11-04 03:00", id="no midnight"),
        pytest.param("Africa/Cairo", "2026-04-24", "2026-04-23 22:00", id="no midnight in Cairo"),
        pytest.param("America/Havana", "2026-11-01", "2026-11-01 04:00", id="midnight twice"),
        pytest.param("Pacific/Apia", "2011-12-31", "2011-12-30 10:00", id="after a skipped day"),
        pytest.param("Pacific/Kiritimati", "2026-01-01", "2025-12-31 10:00", id="fourteen hours"),
    ],
)
def test_a_day_begins_with_its_first_instant(zone: str, day: str, start: str) -> None:
    """The start of a day belongs to it, and the instant before does not, whatever clocks do."""
    instant = start_of_day(date.fromisoformat(day), zone)

    assert instant == at(start)
    assert day_of(instant, zone).isoformat() == day
    assert day_of(instant - timedelta(microseconds=1), zone) < date.fromisoformat(day)


def test_days_begin_in_order_in_every_zone() -> None:
    """Over two years, no zone of the database has a day that begins within another."""
    days = [date(2025, 1, 1) + timedelta(days=count) for count in range(730)]

    wrong = [
        (zone, day)
        for zone in sorted(available_timezones())
        for day in days
        if day_of(start_of_day(day, zone), zone) != day
        or day_of(start_of_day(day, zone) - timedelta(microseconds=1), zone) >= day
    ]

    assert wrong == []


def test_months_with_clock_changes_are_hours_longer_or_shorter() -> None:
    """Periods are cut by local days: March in Berlin lacks an hour, October has one more."""
    periods = periods_until(
        started("2026-03-01", CALENDAR, zone="Europe/Berlin"), at("2026-11-01 00:00")
    )

    days_and_hours = [divmod(period.interval.duration, timedelta(days=1)) for period in periods]
    assert days_and_hours[0] == (30, timedelta(hours=23))
    assert days_and_hours[1] == (30, timedelta(0))
    assert days_and_hours[7] == (31, timedelta(hours=1))
    assert [period.period_days for period in periods] == [31, 30, 31, 30, 31, 31, 30, 31]


def test_anniversaries_are_days_of_the_zone_and_not_of_utc() -> None:
    """The 31st in Kolkata begins on the 30th in UTC, and February ends there at 18:30."""
    first, second = periods_until(
        started("2026-01-31", zone="Asia/Kolkata"), at("2026-03-30 18:30")
    )

    assert first.interval == Interval(at("2026-01-30 18:30"), at("2026-02-27 18:30"))
    assert second.interval == Interval(at("2026-02-27 18:30"), at("2026-03-30 18:30"))


def test_an_instant_is_taken_to_the_start_of_its_local_day() -> None:
    """Half past midnight in Tokyo belongs to that day, though UTC is still in the one before."""
    assert to_start_of_day(at("2026-01-31 15:30"), "Asia/Tokyo") == at("2026-01-31 15:00")
    assert to_start_of_day(at("2026-01-31 14:59"), "Asia/Tokyo") == at("2026-01-30 15:00")


def test_a_period_is_closed_at_its_end_and_not_an_instant_earlier() -> None:
    """`until` is inclusive: what ended at it has ended."""
    subscription = started("2026-01-01", CALENDAR)

    before = periods_until(subscription, at("2026-02-01") - timedelta(microseconds=1))

    assert (len(before), len(periods_until(subscription, at("2026-02-01")))) == (0, 1)


@pytest.mark.parametrize(
    ("instant", "start"),
    [
        pytest.param("2025-12-31 23:59", None, id="before the start"),
        pytest.param("2026-01-01 00:00", "2026-01-01", id="the first instant"),
        pytest.param("2026-01-31 23:59", "2026-01-01", id="within the first"),
        pytest.param("2026-02-01 00:00", "2026-02-01", id="on a boundary"),
        pytest.param("2026-02-09 23:59", "2026-02-01", id="before the end"),
        pytest.param("2026-02-10 00:00", None, id="at the end"),
    ],
)
def test_an_instant_falls_into_one_period_or_none(instant: str, start: str | None) -> None:
    """Before the start and from the end on there is no period."""
    period = period_containing(started("2026-01-01", CALENDAR, end="2026-02-10"), at(instant))

    assert (period and period.interval.start) == (start and at(start))
