"""Limits in PostgreSQL, as values of the domain.

It refuses to decide anything: what a limit means is the core's.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.quota.crossings import Crossing
from services.quota.model import (
    QUANTITY_MAX,
    Alert,
    BillingPeriodWindow,
    CalendarPeriod,
    CalendarWindow,
    ConcurrencyWindow,
    Enforcement,
    Level,
    LifetimeWindow,
    Limit,
    OutagePolicy,
    RollingRate,
    StoredLimit,
    Subject,
    Window,
)
from services.quota.tables import alerts, limits
from services.quota.unix_time import instant_of

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('quota.overrides ' || :tenant, 0))")
_LOCK_ALERTS = text("SELECT pg_advisory_xact_lock(hashtextextended('quota.alerts ' || :tenant, 0))")
_SUBJECT = ("customer_id", "project_id", "user_id", "key_id", "run_id")


async def load_limits(
    transaction: AsyncConnection,
    tenant: str,
    *,
    customer: str = "",
    after: str = "",
    count: int | None = None,
) -> tuple[StoredLimit, ...]:
    """Load limits ordered by id: all, or those that name a customer; from after an id on."""
    table = limits.c
    query = select(limits).where(table.tenant_id == tenant, table.limit_id > after)
    if customer:
        query = query.where(table.customer_id == customer)
    found = await transaction.execute(query.order_by(table.limit_id).limit(count))
    return tuple(map(_stored_limit, found))


async def load_limit(
    transaction: AsyncConnection, tenant: str, limit_id: str
) -> StoredLimit | None:
    """Load one limit, or nothing."""
    table = limits.c
    found = await transaction.execute(
        select(limits).where(table.tenant_id == tenant, table.limit_id == limit_id)
    )
    row = found.one_or_none()
    return None if row is None else _stored_limit(row)


async def save_limit(transaction: AsyncConnection, tenant: str, stored: StoredLimit) -> StoredLimit:
    """Store a limit in place of the one with the same id, whose time of creation stays."""
    key = {"tenant_id": tenant, "limit_id": stored.limit.limit_id}
    values = _values(stored)
    statement = insert(limits).values(**key, **values, create_time=stored.create_time)
    saved = await transaction.execute(
        statement.on_conflict_do_update(index_elements=list(key), set_=values).returning(limits)
    )
    return _stored_limit(saved.one())


async def top_up(
    transaction: AsyncConnection, tenant: str, limit_id: str, quantity: int, now: datetime
) -> StoredLimit | None:
    """Add to the capacity of a limit with a lifetime; nothing where it has none or no room."""
    table = limits.c
    has_lifetime = and_(
        table.calendar_period.is_(None),
        table.rolling_period_ms.is_(None),
        table.anchor.is_(None),
        ~table.counts_holds,
    )
    statement = update(limits).where(
        *(table.tenant_id == tenant, table.limit_id == limit_id, has_lifetime),
        table.capacity <= QUANTITY_MAX - quantity,
    )
    found = await transaction.execute(
        statement.values(capacity=table.capacity + quantity, update_time=now).returning(limits)
    )
    row = found.one_or_none()
    return None if row is None else _stored_limit(row)


async def load_overrides(transaction: AsyncConnection, tenant: str) -> Mapping[str, str]:
    """Load which limit each limit overrides, or nothing; who loads them too waits until the end."""
    await transaction.execute(_LOCK, {"tenant": tenant})
    table = limits.c
    found = await transaction.execute(
        select(table.limit_id, table.overrides).where(table.tenant_id == tenant)
    )
    return {row.limit_id: row.overrides for row in found}


async def save_alerts(
    transaction: AsyncConnection,
    tenant: str,
    seen: Sequence[tuple[str, Crossing]],
    now: datetime,
) -> None:
    """Write the crossings that are new, each with its customer; they become visible in order."""
    await transaction.execute(_LOCK_ALERTS, {"tenant": tenant})
    rows = [
        {"tenant_id": tenant, "customer_id": customer, **crossing._asdict(), "create_time": now}
        for customer, crossing in seen
    ]
    await transaction.execute(insert(alerts).on_conflict_do_nothing(), rows)


async def load_alerts(
    transaction: AsyncConnection, tenant: str, customer: str, *, after: int, count: int
) -> tuple[Alert, ...]:
    """Load alerts with larger ids, ordered by id: all, or those of a customer."""
    table = alerts.c
    query = select(alerts).where(table.tenant_id == tenant, table.alert_id > after)
    if customer:
        query = query.where(table.customer_id == customer)
    found = await transaction.execute(query.order_by(table.alert_id).limit(count))
    return tuple(map(_alert, found))


async def delete_limit(transaction: AsyncConnection, tenant: str, limit_id: str) -> bool:
    """Delete a limit; answer whether there was one."""
    table = limits.c
    deleted = await transaction.execute(
        delete(limits).where(table.tenant_id == tenant, table.limit_id == limit_id)
    )
    return deleted.rowcount > 0


def _values(stored: StoredLimit) -> Mapping[str, object]:
    limit, window = stored.limit, stored.limit.window
    calendar = window if isinstance(window, CalendarWindow) else None
    rolling = window if isinstance(window, RollingRate) else None
    billing = window if isinstance(window, BillingPeriodWindow) else None
    return {
        "display_name": limit.display_name,
        "level": int(limit.level),
        **dict(zip(_SUBJECT, limit.subject, strict=True)),
        "dimensions": dict(limit.dimensions),
        "units": list(limit.units),
        "capacity": limit.capacity,
        "calendar_period": calendar and calendar.period.value,
        "time_zone": getattr(window, "time_zone", None),
        "rolling_period_ms": rolling and rolling.period_ms,
        "rolling_burst": rolling and rolling.burst,
        "anchor": billing and billing.anchor,
        "months": billing and billing.months,
        "counts_holds": isinstance(window, ConcurrencyWindow),
        "overdraft": limit.overdraft,
        "enforcement": int(limit.enforcement),
        "outage_policy": int(limit.outage_policy),
        "outage_allowance": limit.outage_allowance,
        "filter": limit.filter,
        "overrides": limit.overrides,
        "expire_time": limit.expire_time,
        "plan_id": limit.plan_id,
        "alert_thresholds": list(limit.alert_thresholds),
        "update_time": stored.update_time,
    }


def _stored_limit(row: Row[Any]) -> StoredLimit:
    limit = Limit(
        limit_id=row.limit_id,
        display_name=row.display_name,
        level=Level(row.level),
        subject=Subject(*(getattr(row, column) for column in _SUBJECT)),
        dimensions=tuple(sorted(row.dimensions.items())),
        units=tuple(row.units),
        capacity=row.capacity,
        window=_window(row),
        overdraft=row.overdraft,
        enforcement=Enforcement(row.enforcement),
        outage_policy=OutagePolicy(row.outage_policy),
        outage_allowance=row.outage_allowance,
        filter=row.filter,
        overrides=row.overrides,
        expire_time=row.expire_time,
        plan_id=row.plan_id,
        alert_thresholds=tuple(row.alert_thresholds),
    )
    return StoredLimit(limit, row.create_time, row.update_time)


def _alert(row: Row[Any]) -> Alert:
    has_end = row.window > 0
    return Alert(
        alert_id=row.alert_id,
        limit_id=row.limit_id,
        scope=row.scope,
        threshold=row.threshold,
        capacity=row.capacity,
        used=row.used,
        reset_time=instant_of(row.window) if has_end else None,
        create_time=row.create_time,
    )


def _window(row: Row[Any]) -> Window:
    if row.calendar_period is not None:
        return CalendarWindow(CalendarPeriod(row.calendar_period), row.time_zone)
    if row.rolling_period_ms is not None:
        return RollingRate(row.rolling_period_ms, row.rolling_burst)
    if row.anchor is not None:
        return BillingPeriodWindow(row.anchor, row.months, row.time_zone)
    return ConcurrencyWindow() if row.counts_holds else LifetimeWindow()
