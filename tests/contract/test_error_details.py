"""Errors on the wire: the exact status and details of every kind of domain error, and back."""

from datetime import timedelta
from importlib import import_module

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    QuotaFailure,
    RetryInfo,
)

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
from kit.postgres import TransactionConflict
from kit.rpc.status import (
    DETAILS_KEY,
    DeadlineExceeded,
    code_of,
    internal_status,
    read_error,
    render_status,
)

DOMAIN = "tollkeeper.meter"
RETRY = RetryInfo(retry_delay=Duration(seconds=2))
TWO_SECONDS = timedelta(seconds=2)
SERVICES = ("quota", "meter", "rating", "tax", "invoicing")
SHARED_REASONS = (
    "INVALID_FIELD",
    "REQUEST_ID_REUSED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "INVALID_PAGE_TOKEN",
    "PAYLOAD_TOO_LARGE",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
)


def info(reason: str, **metadata: str) -> ErrorInfo:
    """Make the detail every error has."""
    return ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)


def unpacked(error: DomainError) -> list[Message]:
    """Render an error and unpack its details."""
    details: list[Message] = []
    for packed in render_status(error, DOMAIN).details:
        kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])
        details.append(kind.FromString(packed.value))
    return details


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        pytest.param(
            InvalidInput.of("events[3].quantity", "must be at least 0"),
            grpc.StatusCode.INVALID_ARGUMENT,
            [
                info("INVALID_FIELD"),
                BadRequest(
                    field_violations=[
                        BadRequest.FieldViolation(
                            field="events[3].quantity", description="must be at least 0"
                        )
                    ]
                ),
            ],
            id="invalid input names its fields",
        ),
        pytest.param(
            InvalidInput("PAYLOAD_TOO_LARGE", "too many events", metadata={"maximum": "1000"}),
            grpc.StatusCode.INVALID_ARGUMENT,
            [info("PAYLOAD_TOO_LARGE", maximum="1000")],
            id="invalid as a whole",
        ),
        pytest.param(
            NotFound("METER_NOT_FOUND", "no meter has this id", metadata={"meter_id": "m"}),
            grpc.StatusCode.NOT_FOUND,
            [info("METER_NOT_FOUND", meter_id="m")],
            id="not found",
        ),
        pytest.param(
            AlreadyExists("METER_EXISTS", "the meter exists"),
            grpc.StatusCode.ALREADY_EXISTS,
            [info("METER_EXISTS")],
            id="already exists",
        ),
        pytest.param(
            Conflict("REQUEST_ID_REUSED", "used before", metadata={"request_id": "r"}),
            grpc.StatusCode.ABORTED,
            [info("REQUEST_ID_REUSED", request_id="r")],
            id="conflict",
        ),
        pytest.param(
            Precondition("METER_IMMUTABLE", "the meter is stored"),
            grpc.StatusCode.FAILED_PRECONDITION,
            [
                info("METER_IMMUTABLE"),
                PreconditionFailure(
                    violations=[
                        PreconditionFailure.Violation(
                            type="METER_IMMUTABLE", description="the meter is stored"
                        )
                    ]
                ),
            ],
            id="a precondition",
        ),
        pytest.param(
            Precondition(
                "OPEN", "2 stand against it", violations=(Violation("inv_1", "is draft"),)
            ),
            grpc.StatusCode.FAILED_PRECONDITION,
            [
                info("OPEN"),
                PreconditionFailure(
                    violations=[
                        PreconditionFailure.Violation(
                            type="OPEN", subject="inv_1", description="is draft"
                        )
                    ]
                ),
            ],
            id="a precondition with subjects",
        ),
        pytest.param(
            Denied("PERMISSION_DENIED", "no", metadata={"required_scope": "meter.read"}),
            grpc.StatusCode.PERMISSION_DENIED,
            [info("PERMISSION_DENIED", required_scope="meter.read")],
            id="denied",
        ),
        pytest.param(
            Unauthenticated("UNAUTHENTICATED", "the token has expired"),
            grpc.StatusCode.UNAUTHENTICATED,
            [info("UNAUTHENTICATED")],
            id="unauthenticated",
        ),
        pytest.param(
            Exhausted(
                "LIMIT_REACHED",
                "used up",
                violations=(Violation("limit-1", "0 of 100 left"),),
                retry_after=TWO_SECONDS,
            ),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            [
                info("LIMIT_REACHED"),
                QuotaFailure(
                    violations=[
                        QuotaFailure.Violation(subject="limit-1", description="0 of 100 left")
                    ]
                ),
                RETRY,
            ],
            id="exhausted",
        ),
        pytest.param(
            Unavailable("UNAVAILABLE", "no answer", retry_after=TWO_SECONDS),
            grpc.StatusCode.UNAVAILABLE,
            [info("UNAVAILABLE"), RETRY],
            id="unavailable",
        ),
        pytest.param(
            TransactionConflict("UNAVAILABLE", "lost a race", retry_after=timedelta(0)),
            grpc.StatusCode.UNAVAILABLE,
            [info("UNAVAILABLE"), RetryInfo(retry_delay=Duration())],
            id="a lost race may be repeated at once",
        ),
        pytest.param(
            DeadlineExceeded(),
            grpc.StatusCode.DEADLINE_EXCEEDED,
            [info("DEADLINE_EXCEEDED")],
            id="too late",
        ),
    ],
)
def test_each_error_has_its_code_and_details(
    error: DomainError, code: grpc.StatusCode, details: list[Message]
) -> None:
    """The whole status of every class of domain error."""
    status = render_status(error, DOMAIN)

    assert (status.code, status.message) == (code.value[0], error.message)
    assert code_of(error) is code
    assert unpacked(error) == details


def test_an_unexpected_error_is_a_trace_id() -> None:
    """Nothing else of it leaves the process."""
    status = internal_status("4bf92f3577b34da6a3ce929d0e0e4736", DOMAIN)
    detail = ErrorInfo()
    status.details[0].Unpack(detail)

    assert (status.code, status.message, len(status.details)) == (
        13,
        "internal error 4bf92f3577b34da6a3ce929d0e0e4736",
        1,
    )
    assert detail == info("INTERNAL", trace_id="4bf92f3577b34da6a3ce929d0e0e4736")


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(InvalidInput("INVALID_FIELD", "x" * 100_000), id="a long message"),
        pytest.param(InvalidInput.of("f" * 100_000, "d" * 100_000), id="a long field"),
        pytest.param(
            InvalidInput(
                "INVALID_FIELD", "many", violations=(Violation("field" * 10, "bad" * 10),) * 9999
            ),
            id="many fields",
        ),
        pytest.param(NotFound("R", "gone", metadata={"id": "i" * 100_000}), id="long metadata"),
    ],
)
def test_a_status_always_fits_into_the_trailers(error: DomainError) -> None:
    """By default gRPC refuses trailers above 8 KiB, in which Base64 takes a third."""
    assert render_status(error, DOMAIN).ByteSize() <= 4096


def answered(
    code: grpc.StatusCode, error: DomainError | None = None, details: bytes | None = None
) -> grpc.aio.AioRpcError:
    """Make the error a client sees."""
    encoded = render_status(error, DOMAIN).SerializeToString() if error else details
    trailers = () if encoded is None else ((DETAILS_KEY, encoded),)
    message = error.message if error else "text"
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), details=message
    )


def facts(error: Exception) -> tuple[object, ...]:
    """List everything a domain error says."""
    assert isinstance(error, DomainError)
    return (
        type(error),
        error.reason,
        error.message,
        error.metadata,
        error.violations,
        error.retry_after,
    )


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput.of("quantity", "must be at least 0"),
        NotFound("METER_NOT_FOUND", "no meter has this id", metadata={"meter_id": "m"}),
        AlreadyExists("METER_EXISTS", "the meter exists"),
        Conflict("REQUEST_ID_REUSED", "used before", metadata={"request_id": "r"}),
        Precondition("OPEN", "drafts", violations=(Violation("inv_1", "is draft"),)),
        Exhausted(
            "LIMIT", "used up", violations=(Violation("l", "0 left"),), retry_after=TWO_SECONDS
        ),
        Unavailable("UNAVAILABLE", "no answer", retry_after=timedelta(0)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_another_service_reads_what_was_rendered(error: DomainError) -> None:
    """Class, reason, metadata, fields and delay survive the way over the wire."""
    read = read_error(answered(code_of(error), error))

    assert facts(read) == facts(error)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        pytest.param(
            grpc.StatusCode.UNAVAILABLE,
            None,
            (Unavailable, "UNAVAILABLE", "text", {}, (), None),
            id="nobody there",
        ),
        pytest.param(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            None,
            (Unavailable, "UNAVAILABLE", "another service did not answer in time", {}, (), None),
            id="no answer in time",
        ),
        pytest.param(
            grpc.StatusCode.NOT_FOUND,
            b"\xff",
            (NotFound, "NOT_FOUND", "text", {}, (), None),
            id="details that are no status",
        ),
    ],
)
def test_an_answer_without_details_is_read_by_its_code(
    code: grpc.StatusCode, details: bytes | None, expected: tuple[object, ...]
) -> None:
    """What gRPC itself answers becomes the domain error of the same code."""
    assert facts(read_error(answered(code, details=details))) == expected


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    ],
)
def test_what_only_a_mistake_of_ours_can_cause_stays_an_internal_error(
    code: grpc.StatusCode,
) -> None:
    """A service's own refused token or scope is not its caller's fault."""
    error = answered(code)

    assert read_error(error) is error


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("reason", SHARED_REASONS)
def test_every_service_names_the_shared_reasons(service: str, reason: str) -> None:
    """What kit itself raises is in every service's ErrorReason."""
    errors = import_module(f"tollkeeper.api.{service}.v1.errors_pb2")

    assert f"ERROR_REASON_{reason}" in errors.ErrorReason.keys()  # noqa: SIM118 - no mapping
