"""Where the closed time of customers ends, and the events that came after it did.

A period is closed while nobody stores events: whoever stored before has committed and is counted,
whoever stores afterwards sees the end. So no event can slip between the usage of an invoice and
what is late.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.postgres import raw_connection
from services.meter.model import Identity, IncomingEvent, LateEvent, StoredEvent, UsageEvent
from services.meter.store.events import lines_of
from services.meter.store.parameters import Parameters
from services.meter.store.reading import COLUMNS

LateKey = tuple[datetime, str, str]
"""The order of late events: when they came, source, event id."""

_CLOSE: Final = """
INSERT INTO meter.closed_periods AS closed (tenant_id, customer_id, end_time)
SELECT $1, customer_id, max(end_time)
FROM unnest($2::text[], $3::timestamptz[]) AS wanted (customer_id, end_time)
GROUP BY customer_id
ON CONFLICT (tenant_id, customer_id) DO UPDATE SET
    end_time = greatest(closed.end_time, excluded.end_time)
"""
_BOUND: Final = """
INSERT INTO meter.closing_bounds AS bound (tenant_id, end_time)
VALUES ($1, $2)
ON CONFLICT (tenant_id) DO UPDATE SET end_time = greatest(bound.end_time, excluded.end_time)
"""
_FIND: Final = """
SELECT customer_id, end_time FROM meter.closed_periods
WHERE tenant_id = $1 AND customer_id = ANY($2)
"""
_STORE_LATE: Final = """
WITH staged AS (
    SELECT
        field[1] AS source, field[2] AS event_id,
        timestamptz '1970-01-01 00:00Z' + field[3]::bigint * interval '1 microsecond' AS time,
        field[4] AS type, field[5] AS customer_id, field[6] AS project_id, field[7] AS user_id,
        field[8] AS key_id, field[9] AS run_id, field[10]::json AS dimensions,
        field[11]::json AS quantities, field[12] AS fingerprint
    FROM string_to_table($3, E'\\n') AS line, string_to_array(line, E'\\t') AS field
), created AS (
    INSERT INTO meter.event_identities (
        tenant_id, event_id, source, time, fingerprint, stored_on
    )
    SELECT
        $1, event_id, source, time, decode(fingerprint, 'hex'),
        ($2::timestamptz AT TIME ZONE 'UTC')::date
    FROM staged
    ORDER BY event_id COLLATE "C", source COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING event_id, source
), stored AS (
    INSERT INTO meter.late_events (
        tenant_id, source, event_id, time, type, customer_id, project_id, user_id, key_id, run_id,
        dimensions, quantities, ingest_time, closed_until
    )
    SELECT
        $1, source, event_id, time, type, staged.customer_id, project_id, user_id, key_id, run_id,
        dimensions, quantities, $2, closed.end_time
    FROM staged
    JOIN created USING (event_id, source)
    JOIN meter.closed_periods AS closed
        ON closed.tenant_id = $1 AND closed.customer_id = staged.customer_id
)
SELECT source, event_id FROM created
"""
_FIND_LATE: Final = f"""
SELECT ingest_time, closed_until, {COLUMNS} FROM meter.late_events
WHERE tenant_id = $1 AND source = $2 AND event_id = $3
"""


async def close_periods(
    transaction: AsyncConnection, tenant: str, ends: Sequence[tuple[str, datetime]]
) -> Mapping[str, datetime]:
    """Move the ends of customers' closed time, never back; answer where they are."""
    raw = await raw_connection(transaction)
    customers, times = map(list, zip(*ends, strict=True))
    await raw.execute(_CLOSE, tenant, customers, times)
    await raw.execute(_BOUND, tenant, max(times))
    return await load_closed(transaction, tenant, customers)


async def load_closed(
    transaction: AsyncConnection, tenant: str, customer_ids: Collection[str]
) -> Mapping[str, datetime]:
    """Answer where the closed time of customers ends; none where nothing was closed."""
    raw = await raw_connection(transaction)
    return dict(tuple(row) for row in await raw.fetch(_FIND, tenant, list(customer_ids)))


async def save_late_events(
    transaction: AsyncConnection,
    tenant: str,
    late: Sequence[IncomingEvent],
    ingest_time: datetime,
) -> set[Identity]:
    """Keep late events whose identity is new, and answer those identities."""
    raw = await raw_connection(transaction)
    found = await raw.fetch(_STORE_LATE, tenant, ingest_time, lines_of(late))
    return {tuple(row) for row in found}


async def load_late_event(
    transaction: AsyncConnection, tenant: str, identity: Identity
) -> LateEvent | None:
    """Load one late event by its identity, if there is one."""
    raw = await raw_connection(transaction)
    row = await raw.fetchrow(_FIND_LATE, tenant, *identity)
    return _late_event(row) if row else None


async def list_late_events(
    transaction: AsyncConnection,
    tenant: str,
    customer_id: str,
    ingested: Interval | None,
    *,
    after: LateKey | None,
    limit: int,
) -> list[LateEvent]:
    """Load late events in their order."""
    parameters = Parameters()
    add = parameters.add
    conditions = [f"tenant_id = {add(tenant, 'text')}"]
    if customer_id:
        conditions.append(f"customer_id = {add(customer_id, 'text')}")
    if ingested:
        conditions.append(f"ingest_time >= {add(ingested.start, 'timestamptz')}")
        conditions.append(f"ingest_time < {add(ingested.end, 'timestamptz')}")
    if after:
        time, source, event_id = after
        key = f"{add(time, 'timestamptz')}, {add(source, 'text')}, {add(event_id, 'text')}"
        conditions.append(f"(ingest_time, source, event_id) > ({key})")
    statement = (
        f"SELECT ingest_time, closed_until, {COLUMNS} FROM meter.late_events"
        f" WHERE {' AND '.join(conditions)}"
        f" ORDER BY ingest_time, source, event_id LIMIT {add(limit, 'bigint')}"
    )
    raw = await raw_connection(transaction)
    return [_late_event(row) for row in await raw.fetch(statement, *parameters.values)]


def _late_event(row: Sequence[Any]) -> LateEvent:
    ingest_time, closed_until, *event = row
    return LateEvent(StoredEvent(UsageEvent(*event), ingest_time), closed_until)
