"""Takes events in, each identity once, and reads them back.

Taking events in speaks to asyncpg directly, inside the transaction of SQLAlchemy: the figures of
`docs/decisions/0011-meter-store.md` are lost otherwise.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import date, datetime
from typing import Any, Final, NamedTuple

import asyncpg
from sqlalchemy import (
    JSON,
    ColumnElement,
    Text,
    and_,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.postgres import raw_connection
from services.meter.model import (
    EventQuery,
    Identity,
    IncomingEvent,
    Meter,
    StoredEvent,
    UsageEvent,
)
from services.meter.tables import events
from services.meter.windows import start_of_minute

EventKey = tuple[datetime, str, str]
"""The order of events: time, source, event id."""

# Below this many, arrays in one statement are cheaper than a temporary table.
_COPY_MIN: Final = 200

_event = events.c
minute: Final = literal_column(
    "date_bin(INTERVAL '1 minute', meter.events.time, TIMESTAMPTZ '2000-01-01 00:00Z')",
    _event.time.type,
)
"""The minute in which an event happened, written as the indexes have it."""

_TYPES: Final = {
    name: Text if isinstance(_event[name].type, JSON) else _event[name].type
    for name in UsageEvent._fields
}
_CREATE_STAGED: Final = """
CREATE TEMPORARY TABLE staged_events (
    source text COLLATE "C", event_id text COLLATE "C", microseconds bigint, type text,
    customer_id text COLLATE "C", project_id text, user_id text, key_id text, run_id text,
    dimensions json, quantities json, fingerprint text
) ON COMMIT DROP
"""
_STORE_STAGED_IDENTITIES: Final = """
INSERT INTO meter.event_identities (tenant_id, event_id, source, time, fingerprint, stored_on)
SELECT
    $1, event_id, source,
    timestamptz '1970-01-01 00:00Z' + microseconds * interval '1 microsecond',
    decode(fingerprint, 'hex'), $2
FROM pg_temp.staged_events
ORDER BY event_id, source
"""
_STORE_STAGED_EVENTS: Final = """
INSERT INTO meter.events (
    tenant_id, time, source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
    dimensions, quantities, ingest_time, billed
)
SELECT
    $1, timestamptz '1970-01-01 00:00Z' + microseconds * interval '1 microsecond',
    source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
    dimensions, quantities, $2, $3
FROM pg_temp.staged_events
"""
_WITH_STAGED_FROM_TABLE: Final = """
WITH staged AS (SELECT * FROM pg_temp.staged_events),
"""
_WITH_STAGED_FROM_TEXT: Final = """
WITH staged AS (
    SELECT
        field[1] AS source, field[2] AS event_id, field[3]::bigint AS microseconds,
        field[4] AS type, field[5] AS customer_id, field[6] AS project_id, field[7] AS user_id,
        field[8] AS key_id, field[9] AS run_id, field[10]::json AS dimensions,
        field[11]::json AS quantities, field[12] AS fingerprint
    FROM string_to_table($5, E'\n') AS line, string_to_array(line, E'\t') AS field
),
"""
_STORE_WHAT_IS_NEW: Final = """
created AS (
    INSERT INTO meter.event_identities (
        tenant_id, event_id, source, time, fingerprint, stored_on
    )
    SELECT
        $1, event_id, source,
        timestamptz '1970-01-01 00:00Z' + microseconds * interval '1 microsecond',
        decode(fingerprint, 'hex'), $4::date
    FROM staged
    ORDER BY event_id COLLATE "C", source COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING event_id, source, time
), stored AS (
    INSERT INTO meter.events (
        tenant_id, time, source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
        dimensions, quantities, ingest_time, billed
    )
    SELECT
        $1, time, source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
        dimensions, quantities, $2, $3
    FROM staged JOIN created USING (event_id, source)
)
SELECT source, event_id FROM created
"""
_FIND_IDENTITIES: Final = """
SELECT source, event_id, time, encode(fingerprint, 'hex') FROM meter.event_identities
JOIN unnest($2::text[], $3::text[]) AS wanted (source, event_id) USING (source, event_id)
WHERE tenant_id = $1
"""
# An event that came late or was taken back is not among the events that count.
_FIND_EVENTS: Final = """
WITH wanted AS (
    SELECT * FROM unnest($2::timestamptz[], $3::text[], $4::text[]) AS each (time, source, event_id)
)
SELECT
    source, event_id, time, type, customer_id, project_id, user_id, key_id, run_id,
    dimensions::text, quantities::text
FROM meter.events JOIN wanted USING (time, source, event_id)
WHERE tenant_id = $1
UNION ALL
SELECT
    source, event_id, time, type, customer_id, project_id, user_id, key_id, run_id,
    dimensions::text, quantities::text
FROM meter.late_events JOIN wanted USING (time, source, event_id)
WHERE tenant_id = $1
UNION ALL
SELECT
    source, event_id, time, type, customer_id, project_id, user_id, key_id, run_id,
    dimensions::text, quantities::text
FROM meter.event_revisions JOIN wanted USING (time, source, event_id)
WHERE tenant_id = $1 AND kind = 'VOIDED'
"""


class StoredIdentity(NamedTuple):
    """What is known of a stored event by its identity alone."""

    time: datetime
    fingerprint: str


async def save_events(
    transaction: AsyncConnection,
    tenant: str,
    incoming: Sequence[IncomingEvent],
    ingest_time: datetime,
    *,
    billed: bool,
) -> set[Identity]:
    """Store the events whose identity is new, and answer those identities.

    No two of the events have the same identity. Identities are locked in their order, so that
    transactions that share some wait for each other and never in a circle.
    """
    if not incoming:
        return set()
    raw = await raw_connection(transaction)
    stored_on = ingest_time.date()
    text = "\n".join(
        [f"{each.source}\t{each.event_id}\t{each.content}\t{each.fingerprint}" for each in incoming]
    )
    if len(incoming) < _COPY_MIN:
        found = await raw.fetch(
            _WITH_STAGED_FROM_TEXT + _STORE_WHAT_IS_NEW,
            *(tenant, ingest_time, billed, stored_on),
            text,
        )
        return {tuple(row) for row in found}
    await raw.execute(_CREATE_STAGED)
    # Within COPY a backslash is written as two.
    escaped = text.replace("\\", "\\\\").encode()
    await raw.copy_to_table("staged_events", schema_name="pg_temp", source=_one(escaped))
    if await _save_new_identities(raw, tenant, stored_on):
        await raw.execute(_STORE_STAGED_EVENTS, tenant, ingest_time, billed)
        return {each.identity for each in incoming}
    found = await raw.fetch(
        _WITH_STAGED_FROM_TABLE + _STORE_WHAT_IS_NEW, tenant, ingest_time, billed, stored_on
    )
    return {tuple(row) for row in found}


async def _one(part: bytes) -> AsyncIterator[bytes]:
    # asyncpg would read from a file in another thread.
    yield part


async def _save_new_identities(raw: asyncpg.Connection, tenant: str, stored_on: date) -> bool:
    """Store all identities if all are new, which is a third cheaper than asking each."""
    try:
        async with raw.transaction():
            await raw.execute(_STORE_STAGED_IDENTITIES, tenant, stored_on)
    except asyncpg.UniqueViolationError:
        return False
    return True


async def load_identities(
    transaction: AsyncConnection, tenant: str, identities: Collection[Identity]
) -> dict[Identity, StoredIdentity]:
    """Load what is stored under identities."""
    raw = await raw_connection(transaction)
    sources, event_ids = zip(*identities, strict=True)
    found = await raw.fetch(_FIND_IDENTITIES, tenant, sources, event_ids)
    return {
        (source, event_id): StoredIdentity(time, fingerprint)
        for source, event_id, time, fingerprint in found
    }


async def load_events_at(
    transaction: AsyncConnection, tenant: str, keys: Collection[EventKey]
) -> dict[Identity, UsageEvent]:
    """Load events by the time and the identity under which they are stored."""
    raw = await raw_connection(transaction)
    times, sources, event_ids = zip(*keys, strict=True)
    found = await raw.fetch(_FIND_EVENTS, tenant, times, sources, event_ids)
    return {(row[0], row[1]): UsageEvent(*row) for row in found}


async def load_event(
    transaction: AsyncConnection, tenant: str, identity: Identity
) -> StoredEvent | None:
    """Load one event that counts by its identity, if there is one."""
    known = await load_identities(transaction, tenant, [identity])
    if identity not in known:
        return None
    columns = [cast(_event[name], _TYPES[name]) for name in UsageEvent._fields]
    source, event_id = identity
    found = await transaction.execute(
        select(*columns, _event.ingest_time, _event.billed).where(
            _event.tenant_id == tenant,
            _event.time == known[identity].time,
            _event.source == source,
            _event.event_id == event_id,
        )
    )
    row = found.one_or_none()
    return _stored(row) if row else None


def _stored(row: Sequence[Any]) -> StoredEvent:
    *event, ingest_time, billed = row
    return StoredEvent(UsageEvent(*event), ingest_time, billed)


async def list_events(
    transaction: AsyncConnection,
    tenant: str,
    query: EventQuery,
    meters: Sequence[Meter],
    *,
    after: EventKey | None,
    limit: int,
) -> list[StoredEvent]:
    """Load events in their order; the versions of a meter keep only those that they count."""
    order: list[ColumnElement[Any]] = [_event.time, _event.source, _event.event_id]
    conditions = [_event.tenant_id == tenant, *(_counted_by(meters) if meters else ())]
    if query.customer_id:
        conditions.append(_event.customer_id == query.customer_id)
    if query.type:
        conditions.append(_event.type == query.type)
    if query.interval:
        conditions += [_event.time >= query.interval.start, _event.time < query.interval.end]
    conditions += [dimension(key) == wanted for key, wanted in query.dimensions]
    if after:
        values = (literal(value, key.type) for key, value in zip(order, after, strict=True))
        conditions.append(tuple_(*order) > tuple_(*values))
    if query.customer_id or query.type or meters:
        # The same order and bounds, as the indexes by customer and by type have them.
        order = [minute, *order]
        conditions += _within_minutes(query.interval, after)
    # JSON columns as the text they were stored in.
    columns = [cast(_event[name], _TYPES[name]) for name in UsageEvent._fields]
    page = (
        select(*columns, _event.ingest_time, _event.billed)
        .where(*conditions)
        .order_by(*order)
        .limit(limit)
    )
    found = await transaction.execute(page)
    return [_stored(row) for row in found]


def _within_minutes(interval: Interval | None, after: EventKey | None) -> list[ColumnElement[bool]]:
    starts = [interval.start] if interval else []
    starts += [after[0]] if after else []
    bounds = [minute >= start_of_minute(max(starts))] if starts else []
    return [*bounds, minute < interval.end] if interval else bounds


def _counted_by(meters: Sequence[Meter]) -> list[ColumnElement[bool]]:
    """Say in SQL which events a meter counts, save where an expression decides."""
    if len(meters) == 1:
        return _counted_by_version(meters[0])
    # The type by itself as well, for the index.
    types = sorted({meter.definition.event_type for meter in meters})
    versions = (and_(*_counted_by_version(meter)) for meter in meters)
    return [_event.type.in_(types), or_(*versions)]


def _counted_by_version(meter: Meter) -> list[ColumnElement[bool]]:
    definition = meter.definition
    conditions = [_event.type == definition.event_type]
    if meter.effective_time:
        conditions.append(_event.time >= meter.effective_time)
    if meter.end_time:
        conditions.append(_event.time < meter.end_time)
    conditions.extend(dimension(key).in_(values) for key, values in definition.filters)
    if definition.quantity:
        conditions.append(_event.quantities.op("->>")(definition.quantity).is_not(None))
    return conditions


def dimension(key: str) -> ColumnElement[str]:
    """Say in SQL the value of an event's dimension; an absent one is empty."""
    return func.coalesce(_event.dimensions.op("->>")(key), "").collate("C")
