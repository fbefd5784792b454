"""Meters, and the revision that tells a process when to read a tenant's meters anew.

Storing events and putting a meter exclude each other: events are stored under a shared lock,
a meter is put under the exclusive one. So each event is either counted by the transaction that
stores it, or stored when a new meter counts what there is; never both, never neither.
"""

from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres import raw_connection
from services.meter.model import Aggregation, Meter
from services.meter.tables import meter_revisions, meters

_LOCK_KEY = "hashtextextended('meter.meters ' || current_setting('tollkeeper.tenant'), 0)"
_LOCK_SHARED = f"SELECT pg_advisory_xact_lock_shared({_LOCK_KEY})"
_LOCK = text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
_REVISION = "SELECT revision FROM meter.meter_revisions WHERE tenant_id = $1"


async def lock_for_events(transaction: AsyncConnection, tenant: str) -> int:
    """Keep the tenant's meters as they are until the transaction ends; answer their revision."""
    raw = await raw_connection(transaction)
    # Two statements, since one statement sees what was committed before it waited for the lock.
    await raw.execute(_LOCK_SHARED)
    return await raw.fetchval(_REVISION, tenant) or 0


async def lock_for_meters(transaction: AsyncConnection) -> None:
    """Wait until nobody stores events or puts meters for the tenant, and keep others waiting."""
    await transaction.execute(_LOCK)


async def load_meters(
    transaction: AsyncConnection, tenant: str, *, after: str = "", limit: int | None = None
) -> tuple[Meter, ...]:
    """Load meters, ordered by id."""
    found = await transaction.execute(
        select(meters)
        .where(meters.c.tenant_id == tenant, meters.c.meter_id > after)
        .order_by(meters.c.meter_id)
        .limit(limit)
    )
    return tuple(map(_meter, found))


async def load_meter(transaction: AsyncConnection, tenant: str, meter_id: str) -> Meter | None:
    """Load one meter, if there is one of that id."""
    found = await transaction.execute(
        select(meters).where(meters.c.tenant_id == tenant, meters.c.meter_id == meter_id)
    )
    row = found.one_or_none()
    return _meter(row) if row else None


async def save_meter(transaction: AsyncConnection, tenant: str, meter: Meter) -> None:
    """Store a meter in place of the one with the same id, and say that meters have changed."""
    values = {
        "display_name": meter.display_name,
        "event_type": meter.event_type,
        "aggregation": meter.aggregation.value,
        "quantity": meter.quantity,
        "filters": dict(meter.filters),
        "group_by": list(meter.group_by),
        "unit": meter.unit,
        "create_time": meter.create_time,
    }
    key = {"tenant_id": tenant, "meter_id": meter.meter_id}
    statement = insert(meters).values(**key, **values)
    await transaction.execute(
        statement.on_conflict_do_update(index_elements=list(key), set_=values)
    )
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
        event_type=row.event_type,
        aggregation=Aggregation(row.aggregation),
        quantity=row.quantity,
        filters=tuple((key, tuple(values)) for key, values in row.filters.items()),
        group_by=tuple(row.group_by),
        unit=row.unit,
        create_time=row.create_time,
    )
