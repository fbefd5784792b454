"""Meters, and the revision that tells a process when to read a tenant's meters anew.

Storing events and putting a meter exclude each other: events are stored under a shared lock,
a meter is put under the exclusive one. So each event is either counted by the transaction that
stores it, or stored when a new meter counts what there is; never both, never neither.
"""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres import raw_connection
from services.meter.model import (
    Aggregation,
    Definition,
    Meter,
    Rounding,
    RoundingMode,
    TimeUnit,
)
from services.meter.tables import meter_revisions, meters

_LOCK_KEY = "hashtextextended('meter.meters ' || current_setting('tollkeeper.tenant'), 0)"
_LOCK = text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
_REVISION = "SELECT revision FROM meter.meter_revisions WHERE tenant_id = $1"
# What the function locks, it answers. `take_in` calls it as well.
_LOCK_SHARED = "SELECT revision, closed_until, horizon FROM meter.lock_for_events($1)"


class Standing(NamedTuple):
    """What does not change while a transaction stores events.

    `revision` is of the tenant's meters, `closed_until` the latest end of any customer's closed
    time. Every event from `horizon` on is kept.
    """

    revision: int
    closed_until: datetime | None
    horizon: datetime | None


async def lock_for_events(transaction: AsyncConnection, tenant: str) -> Standing:
    """Keep meters, closed periods and what is kept as they are until the transaction ends."""
    raw = await raw_connection(transaction)
    return Standing(*await raw.fetchrow(_LOCK_SHARED, tenant))


async def load_revision(transaction: AsyncConnection, tenant: str) -> int:
    """Answer the revision of the tenant's meters; 0 where there never was one."""
    raw = await raw_connection(transaction)
    return await raw.fetchval(_REVISION, tenant) or 0


async def lock_for_meters(transaction: AsyncConnection) -> None:
    """Wait until nobody stores events for the tenant, and keep others waiting."""
    await transaction.execute(_LOCK)


async def load_meters(
    transaction: AsyncConnection, tenant: str, *, after: str = "", limit: int | None = None
) -> tuple[Meter, ...]:
    """Load meters as they are now, ordered by id."""
    found = await transaction.execute(
        select(meters)
        .where(
            meters.c.tenant_id == tenant,
            meters.c.meter_id > after,
            meters.c.end_time.is_(None),
        )
        .order_by(meters.c.meter_id)
        .limit(limit)
    )
    return tuple(map(_meter, found))


async def load_versions(
    transaction: AsyncConnection, tenant: str, meter_id: str = ""
) -> tuple[Meter, ...]:
    """Load every version of one meter, or of all, ordered by id and version."""
    statement = select(meters).where(meters.c.tenant_id == tenant)
    if meter_id:
        statement = statement.where(meters.c.meter_id == meter_id)
    found = await transaction.execute(statement.order_by(meters.c.meter_id, meters.c.version))
    return tuple(map(_meter, found))


async def load_meter(transaction: AsyncConnection, tenant: str, meter_id: str) -> Meter | None:
    """Load one meter as it is now, if there is one of that id."""
    found = await transaction.execute(
        select(meters).where(
            meters.c.tenant_id == tenant,
            meters.c.meter_id == meter_id,
            meters.c.end_time.is_(None),
        )
    )
    row = found.one_or_none()
    return _meter(row) if row else None


async def save_meter(transaction: AsyncConnection, tenant: str, meter: Meter) -> None:
    """Store a version in place of the one with the same number, and say that meters changed."""
    definition = meter.definition
    rounding = definition.rounding
    values = {
        "display_name": meter.display_name,
        "event_type": definition.event_type,
        "aggregation": definition.aggregation.value,
        "quantity": definition.quantity,
        "expression": definition.expression,
        "unique_by": definition.unique_by,
        "percentile": definition.percentile,
        "rounding_mode": rounding.mode.value if rounding else None,
        "rounding_precision": rounding.precision if rounding else None,
        "time_unit": definition.time_unit.name,
        "filters": dict(definition.filters),
        "group_by": list(definition.group_by),
        "unit": meter.unit,
        "create_time": meter.create_time,
        "effective_time": meter.effective_time,
        "end_time": meter.end_time,
        "counted_from": meter.counted_from,
        "exact_from": meter.exact_from,
    }
    key = {"tenant_id": tenant, "meter_id": meter.meter_id, "version": meter.version}
    statement = insert(meters).values(**key, **values)
    await transaction.execute(
        statement.on_conflict_do_update(index_elements=list(key), set_=values)
    )
    await _raise_revision(transaction, tenant)


async def _raise_revision(transaction: AsyncConnection, tenant: str) -> None:
    first = insert(meter_revisions).values(tenant_id=tenant, revision=1)
    await transaction.execute(
        first.on_conflict_do_update(
            index_elements=["tenant_id"], set_={"revision": meter_revisions.c.revision + 1}
        )
    )


def _meter(row: Row[Any]) -> Meter:
    return Meter(
        meter_id=row.meter_id,
        display_name=row.display_name,
        unit=row.unit,
        definition=Definition(
            event_type=row.event_type,
            aggregation=Aggregation(row.aggregation),
            quantity=row.quantity,
            expression=row.expression,
            unique_by=row.unique_by,
            percentile=row.percentile,
            rounding=(
                Rounding(RoundingMode(row.rounding_mode), row.rounding_precision)
                if row.rounding_mode
                else None
            ),
            time_unit=TimeUnit[row.time_unit],
            filters=tuple((key, tuple(values)) for key, values in row.filters.items()),
            group_by=tuple(row.group_by),
        ),
        create_time=row.create_time,
        version=row.version,
        effective_time=row.effective_time,
        end_time=row.end_time,
        counted_from=row.counted_from,
        exact_from=row.exact_from,
    )
