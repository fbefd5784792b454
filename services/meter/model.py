"""The nouns of metering: usage events, meters, rollups, and what is asked and answered.

Values only. A value of this module is valid; whoever makes one has checked it. Nothing here
knows a price, a limit or a window of a quota.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from kit.errors import Violation
from kit.interval import Interval

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST_TIME = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_TIME_AHEAD = timedelta(hours=1)

Amount = Decimal | int
"""A quantity; whole ones are `int`, since millions of them are added up."""


Identity = tuple[str, str]
"""What tells an event from every other of the tenant: its source and its event id."""


class UsageEvent(NamedTuple):
    """Something that was used. Its identity is `source` and `event_id`.

    `dimensions` and `quantities` are canonical texts: they are equal when, and only when, they
    mean the same. An absent level of the subject is empty.
    """

    source: str
    event_id: str
    time: datetime
    type: str
    customer_id: str
    project_id: str
    user_id: str
    key_id: str
    run_id: str
    dimensions: str
    quantities: str


class IncomingEvent(NamedTuple):
    """A usage event on its way into the store: what is needed there, and no more.

    There are 100,000 of them in a second, so it is a tuple of texts and numbers. `content` writes
    all fields but the identity, in their order, separated by tabs, which no field contains; its
    first is `time_us`, microseconds since 1970. `fingerprint` digests it. `amounts` are the
    quantities as numbers.
    """

    source: str
    event_id: str
    time_us: int
    type: str
    customer_id: str
    dimensions: str
    content: str
    fingerprint: str
    amounts: Mapping[str, Amount]
    billed: bool = False

    @property
    def identity(self) -> Identity:
        """What tells this event from every other of the tenant."""
        return self[:2]

    def event(self) -> UsageEvent:
        """Read the event back from its texts."""
        time_us, *texts = self.content.split("\t")
        time = EPOCH + timedelta(microseconds=int(time_us))
        return UsageEvent(self.source, self.event_id, time, *texts)


class StoredEvent(NamedTuple):
    """A usage event as it was taken, and when; perhaps with what a meter counts of it."""

    event: UsageEvent
    ingest_time: datetime
    billed: bool = False
    counted: Amount | None = None


class LateEvent(NamedTuple):
    """An event that came after the period of its customer was closed, and until when it was."""

    stored: StoredEvent
    closed_until: datetime


class RevisionKind(StrEnum):
    """What an event became."""

    ORIGINAL = "ORIGINAL"
    AMENDED = "AMENDED"
    VOIDED = "VOIDED"


class Revision(NamedTuple):
    """One state of a corrected event; VOIDED repeats what it held last."""

    number: int
    kind: RevisionKind
    event: UsageEvent
    reason: str
    create_time: datetime


class Rejected(NamedTuple):
    """An event that was not stored, as it was sent, and why; the same content is kept once."""

    number: int
    payload: bytes
    violations: tuple[Violation, ...]
    reject_time: datetime
    last_reject_time: datetime
    attempt_count: int


class Outcome(StrEnum):
    """What became of an event that was sent."""

    CREATED = "CREATED"
    DUPLICATE = "DUPLICATE"
    CONFLICT = "CONFLICT"
    REJECTED = "REJECTED"


class Fate(NamedTuple):
    """An outcome, and for CONFLICT and REJECTED what is wrong, by field of the event.

    A late event is CREATED and does not count. A rejected one has what was sent, and of whom, as
    far as that can be read.
    """

    outcome: Outcome
    violations: tuple[Violation, ...] = ()
    late: bool = False
    payload: bytes = b""
    customer_id: str = ""


class Aggregation(Enum):
    """How a meter adds up its events."""

    SUM = "SUM"
    COUNT = "COUNT"
    MIN = "MIN"
    MAX = "MAX"
    AVERAGE = "AVERAGE"
    UNIQUE_COUNT = "UNIQUE_COUNT"
    LATEST = "LATEST"
    WEIGHTED_SUM = "WEIGHTED_SUM"
    PERCENTILE = "PERCENTILE"


WITHOUT_QUANTITY = frozenset({Aggregation.COUNT, Aggregation.UNIQUE_COUNT})
"""Aggregations that read no quantity."""

KEEPING_VALUES = frozenset({Aggregation.UNIQUE_COUNT, Aggregation.PERCENTILE})
"""Aggregations that need every different value, and how often it occurred."""


KEEPING_MOMENTS = frozenset({Aggregation.LATEST, Aggregation.WEIGHTED_SUM})
"""Aggregations that need to know when the last event was, and perhaps the first."""


class RoundingMode(Enum):
    """How a figure is brought to fewer digits; ROUND takes halves away from zero."""

    ROUND = "ROUND"
    CEIL = "CEIL"
    FLOOR = "FLOOR"


@dataclass(frozen=True, slots=True)
class Rounding:
    """How figures are rounded, to `precision` digits after the point."""

    mode: RoundingMode
    precision: int


class TimeUnit(Enum):
    """The time by which a level is multiplied, in seconds."""

    SECOND = 1
    MINUTE = 60
    HOUR = 3_600
    DAY = 86_400


@dataclass(frozen=True, slots=True)
class Definition:
    """What a meter counts and how: what makes a new version when it changes.

    `quantity` or the CEL `expression` is what is aggregated; both are empty where there is none.
    `filters` gives, sorted by dimension, the sorted values that count. `group_by` is sorted.
    """

    event_type: str
    aggregation: Aggregation
    quantity: str = ""
    expression: str = ""
    unique_by: str = ""
    percentile: Decimal | None = None
    rounding: Rounding | None = None
    time_unit: TimeUnit = TimeUnit.SECOND
    filters: tuple[tuple[str, tuple[str, ...]], ...] = ()
    group_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Meter:
    """One version of a meter: what it counts, of which time, and how far it has counted.

    It counts events from `effective_time` to before `end_time`, where these are given. Of those
    stored before it, it has counted the ones from `counted_from` on; all where that is absent.
    Where `exact_from` is given, events before that were no longer kept when it was put.
    """

    meter_id: str
    display_name: str
    unit: str
    definition: Definition
    create_time: datetime
    version: int = 1
    effective_time: datetime | None = None
    end_time: datetime | None = None
    counted_from: datetime | None = None
    exact_from: datetime | None = None


class MeterState(NamedTuple):
    """A meter, and how many percent of the stored time it has counted."""

    meter: Meter
    percent: int


class Series(NamedTuple):
    """What one figure of usage is about; `group` has the values of the meter's `group_by`.

    History that was billed elsewhere is kept apart.
    """

    meter_id: str
    customer_id: str
    group: tuple[str, ...]
    version: int = 1
    billed: bool = False


class Moment(NamedTuple):
    """When an event happened, and what tells it from others of that microsecond."""

    time_us: int
    source: str
    event_id: str


class Tally(NamedTuple):
    """What events add up to, for any aggregation; what an aggregation does not need is absent.

    `quantity` is the sum, the extreme, or the value at `last`. For a weighted sum `first` and
    `last` are the moments of the first and the last event, and `area` is level times microseconds
    between them. `values` says how often each value occurred.
    """

    quantity: Amount
    event_count: int
    last: Moment | None = None
    first: Moment | None = None
    area: Amount | None = None
    values: Mapping[str, int] | None = None


class Span(Enum):
    """The lengths of time for which tallies are kept, in minutes; both begin at midnight of UTC."""

    QUARTER = 15
    DAY = 1_440


class Rollup(NamedTuple):
    """What the events of one series add up to, in the span of time that begins at `start`."""

    series: Series
    span: Span
    start: datetime
    tally: Tally


class Window(Enum):
    """The windows into which usage can be cut; WHOLE leaves the interval as it is."""

    WHOLE = "WHOLE"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Asks for the usage of one meter, of these customers; without any, of all of them.

    With `compares`, each row also says what its window's predecessor held. With `top`, each window
    keeps only so many rows, the largest first.
    """

    meter_id: str
    customer_ids: tuple[str, ...]
    interval: Interval
    filters: tuple[tuple[str, str], ...]
    group_by: tuple[str, ...]
    window: Window
    time_zone: ZoneInfo
    anchor: datetime | None = None
    compares: bool = False
    top: int = 0
    includes_billed: bool = False


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of one customer in one interval; `group` has the values of the query's `group_by`.

    The previous figures are those of the window before, where the query compares.
    """

    customer_id: str
    interval: Interval
    group: tuple[str, ...]
    quantity: Decimal
    event_count: int
    previous_quantity: Decimal | None = None
    previous_event_count: int = 0


class UsageSummary(NamedTuple):
    """What one subject path used, of events with equal dimensions, summed by quantity.

    `subject` has the five levels, customer first; `dimensions` is canonical text.
    """

    subject: tuple[str, str, str, str, str]
    dimensions: str
    quantities: tuple[tuple[str, Decimal], ...]
    event_count: int


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Asks for events; what is empty or absent restricts nothing."""

    customer_id: str
    type: str
    interval: Interval | None
    meter_id: str
    dimensions: tuple[tuple[str, str], ...] = ()


def canonical(entries: Iterable[tuple[str, str]]) -> str:
    """Write entries as the one JSON object that stands for them: sorted, without spaces."""
    return json.dumps(dict(sorted(entries)), ensure_ascii=False, separators=(",", ":"))
