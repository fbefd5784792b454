"""Client for Tollkeeper: ask the gate, report usage."""

from tollkeeper.blocking import BlockingTollkeeper
from tollkeeper.client import Tollkeeper
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
from tollkeeper.headers import denial_headers, rate_limit_headers
from tollkeeper.hold import Hold
from tollkeeper.lease import Lease
from tollkeeper.reservation import Reservation
from tollkeeper.spool import SpoolFull, SpoolUnusable

__all__ = [
    "BlockingTollkeeper",
    "CallFailed",
    "FieldProblem",
    "Hold",
    "Lease",
    "LimitState",
    "QuotaDenied",
    "QuotaUnavailable",
    "Reservation",
    "SpoolFull",
    "SpoolUnusable",
    "Tollkeeper",
    "TollkeeperError",
    "UsageNotReported",
    "UsageReport",
    "denial_headers",
    "rate_limit_headers",
]
