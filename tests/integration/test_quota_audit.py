"""Audits of counters in a real Redis, by the service and by the command."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis.asyncio

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.command_line import Outcome
from tests.quota_world import QuotaWorld, a_commit, a_limit, a_reserve, quota_world
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages

COMMAND = Path(sys.executable).with_name("tollkeeper")


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service with limits of every kind, and three open holds of two customers."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(
            a_limit("month"),
            a_limit("keys", level="LEVEL_KEY"),
            a_limit("rate", rolling={"period": "60s"}),
            a_limit("flying", units=[], capacity="5", concurrency={}),
        )
        held = [await running.ask("Reserve", a_reserve(10, key="k1")) for _ in range(3)]
        await running.ask("Reserve", a_reserve(5, customer="other"))
        await running.ask("Commit", a_commit(held[0].reservation_id, 20))
        yield running


async def spoil(redis_url: str, tenant: str) -> None:
    """Add 7 to what a counter says is held, as a mistake would."""
    key = f"tollkeeper:quota:{{{tenant}/acme}}:counters"
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        found: Any = await client.hget(key, "keys|key/k1")
        unpacker = msgpack.Unpacker()
        unpacker.feed(found)
        values = list(unpacker)
        values[3] += 7
        packed: Any = b"".join(map(msgpack.packb, values))
        await client.hset(key, "keys|key/k1", packed)


async def audited(world: QuotaWorld, *options: str) -> Outcome:
    """Run the command to its end."""
    token = dict(world.token())["authorization"].removeprefix("Bearer ")
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        *("quota", "audit", "--address", f"quota={world.address}", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TOLLKEEPER_TOKEN": token},
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, output.decode(), errors.decode())


async def test_counters_agree_with_the_open_holds(world: QuotaWorld) -> None:
    """Of one customer, and of all."""
    one = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest(customer_id="acme"))
    everyone = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest())
    nobody = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest(), "stranger")

    assert one == messages.GetCounterAuditResponse(hold_count=2, counter_count=4)
    assert everyone == messages.GetCounterAuditResponse(hold_count=3, counter_count=7)
    assert nobody == messages.GetCounterAuditResponse()


async def test_a_counter_that_differs_is_named(
    world: QuotaWorld, redis_url: str, tenant: str
) -> None:
    """With what it says and what the holds say."""
    await spoil(redis_url, tenant)
    found = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest(customer_id="acme"))

    assert list(found.drifts) == [
        messages.CounterDrift(limit_id="keys", scope="acme/k1", counted=27, derived=20)
    ]


async def test_the_command_fails_on_any_difference(
    world: QuotaWorld,
    redis_url: str,
    tenant: str,
) -> None:
    """And says how much agrees where all does."""
    good = await audited(world)
    await spoil(redis_url, tenant)
    bad = await audited(world, "--customer", "acme")

    assert good == Outcome(0, "7 counters agree with 3 open holds\n", "")
    assert bad.status == 1
    assert "acme/k1" in bad.output
    assert bad.errors == "tollkeeper: 1 counters do not agree with the open holds\n"
