"""What a meter counts of the events that were stored before it, a stretch of time at a time."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.postgres import raw_connection
from services.meter.model import IncomingEvent, Meter
from services.meter.store.reading import EventFilter, stream_events
from services.meter.windows import start_of_quarter

NOTHING_COUNTED: Final = datetime.fromisoformat("3000-01-01T00:00:00+00:00")
"""From when a meter has counted that has counted nothing yet: after every event."""

_EVENTS_AT_ONCE: Final = 10_000
_BACK_BY: Final = """
SELECT time FROM meter.events
WHERE tenant_id = $1 AND type = $2 AND time < $3
ORDER BY time DESC
OFFSET $4 LIMIT 1
"""
_OLDEST: Final = """
SELECT time FROM meter.events
WHERE tenant_id = $1 AND type = $2
ORDER BY time
LIMIT 1
"""
_CUSTOMERS_SINCE: Final = """
SELECT DISTINCT customer_id FROM meter.events
WHERE tenant_id = $1 AND type = $2 AND time >= $3
"""


async def start_of_stretch(
    transaction: AsyncConnection, tenant: str, meter: Meter, size: int
) -> datetime | None:
    """Answer from when to count next, so that it is about so many events; nothing for the rest."""
    raw = await raw_connection(transaction)
    event_type = meter.definition.event_type
    time = await raw.fetchval(_BACK_BY, tenant, event_type, meter.counted_from, size)
    return start_of_quarter(time) if time else None


async def oldest_event(transaction: AsyncConnection, tenant: str, meter: Meter) -> datetime | None:
    """Answer when the oldest event of the meter's type happened."""
    raw = await raw_connection(transaction)
    found: datetime | None = await raw.fetchval(_OLDEST, tenant, meter.definition.event_type)
    return found


async def customers_since(
    transaction: AsyncConnection, tenant: str, meter: Meter, since: datetime
) -> tuple[str, ...]:
    """Answer who has events of the meter's type from a quarter of an hour on."""
    raw = await raw_connection(transaction)
    found = await raw.fetch(_CUSTOMERS_SINCE, tenant, meter.definition.event_type, since)
    return tuple(row[0] for row in found)


async def stretch_events(
    transaction: AsyncConnection, tenant: str, meter: Meter, start: datetime, end: datetime
) -> AsyncIterator[Sequence[IncomingEvent]]:
    """Read what a meter may count of a stretch, in parts."""
    part: list[IncomingEvent] = []
    if start < end:
        chosen = EventFilter(Interval(start, end), meter)
        async for event in stream_events(transaction, tenant, chosen):
            part.append(event)
            if len(part) == _EVENTS_AT_ONCE:
                yield part
                part = []
    if part:
        yield part
