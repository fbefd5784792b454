"""When a limit counts: windows of the calendar, and the rates at which a bucket drains.

Windows follow the clock on the wall of a time zone, so a day may have 23 or 25 hours. They are
half-open, follow each other without a gap, and are answered in UTC. Refuses floating point: a rate
is a fraction of two integers.
"""

from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, partial
from math import gcd
from typing import assert_never
from zoneinfo import ZoneInfo

from kit.interval import Interval
from services.quota.model import BillingPeriodWindow, CalendarPeriod, CalendarWindow

_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_DAYS_PER_WEEK = 7
_MONTHS = 12


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a bucket drains: `drain` parts each millisecond, of which `scale` are a quantum."""

    drain: int
    scale: int


def drain_rate(capacity: int, period_ms: int) -> Rate:
    """Answer the rate at which a capacity drains within a period, exactly."""
    if capacity == 0:
        return Rate(drain=0, scale=1)
    divisor = gcd(capacity, period_ms)
    return Rate(drain=capacity // divisor, scale=period_ms // divisor)


def window_at(window: CalendarWindow | BillingPeriodWindow, instant: datetime) -> Interval:
    """Find the window that contains an instant."""
    zone = _zone(window.time_zone)
    if isinstance(window, BillingPeriodWindow):
        return _days_at(
            zone, instant, partial(_first_of_billing, window), partial(_next_billing, window)
        )
    match window.period:
        case CalendarPeriod.HOUR:
            return _hour_at(zone, instant)
        case CalendarPeriod.DAY:
            return _days_at(zone, instant, _same_day, _next_day)
        case CalendarPeriod.WEEK:
            return _days_at(zone, instant, _monday, _next_week)
        case CalendarPeriod.MONTH:
            return _days_at(zone, instant, _first_of_month, _next_month)
        case CalendarPeriod.YEAR:
            return _days_at(zone, instant, _first_of_year, _next_year)
        case _:
            assert_never(window.period)


def _days_at(
    zone: ZoneInfo,
    instant: datetime,
    first_day: Callable[[date], date],
    next_first_day: Callable[[date], date],
) -> Interval:
    first = first_day(instant.astimezone(zone).date())
    start, end = _midnight(zone, first), _midnight(zone, next_first_day(first))
    # Where clocks are set back over midnight, the old date comes once more after the new day began.
    while end <= instant or start == end:
        first = next_first_day(first)
        start, end = end, _midnight(zone, next_first_day(first))
    return Interval(start, end)


def _midnight(zone: ZoneInfo, day: date) -> datetime:
    """Answer when a day begins: at its first midnight, or when its clock first shows anything."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _same_day(day: date) -> date:
    return day


def _next_day(day: date) -> date:
    return day + _DAY


def _monday(day: date) -> date:
    return day - day.weekday() * _DAY


def _next_week(monday: date) -> date:
    return monday + _DAYS_PER_WEEK * _DAY


def _first_of_month(day: date) -> date:
    return day.replace(day=1)


def _next_month(first: date) -> date:
    return _first_of_month(first + 31 * _DAY)


def _first_of_year(day: date) -> date:
    return day.replace(month=1, day=1)


def _next_year(first: date) -> date:
    return first.replace(year=first.year + 1)


def _first_of_billing(window: BillingPeriodWindow, day: date) -> date:
    number = _months_between(window.anchor, day) // window.months
    first = _billing_day(window, number)
    return first if first <= day else _billing_day(window, number - 1)


def _next_billing(window: BillingPeriodWindow, first: date) -> date:
    return _billing_day(window, _months_between(window.anchor, first) // window.months + 1)


def _billing_day(window: BillingPeriodWindow, number: int) -> date:
    """Answer when a period starts; the anchor starts number 0, short months on their last day."""
    year, month = divmod(_month_number(window.anchor) + number * window.months, _MONTHS)
    return date(year, month + 1, min(window.anchor.day, monthrange(year, month + 1)[1]))


def _months_between(earlier: date, later: date) -> int:
    return _month_number(later) - _month_number(earlier)


def _month_number(day: date) -> int:
    return day.year * _MONTHS + day.month - 1


def _hour_at(zone: ZoneInfo, instant: datetime) -> Interval:
    """Find the hour of the local clock; a change of the clock by half an hour ends it early."""
    offset = _offset(zone, instant)
    local = instant.astimezone(UTC) + offset
    start = local.replace(minute=0, second=0, microsecond=0) - offset
    end = start + _HOUR
    return Interval(
        _change_between(zone, start, instant) if _phase(zone, start) != offset % _HOUR else start,
        _change_between(zone, instant, end)
        if _phase(zone, end - _SECOND) != offset % _HOUR
        else end,
    )


def _change_between(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Find the second in which the clocks change between two instants, by halving."""
    phase = _phase(zone, before)
    low, high = before.replace(microsecond=0), after.replace(microsecond=0)
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        if _phase(zone, middle) == phase:
            low = middle
        else:
            high = middle
    return high


def _phase(zone: ZoneInfo, instant: datetime) -> timedelta:
    return _offset(zone, instant) % _HOUR


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None, "a zone of the IANA database always has an offset"
    return offset


@cache
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
