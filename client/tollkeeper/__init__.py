"""Client for Tollkeeper: ask the gate, report usage."""

from tollkeeper.client import Hold, Tollkeeper
from tollkeeper.errors import (
    CallFailed,
    FieldProblem,
    LimitState,
    QuotaDenied,
    QuotaUnavailable,
    TollkeeperError,
    UsageNotReported,
)
from tollkeeper.events import UsageReport

__all__ = [
    "CallFailed",
    "FieldProblem",
    "Hold",
    "LimitState",
    "QuotaDenied",
    "QuotaUnavailable",
    "Tollkeeper",
    "TollkeeperError",
    "UsageNotReported",
    "UsageReport",
]
