"""The gate and its Redis are paused and killed at random while callers race; no unit is lost.

200 callers in 4 processes race for 1,000 units that three limits share. Redis is stopped for a
while, and killed and restarted on its file; the gate is killed and restarted. All of it by signals
that no code sees.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import grpc.aio
import pytest

from cli.signing_keys import SigningKeys
from kit.rpc.auth import TokenIssuer
from kit.settings import ServiceSettings
from tests.chaos.quota_callers import PATH, TIMEOUT_S
from tests.own_redis import OwnRedis, own_redis
from tests.quota_process import QuotaProcess
from tests.quota_world import QuotaWorld, Standing, a_limit
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

# Who gives up connecting to a Redis that is killed leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

UNITS = 1_000
PROCESSES = 4
CALLERS_PER_PROCESS = 50
FAULTS = ("pause", "pause", "kill Redis", "kill the gate", "kill both")
LIMITS = ("customer", "key", "project")


@pytest.fixture
def redis() -> Iterator[OwnRedis]:
    """A Redis with the settings of production."""
    with own_redis() as own:
        yield own


@pytest.fixture
async def gate(
    settings_for: Callable[..., ServiceSettings], redis: OwnRedis
) -> AsyncIterator[QuotaProcess]:
    """A gate that waits for Redis no longer than usual."""
    process = QuotaProcess(
        settings_for("quota", redis_url=redis.url, quota_decision_timeout_s=0.02)
    )
    await process.start()
    await process.serving()
    yield process
    await process.kill()


@pytest.fixture
async def world(gate: QuotaProcess, keys: SigningKeys, tenant: str) -> AsyncIterator[QuotaWorld]:
    """Somebody who asks the gate."""
    async with grpc.aio.insecure_channel(gate.address) as channel:
        issuer = TokenIssuer(keys.issuer_key())
        yield QuotaWorld(QuotaServiceStub(channel), issuer, gate.address, tenant)


async def test_every_unit_is_granted_once(
    world: QuotaWorld, gate: QuotaProcess, redis: OwnRedis, seed: int
) -> None:
    """What callers have booked is what was there, on each limit; nothing is held or drifts."""
    await world.put(
        *(a_limit(name, level=f"LEVEL_{name.upper()}", capacity=str(UNITS)) for name in LIMITS)
    )
    callers = [await start_callers(world, f"{seed}-{number}") for number in range(PROCESSES)]
    await make_faults(gate, redis, random.Random(seed))
    async with asyncio.timeout(TIMEOUT_S + 60):
        booked = [int((await each.communicate())[0]) for each in callers]
    balances = await world.balances(**PATH)
    audit = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest(customer_id="acme"))

    scopes = {"customer": "acme", "key": "acme/k1", "project": "acme/search"}
    assert [each.returncode for each in callers] == [0] * PROCESSES
    assert balances == [Standing(name, scopes[name], UNITS, 0, 0) for name in LIMITS]
    assert sum(booked) == UNITS
    assert audit == messages.GetCounterAuditResponse(hold_count=0, counter_count=len(LIMITS))


async def start_callers(world: QuotaWorld, seed: str) -> asyncio.subprocess.Process:
    """Start a process of callers."""
    token = dict(world.token())["authorization"].removeprefix("Bearer ")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.chaos.quota_callers"),
        *(world.address, token, seed, str(CALLERS_PER_PROCESS)),
        stdout=asyncio.subprocess.PIPE,
    )


async def make_faults(gate: QuotaProcess, redis: OwnRedis, draw: random.Random) -> None:
    """Let all faults happen once, in any order, at any time."""
    for fault in draw.sample(FAULTS, len(FAULTS)):
        await asyncio.sleep(draw.uniform(0.1, 0.6))
        match fault:
            case "pause":
                redis.pause()
                await asyncio.sleep(draw.uniform(0.05, 0.5))
                redis.resume()
            case "kill Redis":
                redis.kill()
                await asyncio.sleep(draw.uniform(0, 0.4))
                await asyncio.to_thread(redis.restart)
            case "kill the gate":
                await gate.kill()
                await gate.start()
            case _:
                redis.kill()
                await gate.kill()
                await gate.start()
                await asyncio.to_thread(redis.restart)
    await gate.serving()
