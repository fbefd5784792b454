"""The migration that partitions events: what was stored before it is there, counted and known."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from cli.signing_keys import SigningKeys
from kit.migrations import migrate
from kit.rpc.wire import render_interval
from kit.settings import ServiceSettings
from tests.meter_world import (
    CONFLICT,
    CREATED,
    DUPLICATE,
    TODAY,
    World,
    an_event,
    meter_world,
)
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

MIGRATIONS = Path(__file__).resolve().parents[2] / "services/meter/migrations"
# What a service of the revision before stored for three events of one meter, one of them ahead.
STORED = """
INSERT INTO meter.meters (
    tenant_id, meter_id, display_name, event_type, aggregation, quantity, filters, group_by, unit,
    create_time
) VALUES (
    'TENANT', 'tokens', 'tokens', 'llm.call', 'SUM', 'tokens', '{}', '{}', 'tokens',
    '2026-03-01 12:00Z'
);
INSERT INTO meter.meter_revisions VALUES ('TENANT', 1);
INSERT INTO meter.series (tenant_id, meter_id, customer_id, group_digest, group_values)
VALUES ('TENANT', 'tokens', 'acme', sha256('[]'), '{}');
INSERT INTO meter.rollups (tenant_id, series_id, span, start, quantity, event_count)
SELECT 'TENANT', series_id, span, start, 20, 2
FROM meter.series, (VALUES (15, '2026-03-01 12:00Z'::timestamptz), (1440, '2026-03-01 00:00Z'))
    AS spans (span, start);
INSERT INTO meter.events (
    tenant_id, time, source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
    dimensions, quantities, ingest_time
)
SELECT 'TENANT', time, 'gateway', event_id, 'llm.call', 'acme', '', '', '', '',
    '{"model":"small"}', '{"tokens":"10"}', '2026-03-01 12:00Z'
FROM (
    VALUES
    ('2026-03-01 12:00Z'::timestamptz, 'e1'),
    ('2026-03-01 12:00Z', 'e2'),
    (now() + INTERVAL '59 minutes', 'ahead')
) AS stored (time, event_id);
INSERT INTO meter.event_identities (tenant_id, event_id, source, time, fingerprint)
SELECT tenant_id, event_id, source, time, '' FROM meter.events
"""


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The migrations as they were before events were partitioned."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    for later in folder.glob("000[4-9]_*.py"):
        later.unlink()
    return folder


async def ask_database(url: str, statement: str) -> list[tuple[object, ...]]:
    """Ask PostgreSQL as the login itself."""
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def test_what_was_stored_before_is_as_it_was(
    empty_database_url: str,
    before: Path,
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
) -> None:
    """Events are listed and counted, repeats known; nothing is copied."""
    await asyncio.to_thread(migrate, empty_database_url, "meter", directory=before)
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(STORED.replace("TENANT", tenant))
    files = "SELECT relfilenode FROM pg_class WHERE relname IN ({}) ORDER BY relname"
    stored_in = await ask_database(
        empty_database_url,
        files.format("'events', 'events_by_customer'"),
    )
    await connection.close()

    await asyncio.to_thread(migrate, empty_database_url, "meter")

    assert stored_in == await ask_database(
        empty_database_url,
        files.format("'events_earlier', 'events_earlier_by_customer'"),
    )
    settings = lambda service: settings_for(service, database_url=empty_database_url)  # noqa: E731
    async with meter_world(settings, keys, tenant) as world:
        await _check(world)


async def _check(world: World) -> None:
    listed = [each.event.event_id for each in await world.events(customer_id="acme")]
    figures = await world.usage("tokens", TODAY)
    sent = await world.ingest(
        an_event("e1"), an_event("e2", quantities={"tokens": "11"}), an_event("e3")
    )
    call = world.stub.VerifyUsage(
        messages.VerifyUsageRequest(interval=render_interval(TODAY)),
        metadata=world.token(),
    )
    verified = [(day.event_count, day.difference_count) async for day in call]
    assert (listed, figures) == (["e1", "e2", "ahead"], [("acme", "20", 2)])
    assert list(sent.outcomes) == [DUPLICATE, CONFLICT, CREATED]
    assert verified == [(3, 0)]
    assert await world.usage("tokens", TODAY) == [("acme", "30", 3)]
