"""Turns rows of a table into usage events, by columns.

A column is named as in the header; a point leads into nested values of JSON. What begins with `=`
is a value for every row. An event whose row has no id of its own gets one made of the row, so that
the same row is the same event however often the file is imported, and also after other rows of it
were mended.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from google.protobuf.timestamp_pb2 import Timestamp

from cli.importing.tables import TableRow
from kit.errors import Violation
from services.meter.convert.events import parse_event
from services.meter.model import EPOCH, Fate
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

LEVELS = ("customer", "project", "user", "key", "run")
TIME_UNITS: Mapping[str, int] = {"s": 10**6, "ms": 10**3, "us": 1}
"""Units of times that are numbers, in microseconds."""

_ID_BYTES = 12
_DIGITS_MAX = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMapping:
    """Which column is which part of the event; what is empty is left out.

    Args:
        source: Who reports the events.
        event_id: The id within the source; empty makes it of the row.
        time: When it happened.
        time_unit: The unit of times that are numbers.
        levels: The columns of the subject's levels.
        dimensions: Columns by dimension.
        quantities: Columns by quantity.
    """

    source: str
    event_id: str
    time: str
    time_unit: str
    type: str
    levels: Mapping[str, str]
    dimensions: Mapping[str, str]
    quantities: Mapping[str, str]

    def columns(self) -> Iterator[tuple[str, str]]:
        """Name every column that is mapped, with the option that names it."""
        yield "--source", self.source
        yield "--id", self.event_id
        yield "--time", self.time
        yield "--type", self.type
        for level, column in self.levels.items():
            yield f"--{level}", column
        for option, columns in (("dimension", self.dimensions), ("quantity", self.quantities)):
            for name, column in columns.items():
                yield f"--{option} {name}", column


@dataclass(frozen=True, slots=True)
class Mapped:
    """The event of a row, or what is wrong with the row, by column."""

    line: int
    event: UsageEvent
    violations: tuple[Violation, ...] = ()


@dataclass(slots=True)
class Mapper:
    """Maps the rows of one file, in their order.

    Args:
        mapping: Which column is what.
        now: What the meter's clock about says; what happened later is refused there.
    """

    mapping: ColumnMapping
    latest: datetime
    _seen: set[int] = field(default_factory=set)
    _repeats: dict[int, int] = field(default_factory=dict)

    def map(self, row: TableRow) -> Mapped:
        """Give the event of a row, checked as the meter will check it."""
        if row.fault:
            return Mapped(row.line, UsageEvent(), (Violation("", row.fault),))
        mapping, cells = self.mapping, row.cells
        event = UsageEvent()
        violations: list[Violation] = []
        self._set_texts(event, cells, violations)
        for name, column in mapping.dimensions.items():
            self._put(event.dimensions, name, column, cells, violations)
        for name, column in mapping.quantities.items():
            self._put(event.quantities, name, column, cells, violations)
        self._set_time(event, cells, violations)
        if not mapping.event_id:
            event.event_id = self._id_of(event)
        return self._checked(row.line, event, violations)

    def complete(self, line: int, event: UsageEvent, *, is_whole: bool) -> Mapped:
        """Give what a reader of traces does not know: whose it is, and an id."""
        if not is_whole:
            mapping, violations = self.mapping, list[Violation]()
            event.source = _text({}, mapping.source, violations)
            for level, column in mapping.levels.items():
                setattr(event.subject, f"{level}_id", _text({}, column, violations))
            for name, column in mapping.dimensions.items():
                self._put(event.dimensions, name, column, {}, violations)
            event.event_id = self._id_of(event)
        return self._checked(line, event, [])

    def _checked(self, line: int, event: UsageEvent, violations: list[Violation]) -> Mapped:
        named = {violation.field for violation in violations}
        latest_us = (self.latest - EPOCH) // timedelta(microseconds=1)
        parsed = parse_event(event, latest_us)
        if isinstance(parsed, Fate):
            found = (Violation(self._column(v.field), v.description) for v in parsed.violations)
            violations += [each for each in found if each.field not in named]
        return Mapped(line, event, tuple(violations))

    def _set_texts(
        self, event: UsageEvent, cells: Mapping[str, object], violations: list[Violation]
    ) -> None:
        mapping = self.mapping
        texts = {"source": mapping.source, "event_id": mapping.event_id, "type": mapping.type}
        for name, column in texts.items():
            setattr(event, name, _text(cells, column, violations))
        for level, column in mapping.levels.items():
            setattr(event.subject, f"{level}_id", _text(cells, column, violations))

    def _put(
        self,
        into: object,
        name: str,
        column: str,
        cells: Mapping[str, object],
        violations: list[Violation],
    ) -> None:
        if text := _text(cells, column, violations):
            into[name] = text  # type: ignore[index] # A map of protobuf.

    def _set_time(
        self, event: UsageEvent, cells: Mapping[str, object], violations: list[Violation]
    ) -> None:
        column = self.mapping.time
        value = _find(cells, column)
        if value is None:
            return
        try:
            time = _parse_time(value, self.mapping.time_unit)
        except ValueError as error:
            violations.append(Violation(_named(column), str(error)))
            return
        message = Timestamp()
        message.FromDatetime(time)
        event.time.CopyFrom(message)

    def _id_of(self, event: UsageEvent) -> str:
        """Make an id of the content; equal rows of one file get one each."""
        digest = blake2b(event.SerializeToString(deterministic=True), digest_size=_ID_BYTES)
        number = int.from_bytes(digest.digest(), "big")
        if number not in self._seen:
            self._seen.add(number)
            return digest.hexdigest()
        self._repeats[number] = self._repeats.get(number, 1) + 1
        return f"{digest.hexdigest()}-{self._repeats[number]}"

    def _column(self, event_field: str) -> str:
        """Name the column that a field of the event comes from."""
        mapping = self.mapping
        columns = {
            "source": mapping.source,
            "event_id": mapping.event_id or "id",
            "time": mapping.time,
            "type": mapping.type,
            **{f"subject.{level}_id": column for level, column in mapping.levels.items()},
            **{f"dimensions[{_quoted(n)}]": column for n, column in mapping.dimensions.items()},
            **{f"quantities[{_quoted(n)}]": column for n, column in mapping.quantities.items()},
        }
        column = columns.get(event_field, "")
        return _named(column) if column else event_field.replace("subject.", "")


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def _named(column: str) -> str:
    return f"the value {column[1:]!r}" if column.startswith("=") else column


def _find(cells: Mapping[str, object], column: str) -> object:
    if column.startswith("="):
        return column[1:]
    if column in cells:
        return cells[column]
    head, _, rest = column.partition(".")
    inside = cells.get(head)
    return _find(inside, rest) if rest and isinstance(inside, Mapping) else None


def _text(cells: Mapping[str, object], column: str, violations: list[Violation]) -> str:
    value = _find(cells, column) if column else None
    fault = ""
    match value:
        case None:
            text = ""
        case bool():
            text = "true" if value else "false"
        case datetime():
            text = value.isoformat()
        case str():
            text = value
            if not _is_sound(text):
                fault = "holds half of a character"
        case _:
            fault = "must be a text or a number"
    if fault:
        violations.append(Violation(_named(column), fault))
        return ""
    return text


def _is_sound(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_time(value: object, unit: str) -> datetime:
    """Read an instant; what names no zone is in UTC."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a time")  # noqa: TRY004 - told as a fault of the row.
    digits, _, fraction = value.partition(".")
    if digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX:
        if not unit:
            raise ValueError("is a number; say its unit with --time-unit")
        size = TIME_UNITS[unit]
        part = int((fraction + "000000")[:6] or "0") * size // 10**6 if fraction.isdigit() else 0
        try:
            return EPOCH + timedelta(microseconds=int(digits) * size + part)
        except OverflowError:
            raise ValueError("is too large for a time") from None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("is not a time such as 2026-03-01T12:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
