"""Answers while the counters cannot be reached, written to the wire; there are few of them."""

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.message import Message

from services.quota.convert.fields import render_degraded_hold
from services.quota.counters import Answer
from services.quota.learning import estimated_in
from services.quota.model import (
    ExtendCall,
    Kind,
    Outcome,
    ReserveCall,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

# A plain number, since looking up a member of an enumeration takes a while.
_FIRST = int(Outcome.DEGRADED_ALLOWED)
_ACCEPTED: Mapping[Kind, Message] = MappingProxyType(
    {
        Kind.COMMIT: wire.CommitResponse(degraded=True),
        Kind.RECORD: wire.RecordResponse(degraded=True),
        Kind.RELEASE: wire.ReleaseResponse(degraded=True),
        Kind.MARK_DISPATCHED: wire.MarkDispatchedResponse(hold_open=True, degraded=True),
    }
)


def is_degraded(answer: Answer) -> bool:
    """Tell whether the counters have not decided it."""
    return answer.outcome >= _FIRST


def render_degraded(answer: Answer, call: ReserveCall | ExtendCall | None = None) -> Message:
    """Write the response to a call; one that asks for room is needed to say what is granted."""
    if isinstance(call, ReserveCall):
        return _reserve(answer, call)
    if isinstance(call, ExtendCall):
        return _extend(answer, call)
    if answer.kind == Kind.CHECK:
        return wire.CheckResponse(
            decision=_decision(answer), limits=_statuses(answer), degraded=True
        )
    return _ACCEPTED[Kind(answer.kind)]


def _extend(answer: Answer, call: ExtendCall) -> wire.ExtendResponse:
    response = wire.ExtendResponse(
        decision=_decision(answer), limits=_statuses(answer), degraded=True
    )
    if answer.outcome == Outcome.DEGRADED_ALLOWED:
        response.granted.extend(_granted(answer, call))
        response.expire_time.FromMilliseconds(answer.detail)
    return response


def _reserve(answer: Answer, call: ReserveCall) -> wire.ReserveResponse:
    response = wire.ReserveResponse(
        decision=_decision(answer), limits=_statuses(answer), degraded=True
    )
    if answer.outcome == Outcome.DEGRADED_ALLOWED:
        response.reservation_id = render_degraded_hold(answer.hold, call.subject, call.dimensions)
        response.granted.extend(_granted(answer, call))
        response.expire_time.FromMilliseconds(answer.detail)
    return response


def _decision(answer: Answer) -> quota_pb2.Decision.ValueType:
    if answer.outcome == Outcome.DEGRADED_ALLOWED:
        return quota_pb2.DECISION_ALLOW_DEGRADED
    return quota_pb2.DECISION_DENY


def _granted(answer: Answer, call: ReserveCall | ExtendCall) -> list[quota_pb2.Amount]:
    amounts = call.amounts
    if isinstance(call, ReserveCall) and call.estimates:
        amounts = {**amounts, **estimated_in(answer.hold, call.estimates)}
    return [quota_pb2.Amount(unit=unit, quantity=quantity) for unit, quantity in amounts.items()]


def _statuses(answer: Answer) -> list[quota_pb2.LimitStatus]:
    statuses = []
    for limit, wait_ms in zip(answer.coverage.limits, answer.figures, strict=True):
        status = quota_pb2.LimitStatus(
            limit_id=limit.limit_id,
            scope=limit.scope,
            units=limit.units,
            capacity=limit.capacity,
            enforcement=quota_pb2.Enforcement.ValueType(limit.enforcement),
            decided=wait_ms >= 0,
        )
        if wait_ms >= 0:
            status.retry_after.FromMilliseconds(wait_ms)
        statuses.append(status)
    return statuses
