"""Verifying usage at a real meter service: nothing differs, and what is planted is found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from sqlalchemy import text

from cli.signing_keys import SigningKeys
from kit.interval import Interval
from kit.postgres import open_engine
from kit.rpc.wire import render_interval
from kit.settings import ServiceSettings
from tests.meter_model import MODELS, WEIGHTED
from tests.meter_world import NOON, TODAY, World, an_event, meter_world
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

DAY = timedelta(days=1)


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service with a meter of every aggregation and two days of events."""
    async with meter_world(settings_for, keys, tenant) as running:
        for meter in [*(each.meter for each in MODELS), WEIGHTED]:
            await running.put_meter(meter)
        await running.ingest(
            *(
                an_event(
                    f"e{number}",
                    time=NOON - (number % 2) * DAY - timedelta(minutes=number),
                    quantities={"tokens": str(number)},
                    dimensions={"model": f"m{number % 3}"},
                )
                for number in range(60)
            )
        )
        yield running


async def verified(
    world: World, interval: Interval | None = None
) -> list[messages.VerifyUsageResponse]:
    """Verify, and answer what was found in each day."""
    request = messages.VerifyUsageRequest()
    if interval:
        request.interval.CopyFrom(render_interval(interval))
    call = world.stub.VerifyUsage(request, metadata=world.token())
    return [day async for day in call]


async def change(url: str, statement: str) -> None:
    """Change what is kept, behind the service's back."""
    engine = open_engine(url, "meter")
    async with engine.begin() as connection:
        changed = await connection.execute(text(statement))
    await engine.dispose()
    assert changed.rowcount > 0


async def test_usage_is_what_the_events_say(world: World) -> None:
    """Every day is looked at, and nothing differs."""
    days = await verified(world)

    assert [(day.event_count, day.difference_count) for day in days] == [(30, 0), (30, 0)]
    assert all(day.rollup_count > 100 for day in days)
    today = await verified(world, TODAY)
    assert [day.event_count for day in today] == [30]


@pytest.mark.parametrize(
    ("planted", "places"),
    [
        (
            (
                "UPDATE meter.rollups SET quantity = quantity + 1 WHERE tenant_id = '{tenant}'"
                " AND span = 1440 AND series_id = (SELECT min(series_id) FROM meter.series"
                " WHERE tenant_id = '{tenant}' AND meter_id = 'sum')"
            ),
            {"sum"},
        ),
        (
            (
                "DELETE FROM meter.rollups WHERE tenant_id = '{tenant}' AND span = 15"
                " AND series_id = (SELECT min(series_id) FROM meter.series"
                " WHERE tenant_id = '{tenant}' AND meter_id = 'count')"
            ),
            {"count"},
        ),
        (
            (
                "UPDATE meter.rollup_values SET event_count = 7 WHERE tenant_id = '{tenant}'"
                " AND value = '12'"
            ),
            {"percentile"},
        ),
        (
            (
                'UPDATE meter.events SET quantities = \'{{"tokens":"1000"}}\''
                " WHERE tenant_id = '{tenant}' AND event_id = 'e30'"
            ),
            {"sum", "average", "max", "percentile", "weighted_sum"},
        ),
    ],
    ids=["a sum", "missing rollups", "a value", "an event"],
)
async def test_a_planted_difference_is_found(
    world: World,
    settings_for: Callable[..., ServiceSettings],
    tenant: str,
    planted: str,
    places: set[str],
) -> None:
    """It is named by its meter, customer and span, with both sides in words."""
    await change(settings_for("meter").database_url, planted.format(tenant=tenant))

    days = await verified(world)

    found = [each for day in days for each in day.differences]
    assert places <= {each.meter_id for each in found}
    assert {each.customer_id for each in found} == {"acme"}
    assert all(each.kept != each.counted for each in found)


async def test_verifying_beside_traffic_finds_nothing(world: World) -> None:
    """What is stored between two looks is no difference."""

    async def ingest() -> None:
        for call in range(15):
            await world.ingest(
                *(an_event(f"t{call}-{number}", time=NOON - DAY / 2) for number in range(40))
            )

    ingesting = asyncio.create_task(ingest())
    while not ingesting.done():
        assert sum(day.difference_count for day in await verified(world)) == 0
    await ingesting
