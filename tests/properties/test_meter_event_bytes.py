"""Law: an event is read from its bytes as it would be read from the message they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kit.errors import InvalidInput
from services.meter.convert.event_bytes import parse_events
from services.meter.convert.events import (
    check_event_count,
    microseconds_of,
    parse_event,
    read_quantity,
)
from services.meter.convert.twins import REQUEST_TYPES
from services.meter.model import LATEST_TIME_AHEAD, Fate, IncomingEvent
from tests.meter_world import an_event
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
    *(b"\x0a\x03\xed\xa0\x80", b"\x0a", b"\x3a", b"\x00", b"\xff"),
)
RARELY = st.sampled_from([False, False, False, True])
LONG = "x" * 126
ODD = ("", "a\tb", "line\n", "\x7f", "\xa0", "ключ", "\U0001f600", LONG, f"{LONG}x", f"{LONG}xx")


def mostly(*good: str) -> st.SearchStrategy[str]:
    """Draw what is usual, odd or anything."""
    usual = st.sampled_from(good)
    return st.one_of(usual, usual, usual, usual, st.sampled_from(ODD), st.text(max_size=140))


IDS = mostly("", "acme", "acme-2", "user:1@x", "x" * 64, "x" * 65)
KEYS = mostly("model", "a", "a b", "a!", 'a"', "a\\", "a\\b", "ab", "%s", "{}", "k" * 63)
NUMBERS = st.one_of(
    st.integers(0, 200_000).map(str),
    st.decimals(0, 10**6, places=6).map(str),
    st.sampled_from(
        ["0", "007", "0.0", "1.50", "1e3", "-1", "-0", "+1", ".5", "5.", "1_0", "\u0661"]
    ),
    st.sampled_from(["9" * 15, "9" * 38, "9" * 39, "0" * 40, "1." + "1" * 19, "0." + "1" * 18]),
    mostly("1", "12"),
)
NANOS = st.one_of(
    st.just(0), st.integers(0, 10**9 - 1), st.sampled_from([-1, 1, 127, 128, 2**14, 2**21, 10**9])
)
SECONDS = st.one_of(
    st.integers(LATEST_S - 10**7, LATEST_S - 1),
    st.integers(LATEST_S - 10**7, LATEST_S - 1),
    st.sampled_from([0, -1, 1, 946_684_799, 946_684_800, LATEST_S, LATEST_S + 1, 2**35, 2**63 - 1]),
)
TIMES = st.builds(Timestamp, seconds=SECONDS, nanos=NANOS)
SUBJECTS = st.builds(
    Subject,
    customer_id=st.one_of(st.just("acme"), IDS),
    project_id=IDS,
    user_id=st.one_of(st.just("user"), IDS),
    key_id=IDS,
    run_id=IDS,
)


@st.composite
def events(draw: st.DrawFn) -> meter_pb2.UsageEvent:
    """Draw events, of which many are not valid."""
    event = meter_pb2.UsageEvent(
        event_id=draw(mostly("e1", "0f" * 12, "x" * 127)),
        source=draw(mostly("gateway-eu", "s")),
        subject=draw(st.one_of(SUBJECTS, SUBJECTS, st.none())),
        type=draw(mostly("llm.call", "t")),
        time=draw(st.one_of(TIMES, TIMES, st.none())),
        dimensions=draw(st.dictionaries(KEYS, mostly("large", "a:b", ""), max_size=18)),
        quantities=draw(st.dictionaries(KEYS, NUMBERS, max_size=18)),
    )
    assert set(event.DESCRIPTOR.fields_by_name) == EVENT_FIELDS, "each must be drawn here"
    return event


GOOD_EVENTS = st.builds(
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


@given(st.lists(st.one_of(events(), GOOD_EVENTS), max_size=4))
@example([an_event()] * 10_001)
def test_events_are_read_from_their_bytes_as_from_themselves(
    sent: Sequence[meter_pb2.UsageEvent],
) -> None:
    """With the same texts, numbers and fingerprint; and refused for the same."""
    data = wire.IngestEventsRequest(events=sent).SerializeToString()

    assert read(from_bytes, data) == read(from_messages, data)
    assert read(from_bytes, data) == read(from_messages, data), "also when it is known"


@given(st.data())
def test_events_may_be_written_in_any_way(data: st.DataObject) -> None:
    """Each way is read as the contract's library reads it, although libraries never write so."""
    event = data.draw(GOOD_EVENTS)
    written = data.draw(rewritten(event.SerializeToString(), is_event=True))
    broken = data.draw(st.one_of(st.just(written), st.just(written), mangled(written)))
    request = field(EVENTS, an_event().SerializeToString()) + field(EVENTS, broken)

    assert read(from_bytes, request) == read(from_messages, request)


@settings(max_examples=10)
@given(GOOD_EVENTS)
def test_events_may_be_cut_short_anywhere(event: meter_pb2.UsageEvent) -> None:
    """What is left is an event that says less, or no message."""
    written = event.SerializeToString()
    requests = [field(EVENTS, written[:length]) for length in range(len(written))]

    assert [read(from_bytes, each) for each in requests] == [
        read(from_messages, each) for each in requests
    ]


@given(st.one_of(NUMBERS, st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,20})?", fullmatch=True)))
def test_quantities_are_read_by_one_rule(text: str) -> None:
    """Alone or among others, short or long, the same text is the same number."""
    event = an_event(quantities={"tokens": text})
    data = wire.IngestEventsRequest(events=[event]).SerializeToString()
    events_read = from_bytes(data)

    assert repr(events_read) == repr(from_messages(data))
    assert [
        repr(each.amounts["tokens"]) for each in events_read if isinstance(each, IncomingEvent)
    ] == [repr(read_quantity(text)[1]) for each in events_read if isinstance(each, IncomingEvent)]


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


def read(
    parse: Callable[[bytes], list[IncomingEvent | Fate]], data: bytes
) -> list[IncomingEvent | Fate] | tuple[object, ...]:
    """Read a request, or say why it is refused."""
    try:
        return parse(data)
    except InvalidInput as error:
        return error.reason, str(error), error.metadata, error.violations


@st.composite
def rewritten(draw: st.DrawFn, data: bytes, *, is_event: bool = False) -> bytes:
    """Write a message in another way: split, repeated, out of order, with what is unknown."""
    parts: list[bytes] = []
    for tag, content in fields_of(data):
        contents = [content]
        if is_event and tag in PARTS and draw(RARELY):
            contents = [draw(rewritten(content))]
        elif is_event and tag in PARTS and draw(RARELY):
            pieces = [field(*piece) for piece in fields_of(content)]
            at = draw(st.integers(0, len(pieces)))
            contents = [b"".join(pieces[:at]), b"".join(pieces[at:])]
        longer = draw(st.integers(1, 3)) if draw(RARELY) else 0
        parts += [field(tag, each, longer) for each in contents]
    if draw(RARELY) and parts:
        parts += draw(st.lists(st.sampled_from(parts), max_size=2))
    if draw(RARELY):
        parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from(UNKNOWN)))
    if draw(RARELY):
        parts = draw(st.permutations(parts))
    return b"".join(parts)


@st.composite
def mangled(draw: st.DrawFn, data: bytes) -> bytes:
    """Cut the bytes of a message short, or change one."""
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.sampled_from([b"", b"\xff", b"\x80"])) + data[at + 1 :]


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
