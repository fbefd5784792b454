"""The values of the gate: who calls, what limits him, what is asked and what is answered.

Quantities are integers in quanta, times that are compared with Redis's clock are Unix milliseconds.
Nothing here decides. Values that pass through the gate by the ten thousand each second are named
tuples, because a frozen dataclass takes four times as long to make; both are immutable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import NamedTuple

QUANTITY_MAX = 10**15
LIMITS_PER_CALL_MAX = 64


class Level(IntEnum):
    """The level of the subject path at which a limit counts."""

    CUSTOMER = 1
    PROJECT = 2
    USER = 3
    KEY = 4
    RUN = 5


class Subject(NamedTuple):
    """The path of a call; an empty id names nobody at that level."""

    customer: str
    project: str = ""
    user: str = ""
    key: str = ""
    run: str = ""

    def at(self, level: Level) -> str:
        """Answer the id at a level."""
        return self[level - 1]


Dimensions = tuple[tuple[str, str], ...]
"""What tells calls apart, such as the model: names and values, ordered by name."""

Amounts = Mapping[str, int]
"""Quantities by unit."""

NOTHING_ASKED: Amounts = MappingProxyType({})


class CalendarPeriod(StrEnum):
    """A period of the calendar."""

    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    YEAR = "YEAR"


@dataclass(frozen=True, slots=True)
class CalendarWindow:
    """The capacity is there anew in each period of the calendar of an IANA time zone."""

    period: CalendarPeriod
    time_zone: str


@dataclass(frozen=True, slots=True)
class RollingRate:
    """The capacity refills continuously within each period; at most the burst is there at once.

    A burst of 0 means the capacity.
    """

    period_ms: int
    burst: int


@dataclass(frozen=True, slots=True)
class BillingPeriodWindow:
    """The capacity is there anew every so many months, counted from the anchor."""

    anchor: date
    months: int
    time_zone: str


@dataclass(frozen=True, slots=True)
class LifetimeWindow:
    """The capacity is there once."""


@dataclass(frozen=True, slots=True)
class ConcurrencyWindow:
    """The capacity is how many holds may be open at the same time."""


Window = CalendarWindow | RollingRate | BillingPeriodWindow | LifetimeWindow | ConcurrencyWindow

HOLDS = "holds"
"""The unit of limits on concurrency, of which each reserve takes one."""


class Enforcement(IntEnum):
    """What a limit does with a call for which it has no room."""

    HARD = 1
    SOFT = 2
    SHADOW = 3


class OutagePolicy(IntEnum):
    """What a limit does while its counters cannot be reached."""

    CLOSED = 1
    OPEN = 2
    LEASED = 3


@dataclass(frozen=True, slots=True)
class Limit:
    """Whom and what it covers, how much, and in which window.

    Args:
        dimensions: What a call must have; a value that ends with `*` is the start of others.
        filter: What must be true of a call, in CEL; empty is true of every call.
        overrides: The limit in whose stead this one applies to what it covers; empty for none.
        expire_time: Until when it applies; nothing for ever.
        alert_thresholds: At which per cent of the capacity somebody is to be told, ascending.
        plan_id: By whose rate card it counts other units as money; empty for none.
        outage_allowance: How much each replica admits in an outage under a leased policy.
    """

    limit_id: str
    display_name: str
    level: Level
    subject: Subject
    dimensions: Dimensions
    units: tuple[str, ...]
    capacity: int
    window: Window
    overdraft: int = 0
    enforcement: Enforcement = Enforcement.HARD
    outage_policy: OutagePolicy = OutagePolicy.CLOSED
    outage_allowance: int = 0
    filter: str = ""
    overrides: str = ""
    expire_time: datetime | None = None
    plan_id: str = ""
    alert_thresholds: tuple[int, ...] = ()

    @property
    def admits_at_once(self) -> int:
        """How much can be taken at once: capacity and overdraft, or the burst of a rolling rate."""
        if isinstance(self.window, RollingRate):
            return self.window.burst or self.capacity
        return self.capacity + self.overdraft


@dataclass(frozen=True, slots=True)
class StoredLimit:
    """A limit with the times at which it was first and last put."""

    limit: Limit
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold that was crossed, in per cent; a lifetime has no reset."""

    alert_id: int
    limit_id: str
    scope: str
    threshold: int
    capacity: int
    used: int
    reset_time: datetime | None
    create_time: datetime


class HoldId(NamedTuple):
    """A hold: its name, which is unique among those of the customer, and the customer.

    `call` says whose call it is where that may be known nowhere else: of a call that passed in an
    outage.
    """

    name: str
    customer: str
    call: tuple[Subject, Dimensions] | None = None


class CheckCall(NamedTuple):
    """Asks whether a call would pass; in shadow no limit refuses."""

    subject: Subject
    dimensions: Dimensions
    amounts: Amounts
    is_shadow: bool = False


class Estimate(NamedTuple):
    """Asks that so much of a unit be held as calls of a route have used; 0 is no bound."""

    unit: str
    quantity_max: int
    route: str


class ReserveCall(NamedTuple):
    """Asks for a hold. The fingerprint tells contents of one request id apart.

    Args:
        least: The least that is accepted of some units; where it is empty, all or nothing.
        estimates: Units beside the amounts, of which the gate says how much is held.
    """

    request_id: str
    fingerprint: bytes
    subject: Subject
    dimensions: Dimensions
    amounts: Amounts
    ttl_ms: int
    least: Amounts = NOTHING_ASKED
    is_shadow: bool = False
    estimates: tuple[Estimate, ...] = ()


class ExtendCall(NamedTuple):
    """Asks for more of a hold. Without a subject, it is that of the hold.

    Args:
        ttl_ms: How long the hold lives from now on; 0 leaves its expiry.
    """

    request_id: str
    fingerprint: bytes
    hold: HoldId
    subject: Subject | None
    dimensions: Dimensions
    amounts: Amounts
    ttl_ms: int
    least: Amounts = NOTHING_ASKED
    is_shadow: bool = False


class MarkDispatchedCall(NamedTuple):
    """Says that the call of a hold has left for its provider."""

    request_id: str
    fingerprint: bytes
    hold: HoldId


class CommitCall(NamedTuple):
    """Books what a call used. Without a subject, it is that of the hold; one of both is there."""

    request_id: str
    fingerprint: bytes
    hold: HoldId | None
    subject: Subject | None
    dimensions: Dimensions
    amounts: Amounts


class RecordCall(NamedTuple):
    """Books what was used without a hold; an instant of 0 means now."""

    request_id: str
    fingerprint: bytes
    subject: Subject
    dimensions: Dimensions
    amounts: Amounts
    event_ms: int


class ReleaseCall(NamedTuple):
    """Gives a hold back."""

    request_id: str
    fingerprint: bytes
    hold: HoldId


Call = (
    CheckCall
    | ReserveCall
    | ExtendCall
    | MarkDispatchedCall
    | CommitCall
    | RecordCall
    | ReleaseCall
)


class Kind(IntEnum):
    """What an operation asks for; the numbers are those of `decide.lua`."""

    CHECK = 0
    RESERVE = 1
    COMMIT = 2
    RELEASE = 3
    EXTEND = 4
    MARK_DISPATCHED = 5
    RECORD = 6


class Outcome(IntEnum):
    """What was decided; the numbers are those of `decide.lua`.

    The last three are answers while the counters cannot be reached.
    """

    ALLOWED = 1
    EXCEEDING = 2
    DENIED = 3
    COMMITTED = 4
    RELEASED = 5
    PARTIAL = 6
    DISPATCHED = 7
    DEGRADED_ALLOWED = 12
    DEGRADED_DENIED = 13
    JOURNALLED = 14


class HoldPhase(IntEnum):
    """Where a hold is that has not ended; the numbers are those of `decide.lua`."""

    OPEN = 0
    DISPATCHED = 1
    LATE = 2


class HoldState(StrEnum):
    """How a hold ended; the letters are those of `decide.lua`."""

    COMMITTED = "C"
    RELEASED = "R"
    EXPIRED = "X"
