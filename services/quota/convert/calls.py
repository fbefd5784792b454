"""Calls, read from the wire.

Each is first read as if it were valid, since nearly all are; only when something is wrong is
every field looked at again, so that the caller learns of all violations at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from kit.errors import InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.rpc.wire import parse_time
from services.quota.convert.fields import (
    CALL_DIMENSIONS_MAX,
    UNIT_RULE,
    is_unit,
    parse_amounts,
    parse_dimensions,
    parse_hold,
    parse_some_amounts,
    parse_subject,
)
from services.quota.model import (
    NOTHING_ASKED,
    QUANTITY_MAX,
    Amounts,
    Call,
    CheckCall,
    CommitCall,
    Dimensions,
    Estimate,
    ExtendCall,
    HoldId,
    MarkDispatchedCall,
    RecordCall,
    ReleaseCall,
    ReserveCall,
    Subject,
)
from services.quota.unix_time import unix_ms
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

TTL_MS_DEFAULT = 60_000
TTL_MS_MIN = 100
ESTIMATES_MAX = 8
ROUTE_LENGTH_MAX = 128
TTL_MS_MAX = 24 * 60 * 60 * 1000

_FINGERPRINT_BYTES = 8
_MODES = frozenset(wire.Mode.values())
_NANOS_PER_MS = 1_000_000


def parse_check(request: wire.CheckRequest) -> CheckCall:
    """Read a check."""
    try:
        return CheckCall(
            parse_subject(request.subject, "subject"),
            parse_dimensions(request.dimensions, "dimensions", count_max=CALL_DIMENSIONS_MAX),
            parse_some_amounts(request.amounts, "amounts"),
            _is_shadow(request.mode),
        )
    except InvalidInput:
        violations = Violations()
        _refuse_call(violations, request)
        violations.take("amounts", lambda: parse_some_amounts(request.amounts, "amounts"))
        violations.take("mode", lambda: _is_shadow(request.mode))
        violations.raise_if_any()
        raise


def parse_get_balances(request: wire.GetBalancesRequest) -> CheckCall:
    """Read the question for balances: a check of nothing."""
    violations = Violations()
    _refuse_call(violations, request)
    violations.raise_if_any()
    return CheckCall(
        parse_subject(request.subject, "subject"),
        parse_dimensions(request.dimensions, "dimensions", count_max=CALL_DIMENSIONS_MAX),
        {},
    )


def parse_reserve(request: wire.ReserveRequest) -> ReserveCall:
    """Read a reserve."""
    try:
        amounts = parse_some_amounts(request.amounts, "amounts")
        return ReserveCall(
            parse_request_id(request.request_id),
            _fingerprint(b"Reserve", request),
            parse_subject(request.subject, "subject"),
            parse_dimensions(request.dimensions, "dimensions", count_max=CALL_DIMENSIONS_MAX),
            amounts,
            _ttl_ms(request) or TTL_MS_DEFAULT,
            _least(request, amounts) if request.min_amounts else NOTHING_ASKED,
            _is_shadow(request.mode),
            _estimates(request) if request.estimates else (),
        )
    except InvalidInput:
        violations = Violations()
        violations.take("request_id", lambda: parse_request_id(request.request_id))
        _refuse_call(violations, request)
        violations.take("amounts", lambda: parse_some_amounts(request.amounts, "amounts"))
        _refuse_terms(violations, request)
        violations.take("estimates", lambda: _estimates(request))
        violations.raise_if_any()
        raise


def parse_extend(request: wire.ExtendRequest) -> ExtendCall:
    """Read what is to be added to a hold: amounts, time, or both."""
    try:
        amounts = parse_amounts(request.amounts, "amounts")
        ttl_ms = _ttl_ms(request)
        if not amounts and not ttl_ms:
            raise InvalidInput.of("amounts", "is required where there is no ttl")
        subject, dimensions = _subject_beside_hold(request)
        return ExtendCall(
            parse_request_id(request.request_id),
            _fingerprint(b"Extend", request),
            _hold_of(request.reservation_id, subject),
            subject,
            dimensions,
            amounts,
            ttl_ms,
            _least(request, amounts) if request.min_amounts else NOTHING_ASKED,
            _is_shadow(request.mode),
        )
    except InvalidInput:
        violations = Violations()
        violations.take("request_id", lambda: parse_request_id(request.request_id))
        violations.take(
            "reservation_id", lambda: parse_hold(request.reservation_id, "reservation_id")
        )
        violations.take("amounts", lambda: parse_amounts(request.amounts, "amounts"))
        _refuse_terms(violations, request)
        if request.HasField("subject"):
            _refuse_call(violations, request)
        violations.raise_if_any()
        raise


def parse_record(request: wire.RecordRequest) -> RecordCall:
    """Read usage that is booked without a hold."""
    violations = Violations()
    request_id = violations.take("request_id", lambda: parse_request_id(request.request_id))
    _refuse_call(violations, request)
    amounts = violations.take("amounts", lambda: parse_some_amounts(request.amounts, "amounts"))
    event_ms = violations.take("event_time", lambda: _event_ms(request))
    violations.raise_if_any()
    return RecordCall(
        request_id,
        _fingerprint(b"Record", request),
        parse_subject(request.subject, "subject"),
        parse_dimensions(request.dimensions, "dimensions", count_max=CALL_DIMENSIONS_MAX),
        amounts,
        event_ms,
    )


def parse_commit(request: wire.CommitRequest) -> CommitCall:
    """Read a commit; it names a hold, or a subject, or both."""
    try:
        subject, dimensions = _subject_beside_hold(request)
        return CommitCall(
            parse_request_id(request.request_id),
            _fingerprint(b"Commit", request),
            _hold_of(request.reservation_id, subject) if request.reservation_id else None,
            subject,
            dimensions,
            parse_amounts(request.amounts, "amounts"),
        )
    except InvalidInput:
        violations = Violations()
        violations.take("request_id", lambda: parse_request_id(request.request_id))
        if request.reservation_id:
            violations.take(
                "reservation_id", lambda: parse_hold(request.reservation_id, "reservation_id")
            )
        violations.take("amounts", lambda: parse_amounts(request.amounts, "amounts"))
        if request.HasField("subject") or not request.reservation_id:
            _refuse_call(violations, request)
        violations.raise_if_any()
        raise


def parse_release(request: wire.ReleaseRequest) -> ReleaseCall:
    """Read a release."""
    return ReleaseCall(*_request_and_hold(request, b"Release"))


def parse_mark_dispatched(request: wire.MarkDispatchedRequest) -> MarkDispatchedCall:
    """Read that a call has left."""
    return MarkDispatchedCall(*_request_and_hold(request, b"MarkDispatched"))


def parse_session_call(message: wire.SessionCall) -> Call:
    """Read one call of a session, whichever it is."""
    name = message.WhichOneof("call")
    if name is None:
        raise InvalidInput.of("call", "is required")
    return _PARSERS[name](getattr(message, name))


_PARSERS: Mapping[str, Callable[[Any], Call]] = MappingProxyType(
    {
        "reserve": parse_reserve,
        "commit": parse_commit,
        "check": parse_check,
        "release": parse_release,
        "extend": parse_extend,
        "mark_dispatched": parse_mark_dispatched,
        "record": parse_record,
    }
)


def _request_and_hold(
    request: wire.ReleaseRequest | wire.MarkDispatchedRequest, method: bytes
) -> tuple[str, bytes, HoldId]:
    violations = Violations()
    request_id = violations.take("request_id", lambda: parse_request_id(request.request_id))
    hold = violations.take(
        "reservation_id", lambda: parse_hold(request.reservation_id, "reservation_id")
    )
    violations.raise_if_any()
    return request_id, _fingerprint(method, request), hold


def _subject_beside_hold(
    request: wire.CommitRequest | wire.ExtendRequest,
) -> tuple[Subject | None, Dimensions]:
    if request.reservation_id and not request.HasField("subject"):
        return parse_hold(request.reservation_id, "reservation_id").call or (None, ())
    return (
        parse_subject(request.subject, "subject"),
        parse_dimensions(request.dimensions, "dimensions", count_max=CALL_DIMENSIONS_MAX),
    )


def _hold_of(reservation_id: str, subject: Subject | None) -> HoldId:
    hold = parse_hold(reservation_id, "reservation_id")
    if subject is not None and subject.customer != hold.customer:
        raise InvalidInput.of(
            "subject.customer_id", f"must be {hold.customer}, for whom the hold was made"
        )
    return hold


def _ttl_ms(request: wire.ReserveRequest | wire.ExtendRequest) -> int:
    """Read how long a hold is to live; 0 where that is left out."""
    return parse_ttl_ms(request.ttl) if request.HasField("ttl") else 0


def parse_ttl_ms(ttl: Duration) -> int:
    """Read how long a hold is to live."""
    ttl_ms = ttl.seconds * 1000 + ttl.nanos // _NANOS_PER_MS
    if not TTL_MS_MIN <= ttl_ms <= TTL_MS_MAX:
        raise InvalidInput.of("ttl", "must be from 100 milliseconds to 24 hours")
    return ttl_ms


def _least(request: wire.ReserveRequest | wire.ExtendRequest, amounts: Amounts) -> Amounts:
    """Read the least that is accepted of some of the amounts."""
    least = parse_amounts(request.min_amounts, "min_amounts")
    violations = Violations()
    for place, (unit, quantity) in enumerate(least.items()):
        if unit not in amounts:
            violations.add(f"min_amounts[{place}].unit", f"{unit} is not among the amounts")
        elif quantity > amounts[unit]:
            violations.add(f"min_amounts[{place}].quantity", "must not exceed the amount")
    violations.raise_if_any()
    return least


def _estimates(request: wire.ReserveRequest) -> tuple[Estimate, ...]:
    return parse_estimates(request.estimates, {amount.unit for amount in request.amounts})


def parse_estimates(given: Sequence[wire.Estimate], units: Iterable[str]) -> tuple[Estimate, ...]:
    """Read which units are to be estimated; they are none of those of the amounts."""
    violations = Violations()
    seen = set(units)
    if len(given) > ESTIMATES_MAX:
        violations.add("estimates", f"must have at most {ESTIMATES_MAX} entries")
    for place, estimate in enumerate(given):
        where = f"estimates[{place}]"
        if not is_unit(estimate.unit):
            violations.add(f"{where}.unit", UNIT_RULE)
        elif estimate.unit in seen:
            violations.add(f"{where}.unit", f"{estimate.unit} is there already")
        seen.add(estimate.unit)
        if not 0 <= estimate.max_quantity <= QUANTITY_MAX:
            violations.add(f"{where}.max_quantity", f"must be from 0 to {QUANTITY_MAX:,}")
        if len(estimate.route) > ROUTE_LENGTH_MAX:
            violations.add(f"{where}.route", f"must have at most {ROUTE_LENGTH_MAX} characters")
    violations.raise_if_any()
    return tuple(Estimate(each.unit, each.max_quantity, each.route) for each in given)


def _is_shadow(mode: int) -> bool:
    if mode not in _MODES:
        raise InvalidInput.of("mode", "must be enforce or shadow")
    return mode == wire.MODE_SHADOW


def _event_ms(request: wire.RecordRequest) -> int:
    if not request.HasField("event_time"):
        return 0
    instant = parse_time(request.event_time, "event_time")
    return unix_ms(instant)


def _refuse_terms(
    violations: Violations, request: wire.ReserveRequest | wire.ExtendRequest
) -> None:
    amounts = {amount.unit: amount.quantity for amount in request.amounts}
    violations.take("ttl", lambda: _ttl_ms(request))
    violations.take("min_amounts", lambda: _least(request, amounts))
    violations.take("mode", lambda: _is_shadow(request.mode))


def _refuse_call(
    violations: Violations,
    request: wire.CheckRequest
    | wire.ReserveRequest
    | wire.ExtendRequest
    | wire.CommitRequest
    | wire.RecordRequest
    | wire.GetBalancesRequest,
) -> None:
    violations.take("subject", lambda: parse_subject(request.subject, "subject"))
    violations.take(
        "dimensions",
        lambda: parse_dimensions(request.dimensions, "dimensions", count_max=CALL_DIMENSIONS_MAX),
    )


def _fingerprint(method: bytes, request: Message) -> bytes:
    """Digest a request; the order of a map does not matter."""
    return fingerprint(method, request.SerializeToString(deterministic=True))


def fingerprint(method: bytes, content: bytes) -> bytes:
    """Digest what a request says, its maps in the order of their keys."""
    return blake2b(method + content, digest_size=_FINGERPRINT_BYTES).digest()
