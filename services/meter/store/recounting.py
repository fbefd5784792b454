"""Counts a quarter of an hour of one series anew from its events, and its day from its quarters.

What cannot be adjusted by adding is counted anew: an event between others of a weighted sum, or one
that was taken back. The rows are locked first and the events read by a later statement. So whoever
stores events at the same time has either committed, and is read, or waits for the row and adds to
what stands there then.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.postgres import raw_connection
from services.meter.aggregation import MeterSet, roll_up
from services.meter.model import KEEPING_VALUES, Aggregation, Meter, Moment, Series, Span, Tally
from services.meter.store.reading import EventFilter, stream_events
from services.meter.tallies import join
from services.meter.windows import DAY, QUARTER, start_of_day

_PRESENT: Final = """
INSERT INTO meter.rollups (tenant_id, series_id, span, start, quantity, event_count)
SELECT $1, series_id, span, start, 0, 0
FROM unnest($2::bigint[], $3::smallint[], $4::timestamptz[]) AS wanted (series_id, span, start)
ORDER BY series_id, span, start
ON CONFLICT DO NOTHING
"""
_LOCK: Final = """
SELECT 1 FROM meter.rollups
JOIN unnest($2::bigint[], $3::smallint[], $4::timestamptz[]) AS wanted (series_id, span, start)
    USING (series_id, span, start)
WHERE tenant_id = $1
ORDER BY series_id, span, start
FOR UPDATE OF rollups
"""
_REPLACE: Final = """
UPDATE meter.rollups SET
    quantity = $5, event_count = $6, last_us = $7, last_source = $8, last_event_id = $9,
    first_us = $10, area = $11
WHERE tenant_id = $1 AND series_id = $2 AND span = $3 AND start = $4
"""
_DELETE: Final = """
DELETE FROM meter.rollups WHERE tenant_id = $1 AND series_id = $2 AND span = $3 AND start = $4
"""
_DELETE_VALUES: Final = """
DELETE FROM meter.rollup_values
WHERE tenant_id = $1 AND series_id = $2 AND span = $3 AND start = $4
"""
_INSERT_VALUES: Final = """
INSERT INTO meter.rollup_values (tenant_id, series_id, span, start, value, event_count)
SELECT $1, $2, $3, $4, value, event_count
FROM unnest($5::text[], $6::bigint[]) AS counted (value, event_count)
"""
_LOAD: Final = """
SELECT
    series_id, start, quantity, event_count, last_us, last_source, last_event_id, first_us, area
FROM meter.rollups
WHERE tenant_id = $1 AND series_id = ANY($2) AND span = $3 AND start >= $4 AND start < $5
    AND event_count > 0
ORDER BY series_id, start
"""
_LOAD_VALUES: Final = """
SELECT series_id, start, value, event_count FROM meter.rollup_values
WHERE tenant_id = $1 AND series_id = ANY($2) AND span = $3 AND start >= $4 AND start < $5
"""
_STORED_SERIES: Final = """
SELECT customer_id, group_values, billed, series_id, start
FROM meter.series JOIN meter.rollups USING (tenant_id, series_id)
WHERE tenant_id = $1 AND meter_id = $2 AND version = $3 AND customer_id = ANY($4)
    AND span = $5 AND start >= $6 AND start < $7
"""

Stored = dict[tuple[int, datetime], Tally]


@dataclass(frozen=True, slots=True)
class Recount:
    """A quarter of an hour of a series that is to be counted anew."""

    meter: Meter
    series: Series
    series_id: int
    quarter: datetime


async def recount(transaction: AsyncConnection, tenant: str, wanted: Collection[Recount]) -> None:
    """Count quarters of an hour anew from the stored events, and their days from the quarters."""
    if not wanted:
        return
    raw = await raw_connection(transaction)
    spans = {(each.series_id, Span.QUARTER, each.quarter) for each in wanted}
    spans |= {(each.series_id, Span.DAY, start_of_day(each.quarter)) for each in wanted}
    keys = _columns(spans)
    await raw.execute(_PRESENT, tenant, *keys)
    await raw.execute(_LOCK, tenant, *keys)
    for each in wanted:
        tally = await _count(transaction, tenant, each)
        await _replace(
            raw,
            tenant,
            series_id=each.series_id,
            span=Span.QUARTER,
            start=each.quarter,
            tally=tally,
        )
    days = {(each.series_id, start_of_day(each.quarter)): each.meter for each in wanted}
    for (series_id, day), meter in days.items():
        aggregation = meter.definition.aggregation
        quarters = await load_tallies(
            transaction,
            tenant,
            aggregation=aggregation,
            series_ids=[series_id],
            span=Span.QUARTER,
            interval=Interval(day, day + DAY),
        )
        tally = join(aggregation, quarters.values()) if quarters else None
        await _replace(raw, tenant, series_id=series_id, span=Span.DAY, start=day, tally=tally)


async def load_tallies(
    transaction: AsyncConnection,
    tenant: str,
    *,
    aggregation: Aggregation,
    series_ids: Sequence[int],
    span: Span,
    interval: Interval,
) -> Stored:
    """Load what is stored of series, in the order of series and time."""
    raw = await raw_connection(transaction)
    bounds = (tenant, series_ids, span.value, interval.start, interval.end)
    values: dict[tuple[int, datetime], dict[str, int]] = {}
    if aggregation in KEEPING_VALUES:
        for series_id, start, value, count in await raw.fetch(_LOAD_VALUES, *bounds):
            values.setdefault((series_id, start), {})[value] = count
    rows = await raw.fetch(_LOAD, *bounds)
    return {(row[0], row[1]): read_tally(row[2:], values.get((row[0], row[1]))) for row in rows}


def read_tally(row: Sequence[Any], values: Mapping[str, int] | None) -> Tally:
    """Read a tally from its columns, which begin with the quantity."""
    quantity, event_count, last_us, source, event_id, first_us, area = row
    last = None if last_us is None else Moment(last_us, source, event_id)
    # The first event's time alone is stored; it comes before others of its microsecond.
    first = None if first_us is None else Moment(first_us, "", "")
    return Tally(quantity, event_count, last, first, area, values)


async def _count(transaction: AsyncConnection, tenant: str, wanted: Recount) -> Tally | None:
    interval = Interval(wanted.quarter, wanted.quarter + QUARTER)
    chosen = EventFilter(interval, wanted.meter, (wanted.series.customer_id,))
    meters = MeterSet([wanted.meter])
    events = [event async for event in stream_events(transaction, tenant, chosen)]
    for rollup in roll_up(events, meters):
        if rollup.series == wanted.series:
            return rollup.tally
    return None


async def _replace(
    raw: asyncpg.Connection,
    tenant: str,
    *,
    series_id: int,
    span: Span,
    start: datetime,
    tally: Tally | None,
) -> None:
    key = (tenant, series_id, span.value, start)
    await raw.execute(_DELETE_VALUES, *key)
    if tally is None:
        await raw.execute(_DELETE, *key)
        return
    last = tally.last or (None, None, None)
    first_us = tally.first.time_us if tally.first else None
    area = None if tally.area is None else Decimal(tally.area)
    await raw.execute(
        _REPLACE, *key, Decimal(tally.quantity), tally.event_count, *last, first_us, area
    )
    if tally.values:
        counted = sorted(tally.values.items())
        await raw.execute(
            _INSERT_VALUES, *key, [value for value, _ in counted], [count for _, count in counted]
        )


def _columns(spans: Iterable[tuple[int, Span, datetime]]) -> tuple[list[Any], ...]:
    ordered = sorted((series_id, span.value, start) for series_id, span, start in spans)
    return tuple(map(list, zip(*ordered, strict=True)))


async def stored_series(
    transaction: AsyncConnection,
    tenant: str,
    meter: Meter,
    *,
    customer_ids: Sequence[str],
    span: Span,
    interval: Interval,
) -> list[tuple[Series, int, datetime]]:
    """Answer the series of customers that have rollups in an interval, and where."""
    raw = await raw_connection(transaction)
    found = await raw.fetch(
        _STORED_SERIES,
        tenant,
        meter.meter_id,
        meter.version,
        customer_ids,
        span.value,
        interval.start,
        interval.end,
    )
    return [
        (
            Series(meter.meter_id, customer_id, tuple(group), meter.version, billed),
            series_id,
            start,
        )
        for customer_id, group, billed, series_id, start in found
    ]
