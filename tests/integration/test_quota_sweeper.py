"""Holds end at their expiry, whoever made them and whether or not anybody calls again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
import redis.asyncio

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from services.quota.counters import Batch, Counters, Decided, Root
from services.quota.coverage import Coverage
from services.quota.expiry_index import LEASE_MS, SHARDS_COUNT, ExpiryIndex, keys_of
from services.quota.model import Kind
from services.quota.operations import Operation
from services.quota.redis_link import RedisLink
from services.quota.sweeper import Sweeper
from tests.quota_builders import TrustingKeeper, covering
from tests.quota_builders import a_limit as a_domain_limit
from tests.quota_world import QuotaWorld, a_limit, a_reserve, quota_world

Client = Any
"""redis-py types the answers of both its clients as one."""


class Replica:
    """The parts of a replica that make holds and end them; it sweeps only when told to."""

    def __init__(self, redis_url: str, keeper: TrustingKeeper | None = None) -> None:
        self.link = RedisLink(redis_url)
        self.keeper = keeper or TrustingKeeper(installation=uuid4().hex)
        self.index = ExpiryIndex(self.link, lambda: self.keeper.installation)
        self.counters = Counters(self.link, self.index, self.keeper)
        self.sweeper = Sweeper(self.link, self.index, self.counters)

    async def belong_to(self, world: QuotaWorld, client: Client) -> None:
        """Count in the epoch of a gate's installation, and share its index."""
        self.keeper.epoch = await world.epoch(client)
        async for marker in client.scan_iter("tollkeeper:quota:{expiries-0}:epoch:*"):
            if await client.get(marker) == self.keeper.epoch:
                self.keeper.installation = marker.rsplit(":", 1)[1]

    async def hold(self, tenant: str, customer: str, *, ttl_ms: int) -> None:
        """Hold one token."""
        name = f"h{ttl_ms}"
        operation = Operation(
            Kind.RESERVE, covering_one(), name, b"8 bytes.", name, ttl_ms, 0, (1,)
        )
        (result,) = await self.counters.decide([Batch(Root(tenant, customer), [operation])])
        assert isinstance(result, Decided)


def covering_one() -> Coverage:
    """Make the coverage of a call that one limit covers."""
    return covering(a_domain_limit("tokens", capacity=1_000))


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    """A connection to the Redis of the session."""
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
async def replica(redis_url: str) -> AsyncIterator[Replica]:
    """A replica that nobody calls."""
    made = Replica(redis_url)
    await made.counters.connect()
    yield made
    await made.counters.close()


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service, which sweeps."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(a_limit("tokens"))
        yield running


async def holds_left(client: Client, tenant: str, customer: str = "acme") -> int:
    """Wait until no hold of a customer is open, asking the gate nothing; count those left."""
    tag = f"tollkeeper:quota:{{{tenant}/{customer}}}"
    for _ in range(200):
        fields = await client.hkeys(f"{tag}:counters")
        if not any(field.startswith("h") for field in fields):
            break
        await asyncio.sleep(0.02)
    left: int = await client.zcard(f"{tag}:expiries")
    assert any("|" in field for field in fields), "the counters are there still"
    return left


async def noted(client: Client, name: str) -> list[float]:
    """Tell when any index says that a customer is to be looked at."""
    indices = [key async for key in client.scan_iter("tollkeeper:quota:{expiries-*}:due:*")]
    scores = [await client.zscore(index, name) for index in indices]
    return [score for score in scores if score is not None]


async def test_a_hold_ends_although_its_customer_never_calls_again(
    world: QuotaWorld, client: Client, tenant: str
) -> None:
    """And nothing of it stays, in the index neither."""
    await world.ask("Reserve", a_reserve(10, ttl_ms=100))

    assert await holds_left(client, tenant) == 0
    assert await noted(client, f"{tenant}/acme") == []


async def test_a_hold_ends_although_its_replica_has_died(
    world: QuotaWorld, replica: Replica, client: Client, tenant: str
) -> None:
    """It was noted in the message that made it, so that another replica finds it."""
    await replica.belong_to(world, client)
    await replica.hold(tenant, "acme", ttl_ms=100)
    replica.link.drop()

    assert await holds_left(client, tenant) == 0


async def test_a_customer_is_looked_at_again_when_his_next_hold_expires(
    world: QuotaWorld, replica: Replica, client: Client, tenant: str
) -> None:
    """One look ends what is due, and notes the rest."""
    await replica.belong_to(world, client)
    await replica.hold(tenant, "acme", ttl_ms=400)
    await replica.hold(tenant, "acme", ttl_ms=100)
    await replica.hold(tenant, "acme", ttl_ms=800)

    assert await holds_left(client, tenant) == 0


async def test_a_hold_that_the_index_misses_is_found(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    replica: Replica,
    client: Client,
    tenant: str,
) -> None:
    """As when Redis forgot the index: a replica that starts walks over all keys."""
    async with quota_world(settings_for, keys, tenant) as world:
        await world.put(a_limit("tokens"))
        await replica.belong_to(world, client)
    await replica.hold(tenant, "acme", ttl_ms=100)
    for shard in range(SHARDS_COUNT):
        await client.zrem(keys_of(shard, replica.keeper.installation)[0], f"{tenant}/acme")

    async with quota_world(settings_for, keys, tenant):
        assert await holds_left(client, tenant) == 0


async def test_what_a_dying_replica_has_taken_another_takes_after_the_lease(
    redis_url: str, replica: Replica, client: Client, tenant: str
) -> None:
    """Nobody else takes it before, so that replicas share the work."""
    other = Replica(redis_url, replica.keeper)
    await other.counters.connect()
    await replica.hold(tenant, "acme", ttl_ms=100)
    await asyncio.sleep(0.12)
    name = f"{tenant}/acme"
    taken = [name in await replica.index.take(), name in await other.index.take()]
    await asyncio.sleep(LEASE_MS / 1000 + 0.05)
    await other.sweeper.sweep()
    await other.counters.close()

    assert taken == [True, False]
    assert await holds_left(client, tenant) == 0


async def test_a_customer_with_many_holds_is_noted_once(
    replica: Replica, client: Client, tenant: str
) -> None:
    """The index names the first expiry, and later holds cost nothing more."""
    for ttl_ms in (60_000, 70_000, 80_000):
        await replica.hold(tenant, "acme", ttl_ms=ttl_ms)
    name = f"{tenant}/acme"
    (instant,) = await noted(client, name)
    first = await client.zrange(f"tollkeeper:quota:{{{name}}}:expiries", 0, 0, withscores=True)

    assert first[0][1] - 5_000 < instant <= first[0][1]
    assert replica.index.note(name, int(instant) + 1, int(instant) - 1) is None


async def test_two_installations_on_one_redis_leave_each_other_alone(
    world: QuotaWorld, replica: Replica, client: Client, tenant: str
) -> None:
    """A walk finds the other one's customers; they are not touched, and nothing is thought lost."""
    await replica.hold(tenant, "theirs", ttl_ms=60_000)
    await replica.hold(tenant, "theirs", ttl_ms=100)
    await world.ask("Reserve", a_reserve(10, ttl_ms=100))
    ours = await holds_left(client, tenant)
    await asyncio.sleep(1)
    left = await client.zcard(f"tollkeeper:quota:{{{tenant}/theirs}}:expiries")
    await replica.sweeper.sweep()

    assert (ours, left) == (0, 2)
    assert await client.zcard(f"tollkeeper:quota:{{{tenant}/theirs}}:expiries") == 1
