"""Answers to calls, written to the wire.

A session writes ten thousands of statuses each second, and making their messages anew would take
most of the service's time. So each coverage keeps a message of every kind, a form, in which only
figures change; it is filled in and serialized in one go, and never handed out.
"""

from typing import NamedTuple, cast

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from services.quota.counters import Answer
from services.quota.coverage import Coverage
from services.quota.model import (
    Amounts,
    Call,
    CheckCall,
    CommitCall,
    Outcome,
    ReserveCall,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

_NANOS_PER_MS = 1_000_000
_MS_PER_S = 1000
_FIGURES = 3
_FIGURES_OF_DENIAL = 4
# A plain number, since looking up a member of an enumeration takes a while.
_DENIED = int(Outcome.DENIED)


class WrittenMessage(NamedTuple):
    """A message that is serialized already; the server asks it for its bytes like any other."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have for it.
        """Answer the bytes."""
        return self.data


def render_check(answer: Answer) -> bytes:
    """Write a `CheckResponse`."""
    return _filled_check(answer).answer.check.SerializeToString()


def render_reserve(answer: Answer, asked: Amounts) -> bytes:
    """Write a `ReserveResponse` to a call that asked for these amounts."""
    return _filled_reserve(answer, asked).answer.reserve.SerializeToString()


def render_commit(answer: Answer) -> bytes:
    """Write a `CommitResponse`."""
    return _filled_commit(answer).answer.commit.SerializeToString()


def render_release(answer: Answer) -> bytes:
    """Write a `ReleaseResponse`."""
    return wire.ReleaseResponse(hold_settled=bool(answer.detail)).SerializeToString()


def render_balances(answer: Answer) -> bytes:
    """Write a `GetBalancesResponse`."""
    limits = _filled_check(answer).answer.check.limits
    return wire.GetBalancesResponse(limits=limits).SerializeToString()


def render_session_answer(call_id: int, call: Call, answer: Answer) -> bytes:
    """Write a `SessionResponse` with one answer; what is joined reads as one with all answers."""
    if isinstance(call, ReserveCall):
        form = _filled_reserve(answer, call.amounts)
    elif isinstance(call, CommitCall):
        form = _filled_commit(answer)
    elif isinstance(call, CheckCall):
        form = _filled_check(answer)
    else:
        released = wire.ReleaseResponse(hold_settled=bool(answer.detail))
        return _alone(wire.SessionAnswer(call_id=call_id, release=released))
    form.answer.call_id = call_id
    return form.response.SerializeToString()


def render_session_error(call_id: int, status: Status) -> bytes:
    """Write a `SessionResponse` with one answer that says why there is none."""
    answer = wire.SessionAnswer(call_id=call_id)
    answer.error.CopyFrom(status)
    return _alone(answer)


def _alone(answer: wire.SessionAnswer) -> bytes:
    return wire.SessionResponse(answers=[answer]).SerializeToString()


class _Row:
    """The status of one limit, and what it shows as its reset time."""

    __slots__ = ("capacity", "reset_ms", "reset_time", "status")

    def __init__(self, status: quota_pb2.LimitStatus) -> None:
        self.status = status
        self.capacity = status.capacity
        self.reset_time = status.reset_time
        self.reset_ms = 0

    def show_reset(self, reset_ms: int, now_ms: int) -> None:
        """Write in how many milliseconds the limit is reset; less than 0 for never."""
        if reset_ms < 0:
            self.status.ClearField("reset_time")
            self.reset_time = self.status.reset_time
            self.reset_ms = now_ms - 1
        else:
            self.reset_ms = now_ms + reset_ms
            _write_time(self.reset_ms, self.reset_time)


class _Form:
    """One kind of answer about a coverage."""

    __slots__ = ("amounts", "answer", "response", "rows", "units")

    def __init__(self, coverage: Coverage, kind: str) -> None:
        self.response = wire.SessionResponse()
        self.answer = self.response.answers.add()
        self.units: tuple[str, ...] = ()
        self.amounts: list[quota_pb2.Amount] = []
        body: wire.ReserveResponse = getattr(self.answer, kind)
        self.rows = [
            _Row(
                body.limits.add(
                    limit_id=limit.limit_id,
                    scope=limit.scope,
                    units=limit.units,
                    capacity=limit.capacity,
                )
            )
            for limit in coverage.limits
        ]

    def fill(self, answer: Answer, width: int = _FIGURES) -> None:
        """Write the figures, of which there are some for each limit."""
        figures, now_ms = answer.figures, answer.now_ms
        columns = figures[::width], figures[1::width], figures[2::width]
        for row, used, reserved, reset_ms in zip(self.rows, *columns, strict=True):
            status = row.status
            remaining = row.capacity - used - reserved
            status.used = used
            status.reserved = reserved
            status.remaining = max(0, remaining)
            if now_ms + reset_ms != row.reset_ms:
                row.show_reset(reset_ms, now_ms)

    def fill_denial(self, answer: Answer) -> None:
        """Write the figures of a denial, and who decided it."""
        self.fill(answer, _FIGURES_OF_DENIAL)
        waits = answer.figures[_FIGURES::_FIGURES_OF_DENIAL]
        for row, wait_ms in zip(self.rows, waits, strict=True):
            row.status.decided = wait_ms >= 0
            if wait_ms > 0:
                row.status.retry_after.FromMilliseconds(wait_ms)
            else:
                row.status.ClearField("retry_after")


def _filled_check(answer: Answer) -> _Form:
    if answer.outcome == _DENIED:
        form = _form(answer.coverage, "check denied")
        form.answer.check.decision = quota_pb2.DECISION_DENY
        form.fill_denial(answer)
    else:
        form = _form(answer.coverage, "check")
        form.answer.check.decision = quota_pb2.DECISION_ALLOW
        form.fill(answer)
    return form


def _filled_reserve(answer: Answer, asked: Amounts) -> _Form:
    coverage = answer.coverage
    if answer.outcome == _DENIED:
        form = _form(coverage, "reserve denied")
        form.answer.reserve.decision = quota_pb2.DECISION_DENY
        form.fill_denial(answer)
        return form
    form = _form(coverage, "reserve")
    reserve = form.answer.reserve
    reserve.decision = quota_pb2.DECISION_ALLOW
    reserve.reservation_id = f"{answer.hold}.{coverage.subject.customer}"
    _write_time(answer.detail, reserve.expire_time)
    units = tuple(asked)
    if units != form.units:
        del reserve.granted[:]
        form.units, form.amounts = units, [reserve.granted.add(unit=unit) for unit in units]
    for amount, quantity in zip(form.amounts, asked.values(), strict=True):
        amount.quantity = quantity
    form.fill(answer)
    return form


def _filled_commit(answer: Answer) -> _Form:
    form = _form(answer.coverage, "commit")
    form.answer.commit.hold_settled = bool(answer.detail)
    form.fill(answer)
    return form


def _form(coverage: Coverage, name: str) -> _Form:
    if coverage.prepared is None:
        coverage.prepared = {}
    forms = cast("dict[str, _Form]", coverage.prepared)
    form = forms.get(name)
    if form is None:
        form = forms[name] = _Form(coverage, name.split(maxsplit=1)[0])
    return form


def _write_time(unix_ms: int, timestamp: Timestamp) -> None:
    timestamp.seconds, milliseconds = divmod(unix_ms, _MS_PER_S)
    timestamp.nanos = milliseconds * _NANOS_PER_MS
