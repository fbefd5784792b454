"""Answers to calls, written to the wire byte by byte.

A session writes a hundred thousand statuses each second, and filling in generated messages would
take most of the service's time. What is the same in every answer about a coverage is therefore
serialized once, and only the figures are written anew. Tests read every kind of answer back with
the generated code. The encoding is https://protobuf.dev/programming-guides/encoding.
"""

from functools import lru_cache
from typing import NamedTuple, cast

from google.protobuf.message import Message

from services.quota.convert.fields import render_hold
from services.quota.counters import Answer
from services.quota.coverage import Coverage
from services.quota.model import (
    Amounts,
    Call,
    CheckCall,
    CommitCall,
    HoldId,
    Outcome,
    ReleaseCall,
    ReserveCall,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

_CONTINUES = 0x80
_VARINT = 0
_BYTES = 2
_CHUNK_BITS = 14
_CHUNK = 1 << _CHUNK_BITS
_MS_PER_S = 1000
_NANOS_PER_MS = 1_000_000
_REMEMBERED_MAX = 65_536


class WrittenMessage(NamedTuple):
    """A message that is serialized already; the server asks it for its bytes like any other."""

    data: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have for it.
        """Answer the bytes."""
        return self.data


def _plain_varint(value: int) -> bytes:
    written = bytearray()
    while value >= _CONTINUES:
        written.append(value & 0x7F | _CONTINUES)
        value >>= 7
    written.append(value)
    return bytes(written)


# Numbers are written in chunks of two bytes, looked up: the last of a number, and those before.
_LAST = tuple(_plain_varint(value) for value in range(_CHUNK))
_MORE = tuple(
    bytes((value & 0x7F | _CONTINUES, value >> 7 | _CONTINUES)) for value in range(_CHUNK)
)


def varint(value: int) -> bytes:
    """Write a number from 0 to 2^56 - 1."""
    if value < _CHUNK:
        return _LAST[value]
    low, value = _MORE[value & 0x3FFF], value >> _CHUNK_BITS
    if value < _CHUNK:
        return low + _LAST[value]
    middle, value = _MORE[value & 0x3FFF], value >> _CHUNK_BITS
    if value < _CHUNK:
        return low + middle + _LAST[value]
    return low + middle + _MORE[value & 0x3FFF] + _LAST[value >> _CHUNK_BITS]


def _tag(number: int, wire_type: int) -> bytes:
    return _plain_varint(number << 3 | wire_type)


def _field(number: int, content: bytes) -> bytes:
    return _tag(number, _BYTES) + varint(len(content)) + content


_Status = quota_pb2.LimitStatus
_USED = _tag(_Status.USED_FIELD_NUMBER, _VARINT)
_RESERVED = _tag(_Status.RESERVED_FIELD_NUMBER, _VARINT)
_REMAINING = _tag(_Status.REMAINING_FIELD_NUMBER, _VARINT)
_RESET_TIME = _tag(_Status.RESET_TIME_FIELD_NUMBER, _BYTES)
_DECIDED = _tag(_Status.DECIDED_FIELD_NUMBER, _VARINT) + varint(1)
_QUANTITY = _tag(quota_pb2.Amount.QUANTITY_FIELD_NUMBER, _VARINT)
_DECISION = _tag(wire.ReserveResponse.DECISION_FIELD_NUMBER, _VARINT)
_ALLOW = _DECISION + varint(quota_pb2.DECISION_ALLOW)
_DENY = _DECISION + varint(quota_pb2.DECISION_DENY)
_RESERVATION_ID = _tag(wire.ReserveResponse.RESERVATION_ID_FIELD_NUMBER, _BYTES)
_GRANTED = _tag(wire.ReserveResponse.GRANTED_FIELD_NUMBER, _BYTES)
_EXPIRE_TIME = _tag(wire.ReserveResponse.EXPIRE_TIME_FIELD_NUMBER, _BYTES)
_CHECK_LIMITS = _tag(wire.CheckResponse.LIMITS_FIELD_NUMBER, _BYTES)
_RESERVE_LIMITS = _tag(wire.ReserveResponse.LIMITS_FIELD_NUMBER, _BYTES)
_COMMIT_LIMITS = _tag(wire.CommitResponse.LIMITS_FIELD_NUMBER, _BYTES)
_BALANCES_LIMITS = _tag(wire.GetBalancesResponse.LIMITS_FIELD_NUMBER, _BYTES)
_COMMIT_SETTLED = _tag(wire.CommitResponse.HOLD_SETTLED_FIELD_NUMBER, _VARINT) + varint(1)
_RELEASE_SETTLED = _tag(wire.ReleaseResponse.HOLD_SETTLED_FIELD_NUMBER, _VARINT) + varint(1)
_ANSWERS = _tag(wire.SessionResponse.ANSWERS_FIELD_NUMBER, _BYTES)
_CALL_ID = _tag(wire.SessionAnswer.CALL_ID_FIELD_NUMBER, _VARINT)
_CHECK = _tag(wire.SessionAnswer.CHECK_FIELD_NUMBER, _BYTES)
_RESERVE = _tag(wire.SessionAnswer.RESERVE_FIELD_NUMBER, _BYTES)
_COMMIT = _tag(wire.SessionAnswer.COMMIT_FIELD_NUMBER, _BYTES)
_RELEASE = _tag(wire.SessionAnswer.RELEASE_FIELD_NUMBER, _BYTES)
_ERROR = _tag(wire.SessionAnswer.ERROR_FIELD_NUMBER, _BYTES)
assert wire.CheckResponse.DECISION_FIELD_NUMBER == wire.ReserveResponse.DECISION_FIELD_NUMBER


def render_check(answer: Answer) -> bytes:
    """Write a `CheckResponse`."""
    return (_DENY if _is_denied(answer) else _ALLOW) + _statuses(answer, _CHECK_LIMITS)


def render_reserve(answer: Answer, asked: Amounts) -> bytes:
    """Write a `ReserveResponse` to a call that asked for these amounts."""
    if _is_denied(answer):
        return _DENY + _statuses(answer, _RESERVE_LIMITS)
    hold = render_hold(HoldId(answer.hold, answer.coverage.subject.customer)).encode()
    granted = [_amount(unit, quantity) for unit, quantity in asked.items()]
    expiry = _time(answer.detail)
    return b"%b%b%b%b%b%b%b%b" % (
        _ALLOW,
        _RESERVATION_ID,
        varint(len(hold)),
        hold,
        b"".join(granted),
        _EXPIRE_TIME,
        expiry,
        _statuses(answer, _RESERVE_LIMITS),
    )


def render_commit(answer: Answer) -> bytes:
    """Write a `CommitResponse`."""
    statuses = _statuses(answer, _COMMIT_LIMITS)
    return statuses + _COMMIT_SETTLED if answer.detail else statuses


def render_release(answer: Answer) -> bytes:
    """Write a `ReleaseResponse`."""
    return _RELEASE_SETTLED if answer.detail else b""


def render_balances(answer: Answer) -> bytes:
    """Write a `GetBalancesResponse`."""
    return _statuses(answer, _BALANCES_LIMITS)


def render_session_answer(call_id: int, call: Call, answer: Answer) -> bytes:
    """Write one answer of a `SessionResponse`."""
    match call:
        case ReserveCall():
            kind, content = _RESERVE, render_reserve(answer, call.amounts)
        case CommitCall():
            kind, content = _COMMIT, render_commit(answer)
        case CheckCall():
            kind, content = _CHECK, render_check(answer)
        case ReleaseCall():
            kind, content = _RELEASE, render_release(answer)
    return _session_answer(call_id, kind, content)


def render_session_error(call_id: int, status: Message) -> bytes:
    """Write one answer of a `SessionResponse` that says why there is none."""
    return _session_answer(call_id, _ERROR, status.SerializeToString())


def _session_answer(call_id: int, kind: bytes, content: bytes) -> bytes:
    answer = b"%b%b%b%b%b" % (_CALL_ID, _call_id(call_id), kind, varint(len(content)), content)
    return b"%b%b%b" % (_ANSWERS, varint(len(answer)), answer)


def _statuses(answer: Answer, tag: bytes) -> bytes:
    coverage, figures, now_ms = answer.coverage, answer.figures, answer.now_ms
    denied = _is_denied(answer)
    width = 4 if denied else 3
    place = 0
    written = []
    for head, capacity in _heads(coverage):
        used, reserved, reset_ms = figures[place : place + 3]
        remaining = capacity - used - reserved
        status = b"%b%b%b%b%b%b%b" % (
            head,
            varint(used),
            _RESERVED,
            varint(reserved),
            _REMAINING,
            varint(remaining) if remaining > 0 else b"\0",
            _RESET_TIME + _time(now_ms + reset_ms) if reset_ms else b"",
        )
        if denied and figures[place + 3] >= 0:
            status += _refusal(figures[place + 3])
        written.append(b"%b%b%b" % (tag, varint(len(status)), status))
        place += width
    return b"".join(written)


def _heads(coverage: Coverage) -> list[tuple[bytes, int]]:
    """Answer for each limit the status up to its first figure, and the capacity."""
    if coverage.prepared is None:
        coverage.prepared = [
            (
                _Status(
                    limit_id=limit.limit_id,
                    scope=limit.scope,
                    units=limit.units,
                    capacity=limit.capacity,
                ).SerializeToString()
                + _USED,
                limit.capacity,
            )
            for limit in coverage.limits
        ]
    return cast("list[tuple[bytes, int]]", coverage.prepared)


def _refusal(wait_ms: int) -> bytes:
    if not wait_ms:
        return _DECIDED
    status = _Status(decided=True)
    status.retry_after.FromMilliseconds(wait_ms)
    return status.SerializeToString()


def _amount(unit: str, quantity: int) -> bytes:
    amount = b"%b%b" % (_unit(unit), varint(quantity))
    return b"%b%b%b" % (_GRANTED, varint(len(amount)), amount)


@lru_cache(maxsize=_REMEMBERED_MAX)
def _unit(unit: str) -> bytes:
    return quota_pb2.Amount(unit=unit).SerializeToString() + _QUANTITY


def _time(unix_ms: int) -> bytes:
    """Write a `Timestamp` with its length."""
    seconds, milliseconds = divmod(unix_ms, _MS_PER_S)
    time = _seconds(seconds) + _NANOS[milliseconds]
    return _LAST[len(time)] + time


@lru_cache(maxsize=_REMEMBERED_MAX)
def _seconds(seconds: int) -> bytes:
    return _tag(1, _VARINT) + varint(seconds)


_NANOS = tuple(
    _tag(2, _VARINT) + varint(milliseconds * _NANOS_PER_MS) for milliseconds in range(_MS_PER_S)
)


def _call_id(call_id: int) -> bytes:
    return varint(call_id) if call_id < 1 << 4 * _CHUNK_BITS else _plain_varint(call_id)


def _is_denied(answer: Answer) -> bool:
    return answer.outcome == Outcome.DENIED
