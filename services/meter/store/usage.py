"""Answers how much was used: whole hours from the rollups, split hours from the events."""

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    FromClause,
    Select,
    TableValuedAlias,
    and_,
    column,
    func,
    literal,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from services.meter.model import Meter, UsageQuery, UsageRow
from services.meter.store.events import amount, counted_by, dimension, minute
from services.meter.tables import events, rollups, series
from services.meter.windows import HOUR, Cut

UsageKey = tuple[str, int, tuple[str, ...]]
"""The order of usage: customer, number of the window from 1, group."""

_TIME: Final = DateTime(timezone=True)
_TIMES: Final = ARRAY(_TIME)


async def add_up_usage(
    transaction: AsyncConnection,
    tenant: str,
    query: UsageQuery,
    meter: Meter,
    cut: Cut,
    *,
    after: UsageKey | None,
    limit: int,
) -> list[tuple[UsageKey, UsageRow]]:
    """Add up usage by customer, window and group, in that order, beginning after a key."""
    usage = _usage(tenant, query, meter, cut).c
    keys = (
        usage.customer_id,
        usage.window,
        *(usage[_label(at)] for at in range(len(query.group_by))),
    )
    statement = select(func.sum(usage.quantity), func.sum(usage.event_count), *keys)
    if after:
        customer_id, window, group = after
        values = (literal(value) for value in (customer_id, window, *group))
        statement = statement.where(tuple_(*keys) > tuple_(*values))
    page = statement.group_by(*keys).order_by(*keys).limit(limit)
    return [
        (
            (customer_id, window, tuple(group)),
            UsageRow(
                customer_id, cut.windows[window - 1], tuple(group), quantity, int(event_count)
            ),
        )
        for quantity, event_count, customer_id, window, *group in await transaction.execute(page)
    ]


def _usage(tenant: str, query: UsageQuery, meter: Meter, cut: Cut) -> FromClause:
    # Numbers the window in which an instant lies, by binary search among their starts.
    starts = literal([window.start for window in cut.windows], _TIMES)
    whole = _in_whole_hours(tenant, query, meter, starts)
    if not cut.split_hours:
        return whole.subquery("usage")
    hours = func.unnest(literal(cut.split_hours, _TIMES))
    split = hours.table_valued(column("hour", _TIME), name="split").render_derived()
    is_split = select(split).where(split.c.hour == rollups.c.hour).exists()
    parts = _in_split_hours(tenant, query, meter, starts, split)
    return union_all(whole.where(~is_split), parts).subquery("usage")


def _in_whole_hours(
    tenant: str, query: UsageQuery, meter: Meter, starts: ColumnElement[Any]
) -> Select[Any]:
    value = {key: series.c.group_values[at] for at, key in enumerate(meter.group_by, start=1)}
    own = and_(rollups.c.tenant_id == series.c.tenant_id, rollups.c.series_id == series.c.series_id)
    statement = (
        select(
            series.c.customer_id,
            func.width_bucket(rollups.c.hour, starts).label("window"),
            *(value[key].label(_label(at)) for at, key in enumerate(query.group_by)),
            rollups.c.quantity,
            rollups.c.event_count,
        )
        .join_from(series, rollups, own)
        .where(
            series.c.tenant_id == tenant,
            series.c.meter_id == meter.meter_id,
            rollups.c.hour >= query.interval.start,
            rollups.c.hour < query.interval.end,
            *(value[key] == wanted for key, wanted in query.filters),
        )
    )
    if query.customer_id:
        statement = statement.where(series.c.customer_id == query.customer_id)
    return statement


def _in_split_hours(
    tenant: str,
    query: UsageQuery,
    meter: Meter,
    starts: ColumnElement[Any],
    split: TableValuedAlias,
) -> Select[Any]:
    # By the minute where the index has it so; hours begin and end with one.
    time = minute if query.customer_id else events.c.time
    inside = and_(time >= split.c.hour, time < split.c.hour + HOUR)
    statement = (
        select(
            events.c.customer_id,
            func.width_bucket(events.c.time, starts).label("window"),
            *(dimension(key).label(_label(at)) for at, key in enumerate(query.group_by)),
            amount(meter).label("quantity"),
            literal(1).label("event_count"),
        )
        .join_from(events, split, inside)
        .where(
            events.c.tenant_id == tenant,
            events.c.time >= query.interval.start,
            events.c.time < query.interval.end,
            *counted_by(meter),
            *(dimension(key) == wanted for key, wanted in query.filters),
        )
    )
    if query.customer_id:
        statement = statement.where(events.c.customer_id == query.customer_id)
    return statement


def _label(at: int) -> str:
    # Not by its name, which may be longer than PostgreSQL's names, or that of a column.
    return f"group_{at}"
