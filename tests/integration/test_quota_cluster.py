"""The gate on a real Redis Cluster: spread over its nodes, and while slots and nodes change."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from cli.given_servers import check_redis, open_redis
from cli.signing_keys import SigningKeys
from kit.errors import CannotStart
from kit.redis_pool import RedisPool
from kit.settings import ServiceSettings
from services.quota.cluster_link import ClusterLink, slot_of
from services.quota.redis_link import RedisLink, packed
from tests.envoy_world import Said, asking, envoy_world, said
from tests.quota_world import (
    ALLOW,
    QuotaWorld,
    Standing,
    a_commit,
    a_limit,
    a_reserve,
    quota_world,
)
from tests.redis_cluster import Cluster, Node, running_cluster, wait_until

# The client of clusters drops nodes that it forgets without closing their connections.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def forgotten_nodes() -> Iterator[None]:
    """Collect them here, so that no other test is told of them."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three nodes, the first of which has a standby."""
    with running_cluster(3, standbys=1) as running:
        yield running


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str, cluster: Cluster
) -> AsyncIterator[QuotaWorld]:
    """A quota service on the cluster, with a limit of 100 tokens for each customer."""
    async with quota_world(settings_for, keys, tenant, redis_url=cluster.url) as running:
        await running.put(a_limit("tokens", capacity="100"))
        yield running


def slot(tenant: str, customer: str) -> int:
    """Tell in which slot a customer's counters are."""
    return slot_of(f"tollkeeper:quota:{{{tenant}/{customer}}}:counters")


def customer_on(cluster: Cluster, tenant: str, node: Node) -> str:
    """Find a customer whose counters are on a node."""
    names = (f"customer-{number}" for number in range(1_000))
    return next(name for name in names if cluster.owner(slot(tenant, name)) is node)


async def reserved(world: QuotaWorld, customer: str) -> str:
    """Hold one token, trying until the counters answer."""
    request = a_reserve(1, customer=customer)
    for _ in range(400):
        answer = await world.ask("Reserve", request)
        if not answer.degraded:
            assert answer.decision == ALLOW
            return str(answer.reservation_id)
        await asyncio.sleep(0.02)
    raise AssertionError("the counters did not come back")


@pytest.mark.parametrize(
    "key", ["123456789", "{123456789}:counters", "a:{123456789}:{other}", "{}123456789", "{open"]
)
def test_a_slot_is_that_of_the_tag(key: str, cluster: Cluster) -> None:
    """As a node says."""
    assert slot_of(key) == cluster.nodes[0].client.execute_command("CLUSTER KEYSLOT", key)


async def test_customers_are_spread_and_each_stands_alone(
    world: QuotaWorld, cluster: Cluster, tenant: str
) -> None:
    """Forty customers on three nodes: each has its own hundred tokens, to the last."""
    customers = [f"customer-{number}" for number in range(40)]
    asked = [a_reserve(60, customer=customer) for customer in customers for _ in range(2)]
    answers = await asyncio.gather(*(world.ask("Reserve", request) for request in asked))
    await asyncio.gather(
        *(
            world.ask("Commit", a_commit(answer.reservation_id, 50))
            for answer in answers
            if answer.decision == ALLOW
        )
    )

    assert sum(answer.decision == ALLOW for answer in answers) == 40
    for customer in customers:
        assert await world.balances(customer=customer) == [Standing("tokens", customer, 50, 0, 50)]
    assert {cluster.owner(slot(tenant, customer)).port for customer in customers} == {
        node.port for node in cluster.nodes
    }


async def test_a_batch_is_one_message_to_each_node(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many commands there are; replies are those of the commands."""
    link = ClusterLink(cluster.url)
    await link.nodes()
    asked: list[str] = []
    ask = RedisLink.ask

    async def counted(self: RedisLink, *arguments: Any) -> Any:  # noqa: ANN401 - as `ask`.
        asked.append(self.name)
        return await ask(self, *arguments)

    monkeypatch.setattr(RedisLink, "ask", counted)
    keys = [f"batch-{number}" for number in range(300)]
    await link.ask([packed("SET", key, key, "EX", 60) for key in keys], keys)
    replies = await link.ask([packed("GET", key) for key in keys], keys)
    await link.close()

    assert [reply.decode() for reply in replies] == keys
    assert len(asked) == 6
    assert len(set(asked)) == 3


async def test_a_hold_of_a_customer_who_never_calls_again_ends(
    world: QuotaWorld, cluster: Cluster, tenant: str
) -> None:
    """On whichever node he is."""
    customers = [customer_on(cluster, tenant, node) for node in cluster.nodes]
    for customer in customers:
        await world.ask("Reserve", a_reserve(1, customer=customer, ttl_ms=100))
    await asyncio.sleep(1)
    open_holds = [
        node.client.zcard(f"tollkeeper:quota:{{{tenant}/{customer}}}:expiries")
        for node, customer in zip(cluster.nodes, customers, strict=True)
    ]

    assert open_holds == [0, 0, 0]


async def test_nothing_is_lost_while_a_slot_moves(
    world: QuotaWorld, cluster: Cluster, tenant: str
) -> None:
    """Callers go on while a customer's keys are brought to another node one after the other."""
    source, target = cluster.nodes[1], cluster.nodes[2]
    customer = customer_on(cluster, tenant, source)
    moving = slot(tenant, customer)
    await reserved(world, customer)
    callers = asyncio.gather(*(reserved(world, customer) for _ in range(20)))
    cluster.begin_move(moving, source, target)
    late = asyncio.gather(*(reserved(world, customer) for _ in range(20)))
    await asyncio.sleep(0.05)
    await asyncio.to_thread(cluster.move_keys_slowly, moving, source, target)
    await asyncio.to_thread(cluster.end_move, moving, target)
    held = [*await callers, *await late]
    await asyncio.gather(*(world.ask("Commit", a_commit(hold, 2)) for hold in held))

    assert await world.balances(customer=customer) == [Standing("tokens", customer, 80, 1, 19)]


async def test_who_was_told_of_the_old_owner_is_sent_to_the_new_one(
    cluster: Cluster, tenant: str
) -> None:
    """A link that learned the slots before one of them moved."""
    source, target = cluster.nodes[1], cluster.nodes[2]
    key = f"{{{tenant}/{customer_on(cluster, tenant, source)}}}"
    moving = slot_of(key)
    link = ClusterLink(cluster.url)
    await link.ask([packed("SET", key, "here", "EX", 60)], [key])
    cluster.begin_move(moving, source, target)
    asked_new = await link.ask([packed("GET", key), packed("GET", f"{key}new")], [key, key])
    cluster.move_keys(moving, source, target)
    asked = await link.ask([packed("GET", key)], [key])
    cluster.end_move(moving, target)
    moved = await link.ask([packed("GET", key)], [key])
    await link.close()

    assert (asked_new, asked, moved) == ([b"here", None], [b"here"], [b"here"])


async def test_limits_are_known_to_every_replica(
    world: QuotaWorld,
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    cluster: Cluster,
    tenant: str,
) -> None:
    """A change that one replica makes reaches the other within a moment, in a cluster as well."""
    async with quota_world(settings_for, keys, tenant, redis_url=cluster.url) as other:
        assert await other.balances() == [Standing("tokens", "acme", 0, 0, 100)]
        await world.put(a_limit("tokens", capacity="70"))
        await asyncio.sleep(1)

        assert await other.balances() == [Standing("tokens", "acme", 0, 0, 70)]


async def test_the_facade_for_envoy_counts_in_a_cluster(
    cluster: Cluster, keys: SigningKeys, tenant: str, tmp_path: Path
) -> None:
    """Counters of one request may be on several nodes."""
    limit = {"unit": "hour", "requests_per_unit": 1}
    rules = {"domain": "api", "descriptors": [{"key": "key", "rate_limit": limit}]}
    request = asking("api", *({"key": f"k{number}"} for number in range(12)))
    async with envoy_world(cluster.url, keys, tenant, tmp_path, [rules]) as envoy:
        answers = [said(await envoy.ask(request)) for _ in range(2)]

    assert answers[0] == [Said("OK", "1 HOUR", 0)] * 12
    assert answers[1] == [Said("OVER_LIMIT", "1 HOUR", 0)] * 12


def test_the_command_reaches_a_cluster(cluster: Cluster, tenant: str) -> None:
    """It checks the nodes at start, and tells them of revoked keys."""
    check_redis(cluster.url)
    with open_redis(cluster.url, timeout_s=5) as client:
        client.set(tenant, "told", ex=60)
        told = client.get(tenant)

    assert told == b"told"


@pytest.mark.parametrize(
    "url", ["redis+cluster://:word@", "redis+cluster://:word@host:word", "redis+cluster://h,:1"]
)
def test_a_malformed_url_stops_the_start_without_showing_it(url: str) -> None:
    """Each node needs a host, and its port is a number."""
    refusals = []
    for kind in (ClusterLink, RedisPool):
        with pytest.raises(CannotStart) as refusal:
            kind(url)
        refusals.append(str(refusal.value))

    assert all("word" not in text for text in refusals)


async def test_a_node_that_dies_stops_only_its_own_customers_until_its_standby_takes_over(
    world: QuotaWorld, cluster: Cluster, tenant: str
) -> None:
    """Others go on meanwhile; then what was held before is there. Last, as it changes the nodes."""
    dying, standby = cluster.nodes[0], cluster.standbys[0]
    customer, other = (customer_on(cluster, tenant, node) for node in cluster.nodes[:2])
    hold = await reserved(world, customer)
    wait_until(lambda: standby.client.dbsize() == dying.client.dbsize())
    await asyncio.to_thread(dying.server.stop)
    refused = await world.ask("Reserve", a_reserve(1, customer=customer))
    await reserved(world, other)
    with suppress(redis.ResponseError):
        # On a slow machine it has taken over by itself by now.
        await asyncio.to_thread(standby.client.execute_command, "CLUSTER FAILOVER", "TAKEOVER")
    await reserved(world, customer)
    await world.ask("Commit", a_commit(hold, 5))

    assert refused.degraded
    assert await world.balances(customer=customer) == [Standing("tokens", customer, 5, 1, 94)]
