"""What went wrong, in words of the domain: every failure a caller may see is one of these.

Pure: it knows nothing of gRPC; `kit.rpc.status` renders each class as its status code.
It refuses free-form failures: each error carries a reason from the service's `ErrorReason`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Self, TypeVar, cast

Parsed = TypeVar("Parsed")

INVALID_FIELD = "INVALID_FIELD"
_NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field of a request: its path, for example `events[3].quantities`, and why."""

    field: str
    description: str


class DomainError(Exception):
    """A failure that the caller may know about.

    `reason` is a name of the service's `ErrorReason` without its prefix, `message` a sentence
    for people, `metadata` the same facts for programs, `retry_after` when trying again can help.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] = _NO_METADATA,
        violations: tuple[Violation, ...] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata)
        self.violations = violations
        self.retry_after = retry_after


class InvalidInput(DomainError):
    """The request cannot be read as what it must be, whatever the state of the system."""

    @classmethod
    def of(cls, field: str, description: str, reason: str = INVALID_FIELD) -> Self:
        """Make the error for one bad field."""
        violation = Violation(field, description)
        return cls(reason, f"{field}: {description}", violations=(violation,))


class NotFound(DomainError):
    """What the request names does not exist for this tenant."""


class AlreadyExists(DomainError):
    """What the request would create exists."""


class Conflict(DomainError):
    """The request contradicts another one, as a reused `request_id` does."""


class Precondition(DomainError):
    """The request is well formed, but the state of the system does not allow it."""


class Denied(DomainError):
    """The caller is known, but may not do this."""


class Unauthenticated(DomainError):
    """The caller is not known."""


class Exhausted(DomainError):
    """A limit is used up; `retry_after` says when it opens again, where that is known."""


class Unavailable(DomainError):
    """Something this needs does not answer; the same request may succeed later."""


class CannotStart(Exception):
    """The process cannot start until a person mends something; the message is one line."""


class Violations:
    """Collects every bad field of a message, so that the caller learns of all at once."""

    def __init__(self) -> None:
        self._found: list[Violation] = []
        self._reasons: set[str] = set()
        self._metadata: dict[str, str] = {}

    def add(self, field: str, description: str) -> None:
        """Note a bad field."""
        self._found.append(Violation(field, description))
        self._reasons.add(INVALID_FIELD)

    def take(self, field: str, parse: Callable[[], Parsed]) -> Parsed:
        """Answer what `parse` answers, or note why it could not.

        After a failure the answer is a placeholder: call `raise_if_any` before using it.
        Fields that `parse` names itself are understood as parts of `field`.
        """
        try:
            return parse()
        except InvalidInput as error:
            found = error.violations or (Violation(field, error.message),)
            self._found.extend(
                Violation(_path(field, violation.field), violation.description)
                for violation in found
            )
            self._reasons.add(error.reason)
            self._metadata.update(error.metadata)
            return cast("Parsed", None)

    def raise_if_any(self) -> None:
        """Raise one `InvalidInput` with everything noted; its reason is the one all share."""
        if not self._found:
            return
        first = self._found[0]
        message = f"{first.field}: {first.description}"
        if len(self._found) > 1:
            message = f"{len(self._found)} fields are invalid; the first is {message}"
        shared = next(iter(self._reasons)) if len(self._reasons) == 1 else None
        raise InvalidInput(
            shared or INVALID_FIELD,
            message,
            metadata=self._metadata if shared else _NO_METADATA,
            violations=tuple(self._found),
        )


def _path(parent: str, field: str) -> str:
    inside = field.startswith((f"{parent}.", f"{parent}["))
    return field if not parent or field == parent or inside else f"{parent}.{field}"
