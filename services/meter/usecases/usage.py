"""Answers how much was used, and of which events it is made."""

from datetime import datetime

from kit.interval import Interval
from kit.paging import Page
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.aggregation import check_dimensions
from services.meter.model import EventQuery, StoredEvent, UsageQuery, UsageRow, UsageSummary
from services.meter.store.events import EventKey, list_events
from services.meter.store.summaries import SummaryKey, summarize_usage
from services.meter.store.usage import UsageKey, add_up_usage
from services.meter.usecases.meters import existing_meter
from services.meter.usecases.pages import page_of, read_page_token
from services.meter.windows import cut


class Usage:
    """The use cases of reading; each sees one state of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @traced("meter.query_usage")
    async def query_usage(
        self, tenant: str, query: UsageQuery, size: int, page_token: str
    ) -> Page[UsageRow]:
        """Add up usage by customer, window and group.

        Raises:
            InvalidInput: UNKNOWN_DIMENSION, INVALID_PAGE_TOKEN.
            NotFound: METER_NOT_FOUND.
        """
        listing = f"usage {query}"
        pieces = cut(query.interval, query.window, query.time_zone)

        def key(customer_id: str, window: str, *group: str) -> UsageKey:
            if not 1 <= int(window) <= len(pieces.windows) or len(group) != len(query.group_by):
                raise ValueError("not a key of this query")
            return customer_id, int(window), group

        after = read_page_token(page_token, listing, key)
        async with self._database.transaction(tenant) as transaction:
            meter = await existing_meter(transaction, tenant, query.meter_id)
            check_dimensions(query, meter)
            found = await add_up_usage(
                transaction,
                tenant,
                query,
                meter,
                pieces,
                after=after,
                limit=size + 1,
            )
        page = page_of(found, size, listing, lambda keyed: _texts(keyed[0]))
        return Page(tuple(row for _, row in page.items), page.next_page_token)

    @traced("meter.summarize_usage")
    async def summarize_usage(
        self, tenant: str, customer_id: str, interval: Interval, size: int, page_token: str
    ) -> Page[UsageSummary]:
        """Sum a customer's events by subject path and dimensions.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        listing = f"summaries {customer_id} {interval}"
        after = read_page_token(page_token, listing, _summary_key)
        async with self._database.transaction(tenant) as transaction:
            found = await summarize_usage(
                transaction, tenant, customer_id, interval, after=after, limit=size + 1
            )
        page = page_of(found, size, listing, lambda keyed: keyed[0])
        return Page(tuple(summary for _, summary in page.items), page.next_page_token)

    @traced("meter.list_events")
    async def list_events(
        self, tenant: str, query: EventQuery, size: int, page_token: str
    ) -> Page[StoredEvent]:
        """List events by time, source and id.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
            NotFound: METER_NOT_FOUND.
        """
        listing = f"events {query}"
        after = read_page_token(page_token, listing, _event_key)
        async with self._database.transaction(tenant) as transaction:
            meter = (
                await existing_meter(transaction, tenant, query.meter_id)
                if query.meter_id
                else None
            )
            found = await list_events(
                transaction, tenant, query, meter, after=after, limit=size + 1
            )
        return page_of(found, size, listing, _event_texts)


def _texts(key: UsageKey) -> tuple[str, ...]:
    customer_id, window, group = key
    return customer_id, str(window), *group


def _summary_key(project: str, user: str, key: str, run: str, digest: str) -> SummaryKey:
    return project, user, key, run, digest


def _event_key(time: str, source: str, event_id: str) -> EventKey:
    instant = datetime.fromisoformat(time)
    if instant.tzinfo is None:
        raise ValueError("an instant has an offset")
    return instant, source, event_id


def _event_texts(stored: StoredEvent) -> tuple[str, ...]:
    event = stored.event
    return event.time.isoformat(), event.source, event.event_id
