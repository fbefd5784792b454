"""A meter service in 2040, after every month that a migration makes, and what it is asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from kit.clock import Clock
from kit.interval import Interval
from kit.postgres import Database
from services.meter.usecases.retention import Maintained, Retention
from tests.meter_model import MODELS, WEIGHTED
from tests.meter_world import (
    World,
    an_event,
)
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

NOW = datetime(2040, 1, 20, 12, tzinfo=UTC)
JANUARY = Interval(datetime(2040, 1, 1, tzinfo=UTC), datetime(2040, 2, 1, tzinfo=UTC))
FEBRUARY = datetime(2040, 2, 1, tzinfo=UTC)
RETENTION = timedelta(days=400)
AFTERWARDS = datetime(2041, 3, 20, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
METERS = [*(each.meter for each in MODELS), WEIGHTED]


async def maintain(world: World, database: Database) -> Maintained:
    """Do what the service does each hour."""
    return await retention(database, world.clock).maintain()


def retention(database: Database, clock: Clock, pages_at_once: int = 1_000) -> Retention:
    """Make what maintains; PostgreSQL does not live in 2040, and is not asked for the time."""
    return Retention(
        database,
        clock,
        RETENTION,
        pages_at_once=pages_at_once,
        clocks_differ_max=timedelta(days=40_000),
    )


def usage_of_january(number: int = 40) -> list[meter_pb2.UsageEvent]:
    """Make events of several days, groups and quarters of an hour, out of order."""
    return [
        an_event(
            f"e{each}",
            time=NOW - (each % 3) * DAY - (each * 7 % 40) * MINUTE,
            quantities={"tokens": str(each)},
            dimensions={"model": f"m{each % 3}", "region": "eu"},
        )
        for each in range(number)
    ]


async def figures(world: World, interval: Interval = JANUARY) -> dict[str, object]:
    """Ask every meter for an interval by model and day."""
    return {
        meter.meter_id: await world.usage(
            meter.meter_id, interval, group_by=["model"], window=messages.USAGE_WINDOW_DAY
        )
        for meter in METERS
    }


async def partitions(database: Database) -> list[str]:
    """Name the months that are there in 2040 and later."""
    async with database.transaction("") as transaction:
        found = await transaction.exec_driver_sql(
            "SELECT relname::text FROM pg_class WHERE relname ~ '^events_20[4-9]._..$' ORDER BY 1"
        )
    return [name for (name,) in found]


async def verified_days(world: World) -> list[tuple[int, int]]:
    """Verify usage, and answer the events and the differences of each day."""
    call = world.stub.VerifyUsage(messages.VerifyUsageRequest(), metadata=world.token())
    return [(day.event_count, day.difference_count) async for day in call]


async def a_year_later(world: World, database: Database) -> Maintained:
    """Let January be taken in, then go beyond its retention."""
    await maintain(world, database)
    await world.ingest(*usage_of_january())
    world.clock.set(AFTERWARDS)
    await world.ingest(an_event("new", time=AFTERWARDS - HOUR))
    return await maintain(world, database)
