"""Margins that were reported, in PostgreSQL: an outbox for whoever tells people.

Refuses to report the same margin of the same interval twice.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from services.rating.margins import Margin, MarginAlert, MarginScope
from services.rating.tables import margin_alerts


async def save_alerts(
    transaction: AsyncConnection,
    tenant: str,
    margins: Sequence[Margin],
    *,
    minimum_percent: Decimal,
    interval: Interval,
    currency: str,
    create_time: datetime,
) -> tuple[MarginAlert, ...]:
    """Store what was not reported before, and answer it."""
    saved: list[MarginAlert] = []
    for margin in margins:
        row = {
            "tenant_id": tenant,
            "scope": margin.scope.name,
            "name": margin.name,
            "revenue": margin.revenue,
            "cost": margin.cost,
            "minimum_percent": minimum_percent,
            "start_time": interval.start,
            "end_time": interval.end,
            "currency": currency,
            "create_time": create_time,
        }
        found = await transaction.execute(
            insert(margin_alerts).values(row).on_conflict_do_nothing().returning(margin_alerts)
        )
        saved += map(_alert, found)
    return tuple(saved)


async def load_alerts(
    transaction: AsyncConnection, tenant: str, *, after: int, limit: int
) -> tuple[MarginAlert, ...]:
    """Load alerts behind an id, in the order they were reported."""
    table = margin_alerts.c
    found = await transaction.execute(
        select(margin_alerts)
        .where(table.tenant_id == tenant, table.alert_id > after)
        .order_by(table.alert_id)
        .limit(limit)
    )
    return tuple(map(_alert, found))


def _alert(row: Row[Any]) -> MarginAlert:
    return MarginAlert(
        alert_id=row.alert_id,
        margin=Margin(MarginScope[row.scope], row.name, row.revenue, row.cost),
        minimum_percent=row.minimum_percent,
        interval=Interval(row.start_time, row.end_time),
        currency=row.currency,
        create_time=row.create_time,
    )
