"""The limits of a plan between the wire and the domain.

What the quota service would refuse of a limit is refused of a plan, so that a subscription can
always put it. Refuses to know who subscribes.
"""

import re
from collections.abc import Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from kit.errors import INVALID_FIELD, InvalidInput, Violations
from kit.ids import parse_id
from services.rating.convert.fields import (
    check_length,
    parse_name,
    parse_price_dimensions,
    take,
)
from services.rating.model import (
    LIMITS_MAX,
    LimitEnforcement,
    LimitLevel,
    LimitWindow,
    PlanLimit,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.rating.v1 import plan_pb2

LIMIT_ID_LENGTH_MAX = 31
UNITS_MAX = 8
QUANTA_MAX = 10**15
ROLLING_MIN = timedelta(seconds=1)
ROLLING_MAX = timedelta(days=366)
HOLDS = "holds"

_UNIT = re.compile(r"[a-z0-9_]{1,63}|[A-Z]{3}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_MS = timedelta(milliseconds=1)
_LEVEL_NUMBERS = {
    LimitLevel.CUSTOMER: quota_pb2.LEVEL_CUSTOMER,
    LimitLevel.PROJECT: quota_pb2.LEVEL_PROJECT,
    LimitLevel.USER: quota_pb2.LEVEL_USER,
    LimitLevel.KEY: quota_pb2.LEVEL_KEY,
    LimitLevel.RUN: quota_pb2.LEVEL_RUN,
}
_ENFORCEMENT_NUMBERS = {
    LimitEnforcement.HARD: quota_pb2.ENFORCEMENT_HARD,
    LimitEnforcement.SOFT: quota_pb2.ENFORCEMENT_SOFT,
    LimitEnforcement.SHADOW: quota_pb2.ENFORCEMENT_SHADOW,
}
_CALENDAR_NUMBERS = {
    LimitWindow.HOUR: quota_pb2.CALENDAR_PERIOD_HOUR,
    LimitWindow.DAY: quota_pb2.CALENDAR_PERIOD_DAY,
    LimitWindow.WEEK: quota_pb2.CALENDAR_PERIOD_WEEK,
    LimitWindow.MONTH: quota_pb2.CALENDAR_PERIOD_MONTH,
    LimitWindow.YEAR: quota_pb2.CALENDAR_PERIOD_YEAR,
}
_OTHERS = {
    "rolling": LimitWindow.ROLLING,
    "billing_period": LimitWindow.BILLING_PERIOD,
    "lifetime": LimitWindow.LIFETIME,
    "concurrency": LimitWindow.CONCURRENCY,
}
_LEVELS: Mapping[int, LimitLevel] = {
    quota_pb2.LEVEL_UNSPECIFIED: LimitLevel.CUSTOMER,
    **{number: level for level, number in _LEVEL_NUMBERS.items()},
}
_ENFORCEMENTS: Mapping[int, LimitEnforcement] = {
    quota_pb2.ENFORCEMENT_UNSPECIFIED: LimitEnforcement.HARD,
    **{number: each for each, number in _ENFORCEMENT_NUMBERS.items()},
}
_CALENDAR: Mapping[int, LimitWindow] = {
    number: window for window, number in _CALENDAR_NUMBERS.items()
}
_OTHER_NAMES = {window: name for name, window in _OTHERS.items()}


def parse_limits(message: plan_pb2.Plan, field: str) -> tuple[PlanLimit, ...]:
    """Read the limits of a plan, whose ids differ."""
    check_length(message.limits, field, LIMITS_MAX, reason=INVALID_FIELD)
    violations = Violations()
    first_by_id: dict[str, int] = {}
    for index, limit in enumerate(message.limits):
        first = first_by_id.setdefault(limit.limit_id, index)
        if limit.limit_id and first != index:
            violations.add(f"{field}[{index}].limit_id", f"is the id of {field}[{first}] as well")
        _check_currency(violations, limit, message.currency, f"{field}[{index}].units")
    limits = tuple(
        take(violations, f"{field}[{index}]", _limit, limit)
        for index, limit in enumerate(message.limits)
    )
    violations.raise_if_any()
    return limits


def render_limit(limit: PlanLimit) -> plan_pb2.PlanLimit:
    """Write a limit."""
    message = plan_pb2.PlanLimit(
        limit_id=limit.limit_id,
        display_name=limit.display_name,
        level=_LEVEL_NUMBERS[limit.level],
        dimensions=dict(limit.dimensions),
        units=limit.units,
        capacity=limit.capacity,
        overdraft=limit.overdraft,
        enforcement=_ENFORCEMENT_NUMBERS[limit.enforcement],
    )
    if limit.window in _CALENDAR_NUMBERS:
        message.calendar_period = _CALENDAR_NUMBERS[limit.window]
    else:
        getattr(message, _OTHER_NAMES[limit.window]).SetInParent()
    if limit.window is LimitWindow.ROLLING:
        message.rolling.burst = limit.burst
        message.rolling.period.FromMilliseconds(limit.rolling_ms)
    return message


def _limit(message: plan_pb2.PlanLimit, field: str) -> PlanLimit:
    violations = Violations()
    level, enforcement = _LEVELS.get(message.level), _ENFORCEMENTS.get(message.enforcement)
    if level is None:
        violations.add(f"{field}.level", "must be a level of the contract")
    if enforcement is None:
        violations.add(f"{field}.enforcement", "must be an enforcement of the contract")
    for name, quanta in (("capacity", message.capacity), ("overdraft", message.overdraft)):
        if not 0 <= quanta <= QUANTA_MAX:
            violations.add(f"{field}.{name}", f"must be from 0 to {QUANTA_MAX}")
    limit = PlanLimit(
        limit_id=take(violations, f"{field}.limit_id", _limit_id, message.limit_id),
        display_name=take(violations, f"{field}.display_name", parse_name, message.display_name),
        level=level or LimitLevel.CUSTOMER,
        dimensions=take(
            violations, f"{field}.dimensions", parse_price_dimensions, message.dimensions
        ),
        units=violations.take(f"{field}.units", lambda: _units(message, f"{field}.units")),
        capacity=message.capacity,
        window=take(violations, field, _window, message),
        overdraft=message.overdraft,
        enforcement=enforcement or LimitEnforcement.HARD,
        rolling_ms=take(violations, field, _rolling_ms, message),
        burst=message.rolling.burst,
    )
    violations.raise_if_any()
    return limit


def _limit_id(text: str, field: str) -> str:
    limit_id = parse_id(text, field)
    if len(limit_id) > LIMIT_ID_LENGTH_MAX:
        raise InvalidInput.of(field, f"must have at most {LIMIT_ID_LENGTH_MAX} characters")
    return limit_id


def _units(message: plan_pb2.PlanLimit, field: str) -> tuple[str, ...]:
    if not message.units:
        raise InvalidInput.of(field, "at least one is required")
    check_length(message.units, field, UNITS_MAX, reason=INVALID_FIELD)
    violations = Violations()
    for index, unit in enumerate(message.units):
        if not _UNIT.fullmatch(unit):
            violations.add(f"{field}[{index}]", "must be a unit such as output_tokens or USD")
        elif unit in message.units[:index]:
            violations.add(f"{field}[{index}]", "is given twice")
        elif len(message.units) > 1 and (_CURRENCY.fullmatch(unit) or unit == "seconds"):
            violations.add(f"{field}[{index}]", "has a quantum of its own and must stand alone")
    is_concurrency = message.WhichOneof("window") == "concurrency"
    if is_concurrency and list(message.units) != [HOLDS]:
        violations.add(field, f"must be {HOLDS} where holds are counted")
    violations.raise_if_any()
    return tuple(message.units)


def _check_currency(
    violations: Violations, limit: plan_pb2.PlanLimit, currency: str, field: str
) -> None:
    for index, unit in enumerate(limit.units):
        if _CURRENCY.fullmatch(unit) and unit != currency:
            violations.add(f"{field}[{index}]", f"must be the plan's currency, {currency}")


def _window(message: plan_pb2.PlanLimit, field: str) -> LimitWindow:
    name = message.WhichOneof("window")
    if name is None:
        known = ", ".join(("calendar_period", *_OTHERS))
        raise InvalidInput.of(f"{field}.window", f"one of {known} is required")
    if name != "calendar_period":
        return _OTHERS[name]
    window = _CALENDAR.get(message.calendar_period)
    if window is None:
        raise InvalidInput.of(f"{field}.calendar_period", "must be a period of the contract")
    return window


def _rolling_ms(message: plan_pb2.PlanLimit, field: str) -> int:
    """Read the period of a rolling rate, in whole milliseconds; other windows have none."""
    if message.WhichOneof("window") != "rolling":
        return 0
    violations = Violations()
    if message.overdraft:
        violations.add(f"{field}.overdraft", "must be 0 for a rolling rate")
    if not 0 <= message.rolling.burst <= QUANTA_MAX:
        violations.add(f"{field}.rolling.burst", f"must be from 0 to {QUANTA_MAX}")
    period = _timedelta(message.rolling.period)
    if not ROLLING_MIN <= period <= ROLLING_MAX or period % _MS:
        violations.add(
            f"{field}.rolling.period", "must be from 1 second to 366 days, in whole milliseconds"
        )
    violations.raise_if_any()
    return period // _MS


def _timedelta(duration: Duration) -> timedelta:
    try:
        return duration.ToTimedelta()
    except (ValueError, OverflowError):
        return timedelta(0)
