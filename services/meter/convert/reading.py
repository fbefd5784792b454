"""Questions about usage and events from the wire, and usage to the wire."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from google.type.interval_pb2 import Interval as IntervalMessage

from kit.decimals import plain
from kit.errors import DomainError, InvalidInput, Violations
from kit.ids import parse_id
from kit.interval import Interval
from kit.rpc.status import render_status
from kit.rpc.wire import parse_interval, parse_time, render_decimal, render_interval
from services.meter.convert.fields import (
    check_customer_id,
    check_key,
    check_name,
    check_subject_id,
    check_type,
    check_value,
    entry_path,
    take,
)
from services.meter.convert.meters import GROUP_BY_MAX, parse_group_by
from services.meter.model import (
    EARLIEST_TIME,
    EventQuery,
    Identity,
    UsageQuery,
    UsageRow,
    UsageSummary,
    Window,
)
from services.meter.windows import parse_time_zone
from tollkeeper.api.meter.v1 import meter_pb2, meter_service_pb2
from tollkeeper.api.type.v1.subject_pb2 import Subject

_FIVE_YEARS = timedelta(days=5 * 365 + 2)
_LATEST_TIME = datetime(3000, 1, 1, tzinfo=UTC)
_WINDOWS = {
    meter_service_pb2.USAGE_WINDOW_UNSPECIFIED: Window.WHOLE,
    meter_service_pb2.USAGE_WINDOW_MINUTE: Window.MINUTE,
    meter_service_pb2.USAGE_WINDOW_HOUR: Window.HOUR,
    meter_service_pb2.USAGE_WINDOW_DAY: Window.DAY,
    meter_service_pb2.USAGE_WINDOW_WEEK: Window.WEEK,
    meter_service_pb2.USAGE_WINDOW_MONTH: Window.MONTH,
}
_SHORTEST = {Window.MINUTE: timedelta(minutes=1), Window.HOUR: timedelta(hours=1)}
_WINDOWS_MAX = 50_000
_TOP_MAX = 1_000
_QUERIES_MAX = 10_000
_CUSTOMERS_MAX = 1_000
_WATCH_S_MAX = 3_600
_DOMAIN = "tollkeeper.meter"


def parse_usage_query(request: meter_service_pb2.QueryUsageRequest) -> UsageQuery:
    """Read what usage is asked for.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    meter_id = violations.take("meter_id", lambda: parse_id(request.meter_id, "meter_id"))
    customer_ids = _parse_customers(violations, request)
    interval = violations.take("interval", lambda: _parse_usage_interval(request.interval))
    filters = _parse_filters(violations, request.filters)
    group_by = parse_group_by(violations, "group_by", request.group_by)
    window = _WINDOWS.get(request.window)
    if window is None:
        violations.add("window", "must be MINUTE, HOUR, DAY, WEEK, MONTH or left out")
    time_zone = violations.take(
        "time_zone", lambda: parse_time_zone(request.time_zone, "time_zone")
    )
    anchor = violations.take("anchor_time", lambda: _parse_anchor(request))
    if not 0 <= request.top <= _TOP_MAX:
        violations.add("top", f"must be between 0 and {_TOP_MAX:,}")
    violations.raise_if_any()
    assert window is not None, "noted above"
    _check_windows(interval, window)
    return UsageQuery(
        meter_id=meter_id,
        customer_ids=customer_ids,
        interval=interval,
        filters=filters,
        group_by=group_by,
        window=window,
        time_zone=time_zone,
        anchor=anchor,
        compares=request.compare_previous,
        top=request.top,
        includes_billed=request.include_billed,
    )


def _parse_customers(
    violations: Violations, request: meter_service_pb2.QueryUsageRequest
) -> tuple[str, ...]:
    customer_id = take(violations, "customer_id", check_subject_id, request.customer_id)
    if len(request.customer_ids) > _CUSTOMERS_MAX:
        violations.add("customer_ids", f"must have at most {_CUSTOMERS_MAX:,} customers")
        return ()
    for index, each in enumerate(request.customer_ids):
        take(violations, f"customer_ids[{index}]", check_customer_id, each)
    if customer_id and request.customer_ids:
        violations.add("customer_ids", "must be absent where there is a customer_id")
    return (customer_id,) if customer_id else tuple(sorted(set(request.customer_ids)))


def _parse_anchor(request: meter_service_pb2.QueryUsageRequest) -> datetime | None:
    if not request.HasField("anchor_time"):
        return None
    if not request.window:
        raise InvalidInput.of("anchor_time", "must be absent where there are no windows")
    anchor = parse_time(request.anchor_time, "anchor_time")
    if not EARLIEST_TIME <= anchor <= _LATEST_TIME:
        raise InvalidInput.of("anchor_time", "must be between the years 2000 and 3000")
    return anchor


def _check_windows(interval: Interval, window: Window) -> None:
    shortest = _SHORTEST.get(window)
    if shortest and interval.duration > _WINDOWS_MAX * shortest:
        raise InvalidInput.of("interval", f"must hold at most {_WINDOWS_MAX:,} windows")


def parse_batch_query(request: meter_service_pb2.BatchQueryUsageRequest) -> list[UsageQuery]:
    """Read many questions.

    Raises:
        InvalidInput: naming every bad field of every question; with the reason PAYLOAD_TOO_LARGE,
            over 10,000.
    """
    if not request.queries:
        raise InvalidInput.of("queries", "is required: 1 to 10,000 questions")
    if len(request.queries) > _QUERIES_MAX:
        raise InvalidInput(
            "PAYLOAD_TOO_LARGE",
            f"queries: must have at most 10,000 questions, and has {len(request.queries):,}",
            metadata={"maximum": str(_QUERIES_MAX)},
        )
    violations = Violations()
    queries = [
        violations.take(f"queries[{index}]", partial(parse_usage_query, query))
        for index, query in enumerate(request.queries)
    ]
    for index, query in enumerate(request.queries):
        for field in ("page_size", "page_token"):
            if getattr(query, field):
                violations.add(f"queries[{index}].{field}", "must be absent")
    violations.raise_if_any()
    return queries


def parse_watch(request: meter_service_pb2.WatchUsageRequest) -> tuple[UsageQuery, timedelta]:
    """Read what is watched, and how often it may be answered.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    query = violations.take("query", lambda: parse_usage_query(request.query))
    interval = timedelta(seconds=1)
    if request.HasField("min_interval"):
        seconds, nanos = request.min_interval.seconds, request.min_interval.nanos
        if not 1 <= seconds <= _WATCH_S_MAX or not 0 <= nanos < 10**9:
            violations.add("min_interval", "must be between 1 second and 1 hour")
        else:
            interval = timedelta(seconds=seconds, microseconds=nanos // 1000)
    violations.raise_if_any()
    return query, interval


def parse_identity(source: str, event_id: str) -> Identity:
    """Read which event is meant.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    take(violations, "source", check_name, source)
    take(violations, "event_id", check_name, event_id)
    violations.raise_if_any()
    return source, event_id


def parse_summarize_usage(
    request: meter_service_pb2.SummarizeUsageRequest,
) -> tuple[str, Interval]:
    """Read whose usage of which interval is to be summed.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    customer_id = take(violations, "customer_id", check_customer_id, request.customer_id)
    interval = violations.take("interval", lambda: _parse_metered_interval(request.interval))
    violations.raise_if_any()
    return customer_id, interval


def parse_event_query(request: meter_service_pb2.ListEventsRequest) -> EventQuery:
    """Read which events are asked for.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    customer_id = take(violations, "customer_id", check_subject_id, request.customer_id)
    event_type = take(violations, "type", check_type, request.type) if request.type else ""
    interval = (
        violations.take("interval", lambda: parse_interval(request.interval, "interval"))
        if request.HasField("interval")
        else None
    )
    meter_id = (
        violations.take("meter_id", lambda: parse_id(request.meter_id, "meter_id"))
        if request.meter_id
        else ""
    )
    dimensions = _parse_filters(violations, request.dimensions, "dimensions")
    violations.raise_if_any()
    return EventQuery(
        customer_id=customer_id,
        type=event_type,
        interval=interval,
        meter_id=meter_id,
        dimensions=dimensions,
    )


def render_usage_row(row: UsageRow, query: UsageQuery) -> meter_pb2.UsageRow:
    """Write usage, its group by the names that the query gave."""
    return meter_pb2.UsageRow(
        customer_id=row.customer_id,
        interval=render_interval(row.interval),
        group=dict(zip(query.group_by, row.group, strict=True)),
        quantity=render_decimal(row.quantity),
        event_count=row.event_count,
        previous_quantity=(
            None if row.previous_quantity is None else render_decimal(row.previous_quantity)
        ),
        previous_event_count=row.previous_event_count,
    )


def render_batch_answer(
    index: int, answer: Sequence[UsageRow] | DomainError, query: UsageQuery
) -> meter_service_pb2.BatchQueryUsageResponse:
    """Write the answer to one question of many."""
    if isinstance(answer, DomainError):
        status = render_status(answer, _DOMAIN)
        return meter_service_pb2.BatchQueryUsageResponse(index=index, error=status)
    rows = [render_usage_row(row, query) for row in answer]
    usage = meter_service_pb2.UsageRows(rows=rows)
    return meter_service_pb2.BatchQueryUsageResponse(index=index, usage=usage)


def render_usage_summary(summary: UsageSummary) -> meter_pb2.UsageSummary:
    """Write the sums of one subject path and set of dimensions."""
    customer_id, project_id, user_id, key_id, run_id = summary.subject
    return meter_pb2.UsageSummary(
        subject=Subject(
            customer_id=customer_id,
            project_id=project_id,
            user_id=user_id,
            key_id=key_id,
            run_id=run_id,
        ),
        dimensions=json.loads(summary.dimensions),
        quantities={name: plain(quantity) for name, quantity in summary.quantities},
        event_count=summary.event_count,
    )


def _parse_metered_interval(message: IntervalMessage) -> Interval:
    interval = parse_interval(message, "interval")
    if interval.start < EARLIEST_TIME or interval.end > _LATEST_TIME:
        raise InvalidInput.of("interval", "must be between the years 2000 and 3000")
    return interval


def _parse_usage_interval(message: IntervalMessage) -> Interval:
    interval = _parse_metered_interval(message)
    if interval.duration > _FIVE_YEARS:
        raise InvalidInput.of("interval", "must be at most 5 years")
    return interval


def _parse_filters(
    violations: Violations, filters: Mapping[str, str], field: str = "filters"
) -> tuple[tuple[str, str], ...]:
    if len(filters) > GROUP_BY_MAX:
        violations.add(field, f"must have at most {GROUP_BY_MAX} dimensions")
        return ()
    for key, value in sorted(filters.items()):
        take(violations, entry_path(field, key), check_key, key)
        take(violations, entry_path(field, key), check_value, value)
    return tuple(sorted(filters.items()))
