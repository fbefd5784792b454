"""Streams of events at a real meter: acknowledged after commit, slowed down, resumed, drained."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc.aio
import pytest

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.errors import DomainError
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.settings import ServiceSettings
from services.meter import __main__ as meter
from services.meter.streams import EVENTS_UNDER_WAY_MAX
from tests.meter_world import (
    CONFLICT,
    CREATED,
    DUPLICATE,
    NOON,
    REJECTED,
    World,
    an_event,
    meter_world,
    some_events,
)
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

# As services.meter.store.meters has it, but taken by a session.
HOLD_EVENTS_BACK = """
SELECT pg_advisory_lock(hashtextextended('meter.meters ' || $1, 0))
"""


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon."""
    async with meter_world(settings_for, keys, tenant) as running:
        yield running


@asynccontextmanager
async def nothing_is_stored(database_url: str, tenant: str) -> AsyncIterator[None]:
    """Keep every transaction of the tenant waiting."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("SELECT set_config('tollkeeper.tenant', $1, false)", tenant)
    await connection.fetchval(HOLD_EVENTS_BACK, tenant)
    try:
        yield
    finally:
        await connection.close()


def a_batch(batch_id: int, size: int = 100) -> messages.StreamEventsRequest:
    """Make a batch of events that no other number has."""
    return messages.StreamEventsRequest(
        batch_id=batch_id, events=some_events(size, first=size * batch_id)
    )


def open_stream(world: World) -> Any:  # noqa: ANN401 - gRPC's call has no useful type.
    """Open a stream to which batches are written one by one."""
    return world.stub.StreamEvents(metadata=world.token())


async def send(
    world: World, batches: Iterable[messages.StreamEventsRequest]
) -> list[messages.StreamEventsResponse]:
    """Send all, then read all answers; a failure is raised as the domain error it was."""
    try:
        return [
            answer
            async for answer in world.stub.StreamEvents(iter(batches), metadata=world.token())
        ]
    except grpc.aio.AioRpcError as error:
        raise read_error(error) from error


async def test_each_batch_is_answered_in_its_turn(world: World) -> None:
    """A sender that waits for nothing gets one answer for each batch, in order, and exact usage."""
    await world.put_meter()

    answers = await send(world, map(a_batch, range(30)))

    assert [answer.batch_id for answer in answers] == list(range(30))
    assert all(list(answer.outcomes) == [CREATED] * 100 for answer in answers)
    assert await world.usage() == [("acme", "30000", 3_000)]


async def test_an_answer_says_what_became_of_each_event(world: World) -> None:
    """Repeats, conflicts and bad events are told as IngestEvents tells them."""
    await world.ingest(an_event("e1"))
    events = [
        an_event("e1"),
        an_event("e1", quantities={"tokens": "11"}),
        an_event(""),
        an_event("e2"),
    ]

    (answer,) = await send(world, [messages.StreamEventsRequest(batch_id=-7, events=events)])

    assert answer.batch_id == -7
    assert list(answer.outcomes) == [DUPLICATE, CONFLICT, REJECTED, CREATED]
    assert [(each.index, each.violations[0].field) for each in answer.problems] == [
        (1, 'events[1].quantities["tokens"]'),
        (2, "events[2].event_id"),
    ]


async def test_an_answer_comes_while_the_stream_is_open(world: World) -> None:
    """A sender may wait for each answer; what is answered can be read at once."""
    stream = open_stream(world)
    for number in range(3):
        await stream.write(a_batch(number, size=1))
        answer = await stream.read()
        assert (answer.batch_id, len(await world.events())) == (number, number + 1)
    await stream.done_writing()

    assert await stream.read() == grpc.aio.EOF


async def test_a_stream_without_batches_ends_well(world: World) -> None:
    """Nothing is asked for and nothing answered."""
    assert await send(world, []) == []


@pytest.mark.parametrize(
    ("size", "reason"), [(0, "INVALID_FIELD"), (10_001, "PAYLOAD_TOO_LARGE")], ids=["none", "many"]
)
async def test_a_batch_of_the_wrong_size_ends_the_stream(
    world: World, size: int, reason: str
) -> None:
    """It fails as IngestEvents does, once the batches before it are answered."""
    stream = open_stream(world)
    await stream.write(a_batch(1))
    await stream.write(messages.StreamEventsRequest(events=[an_event()] * size))
    first = await stream.read()

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stream.read()
    refusal = read_error(failed.value)

    assert list(first.outcomes) == [CREATED] * 100
    assert isinstance(refusal, DomainError)
    assert (refusal.reason, [each.field for each in refusal.violations]) == (reason, ["events"])
    assert len(await world.events(page_size=200)) == 100


async def test_nothing_is_answered_before_it_is_committed(
    world: World, database_url: str, tenant: str
) -> None:
    """While no transaction can end there is no answer; then there is."""
    stream = open_stream(world)
    async with nothing_is_stored(database_url, tenant):
        await stream.write(a_batch(1))
        reading = asyncio.create_task(stream.read())
        await asyncio.wait((reading,), timeout=0.3)
        was_answered = reading.done()
    answer = await reading
    stream.cancel()

    assert (was_answered, list(answer.outcomes)) == (False, [CREATED] * 100)


async def test_a_stream_that_cannot_store_is_not_read(
    world: World, database_url: str, tenant: str
) -> None:
    """A sender is held up once enough waits, and everything is stored when it can be."""
    full = EVENTS_UNDER_WAY_MAX // 2_000
    # A megabyte each, so that few of them fit into the buffers on the way.
    wide = {f"{number}".rjust(63, "k"): "v" * 128 for number in range(12)}
    batches = [
        *(a_batch(number, size=2_000) for number in range(full)),
        *(
            messages.StreamEventsRequest(
                batch_id=number,
                events=some_events(400, first=400 * number, source="wide", dimensions=wide),
            )
            for number in range(full, full + 20)
        ),
    ]
    sent = 0

    def counted() -> Iterator[messages.StreamEventsRequest]:
        nonlocal sent
        for batch in batches:
            sent += 1
            yield batch

    async with nothing_is_stored(database_url, tenant):
        sending = asyncio.create_task(send(world, counted()))
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.5)
    answers = await sending

    assert full < seen < len(batches) - 5
    assert [answer.batch_id for answer in answers] == list(range(len(batches)))
    assert all(set(answer.outcomes) == {CREATED} for answer in answers)


async def test_many_streams_at_once_count_each_event_once(world: World) -> None:
    """Streams that send the same events in other orders create each of them once."""
    await world.put_meter()
    orders = [range(20), range(19, -1, -1), range(0, 20, 2), range(1, 20, 2)]

    answers = await asyncio.gather(*(send(world, map(a_batch, order)) for order in orders))

    outcomes = [each for stream in answers for answer in stream for each in answer.outcomes]
    assert (outcomes.count(CREATED), outcomes.count(DUPLICATE)) == (2_000, 4_000)
    assert await world.usage() == [("acme", "20000", 2_000)]


async def test_a_broken_stream_is_resumed_by_sending_again(
    world: World, database_url: str, tenant: str
) -> None:
    """When the database goes away the stream ends as UNAVAILABLE; unanswered batches go again."""
    await world.put_meter()
    stream = open_stream(world)
    await stream.write(a_batch(0))
    await stream.read()
    async with nothing_is_stored(database_url, tenant):
        await stream.write(a_batch(1))
        await stream.write(a_batch(2))
        await end_the_meters_connections(database_url)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.read()

    answers = await send(world, map(a_batch, range(4)))

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    outcomes = [set(answer.outcomes) for answer in answers]
    assert (outcomes[0], outcomes[3]) == ({DUPLICATE}, {CREATED})
    assert all(each in ({CREATED}, {DUPLICATE}) for each in outcomes[1:3])
    assert await world.usage() == [("acme", "4000", 400)]


async def end_the_meters_connections(database_url: str) -> None:
    """End those that wait for the lock, once there are some."""
    waiting = """
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    admin = await asyncpg.connect(database_url)
    while not await admin.fetchval(waiting):  # noqa: ASYNC110 - only PostgreSQL knows.
        await asyncio.sleep(0.01)
    await admin.close()


async def test_a_sender_that_goes_leaves_nothing_half_stored(world: World) -> None:
    """Batches that were under way are whole or absent, and sending them again makes it exact."""
    await world.put_meter()
    stream = open_stream(world)
    for number in range(10):
        await stream.write(a_batch(number))
    stream.cancel()

    answers = await send(world, map(a_batch, range(10)))

    assert all(set(answer.outcomes) in ({CREATED}, {DUPLICATE}) for answer in answers)
    assert await world.usage() == [("acme", "10000", 1_000)]


async def test_stopping_answers_what_was_read_and_ends_the_stream_well(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    database_url: str,
) -> None:
    """A service that stops takes no more, stores and answers what it has, and ends with OK."""
    clock = ManualClock(NOON)
    host = await meter.build(settings_for("meter"), clock)
    async with open_channel(await host.start()) as channel:
        world = World(
            MeterServiceStub(channel), TokenIssuer(keys.issuer_key(), clock), tenant, clock, ""
        )
        stream = open_stream(world)
        await stream.write(a_batch(0))
        await stream.read()
        async with nothing_is_stored(database_url, tenant):
            await stream.write(a_batch(1))
            reading = asyncio.create_task(stream.read())
            await asyncio.sleep(0.2)
            stopping = asyncio.create_task(host.stop(10))
            await asyncio.sleep(0.2)
        answer = await reading
        end = await stream.read()
        await stopping

        assert list(answer.outcomes) == [CREATED] * 100
        assert (end, await stream.code()) == (grpc.aio.EOF, grpc.StatusCode.OK)
