"""Cuts an interval at the calendar of a time zone, and plans from what each piece is read.

Pure: it knows time zones, and neither events nor stores. Every instant of the interval lies in
exactly one window, whatever the zone's clock does.
"""

from calendar import monthrange
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from kit.errors import InvalidInput
from kit.interval import Interval
from services.meter.model import EPOCH, Window

HOUR = timedelta(hours=1)
QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_MONDAY = date(2024, 1, 1)
_DAYS_PER_WEEK = 7
# No window is longer, so a window before an instant begins at most this long before.
_LONGEST = timedelta(days=32)


def parse_time_zone(name: str, field: str) -> ZoneInfo:
    """Read the name of an IANA time zone, such as `Asia/Kolkata`; an empty one is UTC.

    Raises:
        InvalidInput: naming `field`.
    """
    if name and name not in _time_zones():
        raise InvalidInput.of(field, "must be an IANA time zone such as Europe/Berlin")
    return ZoneInfo(name or "UTC")


@dataclass(frozen=True, slots=True)
class Calendar:
    """How time is cut: into which windows, by whose clock, and from which anchor they count.

    Windows begin at the anchor's second (MINUTE), minute (HOUR), time of the day (DAY), weekday
    (WEEK) or day of the month (MONTH; in shorter months the last day) on the zone's clock.
    """

    window: Window
    zone: ZoneInfo
    anchor: datetime | None = None

    def local_anchor(self) -> datetime:
        """Answer the anchor as the zone's clock shows it: by default a Monday's first instant."""
        if self.anchor is None:
            return datetime.combine(_MONDAY, time())
        return self.anchor.astimezone(self.zone).replace(tzinfo=None)


def cut(interval: Interval, calendar: Calendar) -> tuple[Interval, ...]:
    """Cut an interval at the calendar; the first and the last window may be shorter."""
    match calendar.window:
        case Window.WHOLE:
            bounds: Iterable[datetime] = ()
        case Window.MINUTE:
            bounds = _minutes(interval, calendar)
        case Window.HOUR:
            bounds = _hours(interval, calendar)
        case Window.DAY | Window.WEEK | Window.MONTH:
            at = calendar.local_anchor().time()
            bounds = (_instant(day, at, calendar.zone) for day in _first_days(interval, calendar))
    return interval.split_at(*bounds)


def previous_of(first: Interval, calendar: Calendar) -> Interval:
    """Answer the window before the first: the calendar's, or one as long where it was cut short."""
    if calendar.window is not Window.WHOLE:
        before = cut(Interval(first.start - _LONGEST, first.start), calendar)[-1]
        around = cut(Interval(before.start, first.start + timedelta(microseconds=1)), calendar)
        if around[-1].start == first.start:
            return before
    return Interval(first.start - first.duration, first.start)


@dataclass(frozen=True, slots=True)
class Plan:
    """From what windows are read: whole days and quarters of an hour of UTC, and the rest.

    In each list the intervals are in order, apart, and as long as can be.
    """

    days: tuple[Interval, ...]
    quarters: tuple[Interval, ...]
    edges: tuple[Interval, ...]


def plan(windows: Iterable[Interval]) -> Plan:
    """Divide windows, which follow each other, into days, quarters of an hour, and edges."""
    days: list[Interval] = []
    quarters: list[Interval] = []
    edges: list[Interval] = []
    for window in windows:
        first, last = _ceil(window.start, QUARTER), _floor(window.end, QUARTER)
        if first >= last:
            _extend(edges, window.start, window.end)
            continue
        _extend(edges, window.start, first)
        first_day, last_day = _ceil(first, DAY), _floor(last, DAY)
        if first_day < last_day:
            _extend(quarters, first, first_day)
            _extend(days, first_day, last_day)
            _extend(quarters, last_day, last)
        else:
            _extend(quarters, first, last)
        _extend(edges, last, window.end)
    return Plan(tuple(days), tuple(quarters), tuple(edges))


def start_of_quarter(instant: datetime) -> datetime:
    """Answer when the quarter of an hour of UTC began."""
    return _floor(instant, QUARTER)


def start_of_day(instant: datetime) -> datetime:
    """Answer when the day of UTC began."""
    return _floor(instant, DAY)


def start_of_minute(instant: datetime) -> datetime:
    """Answer when the minute began."""
    return instant.replace(second=0, microsecond=0)


def _extend(intervals: list[Interval], start: datetime, end: datetime) -> None:
    if start == end:
        return
    if intervals and intervals[-1].end == start:
        start = intervals.pop().start
    intervals.append(Interval(start, end))


def _floor(instant: datetime, step: timedelta) -> datetime:
    return instant - (instant - EPOCH) % step


def _ceil(instant: datetime, step: timedelta) -> datetime:
    return instant + (EPOCH - instant) % step


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _minutes(interval: Interval, calendar: Calendar) -> Iterator[datetime]:
    """Find the minutes; no zone's clock differs from UTC by parts of one since 1972."""
    anchor = calendar.local_anchor()
    offset = timedelta(seconds=anchor.second, microseconds=anchor.microsecond)
    instant = interval.start + (offset - (interval.start - EPOCH)) % _MINUTE
    while instant < interval.end:
        yield instant
        instant += _MINUTE


def _hours(interval: Interval, calendar: Calendar) -> Iterator[datetime]:
    """Find where the hour on the zone's clock changes.

    Where the clock is set by a part of an hour, that instant ends a shorter hour.
    """
    anchor = _into_hour(calendar.local_anchor())
    instant = interval.start
    while instant < interval.end:
        into = (_into_hour(instant.astimezone(calendar.zone)) - anchor) % HOUR
        instant += HOUR - into
        yield instant


def _into_hour(instant: datetime) -> timedelta:
    return timedelta(
        minutes=instant.minute, seconds=instant.second, microseconds=instant.microsecond
    )


def _first_days(interval: Interval, calendar: Calendar) -> Iterator[date]:
    """Find the days on which a window begins, from one before the interval to one after."""
    anchor = calendar.local_anchor().date()
    day = interval.start.astimezone(calendar.zone).date() - DAY
    last = interval.end.astimezone(calendar.zone).date() + DAY
    while day <= last:
        if _begins(day, anchor, calendar.window):
            yield day
        day += DAY


def _begins(day: date, anchor: date, window: Window) -> bool:
    match window:
        case Window.WEEK:
            return (day - anchor).days % _DAYS_PER_WEEK == 0
        case Window.MONTH:
            return day.day == min(anchor.day, monthrange(day.year, day.month)[1])
        case _:
            return True


def _instant(day: date, at: time, zone: ZoneInfo) -> datetime:
    """Find when the zone's clock shows that time: where it never does, when it is set past it.

    PEP 495: reading a skipped time with the offset before the gap gives the end of the gap, and
    of a repeated one the first.
    """
    return datetime.combine(day, at.replace(fold=0), tzinfo=zone).astimezone(UTC)
