"""How recorded calls become usage events, and what is checked before any is sent."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from cli.call_meters import CALLS, INPUT_TOKENS, TRACE_DIMENSION
from cli.errors import CommandError
from cli.replay.accounting import Account, MeterTotal, contribution, counts
from cli.replay.mapping import event_time
from cli.replay.replaying import Prepared, ReplayOptions, prepare
from cli.replay.sending import Pace, due_batches
from tollkeeper.api.meter.v1.meter_pb2 import DimensionValues, Meter, UsageEvent

NOW = datetime(2026, 6, 1, tzinfo=UTC)
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:00:00,10,1
2023-11-16 18:00:05,20,2
2023-11-16 18:00:03,30,3
"""


def prepared(file: Path, **changes: object) -> Prepared:
    """Prepare the replay of a file."""
    options: dict[str, object] = {
        "file": file,
        "trace_format": "auto",
        "customers": ("acme",),
        "models": (),
        "project": "",
        "key": "",
        "source": "",
        "since": None,
        "through_gate": False,
        "pace": Pace(),
    }
    return prepare(ReplayOptions(**{**options, **changes}), NOW)  # type: ignore[arg-type] # builder


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Three calls, the second and third out of order."""
    file = tmp_path / "trace.csv"
    file.write_text(TRACE)
    return file


def identities(events: Iterable[UsageEvent]) -> list[tuple[str, str]]:
    """Give the identity of each event."""
    return [(event.source, event.event_id) for event in events]


def test_the_same_file_gives_the_same_events_under_any_name(trace: Path) -> None:
    """The source comes from the content, so a renamed copy counts nothing twice."""
    copy = trace.with_name("copy.csv")
    copy.write_text(TRACE)

    assert list(prepared(trace).events()) == list(prepared(copy).events())
    assert len(set(identities(prepared(trace).events()))) == 3


def test_another_file_has_another_identity(trace: Path) -> None:
    """One call more is another file."""
    longer = trace.with_name("longer.csv")
    longer.write_text(TRACE + "2023-11-16 18:00:09,1,1\n")

    assert prepared(trace).mapping.source != prepared(longer).mapping.source


def test_customers_and_models_take_turns(trace: Path) -> None:
    """Each call has a customer and a model; the trace is a dimension, and has the source's name."""
    run = prepared(trace, customers=("a", "b"), models=("large", "small", "tiny"), source="s")

    assert [
        (event.event_id, event.subject.customer_id, dict(event.dimensions))
        for event in run.events()
    ] == [
        ("1", "a", {"model": "large", TRACE_DIMENSION: "s"}),
        ("2", "b", {"model": "small", TRACE_DIMENSION: "s"}),
        ("3", "a", {"model": "tiny", TRACE_DIMENSION: "s"}),
    ]


def test_since_moves_every_call_by_the_same_time(trace: Path) -> None:
    """The first call of the file happens then, and the gaps stay."""
    start = datetime(2026, 5, 1, 9, tzinfo=UTC)

    times = [event_time(event) for event in prepared(trace, since=start).events()]

    assert times == [start, start + timedelta(seconds=5), start + timedelta(seconds=3)]


def test_usage_events_keep_what_they_say(tmp_path: Path) -> None:
    """A file of usage events gets no other identity, customer or dimension."""
    line = {
        "eventId": "7",
        "source": "gateway",
        "subject": {"customerId": "zoo"},
        "type": "gpu.usage",
        "time": "2026-01-31T12:00:00Z",
        "quantities": {"gpu_hours": "0.25"},
    }
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps(line))

    (event,) = prepared(file).events()

    assert (event.source, event.event_id, event.subject.customer_id) == ("gateway", "7", "zoo")
    assert dict(event.dimensions) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"since": NOW}, None),
        ({"since": NOW + timedelta(hours=1)}, "the last call would happen at 2026-06-01 01:00:05"),
        ({"source": "s" * 101}, "--source is longer than 100 characters"),
    ],
)
def test_a_replay_that_cannot_work_is_refused_before_anything_is_sent(
    trace: Path, changes: dict[str, object], message: str | None
) -> None:
    """The meter takes events up to an hour ahead; up to there a replay is fine."""
    try:
        prepared(trace, **changes)
    except CommandError as error:
        said: str | None = str(error)
    else:
        said = None

    assert (said or "").startswith(message or "")
    assert (said is None) == (message is None)


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    """A header alone is more likely a mistake than a wish."""
    file = tmp_path / "empty.csv"
    file.write_text(TRACE.splitlines()[0])

    with pytest.raises(CommandError, match="holds no calls"):
        prepared(file)


def test_usage_events_never_ask_the_gate(tmp_path: Path) -> None:
    """What was used already cannot be refused."""
    file = tmp_path / "events.jsonl"
    file.write_text("{}")

    with pytest.raises(CommandError, match="only a trace can ask the gate"):
        prepared(file, through_gate=True)


async def test_batches_are_full_when_there_is_no_waiting(trace: Path) -> None:
    """As fast as possible means as few messages as possible, in order."""
    batches = due_batches(prepared(trace).events(), speed_up=0, size_max=2)

    sizes = [[event.event_id for event in batch] async for batch in batches]

    assert sizes == [["1", "2"], ["3"]]


async def test_what_is_due_is_not_held_back_for_what_is_not(trace: Path) -> None:
    """With time between calls each goes alone; one that is late goes with the one before."""
    batches = due_batches(prepared(trace).events(), speed_up=100, size_max=10)

    sizes = [[event.event_id for event in batch] async for batch in batches]

    assert sizes == [["1"], ["2", "3"]]


def test_a_meter_counts_by_type_and_filters() -> None:
    """The account reads a meter's definition as the meter service does."""
    meter = Meter(
        event_type="llm.call", filters={"model": DimensionValues(values=["large", "huge"])}
    )

    def event(event_type: str, model: str) -> UsageEvent:
        return UsageEvent(type=event_type, dimensions={"model": model})

    assert counts(meter, event("llm.call", "huge"))
    assert not counts(meter, event("llm.call", "small"))
    assert not counts(meter, UsageEvent(type="llm.call"))
    assert not counts(meter, event("gpu.usage", "huge"))


def test_a_count_adds_one_and_a_sum_its_quantity() -> None:
    """An event without the quantity adds nothing to a sum."""
    event = UsageEvent(type="llm.call", quantities={"input_tokens": "12.5"})

    assert contribution(CALLS, event) == 1
    assert contribution(INPUT_TOKENS, event) == Decimal("12.5")
    assert contribution(INPUT_TOKENS, UsageEvent()) == 0


def test_the_account_spans_every_call_it_was_told_of(trace: Path) -> None:
    """Calls out of order still lie within the asked interval."""
    account = Account([CALLS])
    for event in prepared(trace).events():
        account.add(event)

    start = datetime(2023, 11, 16, 18, tzinfo=UTC)
    assert (account.earliest, account.latest) == (start, start + timedelta(seconds=5))
    assert account.customers == {"acme"}


@pytest.mark.parametrize(
    ("metered", "alone", "agrees"),
    [("3", True, True), ("4", True, False), ("4", False, True), ("2", False, False)],
)
def test_a_meter_agrees_when_it_has_exactly_what_was_sent(
    metered: str,
    alone: bool,  # noqa: FBT001 - a column of the table above.
    agrees: bool,  # noqa: FBT001 - as above.
) -> None:
    """A meter that cannot tell this replay apart may have more, but never less."""
    assert MeterTotal("calls", Decimal(3), Decimal(metered), alone).agrees is agrees
