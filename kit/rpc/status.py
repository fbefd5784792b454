"""Domain errors on the wire: `google.rpc.Status` with details, and back.

Every error carries `ErrorInfo`; bad fields, preconditions, limits and retries have their own
details. Refuses to grow beyond what gRPC carries in its trailers, and to show anything of an
unexpected error but a trace id.
"""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    RetryInfo,
)
from google.rpc.status_pb2 import Status

from kit.errors import (
    AlreadyExists,
    Conflict,
    Denied,
    DomainError,
    Exhausted,
    InvalidInput,
    NotFound,
    Precondition,
    Unauthenticated,
    Unavailable,
    Violation,
)

DETAILS_KEY = "grpc-status-details-bin"

_CODES: dict[type[DomainError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Conflict: grpc.StatusCode.ABORTED,
    Precondition: grpc.StatusCode.FAILED_PRECONDITION,
    Denied: grpc.StatusCode.PERMISSION_DENIED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
}
# gRPC refuses trailers above 8 KiB by default, and Base64 and percent-encoding grow these.
_STATUS_BYTES_MAX = 4096
_MESSAGE_LENGTH_MAX = 512
_VALUE_LENGTH_MAX = 256


class DeadlineExceeded(DomainError):
    """The call did not end within the default deadline; its caller had named none."""

    def __init__(self) -> None:
        super().__init__("DEADLINE_EXCEEDED", "the call did not end within the default deadline")


def code_of(error: DomainError) -> grpc.StatusCode:
    """Answer the status code of an error's class."""
    if isinstance(error, DeadlineExceeded):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return next(code for kind, code in _CODES.items() if isinstance(error, kind))


def render_status(error: DomainError, domain: str) -> Status:
    """Render an error; `domain` is "tollkeeper.<service>". Long lists of violations are cut."""
    violations = error.violations
    status = _render(error, domain, violations)
    while status.ByteSize() > _STATUS_BYTES_MAX and violations:
        violations = violations[: len(violations) // 2]
        status = _render(error, domain, violations)
    return status


def internal_status(trace_id: str, domain: str) -> Status:
    """Render an unexpected error: a trace id for the operator, and nothing else."""
    status = Status(code=_number(grpc.StatusCode.INTERNAL), message=f"internal error {trace_id}")
    _attach(status, ErrorInfo(reason="INTERNAL", domain=domain, metadata={"trace_id": trace_id}))
    return status


def read_error(error: grpc.aio.AioRpcError) -> Exception:
    """Read another service's answer as the domain error it was rendered from.

    What is no domain error, and what only a mistake of ours can cause (a refused token or
    scope), comes back as it is: to the caller of this service it is an internal error.
    """
    code = error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable("UNAVAILABLE", "another service did not answer in time")
    kind = next((kind for kind, known in _CODES.items() if known is code), None)
    if kind is None or kind in {Denied, Unauthenticated}:
        return error
    info, violations, retry = _read_details(error)
    return kind(
        info.reason or code.name,
        error.details() or "",
        metadata=dict(info.metadata),
        violations=violations,
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )


def _render(error: DomainError, domain: str, violations: tuple[Violation, ...]) -> Status:
    message = _cut(error.message, _MESSAGE_LENGTH_MAX)
    status = Status(code=_number(code_of(error)), message=message)
    metadata = {name: _cut(value, _VALUE_LENGTH_MAX) for name, value in error.metadata.items()}
    _attach(status, ErrorInfo(reason=error.reason, domain=domain, metadata=metadata))
    named = [
        (_cut(violation.field, _VALUE_LENGTH_MAX), _cut(violation.description, _VALUE_LENGTH_MAX))
        for violation in violations
    ]
    if isinstance(error, InvalidInput) and named:
        fields = [BadRequest.FieldViolation(field=f, description=d) for f, d in named]
        _attach(status, BadRequest(field_violations=fields))
    if isinstance(error, Precondition):
        failures = [
            PreconditionFailure.Violation(type=error.reason, subject=subject, description=text)
            for subject, text in named or [("", message)]
        ]
        _attach(status, PreconditionFailure(violations=failures))
    if isinstance(error, Exhausted) and named:
        limits = [QuotaFailure.Violation(subject=s, description=d) for s, d in named]
        _attach(status, QuotaFailure(violations=limits))
    if error.retry_after is not None:
        retry = RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        _attach(status, retry)
    return status


def _read_details(
    error: grpc.aio.AioRpcError,
) -> tuple[ErrorInfo, tuple[Violation, ...], RetryInfo]:
    info, bad, precondition, quota, retry = (
        ErrorInfo(),
        BadRequest(),
        PreconditionFailure(),
        QuotaFailure(),
        RetryInfo(),
    )
    for detail in _details(error):
        for message in (info, bad, precondition, quota, retry):
            detail.Unpack(message)
    fields = [Violation(each.field, each.description) for each in bad.field_violations]
    conditions = [Violation(each.subject, each.description) for each in precondition.violations]
    limits = [Violation(each.subject, each.description) for each in quota.violations]
    return info, (*fields, *conditions, *limits), retry


def _details(error: grpc.aio.AioRpcError) -> list[AnyMessage]:
    encoded = next((value for key, value in error.trailing_metadata() if key == DETAILS_KEY), b"")
    try:
        return list(Status.FromString(bytes(encoded)).details)  # type: ignore[arg-type]
    except DecodeError:
        return []


def _attach(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number


def _cut(text: str, length_max: int) -> str:
    return text if len(text) <= length_max else text[: length_max - 1] + "…"
