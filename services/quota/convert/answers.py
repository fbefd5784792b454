"""Answers, written to the wire.

What is the same in every answer about a coverage is written once and copied, since a session
sends ten thousands of statuses each second.
"""

from collections.abc import Iterable
from typing import cast

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.timestamp_pb2 import Timestamp

from services.quota.convert.fields import render_hold
from services.quota.counters import Answer
from services.quota.coverage import Coverage
from services.quota.model import HoldId, Outcome
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

Statuses = RepeatedCompositeFieldContainer[quota_pb2.LimitStatus]

_NANOS_PER_MS = 1_000_000
_MS_PER_S = 1000
_ALLOW = quota_pb2.DECISION_ALLOW
_DENY = quota_pb2.DECISION_DENY


def write_check(answer: Answer, response: wire.CheckResponse) -> None:
    """Fill in the answer to a check."""
    response.decision = _DENY if answer.outcome == Outcome.DENIED else _ALLOW
    _write_statuses(answer, response.limits)


def write_reserve(
    answer: Answer, asked: Iterable[quota_pb2.Amount], response: wire.ReserveResponse
) -> None:
    """Fill in the answer to a reserve that asked for these amounts."""
    if answer.outcome == Outcome.DENIED:
        response.decision = _DENY
    else:
        response.decision = _ALLOW
        response.reservation_id = render_hold(HoldId(answer.hold, answer.coverage.subject.customer))
        response.granted.extend(asked)
        _write_time(answer.detail, response.expire_time)
    _write_statuses(answer, response.limits)


def write_commit(answer: Answer, response: wire.CommitResponse) -> None:
    """Fill in the answer to a commit."""
    response.hold_settled = bool(answer.detail)
    _write_statuses(answer, response.limits)


def write_release(answer: Answer, response: wire.ReleaseResponse) -> None:
    """Fill in the answer to a release."""
    response.hold_settled = bool(answer.detail)


def write_balances(answer: Answer, response: wire.GetBalancesResponse) -> None:
    """Fill in the answer to the question for balances."""
    _write_statuses(answer, response.limits)


def write_session_answer(
    answer: Answer, call: wire.SessionCall, response: wire.SessionAnswer
) -> None:
    """Fill in the answer to one call of a session."""
    match call.WhichOneof("call"):
        case "reserve":
            write_reserve(answer, call.reserve.amounts, response.reserve)
        case "commit":
            write_commit(answer, response.commit)
        case "check":
            write_check(answer, response.check)
        case _:
            write_release(answer, response.release)


def _write_statuses(answer: Answer, statuses: Statuses) -> None:
    figures, now_ms = answer.figures, answer.now_ms
    is_denied = answer.outcome == Outcome.DENIED
    width = 4 if is_denied else 3
    place = 0
    for status, capacity in _prepared(answer.coverage):
        used, reserved, reset_ms = figures[place : place + 3]
        status.used = used
        status.reserved = reserved
        status.remaining = max(capacity - used - reserved, 0)
        if reset_ms:
            _write_time(now_ms + reset_ms, status.reset_time)
        else:
            status.ClearField("reset_time")
        statuses.append(status)
        if is_denied and figures[place + 3] >= 0:
            _write_refusal(figures[place + 3], statuses[-1])
        place += width


def _write_refusal(wait_ms: int, status: quota_pb2.LimitStatus) -> None:
    status.decided = True
    if wait_ms:
        status.retry_after.FromMilliseconds(wait_ms)


def _write_time(unix_ms: int, timestamp: Timestamp) -> None:
    timestamp.seconds, milliseconds = divmod(unix_ms, _MS_PER_S)
    timestamp.nanos = milliseconds * _NANOS_PER_MS


def _prepared(coverage: Coverage) -> list[tuple[quota_pb2.LimitStatus, int]]:
    """Answer a status for each limit in which only the figures are missing."""
    if coverage.prepared is None:
        coverage.prepared = [
            (
                quota_pb2.LimitStatus(
                    limit_id=limit.limit_id,
                    scope=limit.scope,
                    units=limit.units,
                    capacity=limit.capacity,
                ),
                limit.capacity,
            )
            for limit in coverage.limits
        ]
    return cast("list[tuple[quota_pb2.LimitStatus, int]]", coverage.prepared)
