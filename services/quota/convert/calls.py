"""Calls, read from the wire.

Each is first read as if it were valid, since nearly all are; only when something is wrong is
every field looked at again, so that the caller learns of all violations at once.
"""

from hashlib import blake2b

from google.protobuf.message import Message

from kit.errors import InvalidInput, Violations
from kit.idempotency import parse_request_id
from services.quota.convert.fields import (
    parse_amounts,
    parse_dimensions,
    parse_hold,
    parse_some_amounts,
    parse_subject,
)
from services.quota.model import (
    Call,
    CheckCall,
    CommitCall,
    Dimensions,
    HoldId,
    ReleaseCall,
    ReserveCall,
    Subject,
)
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

DIMENSIONS_MAX = 16
TTL_MS_DEFAULT = 60_000
TTL_MS_MIN = 100
TTL_MS_MAX = 24 * 60 * 60 * 1000

_FINGERPRINT_BYTES = 8
_NANOS_PER_MS = 1_000_000


def parse_check(request: wire.CheckRequest) -> CheckCall:
    """Read a check."""
    try:
        return CheckCall(
            parse_subject(request.subject, "subject"),
            parse_dimensions(request.dimensions, "dimensions", count_max=DIMENSIONS_MAX),
            parse_some_amounts(request.amounts, "amounts"),
        )
    except InvalidInput:
        violations = Violations()
        _refuse_call(violations, request)
        violations.take("amounts", lambda: parse_some_amounts(request.amounts, "amounts"))
        violations.raise_if_any()
        raise


def parse_get_balances(request: wire.GetBalancesRequest) -> CheckCall:
    """Read the question for balances: a check of nothing."""
    violations = Violations()
    _refuse_call(violations, request)
    violations.raise_if_any()
    return CheckCall(
        parse_subject(request.subject, "subject"),
        parse_dimensions(request.dimensions, "dimensions", count_max=DIMENSIONS_MAX),
        {},
    )


def parse_reserve(request: wire.ReserveRequest) -> ReserveCall:
    """Read a reserve."""
    try:
        return ReserveCall(
            parse_request_id(request.request_id),
            _fingerprint(b"Reserve", request),
            parse_subject(request.subject, "subject"),
            parse_dimensions(request.dimensions, "dimensions", count_max=DIMENSIONS_MAX),
            parse_some_amounts(request.amounts, "amounts"),
            _ttl_ms(request),
        )
    except InvalidInput:
        violations = Violations()
        violations.take("request_id", lambda: parse_request_id(request.request_id))
        _refuse_call(violations, request)
        violations.take("amounts", lambda: parse_some_amounts(request.amounts, "amounts"))
        violations.take("ttl", lambda: _ttl_ms(request))
        violations.raise_if_any()
        raise


def parse_commit(request: wire.CommitRequest) -> CommitCall:
    """Read a commit; it names a hold, or a subject, or both."""
    try:
        subject, dimensions = _committed_call(request)
        return CommitCall(
            parse_request_id(request.request_id),
            _fingerprint(b"Commit", request),
            _committed_hold(request, subject),
            subject,
            dimensions,
            parse_amounts(request.amounts, "amounts"),
        )
    except InvalidInput:
        violations = Violations()
        violations.take("request_id", lambda: parse_request_id(request.request_id))
        violations.take("reservation_id", lambda: _committed_hold(request, None))
        violations.take("amounts", lambda: parse_amounts(request.amounts, "amounts"))
        if request.HasField("subject") or not request.reservation_id:
            _refuse_call(violations, request)
        violations.raise_if_any()
        raise


def parse_release(request: wire.ReleaseRequest) -> ReleaseCall:
    """Read a release."""
    violations = Violations()
    request_id = violations.take("request_id", lambda: parse_request_id(request.request_id))
    hold = violations.take(
        "reservation_id", lambda: parse_hold(request.reservation_id, "reservation_id")
    )
    violations.raise_if_any()
    return ReleaseCall(request_id, _fingerprint(b"Release", request), hold)


def parse_session_call(message: wire.SessionCall) -> Call:
    """Read one call of a session, whichever it is."""
    match message.WhichOneof("call"):
        case "reserve":
            return parse_reserve(message.reserve)
        case "commit":
            return parse_commit(message.commit)
        case "check":
            return parse_check(message.check)
        case "release":
            return parse_release(message.release)
        case _:
            raise InvalidInput.of("call", "is required")


def _committed_call(request: wire.CommitRequest) -> tuple[Subject | None, Dimensions]:
    if request.reservation_id and not request.HasField("subject"):
        return None, ()
    return (
        parse_subject(request.subject, "subject"),
        parse_dimensions(request.dimensions, "dimensions", count_max=DIMENSIONS_MAX),
    )


def _committed_hold(request: wire.CommitRequest, subject: Subject | None) -> HoldId | None:
    if not request.reservation_id:
        return None
    hold = parse_hold(request.reservation_id, "reservation_id")
    if subject is not None and subject.customer != hold.customer:
        raise InvalidInput.of(
            "subject.customer_id", f"must be {hold.customer}, for whom the hold was made"
        )
    return hold


def _ttl_ms(request: wire.ReserveRequest) -> int:
    if not request.HasField("ttl"):
        return TTL_MS_DEFAULT
    ttl_ms = request.ttl.seconds * 1000 + request.ttl.nanos // _NANOS_PER_MS
    if not TTL_MS_MIN <= ttl_ms <= TTL_MS_MAX:
        raise InvalidInput.of("ttl", "must be from 100 milliseconds to 24 hours")
    return ttl_ms


def _refuse_call(
    violations: Violations,
    request: wire.CheckRequest | wire.ReserveRequest | wire.CommitRequest | wire.GetBalancesRequest,
) -> None:
    violations.take("subject", lambda: parse_subject(request.subject, "subject"))
    violations.take(
        "dimensions",
        lambda: parse_dimensions(request.dimensions, "dimensions", count_max=DIMENSIONS_MAX),
    )


def _fingerprint(method: bytes, request: Message) -> bytes:
    """Digest a request; the order of a map does not matter."""
    content = request.SerializeToString(deterministic=True)
    return blake2b(method + content, digest_size=_FINGERPRINT_BYTES).digest()
