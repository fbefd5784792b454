"""Alerts over gRPC, on real PostgreSQL and Redis: once for each threshold, window and counter."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput
from kit.postgres import Database
from kit.rpc.channel import open_channel
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.quota_world import (
    QuotaWorld,
    a_commit,
    a_limit,
    a_reserve,
    quota_world,
    request_id,
    subject,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

THRESHOLDS = {"alertThresholds": [50, 80, 100]}


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A gate that knows a limit of a hundred tokens a year with three thresholds."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(a_limit("year", **THRESHOLDS))
        yield running


async def alerts(world: QuotaWorld, **fields: Any) -> list[quota_pb2.Alert]:  # noqa: ANN401 - any field.
    """List alerts."""
    answer = await world.ask("ListAlerts", messages.ListAlertsRequest(**fields))
    return list(answer.alerts)


async def until_alerted(count: int, world: QuotaWorld) -> list[tuple[str, str, int, int]]:
    """Wait until there are so many alerts, and a little longer; it gives up after many times."""
    for _ in range(200):
        if len(await alerts(world)) >= count:
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    return [(each.limit_id, each.scope, each.threshold, each.used) for each in await alerts(world)]


async def use(world: QuotaWorld, tokens: int, customer: str = "acme") -> None:
    """Book tokens."""
    await world.ask("Commit", a_commit(tokens=tokens, of=subject(customer)))


async def test_each_threshold_is_told_once(world: QuotaWorld) -> None:
    """When it is reached, however often the counter is looked at; holds do not reach it."""
    await world.ask("Reserve", a_reserve(40, ttl_ms=100))
    await use(world, 49)
    await use(world, 1)
    first = await until_alerted(1, world)
    await use(world, 45)
    await world.ask("Reserve", a_reserve(50))
    await use(world, 10)
    every = await until_alerted(3, world)
    (alert,) = await alerts(world, page_size=1)

    assert first == [("year", "acme", 50, 50)]
    assert every == [*first, ("year", "acme", 80, 95), ("year", "acme", 100, 105)]
    assert (alert.capacity, alert.HasField("reset_time")) == (100, True)
    assert alert.reset_time.seconds > alert.create_time.seconds


async def test_two_replicas_tell_a_crossing_once(
    world: QuotaWorld, settings_for: Callable[..., ServiceSettings]
) -> None:
    """Each sees it, and each counter has its own; what a replica forgot is not told again."""
    async with (
        hosted("quota", settings_for("quota")) as address,
        open_channel(address) as channel,
    ):
        other = replace(world, stub=QuotaServiceStub(channel))
        await asyncio.gather(*(use(each, 1) for each in (world, other) * 30))
        await use(other, 60, "globex")
        found = await until_alerted(2, other)

    assert min(found)[:3] == ("year", "acme", 50)
    assert sorted(found)[1:] == [("year", "globex", 50, 60)]


async def test_a_payment_lets_a_balance_run_low_again(world: QuotaWorld) -> None:
    """A lifetime is told once for each capacity; it has no reset."""
    await world.put(
        a_limit("paid", units=["credits"], capacity="10", lifetime={}, alertThresholds=[80])
    )

    async def spend(credits_: int) -> None:
        commit = a_commit(tokens=0, of=subject())
        commit.amounts.add(unit="credits", quantity=credits_)
        await world.ask("Commit", commit)

    await spend(9)
    await until_alerted(1, world)
    payment = messages.TopUpLimitRequest(request_id=request_id(), limit_id="paid", quantity=90)
    await world.ask("TopUpLimit", payment)
    await spend(70)
    before = await until_alerted(1, world)
    await spend(1)
    after = await until_alerted(2, world)

    assert before == [("paid", "acme", 80, 9)]
    assert after == [*before, ("paid", "acme", 80, 80)]
    assert not (await alerts(world))[0].HasField("reset_time")


async def test_alerts_are_listed_page_by_page_and_from_one_on(world: QuotaWorld) -> None:
    """All or those of a customer; who has read up to one goes on from there."""
    await use(world, 100)
    await use(world, 50, "globex")
    await until_alerted(4, world)
    every = await alerts(world)
    first = await world.ask("ListAlerts", messages.ListAlertsRequest(page_size=3))
    token = first.next_page_token
    rest = await world.ask("ListAlerts", messages.ListAlertsRequest(page_size=3, page_token=token))
    errors = [
        await world.refusal("ListAlerts", messages.ListAlertsRequest(**fields))
        for fields in (
            {"customer_id": "a/b", "after_alert_id": -1},
            {"customer_id": "acme", "page_token": token},
        )
    ]

    assert [each.alert_id for each in every] == sorted({each.alert_id for each in every})
    assert (list(first.alerts), list(rest.alerts)) == (every[:3], every[3:])
    assert rest.next_page_token == ""
    assert [each.scope for each in await alerts(world, customer_id="globex")] == ["globex"]
    assert await alerts(world, after_alert_id=every[1].alert_id) == every[2:]
    assert [(type(error), error.reason) for error in errors] == [
        (InvalidInput, "INVALID_FIELD"),
        (InvalidInput, "INVALID_PAGE_TOKEN"),
    ]
    assert [violation.field for violation in errors[0].violations] == [
        *("customer_id", "after_alert_id"),
    ]


async def test_what_could_not_be_written_is_written_later(
    world: QuotaWorld, database_url: str
) -> None:
    """Decisions go on while the outbox cannot be written."""
    owner = Database(database_url, "quota")
    async with owner.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE quota.alerts RENAME TO alerts_away"))
    try:
        await use(world, 60)
        await asyncio.sleep(0.5)
        await use(world, 1)
    finally:
        async with owner.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE quota.alerts_away RENAME TO alerts"))
        await owner.close()

    assert await until_alerted(1, world) == [("year", "acme", 50, 60)]
