"""What the meter has answered survives its own end and PostgreSQL's; the rest is sent again.

The service runs as its own process and is killed with SIGKILL, which no code of it sees.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import grpc.aio
import pytest

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock, SystemClock
from kit.errors import Unavailable
from kit.interval import Interval
from kit.rpc.auth import TokenIssuer
from kit.settings import ServiceSettings
from tests.meter_process import MeterProcess
from tests.meter_world import (
    CREATED,
    DUPLICATE,
    World,
    meter_world,
    some_events,
)
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

YESTERDAY = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
ALL_TIME = Interval(YESTERDAY, YESTERDAY + timedelta(hours=1))
STORING_WAIT_S = 30
STORING = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'tollkeeper-meter'
    AND state = 'active' AND query LIKE '%meter.take_in(%'
"""


@pytest.fixture
async def meter(settings_for: Callable[..., ServiceSettings]) -> AsyncIterator[MeterProcess]:
    """A meter process that serves."""
    process = MeterProcess(settings_for("meter"))
    await process.start()
    yield process
    await process.kill()


@pytest.fixture
async def world(meter: MeterProcess, keys: SigningKeys, tenant: str) -> AsyncIterator[World]:
    """Somebody who asks the process, without the retries of our own channels."""
    async with grpc.aio.insecure_channel(meter.address) as channel:
        issuer = TokenIssuer(keys.issuer_key(), SystemClock())
        clock = ManualClock(datetime.now(UTC))
        running = World(MeterServiceStub(channel), issuer, tenant, clock, meter.address)
        await running.put_meter()
        yield running


@asynccontextmanager
async def watching(database_url: str) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Answer what waits until the meter stores something, and names the PostgreSQL process."""
    connection = await asyncpg.connect(database_url)

    async def storing() -> int:
        process_id = None
        async with asyncio.timeout(STORING_WAIT_S):
            while process_id is None:
                process_id = await connection.fetchval(STORING)
        return int(process_id)

    try:
        yield storing
    finally:
        await connection.close()


async def send_until_answered(world: World, number: int) -> set[int]:
    """Send the 100 events of a number again and again until they are answered."""
    events = some_events(100, first=100 * number, time=YESTERDAY)
    while True:
        try:
            return set((await world.ingest(*events)).outcomes)
        except Unavailable:
            await asyncio.sleep(0.05)


async def test_what_was_answered_survives_a_kill(meter: MeterProcess, world: World) -> None:
    """Killed between two calls, it knows every event of the first, and counts on."""
    first = await world.ingest(*some_events(500, time=YESTERDAY))

    await meter.kill()
    await meter.start()
    second = await world.ingest(*some_events(600, time=YESTERDAY))

    assert set(first.outcomes) == {CREATED}
    assert list(second.outcomes) == [DUPLICATE] * 500 + [CREATED] * 100
    assert await world.usage(interval=ALL_TIME) == [("acme", "6000", 600)]


async def test_a_call_cut_off_by_a_kill_is_stored_whole_or_not_at_all(
    meter: MeterProcess, world: World, database_url: str
) -> None:
    """Killed while PostgreSQL stores, nothing is half done, and sending again makes it exact."""
    events = some_events(10_000, time=YESTERDAY)
    async with watching(database_url) as storing:
        call = asyncio.create_task(world.ingest(*events))
        await storing()
        await meter.kill()
        with pytest.raises(Unavailable):
            await call

    await meter.start()
    again = await world.ingest(*events)

    assert set(again.outcomes) in ({CREATED}, {DUPLICATE})
    assert await world.usage(interval=ALL_TIME) == [("acme", "100000", 10_000)]


async def test_kills_at_any_moment_lose_and_repeat_nothing(
    meter: MeterProcess, world: World
) -> None:
    """Four callers that repeat what was not answered end with exact totals after three kills."""
    draw = random.Random(7)
    numbers = iter(range(60))

    async def call_in_turn() -> list[set[int]]:
        return [await send_until_answered(world, number) for number in numbers]

    callers = [asyncio.create_task(call_in_turn()) for _ in range(4)]
    for _ in range(3):
        await asyncio.sleep(draw.uniform(0.01, 0.2))
        await meter.kill()
        await meter.start()
    answers = [answer for caller in callers for answer in await caller]

    assert (len(answers), all(len(each) == 1 for each in answers)) == (60, True)
    assert await world.usage(interval=ALL_TIME) == [("acme", "60000", 6_000)]


async def test_a_broken_connection_is_unavailable_and_the_next_call_works(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    database_url: str,
) -> None:
    """When PostgreSQL ends the transaction, the caller is told to try again, and can."""
    async with meter_world(settings_for, keys, tenant) as world, watching(database_url) as storing:
        await world.put_meter()
        events = some_events(10_000)
        request = messages.IngestEventsRequest(events=events)
        plain = grpc.aio.insecure_channel(world.address)
        async with plain:
            call = MeterServiceStub(plain).IngestEvents(request, metadata=world.token())
            process_id = await storing()
            admin = await asyncpg.connect(database_url)
            await admin.execute(f"SELECT pg_terminate_backend({process_id})")
            await admin.close()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call

        answer = await world.ingest(*events)

        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert list(answer.outcomes) == [CREATED] * 10_000
        assert await world.usage() == [("acme", "100000", 10_000)]
