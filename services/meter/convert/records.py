"""Closed periods, corrections, rejected events and verification, from and to the wire."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import BadRequest

from kit.errors import InvalidInput, Violations
from kit.interval import Interval
from kit.rpc.wire import parse_interval, parse_time, render_interval, render_time
from services.meter.convert.events import (
    microseconds_of,
    parse_event,
    render_event,
    render_usage_event,
)
from services.meter.convert.fields import (
    Bad,
    check_customer_id,
    check_name,
    check_subject_id,
    has_control_characters,
    take,
)
from services.meter.model import (
    LATEST_TIME_AHEAD,
    Fate,
    Identity,
    IncomingEvent,
    LateEvent,
    Rejected,
    Revision,
    Span,
    StoredEvent,
    UsageEvent,
)
from services.meter.verification import Verified
from services.meter.windows import DAY, QUARTER, start_of_day
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as wire

_PERIODS_MAX = 10_000
_REPLAYS_MAX = 1_000
_REASON_LENGTH_MAX = 500
_DIFFERENCES_DEFAULT = 100
_DIFFERENCES_MAX = 10_000
_EVER = Interval(
    datetime.fromisoformat("2000-01-01T00:00:00+00:00"),
    datetime.fromisoformat("3000-01-01T00:00:00+00:00"),
)


def parse_close_periods(request: wire.ClosePeriodsRequest) -> list[tuple[str, datetime]]:
    """Read whose periods end when.

    Raises:
        InvalidInput: naming every bad field.
    """
    if not 1 <= len(request.periods) <= _PERIODS_MAX:
        raise InvalidInput.of("periods", "is required: 1 to 10,000 periods")
    violations = Violations()
    ends = []
    for index, period in enumerate(request.periods):
        field = f"periods[{index}]"
        customer_id = take(
            violations, f"{field}.customer_id", check_customer_id, period.customer_id
        )
        end = violations.take(f"{field}.end_time", partial(_end, period, f"{field}.end_time"))
        ends.append((customer_id, end))
    violations.raise_if_any()
    return ends


def _end(period: wire.ClosedPeriod, field: str) -> datetime:
    end = parse_time(period.end_time, field)
    if not _EVER.contains(end):
        raise InvalidInput.of(field, "must be between the years 2000 and 3000")
    return end


def render_closed(ends: Sequence[tuple[str, datetime]]) -> wire.ClosePeriodsResponse:
    """Write where the closed time of customers ends."""
    return wire.ClosePeriodsResponse(
        periods=[
            wire.ClosedPeriod(customer_id=customer_id, end_time=render_time(end))
            for customer_id, end in ends
        ]
    )


def parse_late_query(request: wire.ListLateEventsRequest) -> tuple[str, Interval | None]:
    """Read whose late events of which time are asked for.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    customer_id = take(violations, "customer_id", check_subject_id, request.customer_id)
    field = "ingest_interval"
    interval = (
        violations.take(field, lambda: parse_interval(request.ingest_interval, field))
        if request.HasField("ingest_interval")
        else None
    )
    violations.raise_if_any()
    return customer_id, interval


def render_late_event(late: LateEvent) -> wire.LateEvent:
    """Write a late event."""
    return wire.LateEvent(
        event=render_event(late.stored), closed_until=render_time(late.closed_until)
    )


def parse_amendment(request: wire.AmendEventRequest, now: datetime) -> tuple[UsageEvent, str]:
    """Read what an event should have been, and why.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    take(violations, "reason", _check_reason, request.reason)
    parsed = parse_event(request.event, microseconds_of(now + LATEST_TIME_AHEAD))
    if isinstance(parsed, Fate):
        for each in parsed.violations:
            violations.add(f"event.{each.field}", each.description)
    violations.raise_if_any()
    assert isinstance(parsed, IncomingEvent), "noted above"
    return parsed.event(), request.reason


def parse_void(request: wire.VoidEventRequest) -> tuple[Identity, str]:
    """Read which event is taken back, and why.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    take(violations, "source", check_name, request.source)
    take(violations, "event_id", check_name, request.event_id)
    take(violations, "reason", _check_reason, request.reason)
    violations.raise_if_any()
    return (request.source, request.event_id), request.reason


def _check_reason(text: str) -> str:
    if not text:
        raise Bad("is required")
    if len(text) > _REASON_LENGTH_MAX or has_control_characters(text):
        raise Bad("must have at most 500 characters, no control ones")
    return text


def render_revision(revision: Revision) -> meter_pb2.EventRevision:
    """Write a state of a corrected event."""
    return meter_pb2.EventRevision(
        revision=revision.number,
        kind=meter_pb2.RevisionKind.Value(f"REVISION_KIND_{revision.kind.value}"),
        event=render_usage_event(revision.event),
        reason=revision.reason,
        create_time=render_time(revision.create_time),
    )


def render_amended(revision: Revision) -> wire.AmendEventResponse:
    """Write the answer of `AmendEvent`."""
    return wire.AmendEventResponse(revision=render_revision(revision))


def render_voided(revision: Revision) -> wire.VoidEventResponse:
    """Write the answer of `VoidEvent`."""
    return wire.VoidEventResponse(revision=render_revision(revision))


def render_found_event(
    stored: StoredEvent | None, revisions: Sequence[Revision], late: LateEvent | None
) -> wire.GetEventResponse:
    """Write an event and its history, or that it came late."""
    return wire.GetEventResponse(
        event=render_event(stored) if stored else None,
        revisions=[render_revision(revision) for revision in revisions],
        late=render_late_event(late) if late else None,
    )


def parse_replays(request: wire.ReplayRejectedEventsRequest) -> list[int]:
    """Read which rejected events are replayed.

    Raises:
        InvalidInput: naming every bad field.
    """
    if not 1 <= len(request.replays) <= _REPLAYS_MAX:
        raise InvalidInput.of("replays", "is required: 1 to 1,000 events")
    numbers = [replay.rejected_event_id for replay in request.replays]
    violations = Violations()
    for index, number in enumerate(numbers):
        if number <= 0:
            violations.add(f"replays[{index}].rejected_event_id", "is required")
        elif number in numbers[:index]:
            violations.add(f"replays[{index}].rejected_event_id", "must not repeat another")
    violations.raise_if_any()
    return numbers


def repaired(
    request: wire.ReplayRejectedEventsRequest, kept: Mapping[int, Rejected], now: datetime
) -> list[IncomingEvent | Fate]:
    """Read each event anew: the repaired one, or what was sent."""
    latest_us = microseconds_of(now + LATEST_TIME_AHEAD)
    return [
        parse_event(
            replay.event if replay.HasField("event") else _sent(kept[replay.rejected_event_id]),
            latest_us,
        )
        for replay in request.replays
    ]


def render_rejected(rejected: Rejected) -> wire.RejectedEvent:
    """Write a rejected event."""
    return wire.RejectedEvent(
        rejected_event_id=rejected.number,
        event=_sent(rejected),
        violations=[
            BadRequest.FieldViolation(field=each.field, description=each.description)
            for each in rejected.violations
        ],
        reject_time=render_time(rejected.reject_time),
        last_reject_time=render_time(rejected.last_reject_time),
        attempt_count=rejected.attempt_count,
    )


def _sent(rejected: Rejected) -> meter_pb2.UsageEvent:
    try:
        return meter_pb2.UsageEvent.FromString(rejected.payload)
    except DecodeError as error:
        raise AssertionError("what is kept was written by this service") from error


def parse_verify(request: wire.VerifyUsageRequest) -> tuple[Interval, int]:
    """Read what is verified, as whole days, and how many differences are told.

    Raises:
        InvalidInput: naming every bad field.
    """
    violations = Violations()
    interval = (
        violations.take("interval", lambda: parse_interval(request.interval, "interval"))
        if request.HasField("interval")
        else _EVER
    )
    if not 0 <= request.differences_max <= _DIFFERENCES_MAX:
        violations.add("differences_max", "must be between 0 and 10,000")
    violations.raise_if_any()
    bounded = interval.intersection(_EVER)
    if bounded is None:
        raise InvalidInput.of("interval", "must be between the years 2000 and 3000")
    end = start_of_day(bounded.end)
    days = Interval(start_of_day(bounded.start), end if end == bounded.end else end + DAY)
    return days, request.differences_max or _DIFFERENCES_DEFAULT


def render_verified(verified: Verified, differences_max: int) -> wire.VerifyUsageResponse:
    """Write what was found in one day."""
    return wire.VerifyUsageResponse(
        day=render_interval(verified.day),
        event_count=verified.event_count,
        rollup_count=verified.rollup_count,
        difference_count=len(verified.differences),
        differences=[
            wire.UsageDifference(
                meter_id=each.series.meter_id,
                version=each.series.version,
                customer_id=each.series.customer_id,
                group=each.series.group,
                interval=render_interval(
                    Interval(each.start, each.start + (DAY if each.span is Span.DAY else QUARTER))
                ),
                kept=each.kept,
                counted=each.counted,
            )
            for each in verified.differences[:differences_max]
        ],
    )


def parse_customer(customer_id: str) -> str:
    """Read whose people are erased.

    Raises:
        InvalidInput: naming the field.
    """
    violations = Violations()
    take(violations, "customer_id", check_customer_id, customer_id)
    violations.raise_if_any()
    return customer_id


def render_erased(erased: tuple[int, int]) -> wire.EraseCustomerResponse:
    """Write how much was erased."""
    events, rejected = erased
    return wire.EraseCustomerResponse(event_count=events, rejected_event_count=rejected)
