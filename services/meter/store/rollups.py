"""Rollups: kept in the transaction that stores the events, read in place of the events."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.decimals import plain
from kit.postgres import raw_connection
from services.meter.aggregation import MeterSet, days_of
from services.meter.model import EPOCH, Aggregation, Amount, Moment, Rollup, Series, Span
from services.meter.store.recounting import Recount, recount

_REMEMBERED_MAX: Final = 100_000
_STARTS_REMEMBERED: Final = 4_096
_SECOND: Final = timedelta(seconds=1)

_CREATE_SERIES: Final = """
INSERT INTO meter.series (
    tenant_id, meter_id, version, customer_id, group_digest, billed, group_values
)
SELECT
    $1, meter_id, version, customer_id, group_digest, billed,
    ARRAY(SELECT json_array_elements_text(group_values))
FROM unnest($2::text[], $3::int[], $4::text[], $5::bytea[], $6::boolean[], $7::json[])
    AS wanted (meter_id, version, customer_id, group_digest, billed, group_values)
ORDER BY meter_id COLLATE "C", version, customer_id COLLATE "C", group_digest, billed
ON CONFLICT DO NOTHING
"""
_FIND_SERIES: Final = """
SELECT series_id, meter_id, version, customer_id, billed, group_values FROM meter.series
JOIN unnest($2::text[], $3::int[], $4::text[], $5::bytea[], $6::boolean[])
    AS wanted (meter_id, version, customer_id, group_digest, billed)
    USING (meter_id, version, customer_id, group_digest, billed)
WHERE tenant_id = $1
"""
# Numbers as texts, since asyncpg takes 0.5 µs for each element of an array.
_ADD: Final = """
INSERT INTO meter.rollups AS stored (tenant_id, series_id, span, start, quantity, event_count)
SELECT $1, series_id, span, to_timestamp(start_s), quantity, event_count
FROM unnest(
    string_to_array($2, ' ')::bigint[],
    string_to_array($3, ' ')::smallint[],
    string_to_array($4, ' ')::bigint[],
    string_to_array($5, ' ')::numeric[],
    string_to_array($6, ' ')::bigint[]
) AS added (series_id, span, start_s, quantity, event_count)
ORDER BY series_id, span, start_s
ON CONFLICT (tenant_id, series_id, span, start) DO UPDATE SET
    quantity = {quantity},
    event_count = stored.event_count + excluded.event_count
"""
_ADD_MOMENTS: Final = """
INSERT INTO meter.rollups AS stored (
    tenant_id, series_id, span, start, quantity, event_count,
    last_us, last_source, last_event_id, first_us, area
)
SELECT
    $1, series_id, span, to_timestamp(start_s), quantity, event_count,
    last_us, last_source, last_event_id, first_us, area
FROM unnest(
    string_to_array($2, ' ')::bigint[],
    string_to_array($3, ' ')::smallint[],
    string_to_array($4, ' ')::bigint[],
    string_to_array($5, ' ')::numeric[],
    string_to_array($6, ' ')::bigint[],
    string_to_array($7, ' ')::bigint[],
    string_to_array($8, E'\\n'),
    string_to_array($9, E'\\n'),
    string_to_array($10, ' ')::bigint[],
    string_to_array($11, ' ')::numeric[]
) AS added (
    series_id, span, start_s, quantity, event_count,
    last_us, last_source, last_event_id, first_us, area
)
ORDER BY series_id, span, start_s
ON CONFLICT (tenant_id, series_id, span, start) DO UPDATE SET
    event_count = stored.event_count + excluded.event_count,
    first_us = least(stored.first_us, excluded.first_us),
    area = CASE
        WHEN excluded.first_us > stored.last_us THEN
            stored.area + stored.quantity * (excluded.first_us - stored.last_us) + excluded.area
        WHEN excluded.last_us < stored.first_us THEN
            excluded.area + excluded.quantity * (stored.first_us - excluded.last_us) + stored.area
    END,
    (quantity, last_us, last_source, last_event_id) = (
        SELECT latest.quantity, latest.last_us, latest.last_source, latest.last_event_id
        FROM (
            VALUES
            (stored.quantity, stored.last_us, stored.last_source, stored.last_event_id),
            (excluded.quantity, excluded.last_us, excluded.last_source, excluded.last_event_id)
        ) AS latest (quantity, last_us, last_source, last_event_id)
        ORDER BY last_us DESC, last_source COLLATE "C" DESC, last_event_id COLLATE "C" DESC
        LIMIT 1
    )
RETURNING series_id, span, start, area IS NULL
"""
_ADD_VALUES: Final = """
INSERT INTO meter.rollup_values AS stored (tenant_id, series_id, span, start, value, event_count)
SELECT $1, series_id, span, to_timestamp(start_s), value, event_count
FROM unnest(
    string_to_array($2, ' ')::bigint[],
    string_to_array($3, ' ')::smallint[],
    string_to_array($4, ' ')::bigint[],
    string_to_array($5, E'\\n'),
    string_to_array($6, ' ')::bigint[]
) AS added (series_id, span, start_s, value, event_count)
ORDER BY series_id, span, start_s, value COLLATE "C"
ON CONFLICT (tenant_id, series_id, span, start, value) DO UPDATE SET
    event_count = stored.event_count + excluded.event_count
"""
_SUMMED: Final = _ADD.format(quantity="stored.quantity + excluded.quantity")
_ADDING: Final = {
    Aggregation.MIN: _ADD.format(quantity="least(stored.quantity, excluded.quantity)"),
    Aggregation.MAX: _ADD.format(quantity="greatest(stored.quantity, excluded.quantity)"),
    Aggregation.LATEST: _ADD_MOMENTS,
    Aggregation.WEIGHTED_SUM: _ADD_MOMENTS,
}

SeriesIds = dict[Series, int]
Identified = tuple[int, Rollup]


class Rollups:
    """Adds to the stored rollups.

    Remembers the ids of series, which never change once they are committed: a bounded number, the
    oldest out first.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, Series], int] = {}

    async def add(
        self,
        transaction: AsyncConnection,
        tenant: str,
        quarters: Sequence[Rollup],
        meters: MeterSet,
    ) -> SeriesIds:
        """Add usage to what is stored; the answer is to be remembered once it is committed.

        No two of the rollups are of the same series and quarter of an hour. Rows are locked in
        one order, so that transactions wait for each other, never in a circle.
        """
        if not quarters:
            return {}
        rollups = [*quarters, *days_of(quarters, meters)]
        ids = [self._known.get((tenant, rollup.series)) for rollup in rollups]
        unknown = {
            rollup.series for rollup, known in zip(rollups, ids, strict=True) if known is None
        }
        resolved = await _resolve(transaction, tenant, list(unknown)) if unknown else {}
        by_statement: dict[str, list[Identified]] = {}
        for known, rollup in zip(ids, rollups, strict=True):
            aggregation = meters.meter_of(rollup.series).definition.aggregation
            statement = _ADDING.get(aggregation, _SUMMED)
            identified = (known or resolved[rollup.series], rollup)
            by_statement.setdefault(statement, []).append(identified)
        for statement in sorted(by_statement):
            await self._add(transaction, tenant, statement, by_statement[statement], meters)
        return resolved

    async def _add(
        self,
        transaction: AsyncConnection,
        tenant: str,
        statement: str,
        identified: Sequence[Identified],
        meters: MeterSet,
    ) -> None:
        raw = await raw_connection(transaction)
        columns = _common_columns(identified)
        if statement != _ADD_MOMENTS:
            await raw.execute(statement, tenant, *columns)
            with_values = [each for each in identified if each[1].tally.values]
            if with_values:
                await raw.execute(_ADD_VALUES, tenant, *_value_columns(with_values))
            return
        # `string_to_array` makes no array of an empty text, and no event has an empty source.
        answered = await raw.fetch(statement, tenant, *columns, *_moment_columns(identified))
        overlapping = {tuple(row[:3]) for row in answered if row[3]}
        wanted = [
            Recount(meters.meter_of(rollup.series), rollup.series, series_id, rollup.start)
            for series_id, rollup in identified
            if meters.meter_of(rollup.series).definition.aggregation is Aggregation.WEIGHTED_SUM
            and rollup.span is Span.QUARTER
            and overlapping & _spans_around(series_id, rollup.start)
        ]
        await recount(transaction, tenant, wanted)

    def remember(self, tenant: str, committed: SeriesIds) -> None:
        """Remember what `add` answered, now that its transaction is committed."""
        for series, series_id in committed.items():
            self._known[tenant, series] = series_id
        surplus = len(self._known) - _REMEMBERED_MAX
        for key in list(islice(self._known, max(surplus, 0))):
            del self._known[key]


async def series_ids(
    transaction: AsyncConnection, tenant: str, wanted: Sequence[Series]
) -> SeriesIds:
    """Answer the ids of series, making those that do not exist."""
    return await _resolve(transaction, tenant, wanted) if wanted else {}


def _spans_around(series_id: int, quarter: datetime) -> set[tuple[int, int, datetime]]:
    day = quarter.replace(hour=0, minute=0)
    return {
        (series_id, Span.QUARTER.value, quarter),
        (series_id, Span.DAY.value, day),
    }


def _common_columns(identified: Sequence[Identified]) -> list[str]:
    return [
        _joined(series_id for series_id, _ in identified),
        _joined(rollup.span.value for _, rollup in identified),
        _joined(_seconds(rollup.start) for _, rollup in identified),
        _joined(_text(rollup.tally.quantity) for _, rollup in identified),
        _joined(rollup.tally.event_count for _, rollup in identified),
    ]


def _moment_columns(identified: Sequence[Identified]) -> list[str]:
    def of(read: Callable[[Moment], object], separator: str = " ") -> str:
        return separator.join(
            str(read(rollup.tally.last)) for _, rollup in identified if rollup.tally.last
        )

    tallies = [rollup.tally for _, rollup in identified]
    return [
        of(lambda last: last.time_us),
        of(lambda last: last.source, "\n"),
        of(lambda last: last.event_id, "\n"),
        _joined((tally.first or tally.last or _NOWHERE).time_us for tally in tallies),
        _joined(_text(tally.area or 0) for tally in tallies),
    ]


def _value_columns(identified: Sequence[Identified]) -> list[str]:
    rows = [
        (series_id, rollup.span.value, _seconds(rollup.start), value, count)
        for series_id, rollup in identified
        for value, count in (rollup.tally.values or _NO_VALUES).items()
    ]
    ids, spans, starts, values, counts = zip(*rows, strict=True)
    return [_joined(ids), _joined(spans), _joined(starts), "\n".join(values), _joined(counts)]


async def _resolve(
    transaction: AsyncConnection, tenant: str, wanted: Sequence[Series]
) -> SeriesIds:
    raw = await raw_connection(transaction)
    groups = [json.dumps(series.group, ensure_ascii=False) for series in wanted]
    key: tuple[list[Any], ...] = (
        [series.meter_id for series in wanted],
        [series.version for series in wanted],
        [series.customer_id for series in wanted],
        [sha256(group.encode()).digest() for group in groups],
        [series.billed for series in wanted],
    )
    await raw.execute(_CREATE_SERIES, tenant, *key, groups)
    found = await raw.fetch(_FIND_SERIES, tenant, *key)
    return {
        Series(meter_id, customer_id, tuple(group), version, billed): series_id
        for series_id, meter_id, version, customer_id, billed, group in found
    }


@lru_cache(_STARTS_REMEMBERED)
def _seconds(start: datetime) -> int:
    return (start - EPOCH) // _SECOND


def _joined(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def _text(amount: Amount) -> str:
    return str(amount) if isinstance(amount, int) else plain(amount)


_NO_VALUES: Mapping[str, int] = {}
_NOWHERE: Final = Moment(0, "", "")
