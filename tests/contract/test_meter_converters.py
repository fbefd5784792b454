"""Events on the wire: bad ones are named field by field, good ones come back as they were."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.text_format import Merge
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import InvalidInput, Violation
from services.meter.convert.event_bytes import parse_events
from services.meter.convert.events import parse_event, render_event, render_outcomes
from services.meter.convert.twins import IngestEventsRequest
from services.meter.model import Fate, IncomingEvent, Outcome, StoredEvent, canonical
from tests.meter_world import CREATED, NOON, REJECTED, an_event
from tests.refusals import Bad
from tollkeeper.api.meter.v1 import meter_pb2

LATEST = NOON + timedelta(hours=1)
LATEST_US = int(LATEST.timestamp()) * 10**6
DECIMAL = "must be a decimal number such as 12.5"
NAME = "must have 1 to 128 characters, no control ones"
KEY = "must have a name of 1 to 63 characters, no control ones"
VALUE = "must have at most 128 characters, no control ones"
SUBJECT = "must have at most 64 letters, digits and _ . : @ -"
TYPE = "must have 1 to 63 lower-case letters, digits and _ . -"
TIME = "must be between 2000-01-01 and one hour from now"


def quantity(text: str) -> str:
    """Write an event's quantity of tokens."""
    return f'quantities {{ key: "tokens" value: "{text}" }}'


def entries(field: str, count: int) -> str:
    """Write a map of so many entries."""
    return " ".join(f'{field} {{ key: "k{n}" value: "1" }}' for n in range(count))


BAD_EVENTS = [
    Bad("no id", 'event_id: ""', ("event_id: is required",)),
    Bad("a long id", f'event_id: "{"x" * 129}"', (f"event_id: {NAME}",)),
    Bad("a NUL in the id", 'event_id: "a\\0b"', (f"event_id: {NAME}",)),
    Bad("a tab in the id", 'event_id: "a\\tb"', (f"event_id: {NAME}",)),
    Bad("a line break in the id", 'event_id: "a\\n"', (f"event_id: {NAME}",)),
    Bad("no source", 'source: ""', ("source: is required",)),
    Bad("a long source", f'source: "{"x" * 129}"', (f"source: {NAME}",)),
    Bad("no customer", 'subject { customer_id: "" }', ("subject.customer_id: is required",)),
    Bad("a space", 'subject { customer_id: "a b" }', (f"subject.customer_id: {SUBJECT}",)),
    Bad("a long user", f'subject {{ user_id: "{"x" * 65}" }}', (f"subject.user_id: {SUBJECT}",)),
    Bad("a bad project", 'subject { project_id: "\\n" }', (f"subject.project_id: {SUBJECT}",)),
    Bad("a bad key", 'subject { key_id: "ключ" }', (f"subject.key_id: {SUBJECT}",)),
    Bad("a bad run", 'subject { run_id: "a/b" }', (f"subject.run_id: {SUBJECT}",)),
    Bad("no type", 'type: ""', ("type: is required",)),
    Bad("a type in capitals", 'type: "LLM.call"', (f"type: {TYPE}",)),
    Bad("a long type", f'type: "{"x" * 64}"', (f"type: {TYPE}",)),
    Bad("a time before 2000", "time { seconds: 946684799 nanos: 999999999 }", (f"time: {TIME}",)),
    Bad("a far time", "time { seconds: 999999999999999 }", (f"time: {TIME}",)),
    Bad("a time before Christ", "time { seconds: -999999999999999 }", (f"time: {TIME}",)),
    Bad(
        "too many nanos",
        "time { nanos: 1000000000 }",
        ("time: must have nanos between 0 and 999,999,999",),
    ),
    Bad(
        "negative nanos",
        "time { nanos: -1 }",
        ("time: must have nanos between 0 and 999,999,999",),
    ),
    Bad("17 dimensions", entries("dimensions", 17), ("dimensions: must have at most 16 entries",)),
    Bad(
        "a dimension without name",
        'dimensions { key: "" value: "x" }',
        (f'dimensions[""]: {KEY}',),
    ),
    Bad(
        "a dimension with a long name",
        f'dimensions {{ key: "{"k" * 64}" value: "x" }}',
        (f'dimensions["{"k" * 63}"]: {KEY}',),
    ),
    Bad(
        "a long value",
        f'dimensions {{ key: "k" value: "{"x" * 129}" }}',
        (f'dimensions["k"]: {VALUE}',),
    ),
    Bad(
        "a NUL in a value",
        'dimensions { key: "a\\"b" value: "\\0" }',
        (f'dimensions["a\\"b"]: {VALUE}',),
    ),
    Bad("17 quantities", entries("quantities", 17), ("quantities: must have at most 16 entries",)),
    Bad(
        "a quantity without name",
        'quantities { key: "" value: "1" }',
        (f'quantities[""]: {KEY}',),
    ),
    Bad("no number", quantity(""), ('quantities["tokens"]: a decimal number is required',)),
    Bad("words", quantity("ten"), (f'quantities["tokens"]: {DECIMAL}',)),
    Bad("NaN", quantity("NaN"), (f'quantities["tokens"]: {DECIMAL}',)),
    Bad("Infinity", quantity("Infinity"), (f'quantities["tokens"]: {DECIMAL}',)),
    Bad("digits of another script", quantity("١٢"), (f'quantities["tokens"]: {DECIMAL}',)),
    Bad("a line break", quantity("1\\n"), (f'quantities["tokens"]: {DECIMAL}',)),
    Bad("an underscore", quantity("1_000"), (f'quantities["tokens"]: {DECIMAL}',)),
    Bad("a negative", quantity("-0.1"), ('quantities["tokens"]: must be at least 0',)),
    Bad(
        "40 digits",
        quantity("1" * 40),
        ('quantities["tokens"]: must have at most 38 digits',),
    ),
    Bad(
        "a huge exponent",
        quantity("1e9999"),
        ('quantities["tokens"]: must have at most 38 digits',),
    ),
    Bad(
        "19 decimals",
        quantity("0." + "1" * 19),
        ('quantities["tokens"]: must have at most 18 digits after the point',),
    ),
    Bad(
        "several at once",
        'event_id: "" type: "A" time { seconds: 1 } quantities { key: "a" value: "-1" }',
        (
            "event_id: is required",
            f"type: {TYPE}",
            f"time: {TIME}",
            'quantities["a"]: must be at least 0',
        ),
    ),
]


def violations(event: meter_pb2.UsageEvent) -> list[str]:
    """Parse an event at noon, and write what is wrong with it."""
    parsed = parse_event(event, LATEST_US)
    if isinstance(parsed, IncomingEvent):
        return []
    assert parsed.outcome is Outcome.REJECTED
    return [f"{each.field}: {each.description}" for each in parsed.violations]


@pytest.mark.parametrize("bad", BAD_EVENTS, ids=lambda bad: bad.id)
def test_a_bad_event_is_rejected_with_every_bad_field(bad: Bad) -> None:
    """Each bad field is named, with what is wrong; asking twice gives the same answer."""
    event = Merge(bad.written, an_event())

    assert (violations(event), violations(event)) == (list(bad.named), list(bad.named))


def test_an_event_without_a_time_is_rejected() -> None:
    """The time is required, since the service's own would hide a broken caller."""
    event = an_event()
    event.ClearField("time")

    assert violations(event) == ["time: is required"]


def test_an_empty_event_names_everything_it_lacks() -> None:
    """Nothing is guessed."""
    assert violations(meter_pb2.UsageEvent()) == [
        "event_id: is required",
        "source: is required",
        "subject.customer_id: is required",
        "type: is required",
        "time: is required",
    ]


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(an_event("x" * 128, source="y" * 128), id="the longest names"),
        pytest.param(an_event("\\. \\N \" ' 💶 é", source="\\"), id="odd but printable"),
        pytest.param(an_event(time=datetime(2000, 1, 1, tzinfo=UTC)), id="the earliest time"),
        pytest.param(an_event(time=LATEST), id="the latest time"),
        pytest.param(an_event(dimensions={"k" * 63: "v" * 128, "empty": ""}), id="dimensions"),
        pytest.param(an_event(dimensions={f"k{n}": "" for n in range(16)}), id="16 dimensions"),
        pytest.param(an_event(dimensions={"a\\b": '"\\u0000"'}), id="JSON's own signs"),
        pytest.param(an_event(quantities={}), id="no quantities"),
        pytest.param(an_event(quantities={"q": "9" * 38}), id="38 digits"),
        pytest.param(an_event(quantities={"q": "0." + "9" * 18}), id="18 decimals"),
        pytest.param(an_event(quantities={"q": "0"}), id="nothing used"),
    ],
)
def test_a_good_event_comes_back_as_it_was(event: meter_pb2.UsageEvent) -> None:
    """Whatever is taken is rendered again without a change."""
    parsed = parse_event(event, LATEST_US)

    assert isinstance(parsed, IncomingEvent), parsed
    rendered = render_event(StoredEvent(parsed.event(), NOON))
    expected = meter_pb2.StoredEvent(event=event)
    expected.ingest_time.FromDatetime(NOON)
    assert rendered == expected


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("1e3", "1000"),
        ("2.50", "2.5"),
        ("007", "7"),
        ("-0", "0"),
        ("+1", "1"),
        (".5", "0.5"),
        ("1E-18", "0." + "0" * 17 + "1"),
        ("0." + "5" + "0" * 23, "0.5"),
    ],
)
def test_two_texts_of_one_number_are_the_same_content(written: str, plain: str) -> None:
    """A number counts, not how it is written."""
    parsed = parse_event(an_event(quantities={"q": written}), LATEST_US)

    assert parsed == parse_event(an_event(quantities={"q": plain}), LATEST_US)


def test_finer_digits_than_microseconds_are_dropped() -> None:
    """Time is kept to the microsecond."""
    event = an_event()
    event.time.nanos = 999_999_999

    parsed = parse_event(event, LATEST_US)

    assert isinstance(parsed, IncomingEvent)
    assert parsed.event().time == NOON + timedelta(microseconds=999_999)


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=63)


@given(dimensions=st.dictionaries(names, names, max_size=5), amount=st.integers(0, 10**38 - 1))
def test_texts_are_canonical(dimensions: dict[str, str], amount: int) -> None:
    """Dimensions and quantities are the sorted JSON, whatever the order and the characters."""
    quantities = {name: str(amount) for name in dimensions}
    event = an_event(dimensions=dimensions, quantities=quantities)
    turned = an_event(
        dimensions=dict(reversed(dimensions.items())),
        quantities=dict(reversed(quantities.items())),
    )

    parsed = parse_event(event, LATEST_US)

    assert isinstance(parsed, IncomingEvent)
    assert parsed == parse_event(turned, LATEST_US)
    assert parsed.event().dimensions == canonical(dimensions.items())
    assert parsed.event().quantities == canonical(quantities.items())
    assert json.loads(parsed.event().dimensions) == dimensions
    assert parsed.amounts == dict.fromkeys(dimensions, amount)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one field, which must change the fingerprint."""

    id: str
    written: str


@pytest.mark.parametrize(
    "change",
    [
        Change("time", "time { nanos: 1000 }"),
        Change("type", 'type: "other"'),
        Change("customer", 'subject { customer_id: "zeta" }'),
        Change("project", 'subject { project_id: "p" }'),
        Change("user", 'subject { user_id: "p" }'),
        Change("key", 'subject { key_id: "p" }'),
        Change("run", 'subject { run_id: "p" }'),
        Change("dimension", 'dimensions { key: "model" value: "large" }'),
        Change("another dimension", 'dimensions { key: "x" value: "" }'),
        Change("quantity", quantity("11")),
        Change("another quantity", 'quantities { key: "x" value: "0" }'),
    ],
    ids=lambda change: change.id,
)
def test_every_field_counts_in_the_fingerprint(change: Change) -> None:
    """No two contents share a fingerprint; the identity is no part of it."""
    one = parse_event(an_event(), LATEST_US)
    other = parse_event(Merge(change.written, an_event()), LATEST_US)
    renamed = parse_event(an_event("other", source="elsewhere"), LATEST_US)

    assert isinstance(one, IncomingEvent)
    assert isinstance(other, IncomingEvent)
    assert isinstance(renamed, IncomingEvent)
    assert one.fingerprint == renamed.fingerprint
    assert one.fingerprint != other.fingerprint


def test_a_call_without_events_is_refused() -> None:
    """An empty call is a mistake of the caller."""
    with pytest.raises(InvalidInput) as refused:
        parse_events(IngestEventsRequest(), NOON)

    assert refused.value.violations == (Violation("events", "is required: 1 to 10,000 events"),)


def test_a_call_with_too_many_events_is_refused() -> None:
    """10,000 events are taken, one more is not."""
    request = IngestEventsRequest(events=[an_event().SerializeToString()] * 10_001)

    with pytest.raises(InvalidInput) as refused:
        parse_events(request, NOON)

    assert (refused.value.reason, refused.value.metadata) == (
        "PAYLOAD_TOO_LARGE",
        {"maximum": "10000"},
    )


def test_problems_name_the_event_and_the_field() -> None:
    """The answer has an outcome for each event, and details of those that need some."""
    fates = [
        Fate(Outcome.CREATED),
        Fate(Outcome.REJECTED, (Violation("time", "is required"),)),
    ]

    answer = render_outcomes(fates)

    assert list(answer.outcomes) == [CREATED, REJECTED]
    (problem,) = answer.problems
    assert (problem.index, problem.outcome) == (1, REJECTED)
    assert [(each.field, each.description) for each in problem.violations] == [
        ("events[1].time", "is required")
    ]
