"""Answers to calls, written to the wire.

A session writes ten thousands of statuses each second, and making their messages anew would take
most of the service's time. So each coverage keeps a message of every kind, a form, in which only
figures change; it is filled in and serialized in one go, and never handed out. It is a twin, in
which times, amounts and limits are bytes that were written once: calls that were decided together
and passed show the same figures.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, assert_never, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from services.quota.convert.degraded import is_degraded, render_degraded
from services.quota.convert.twins import GetBalancesResponse, LimitStatus, SessionResponse
from services.quota.counters import Answer
from services.quota.coverage import Coverage
from services.quota.learning import estimated_in
from services.quota.model import (
    Amounts,
    Call,
    CheckCall,
    CommitCall,
    ExtendCall,
    Kind,
    MarkDispatchedCall,
    Outcome,
    RecordCall,
    ReleaseCall,
    ReserveCall,
)
from services.quota.operations import granted_amounts
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

_NANOS_PER_MS = 1_000_000
_MS_PER_S = 1000
_REMEMBERED_MAX = 65_536
# Kinds of answers that say what is granted, and those forms that always say the same decision.
_GRANTING = frozenset(("reserve", "extend"))
_ALLOWING = frozenset(("check", "reserve", "extend"))
_FIGURES = 3
_FIGURES_WITH_WAIT = 4
# Plain numbers, since looking up a member of an enumeration takes a while.
_ALLOWED, _DENIED, _PARTIAL = map(int, (Outcome.ALLOWED, Outcome.DENIED, Outcome.PARTIAL))
_DECISIONS: Mapping[int, quota_pb2.Decision.ValueType] = MappingProxyType(
    {
        int(Outcome.ALLOWED): quota_pb2.DECISION_ALLOW,
        int(Outcome.EXCEEDING): quota_pb2.DECISION_ALLOW,
        int(Outcome.DENIED): quota_pb2.DECISION_DENY,
        int(Outcome.PARTIAL): quota_pb2.DECISION_ALLOW_PARTIAL,
    }
)


class WrittenMessage(NamedTuple):
    """A message that is serialized already; the server asks it for its bytes like any other."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have for it.
        """Answer the bytes."""
        return self.data


def render_check(answer: Answer) -> bytes:
    """Write a `CheckResponse`."""
    if is_degraded(answer):
        return render_degraded(answer).SerializeToString()
    return _written(_filled_check(answer).body)


def render_reserve(answer: Answer, call: ReserveCall) -> bytes:
    """Write a `ReserveResponse`."""
    if is_degraded(answer):
        return render_degraded(answer, call).SerializeToString()
    return _written(_filled_reserve(answer, call).body)


def render_extend(answer: Answer, call: ExtendCall) -> bytes:
    """Write an `ExtendResponse`."""
    if is_degraded(answer):
        return render_degraded(answer, call).SerializeToString()
    return _written(_filled_extend(answer, call).body)


def render_commit(answer: Answer) -> bytes:
    """Write a `CommitResponse`."""
    if is_degraded(answer):
        return render_degraded(answer).SerializeToString()
    return _written(_filled_commit(answer).body)


def render_record(answer: Answer) -> bytes:
    """Write a `RecordResponse`."""
    if is_degraded(answer):
        return render_degraded(answer).SerializeToString()
    return _written(_filled_record(answer).body)


def render_release(answer: Answer) -> bytes:
    """Write a `ReleaseResponse`."""
    if is_degraded(answer):
        return render_degraded(answer).SerializeToString()
    return wire.ReleaseResponse(hold_settled=bool(answer.detail)).SerializeToString()


def render_mark_dispatched(answer: Answer) -> bytes:
    """Write a `MarkDispatchedResponse`."""
    if is_degraded(answer):
        return render_degraded(answer).SerializeToString()
    return wire.MarkDispatchedResponse(hold_open=bool(answer.detail)).SerializeToString()


def render_balances(answer: Answer) -> bytes:
    """Write a `GetBalancesResponse`."""
    limits = _filled_check(answer).body.limits
    return _written(GetBalancesResponse(limits=limits))


def render_session_answer(
    call_id: int, call: Call, answer: Answer, written: Sequence[bytes] = ()
) -> bytes:
    """Write a `SessionResponse` with one answer; what is joined reads as one with all answers.

    The amounts of a reserve need not be written anew where they are given as they came.
    """
    if is_degraded(answer):
        return _degraded_session_answer(call_id, call, answer)
    match call:
        case ReserveCall():
            form = _filled_reserve(answer, call, written)
        case CommitCall():
            form = _filled_commit(answer)
        case CheckCall():
            form = _filled_check(answer)
        case ExtendCall():
            form = _filled_extend(answer, call)
        case RecordCall():
            form = _filled_record(answer)
        case ReleaseCall():
            released = wire.ReleaseResponse(hold_settled=bool(answer.detail))
            return _alone(wire.SessionAnswer(call_id=call_id, release=released))
        case MarkDispatchedCall():
            marked = wire.MarkDispatchedResponse(hold_open=bool(answer.detail))
            return _alone(wire.SessionAnswer(call_id=call_id, mark_dispatched=marked))
        case _:
            assert_never(call)
    form.answer.call_id = call_id
    data: bytes = form.response.SerializeToString()
    return data


def _degraded_session_answer(call_id: int, call: Call, answer: Answer) -> bytes:
    message = wire.SessionAnswer(call_id=call_id)
    asking = call if isinstance(call, ReserveCall | ExtendCall) else None
    getattr(message, Kind(answer.kind).name.lower()).CopyFrom(render_degraded(answer, asking))
    return _alone(message)


def render_session_error(call_id: int, status: Status) -> bytes:
    """Write a `SessionResponse` with one answer that says why there is none."""
    answer = wire.SessionAnswer(call_id=call_id)
    answer.error.CopyFrom(status)
    return _alone(answer)


def _written(message: Any) -> bytes:  # noqa: ANN401 - made at run time.
    data: bytes = message.SerializeToString()
    return data


def decision_of(answer: Answer) -> quota_pb2.Decision.ValueType:
    """Say what was decided; unspecified for what only books."""
    return _DECISIONS.get(answer.outcome, quota_pb2.DECISION_UNSPECIFIED)


def statuses_of(answer: Answer) -> Sequence[quota_pb2.LimitStatus]:
    """Write the limits of any answer."""
    if answer.outcome in _DECISIONS:
        return wire.CheckResponse.FromString(render_check(answer)).limits
    return wire.RecordResponse.FromString(render_record(answer)).limits


def _alone(answer: wire.SessionAnswer) -> bytes:
    return wire.SessionResponse(answers=[answer]).SerializeToString()


class _Row:
    """The status of one limit, and what it shows as its reset time."""

    __slots__ = ("capacity", "is_hard", "reset_ms", "status")

    def __init__(self, status: Any) -> None:  # noqa: ANN401 - made at run time.
        self.status = status
        self.capacity = status.capacity
        self.is_hard = status.enforcement == quota_pb2.ENFORCEMENT_HARD
        self.reset_ms = 0

    def show_reset(self, reset_ms: int, now_ms: int) -> None:
        """Write in how many milliseconds the limit is reset; less than 0 for never."""
        self.reset_ms = now_ms + reset_ms
        if reset_ms < 0:
            self.status.ClearField("reset_time")
        else:
            self.status.reset_time = _time(self.reset_ms)


class _Form:
    """One kind of answer about a coverage."""

    __slots__ = ("answer", "body", "expire_ms", "figures", "granted", "response", "rows")

    def __init__(self, coverage: Coverage, kind: str) -> None:
        self.response = SessionResponse()
        self.answer = self.response.answers.add()
        self.body = getattr(self.answer, kind)
        self.expire_ms = 0
        self.figures: Sequence[int] = ()
        self.granted: Any = self.body.granted if kind in _GRANTING else None
        self.rows = [
            _Row(
                LimitStatus(
                    limit_id=limit.limit_id,
                    scope=limit.scope,
                    units=limit.units,
                    capacity=limit.capacity,
                    enforcement=limit.enforcement,
                )
            )
            for limit in coverage.limits
        ]

    def show(self, answer: Answer) -> None:
        """Write the figures where all fitted, unless they are there already."""
        if answer.figures is not self.figures:
            self._fill(answer, _FIGURES)
            self._write(answer)

    def show_booked(self, answer: Answer) -> None:
        """Write the figures after a booking, and where more is booked than there is room."""
        if answer.figures is not self.figures:
            self._fill(answer, _FIGURES)
            for row in self.rows:
                row.status.exceeded = row.status.used > row.capacity
            self._write(answer)

    def show_misfits(self, answer: Answer) -> None:
        """Write the figures where something did not fit, and on which limits that was."""
        self._fill(answer, _FIGURES_WITH_WAIT)
        waits = answer.figures[_FIGURES : _FIGURES_WITH_WAIT * len(self.rows) : _FIGURES_WITH_WAIT]
        is_denied = answer.outcome == _DENIED
        for row, wait_ms in zip(self.rows, waits, strict=True):
            status = row.status
            status.exceeded = wait_ms >= 0
            status.decided = wait_ms >= 0 and is_denied and row.is_hard
            if wait_ms > 0:
                status.retry_after = _duration(wait_ms)
            else:
                status.ClearField("retry_after")
        self._write(answer)

    def _fill(self, answer: Answer, width: int) -> None:
        figures, now_ms = answer.figures, answer.now_ms
        rows_end = width * len(self.rows)
        columns = (
            figures[0:rows_end:width],
            figures[1:rows_end:width],
            figures[2:rows_end:width],
        )
        for row, used, reserved, reset_ms in zip(self.rows, *columns, strict=True):
            status = row.status
            remaining = row.capacity - used - reserved
            status.used = used
            status.reserved = reserved
            status.remaining = max(0, remaining)
            if now_ms + reset_ms != row.reset_ms:
                row.show_reset(reset_ms, now_ms)

    def _write(self, answer: Answer) -> None:
        self.figures = answer.figures
        self.body.limits[:] = [row.status.SerializeToString() for row in self.rows]

    def grant(self, expire_ms: int, amounts: Amounts) -> None:
        """Write what is held, and until when."""
        self.grant_written(expire_ms, [_amount(*amount) for amount in amounts.items()])

    def grant_written(self, expire_ms: int, amounts: Sequence[bytes]) -> None:
        """Write what is held, given as bytes, and until when."""
        if expire_ms != self.expire_ms:
            self.expire_ms = expire_ms
            self.body.expire_time = _time(expire_ms)
        self.granted[:] = amounts


def _filled_check(answer: Answer) -> _Form:
    if answer.outcome == _ALLOWED:
        form = _form(answer.coverage, "check")
        form.show(answer)
        return form
    form = _form(answer.coverage, "check misfit")
    form.body.decision = _DECISIONS[answer.outcome]
    form.show_misfits(answer)
    return form


def _filled_reserve(answer: Answer, call: ReserveCall, written: Sequence[bytes] = ()) -> _Form:
    coverage = answer.coverage
    outcome = answer.outcome
    if outcome == _ALLOWED:
        form = _form(coverage, "reserve")
        if written and not call.estimates:
            form.grant_written(answer.detail, written)
        else:
            form.grant(answer.detail, _granted(form, answer, call))
        form.show(answer)
    elif outcome == _DENIED:
        form = _form(coverage, "reserve denied")
        form.body.decision = quota_pb2.DECISION_DENY
        form.show_misfits(answer)
        return form
    else:
        form = _form(coverage, "reserve misfit")
        form.body.decision = _DECISIONS[outcome]
        form.grant(answer.detail, _granted(form, answer, call))
        form.show_misfits(answer)
    form.body.reservation_id = f"{answer.hold}.{coverage.subject.customer}"
    return form


def _filled_extend(answer: Answer, call: ExtendCall) -> _Form:
    outcome = answer.outcome
    if outcome == _ALLOWED:
        form = _form(answer.coverage, "extend")
        form.show(answer)
    else:
        form = _form(answer.coverage, "extend misfit")
        form.body.decision = _DECISIONS[outcome]
        form.show_misfits(answer)
    form.grant(answer.detail, {} if outcome == _DENIED else _granted(form, answer, call))
    return form


def _granted(form: _Form, answer: Answer, call: ReserveCall | ExtendCall) -> Amounts:
    amounts = call.amounts
    if isinstance(call, ReserveCall) and call.estimates:
        # Not what is estimated by now, as this may be the first answer once more.
        amounts = {**amounts, **estimated_in(answer.hold, call.estimates)}
    if answer.outcome != _PARTIAL:
        return amounts
    grants = answer.figures[_FIGURES_WITH_WAIT * len(form.rows) :]
    return granted_amounts(amounts, call.least, grants)


def _filled_commit(answer: Answer) -> _Form:
    form = _form(answer.coverage, "commit")
    form.body.hold_settled = bool(answer.detail)
    form.show_booked(answer)
    return form


def _filled_record(answer: Answer) -> _Form:
    form = _form(answer.coverage, "record")
    form.show_booked(answer)
    return form


def _form(coverage: Coverage, name: str) -> _Form:
    if coverage.prepared is None:
        coverage.prepared = {}
    forms = cast("dict[str, _Form]", coverage.prepared)
    form = forms.get(name)
    if form is None:
        form = forms[name] = _Form(coverage, name.split(maxsplit=1)[0])
        if name in _ALLOWING:
            form.body.decision = quota_pb2.DECISION_ALLOW
    return form


@lru_cache(maxsize=_REMEMBERED_MAX)
def _time(unix_ms: int) -> bytes:
    seconds, milliseconds = divmod(unix_ms, _MS_PER_S)
    return Timestamp(seconds=seconds, nanos=milliseconds * _NANOS_PER_MS).SerializeToString()


@lru_cache(maxsize=_REMEMBERED_MAX)
def _duration(milliseconds: int) -> bytes:
    seconds, milliseconds = divmod(milliseconds, _MS_PER_S)
    return Duration(seconds=seconds, nanos=milliseconds * _NANOS_PER_MS).SerializeToString()


@lru_cache(maxsize=_REMEMBERED_MAX)
def _amount(unit: str, quantity: int) -> bytes:
    return quota_pb2.Amount(unit=unit, quantity=quantity).SerializeToString()
