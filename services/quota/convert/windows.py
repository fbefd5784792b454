"""Windows of limits between the wire and the domain."""

from collections.abc import Mapping
from datetime import date
from functools import cache
from types import MappingProxyType
from typing import assert_never
from zoneinfo import available_timezones

from google.type.date_pb2 import Date

from kit.errors import InvalidInput, Violations
from services.quota.convert.fields import parse_quantity
from services.quota.counting import ROOM_MAX
from services.quota.model import (
    BillingPeriodWindow,
    CalendarPeriod,
    CalendarWindow,
    ConcurrencyWindow,
    LifetimeWindow,
    Limit,
    RollingRate,
    Window,
)
from services.quota.windows import drain_rate
from tollkeeper.api.quota.v1 import quota_pb2

PERIOD_MS_MIN = 1000
PERIOD_MS_MAX = 366 * 24 * 60 * 60 * 1000
MONTHS_MAX = 12

_NANOS_PER_MS = 1_000_000
_UTC = "UTC"
_PERIODS: Mapping[quota_pb2.CalendarPeriod.ValueType, CalendarPeriod] = MappingProxyType(
    {
        quota_pb2.CalendarPeriod.Value(f"CALENDAR_PERIOD_{period.value}"): period
        for period in CalendarPeriod
    }
)
_PERIOD_NUMBERS: Mapping[CalendarPeriod, quota_pb2.CalendarPeriod.ValueType] = MappingProxyType(
    {period: number for number, period in _PERIODS.items()}
)


def parse_window(message: quota_pb2.Limit) -> Window:
    """Read in which window a limit counts."""
    match message.WhichOneof("window"):
        case "calendar":
            return _calendar(message.calendar)
        case "rolling":
            return _rolling(message.rolling)
        case "billing_period":
            return _billing_period(message.billing_period)
        case "lifetime":
            return LifetimeWindow()
        case "concurrency":
            return ConcurrencyWindow()
        case _:
            raise InvalidInput.of(
                "window", "is required: calendar, rolling, billing_period, lifetime or concurrency"
            )


def _calendar(message: quota_pb2.CalendarWindow) -> CalendarWindow:
    violations = Violations()
    if message.period not in _PERIODS:
        violations.add("calendar.period", "is required: a period of the calendar")
    zone = violations.take(
        "calendar.time_zone", lambda: _time_zone(message.time_zone, "calendar.time_zone")
    )
    violations.raise_if_any()
    return CalendarWindow(_PERIODS[message.period], zone)


def _billing_period(message: quota_pb2.BillingPeriodWindow) -> BillingPeriodWindow:
    violations = Violations()
    name = "billing_period"
    anchor = violations.take(f"{name}.anchor", lambda: _anchor(message))
    months = message.months or 1
    if not 1 <= months <= MONTHS_MAX:
        violations.add(f"{name}.months", f"must be from 1 to {MONTHS_MAX}")
    zone = violations.take(
        f"{name}.time_zone", lambda: _time_zone(message.time_zone, f"{name}.time_zone")
    )
    violations.raise_if_any()
    return BillingPeriodWindow(anchor, months, zone)


def _anchor(message: quota_pb2.BillingPeriodWindow) -> date:
    anchor = message.anchor
    try:
        return date(anchor.year, anchor.month, anchor.day)
    except ValueError:
        raise InvalidInput.of(
            "billing_period.anchor", "is required: a day with year, month and day"
        ) from None


def _time_zone(name: str, field: str) -> str:
    if name and name not in _time_zones():
        raise InvalidInput.of(field, "must be an IANA time zone such as Europe/Berlin")
    return name or _UTC


def _rolling(message: quota_pb2.RollingRate) -> RollingRate:
    violations = Violations()
    period_ms, finer = divmod(message.period.nanos, _NANOS_PER_MS)
    period_ms += message.period.seconds * 1000
    if not PERIOD_MS_MIN <= period_ms <= PERIOD_MS_MAX or finer:
        violations.add("rolling.period", "must be whole milliseconds, from 1 second to 366 days")
    violations.take("rolling.burst", lambda: parse_quantity(message.burst, "rolling.burst"))
    violations.raise_if_any()
    return RollingRate(period_ms, message.burst)


def write_window(window: Window, message: quota_pb2.Limit) -> None:
    """Write in which window a limit counts."""
    match window:
        case CalendarWindow():
            message.calendar.period = _PERIOD_NUMBERS[window.period]
            message.calendar.time_zone = window.time_zone
        case RollingRate():
            message.rolling.period.FromMilliseconds(window.period_ms)
            message.rolling.burst = window.burst
        case BillingPeriodWindow():
            anchor = window.anchor
            day = Date(year=anchor.year, month=anchor.month, day=anchor.day)
            message.billing_period.anchor.CopyFrom(day)
            message.billing_period.months = window.months
            message.billing_period.time_zone = window.time_zone
        case LifetimeWindow():
            message.lifetime.SetInParent()
        case ConcurrencyWindow():
            message.concurrency.SetInParent()
        case _:
            assert_never(window)


def check_rate(limit: Limit) -> None:
    """Refuse what could not be counted exactly, and a rate that would be used up for ever."""
    window = limit.window
    if not isinstance(window, RollingRate):
        return
    if window.burst and not limit.capacity:
        raise InvalidInput.of("rolling.burst", "must be 0 where the capacity is: it never refills")
    rate = drain_rate(limit.capacity, window.period_ms)
    if limit.admits_at_once * rate.scale > ROOM_MAX:
        raise InvalidInput.of(
            "rolling",
            "the rate is too fine for so large a burst to be counted exactly:"
            f" capacity and period have to share a divisor of {_divisor_needed(limit, window):,}"
            " or more, in quanta and milliseconds",
        )


def _divisor_needed(limit: Limit, window: RollingRate) -> int:
    return -(-limit.admits_at_once * window.period_ms // ROOM_MAX)


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())
