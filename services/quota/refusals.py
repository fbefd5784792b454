"""The errors of the counters: what they refuse, and that they do not answer.

What does not fit into a limit is no error but an answer. Refuses to know where counters are kept.
"""

from datetime import timedelta

from kit.errors import Conflict, DomainError, NotFound, Precondition, Unavailable
from services.quota.model import HoldState, Kind
from services.quota.operations import Operation

KINDS = 16
"""A code of the script is a `Kind` times this, and beside it an outcome."""

_RETRY_AFTER = timedelta(seconds=1)
_METHODS = {
    Kind.RESERVE: "Reserve",
    Kind.COMMIT: "Commit",
    Kind.RELEASE: "Release",
    Kind.EXTEND: "Extend",
    Kind.MARK_DISPATCHED: "MarkDispatched",
    Kind.RECORD: "Record",
}


def unavailable(cause: OSError | None = None) -> Unavailable:
    """Make the error of counters that did not answer."""
    error = Unavailable(
        "COUNTERS_UNAVAILABLE",
        "the counters did not answer in time; repeat the call with the same request_id",
        retry_after=_RETRY_AFTER,
    )
    error.__cause__ = cause
    return error


def reused(request_id: str, kind: int) -> Conflict:
    """Make the error of a request id that was used before with other content."""
    method = _METHODS[Kind(kind)]
    return Conflict(
        "REQUEST_ID_REUSED",
        f"the request_id was used before by {method} with other content",
        metadata={"request_id": request_id, "method": method},
    )


def refusal(customer: str, operation: Operation, code: str) -> DomainError:
    """Read the error that `decide.lua` answered to an operation of a customer."""
    reservation_id = f"{operation.hold}.{customer}"
    match code[0]:
        case "1":
            return reused(operation.request_id, int(code[1:]) // KINDS)
        case "2":
            return NotFound(
                "RESERVATION_NOT_FOUND",
                "no hold with this id is known",
                metadata={"reservation_id": reservation_id},
            )
        case _:
            state = HoldState(code[1]).name
            return Precondition(
                "RESERVATION_ENDED",
                "the hold has expired"
                if state == HoldState.EXPIRED.name
                else f"another request has {state.lower()} the hold",
                metadata={"reservation_id": reservation_id, "state": state},
            )
