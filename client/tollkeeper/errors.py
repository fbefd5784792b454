"""What can go wrong between a gateway and the gate, and what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import grpc
from google.rpc import error_details_pb2, status_pb2

from tollkeeper.amounts import Number, from_quanta
from tollkeeper.api.quota.v1.quota_pb2 import (
    ENFORCEMENT_SHADOW,
    ENFORCEMENT_SOFT,
    LimitStatus,
)

_ENFORCEMENTS = {ENFORCEMENT_SOFT: "soft", ENFORCEMENT_SHADOW: "shadow"}

STATUS_DETAILS_KEY = "grpc-status-details-bin"


class TollkeeperError(Exception):
    """Everything that this library raises on its own account."""


@dataclass(frozen=True, slots=True)
class LimitState:
    """A limit that applied to a call, as it stood after the decision; amounts in its unit.

    `decided` says that it refused the call, `exceeded` that the call was too much for it, refused
    or not; `enforcement` is `hard`, `soft` or `shadow`.
    """

    limit_id: str
    scope: str
    units: tuple[str, ...]
    capacity: Number
    used: Number
    reserved: Number
    remaining: Number
    reset_time: datetime | None
    retry_after: timedelta | None
    decided: bool
    exceeded: bool = False
    enforcement: str = "hard"

    def __str__(self) -> str:
        """Say how much is left, of what, for whom, and until when."""
        units = "+".join(self.units)
        text = f"limit {self.limit_id} of {self.scope}: {self.remaining} of {self.capacity} {units}"
        if self.retry_after is not None:
            return f"{text} left, retry in {self.retry_after.total_seconds():.3f} s"
        return f"{text} left, and the amount never fits" if self.decided else f"{text} left"


def parse_limit(status: LimitStatus) -> LimitState:
    """Return the state of a limit out of an answer."""
    unit = status.units[0] if status.units else ""
    return LimitState(
        limit_id=status.limit_id,
        scope=status.scope,
        units=tuple(status.units),
        capacity=from_quanta(unit, status.capacity),
        used=from_quanta(unit, status.used),
        reserved=from_quanta(unit, status.reserved),
        remaining=from_quanta(unit, status.remaining),
        reset_time=status.reset_time.ToDatetime(UTC) if status.HasField("reset_time") else None,
        retry_after=status.retry_after.ToTimedelta() if status.HasField("retry_after") else None,
        decided=status.decided,
        exceeded=status.exceeded,
        enforcement=_ENFORCEMENTS.get(status.enforcement, "hard"),
    )


class QuotaDenied(TollkeeperError):
    """The gate refused the call, and nothing was charged.

    `limits` are those that refused it, `limit` the one to wait for longest, `retry_after` how long
    to wait (None when the amount never fits), `remaining` what that limit has left. `is_degraded`
    says that the counters could not be reached, and that outage policies refused the call.
    """

    def __init__(self, limits: Sequence[LimitState], *, is_degraded: bool = False) -> None:
        self.is_degraded = is_degraded
        self.limits = tuple(limit for limit in limits if limit.decided) or (_NAMELESS,)
        self.limit = max(self.limits, key=_patience)
        self.retry_after = self.limit.retry_after
        self.remaining = self.limit.remaining
        super().__init__("refused by " + "; ".join(map(str, self.limits)))


_NAMELESS = LimitState("", "", (), 0, 0, 0, 0, None, timedelta(seconds=1), decided=True)
"""Stands for what refused a call where no limit is named."""


def _patience(limit: LimitState) -> timedelta:
    return timedelta.max if limit.retry_after is None else limit.retry_after


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """A field that was refused, and why."""

    field: str
    description: str


class CallFailed(TollkeeperError):
    """A service refused the request or could not answer it.

    `reason` is a name of that service's `ErrorReason`, empty when none was sent; `problems` names
    every bad field.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str = "",
        problems: Sequence[FieldProblem] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        self.code = code
        self.reason = reason
        self.problems = tuple(problems)
        self.retry_after = retry_after
        details = "".join(f"; {each.field}: {each.description}" for each in self.problems)
        super().__init__(f"{code.name}: {message}{details}")


class QuotaUnavailable(TollkeeperError):
    """The gate gave no answer in time. Whether the call may pass is the gateway's policy."""


class UsageNotReported(TollkeeperError):
    """The meter refused usage events, or did not take them before the client was closed."""


_CODES = {code.value[0]: code for code in grpc.StatusCode}


def parse_status(status: status_pb2.Status) -> CallFailed:
    """Return the exception for a `google.rpc.Status`."""
    info, bad_request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        for message in (info, bad_request, retry):
            detail.Unpack(message)
    return CallFailed(
        _CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        status.message,
        info.reason,
        [FieldProblem(each.field, each.description) for each in bad_request.field_violations],
        retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
    )


def parse_rpc_error(error: grpc.aio.AioRpcError) -> CallFailed:
    """Return the exception for a failed call."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return parse_status(status_pb2.Status.FromString(value))
    return CallFailed(error.code(), error.details() or "no details")
