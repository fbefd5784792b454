"""Answers how much was used, and of which events it is made."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import NotFound
from kit.interval import Interval
from kit.paging import Page
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.aggregation import MeterSet, check_counted, check_dimensions
from services.meter.model import (
    Aggregation,
    EventQuery,
    Identity,
    Meter,
    StoredEvent,
    UsageQuery,
    UsageRow,
    UsageSummary,
)
from services.meter.retention import check_kept
from services.meter.store.events import EventKey, list_events
from services.meter.store.reading import counted_event
from services.meter.store.retention import load_horizon
from services.meter.store.summaries import SummaryKey, summarize_usage
from services.meter.store.usage import Found, Question, UsageKey, add_up_usage
from services.meter.store.weighted import add_up_weighted_usage
from services.meter.tallies import figure
from services.meter.usecases.backfill import Backfill
from services.meter.usecases.known_meters import KnownMeters
from services.meter.usecases.meters import meter_not_found
from services.meter.usecases.pages import page_of, read_page_token
from services.meter.windows import Calendar, cut, plan, previous_of

_INT_MAX: Final = 2**31 - 1


class Usage:
    """The use cases of reading; each sees one state of the store."""

    def __init__(
        self, database: Database, backfill: Backfill, known_meters: KnownMeters, clock: Clock
    ) -> None:
        self._database = database
        self._backfill = backfill
        self._known_meters = known_meters
        self._clock = clock

    @traced("meter.query_usage")
    async def query_usage(
        self, tenant: str, query: UsageQuery, size: int, page_token: str
    ) -> Page[UsageRow]:
        """Add up usage by customer, window and group.

        Raises:
            InvalidInput: UNKNOWN_DIMENSION, INVALID_PAGE_TOKEN.
            NotFound: METER_NOT_FOUND.
            Precondition: BACKFILL_RUNNING, EVENTS_EXPIRED.
        """
        listing = f"usage {query}"

        def key(rank: str, customer_id: str, window: str, *group: str) -> UsageKey:
            if len(group) != len(query.group_by):
                raise ValueError("not a key of this query")
            return bounded(rank), customer_id, bounded(window), group

        after = read_page_token(page_token, listing, key)
        async with self._database.transaction(tenant) as transaction:
            question = await self._question(transaction, tenant, query)
            found = await self._add_up(transaction, tenant, question, after, size + 1)
        page = page_of(found, size, listing, lambda row: _texts(row.key))
        return Page(tuple(_row(question, row) for row in page.items), page.next_page_token)

    async def _question(
        self, transaction: AsyncConnection, tenant: str, query: UsageQuery
    ) -> Question:
        """Find what it takes to answer a query.

        Raises:
            InvalidInput: UNKNOWN_DIMENSION.
            NotFound: METER_NOT_FOUND.
            Precondition: BACKFILL_RUNNING, EVENTS_EXPIRED.
        """
        versions = await self._versions(transaction, tenant, query.meter_id)
        calendar = Calendar(query.window, query.time_zone, query.anchor)
        windows = cut(query.interval, calendar)
        if query.compares:
            windows = (previous_of(windows[0], calendar), *windows)
        whole = Interval(windows[0].start, windows[-1].end)
        meters = tuple(meter for meter in versions if _counts_within(meter, whole))
        for meter in meters or versions[-1:]:
            check_dimensions(query, meter)
            if meter.counted_from:
                self._backfill.go_on(tenant)
            check_counted(meter, whole)
        return Question(query, meters or versions[-1:], windows, plan(_pieces(windows, meters)))

    async def _versions(
        self, transaction: AsyncConnection, tenant: str, meter_id: str
    ) -> tuple[Meter, ...]:
        versions = await self._known_meters.versions(transaction, tenant, meter_id)
        if not versions:
            raise meter_not_found(meter_id)
        return versions

    async def _add_up(
        self,
        transaction: AsyncConnection,
        tenant: str,
        question: Question,
        after: UsageKey | None,
        limit: int,
    ) -> list[Found]:
        if question.plan.edges:
            check_kept(question.plan.edges[0].start, await load_horizon(transaction))
        if question.definition.aggregation is Aggregation.WEIGHTED_SUM:
            now = self._clock.now()
            return await add_up_weighted_usage(
                transaction, tenant, question, now=now, after=after, limit=limit
            )
        return await add_up_usage(transaction, tenant, question, after=after, limit=limit)

    @traced("meter.summarize_usage")
    async def summarize_usage(
        self, tenant: str, customer_id: str, interval: Interval, size: int, page_token: str
    ) -> Page[UsageSummary]:
        """Sum a customer's events by subject path and dimensions.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
            Precondition: EVENTS_EXPIRED.
        """
        listing = f"summaries {customer_id} {interval}"
        after = read_page_token(page_token, listing, _summary_key)
        async with self._database.transaction(tenant) as transaction:
            check_kept(interval.start, await load_horizon(transaction))
            found = await summarize_usage(
                transaction, tenant, customer_id, interval, after=after, limit=size + 1
            )
        page = page_of(found, size, listing, lambda keyed: keyed[0])
        return Page(tuple(summary for _, summary in page.items), page.next_page_token)

    @traced("meter.list_events")
    async def list_events(
        self, tenant: str, query: EventQuery, size: int, page_token: str
    ) -> Page[StoredEvent]:
        """List events by time, source and id; with a meter, each with what that counts of it.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
            NotFound: METER_NOT_FOUND.
            Precondition: EVENTS_EXPIRED, what a meter counts of an interval is all or nothing.
        """
        listing = f"events {query}"
        after = read_page_token(page_token, listing, _event_key)
        async with self._database.transaction(tenant) as transaction:
            meters = (
                await self._versions(transaction, tenant, query.meter_id) if query.meter_id else ()
            )
            if meters and query.interval:
                check_kept(query.interval.start, await load_horizon(transaction))
            found = await list_events(
                transaction, tenant, query, meters, after=after, limit=size + 1
            )
        if meters:
            found = _with_counted(found, MeterSet(meters))
        return page_of(found, size, listing, _event_texts)


def _with_counted(found: Sequence[StoredEvent], meters: MeterSet) -> list[StoredEvent]:
    return [
        stored._replace(counted=meters.counted(counted_event(stored.event, billed=stored.billed)))
        for stored in found
    ]


def event_not_found(identity: Identity) -> NotFound:
    """Make the error for an event that there is not."""
    source, event_id = identity
    return NotFound(
        "EVENT_NOT_FOUND",
        f"{source} has reported no event {event_id}",
        metadata={"source": source, "event_id": event_id},
    )


def _counts_within(meter: Meter, interval: Interval) -> bool:
    starts_before = meter.effective_time is None or meter.effective_time < interval.end
    return starts_before and (meter.end_time is None or meter.end_time > interval.start)


def _pieces(windows: Sequence[Interval], meters: Sequence[Meter]) -> Iterator[Interval]:
    """Cut windows where a version of a weighted sum follows another, since its rollups reach back.

    Rollups of all others hold what their version counts and no more.
    """
    changes = [
        meter.effective_time
        for meter in meters
        if meter.effective_time and meter.definition.aggregation is Aggregation.WEIGHTED_SUM
    ]
    for window in windows:
        yield from window.split_at(*changes)


def _row(question: Question, found: Found) -> UsageRow:
    definition = question.definition
    previous = found.previous_quantity
    return UsageRow(
        found.customer_id,
        question.windows[found.window - 1],
        found.group,
        figure(definition, found.quantity, found.event_count),
        found.event_count,
        None if previous is None else figure(definition, previous, found.previous_event_count),
        found.previous_event_count,
    )


def bounded(number: str) -> int:
    """Read a number of a page token: one that PostgreSQL's `int` can hold."""
    value = int(number)
    if not 0 <= value <= _INT_MAX:
        raise ValueError("not a number of a key")
    return value


def _texts(key: UsageKey) -> tuple[str, ...]:
    rank, customer_id, window, group = key
    return str(rank), customer_id, str(window), *group


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
