"""Answers weighted sums: levels that are held from event to event, also between windows.

A level is held by a series, so each is followed by itself through all windows, and then the areas
of a row's series are added. What is read grows with the series that match, not with the events.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.decimals import exactly
from kit.interval import Interval
from kit.postgres import raw_connection
from services.meter.aggregation import MeterSet, microseconds
from services.meter.model import Aggregation, Amount, Meter, Moment, Span, Tally
from services.meter.store.parameters import Parameters
from services.meter.store.reading import EventFilter, stream_events
from services.meter.store.recounting import load_tallies
from services.meter.store.usage import Found, Question, UsageKey
from services.meter.tallies import area_within
from services.meter.windows import start_of_quarter

_HELD_BEFORE: Final = """
SELECT held.quantity, held.last_us, held.last_source, held.last_event_id, wanted.series_id
FROM unnest($2::bigint[]) AS wanted (series_id), LATERAL (
    SELECT quantity, last_us, last_source, last_event_id FROM meter.rollups
    WHERE tenant_id = $1 AND series_id = wanted.series_id AND span = 15 AND start < $3
    ORDER BY start DESC
    LIMIT 1
) AS held
"""
_Identity = tuple[str, tuple[str, ...], bool]
"""Whose series it is: customer, group, billed elsewhere."""
_Row = tuple[str, int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Held:
    """A series, and what it held: tallies in the order of time."""

    customer_id: str
    group: tuple[str, ...]
    tallies: list[Tally]


async def add_up_weighted_usage(
    transaction: AsyncConnection,
    tenant: str,
    question: Question,
    *,
    now: datetime,
    after: UsageKey | None,
    limit: int,
) -> list[Found]:
    """Add up level times time by customer, window and group; levels are held until now at most."""
    areas: dict[_Row, tuple[Amount, int]] = {}
    for meter in question.meters:
        for held in await _load(transaction, tenant, question, meter):
            with exactly():
                _add(areas, held, meter, question, now)
    found = _found(question, areas)
    if question.query.compares:
        found = _compared(found, len(question.windows))
    if question.query.top:
        found = _ranked(found, question.query.top)
    found.sort(key=_ranked_order if question.query.top else _order)
    if after:
        found = [each for each in found if _follows(each, after, ranked=bool(question.query.top))]
    return found[:limit]


async def _load(
    transaction: AsyncConnection, tenant: str, question: Question, meter: Meter
) -> list[_Held]:
    series = await _matching_series(transaction, tenant, question, meter)
    if not series:
        return []
    begin = start_of_quarter(question.windows[0].start)
    raw = await raw_connection(transaction)
    tallies: dict[int, list[Tally]] = {series_id: [] for series_id in series}
    for quantity, *last, series_id in await raw.fetch(_HELD_BEFORE, tenant, list(series), begin):
        moment = Moment(*last)
        tallies[series_id].append(Tally(quantity, 0, moment, moment, 0))
    for span, intervals in (
        (Span.DAY, question.plan.days),
        (Span.QUARTER, question.plan.quarters),
    ):
        for interval in intervals:
            stored = await load_tallies(
                transaction,
                tenant,
                aggregation=Aggregation.WEIGHTED_SUM,
                series_ids=list(series),
                span=span,
                interval=interval,
            )
            for (series_id, _), tally in stored.items():
                tallies[series_id].append(tally)
    await _add_events(transaction, tenant, question, meter, series=series, tallies=tallies)
    for each in tallies.values():
        each.sort(key=lambda tally: tally.first or Moment(0, "", ""))
    return [_Held(*series[series_id][:2], each) for series_id, each in tallies.items()]


async def _add_events(
    transaction: AsyncConnection,
    tenant: str,
    question: Question,
    meter: Meter,
    *,
    series: Mapping[int, _Identity],
    tallies: Mapping[int, list[Tally]],
) -> None:
    """Add each event at an edge as a tally of its own, and those that lead up to the start."""
    start = question.windows[0].start
    begin = start_of_quarter(start)
    lead = [Interval(begin, start)] if begin < start else []
    ids = {key: series_id for series_id, key in series.items()}
    meters = MeterSet([meter])
    for interval in [*lead, *question.plan.edges]:
        query = question.query
        chosen = EventFilter(
            interval, meter, query.customer_ids, query.includes_billed, query.filters
        )
        async for event in stream_events(transaction, tenant, chosen):
            for part in meters.contributions(event.type, event.dimensions):
                amount = meters.amount(part, event)
                series_id = ids.get((event.customer_id, part.group, event.billed))
                if amount is None or isinstance(amount, str) or series_id is None:
                    continue
                if part.start_us <= event.time_us < part.end_us:
                    moment = Moment(event.time_us, event.source, event.event_id)
                    tallies[series_id].append(Tally(amount, 1, moment, moment, 0))


async def _matching_series(
    transaction: AsyncConnection, tenant: str, question: Question, meter: Meter
) -> dict[int, _Identity]:
    parameters = Parameters()
    keys = meter.definition.group_by
    conditions = [
        f"tenant_id = {parameters.add(tenant, 'text')}",
        f"meter_id = {parameters.add(meter.meter_id, 'text')}",
        f"version = {parameters.add(meter.version, 'int')}",
    ]
    if not question.query.includes_billed:
        conditions.append("NOT billed")
    if question.query.customer_ids:
        customers = parameters.texts(question.query.customer_ids)
        conditions.append(f"customer_id = ANY({customers})")
    conditions += [
        f"group_values[{keys.index(key) + 1}] = {parameters.add(value, 'text')}"
        for key, value in question.query.filters
    ]
    statement = (
        "SELECT series_id, customer_id, group_values, billed FROM meter.series"
        f" WHERE {' AND '.join(conditions)}"
    )
    raw = await raw_connection(transaction)
    found: Sequence[Any] = await raw.fetch(statement, *parameters.values)
    return {
        series_id: (customer, tuple(group), billed) for series_id, customer, group, billed in found
    }


def _add(
    areas: dict[_Row, tuple[Amount, int]],
    held: _Held,
    meter: Meter,
    question: Question,
    now: datetime,
) -> None:
    """Add what a series held in each window, as far as the version counts and time has come."""
    keys = meter.definition.group_by
    group = tuple(held.group[keys.index(key)] for key in question.query.group_by)
    firsts = [tally.first.time_us for tally in held.tallies if tally.first]
    for number, window in enumerate(question.windows, start=1):
        start_us = microseconds(max(window.start, meter.effective_time or window.start))
        end_us = microseconds(min(window.end, meter.end_time or window.end))
        begin, end = bisect_left(firsts, start_us), bisect_left(firsts, end_us)
        before, inside = held.tallies[max(begin - 1, 0) : begin], held.tallies[begin:end]
        last_us = max([microseconds(now), *(each.last.time_us for each in inside if each.last)])
        until_us = min(end_us, last_us)
        if start_us >= until_us and not inside:
            continue
        area = area_within([*before, *inside], start_us, max(until_us, start_us))
        count = sum(tally.event_count for tally in inside)
        if area or count:
            key = (held.customer_id, number, group)
            total, events = areas.get(key, (0, 0))
            areas[key] = (total + area, events + count)


def _found(question: Question, areas: Mapping[_Row, tuple[Amount, int]]) -> list[Found]:
    first = 2 if question.query.compares else 1
    return [
        Found(0, customer_id, window, group, Decimal(area), count, None, 0)
        for (customer_id, window, group), (area, count) in areas.items()
        if window >= first or question.query.compares
    ]


def _compared(found: Iterable[Found], windows: int) -> list[Found]:
    by_key = {(each.customer_id, each.window, each.group): each for each in found}
    wanted = {key for key in by_key if key[1] > 1}
    wanted |= {(customer, window + 1, group) for customer, window, group in by_key}
    compared = []
    for customer_id, window, group in wanted:
        if window > windows:
            continue
        this = by_key.get((customer_id, window, group))
        before = by_key.get((customer_id, window - 1, group))
        compared.append(
            Found(
                0,
                customer_id,
                window,
                group,
                this.quantity if this else Decimal(0),
                this.event_count if this else 0,
                before.quantity if before else Decimal(0),
                before.event_count if before else 0,
            )
        )
    return compared


def _ranked(found: Sequence[Found], top: int) -> list[Found]:
    ranks: dict[int, int] = {}
    ranked = []
    for each in sorted(found, key=lambda row: (-row.quantity, _order(row))):
        rank = ranks[each.window] = ranks.get(each.window, 0) + 1
        if rank <= top:
            ranked.append(replace(each, rank=rank))
    return ranked


def _order(row: Found) -> tuple[str, int, tuple[str, ...]]:
    return row.customer_id, row.window, row.group


def _ranked_order(row: Found) -> tuple[int, int]:
    return row.window, row.rank


def _follows(row: Found, after: UsageKey, *, ranked: bool) -> bool:
    rank, customer_id, window, group = after
    if ranked:
        return (row.window, row.rank) > (window, rank)
    return _order(row) > (customer_id, window, group)
