"""Maintenance: killed at any step, by several replicas, beside readers, and by hand."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from cli.signing_keys import SigningKeys
from kit.clock import Clock
from kit.migrations import migrate
from kit.postgres import Database
from kit.settings import ServiceSettings
from services.meter.retention import cut_of
from services.meter.store.retention import load_horizon, load_trimmed_until
from services.meter.usecases.retention import Maintained, Retention
from tests.meter_world import (
    World,
    an_event,
    meter_world,
)
from tests.retention_world import (
    AFTERWARDS,
    METERS,
    NOW,
    RETENTION,
    figures,
    maintain,
    retention,
    usage_of_january,
    verified_days,
)
from tests.servers import database_name
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service with a meter of every aggregation."""
    async with meter_world(settings_for, keys, tenant, NOW) as running:
        for meter in METERS:
            await running.put_meter(meter)
        yield running


@pytest.fixture
async def database(settings_for: Callable[..., ServiceSettings]) -> AsyncIterator[Database]:
    """The database of the service."""
    pool = Database(settings_for("meter").database_url, "meter")
    yield pool
    await pool.close()


class _Dying(Database):
    """A database whose process is killed after so many transactions."""

    steps_left = 0

    @asynccontextmanager
    async def transaction(self, tenant: str) -> AsyncIterator[AsyncConnection]:
        async with super().transaction(tenant) as transaction:
            yield transaction
            self.steps_left -= 1
            if self.steps_left < 0:
                raise asyncio.CancelledError


async def test_whoever_is_killed_leaves_nothing_half_done(
    world: World, database: Database, settings_for: Callable[..., ServiceSettings]
) -> None:
    """After any step figures are as before and verified; the next one does what is left."""
    await maintain(world, database)
    await world.ingest(*usage_of_january())
    await world.ask("ImportUsage", messages.ImportUsageRequest(events=[an_event("h")]))
    world.clock.set(AFTERWARDS)
    before = await figures(world)
    dying = _Dying(settings_for("meter").database_url, "meter")
    seen = []

    for steps in range(40):
        dying.steps_left = steps
        try:
            await retention(dying, world.clock, pages_at_once=1).maintain()
        except asyncio.CancelledError:
            seen.append(
                await figures(world) == before
                and all(n == 0 for _, n in await verified_days(world))
            )
            continue
        break
    await dying.close()

    assert len(seen) > 10
    assert all(seen)
    assert await maintain(world, database) == Maintained()
    assert await world.events() == []


async def test_replicas_take_turns(world: World, database: Database) -> None:
    """Several at once make and drop each month once, and none of them fails."""
    await maintain(world, database)
    await world.ingest(*usage_of_january())
    world.clock.set(AFTERWARDS)

    done = await asyncio.gather(*(maintain(world, database) for _ in range(4)))
    last = await maintain(world, database)

    everyone = [*done, last]
    assert sorted(month for each in everyone for month in each.dropped) == ["2040-01"]
    assert len([month for each in everyone for month in each.made]) == 4
    assert sum(each.deleted for each in everyone) == 40
    assert last.is_done


async def test_nothing_is_dropped_while_somebody_reads(world: World, database: Database) -> None:
    """It gives up after a moment, and does it the next time."""
    await maintain(world, database)
    await world.ingest(*usage_of_january())
    world.clock.set(AFTERWARDS)

    async with database.transaction(world.tenant) as transaction:
        horizon = await load_horizon(transaction)
        waiting = await maintain(world, database)
        kept = len(await world.events())
    done = await maintain(world, database)

    assert (horizon, waiting.dropped, waiting.is_done, kept) == (None, (), False, 40)
    assert (done.dropped, done.is_done) == (("2040-01",), True)


async def test_nothing_is_dropped_by_a_clock_that_is_wrong(
    world: World, database: Database
) -> None:
    """Years ahead of PostgreSQL's, it makes and drops nothing."""
    await maintain(world, database)
    await world.ingest(*usage_of_january())
    world.clock.set(AFTERWARDS)

    done = await Retention(database, world.clock, RETENTION).maintain()

    assert done == Maintained(is_done=False)
    assert len(await world.events()) == 40


async def test_an_operator_can_maintain_by_hand(
    settings_for: Callable[..., ServiceSettings], database: Database
) -> None:
    """`python -m services.meter maintain` does what is due, and ends."""
    settings = settings_for("meter")
    environment = {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
        "TOLLKEEPER_KEYS_FILE": str(settings.keys_file),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.meter", "maintain"),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()

    async with database.transaction("") as transaction:
        trimmed_until = await load_trimmed_until(transaction)
    assert (process.returncode, b"Traceback" in said) == (0, False)
    assert trimmed_until == cut_of(datetime.now(UTC), RETENTION)


async def execute(url: str, *statements: str) -> None:
    """Run statements as the login itself."""
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.usefixtures("template")
async def test_a_login_that_owns_nothing_can_maintain(empty_database_url: str) -> None:
    """No superuser is needed; what is beyond retention goes of every tenant."""
    name = database_name(empty_database_url)
    owner, member = f"owner_{name}", f"member_{name}"
    _, _, place = empty_database_url.rpartition("@")
    urls = [f"postgresql://{login}:hunter2@{place}" for login in (owner, member)]
    await execute(
        empty_database_url,
        *(f"CREATE ROLE {login} LOGIN PASSWORD 'hunter2'" for login in (owner, member)),
        *(f"GRANT tollkeeper_meter TO {login}" for login in (owner, member)),
        f"ALTER DATABASE {name} OWNER TO {owner}",
    )
    await asyncio.to_thread(migrate, urls[0], "meter")
    await execute(empty_database_url, *(_AN_OLD_EVENT.format(tenant=each) for each in "ab"))
    pool = Database(urls[1], "meter")

    clock: Clock = _At(AFTERWARDS)
    done = await retention(pool, clock).maintain()
    await pool.close()

    left = await asyncpg.connect(empty_database_url)
    counts = [
        await left.fetchval(f"SELECT count(*) FROM meter.{table}")  # noqa: S608 - names of ours.
        for table in ("events", "event_identities", "rejected_events")
    ]
    await left.close()
    await execute(
        empty_database_url,
        f"REASSIGN OWNED BY {owner} TO CURRENT_USER",
        f"DROP OWNED BY {owner}, {member}",
        f"DROP ROLE {owner}, {member}",
    )
    assert (done.deleted, counts) == (6, [0, 0, 0])


class _At:
    """A clock that stands still."""

    def __init__(self, instant: datetime) -> None:
        self._instant = instant

    def now(self) -> datetime:
        """Answer its time."""
        return self._instant


_AN_OLD_EVENT = """
INSERT INTO meter.events VALUES (
    '{tenant}', '2020-01-01Z', 's', 'e', 't', 'c', '', '', '', '', '{{}}', '{{}}', '2020-01-01Z'
);
INSERT INTO meter.event_identities VALUES ('{tenant}', 'e', 's', '2020-01-01Z', '', '2020-01-01');
INSERT INTO meter.rejected_events VALUES (
    '{tenant}', DEFAULT, '', 'c', '', '[]', '2020-01-01Z', '2020-01-01Z', 1
)
"""
