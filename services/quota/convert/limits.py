"""Limits between the wire and the domain; every bad field of a limit is named at once."""

from collections.abc import Sequence
from datetime import datetime

from kit.errors import InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.ids import parse_id
from kit.paging import Page
from kit.rpc.wire import parse_time, render_time
from services.quota.convert.fields import (
    UNIT_RULE,
    is_currency,
    is_unit,
    parse_dimensions,
    parse_path,
    parse_quantity,
    render_subject,
)
from services.quota.convert.windows import check_rate, parse_window, write_window
from services.quota.crossings import WINDOWS
from services.quota.filters import BadFilter, check_filter
from services.quota.model import (
    HOLDS,
    QUANTITY_MAX,
    Alert,
    Enforcement,
    Level,
    Limit,
    OutagePolicy,
    StoredLimit,
    Subject,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

DIMENSIONS_MAX = 8
UNITS_MAX = 8
DISPLAY_NAME_LENGTH_MAX = 200
FILTER_LENGTH_MAX = 1000
THRESHOLDS_MAX = 10
THRESHOLD_MAX = 1000
COUNTED = "counted"
SECONDS = "seconds"


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
    units = violations.take("units", lambda: _units(message))
    capacity = violations.take("capacity", lambda: parse_quantity(message.capacity, "capacity"))
    window = violations.take("", lambda: parse_window(message))
    overdraft = violations.take("overdraft", lambda: _overdraft(message))
    enforcement = violations.take("enforcement", lambda: _enforcement(message.enforcement))
    outage_policy = violations.take("outage_policy", lambda: _outage_policy(message.outage_policy))
    allowance = violations.take("outage_allowance", lambda: _outage_allowance(message))
    violations.take("filter", lambda: _check_filter(message.filter))
    overrides = violations.take("overrides", lambda: _overrides(message.overrides))
    expire_time = violations.take("expire_time", lambda: _expire_time(message))
    thresholds = violations.take("alert_thresholds", lambda: _thresholds(message.alert_thresholds))
    plan_id = violations.take("plan_id", lambda: _plan_id(message))
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
        overdraft=overdraft,
        enforcement=enforcement,
        outage_policy=outage_policy,
        outage_allowance=allowance,
        filter=message.filter,
        overrides=overrides,
        expire_time=expire_time,
        plan_id=plan_id,
        alert_thresholds=thresholds,
    )
    check_rate(limit)
    if thresholds and not isinstance(limit.window, WINDOWS):
        raise InvalidInput.of("alert_thresholds", "need a period of time or a lifetime")
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
        overdraft=limit.overdraft,
        enforcement=quota_pb2.Enforcement.ValueType(limit.enforcement),
        outage_policy=quota_pb2.OutagePolicy.ValueType(limit.outage_policy),
        outage_allowance=limit.outage_allowance,
        filter=limit.filter,
        overrides=limit.overrides,
        plan_id=limit.plan_id,
        alert_thresholds=limit.alert_thresholds,
        create_time=render_time(stored.create_time),
        update_time=render_time(stored.update_time),
    )
    if any(limit.subject):
        message.subject.CopyFrom(render_subject(limit.subject))
    if limit.expire_time is not None:
        message.expire_time.CopyFrom(render_time(limit.expire_time))
    write_window(limit.window, message)
    return message


def parse_top_up(request: wire.TopUpLimitRequest) -> tuple[str, int]:
    """Read which balance grows by how much, and make sure that the request has an id."""
    violations = Violations()
    violations.take("request_id", lambda: parse_request_id(request.request_id))
    limit_id = violations.take("limit_id", lambda: parse_id(request.limit_id, "limit_id"))
    if not 1 <= request.quantity <= QUANTITY_MAX:
        violations.add("quantity", f"must be from 1 to {QUANTITY_MAX:,}")
    violations.raise_if_any()
    return limit_id, request.quantity


def render_top_up(stored: StoredLimit) -> wire.TopUpLimitResponse:
    """Write the answer to a top-up."""
    return wire.TopUpLimitResponse(limit=render_limit(stored))


def parse_list_alerts(request: wire.ListAlertsRequest) -> tuple[str, int]:
    """Read whose alerts are asked for, empty for all, and after which one."""
    violations = Violations()
    customer = violations.take("", lambda: parse_customer(request.customer_id))
    if request.after_alert_id < 0:
        violations.add("after_alert_id", "must not be negative")
    violations.raise_if_any()
    return customer, request.after_alert_id


def render_alerts(page: Page[Alert]) -> wire.ListAlertsResponse:
    """Write a page of alerts."""
    return wire.ListAlertsResponse(
        alerts=map(_render_alert, page.items), next_page_token=page.next_page_token
    )


def _render_alert(alert: Alert) -> quota_pb2.Alert:
    return quota_pb2.Alert(
        alert_id=alert.alert_id,
        limit_id=alert.limit_id,
        scope=alert.scope,
        threshold=alert.threshold,
        capacity=alert.capacity,
        used=alert.used,
        reset_time=None if alert.reset_time is None else render_time(alert.reset_time),
        create_time=render_time(alert.create_time),
    )


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


def _units(message: quota_pb2.Limit) -> tuple[str, ...]:
    given = message.units
    if message.WhichOneof("window") == "concurrency":
        if list(given) not in ([], [HOLDS]):
            raise InvalidInput.of("units", f"must be {HOLDS} alone, or absent, with concurrency")
        return (HOLDS,)
    if not 1 <= len(given) <= UNITS_MAX:
        raise InvalidInput.of("units", f"must be 1 to {UNITS_MAX} units")
    violations = Violations()
    for place, unit in enumerate(given):
        if unit == HOLDS:
            violations.add(f"units[{place}]", f"{HOLDS} are counted by a limit of concurrency only")
        elif not is_unit(unit):
            violations.add(
                f"units[{place}]",
                UNIT_RULE,
            )
        elif unit in given[:place]:
            violations.add(f"units[{place}]", f"{unit} is there already")
    if len(set(map(_kind, given))) > 1:
        violations.add("units", "must be of one kind: counted things, seconds, or one currency")
    violations.raise_if_any()
    return tuple(given)


def _overdraft(message: quota_pb2.Limit) -> int:
    if message.overdraft and message.WhichOneof("window") == "rolling":
        raise InvalidInput.of("overdraft", "must be 0 for a rolling rate, which has a burst")
    return parse_quantity(message.overdraft, "overdraft")


def _enforcement(number: int) -> Enforcement:
    if number == quota_pb2.ENFORCEMENT_UNSPECIFIED:
        return Enforcement.HARD
    try:
        return Enforcement(number)
    except ValueError:
        raise InvalidInput.of("enforcement", "must be hard, soft or shadow") from None


def _outage_policy(number: int) -> OutagePolicy:
    if number == quota_pb2.OUTAGE_POLICY_UNSPECIFIED:
        return OutagePolicy.CLOSED
    try:
        return OutagePolicy(number)
    except ValueError:
        raise InvalidInput.of("outage_policy", "must be closed, open or leased") from None


def _outage_allowance(message: quota_pb2.Limit) -> int:
    if message.outage_allowance and message.outage_policy != quota_pb2.OUTAGE_POLICY_LEASED:
        raise InvalidInput.of("outage_allowance", "must be 0 unless the outage policy is leased")
    return parse_quantity(message.outage_allowance, "outage_allowance")


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


def _thresholds(given: Sequence[int]) -> tuple[int, ...]:
    if len(given) > THRESHOLDS_MAX:
        raise InvalidInput.of("alert_thresholds", f"must be at most {THRESHOLDS_MAX}")
    violations = Violations()
    for place, threshold in enumerate(given):
        if not 1 <= threshold <= THRESHOLD_MAX:
            violations.add(f"alert_thresholds[{place}]", f"must be from 1 to {THRESHOLD_MAX:,}")
        elif place and threshold <= given[place - 1]:
            violations.add(f"alert_thresholds[{place}]", "must be larger than the one before")
    violations.raise_if_any()
    return tuple(given)


def _plan_id(message: quota_pb2.Limit) -> str:
    if not message.plan_id:
        return ""
    if len(message.units) != 1 or not is_currency(message.units[0]):
        raise InvalidInput.of("plan_id", "may only be there where the one unit is a currency")
    return parse_id(message.plan_id, "plan_id")
