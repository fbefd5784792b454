"""Loads what is kept of a day, to be compared with what its events say."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.postgres import raw_connection
from services.meter.model import Series, Span, Tally
from services.meter.store.recounting import read_tally

Place = tuple[Series, Span, datetime]
"""Where a rollup is kept."""

_DAYS: Final = """
SELECT DISTINCT day FROM (
    SELECT start AS day FROM meter.rollups WHERE tenant_id = $1 AND span = 1440
    UNION ALL
    SELECT date_trunc('day', time, 'UTC') FROM meter.events WHERE tenant_id = $1
) AS days
WHERE day >= $2 AND day < $3
ORDER BY day
"""
_KEPT: Final = """
SELECT
    meter_id, customer_id, group_values, version, billed, series_id, span, start, quantity,
    event_count, last_us, last_source, last_event_id, first_us, area
FROM meter.rollups JOIN meter.series USING (tenant_id, series_id)
WHERE tenant_id = $1 AND start >= $2 AND start < $3
    AND (cardinality($4::text[]) = 0 OR customer_id = ANY($4))
"""
_VALUES: Final = """
SELECT series_id, span, start, value, kept.event_count
FROM meter.rollup_values AS kept JOIN meter.series USING (tenant_id, series_id)
WHERE tenant_id = $1 AND start >= $2 AND start < $3
    AND (cardinality($4::text[]) = 0 OR customer_id = ANY($4))
"""


async def load_days(
    transaction: AsyncConnection, tenant: str, interval: Interval
) -> list[datetime]:
    """Answer the days of UTC that have events or rollups."""
    raw = await raw_connection(transaction)
    found = await raw.fetch(_DAYS, tenant, interval.start, interval.end)
    return [row[0] for row in found]


async def load_kept(
    transaction: AsyncConnection, tenant: str, day: Interval, customer_ids: Sequence[str] = ()
) -> dict[Place, Tally]:
    """Load every rollup of a day, of these customers or of all."""
    raw = await raw_connection(transaction)
    bounds = (tenant, day.start, day.end, list(customer_ids))
    values: dict[tuple[int, int, datetime], dict[str, int]] = {}
    for series_id, span, start, value, count in await raw.fetch(_VALUES, *bounds):
        values.setdefault((series_id, span, start), {})[value] = count
    kept: dict[Place, Tally] = {}
    for row in await raw.fetch(_KEPT, *bounds):
        meter_id, customer_id, group, version, billed, series_id, span, start = row[:8]
        series = Series(meter_id, customer_id, tuple(group), version, billed)
        tally = read_tally(row[8:], values.get((series_id, span, start)))
        kept[series, Span(span), start] = tally
    return kept
