"""Limits between the wire and the domain; every bad field of a limit is named at once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from types import MappingProxyType
from zoneinfo import available_timezones

from kit.errors import InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.ids import parse_id
from kit.paging import Page
from kit.rpc.wire import parse_time, render_time
from services.quota.convert.fields import (
    is_currency,
    is_unit,
    parse_dimensions,
    parse_path,
    render_subject,
)
from services.quota.decisions import ROOM_MAX
from services.quota.filters import BadFilter, check_filter
from services.quota.model import (
    QUANTITY_MAX,
    CalendarPeriod,
    CalendarWindow,
    Level,
    Limit,
    RollingRate,
    StoredLimit,
    Subject,
    Window,
)
from services.quota.windows import drain_rate
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

DIMENSIONS_MAX = 8
UNITS_MAX = 8
DISPLAY_NAME_LENGTH_MAX = 200
FILTER_LENGTH_MAX = 1000
PERIOD_MS_MIN = 1000
PERIOD_MS_MAX = 366 * 24 * 60 * 60 * 1000
COUNTED = "counted"
SECONDS = "seconds"

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


def parse_put_limit(request: wire.PutLimitRequest) -> Limit:
    """Read the limit that is put, and make sure that the request has an id."""
    violations = Violations()
    violations.take("request_id", lambda: parse_request_id(request.request_id))
    limit = violations.take("limit", lambda: parse_limit(request.limit))
    violations.raise_if_any()
    return limit


def parse_limit(message: quota_pb2.Limit) -> Limit:
    """Read a limit as a caller writes it: without what the service sets."""
    violations = Violations()
    limit_id = violations.take("limit_id", lambda: parse_id(message.limit_id, "limit_id"))
    display_name = violations.take("display_name", lambda: _display_name(message.display_name))
    level = violations.take("level", lambda: _level(message.level))
    subject = violations.take("subject", lambda: parse_path(message.subject))
    dimensions = violations.take(
        "dimensions",
        lambda: parse_dimensions(message.dimensions, "dimensions", count_max=DIMENSIONS_MAX),
    )
    units = violations.take("units", lambda: _units(message.units))
    capacity = violations.take("capacity", lambda: _quantity(message.capacity, "capacity"))
    window = violations.take("", lambda: _window(message))
    violations.take("filter", lambda: _check_filter(message.filter))
    overrides = violations.take("overrides", lambda: _overrides(message.overrides))
    expire_time = violations.take("expire_time", lambda: _expire_time(message))
    for name in ("create_time", "update_time"):
        if message.HasField(name):
            violations.add(name, "must be absent: the service sets it")
    violations.raise_if_any()
    limit = Limit(
        limit_id=limit_id,
        display_name=display_name,
        level=level,
        subject=subject,
        dimensions=dimensions,
        units=units,
        capacity=capacity,
        window=window,
        filter=message.filter,
        overrides=overrides,
        expire_time=expire_time,
    )
    _check_rate(limit)
    return limit


def render_limit(stored: StoredLimit) -> quota_pb2.Limit:
    """Write a limit as it is stored."""
    limit = stored.limit
    message = quota_pb2.Limit(
        limit_id=limit.limit_id,
        display_name=limit.display_name,
        level=quota_pb2.Level.ValueType(limit.level),
        dimensions=dict(limit.dimensions),
        units=limit.units,
        capacity=limit.capacity,
        filter=limit.filter,
        overrides=limit.overrides,
        create_time=render_time(stored.create_time),
        update_time=render_time(stored.update_time),
    )
    if any(limit.subject):
        message.subject.CopyFrom(render_subject(limit.subject))
    if limit.expire_time is not None:
        message.expire_time.CopyFrom(render_time(limit.expire_time))
    _write_window(limit.window, message)
    return message


def render_put_limit(stored: StoredLimit) -> wire.PutLimitResponse:
    """Write the answer to a put."""
    return wire.PutLimitResponse(limit=render_limit(stored))


def parse_customer(customer_id: str) -> str:
    """Read the customer whose limits are asked for; empty for all."""
    subject = parse_path(render_subject(Subject(customer_id)))
    return subject.customer


def render_limits(page: Page[StoredLimit]) -> wire.ListLimitsResponse:
    """Write a page of limits."""
    return wire.ListLimitsResponse(
        limits=map(render_limit, page.items), next_page_token=page.next_page_token
    )


def parse_delete_limit(request: wire.DeleteLimitRequest) -> str:
    """Read which limit is to be deleted, and make sure that the request has an id."""
    violations = Violations()
    violations.take("request_id", lambda: parse_request_id(request.request_id))
    limit_id = violations.take("limit_id", lambda: parse_id(request.limit_id, "limit_id"))
    violations.raise_if_any()
    return limit_id


def _display_name(text: str) -> str:
    if len(text) > DISPLAY_NAME_LENGTH_MAX:
        raise InvalidInput.of(
            "display_name", f"must have at most {DISPLAY_NAME_LENGTH_MAX} characters"
        )
    return text


def _level(number: int) -> Level:
    try:
        return Level(number)
    except ValueError:
        raise InvalidInput.of("level", "is required: a level of the subject path") from None


def _units(given: Sequence[str]) -> tuple[str, ...]:
    if not 1 <= len(given) <= UNITS_MAX:
        raise InvalidInput.of("units", f"must be 1 to {UNITS_MAX} units")
    violations = Violations()
    for place, unit in enumerate(given):
        if not is_unit(unit):
            violations.add(
                f"units[{place}]",
                "must be 1 to 63 characters of a-z, 0-9 and '_', or a currency such as USD",
            )
        elif unit in given[:place]:
            violations.add(f"units[{place}]", f"{unit} is there already")
    if len(set(map(_kind, given))) > 1:
        violations.add("units", "must be of one kind: counted things, seconds, or one currency")
    violations.raise_if_any()
    return tuple(given)


def _kind(unit: str) -> str:
    return unit if unit == SECONDS or is_currency(unit) else COUNTED


def _check_filter(text: str) -> None:
    if len(text) > FILTER_LENGTH_MAX:
        raise InvalidInput.of("filter", f"must have at most {FILTER_LENGTH_MAX:,} characters")
    if not text:
        return
    try:
        check_filter(text)
    except BadFilter as error:
        raise InvalidInput.of("filter", str(error)) from error


def _overrides(limit_id: str) -> str:
    return parse_id(limit_id, "overrides") if limit_id else ""


def _expire_time(message: quota_pb2.Limit) -> datetime | None:
    if not message.HasField("expire_time"):
        return None
    return parse_time(message.expire_time, "expire_time")


def _quantity(quantity: int, field: str) -> int:
    if not 0 <= quantity <= QUANTITY_MAX:
        raise InvalidInput.of(field, f"must be from 0 to {QUANTITY_MAX:,}")
    return quantity


def _window(message: quota_pb2.Limit) -> Window:
    match message.WhichOneof("window"):
        case "calendar":
            return _calendar(message.calendar)
        case "rolling":
            return _rolling(message.rolling)
        case _:
            raise InvalidInput.of("window", "is required: calendar or rolling")


def _calendar(message: quota_pb2.CalendarWindow) -> CalendarWindow:
    violations = Violations()
    if message.period not in _PERIODS:
        violations.add("calendar.period", "is required: a period of the calendar")
    if message.time_zone and message.time_zone not in _time_zones():
        violations.add("calendar.time_zone", "must be an IANA time zone such as Europe/Berlin")
    violations.raise_if_any()
    return CalendarWindow(_PERIODS[message.period], message.time_zone or _UTC)


def _rolling(message: quota_pb2.RollingRate) -> RollingRate:
    violations = Violations()
    period_ms, finer = divmod(message.period.nanos, _NANOS_PER_MS)
    period_ms += message.period.seconds * 1000
    if not PERIOD_MS_MIN <= period_ms <= PERIOD_MS_MAX or finer:
        violations.add("rolling.period", "must be whole milliseconds, from 1 second to 366 days")
    violations.take("rolling.burst", lambda: _quantity(message.burst, "rolling.burst"))
    violations.raise_if_any()
    return RollingRate(period_ms, message.burst)


def _check_rate(limit: Limit) -> None:
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


def _write_window(window: Window, message: quota_pb2.Limit) -> None:
    if isinstance(window, CalendarWindow):
        message.calendar.period = _PERIOD_NUMBERS[window.period]
        message.calendar.time_zone = window.time_zone
    else:
        message.rolling.period.FromMilliseconds(window.period_ms)
        message.rolling.burst = window.burst


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())
