"""Law: an event is read from its bytes as it would be read from the message they are of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.errors import InvalidInput
from services.meter.convert.event_bytes import parse_events
from services.meter.convert.events import (
    check_event_count,
    microseconds_of,
    parse_event,
)
from services.meter.convert.twins import REQUEST_TYPES
from services.meter.model import LATEST_TIME_AHEAD, Fate, IncomingEvent
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as wire
from tollkeeper.api.type.v1.subject_pb2 import Subject

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATEST_US = microseconds_of(NOW + LATEST_TIME_AHEAD)
LATEST_S = LATEST_US // 10**6
EVENT_FIELDS = {"event_id", "source", "subject", "type", "time", "dimensions", "quantities"}
LEN = 2
EVENTS = 0x0A
# The tags of the subject, the time, and entries of both maps.
PARTS = {0x1A, 0x2A, 0x32, 0x3A}
# Fields nobody knows, of other kinds than ours, and ours with what is no text or no entry.
UNKNOWN = (
    *(b"\x78\x01", b"\x7a\x01a", b"\x7b\x7c", b"\x7d0000", b"\x79" + b"0" * 8, b"\xfa\x01\x00"),
    *(b"\x7b" * depth + b"\x7c" * depth for depth in (96, 97, 98, 99, 100, 101)),
    *(b"\x08\x01", b"\x10\x01", b"\x18\x01", b"\x0a\x00", b"\x0a\x01\xff", b"\x12\x01\xc0"),
    *(b"\x3a\x00", b"\x32\x00", b"\x2a\x00", b"\x1a\x00", b"\x22\x00", b"\x3a\x02\x0a\x00"),
    *(b"\x32\x06\x0a\x01z\x12\x011", b"\x3a\x06\x0a\x01z\x12\x011", b"\x3a\x03\x0a\x01z"),
    *(b"\x0a\x03\xed\xa0\x80", b"\x0a", b"\x3a", b"\x00", b"\xff"),
)
LENGTHS = (0, 1, 63, 64, 65, 127, 128, 129, 300, 2**14)
SOME = ("acme", "acme-2", "user:1@x", "model", "a", "a b", "a!", 'a"', "a\\", "a\\b", "%s", "{}")
ODD = (
    "",
    "a\tb",
    "line\n",
    "\x7f",
    "\xa0",
    "ключ",
    "\U0001f600",
    *("x" * each for each in LENGTHS),
)
NUMBERS = (
    *("0", "007", "0.0", "1.50", "0.5", "12", "1e3", "-1", "-0", "+1", ".5", "5.", "1_0", "\u0661"),
    *("9" * 15, "9" * 38, "9" * 39, "0" * 40, "1." + "1" * 18, "1." + "1" * 19, "0." + "1" * 18),
    *("1" * 14 + ".5", "1" * 15 + ".50", "1 ", "", "1.0000000000000000000", "0" * 130),
)
SECONDS = (
    0,
    -1,
    1,
    946_684_799,
    946_684_800,
    LATEST_S - 1,
    LATEST_S,
    LATEST_S + 1,
    2**35,
    2**63 - 1,
)
NANOS = (0, -1, 1, 999, 1_000, 2**7, 2**14, 2**21, 2**28, 10**9 - 1, 10**9, 2**31 - 1)
LEVELS = ("customer_id", "project_id", "user_id", "key_id", "run_id")
GOOD = meter_pb2.UsageEvent(
    event_id="e1",
    source="gateway-eu",
    subject=Subject(customer_id="acme", project_id="p", user_id="u", key_id="k", run_id="r"),
    type="llm.call",
    time=Timestamp(seconds=LATEST_S - 7200, nanos=123_456_789),
    dimensions={"model": "large", "region": "eu"},
    quantities={"input_tokens": "1187", "seconds": "1.25"},
)
PLAIN = meter_pb2.UsageEvent(
    event_id="x" * 127,
    source="s",
    subject=Subject(customer_id="c" * 64, key_id="k" * 64),
    type="t",
    time=Timestamp(seconds=10**9),
)

texts = st.one_of(st.sampled_from(SOME), st.sampled_from(ODD), st.text(max_size=140))
numbers = st.one_of(
    st.integers(0, 200_000).map(str),
    st.decimals(0, 10**6, places=6).map(str),
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,20})?", fullmatch=True),
    st.sampled_from(NUMBERS),
    texts,
)
good_events = st.builds(
    meter_pb2.UsageEvent,
    event_id=st.uuids().map(str),
    source=st.sampled_from(["gateway-eu", "шлюз"]),
    subject=st.builds(
        Subject, customer_id=st.sampled_from(["acme", "zeta"]), run_id=st.uuids().map(str)
    ),
    type=st.just("llm.call"),
    time=st.builds(
        Timestamp, seconds=st.integers(10**9, LATEST_S - 1), nanos=st.integers(0, 10**9 - 1)
    ),
    dimensions=st.dictionaries(st.text("abé:", min_size=1), st.text("ab:;", max_size=9)),
    quantities=st.dictionaries(
        st.one_of(st.sampled_from(["input_tokens", "requests"]), st.text('ab" \\!', min_size=1)),
        st.integers(0, 10**20).map(str),
    ),
)


@st.composite
def events(draw: st.DrawFn) -> meter_pb2.UsageEvent:
    """Draw events of which any field may be any text."""
    subject = st.builds(Subject, **dict.fromkeys(LEVELS, texts))
    time = st.builds(
        Timestamp, seconds=st.sampled_from(SECONDS), nanos=st.integers(-(2**31), 2**31 - 1)
    )
    event = meter_pb2.UsageEvent(
        event_id=draw(texts),
        source=draw(texts),
        subject=draw(st.none() | subject),
        type=draw(texts),
        time=draw(st.none() | time),
        dimensions=draw(st.dictionaries(texts, texts)),
        quantities=draw(st.dictionaries(texts, numbers)),
    )
    assert set(event.DESCRIPTOR.fields_by_name) == EVENT_FIELDS, "each must be drawn here"
    return event


def odd_events() -> Iterator[meter_pb2.UsageEvent]:
    """Make events that are good, or all but for one field."""
    for text in (*SOME, *ODD):
        for name in ("event_id", "source", "type"):
            yield meter_pb2.UsageEvent(**(parts_of(GOOD) | {name: text}))
        for level in LEVELS:
            subject = Subject(**(parts_of(GOOD.subject) | {level: text}))
            yield meter_pb2.UsageEvent(**(parts_of(GOOD) | {"subject": subject}))
        for entries in ({text: "1"}, {"a": "1", text: "2"}, {"a": text}, {"a\\c": "1", text: "2"}):
            yield meter_pb2.UsageEvent(**(parts_of(GOOD) | {"dimensions": entries}))
            yield meter_pb2.UsageEvent(**(parts_of(GOOD) | {"quantities": entries}))
    for seconds, nanos in product(SECONDS, NANOS):
        time = Timestamp(seconds=seconds, nanos=nanos)
        yield meter_pb2.UsageEvent(**(parts_of(GOOD) | {"time": time}))
    for number in NUMBERS:
        yield meter_pb2.UsageEvent(**(parts_of(GOOD) | {"quantities": {"tokens": number}}))
    for name, count in product(("dimensions", "quantities"), (0, 1, 15, 16, 17)):
        entries = {f"k{number}": "1" for number in range(count)}
        yield meter_pb2.UsageEvent(**(parts_of(GOOD) | {name: entries}))


def parts_of(message: Message) -> dict[str, Any]:
    """Give the fields of a message by name."""
    return {descriptor.name: value for descriptor, value in message.ListFields()}


@given(st.lists(st.one_of(events(), good_events), max_size=4))
@example([GOOD] * 10_001)
def test_events_are_read_from_their_bytes_as_from_themselves(
    sent: Sequence[meter_pb2.UsageEvent],
) -> None:
    """With the same texts, numbers and fingerprint; and refused for the same."""
    data = wire.IngestEventsRequest(events=sent).SerializeToString()

    assert read(from_bytes, data) == read(from_messages, data)
    assert read(from_bytes, data) == read(from_messages, data), "also when it is known"


def test_one_odd_field_is_found() -> None:
    """However it is odd, the event is what its message is."""
    for event in odd_events():
        data = wire.IngestEventsRequest(events=[event]).SerializeToString()

        assert read(from_bytes, data) == read(from_messages, data)


@pytest.mark.parametrize("event", [GOOD, PLAIN], ids=["full", "plain"])
def test_events_may_be_written_otherwise(event: meter_pb2.UsageEvent) -> None:
    """Each way is read as the contract's library reads it, although libraries never write so."""
    before = field(EVENTS, GOOD.SerializeToString())
    for written in rewritten(event.SerializeToString(), parts=PARTS):
        data = before + field(EVENTS, written)

        assert read(from_bytes, data) == read(from_messages, data), written


@given(good_events, st.data())
def test_any_event_may_be_written_otherwise(
    event: meter_pb2.UsageEvent, data: st.DataObject
) -> None:
    """Each way is read as the contract's library reads it."""
    ways = list(rewritten(event.SerializeToString(), parts=PARTS))
    request = field(EVENTS, data.draw(st.sampled_from(ways)))

    assert read(from_bytes, request) == read(from_messages, request)


@settings(max_examples=10)
@given(good_events)
@example(GOOD)
@example(PLAIN)
def test_events_may_be_cut_short_anywhere(event: meter_pb2.UsageEvent) -> None:
    """What is left is an event that says less, or no message."""
    written = event.SerializeToString()
    requests = [field(EVENTS, written[:length]) for length in range(len(written))]

    assert [read(from_bytes, each) for each in requests] == [
        read(from_messages, each) for each in requests
    ]


def test_of_too_many_events_each_must_be_a_message() -> None:
    """What is no message is told before how many there are, as by the library."""
    good = field(EVENTS, GOOD.SerializeToString())

    with pytest.raises(InvalidInput, match="no message of its type"):
        from_bytes(good * 10_000 + field(EVENTS, b"\x0a\x01\xff"))


def from_bytes(data: bytes) -> list[IncomingEvent | Fate]:
    """Read a request as the server does."""
    try:
        twin = REQUEST_TYPES["IngestEvents"].FromString(data)
    except DecodeError as error:
        raise InvalidInput("INVALID_FIELD", "the request is no message of its type") from error
    return parse_events(twin, NOW)


def from_messages(data: bytes) -> list[IncomingEvent | Fate]:
    """Read a request as the contract says."""
    try:
        request = wire.IngestEventsRequest.FromString(data)
    except DecodeError as error:
        raise InvalidInput("INVALID_FIELD", "the request is no message of its type") from error
    check_event_count(len(request.events))
    return [parse_event(each, LATEST_US) for each in request.events]


def read(parse: Callable[[bytes], list[IncomingEvent | Fate]], data: bytes) -> str:
    """Read a request, or say why it is refused; digits count, and not the order of amounts."""
    try:
        parsed = parse(data)
    except InvalidInput as error:
        return repr((error.reason, str(error), error.metadata, error.violations))
    return repr(
        [
            each._replace(amounts=dict(sorted(each.amounts.items())))
            if isinstance(each, IncomingEvent)
            else each
            for each in parsed
        ]
    )


def rewritten(data: bytes, parts: Collection[int] = ()) -> Iterator[bytes]:
    """Write a message in other ways, each with one change; also within `parts`, given by tags."""
    fields = fields_of(data)
    written = [field(*each) for each in fields]
    for at, (tag, content) in enumerate(fields):
        before, after = b"".join(written[:at]), b"".join(written[at + 1 :])
        for way in (*_rewritten_field(tag, content), *_rewritten_part(tag, content, parts)):
            yield before + way + after
    yield from (data + unknown for unknown in UNKNOWN)
    for at in range(len(written) - 1):
        yield b"".join((*written[:at], written[at + 1], written[at], *written[at + 2 :]))


def _rewritten_field(tag: int, content: bytes) -> Iterator[bytes]:
    same = field(tag, content)
    yield from (b"", same + same)
    yield from (unknown + same for unknown in UNKNOWN)
    if tag & 7 == LEN:
        yield from (field(tag, content, longer) for longer in (1, 2, 8, 9, 10))
        yield from (field(tag, other) for other in (content[:-1], content + b"x", b"\xff"))
        yield from (field(tag, b"x" * length) for length in LENGTHS)
        yield from (field(other, content) for other in (0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x3A, 0x7A))
    else:
        yield from (same[:-1] + bytes((same[-1] | 0x80,)) + end for end in (b"\x00", b"\x80", b""))


def _rewritten_part(tag: int, content: bytes, parts: Collection[int]) -> Iterator[bytes]:
    if tag not in parts:
        return
    for other in rewritten(content):
        yield field(tag, other)
        yield field(tag, content) + field(tag, other)
    pieces = [field(*piece) for piece in fields_of(content)]
    for at in range(len(pieces) + 1):
        yield field(tag, b"".join(pieces[:at])) + field(tag, b"".join(pieces[at:]))


def fields_of(data: bytes) -> list[tuple[int, bytes]]:
    """Cut what the library wrote into fields: the tag, and the content or the number."""
    fields, at = [], 0
    while at < len(data):
        tag, start = data[at], at + 1
        at = start + 1
        while data[at - 1] & 0x80:
            at += 1
        if tag & 7 == LEN:
            length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data[start:at]))
            start, at = at, at + length
        fields.append((tag, data[start:at]))
    return fields


def field(tag: int, content: bytes, longer: int = 0) -> bytes:
    """Write a field, with so many bytes of its length that are not needed."""
    if tag & 7 != LEN:
        return bytes((tag,)) + content
    length = len(content)
    parts: list[int] = []
    while length or not parts:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    parts += [0x80] * longer
    return bytes((tag, *parts[:-1], parts[-1] & 0x7F)) + content
