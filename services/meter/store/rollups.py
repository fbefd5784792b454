"""Rollups: kept in the transaction that stores the events, read in place of the events."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.decimals import plain
from kit.postgres import raw_connection
from services.meter.model import EPOCH, Amount, Meter, Rollup, Series
from services.meter.store.events import amount, counted_by, dimension
from services.meter.tables import events

_REMEMBERED_MAX: Final = 100_000
_HOURS_REMEMBERED: Final = 1_024
_SECOND: Final = timedelta(seconds=1)
_ROLLUPS_PER_PAGE: Final = 10_000

_CREATE_SERIES: Final = """
INSERT INTO meter.series (tenant_id, meter_id, customer_id, group_digest, group_values)
SELECT $1, meter_id, customer_id, group_digest, ARRAY(SELECT json_array_elements_text(group_values))
FROM unnest($2::text[], $3::text[], $4::bytea[], $5::json[])
    AS wanted (meter_id, customer_id, group_digest, group_values)
ORDER BY meter_id COLLATE "C", customer_id COLLATE "C", group_digest
ON CONFLICT DO NOTHING
"""
_FIND_SERIES: Final = """
SELECT series_id, meter_id, customer_id, group_values FROM meter.series
JOIN unnest($2::text[], $3::text[], $4::bytea[]) AS wanted (meter_id, customer_id, group_digest)
    USING (meter_id, customer_id, group_digest)
WHERE tenant_id = $1
"""
# Numbers as texts, since asyncpg takes 0.5 µs for each element of an array.
_ADD: Final = """
INSERT INTO meter.rollups AS stored (tenant_id, series_id, hour, quantity, event_count)
SELECT $1, series_id, to_timestamp(hour_s), quantity, event_count
FROM unnest(
    string_to_array($2, ' ')::bigint[],
    string_to_array($3, ' ')::bigint[],
    string_to_array($4, ' ')::numeric[],
    string_to_array($5, ' ')::bigint[]
) AS added (series_id, hour_s, quantity, event_count)
ORDER BY series_id, hour_s
ON CONFLICT (tenant_id, series_id, hour) DO UPDATE SET
    quantity = stored.quantity + excluded.quantity,
    event_count = stored.event_count + excluded.event_count
"""

SeriesIds = dict[Series, int]


class Rollups:
    """Adds to the stored rollups.

    Remembers the ids of series, which never change once they are committed: a bounded number, the
    oldest out first.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, Series], int] = {}

    async def add(
        self, transaction: AsyncConnection, tenant: str, rollups: Sequence[Rollup]
    ) -> SeriesIds:
        """Add usage to what is stored; the answer is to be remembered once it is committed.

        No two of the rollups are of the same series and hour. Rows are locked in their order, so
        that transactions wait for each other, never in a circle.
        """
        if not rollups:
            return {}
        ids = [self._known.get((tenant, rollup.series)) for rollup in rollups]
        unknown = {
            rollup.series for rollup, known in zip(rollups, ids, strict=True) if known is None
        }
        resolved = await _resolve(transaction, tenant, list(unknown)) if unknown else {}
        raw = await raw_connection(transaction)
        await raw.execute(
            _ADD,
            tenant,
            _joined(
                known or resolved[each.series] for each, known in zip(rollups, ids, strict=True)
            ),
            _joined(_seconds(each.hour) for each in rollups),
            _joined(_text(each.quantity) for each in rollups),
            _joined(each.event_count for each in rollups),
        )
        return resolved

    def remember(self, tenant: str, committed: SeriesIds) -> None:
        """Remember what `add` answered, now that its transaction is committed."""
        for series, series_id in committed.items():
            self._known[tenant, series] = series_id
        surplus = len(self._known) - _REMEMBERED_MAX
        for key in list(islice(self._known, max(surplus, 0))):
            del self._known[key]


async def count_stored_events(
    transaction: AsyncConnection, tenant: str, meter: Meter
) -> AsyncIterator[list[Rollup]]:
    """Add up the stored events that a meter counts; answers the rollups in pages."""
    hour = func.date_trunc("hour", events.c.time, "UTC")
    group = [dimension(key) for key in meter.group_by]
    keys = (events.c.customer_id, hour, *group)
    statement = (
        select(func.count(), func.sum(amount(meter)), *keys)
        .where(events.c.tenant_id == tenant, *counted_by(meter))
        .group_by(*keys)
    )
    found = await transaction.stream(statement)
    async for page in found.partitions(_ROLLUPS_PER_PAGE):
        yield [
            Rollup(Series(meter.meter_id, customer_id, tuple(group)), hour, quantity, event_count)
            for event_count, quantity, customer_id, hour, *group in page
        ]


async def _resolve(
    transaction: AsyncConnection, tenant: str, wanted: Sequence[Series]
) -> SeriesIds:
    """Answer the ids of series, making those that do not exist."""
    raw = await raw_connection(transaction)
    groups = [json.dumps(series.group, ensure_ascii=False) for series in wanted]
    key = (
        [series.meter_id for series in wanted],
        [series.customer_id for series in wanted],
        [sha256(group.encode()).digest() for group in groups],
    )
    await raw.execute(_CREATE_SERIES, tenant, *key, groups)
    found = await raw.fetch(_FIND_SERIES, tenant, *key)
    return {
        Series(meter_id, customer_id, tuple(group)): series_id
        for series_id, meter_id, customer_id, group in found
    }


@lru_cache(_HOURS_REMEMBERED)
def _seconds(hour: datetime) -> int:
    return (hour - EPOCH) // _SECOND


def _joined(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def _text(amount: Amount) -> str:
    return str(amount) if isinstance(amount, int) else plain(amount)
