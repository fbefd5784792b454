"""Reads stored events for counting: as they came in, in the order of their time.

What counts is said in SQL only as far as an index or a scan profits; the core decides again.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.postgres import raw_connection
from services.meter.aggregation import microseconds
from services.meter.model import Amount, IncomingEvent, Meter, UsageEvent
from services.meter.windows import start_of_minute

MINUTE: Final = "date_bin(INTERVAL '1 minute', time, TIMESTAMPTZ '2000-01-01 00:00Z')"
"""The minute in which an event happened, written as the index by customer has it."""

TYPES: Final = """
    WITH RECURSIVE following AS (
        (SELECT type FROM meter.events WHERE tenant_id = $1 ORDER BY type LIMIT 1)
        UNION ALL
        SELECT (
            SELECT type FROM meter.events
            WHERE tenant_id = $1 AND type > following.type ORDER BY type LIMIT 1
        )
        FROM following WHERE type IS NOT NULL
    )
    SELECT type FROM following WHERE type IS NOT NULL
"""
"""Every type of a tenant's events, found by a step for each; the key of events begins with it."""

COLUMNS: Final = ", ".join(
    f"{name}::text" if name in {"dimensions", "quantities"} else name for name in UsageEvent._fields
)
"""What makes a `UsageEvent`, in its order; JSON as the text that was stored."""

_PREFETCH: Final = 1_000
_REMEMBERED: Final = 16_384
_READ: Final = """
SELECT
    time, source, event_id, type, customer_id, project_id, user_id, key_id, run_id,
    dimensions::text, quantities::text, billed
FROM meter.events
WHERE {conditions}
ORDER BY {order}
"""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are read: of an interval, of what a meter may count, of these customers.

    Without a meter, or without customers, all of them.
    """

    interval: Interval
    meter: Meter | None = None
    customer_ids: tuple[str, ...] = ()
    includes_billed: bool = True
    dimensions: tuple[tuple[str, str], ...] = ()


async def stream_events(
    transaction: AsyncConnection, tenant: str, chosen: EventFilter
) -> AsyncIterator[IncomingEvent]:
    """Read events in the order of time, a part at a time."""
    conditions, arguments = _conditions(tenant, chosen)
    order = "time, source, event_id"
    if chosen.customer_ids:
        order = f"{MINUTE}, {order}"
    statement = _READ.format(conditions=" AND ".join(conditions), order=order)
    raw = await raw_connection(transaction)
    async for row in raw.cursor(statement, *arguments, prefetch=_PREFETCH):
        yield as_incoming(row)


def as_incoming(row: Sequence[Any]) -> IncomingEvent:
    """Make a stored event into one that can be counted."""
    time, source, event_id, *texts, billed = row
    time_us = microseconds(time)
    content = "\t".join((str(time_us), *texts))
    amounts = {name: amount_of(text) for name, text in json.loads(texts[-1]).items()}
    return IncomingEvent(
        source, event_id, time_us, texts[0], texts[1], texts[-2], content, "", amounts, billed
    )


def counted_event(event: UsageEvent, *, billed: bool) -> IncomingEvent:
    """Make an event into one that can be counted."""
    source, event_id, time, *texts = event
    return as_incoming((time, source, event_id, *texts, billed))


@lru_cache(_REMEMBERED)
def amount_of(text: str) -> Amount:
    """Read a stored quantity; whole ones are `int`, as when they came in."""
    return Decimal(text) if "." in text else int(text)


def _conditions(tenant: str, chosen: EventFilter) -> tuple[list[str], list[Any]]:
    interval = chosen.interval
    arguments: list[Any] = [tenant, interval.start, interval.end]
    conditions = ["tenant_id = $1", "time >= $2", "time < $3"]

    def add(condition: str, value: str | Sequence[str] | datetime) -> None:
        arguments.append(value)
        conditions.append(condition.replace("?", f"${len(arguments)}"))

    if not chosen.customer_ids and not chosen.meter:
        conditions.append(f"type = ANY(ARRAY({TYPES}))")
    if not chosen.includes_billed:
        conditions.append("NOT billed")
    if chosen.customer_ids:
        add(f"{MINUTE} >= ?", start_of_minute(interval.start))
        conditions.append(f"{MINUTE} < $3")
        add("customer_id = ANY(?::text[])", chosen.customer_ids)
    filters: list[tuple[str, Sequence[str]]] = [(key, (value,)) for key, value in chosen.dimensions]
    if chosen.meter:
        add("type = ?", chosen.meter.definition.event_type)
        filters += chosen.meter.definition.filters
    for key, values in filters:
        arguments.append(key)
        add(f"coalesce(dimensions ->> ${len(arguments)}, '') = ANY(?::text[])", values)
    return conditions, arguments
