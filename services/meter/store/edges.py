"""Counts the events at the edges of windows, where no rollup is fine enough."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from services.meter.aggregation import MeterSet, microseconds
from services.meter.model import Moment, Tally, UsageQuery
from services.meter.store.reading import EventFilter, stream_events
from services.meter.tallies import Gathering


class EdgeTally(NamedTuple):
    """What events at an edge add up to, for one row of the answer."""

    customer_id: str
    window: int
    group: tuple[str, ...]
    tally: Tally


async def tally_edges(
    transaction: AsyncConnection,
    tenant: str,
    query: UsageQuery,
    *,
    meters: MeterSet,
    windows: Sequence[Interval],
    edges: Sequence[Interval],
) -> list[EdgeTally]:
    """Add up the events at the edges, by customer, window and the query's group."""
    starts_us = [microseconds(window.start) for window in windows]
    gathered: dict[tuple[str, int, tuple[str, ...]], Gathering] = {}
    for edge in edges:
        for meter in meters.meters:
            only = MeterSet([meter])
            chosen = EventFilter(
                edge, meter, query.customer_ids, query.includes_billed, query.filters
            )
            async for event in stream_events(transaction, tenant, chosen):
                for part in only.contributions(event.type, event.dimensions):
                    amount = only.amount(part, event)
                    if amount is None or not part.start_us <= event.time_us < part.end_us:
                        continue
                    values = json.loads(event.dimensions)
                    group = tuple(values.get(key, "") for key in query.group_by)
                    window = bisect_right(starts_us, event.time_us)
                    key = (event.customer_id, window, group)
                    if key not in gathered:
                        gathered[key] = Gathering(meter.definition.aggregation)
                    moment = Moment(event.time_us, event.source, event.event_id)
                    gathered[key].add(moment, amount)
    return [EdgeTally(*key, gathering.tally()) for key, gathering in gathered.items()]
