"""Questions of operators about holds and decisions, and their answers."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from kit.errors import InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.ids import parse_id
from kit.paging import Page
from services.quota.convert.answers import decision_of, statuses_of
from services.quota.convert.fields import parse_customer_id, render_subject
from services.quota.counters import Answer
from services.quota.holdings import Holding
from services.quota.model import HoldPhase
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire


def parse_list_reservations(request: wire.ListReservationsRequest) -> tuple[str, str]:
    """Read whose holds are asked for, and on which limit; empty for all."""
    violations = Violations()
    customer = violations.take("customer_id", lambda: parse_customer_id(request.customer_id))
    limit_id = violations.take("limit_id", lambda: _limit_id(request.limit_id))
    violations.raise_if_any()
    return customer, limit_id


def parse_explain_decision(request: wire.ExplainDecisionRequest) -> tuple[str, str]:
    """Read which decision is to be explained, and whose it was."""
    violations = Violations()
    customer = violations.take("customer_id", lambda: parse_customer_id(request.customer_id))
    request_id = violations.take(
        "decided_request_id", lambda: _decided_request_id(request.decided_request_id)
    )
    violations.raise_if_any()
    return customer, request_id


def render_reservations(page: Page[Holding]) -> wire.ListReservationsResponse:
    """Write a page of holds."""
    return wire.ListReservationsResponse(
        reservations=map(_reservation, page.items), next_page_token=page.next_page_token
    )


def render_explanation(answer: Answer, holders: Iterable[Holding]) -> wire.ExplainDecisionResponse:
    """Write why a call was decided as it was."""
    statuses = statuses_of(answer)
    return wire.ExplainDecisionResponse(
        decision=decision_of(answer),
        decide_time=_time(answer.now_ms),
        limits=statuses,
        holders=map(_reservation, holders),
        reasons=_reasons(statuses),
    )


def _reasons(statuses: Sequence[quota_pb2.LimitStatus]) -> list[str]:
    return [
        f"{status.limit_id} of {status.scope} refused: of {status.capacity:,} were"
        f" {status.used:,} used and {status.reserved:,} held, so {status.remaining:,} were left;"
        f" the call {_when(status)}"
        for status in statuses
        if status.decided
    ]


def _when(status: quota_pb2.LimitStatus) -> str:
    if not status.HasField("retry_after"):
        return "asked for more than ever fits"
    return (
        f"fits {status.retry_after.ToTimedelta() / timedelta(seconds=1):.1f} s later at the latest"
    )


def _reservation(holding: Holding) -> quota_pb2.Reservation:
    return quota_pb2.Reservation(
        reservation_id=f"{holding.name}.{holding.subject.customer}",
        subject=render_subject(holding.subject),
        dimensions=dict(holding.dimensions),
        create_time=_time(holding.create_ms),
        expire_time=_time(holding.expire_ms),
        dispatched=holding.phase is not HoldPhase.OPEN,
        awaits_commit=holding.phase is HoldPhase.LATE,
        held=[
            quota_pb2.HeldAmount(limit_id=each.limit_id, scope=each.scope, quantity=each.quantity)
            for each in holding.held
        ],
    )


def _time(unix_ms: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMilliseconds(unix_ms)
    return timestamp


def _limit_id(limit_id: str) -> str:
    return parse_id(limit_id, "limit_id") if limit_id else ""


def _decided_request_id(request_id: str) -> str:
    try:
        return parse_request_id(request_id)
    except InvalidInput as error:
        raise InvalidInput.of("decided_request_id", error.violations[0].description) from None
