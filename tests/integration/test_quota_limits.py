"""Limits over gRPC, on real PostgreSQL and Redis: put, shown, listed, deleted, and known to all."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc.aio
import pytest
import redis.asyncio
from sqlalchemy import text

from cli.signing_keys import SigningKeys
from kit.errors import Conflict, InvalidInput, NotFound, Precondition
from kit.postgres import Database
from kit.rpc.channel import open_channel
from kit.settings import ServiceSettings
from tests.hosting import hosted
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
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

VERSIONS = "tollkeeper:quota:limit_versions"


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service that knows nothing of this tenant."""
    async with quota_world(settings_for, keys, tenant) as running:
        yield running


def a_put(limit: quota_pb2.Limit, request: str = "put") -> messages.PutLimitRequest:
    """Ask to put a limit."""
    return messages.PutLimitRequest(request_id=request, limit=limit)


def a_deletion(limit_id: str = "tokens", request: str = "delete") -> messages.DeleteLimitRequest:
    """Ask to delete a limit."""
    return messages.DeleteLimitRequest(request_id=request, limit_id=limit_id)


def without_times(limit: quota_pb2.Limit) -> quota_pb2.Limit:
    """Take off what the service set."""
    limit.ClearField("create_time")
    limit.ClearField("update_time")
    return limit


async def test_a_limit_is_put_shown_and_deleted(world: QuotaWorld) -> None:
    """With its times, which the service sets; afterwards nobody knows it."""
    limit = a_limit(
        display_name="Tokens of the large model",
        level="LEVEL_KEY",
        subject={"customerId": "acme"},
        dimensions={"model": "large*"},
        rolling={"period": "60s", "burst": "40"},
        filter='dimensions.region == "eu"',
        expireTime="2099-12-31T12:00:00.000001Z",
        enforcement="ENFORCEMENT_SOFT",
        outage_policy="OUTAGE_POLICY_LEASED",
        outage_allowance="10",
    )
    put = (await world.ask("PutLimit", a_put(limit))).limit
    shown = (await world.ask("GetLimit", messages.GetLimitRequest(limit_id="tokens"))).limit
    await world.ask("DeleteLimit", a_deletion())
    error = await world.refusal("GetLimit", messages.GetLimitRequest(limit_id="tokens"))

    assert put == shown
    assert put.create_time == put.update_time
    assert without_times(put) == limit
    assert (type(error), error.reason, error.metadata) == (
        NotFound,
        "LIMIT_NOT_FOUND",
        {"limit_id": "tokens"},
    )


async def test_a_limit_put_again_replaces_the_first_and_keeps_its_counters(
    world: QuotaWorld,
) -> None:
    """It keeps its time of creation, and what is used and held."""
    first = (await world.ask("PutLimit", a_put(a_limit(capacity="100")))).limit
    await world.ask("Commit", a_commit(tokens=30, of=subject()))
    await world.ask("Reserve", a_reserve(20))
    second = (await world.ask("PutLimit", a_put(a_limit(capacity="60"), "again"))).limit

    assert second.create_time == first.create_time
    assert second.update_time.ToNanoseconds() > first.update_time.ToNanoseconds()
    assert await world.balances() == [Standing("tokens", "acme", 30, 20, 10)]


async def test_a_limit_put_below_its_usage_refuses_and_shows_the_overage(
    world: QuotaWorld,
) -> None:
    """Nothing remains, never less than nothing."""
    await world.put(a_limit(capacity="100"))
    await world.ask("Commit", a_commit(tokens=30, of=subject()))
    await world.put(a_limit(capacity="10"))

    refused = await world.ask("Reserve", a_reserve(1))

    assert refused.decision == DENY
    assert await world.balances() == [Standing("tokens", "acme", 30, 0, 0)]


async def test_a_deleted_limit_refuses_nothing_and_its_holds_end_as_before(
    world: QuotaWorld,
) -> None:
    """Open holds can be committed; no other limit is disturbed."""
    await world.put(a_limit("narrow", capacity="10"), a_limit("wide", capacity="100"))
    held = await world.ask("Reserve", a_reserve(10))
    await world.ask("DeleteLimit", a_deletion("narrow"))

    booked = await world.ask("Commit", a_commit(held.reservation_id, 8, of=subject()))
    passed = await world.ask("Reserve", a_reserve(50))

    assert booked.hold_settled
    assert passed.decision == ALLOW
    assert await world.balances() == [Standing("wide", "acme", 8, 50, 42)]


async def test_putting_and_deleting_can_be_repeated(world: QuotaWorld) -> None:
    """Each repeat gets its first answer; the same id with other content is refused."""
    first = await world.ask("PutLimit", a_put(a_limit()))
    again = await world.ask("PutLimit", a_put(a_limit()))
    error = await world.refusal("PutLimit", a_put(a_limit(capacity="7")))
    deleted = await world.ask("DeleteLimit", a_deletion())
    deleted_again = await world.ask("DeleteLimit", a_deletion())
    missing = await world.refusal("DeleteLimit", a_deletion(request="other"))

    assert (again, deleted_again) == (first, deleted)
    assert (type(error), error.reason) == (Conflict, "REQUEST_ID_REUSED")
    assert (type(missing), missing.reason) == (NotFound, "LIMIT_NOT_FOUND")


async def test_limits_are_listed_page_by_page(world: QuotaWorld) -> None:
    """Ordered by id, all or those of a customer; a token belongs to its list."""
    own = {"subject": {"customerId": "acme"}}
    await world.put(*(a_limit(f"own-{n}", **own) for n in range(3)), a_limit("all-0"))
    first = await world.ask("ListLimits", messages.ListLimitsRequest(page_size=3))
    token = first.next_page_token
    rest = await world.ask("ListLimits", messages.ListLimitsRequest(page_size=3, page_token=token))
    acme = await world.ask("ListLimits", messages.ListLimitsRequest(customer_id="acme"))
    error = await world.refusal(
        "ListLimits", messages.ListLimitsRequest(customer_id="acme", page_token=token)
    )

    assert [limit.limit_id for limit in first.limits] == ["all-0", "own-0", "own-1"]
    assert [limit.limit_id for limit in rest.limits] == ["own-2"]
    assert rest.next_page_token == ""
    assert [limit.limit_id for limit in acme.limits] == ["own-0", "own-1", "own-2"]
    assert (type(error), error.reason) == (InvalidInput, "INVALID_PAGE_TOKEN")


def a_top_up(quantity: int, request: str, limit_id: str = "prepaid") -> messages.TopUpLimitRequest:
    """Ask to add to a balance."""
    return messages.TopUpLimitRequest(request_id=request, limit_id=limit_id, quantity=quantity)


async def test_a_balance_grows_by_what_is_paid_in(world: QuotaWorld) -> None:
    """Each payment once, however often it is repeated; what was used stays used."""
    await world.put(a_limit("prepaid", capacity="100", lifetime={}))
    await world.ask("Commit", a_commit(tokens=90, of=subject()))
    first = await world.ask("TopUpLimit", a_top_up(50, "pay-1"))
    again = await world.ask("TopUpLimit", a_top_up(50, "pay-1"))
    error = await world.refusal("TopUpLimit", a_top_up(51, "pay-1"))

    assert first == again
    assert first.limit.capacity == 150
    assert (type(error), error.reason) == (Conflict, "REQUEST_ID_REUSED")
    assert await world.balances() == [Standing("prepaid", "acme", 90, 0, 60)]


async def test_only_a_lifetime_is_topped_up_and_only_so_far(world: QuotaWorld) -> None:
    """A limit with a window, one that is not there, and a balance that would be too large."""
    await world.put(
        a_limit("windowed"),
        a_limit("flying", units=["holds"], concurrency={}),
        a_limit("full", capacity=str(10**15 - 5), lifetime={}),
    )
    errors = [
        await world.refusal("TopUpLimit", a_top_up(quantity, f"pay-{limit_id}", limit_id))
        for limit_id, quantity in (("windowed", 1), ("flying", 1), ("full", 6), ("gone", 1))
    ]
    bad = await world.refusal("TopUpLimit", a_top_up(0, "", "A"))
    grown = await world.ask("TopUpLimit", a_top_up(5, "pay-5", "full"))

    assert [(type(error), error.reason) for error in errors] == [
        *[(Precondition, "LIMIT_NOT_TOPPABLE")] * 3,
        (NotFound, "LIMIT_NOT_FOUND"),
    ]
    assert [violation.field for violation in bad.violations] == [
        *("request_id", "limit_id", "quantity"),
    ]
    assert grown.limit.capacity == 10**15


async def test_payments_race_with_calls_and_none_is_lost(
    world: QuotaWorld, settings_for: Callable[..., ServiceSettings]
) -> None:
    """Two replicas take 40 payments, each twice; 300 calls want 2 of the 400 that come to be."""
    await world.put(a_limit("prepaid", capacity="0", lifetime={}))
    async with (
        hosted("quota", settings_for("quota")) as address,
        open_channel(address) as channel,
    ):
        replicas = [world, replace(world, stub=QuotaServiceStub(channel))]
        payments = [
            replicas[number % 2].ask("TopUpLimit", a_top_up(10, f"pay-{number // 2}"))
            for number in range(80)
        ]
        calls = [replicas[number % 2].ask("Reserve", a_reserve(2)) for number in range(300)]
        early, *_ = await asyncio.gather(asyncio.gather(*calls), *payments)
        admitted = sum(answer.decision == ALLOW for answer in early)
        for _ in range(200):
            late = await replicas[1].ask("Reserve", a_reserve(2))
            admitted += late.decision == ALLOW
            if admitted == 200:
                break
            await asyncio.sleep(0 if late.decision == ALLOW else 0.05)
        refused = await world.ask("Reserve", a_reserve(1))

    assert admitted == 200
    assert refused.decision == DENY
    assert await world.balances() == [Standing("prepaid", "acme", 0, 400, 0)]


async def test_a_key_gets_its_own_rate_until_an_instant(world: QuotaWorld) -> None:
    """The limit that stands in for another ends by itself, without anybody who puts it."""
    await world.put(
        a_limit("every-key", level="LEVEL_KEY", capacity="60"),
        a_limit(
            "generous",
            level="LEVEL_KEY",
            capacity="1000",
            subject={"keyId": "k1"},
            overrides="every-key",
            expireTime=in_a_moment(),
        ),
    )
    first = [await world.balances(key=key) for key in ("k1", "k2")]

    assert first == [
        [Standing("generous", "acme/k1", 0, 0, 1000)],
        [Standing("every-key", "acme/k2", 0, 0, 60)],
    ]
    assert await until_balances([Standing("every-key", "acme/k1", 0, 0, 60)], world, key="k1")


def in_a_moment() -> str:
    """Name an instant so near that a test can wait for it."""
    return (datetime.now(UTC) + timedelta(seconds=2)).isoformat()


async def until_balances(wanted: list[Standing], world: QuotaWorld, **ids: str) -> bool:
    """Look at balances until they are as wanted; it gives up after many times."""
    for _ in range(200):
        if await world.balances(**ids) == wanted:
            return True
        await asyncio.sleep(0.05)
    return False


async def test_limits_override_only_what_is_there_and_never_in_a_circle(world: QuotaWorld) -> None:
    """Each refusal says what is wrong, and changes nothing; a gone limit is overridden by none."""
    await world.put(a_limit("a"), a_limit("b", overrides="a"), a_limit("c", overrides="b"))
    refusals = [
        await world.refusal("PutLimit", a_put(limit, f"bad-{n}"))
        for n, limit in enumerate(
            [
                a_limit("x", overrides="gone"),
                a_limit("a", overrides="c"),
                a_limit("y", overrides="y"),
            ]
        )
    ]
    before = await world.balances()
    await world.ask("DeleteLimit", a_deletion("b"))

    assert [refusal.message for refusal in refusals] == [
        "limit.overrides: there is no limit gone",
        "limit.overrides: must not lead back to the limit: a overrides c overrides b overrides a",
        "limit.overrides: must not lead back to the limit: y overrides y",
    ]
    assert before == [Standing("c", "acme", 0, 0, 100)]
    assert [each.limit for each in await world.balances()] == ["a", "c"]


async def test_of_two_limits_that_come_to_override_each_other_one_is_refused(
    world: QuotaWorld,
) -> None:
    """Whoever comes second finds the first, however close they are."""
    await world.put(a_limit("a"), a_limit("b"))
    puts = [
        world.ask("PutLimit", a_put(a_limit(one, overrides=other), f"put-{one}"))
        for one, other in (("a", "b"), ("b", "a"))
    ]
    ends = await asyncio.gather(*puts, return_exceptions=True)

    assert sorted(type(end).__name__ for end in ends) == ["InvalidInput", "PutLimitResponse"]
    assert len(await world.balances()) == 1


async def test_limits_of_another_tenant_are_neither_seen_nor_obeyed(
    world: QuotaWorld, tenant: str
) -> None:
    """Not by list, by id or by decision; and an equal id is another limit."""
    stranger = f"{tenant}-2"
    await world.put(a_limit(capacity="0"))
    listed = await world.ask("ListLimits", messages.ListLimitsRequest(), stranger)
    error = await world.refusal("GetLimit", messages.GetLimitRequest(limit_id="tokens"), stranger)
    passed = await world.ask("Reserve", a_reserve(5), stranger)
    await world.put(a_limit(capacity="7"), tenant=stranger)

    assert list(listed.limits) == []
    assert error.reason == "LIMIT_NOT_FOUND"
    assert (passed.decision, list(passed.limits)) == (ALLOW, [])
    assert await world.balances() == [Standing("tokens", "acme", 0, 0, 0)]


async def test_the_database_shows_a_tenant_only_its_own_rows(
    world: QuotaWorld, database_url: str, tenant: str
) -> None:
    """Row-level security is a second wall behind every statement."""
    await world.put(a_limit("mine"))
    await world.put(a_limit("theirs"), tenant=f"{tenant}-2")
    database = Database(database_url, "quota")
    async with database.transaction(tenant) as transaction:
        rows = await transaction.execute(text("SELECT limit_id FROM quota.limits"))
        seen = [row.limit_id for row in rows]
    await database.close()

    assert seen == ["mine"]


async def test_every_replica_learns_of_a_change(
    world: QuotaWorld, settings_for: Callable[..., ServiceSettings]
) -> None:
    """A replica that had loaded the limits decides by the new ones soon."""
    async with (
        hosted("quota", settings_for("quota")) as address,
        open_channel(address) as channel,
    ):
        other = QuotaServiceStub(channel)
        await world.put(a_limit(capacity="100"))
        before = await capacity_seen_by(other, world)
        await world.put(a_limit(capacity="7"))
        after = await until_capacity(7, other, world)

    assert (before, after) == (100, 7)


async def test_a_replica_loads_anew_what_redis_has_lost(
    world: QuotaWorld, database_url: str, redis_url: str, tenant: str
) -> None:
    """Versions that are gone count as changed, so that no change is missed with them."""
    await world.put(a_limit(capacity="100"))
    assert await capacity_seen_by(world.stub, world) == 100
    database = Database(database_url, "quota")
    async with database.transaction(tenant) as transaction:
        await transaction.execute(text("UPDATE quota.limits SET capacity = 7"))
    await database.close()
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await client.hdel(VERSIONS, tenant)

    assert await until_capacity(7, world.stub, world) == 7


async def capacity_seen_by(stub: QuotaServiceStub, world: QuotaWorld) -> int:
    """Ask a replica for the capacity of the one limit that applies."""
    request = messages.CheckRequest(subject=subject(), amounts=amounts(tokens=1))
    answer: messages.CheckResponse = await stub.Check(request, metadata=world.token())  # type: ignore[misc] # typed for threads.
    return answer.limits[0].capacity


async def until_capacity(wanted: int, stub: QuotaServiceStub, world: QuotaWorld) -> int:
    """Ask a replica until it decides by a capacity; it gives up after many times."""
    for _ in range(200):
        seen = await capacity_seen_by(stub, world)
        if seen == wanted:
            break
        await asyncio.sleep(0.05)
    return seen


@pytest.mark.parametrize(
    ("method", "request_", "needed"),
    [
        ("Reserve", a_reserve(1), "quota.decide"),
        ("GetBalances", messages.GetBalancesRequest(subject=subject()), "quota.read"),
        ("PutLimit", a_put(a_limit()), "quota.write"),
    ],
)
async def test_each_method_needs_its_scope(
    world: QuotaWorld, method: str, request_: object, needed: str
) -> None:
    """All others together do not do; the error names the one that is missing."""
    others = {"quota.decide", "quota.read", "quota.write"} - {needed}
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await getattr(world.stub, method)(request_, metadata=world.token(*others))

    assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert failure.value.details() == f"the token lacks the scope {needed}"
