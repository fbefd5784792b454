"""Rollups: kept in the transaction that stores the events, read in place of the events."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from typing import Any, Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.decimals import plain
from kit.postgres import Database, raw_connection
from services.meter.aggregation import MeterSet, days_of
from services.meter.model import (
    EPOCH,
    KEEPING_MOMENTS,
    Aggregation,
    Amount,
    Moment,
    Rollup,
    Series,
    Span,
)
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
_ADD: Final = "SELECT meter.add_rollups($1, $2, $3, $4, $5)"
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
_SUMS, _MINIMA, _MAXIMA, _MOMENTS = "sums", "minima", "maxima", "moments"
_KINDS: Final = {
    Aggregation.MIN: _MINIMA,
    Aggregation.MAX: _MAXIMA,
    **dict.fromkeys(KEEPING_MOMENTS, _MOMENTS),
}

SeriesIds = dict[Series, int]
Identified = tuple[int, Rollup]
Columns = list[str] | None
"""Rows as a text for each column: series, start in seconds, quantity or value, count."""


class Additions(NamedTuple):
    """What is added to rollups of quarters of an hour and of their days, by how it is added."""

    sums: Columns = None
    minima: Columns = None
    maxima: Columns = None
    occurrences: Columns = None


NOTHING_ADDED: Final = Additions()


class Rollups:
    """Adds to the stored rollups.

    Remembers the ids of series, which never change once they are committed: a bounded number, the
    oldest out first.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, Series], int] = {}

    async def arrange(
        self, database: Database, tenant: str, quarters: Sequence[Rollup], meters: MeterSet
    ) -> Additions:
        """Write what is to be added, first making the series that do not exist.

        No two of the rollups are of the same series and quarter of an hour, and none has moments.
        """
        ids = self._known_ids(tenant, quarters)
        made: SeriesIds = {}
        if None in ids:
            async with database.transaction(tenant) as transaction:
                made = await series_ids(transaction, tenant, _unknown(ids, quarters))
            self.remember(tenant, made)
        return _additions(_by_kind(_completed(ids, quarters, made), quarters, meters))

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
        ids = self._known_ids(tenant, quarters)
        made = await series_ids(transaction, tenant, _unknown(ids, quarters))
        kinds = _by_kind(_completed(ids, quarters, made), quarters, meters)
        raw = await raw_connection(transaction)
        await raw.execute(_ADD, tenant, *_additions(kinds))
        if kinds[_MOMENTS]:
            await _add_moments(transaction, tenant, kinds[_MOMENTS], meters)
        return made

    def remember(self, tenant: str, committed: SeriesIds) -> None:
        """Remember what `add` answered, now that its transaction is committed."""
        for series, series_id in committed.items():
            self._known[tenant, series] = series_id
        surplus = len(self._known) - _REMEMBERED_MAX
        for key in list(islice(self._known, max(surplus, 0))):
            del self._known[key]

    def _known_ids(self, tenant: str, rollups: Sequence[Rollup]) -> list[int | None]:
        return [self._known.get((tenant, rollup.series)) for rollup in rollups]


async def _add_moments(
    transaction: AsyncConnection, tenant: str, quarters: Sequence[Identified], meters: MeterSet
) -> None:
    raw = await raw_connection(transaction)
    ids = {rollup.series: series_id for series_id, rollup in quarters}
    days = days_of((rollup for _, rollup in quarters), meters)
    identified = [*quarters, *((ids[day.series], day) for day in days)]
    answered = await raw.fetch(_ADD_MOMENTS, tenant, *_moment_columns(identified))
    overlapping = {tuple(row[:3]) for row in answered if row[3]}
    wanted = [
        Recount(meters.meter_of(rollup.series), rollup.series, series_id, rollup.start)
        for series_id, rollup in quarters
        if meters.meter_of(rollup.series).definition.aggregation is Aggregation.WEIGHTED_SUM
        and overlapping & _spans_around(series_id, rollup.start)
    ]
    await recount(transaction, tenant, wanted)


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


def _unknown(ids: Sequence[int | None], rollups: Sequence[Rollup]) -> list[Series]:
    return list({each.series for known, each in zip(ids, rollups, strict=True) if known is None})


def _completed(ids: Sequence[int | None], rollups: Sequence[Rollup], made: SeriesIds) -> list[int]:
    return [known or made[each.series] for known, each in zip(ids, rollups, strict=True)]


def _by_kind(
    ids: Sequence[int], quarters: Sequence[Rollup], meters: MeterSet
) -> dict[str, list[Identified]]:
    """Sort rollups by how they are added."""
    kinds: dict[str, list[Identified]] = {kind: [] for kind in (_SUMS, *_KINDS.values())}
    for series_id, rollup in zip(ids, quarters, strict=True):
        aggregation = meters.meter_of(rollup.series).definition.aggregation
        kinds[_KINDS.get(aggregation, _SUMS)].append((series_id, rollup))
    return kinds


def _additions(kinds: Mapping[str, list[Identified]]) -> Additions:
    """Write all but those with moments."""
    sums = kinds[_SUMS]
    keeping_values = [each for each in sums if each[1].tally.values]
    return Additions(
        _columns(sums) if sums else None,
        _columns(kinds[_MINIMA]) if kinds[_MINIMA] else None,
        _columns(kinds[_MAXIMA]) if kinds[_MAXIMA] else None,
        _value_columns(keeping_values) if keeping_values else None,
    )


def _columns(identified: Sequence[Identified]) -> list[str]:
    return [
        " ".join([str(series_id) for series_id, _ in identified]),
        " ".join([_seconds(rollup.start) for _, rollup in identified]),
        " ".join([_text(rollup.tally.quantity) for _, rollup in identified]),
        " ".join([str(rollup.tally.event_count) for _, rollup in identified]),
    ]


def _moment_columns(identified: Sequence[Identified]) -> list[str]:
    def of(read: Callable[[Moment], object], separator: str = " ") -> str:
        return separator.join(
            str(read(rollup.tally.last)) for _, rollup in identified if rollup.tally.last
        )

    tallies = [rollup.tally for _, rollup in identified]
    ids, *columns = _columns(identified)
    # `string_to_array` makes no array of an empty text, and no event has an empty source.
    return [
        ids,
        _joined(rollup.span.value for _, rollup in identified),
        *columns,
        of(lambda last: last.time_us),
        of(lambda last: last.source, "\n"),
        of(lambda last: last.event_id, "\n"),
        _joined((tally.first or tally.last or _NOWHERE).time_us for tally in tallies),
        _joined(_text(tally.area or 0) for tally in tallies),
    ]


def _value_columns(identified: Sequence[Identified]) -> list[str]:
    rows = [
        (series_id, _seconds(rollup.start), value, count)
        for series_id, rollup in identified
        for value, count in (rollup.tally.values or _NO_VALUES).items()
    ]
    ids, starts, values, counts = zip(*rows, strict=True)
    return [_joined(ids), " ".join(starts), "\n".join(values), _joined(counts)]


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
def _seconds(start: datetime) -> str:
    return str((start - EPOCH) // _SECOND)


def _joined(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def _text(amount: Amount) -> str:
    return str(amount) if isinstance(amount, int) else plain(amount)


_NO_VALUES: Mapping[str, int] = {}
_NOWHERE: Final = Moment(0, "", "")
