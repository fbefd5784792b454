"""Usage events from the wire, read without making messages of them.

They come by the ten thousand each second, and asking a message for its fields took more than
everything else together. So the twin of a request leaves each event as bytes, of which the slices
that recur (who, the dimensions, the name of a quantity) are looked up, and the rest is read in
place. This is done only where an event is written as protobuf's libraries write it, and is valid.
All others become messages and are read by `parse_event`, so that there is one rule of what is
valid, and one way to say what is not.
"""

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar, cast

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from kit.rpc.methods import read_request
from kit.rpc.twins import Uncut, cut
from services.meter.convert.events import (
    ENTRIES_MAX,
    EVENTS_MAX,
    check_event_count,
    fingerprint_of,
    microseconds_of,
    parse_event,
    read_dimensions,
    read_quantity,
    read_time,
)
from services.meter.convert.fields import check_key, check_name, check_subject, check_type
from services.meter.convert.twins import IngestEventsRequest
from services.meter.model import LATEST_TIME_AHEAD, Amount, Fate, IncomingEvent
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as wire
from tollkeeper.api.type.v1.subject_pb2 import Subject

_ID, _TIME, _DIMENSION, _QUANTITY = 0x0A, 0x2A, 0x32, 0x3A
# The tags of source, subject and type; of the key and the value of an entry.
_WHO, _ENTRY, _ENTRY_WITHOUT_VALUE = b"\x12\x1a\x22", b"\x0a\x12", b"\x0a"
_VALUE = _ENTRY[1]
# A length of this or more takes two bytes.
_MORE = 0x80
_TIME_BYTES_MAX = 17
# Up to here the digits of a whole number are sure to be not too many.
_DIGITS_MAX = 38

# Slices that are remembered take up to 2 kB, 6 kB and 0.5 kB with what they say.
_WHO_REMEMBERED = 16_384
_DIMENSIONS_REMEMBERED = 4_096
_NAMES_REMEMBERED = 16_384

# As the class itself, without what Python does for names of arguments.
_new_event = cast("Any", partial(tuple.__new__, IncomingEvent))

Value = TypeVar("Value")


class _Remembered(dict[bytes, Value], Generic[Value]):
    """What slices say; all is forgotten when there are `most`, since what recurs comes back."""

    def __init__(self, read: Callable[[bytes], Value], most: int) -> None:
        self._read = read
        self._most = most

    def __missing__(self, data: bytes) -> Value:
        value = self._read(data)
        if len(self) >= self._most:
            self.clear()
        self[data] = value
        return value


def parse_events(
    request: Any,  # noqa: ANN401 - made at run time.
    now: datetime,
) -> list[IncomingEvent | Fate]:
    """Read each event of the twin of a request, or why it is rejected.

    Raises:
        InvalidInput: as `check_event_count`, or an event is no message.
    """
    events = request.events
    if len(events) > EVENTS_MAX:
        for data in events:
            _message(data)
    check_event_count(len(events))
    latest_us = microseconds_of(now + LATEST_TIME_AHEAD)
    return [_parse(data, latest_us) for data in events]


def _parse(data: bytes, latest_us: int) -> IncomingEvent | Fate:
    try:
        return _read(data, latest_us)
    except (DecodeError, IndexError, Uncut, ValueError):  # Of which `Bad` is one.
        return parse_event(_message(data), latest_us)


def _message(data: bytes) -> meter_pb2.UsageEvent:
    # As a part of a request, so that nothing may be nested deeper than there.
    request = read_request(
        wire.IngestEventsRequest, IngestEventsRequest(events=[data]).SerializeToString()
    )
    return cast("wire.IngestEventsRequest", request).events[0]


def _read(data: bytes, latest_us: int) -> IncomingEvent:
    """Read an event that is valid, and written as libraries write it.

    Slices follow one another without a gap. Each is either looked up, and then was seen to be
    complete with its tags and lengths, or ends where the data do at the latest.
    """
    size = len(data)
    length = data[1]
    if data[0] != _ID or not 0 < length < _MORE:
        raise Uncut
    end = length + 2
    event_id = data[2:end].decode()
    if not event_id.isprintable():
        check_name(event_id)

    start = end
    end += data[end + 1] + 2
    length = data[end + 1]
    if length >= _MORE:
        length += (data[end + 2] << 7) - _MORE + 1
    end += length + 2
    end += data[end + 1] + 2
    source, event_type, customer_id, who = _known_who[data[start:end]]

    start, length = end + 2, data[end + 1]
    if data[end] != _TIME or length > _TIME_BYTES_MAX:
        raise Uncut
    end = start + length
    time_us = read_time(Timestamp.FromString(data[start:end]), latest_us)

    start = end
    while end < size and data[end] == _DIMENSION:
        end += data[end + 1] + 2
    dimensions = _known_dimensions[data[start:end]]

    amounts: dict[str, Amount] = {}
    written: list[str] = []
    while end < size:
        start = data[end + 3] + end + 6
        name, lead, length = _known_names[data[end:start]]
        end = start + length
        digits = data[start:end]
        if length <= _DIGITS_MAX and digits.isdigit():
            amounts[name] = number = int(digits)
            written.append(f'{lead}{number}"')
        else:
            text, amounts[name] = read_quantity(digits.decode())
            written.append(f'{lead}{text}"')
    written.sort()
    if end != size or not len(amounts) == len(written) <= ENTRIES_MAX:
        raise Uncut

    content = f"{time_us}\t{who}\t{dimensions}\t{{{','.join(written)}}}"
    event: IncomingEvent = _new_event(
        (
            source,
            event_id,
            time_us,
            event_type,
            customer_id,
            dimensions,
            content,
            fingerprint_of(content),
            amounts,
            False,
        )
    )
    return event


def _read_who(data: bytes) -> tuple[str, str, str, str]:
    """Read source, subject and type; answer source, type, customer, and type and subject as text.

    The subject is valid when its ids are, and has nothing else when they fill its bytes.
    """
    tags, fields = cut(data)
    if tags != _WHO:
        raise Uncut
    source, event_type = check_name(fields[0].decode()), check_type(fields[2].decode())
    subject = Subject.FromString(fields[1])
    ids = (
        subject.customer_id,
        subject.project_id,
        subject.user_id,
        subject.key_id,
        subject.run_id,
    )
    written = check_subject(ids)
    if sum(len(each) + 2 for each in ids if each) != len(fields[1]):
        raise Uncut
    return source, event_type, ids[0], f"{event_type}\t{written}"


def _read_dimensions(data: bytes) -> str:
    tags, fields = cut(data)
    entries = tuple(map(_read_entry, fields))
    if tags.strip(bytes((_DIMENSION,))) or len(dict(entries)) != len(entries):
        raise Uncut
    return read_dimensions(entries)


def _read_entry(data: bytes) -> tuple[str, str]:
    tags, fields = cut(data)
    if tags == _ENTRY:
        return fields[0].decode(), fields[1].decode()
    if tags == _ENTRY_WITHOUT_VALUE:
        return fields[0].decode(), ""
    raise Uncut


def _read_name(data: bytes) -> tuple[str, str, int]:
    """Read the head of a quantity: its name, what stands before its digits, and how many these are.

    The texts of quantities are in the order of their names, except where a name has a character
    that comes before the quote which ends it, or the quote.
    """
    length = data[-1]
    tags, fields = cut(data[2:-2])
    is_framed = data[0] == _QUANTITY and tags == _ENTRY_WITHOUT_VALUE and data[-2] == _VALUE
    if not is_framed or data[1] != len(data) - 2 + length or data[1] >= _MORE:
        raise Uncut
    name = check_key(fields[0].decode())
    if min(name) <= '"':
        raise Uncut
    return name, f'{json.dumps(name, ensure_ascii=False)}:"', length


_known_who = _Remembered(_read_who, _WHO_REMEMBERED)
_known_dimensions = _Remembered(_read_dimensions, _DIMENSIONS_REMEMBERED)
_known_names = _Remembered(_read_name, _NAMES_REMEMBERED)
