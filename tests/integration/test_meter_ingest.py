"""Events at a real meter service: each counted once, whatever is repeated, mixed up or wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import grpc.aio
import pytest
from google.protobuf.text_format import Merge

from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.settings import ServiceSettings
from tests.meter_world import (
    CONFLICT,
    CREATED,
    DUPLICATE,
    NOON,
    REJECTED,
    TODAY,
    World,
    a_meter,
    an_event,
    meter_world,
    some_events,
)
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

# Fewer go in one statement, more through COPY.
SIZES = pytest.mark.parametrize("size", [3, 500], ids=["a small call", "a large call"])


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon."""
    async with meter_world(settings_for, keys, tenant) as running:
        yield running


def problems(answer: messages.IngestEventsResponse) -> list[tuple[int, int, str, str]]:
    """List what is wrong: the event, its outcome, the field and the description."""
    return [
        (problem.index, problem.outcome, each.field, each.description)
        for problem in answer.problems
        for each in problem.violations
    ]


async def send_bytes(world: World, method: str, data: bytes) -> None:
    """Send a request that may be no message, and wait for the answer."""
    path = f"/tollkeeper.api.meter.v1.MeterService/{method}"
    async with open_channel(world.address) as channel:
        if method == "StreamEvents":
            stream: Any = channel.stream_stream(path)
            await anext(aiter(stream(iter([data]), metadata=world.token())))
        else:
            call: Any = channel.unary_unary(path)
            await call(data, metadata=world.token())


@SIZES
async def test_a_repeated_call_changes_nothing(world: World, size: int) -> None:
    """The same events again are duplicates, and the usage stays what it was."""
    await world.put_meter()
    events = some_events(size)

    first = await world.ingest(*events)
    second = await world.ingest(*events)

    assert list(first.outcomes) == [CREATED] * size
    assert (list(second.outcomes), problems(second)) == ([DUPLICATE] * size, [])
    assert await world.usage() == [("acme", str(10 * size), size)]


@SIZES
async def test_a_call_may_overlap_an_earlier_one(world: World, size: int) -> None:
    """Known events are duplicates, new ones are created, each in its place."""
    await world.put_meter()
    await world.ingest(*some_events(size))

    answer = await world.ingest(*some_events(2 * size))

    assert list(answer.outcomes) == [DUPLICATE] * size + [CREATED] * size
    assert await world.usage() == [("acme", str(20 * size), 2 * size)]


@SIZES
async def test_events_may_repeat_within_a_call(world: World, size: int) -> None:
    """The first of an identity is created; the others are compared with it."""
    await world.put_meter()
    other = an_event("e0", quantities={"tokens": "11"})

    answer = await world.ingest(*some_events(size), *some_events(size), other)

    assert list(answer.outcomes) == [CREATED] * size + [DUPLICATE] * size + [CONFLICT]
    assert problems(answer) == [
        (
            2 * size,
            CONFLICT,
            f'events[{2 * size}].quantities["tokens"]',
            'is "11", and "10" is stored',
        )
    ]
    assert await world.usage() == [("acme", str(10 * size), size)]


@pytest.mark.parametrize("method", ["IngestEvents", "ImportUsage", "StreamEvents"])
async def test_an_event_that_is_no_message_spoils_its_call(world: World, method: str) -> None:
    """The call is no message of its type then, and nothing of it is stored."""
    good = an_event().SerializeToString()
    no_text = good.replace(b"gateway", b"gatewa\xff")
    tag = b"\x12" if method == "StreamEvents" else b"\x0a"
    written = b"".join(tag + bytes((len(each),)) + each for each in (good, no_text))

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await send_bytes(world, method, written)

    refused = read_error(failed.value)
    assert isinstance(refused, InvalidInput)
    assert str(refused) == "the request is no message of its type"
    assert await world.events() == []


async def test_the_same_identity_with_other_content_is_a_conflict(world: World) -> None:
    """Every field that differs is named, nothing changes, and the first content stays."""
    await world.put_meter()
    await world.ingest(an_event())
    later = NOON - timedelta(days=40, microseconds=1)
    other = an_event(customer_id="zeta", time=later, dimensions={}, quantities={"tokens": "10.5"})

    answer = await world.ingest(other, an_event("e2"))

    assert list(answer.outcomes) == [CONFLICT, CREATED]
    assert problems(answer) == [
        (0, CONFLICT, "events[0].subject.customer_id", 'is "zeta", and "acme" is stored'),
        (
            0,
            CONFLICT,
            "events[0].time",
            'is "2026-01-20T11:59:59.999999+00:00", and "2026-03-01T12:00:00+00:00" is stored',
        ),
        (0, CONFLICT, 'events[0].dimensions["model"]', 'is absent, and "small" is stored'),
        (0, CONFLICT, 'events[0].quantities["tokens"]', 'is "10.5", and "10" is stored'),
    ]
    assert await world.usage() == [("acme", "20", 2)]
    assert [stored.event for stored in await world.events()] == [an_event(), an_event("e2")]


async def test_a_number_written_otherwise_is_a_duplicate(world: World) -> None:
    """What is compared is the content, not how it is written."""
    await world.ingest(an_event(quantities={"tokens": "1000"}))

    answer = await world.ingest(an_event(quantities={"tokens": "1.0e3"}))

    assert list(answer.outcomes) == [DUPLICATE]


async def test_source_and_id_together_are_the_identity(world: World) -> None:
    """The same id from another source is another event, wherever the border between them lies."""
    answer = await world.ingest(
        an_event("bc", source="a"), an_event("c", source="ab"), an_event("a", source="bc")
    )

    assert list(answer.outcomes) == [CREATED] * 3


@SIZES
async def test_a_bad_event_does_not_spoil_the_others(world: World, size: int) -> None:
    """It is rejected with its fields named; the others are stored and counted."""
    await world.put_meter()
    bad = an_event("", quantities={"tokens": "-1"})

    answer = await world.ingest(*some_events(size), bad, an_event("last"))

    assert list(answer.outcomes) == [*[CREATED] * size, REJECTED, CREATED]
    assert problems(answer) == [
        (size, REJECTED, f"events[{size}].event_id", "is required"),
        (size, REJECTED, f'events[{size}].quantities["tokens"]', "must be at least 0"),
    ]
    assert await world.usage() == [("acme", str(10 * size + 10), size + 1)]


async def test_a_call_of_bad_events_only_is_answered(world: World) -> None:
    """Nothing is stored, and nothing fails."""
    answer = await world.ingest(
        meter_pb2.UsageEvent(), an_event("x", time=NOON + timedelta(days=1))
    )

    assert list(answer.outcomes) == [REJECTED, REJECTED]
    assert await world.events() == []


@SIZES
async def test_odd_texts_survive_the_way_into_the_table(world: World, size: int) -> None:
    """Signs that COPY, JSON or SQL treat specially come back as they were."""
    odd = Merge(
        'subject { user_id: "a:b@c" run_id: "_" }',
        an_event(
            "\\. \\N \\\\ ' \" $1 %s 💶 \u2028",
            source="\\",
            dimensions={"\\": '"', "{}": "\\u0000", "empty": ""},
            quantities={"a\\b": "0." + "0" * 17 + "1", '"': "9" * 38},
        ),
    )

    answer = await world.ingest(odd, *some_events(size, type="other"))

    assert set(answer.outcomes) == {CREATED}
    assert [stored.event for stored in await world.events(type="llm.call")] == [odd]
    assert list((await world.ingest(odd)).outcomes) == [DUPLICATE]


async def test_the_limits_of_the_contract_can_be_used_in_full(world: World) -> None:
    """10,000 events, with the largest identity, dimensions and groups, are taken."""
    wide = {f"{number}".rjust(63, "k"): "💶" * 128 for number in range(16)}
    groups = sorted(wide)[:8]
    await world.put_meter(a_meter(group_by=groups))
    largest = an_event("💶" * 128, source="💶" * 128, customer_id="a" * 64, dimensions=wide)

    answer = await world.ingest(largest, *some_events(9_999, dimensions={}))
    rows = await world.query(group_by=groups)

    assert list(answer.outcomes) == [CREATED] * 10_000
    assert [(row.quantity.value, row.group[groups[0]]) for row in rows.rows] == [
        ("10", "💶" * 128),
        ("99990", ""),
    ]
    first = await world.query(group_by=groups, page_size=1)
    rest = await world.query(group_by=groups, page_token=first.next_page_token)
    assert [*first.rows, *rest.rows] == list(rows.rows)


@pytest.mark.parametrize(
    ("events", "reason", "field"),
    [([], "INVALID_FIELD", "events"), ([an_event()] * 10_001, "PAYLOAD_TOO_LARGE", "events")],
    ids=["none", "too many"],
)
async def test_a_call_of_the_wrong_size_is_refused_as_a_whole(
    world: World, events: Sequence[meter_pb2.UsageEvent], reason: str, field: str
) -> None:
    """The call fails by its size, and nothing is stored."""
    refusal = await world.refusal("IngestEvents", messages.IngestEventsRequest(events=events))

    assert isinstance(refusal, InvalidInput)
    assert (refusal.reason, [each.field for each in refusal.violations]) == (reason, [field])
    assert await world.events() == []


async def test_overlapping_calls_at_once_count_each_event_once(world: World) -> None:
    """Twenty calls with shuffled, overlapping events end, and every event is created once."""
    await world.put_meter()
    calls = [some_events(300, first=50 * (number % 5)) for number in range(20)]
    turned = [events if number % 2 else events[::-1] for number, events in enumerate(calls)]

    answers = await asyncio.gather(*(world.ingest(*events) for events in turned))

    outcomes = [outcome for answer in answers for outcome in answer.outcomes]
    assert (outcomes.count(CREATED), outcomes.count(DUPLICATE)) == (500, 5_500)
    assert await world.usage() == [("acme", "5000", 500)]


async def test_calls_share_a_transaction_and_keep_their_answers(world: World) -> None:
    """Single events sent at once each get their own outcome, good, repeated or bad."""
    events = [*some_events(40), *some_events(40), *[an_event("") for _ in range(20)]]

    answers = await asyncio.gather(*(world.ingest(event) for event in events))

    outcomes = [answer.outcomes[0] for answer in answers]
    assert sorted(outcomes) == [CREATED] * 40 + [DUPLICATE] * 40 + [REJECTED] * 20
    assert outcomes[80:] == [REJECTED] * 20
    assert len(await world.events(page_size=1000)) == 40


async def test_a_pooler_that_keeps_no_statements_is_no_obstacle(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> None:
    """Without prepared statements, as behind PgBouncer, calls of every size are taken twice."""

    def without_statements(service: str) -> ServiceSettings:
        return settings_for(service, database_prepared_statements=False)

    async with meter_world(without_statements, keys, tenant) as world:
        await world.put_meter()
        answers = [await world.ingest(*some_events(size)) for size in (3, 500, 3, 500)]

        outcomes = [[*answer.outcomes].count(CREATED) for answer in answers]
        assert outcomes == [3, 497, 0, 0]
        assert await world.usage() == [("acme", "5000", 500)]


async def test_a_late_event_counts_when_it_happened(world: World) -> None:
    """An event of long ago is usage of its own hour, not of today's."""
    await world.put_meter()
    long_ago = NOON - timedelta(days=3650)

    await world.ingest(an_event(time=long_ago))

    assert await world.usage() == []
    interval = type(TODAY)(long_ago, long_ago + timedelta(microseconds=1))
    assert await world.usage(interval=interval) == [("acme", "10", 1)]


async def test_the_time_of_storing_is_the_clocks(world: World) -> None:
    """What is stored says when, by the service's own clock."""
    world.clock.advance(timedelta(minutes=5))

    await world.ingest(an_event())

    (stored,) = await world.events()
    assert stored.ingest_time.ToDatetime(NOON.tzinfo) == NOON + timedelta(minutes=5)
