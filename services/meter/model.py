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
    """A usage event as it was taken, and when."""

    event: UsageEvent
    ingest_time: datetime


class Outcome(StrEnum):
    """What became of an event that was sent."""

    CREATED = "CREATED"
    DUPLICATE = "DUPLICATE"
    CONFLICT = "CONFLICT"
    REJECTED = "REJECTED"


class Fate(NamedTuple):
    """An outcome, and for CONFLICT and REJECTED what is wrong, by field of the event."""

    outcome: Outcome
    violations: tuple[Violation, ...] = ()


class Aggregation(Enum):
    """How a meter adds up its events."""

    SUM = "SUM"
    COUNT = "COUNT"


@dataclass(frozen=True, slots=True)
class Meter:
    """Which events count, how they add up, and by which dimensions they can be told apart.

    `quantity` is what SUM adds, and empty for COUNT. `filters` gives, sorted by dimension, the
    sorted values that count. `group_by` is sorted.
    """

    meter_id: str
    display_name: str
    event_type: str
    aggregation: Aggregation
    quantity: str
    filters: tuple[tuple[str, tuple[str, ...]], ...]
    group_by: tuple[str, ...]
    unit: str
    create_time: datetime


class Series(NamedTuple):
    """What one figure of usage is about; `group` has the values of the meter's `group_by`."""

    meter_id: str
    customer_id: str
    group: tuple[str, ...]


class Rollup(NamedTuple):
    """The usage of one series in the hour that starts at `hour`."""

    series: Series
    hour: datetime
    quantity: Amount
    event_count: int


class Window(Enum):
    """The windows into which usage can be cut; WHOLE leaves the interval as it is."""

    WHOLE = "WHOLE"
    HOUR = "HOUR"
    DAY = "DAY"
    MONTH = "MONTH"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Asks for the usage of one meter. An empty customer stands for all of them."""

    meter_id: str
    customer_id: str
    interval: Interval
    filters: tuple[tuple[str, str], ...]
    group_by: tuple[str, ...]
    window: Window
    time_zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of one customer in one interval; `group` has the values of the query's `group_by`."""

    customer_id: str
    interval: Interval
    group: tuple[str, ...]
    quantity: Decimal
    event_count: int


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


def canonical(entries: Iterable[tuple[str, str]]) -> str:
    """Write entries as the one JSON object that stands for them: sorted, without spaces."""
    return json.dumps(dict(sorted(entries)), ensure_ascii=False, separators=(",", ":"))
