"""Redis loses its counters: what limits do meanwhile, and that they come back from the meter."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.metered_calls import store, use
from tests.own_redis import OwnRedis, own_redis
from tests.quota_world import (
    ALLOW,
    DENY,
    QuotaWorld,
    Standing,
    a_commit,
    a_limit,
    a_reserve,
    amounts,
    quota_world,
    subject,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages

# Who gives up connecting to a Redis that is killed leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

DEGRADED = quota_pb2.DECISION_ALLOW_DEGRADED
OPEN = {"outage_policy": "OUTAGE_POLICY_OPEN"}


@pytest.fixture
def redis() -> Iterator[OwnRedis]:
    """A Redis that the test may empty."""
    with own_redis() as own:
        yield own


@pytest.fixture
async def meter(
    settings_for: Callable[..., ServiceSettings], redis: OwnRedis
) -> AsyncIterator[str]:
    """A meter."""
    async with hosted("meter", settings_for("meter", redis_url=redis.url)) as address:
        yield address


@pytest.fixture
def serving(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    redis: OwnRedis,
    meter: str,
) -> Callable[[], Any]:
    """Run a gate, or another one; a closed limit covers acme, an open one covers free."""
    return lambda: quota_world(settings_for, keys, tenant, redis_url=redis.url, meter_address=meter)


async def put_limits(world: QuotaWorld) -> None:
    """Put a closed limit for acme, an open one for free, and one on acme's keys."""
    await world.put(
        a_limit("closed", capacity="1000", subject={"customerId": "acme"}),
        a_limit("keys", level="LEVEL_KEY", capacity="500", subject={"customerId": "acme"}),
        a_limit("open", capacity="1000", subject={"customerId": "free"}, **OPEN),
    )


async def balances(world: QuotaWorld, expected: list[Standing], **ids: str) -> list[Standing]:
    """Look until balances are as expected, or for so long that they will not be."""
    found: list[Standing] = []
    for _ in range(100):
        answer = await world.ask("Check", _check(**ids))
        if not answer.degraded:
            found = await world.balances(**ids)
        if found == expected:
            break
        await asyncio.sleep(0.05)
    return found


def _check(**ids: str) -> messages.CheckRequest:
    return messages.CheckRequest(subject=subject(**ids), amounts=amounts(tokens=1))


async def test_counters_come_back_after_redis_was_emptied_in_the_middle_of_traffic(
    serving: Callable[[], Any], redis: OwnRedis, meter: str
) -> None:
    """Closed limits refuse, open ones let pass meanwhile; then balances are the meter's again."""
    async with serving() as world:
        await put_limits(world)
        for _ in range(3):
            await use(world, meter, 70, key="k1")
            await use(world, meter, 30, customer="free")
        held = await world.ask("Reserve", a_reserve(5, key="k1"))
        with redis.client() as client:
            client.flushall()
        refused, passed = await asyncio.gather(
            world.ask("Reserve", a_reserve(10, key="k1")),
            world.ask("Reserve", a_reserve(10, customer="free")),
        )
        committed = await world.ask("Commit", a_commit(passed.reservation_id, 10))
        acme = [
            Standing("closed", "acme", 210, 5, 785),
            Standing("keys", "acme/k1", 210, 5, 285),
        ]
        free = [Standing("open", "free", 100, 0, 900)]
        found = [
            await balances(world, acme, key="k1"),
            await balances(world, free, customer="free"),
        ]
        settled = await world.ask("Commit", a_commit(held.reservation_id, 6))
        again = await world.ask("Reserve", a_reserve(10, key="k1"))
        audit = await world.ask("GetCounterAudit", messages.GetCounterAuditRequest())

    assert (refused.decision, refused.degraded) == (DENY, True)
    assert (passed.decision, committed.degraded) == (DEGRADED, True)
    assert found == [acme, free]
    assert settled.hold_settled
    assert (again.decision, again.limits[0].used, again.limits[0].reserved) == (ALLOW, 216, 10)
    assert list(audit.drifts) == []


async def test_a_loss_while_no_replica_ran_is_noticed(
    serving: Callable[[], Any], redis: OwnRedis, meter: str
) -> None:
    """PostgreSQL remembers the epoch for those who start; nothing is decided by empty counters."""
    expected = [Standing("closed", "acme", 70, 0, 930), Standing("keys", "acme/k1", 70, 0, 430)]
    async with serving() as world:
        await put_limits(world)
        await use(world, meter, 70, key="k1")
    with redis.client() as client:
        client.flushall()
    async with serving() as world:
        for _ in range(100):
            if not (await world.ask("Check", _check(key="k1"))).degraded:
                break
            await asyncio.sleep(0.05)
        found = await world.balances(key="k1")

    assert found == expected


async def test_an_old_file_is_noticed_and_what_it_says_is_not_believed(
    serving: Callable[[], Any], redis: OwnRedis, meter: str
) -> None:
    """As when Redis is restored from a snapshot: its last beat is older than one that was seen."""
    expected = [Standing("closed", "acme", 70, 0, 930), Standing("keys", "acme/k1", 70, 0, 430)]
    async with serving() as world:
        await put_limits(world)
        await use(world, meter, 70, key="k1")
        tag = f"tollkeeper:quota:{{{world.tenant}/acme}}:counters"
        with redis.client() as client:
            for key in client.scan_iter("*:beat:*"):
                client.zadd(key, {"beat": 1})
            client.hdel(tag, "closed|customer")
        await asyncio.sleep(0.5)
        found = await balances(world, expected, key="k1")

    assert found == expected


async def test_a_hold_is_known_again_to_the_replica_that_answered_it(
    serving: Callable[[], Any], redis: OwnRedis, meter: str
) -> None:
    """Two replicas, each of which remembers its own holds; both are there after a loss."""
    assert meter
    async with serving() as one, serving() as other:
        await put_limits(one)
        await asyncio.sleep(1)
        held = [(await each.ask("Reserve", a_reserve(10))).reservation_id for each in (one, other)]
        with redis.client() as client:
            client.flushall()
        expected = [Standing("closed", "acme", 0, 20, 980)]
        found = await balances(one, expected)
        commits = [await one.ask("Commit", a_commit(hold, 10)) for hold in held]

    assert found == expected
    assert [each.hold_settled for each in commits] == [True, True]


async def test_what_two_replicas_set_once_more_counts_once(
    serving: Callable[[], Any], redis: OwnRedis, meter: str
) -> None:
    """Both have rebuilt the customer, and both see afterwards what had not arrived at the loss."""
    async with serving() as one, serving() as other:
        await put_limits(one)
        await asyncio.sleep(1)
        for each in (one, other):
            await each.ask("Reserve", a_reserve(10))
        with redis.client() as client:
            client.flushall()
        await store(one, meter, 5)
        expected = [Standing("closed", "acme", 5, 20, 975)]
        found = await balances(one, expected)
        # Whoever follows up is done a good second after the first.
        await asyncio.sleep(4)
        settled = await balances(other, expected)

    assert [found, settled] == [expected, expected]


async def test_a_first_start_is_no_loss(serving: Callable[[], Any], redis: OwnRedis) -> None:
    """Nobody is refused because nothing has been counted yet, and the meter is not asked."""
    assert redis.url
    async with serving() as world:
        await put_limits(world)
        answers = [await world.ask("Reserve", a_reserve(1, customer=f"c{n}")) for n in range(5)]
        answers.append(await world.ask("Reserve", a_reserve(1)))

    assert [(each.decision, each.degraded) for each in answers] == [(ALLOW, False)] * 6


async def test_traffic_goes_on_while_redis_is_emptied(
    serving: Callable[[], Any], redis: OwnRedis, meter: str
) -> None:
    """Callers do not stop; once they do, each balance is the meter's sum, and no call was lost."""
    async with serving() as world:
        await put_limits(world)
        is_over = asyncio.Event()

        async def call_on(**ids: str) -> list[Any]:
            answers = []
            while not is_over.is_set():
                answers.append(await use(world, meter, 1, **ids))
            return answers

        callers = [
            asyncio.create_task(call_on(key="k1")),
            asyncio.create_task(call_on(customer="free")),
        ]
        await asyncio.sleep(1)
        with redis.client() as client:
            client.flushall()
        await asyncio.sleep(0.5)
        is_over.set()
        closed, opened = await asyncio.gather(*callers)
        used = [sum(bool(each.reservation_id) for each in answers) for answers in (closed, opened)]
        acme = [
            Standing("closed", "acme", used[0], 0, 1000 - used[0]),
            Standing("keys", "acme/k1", used[0], 0, 500 - used[0]),
        ]
        free = [Standing("open", "free", used[1], 0, 1000 - used[1])]
        # They may be so for a moment before calls under way at the loss are looked at.
        await asyncio.sleep(2)
        found = [
            await balances(world, acme, key="k1"),
            await balances(world, free, customer="free"),
        ]

    assert {each.decision for each in opened} <= {ALLOW, DEGRADED}
    assert {each.decision for each in closed} <= {ALLOW, DENY}
    assert all(each.degraded for each in closed if each.decision == DENY)
    assert [closed[-1].degraded, opened[-1].degraded] == [False, False]
    assert found == [acme, free]
