"""Takes events in, each identity once, and reads them back.

Taking in is one call of a function of the database, which speaks to asyncpg directly: see
`docs/decisions/0027-events-are-taken-in-by-one-call.md`.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg
from sqlalchemy import (
    JSON,
    ColumnElement,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    column,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    true,
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
from services.meter.store.meters import Standing
from services.meter.store.reading import COLUMNS, TYPES
from services.meter.store.rollups import Additions
from services.meter.tables import events
from services.meter.windows import start_of_minute

EventKey = tuple[datetime, str, str]
"""The order of events: time, source, event id."""

Call = Callable[..., Awaitable[Any]]
"""Runs a statement with its arguments, in a transaction or as one, and answers its one value."""

_event = events.c
minute: Final = literal_column(
    "date_bin(INTERVAL '1 minute', meter.events.time, TIMESTAMPTZ '2000-01-01 00:00Z')",
    _event.time.type,
)
"""The minute in which an event happened, written as the index by customer has it."""

_TYPES: Final = {
    name: Text if isinstance(_event[name].type, JSON) else _event[name].type
    for name in UsageEvent._fields
}
_TAKE_IN: Final = "SELECT meter.take_in($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_IDENTITIES_KEY: Final = "event_identities_pkey"
# Texts of lines, since asyncpg takes 0.5 µs for each element of an array.
_FIND_IDENTITIES: Final = """
SELECT source, event_id, time, encode(fingerprint, 'hex') FROM meter.event_identities
JOIN unnest(string_to_array($2, E'\\n'), string_to_array($3, E'\\n')) AS wanted (source, event_id)
    USING (source, event_id)
WHERE tenant_id = $1
"""
_COUNTING_BY_IDENTITY: Final = f"""
SELECT {COLUMNS}, ingest_time, billed FROM meter.events
WHERE tenant_id = $1 AND type = ANY(ARRAY({TYPES}))
    AND time = $2 AND source = $3 AND event_id = $4
"""
# An event that came late or was taken back is not among the events that count.
_FIND_EVENTS: Final = f"""
WITH wanted AS (
    SELECT * FROM unnest($2::timestamptz[], $3::text[], $4::text[]) AS each (time, source, event_id)
)
SELECT counting.* FROM wanted CROSS JOIN LATERAL (
    SELECT {COLUMNS} FROM meter.events
    WHERE tenant_id = $1 AND type = ANY(ARRAY({TYPES}))
        AND time = wanted.time AND source = wanted.source AND event_id = wanted.event_id
    LIMIT 1
) AS counting
UNION ALL
SELECT {COLUMNS} FROM meter.late_events JOIN wanted USING (time, source, event_id)
WHERE tenant_id = $1
UNION ALL
SELECT {COLUMNS} FROM meter.event_revisions JOIN wanted USING (time, source, event_id)
WHERE tenant_id = $1 AND kind = 'VOIDED'
"""


class IdentityTaken(Exception):
    """An event was to be stored whose identity another one has."""


class StoredIdentity(NamedTuple):
    """What is known of a stored event by its identity alone."""

    time: datetime
    fingerprint: str


async def take_in(
    call: Call,
    tenant: str,
    standing: Standing,
    incoming: Collection[IncomingEvent],
    *,
    additions: Additions,
    ingest_time: datetime,
    billed: bool,
) -> bool:
    """Store events and add to rollups; answers whether the tenant still stands as it was.

    Where it does not, nothing is changed. No two of the events have the same identity. Identities
    are locked in their order, so that transactions that share some wait for each other and never in
    a circle.

    Raises:
        IdentityTaken: an event of one of the identities is there already; nothing is changed.
    """
    lines = lines_of(incoming)
    try:
        stands: bool = await call(
            _TAKE_IN, tenant, *standing, lines, ingest_time, billed, *additions
        )
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != _IDENTITIES_KEY:
            raise
        raise IdentityTaken from error
    return stands


def lines_of(incoming: Collection[IncomingEvent]) -> str:
    """Write events as PostgreSQL splits them: a line each, its fields separated by tabs."""
    return "\n".join(
        [f"{each.source}\t{each.event_id}\t{each.content}\t{each.fingerprint}" for each in incoming]
    )


async def load_identities(
    transaction: AsyncConnection, tenant: str, identities: Collection[Identity]
) -> dict[Identity, StoredIdentity]:
    """Load what is stored under identities."""
    raw = await raw_connection(transaction)
    sources, event_ids = map("\n".join, zip(*identities, strict=True))
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
    raw = await raw_connection(transaction)
    row = await raw.fetchrow(_COUNTING_BY_IDENTITY, tenant, known[identity].time, *identity)
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
    if query.customer_id:
        # The same order and bounds, as the index by customer has them.
        order = [minute, *order]
        conditions += _within_minutes(query.interval, after)
    # JSON columns as the text they were stored in.
    columns = [cast(_event[name], _TYPES[name]).label(name) for name in UsageEvent._fields]
    page = select(*columns, _event.ingest_time, _event.billed)
    if not query.customer_id and not query.type and not meters:
        page = _of_every_type(page.where(*conditions), tenant, order, limit)
    else:
        page = page.where(*conditions).order_by(*order).limit(limit)
    found = await transaction.execute(page)
    return [_stored(row) for row in found]


def _of_every_type(
    events_of: Select[Any], tenant: str, order: Sequence[ColumnElement[Any]], limit: int
) -> Select[Any]:
    """Join the first events of each type, of which the index has the order."""
    written = text(TYPES.replace("$1", ":tenant")).bindparams(bindparam("tenant", tenant, Text))
    types = written.columns(column("type", Text)).cte("types")
    first = events_of.where(_event.type == types.c.type).order_by(*order).limit(limit).lateral()
    return (
        select(*first.c)
        .select_from(types.join(first, true()))
        .order_by(first.c.time, first.c.source, first.c.event_id)
        .limit(limit)
    )


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
