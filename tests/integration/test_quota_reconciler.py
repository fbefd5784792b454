"""`RebuildCounters`: counters say what the meter says, and what open holds have taken."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis.asyncio

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.postgres import Database
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.metered_calls import store, tell, use
from tests.quota_world import (
    QuotaWorld,
    Standing,
    a_commit,
    a_limit,
    a_reserve,
    quota_world,
    request_id,
)
from tests.retention_world import retention
from tollkeeper.api.meter.v1.meter_service_pb2 import VoidEventRequest
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages

COMMAND = Path(sys.executable).with_name("tollkeeper")
NOBODY = "127.0.0.1:1"


@pytest.fixture
async def meter(settings_for: Callable[..., ServiceSettings]) -> AsyncIterator[str]:
    """A meter."""
    async with hosted("meter", settings_for("meter")) as address:
        yield address


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str, meter: str
) -> AsyncIterator[QuotaWorld]:
    """A gate with limits of every kind on a customer, and on each of his keys."""
    async with quota_world(settings_for, keys, tenant, meter_address=meter) as running:
        await running.put(
            a_limit("year", capacity="100000"),
            a_limit("keys", level="LEVEL_KEY", capacity="100000"),
            a_limit("prepaid", capacity="100000", lifetime={}),
            a_limit("rate", capacity="1000", rolling={"period": "86400s", "burst": "100000"}),
            a_limit("flying", units=[], capacity="5", concurrency={}),
        )
        yield running


def a_rebuild(customer: str = "acme", request: str = "") -> messages.RebuildCountersRequest:
    """Ask for counters anew."""
    return messages.RebuildCountersRequest(request_id=request or request_id(), customer_id=customer)


def changed(rebuilt: messages.RebuildCountersResponse) -> dict[str, tuple[int, ...]]:
    """Show what was used and held before and after, by limit and scope."""
    return {
        f"{each.limit_id} {each.scope}": (
            *(each.used_before, each.reserved_before),
            *(each.used_after, each.reserved_after),
        )
        for each in rebuilt.changed
    }


async def balances(world: QuotaWorld, key: str = "k1") -> dict[str, tuple[int, int]]:
    """Show what is used and held of each limit."""
    return {each.limit: (each.used, each.reserved) for each in await world.balances(key=key)}


async def test_counters_become_what_the_meter_says(world: QuotaWorld, meter: str) -> None:
    """An event was voided, one never passed the gate; holds stay, and a rate keeps its figure."""
    held = await world.ask("Reserve", a_reserve(7, key="k1"))
    await use(world, meter, 40, key="k1")
    event_id = await store(world, meter, 5, key="k1")
    await store(world, meter, 100, key="k2")
    before = await world.ask("RebuildCounters", a_rebuild())
    voided = VoidEventRequest(
        request_id=request_id(), event_id=event_id, source="gateway", reason="a test"
    )
    await tell(world, meter, "VoidEvent", voided)
    after = await world.ask("RebuildCounters", a_rebuild())
    standing = await balances(world)
    settled = await world.ask("Commit", a_commit(held.reservation_id, 7))
    same = await world.ask("RebuildCounters", a_rebuild("nobody"))

    assert changed(before) == {
        "keys acme/k1": (40, 7, 45, 7),
        "keys acme/k2": (0, 0, 100, 0),
        "prepaid acme": (40, 7, 145, 7),
        "year acme": (40, 7, 145, 7),
    }
    assert changed(after) == {
        "keys acme/k1": (45, 7, 40, 7),
        "prepaid acme": (145, 7, 140, 7),
        "year acme": (145, 7, 140, 7),
    }
    assert (after.counter_count, after.hold_count) == (4, 1)
    rate = standing.pop("rate")
    assert standing == {"keys": (40, 7), "prepaid": (140, 7), "year": (140, 7), "flying": (0, 1)}
    assert (rate[0] in {39, 40}, rate[1]) == (True, 7)
    assert settled.hold_settled
    assert same == messages.RebuildCountersResponse()


async def test_what_was_used_before_a_limit_was_made_does_not_count(
    world: QuotaWorld, meter: str
) -> None:
    """As it would not have been counted by the limit itself."""
    await store(world, meter, 30, key="k1")
    await asyncio.sleep(0.01)
    await world.put(a_limit("later", capacity="1000"))
    await store(world, meter, 12, key="k1")
    await world.ask("RebuildCounters", a_rebuild())
    standing = await balances(world)

    assert (standing["year"], standing["later"]) == ((42, 0), (12, 0))


async def test_counters_that_differ_from_the_open_holds_are_mended(
    world: QuotaWorld, meter: str, redis_url: str, tenant: str
) -> None:
    """Also those of rates and of what is in flight."""
    await use(world, meter, 40, key="k1")
    await world.ask("Reserve", a_reserve(7, key="k1"))
    tag = f"tollkeeper:quota:{{{tenant}/acme}}:counters"
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        for field in ("year|customer", "rate|customer", "flying#customer"):
            found: Any = await client.hget(tag, field)
            unpacker = msgpack.Unpacker()
            unpacker.feed(found)
            stamp, taken, settled, held, drain, scale = unpacker
            spoilt = (stamp, taken + 3 * scale, settled, held + 3, drain, scale)
            await client.hset(tag, field, b"".join(map(msgpack.packb, spoilt)))
    drifting = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest())
    rebuilt = changed(await world.ask("RebuildCounters", a_rebuild()))
    audit = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest())

    assert len(drifting.drifts) == 3
    assert (rebuilt["year acme"], rebuilt["flying acme"]) == ((40, 10, 40, 7), (0, 4, 0, 1))
    assert rebuilt["rate acme"][1::2] == (10, 7)
    assert list(audit.drifts) == []


async def test_a_late_hold_stays_booked_until_its_commit(world: QuotaWorld) -> None:
    """The meter knows nothing of it yet; its commit replaces what was booked."""
    held = await world.ask("Reserve", a_reserve(50, key="k1", ttl_ms=100))
    dispatched = messages.MarkDispatchedRequest(
        request_id=request_id(), reservation_id=held.reservation_id
    )
    await world.ask("MarkDispatched", dispatched)
    for _ in range(100):
        if (await balances(world))["year"] == (50, 0):
            break
        await asyncio.sleep(0.05)
    rebuilt = await world.ask("RebuildCounters", a_rebuild())
    booked = await balances(world)
    await world.ask("Commit", a_commit(held.reservation_id, 20))
    settled = await balances(world)

    assert list(rebuilt.changed) == []
    assert (booked["year"], booked["keys"], booked["prepaid"]) == ((50, 0),) * 3
    assert (settled["year"], settled["keys"], settled["prepaid"]) == ((20, 0),) * 3


async def test_calls_go_on_while_counters_are_rebuilt(world: QuotaWorld, meter: str) -> None:
    """Nothing is refused or lost; once all events have arrived, counters are exact."""
    is_over = asyncio.Event()

    async def call_on(key: str) -> int:
        calls = 0
        while not is_over.is_set():
            assert (await use(world, meter, 1, key=key)).reservation_id
            calls += 1
        return calls

    callers = [asyncio.create_task(call_on(f"k{n}")) for n in range(3)]
    for _ in range(2):
        await world.ask("RebuildCounters", a_rebuild())
    is_over.set()
    calls = await asyncio.gather(*callers)
    after = [Standing("year", "acme", sum(calls), 0, 100_000 - sum(calls))]
    during = (await balances(world))["year"]
    await world.ask("RebuildCounters", a_rebuild())
    found = [each for each in await world.balances(key="k1") if each.limit == "year"]
    audit = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest())

    # A call under way while the meter is asked may count twice or not at all, until the next time.
    assert abs(during[0] - sum(calls)) <= 2 * len(callers)
    assert found == after
    assert list(audit.drifts) == []


async def test_what_others_set_meanwhile_is_not_taken_for_usage(
    world: QuotaWorld, meter: str
) -> None:
    """As when every replica sets counters after a loss: all see the same difference."""
    await use(world, meter, 40, key="k1")
    await store(world, meter, 5, key="k1")
    rebuilt = await asyncio.gather(*(world.ask("RebuildCounters", a_rebuild()) for _ in range(3)))
    standing = await balances(world)

    assert (standing["year"], standing["keys"], standing["prepaid"]) == ((45, 0),) * 3
    assert sorted(len(each.changed) for each in rebuilt) == [0, 0, 3]


async def test_a_repeat_gets_the_first_answer(world: QuotaWorld, meter: str) -> None:
    """And the same id with another customer is refused."""
    await store(world, meter, 5, key="k1")
    request = a_rebuild(request="once")
    first = await world.ask("RebuildCounters", request)
    await store(world, meter, 5, key="k1")
    repeated = await world.ask("RebuildCounters", request)
    reused = await world.refusal("RebuildCounters", a_rebuild("other", request="once"))

    assert first.changed
    assert repeated == first
    assert reused.reason == "REQUEST_ID_REUSED"
    assert (await balances(world))["year"] == (5, 0)


async def test_bad_requests_are_refused(world: QuotaWorld) -> None:
    """With everything that is wrong."""
    error: Any = await world.refusal("RebuildCounters", messages.RebuildCountersRequest())

    assert [each.field for each in error.violations] == ["request_id", "customer_id"]


async def test_without_the_meter_nothing_changes(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> None:
    """It is said, and can be repeated."""
    async with quota_world(settings_for, keys, tenant, meter_address=NOBODY) as world:
        await world.put(a_limit("year", capacity="1000"))
        await world.ask("Reserve", a_reserve(7))
        error = await world.refusal("RebuildCounters", a_rebuild())
        found = await world.balances()

    assert error.reason == "METER_UNAVAILABLE"
    assert found == [Standing("year", "acme", 0, 7, 993)]


async def test_the_command_shows_what_has_changed(world: QuotaWorld, meter: str) -> None:
    """And that nothing has."""
    await store(world, meter, 1234, key="k1")
    token = dict(world.token())["authorization"].removeprefix("Bearer ")
    outputs = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *("quota", "rebuild", "acme", "--address", f"quota={world.address}"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "TOLLKEEPER_TOKEN": token},
        )
        output, _ = await process.communicate()
        outputs.append((process.returncode, output.decode()))

    (first, shown), second = outputs
    assert first == 0
    assert "1,234" in shown
    assert second == (0, "3 counters say what the meter says\n")


async def test_a_limit_that_began_before_the_kept_events_must_be_put_anew(
    world: QuotaWorld, meter: str, settings_for: Callable[..., ServiceSettings]
) -> None:
    """What was used then is not known, so nothing is guessed and nothing changed."""
    await use(world, meter, 40, key="k1")
    database = Database(settings_for("meter").database_url, "meter")
    await database.connect()
    in_2040 = ManualClock(datetime(2040, 1, 20, tzinfo=UTC))
    await retention(database, in_2040).maintain()
    await database.close()
    error = await world.refusal("RebuildCounters", a_rebuild())

    assert error.reason == "EVENTS_EXPIRED"
    assert (await balances(world))["prepaid"] == (40, 0)
