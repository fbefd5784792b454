"""Counters in a real Redis: what is kept there, and what happens when Redis forgets or is slow."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
import redis.asyncio

from cli.signing_keys import SigningKeys
from kit.errors import DomainError
from kit.settings import ServiceSettings
from services.quota.arguments import SWEEP_MAX
from services.quota.counters import (
    SCRIPT,
    Answer,
    Batch,
    Counters,
    Decided,
    LimitsChanged,
    Root,
)
from services.quota.coverage import Coverage, LimitIndex
from services.quota.expiry_index import ExpiryIndex
from services.quota.model import Kind, Level, Outcome
from services.quota.operations import Operation
from services.quota.redis_link import RedisLink, ReplyError
from tests.quota_builders import TrustingKeeper, a_rate, a_subject, covering
from tests.quota_builders import a_limit as a_domain_limit
from tests.quota_world import (
    ALLOW,
    DENY,
    QuotaWorld,
    Standing,
    a_commit,
    a_limit,
    a_release,
    a_reserve,
    quota_world,
    standings,
    subject,
)
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages

Client = Any
"""redis-py types the answers of both its clients as one."""
PERIOD_S = 600


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    """A connection to the Redis of the session."""
    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service that knows one limit of this tenant: 100 tokens a year for each customer."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(a_limit("tokens", capacity="100"))
        yield running


@pytest.fixture
async def counters(redis_url: str) -> AsyncIterator[Counters]:
    """Counters without a service around them."""
    link = RedisLink(redis_url)
    opened = Counters(link, ExpiryIndex(link, lambda: "a test"), TrustingKeeper())
    await opened.connect()
    yield opened
    await opened.close()


def an_operation(
    coverage: Coverage, amount: int, *, request: str, ttl_ms: int = 60_000
) -> Operation:
    """Ask to hold tokens; the hold has the name of its request."""
    sums = coverage.sums({"tokens": amount})
    return Operation(Kind.RESERVE, coverage, request, b"8 bytes.", request, ttl_ms, 0, sums)


async def decided(counters: Counters, tenant: str, *operations: Operation) -> list[Any]:
    """Decide operations of acme together: outcome, used, reserved; or why not."""
    (result,) = await counters.decide([Batch(Root(tenant, "acme"), operations)])
    assert isinstance(result, Decided), result
    return [
        answer.reason
        if isinstance(answer, DomainError)
        else (Outcome(answer.outcome).name, *answer.figures[:2])
        for answer in result.answers
        if not isinstance(answer, LimitsChanged)
    ]


async def test_all_keys_of_a_customer_share_one_hash_slot_and_carry_the_tenant(
    world: QuotaWorld, client: Client, tenant: str
) -> None:
    """Four keys for each customer, and nothing else; what is remembered goes by itself."""
    held = await world.ask("Reserve", a_reserve(10))
    await world.ask("Reserve", a_reserve(10, customer="other"))
    await world.ask("Commit", a_commit(held.reservation_id, 5))
    keys = sorted([key async for key in client.scan_iter(f"*{tenant}*")])
    recent = {await client.ttl(key) for key in keys if ":recent" in key}
    tags = {key[key.index("{") : key.index("}") + 1] for key in keys}

    assert tags == {f"{{{tenant}/acme}}", f"{{{tenant}/other}}"}
    assert {key.split("}:")[1].rstrip("01") for key in keys} == {"counters", "expiries", "recent"}
    assert len(recent) >= 1
    assert all(0 < seconds <= 2 * PERIOD_S for seconds in recent)


async def test_an_ended_hold_leaves_nothing_in_the_lists(
    world: QuotaWorld, client: Client, tenant: str
) -> None:
    """After a commit and a release only the counter is there."""
    first, second = [(await world.ask("Reserve", a_reserve(10))).reservation_id for _ in range(2)]
    await world.ask("Commit", a_commit(first, 5))
    await world.ask("Release", a_release(second))
    tag = f"tollkeeper:quota:{{{tenant}/acme}}"

    assert set(await client.hkeys(f"{tag}:counters")) == {"tokens|customer", "_", "_e"}
    assert await client.zcard(f"{tag}:expiries") == 0


async def test_counters_of_runs_that_come_and_go_are_removed(
    counters: Counters, client: Client, tenant: str
) -> None:
    """A rate that has drained needs no counter; whoever makes new ones removes old ones."""
    index = LimitIndex([a_rate("rate", level=Level.RUN, capacity=10**6, period_ms=1_000)])

    def runs(first: int) -> list[Operation]:
        return [
            an_operation(
                index.coverage(a_subject(run=f"run-{n}"), ()), 1, request=f"r{n}", ttl_ms=1
            )
            for n in range(first, first + 200)
        ]

    for first in range(0, 4_000, 200):
        await decided(counters, tenant, *runs(first))
        await asyncio.sleep(0.003)

    assert await client.hlen(f"tollkeeper:quota:{{{tenant}/acme}}:counters") < 1_000


async def test_a_script_that_redis_forgot_is_loaded_again(
    world: QuotaWorld, client: Client
) -> None:
    """As after a restart; nobody sees more than a moment."""
    await client.script_flush()
    answers = await asyncio.gather(*(world.ask("Reserve", a_reserve(1)) for _ in range(20)))

    assert [answer.decision for answer in answers] == [ALLOW] * 20
    assert await world.balances() == [Standing("tokens", "acme", 0, 20, 80)]


async def test_windows_that_are_long_over_are_told_anew(counters: Counters, tenant: str) -> None:
    """A service that slept through a year decides by Redis's clock, not by what it remembers."""
    coverage = covering(a_domain_limit(capacity=10), a_rate())
    await decided(counters, tenant, an_operation(coverage, 1, request="first"))
    counters._now_ms -= 366 * 86_400_000
    coverage = covering(a_domain_limit(capacity=10), a_rate())

    assert await decided(counters, tenant, an_operation(coverage, 2, request="second")) == [
        ("ALLOWED", 0, 3)
    ]


async def test_more_holds_than_expire_at_once_are_all_given_back(
    world: QuotaWorld, counters: Counters, client: Client, tenant: str
) -> None:
    """What one call leaves is ended by the calls that follow it at once."""
    counters._keeper = TrustingKeeper(await world.epoch(client))
    coverage = covering(a_domain_limit("tokens", capacity=1_000))
    many = [an_operation(coverage, 1, request=f"r{n}", ttl_ms=100) for n in range(3 * SWEEP_MAX)]
    await decided(counters, tenant, *many)
    await asyncio.sleep(0.2)
    await world.balances()

    assert await until_free(client, f"tollkeeper:quota:{{{tenant}/acme}}:expiries") == 0
    assert await world.balances() == [Standing("tokens", "acme", 0, 0, 100)]


async def until_free(client: Client, key: str) -> int:
    """Look at the open holds until there are none, asking the gate nothing meanwhile."""
    for _ in range(200):
        open_holds: int = await client.zcard(key)
        if not open_holds:
            break
        await asyncio.sleep(0.02)
    return open_holds


async def test_more_than_a_redis_call_takes_is_read_and_written_in_parts(
    counters: Counters, tenant: str
) -> None:
    """Five thousand operations in one batch, each remembered and found again."""
    coverage = covering(a_domain_limit("tokens", capacity=10_000))
    many = [an_operation(coverage, 1, request=f"r{n}") for n in range(5_000)]
    first = await decided(counters, tenant, *many)
    again = await decided(counters, tenant, *many)

    assert first == [("ALLOWED", 0, 5_000)] * 5_000
    assert again == first


async def test_batches_that_are_asked_together_stand_alone(
    counters: Counters, client: Client, tenant: str
) -> None:
    """A batch whose data Redis cannot read fails by itself; the others are decided."""
    root, broken = Root(tenant, "acme"), Root(tenant, "broken")
    coverage = covering(a_domain_limit())
    keys = [f"tollkeeper:quota:{{{tenant}/broken}}:{name}" for name in ("counters", "expiries")]
    for key in keys:
        await client.set(key, "not what it should be")
    batches = [Batch(asked, [an_operation(coverage, 5, request="a")]) for asked in (broken, root)]
    bad, good = await counters.decide(batches)

    assert isinstance(bad, ReplyError)
    assert isinstance(good, Decided)
    assert [isinstance(answer, Answer) for answer in good.answers] == [True]


async def test_a_slow_redis_does_not_keep_a_call_waiting(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    client: Client,
) -> None:
    """The call is refused, says when to try again, and its repeat takes effect once."""
    async with quota_world(settings_for, keys, tenant, quota_decision_timeout_s=0.05) as world:
        await world.put(a_limit("tokens", capacity="100"))
        request = a_reserve(10)
        await client.client_pause(60_000, all=False)
        try:
            refused = await world.ask("Reserve", request)
        finally:
            await client.client_unpause()
        answer = await until_answered(world, request)

    assert (refused.decision, refused.degraded) == (DENY, True)
    assert refused.limits[0].retry_after.ToTimedelta() == timedelta(seconds=1)
    assert standings(answer.limits) == [Standing("tokens", "acme", 0, 10, 90)]


async def until_answered(
    world: QuotaWorld, request: messages.ReserveRequest
) -> messages.ReserveResponse:
    """Repeat a call until the counters answer again."""
    for _ in range(200):
        answer: messages.ReserveResponse = await world.ask("Reserve", request)
        if not answer.degraded:
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError("the counters did not come back")


async def test_counters_that_redis_lost_start_anew_without_losing_usage(
    world: QuotaWorld, client: Client, tenant: str
) -> None:
    """A commit of a hold that is gone is booked in full, and nothing goes below nothing."""
    held = await world.ask("Reserve", a_reserve(30))
    async for key in client.scan_iter(f"*{{{tenant}/acme}}*"):
        await client.delete(key)

    booked = await world.ask("Commit", a_commit(held.reservation_id, 20, of=subject()))

    assert not booked.hold_settled
    assert standings(booked.limits) == [Standing("tokens", "acme", 20, 0, 80)]


async def test_a_hold_that_outlived_its_counter_gives_nothing_back(
    world: QuotaWorld, client: Client, tenant: str
) -> None:
    """Where only the counter was lost, a release frees no more than is held."""
    held = await world.ask("Reserve", a_reserve(30))
    await client.hdel(f"tollkeeper:quota:{{{tenant}/acme}}:counters", "tokens|customer")
    await world.ask("Release", a_release(held.reservation_id))

    assert await world.balances() == [Standing("tokens", "acme", 0, 0, 100)]


def test_the_script_is_plain_ascii_without_tabs() -> None:
    """Redis takes any bytes; people read it."""
    assert SCRIPT.decode().isascii()
    assert "\t" not in SCRIPT.decode()
