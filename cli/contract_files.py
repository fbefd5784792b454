"""Files in which people write messages of the contract as YAML.

The fields are those of the contract; a decimal is a number as written, an enum value its last words
in lower case. Refuses unknown fields, and numbers that carry the noise of binary fractions; tells
every fault of a file at once, each with its line and column.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from collections.abc import Mapping as ReadOnly
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.decimal_pb2 import Decimal as DecimalMessage

from cli.errors import CommandError
from cli.yaml_tree import Mapping, Node, Place, Scalar, Sequence
from kit.decimals import EXACT, parse_decimal, plain
from kit.errors import InvalidInput
from kit.rpc.wire import render_time
from tollkeeper.api.meter.v1.meter_pb2 import DimensionValues

_START = Place(1, 1)
_SAFE_DIGITS = Context(prec=15)
_DIGITS_OF_A_FLOAT = (16, 17)
_DIGITS_MEANT_MAX = 12
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}")
_LONG_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_DURATION = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>ms|s|m|h|d)")
_DURATION_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_TRUTHS = {"true": True, "false": False}
_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")
_LAST_PART = re.compile(r"(?:\.[^.\[]*|\[[0-9]+\]|^[^.\[]*)$")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a file, where it stands; `field` is empty for a fault of the YAML."""

    place: Place
    field: str
    description: str


class InvalidFile(CommandError):
    """A file with faults; the message has a line for each: `file:line:column: what`."""

    def __init__(self, path: Path, faults: Iterable[Fault]) -> None:
        self.faults = tuple(
            sorted(faults, key=lambda fault: (fault.place.line, fault.place.column))
        )
        super().__init__("\n".join(_written(path, fault) for fault in self.faults))


@dataclass
class Reading:
    """Turns a tree into messages, noting where everything stands and what is wrong."""

    places: dict[str, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fill(self, message: Message, node: Node, path: str) -> None:
        """Fill a message from a mapping that stands at `path`; no path is the file itself."""
        message.SetInParent()
        fields = cast("ReadOnly[str, FieldDescriptor]", message.DESCRIPTOR.fields_by_name)
        for name, value in self.entries(node, path, tuple(fields)):
            inner = f"{path}.{name}" if path else name
            oneof = fields[name].containing_oneof
            given = message.WhichOneof(oneof.name) if oneof else None
            if given:
                self.fault(value.place, inner, f"cannot stand beside {given}: choose one")
            elif _is_map(fields[name]):
                self._fill_map(getattr(message, name), value, inner)
            elif fields[name].is_repeated:
                self._fill_list(getattr(message, name), fields[name], value, inner)
            elif fields[name].message_type:
                self._fill_value(getattr(message, name), value, inner)
            else:
                self._set_scalar(message, fields[name], value, inner)

    def _fill_value(self, message: Message, node: Node, path: str) -> None:
        match message:
            case DecimalMessage():
                self._fill_decimal(message, node, path)
            case Timestamp():
                self._fill_time(message, node, path)
            case Duration():
                self._fill_duration(message, node, path)
            case _:
                self.fill(message, node, path)

    # Protobuf's repeated fields and maps share no type: hence Any.
    def _fill_list(self, values: Any, field: FieldDescriptor, node: Node, path: str) -> None:  # noqa: ANN401
        for inner, item in self.items(node, path):
            if field.message_type:
                self._fill_value(values.add(), item, inner)
            elif field.enum_type:
                values.extend(self._enum_numbers(field.enum_type, item, inner))
            else:
                values.extend(self._texts([(inner, item)]))

    def _fill_map(self, values: Any, node: Node, path: str) -> None:  # noqa: ANN401
        for name, value in self.entries(node, path, known=None):
            inner = f"{path}.{name}"
            if isinstance(values.GetEntryClass()().value, DimensionValues):
                several = isinstance(value, Sequence)
                items = self.items(value, inner) if several else [(inner, value)]
                values[name].values.extend(self._texts(items))
            else:
                for text in self._texts([(inner, value)]):
                    values[name] = text

    def _set_scalar(self, message: Message, field: FieldDescriptor, node: Node, path: str) -> None:
        for text in self._texts([(path, node)]):
            if field.enum_type:
                for number in self._enum_numbers(field.enum_type, node, path):
                    setattr(message, field.name, number)
            elif field.type == FieldDescriptor.TYPE_STRING:
                setattr(message, field.name, text)
            elif field.type == FieldDescriptor.TYPE_BOOL:
                if text in _TRUTHS:
                    setattr(message, field.name, _TRUTHS[text])
                else:
                    self.fault(node.place, path, "must be true or false")
            elif _whole_number(field).fullmatch(text):
                setattr(message, field.name, int(text))
            else:
                self.fault(node.place, path, "must be a whole number")

    def _enum_numbers(self, enum: EnumDescriptor, node: Node, path: str) -> Iterator[int]:
        """Answer the number of a word, or note that there is no such word."""
        numbers = _enum_words(enum)
        for text in self._texts([(path, node)]):
            if text in numbers:
                yield numbers[text]
            else:
                self.fault(node.place, path, f"must be one of {', '.join(numbers)}")

    def _fill_time(self, message: Timestamp, node: Node, path: str) -> None:
        for text in self._texts([(path, node)]):
            try:
                message.CopyFrom(render_time(datetime.fromisoformat(text)))
            except (TypeError, ValueError):
                self.fault(node.place, path, "must be a time such as 2026-04-01T00:00:00Z")

    def _fill_duration(self, message: Duration, node: Node, path: str) -> None:
        for text in self._texts([(path, node)]):
            duration = parse_duration(text)
            if duration is None:
                self.fault(node.place, path, "must be a duration such as 60s, 15m or 1h")
            else:
                message.FromTimedelta(duration)

    def _fill_decimal(self, message: DecimalMessage, node: Node, path: str) -> None:
        for text in self._texts([(path, node)]):
            message.value = text
            meant = _without_noise(text)
            if meant is not None and isinstance(node, Scalar) and not node.is_quoted:
                self.fault(
                    node.place,
                    path,
                    f"{text} carries the noise of a binary fraction: write {meant},"
                    " or quote the number if every digit is meant",
                )

    def _texts(self, items: Iterable[tuple[str, Node]]) -> Iterator[str]:
        """Go through the items that are texts, and note those that are not."""
        for path, node in items:
            if isinstance(node, Scalar):
                yield node.text
            else:
                self.fault(node.place, path, "must be a single value")

    def items(self, node: Node, path: str) -> Iterator[tuple[str, Node]]:
        """Go through the items of a list, each with its path."""
        if not isinstance(node, Sequence):
            self.fault(node.place, path, "must be a list")
            return
        for index, item in enumerate(node.items):
            inner = f"{path}[{index}]"
            self.places[inner] = item.place
            yield inner, item

    def entries(
        self, node: Node, path: str, known: Collection[str] | None
    ) -> Iterator[tuple[str, Node]]:
        """Go through the fields of a mapping that are known, given once, and not null."""
        if not isinstance(node, Mapping):
            self.fault(node.place, path, "must be a mapping of fields to values")
            return
        for key, value in node.entries:
            name = key.text
            inner = f"{path}.{name}" if path else name
            if known is not None and name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(known)}"
                self.fault(key.place, inner, f"is no field here: {hint}")
            elif inner in self.places:
                self.fault(key.place, inner, "is given twice")
            else:
                self.places[inner] = value.place
                if not (isinstance(value, Scalar) and value.is_null):
                    yield name, value

    def fault(self, place: Place, path: str, description: str) -> None:
        """Note something wrong."""
        self.faults.append(Fault(place, path, description))


def parse_duration(text: str) -> timedelta | None:
    """Read a whole number of ms, s, m, h or d; None when it is something else."""
    match = _DURATION.fullmatch(text)
    return match and int(match["count"]) * _DURATION_UNITS[match["unit"]]


def _whole_number(field: FieldDescriptor) -> re.Pattern[str]:
    is_long = field.type == FieldDescriptor.TYPE_INT64
    return _LONG_WHOLE_NUMBER if is_long else _WHOLE_NUMBER


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _enum_words(enum: EnumDescriptor) -> dict[str, int]:
    """Name the values of an enum as files do: AGGREGATION_SUM is `sum`; zero has no word."""
    prefix = f"{_WORD_START.sub('_', enum.name).upper()}_"
    return {
        value.name.removeprefix(prefix).lower(): value.number
        for value in enum.values
        if value.number
    }


def _without_noise(text: str) -> str | None:
    """Answer what a number was before a program wrote it as a binary fraction, if that shows.

    A double has 15 safe decimal digits and is written with up to 17; the noise shows when 16 or 17
    are there, and rounding to 15 leaves 12 or fewer: 0.30000000000000004 was 0.3.
    """
    try:
        value = parse_decimal(text, "number").normalize(EXACT)
    except InvalidInput:
        return None
    is_fraction = int(value.as_tuple().exponent) < 0
    if not is_fraction or len(value.as_tuple().digits) not in _DIGITS_OF_A_FLOAT:
        return None
    meant = _SAFE_DIGITS.plus(value).normalize(EXACT)
    return plain(meant) if len(meant.as_tuple().digits) <= _DIGITS_MEANT_MAX else None


def place_of(path: str, places: ReadOnly[str, Place]) -> Place:
    """Find where a field stands, or the innermost field around it that stands anywhere."""
    while path and path not in places:
        path = _LAST_PART.sub("", path)
    return places.get(path, _START)


def _written(path: Path, fault: Fault) -> str:
    what = f"{fault.field}: {fault.description}" if fault.field else fault.description
    return f"{path}:{fault.place.line}:{fault.place.column}: {what}"
