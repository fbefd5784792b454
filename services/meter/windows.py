"""Cuts an interval at the calendar of a time zone.

Pure: it knows time zones, and neither events nor stores. Every instant of the interval lies in
exactly one window, whatever the zone's clock does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from kit.errors import InvalidInput
from kit.interval import Interval
from services.meter.model import Window

HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


def parse_time_zone(name: str, field: str) -> ZoneInfo:
    """Read the name of an IANA time zone, such as `Asia/Kolkata`; an empty one is UTC.

    Raises:
        InvalidInput: naming `field`.
    """
    if name and name not in _time_zones():
        raise InvalidInput.of(field, "must be an IANA time zone such as Europe/Berlin")
    return ZoneInfo(name or "UTC")


@dataclass(frozen=True, slots=True)
class Cut:
    """An interval cut into windows, in order, and each hour of UTC that a cut falls into.

    Between the split hours, named by their start, lie whole hours, each inside one window.
    """

    windows: tuple[Interval, ...]
    split_hours: tuple[datetime, ...]


def cut(interval: Interval, window: Window, zone: ZoneInfo) -> Cut:
    """Cut an interval at the calendar; the first and the last window may be shorter."""
    match window:
        case Window.WHOLE:
            bounds: Iterable[datetime] = ()
        case Window.HOUR:
            bounds = _hours(interval, zone)
        case Window.DAY:
            bounds = (_midnight(day, zone) for day in _days(interval, zone))
        case Window.MONTH:
            bounds = (_midnight(day, zone) for day in _days(interval, zone) if day.day == 1)
    windows = interval.split_at(*bounds)
    edges = [interval.start, *(window.end for window in windows)]
    split = {hour for edge in edges if (hour := start_of_hour(edge)) != edge}
    return Cut(windows, tuple(sorted(split)))


def start_of_hour(instant: datetime) -> datetime:
    """Answer when the hour of UTC began."""
    return instant.replace(minute=0, second=0, microsecond=0)


def start_of_minute(instant: datetime) -> datetime:
    """Answer when the minute began."""
    return instant.replace(second=0, microsecond=0)


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _hours(interval: Interval, zone: ZoneInfo) -> Iterator[datetime]:
    """Find where the hour on the zone's clock changes.

    Where the clock is set by a part of an hour, that instant ends a shorter hour.
    """
    instant = interval.start
    while instant < interval.end:
        local = instant.astimezone(zone)
        into = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        instant += HOUR - into
        yield instant


def _days(interval: Interval, zone: ZoneInfo) -> Iterator[date]:
    day = interval.start.astimezone(zone).date()
    last = interval.end.astimezone(zone).date()
    while day <= last:
        yield day
        day += _DAY


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """Find when the day begins: where its midnight does not exist, when the clock is set past it.

    PEP 495: reading a skipped time with the offset before the gap gives the end of the gap, and
    of a repeated one the first.
    """
    return datetime(day.year, day.month, day.day, tzinfo=zone, fold=0).astimezone(UTC)
