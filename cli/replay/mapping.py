"""Turns recorded calls into usage events: who made them, with which model, and when.

The same file with the same flags gives the same events, so that replaying it again counts nothing
twice. Usage events of a file keep their identity, customer and type.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from cli.call_meters import TRACE_DIMENSION
from cli.errors import CommandError
from cli.replay.readers import EVENTS, Row, read_rows
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.type.v1.subject_pb2 import Subject

_DIGEST_LENGTH = 16
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Survey:
    """What reading the whole file once has shown.

    Args:
        source: Who reports the events unless told otherwise; made of the file's content.
        call_count: How many calls it holds.
        first: The time of its first call.
        earliest: The time of its earliest call.
        latest: The time of its latest call.
    """

    source: str
    call_count: int
    first: datetime
    earliest: datetime
    latest: datetime


def survey(file: Path, trace_format: str) -> Survey:
    """Read the whole file, so that nothing is sent of one that cannot be read to its end.

    Raises:
        CommandError: A line cannot be read, or there is no call.
    """
    times = (event_time(row.event) for row in read_rows(file, trace_format))
    first = next(times, None)
    if first is None:
        raise CommandError(f"{file} holds no calls")
    call_count, earliest, latest = 1, first, first
    for time in times:
        call_count += 1
        earliest, latest = min(earliest, time), max(latest, time)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:_DIGEST_LENGTH]
    return Survey(f"replay-{digest}", call_count, first, earliest, latest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """How rows become usage events.

    Args:
        source: Who reports them.
        customers: The first row belongs to the first customer, the next to the next, and round.
        models: As `customers`; empty gives no model.
        project: The project of every call; may be empty.
        key: The API key of every call; may be empty.
        shift: Added to every time.
    """

    source: str
    customers: tuple[str, ...]
    models: tuple[str, ...] = ()
    project: str = ""
    key: str = ""
    shift: timedelta = timedelta()

    def to_events(self, rows: Iterator[Row], trace_format: str) -> Iterator[UsageEvent]:
        """Give the event of each row, in order."""
        for number, row in enumerate(rows):
            event = row.event
            if self.shift:
                event.time.CopyFrom(_timestamp(event_time(event) + self.shift))
            if trace_format != EVENTS:
                self._fill_in(event, number)
            yield event

    def _fill_in(self, event: UsageEvent, number: int) -> None:
        event.event_id = str(number + 1)
        event.source = self.source
        customer = self.customers[number % len(self.customers)]
        event.subject.CopyFrom(
            Subject(customer_id=customer, project_id=self.project, key_id=self.key)
        )
        event.dimensions[TRACE_DIMENSION] = self.source
        if self.models:
            event.dimensions["model"] = self.models[number % len(self.models)]


def event_time(event: UsageEvent) -> datetime:
    """Give the time of an event, to the microsecond."""
    return event.time.ToDatetime(UTC)


def interval_end(latest: datetime) -> datetime:
    """Give the end of the half-open interval whose last instant is `latest`."""
    return latest + _MICROSECOND


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
