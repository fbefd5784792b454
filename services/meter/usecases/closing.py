"""Closes periods of customers, and answers what came late."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from kit.idempotency import Answer, Once
from kit.interval import Interval
from kit.paging import Page
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.model import LateEvent
from services.meter.store.closing import LateKey, close_periods, list_late_events
from services.meter.store.meters import lock_for_meters
from services.meter.usecases.pages import page_of, read_page_token

Ends = Sequence[tuple[str, datetime]]

_LISTING: Final = "late events"


class Closing:
    """The use cases of closing periods."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @traced("meter.close_periods")
    async def close_periods(self, tenant: str, ends: Ends, once: Once[Ends, Answer]) -> Answer:
        """Move the ends of customers' closed time, never back.

        It waits for the events that are being stored: they still count.

        Raises:
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:

            async def close() -> Ends:
                await lock_for_meters(transaction)
                closed = await close_periods(transaction, tenant, ends)
                return [(customer_id, closed[customer_id]) for customer_id, _ in ends]

            return await once.run(transaction, tenant, close)

    @traced("meter.list_late_events")
    async def list_late_events(
        self,
        tenant: str,
        customer_id: str,
        ingested: Interval | None,
        size: int,
        page_token: str,
    ) -> Page[LateEvent]:
        """List events that came after their period was closed, by when they came.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        listing = f"{_LISTING} {customer_id} {ingested}"
        after = read_page_token(page_token, listing, _key)
        async with self._database.transaction(tenant) as transaction:
            found = await list_late_events(
                transaction, tenant, customer_id, ingested, after=after, limit=size + 1
            )
        return page_of(found, size, listing, _texts)


def _key(time: str, source: str, event_id: str) -> LateKey:
    instant = datetime.fromisoformat(time)
    if instant.tzinfo is None:
        raise ValueError("an instant has an offset")
    return instant, source, event_id


def _texts(late: LateEvent) -> tuple[str, ...]:
    event = late.stored.event
    return late.stored.ingest_time.isoformat(), event.source, event.event_id
