"""Amends events and takes them back; usage is adjusted in the same transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import Precondition
from kit.idempotency import Answer, Once
from kit.paging import Page
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.aggregation import MeterSet, roll_up
from services.meter.model import (
    Identity,
    IncomingEvent,
    LateEvent,
    Revision,
    RevisionKind,
    StoredEvent,
    UsageEvent,
)
from services.meter.retention import check_kept
from services.meter.store.closing import load_closed, load_late_event
from services.meter.store.corrections import (
    RevisionKey,
    list_revisions,
    load_revisions,
    lock_identity,
    remove_event,
    replace_event,
    save_revision,
)
from services.meter.store.events import load_event
from services.meter.store.meters import load_versions, lock_for_events
from services.meter.store.reading import counted_event
from services.meter.store.recounting import Recount, recount
from services.meter.store.rollups import series_ids
from services.meter.usecases.pages import page_of, read_page_token
from services.meter.usecases.usage import bounded, event_not_found

_LISTING: Final = "event revisions"
_BEFORE_ALL: Final[RevisionKey] = ("", "", 0)


class FoundEvent(NamedTuple):
    """An event as it counts now, every state it had if it was corrected, or that it came late."""

    stored: StoredEvent | None
    revisions: Sequence[Revision]
    late: LateEvent | None


class Corrections:
    """The use cases of correcting events."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @traced("meter.amend_event")
    async def amend_event(
        self, tenant: str, amended: UsageEvent, reason: str, once: Once[Revision, Answer]
    ) -> Answer:
        """Put another content in an event's place.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            NotFound: EVENT_NOT_FOUND.
            Precondition: EVENT_VOIDED, PERIOD_CLOSED, EVENTS_EXPIRED.
        """
        identity = (amended.source, amended.event_id)
        return await self._correct(tenant, identity, amended, reason, once)

    @traced("meter.void_event")
    async def void_event(
        self, tenant: str, identity: Identity, reason: str, once: Once[Revision, Answer]
    ) -> Answer:
        """Take an event back.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            NotFound: EVENT_NOT_FOUND.
            Precondition: EVENT_VOIDED, PERIOD_CLOSED, EVENTS_EXPIRED.
        """
        return await self._correct(tenant, identity, None, reason, once)

    @traced("meter.get_event")
    async def get_event(self, tenant: str, identity: Identity) -> FoundEvent:
        """Answer an event as it counts now, what it was before, or that it came late.

        Raises:
            NotFound: EVENT_NOT_FOUND.
        """
        late = None
        async with self._database.transaction(tenant) as transaction:
            stored = await load_event(transaction, tenant, identity)
            revisions = await load_revisions(transaction, tenant, identity)
            if stored is None and not revisions:
                late = await load_late_event(transaction, tenant, identity)
        if stored is None and not revisions and late is None:
            raise event_not_found(identity)
        return FoundEvent(stored, revisions, late)

    @traced("meter.list_event_revisions")
    async def list_revisions(
        self, tenant: str, customer_id: str, size: int, page_token: str
    ) -> Page[Revision]:
        """List what corrected events of a customer were and became.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        listing = f"{_LISTING} {customer_id}"
        after = read_page_token(page_token, listing, _key) or _BEFORE_ALL
        async with self._database.transaction(tenant) as transaction:
            found = await list_revisions(
                transaction, tenant, customer_id, after=after, limit=size + 1
            )
        return page_of(found, size, listing, _texts)

    async def _correct(
        self,
        tenant: str,
        identity: Identity,
        amended: UsageEvent | None,
        reason: str,
        once: Once[Revision, Answer],
    ) -> Answer:
        async with self._database.transaction(tenant) as transaction:

            async def correct() -> Revision:
                standing = await lock_for_events(transaction, tenant)
                stored = await _correctable(transaction, tenant, identity)
                for event in [stored.event, amended] if amended else [stored.event]:
                    check_kept(event.time, standing.horizon)
                await _check_open(transaction, tenant, stored.event, amended)
                revision = await self._keep(transaction, tenant, stored, amended, reason)
                if amended:
                    await replace_event(transaction, tenant, stored, amended)
                else:
                    await remove_event(transaction, tenant, stored.event)
                after = [counted_event(amended, billed=stored.billed)] if amended else []
                before = counted_event(stored.event, billed=stored.billed)
                await _adjust(transaction, tenant, [before, *after])
                return revision

            return await once.run(transaction, tenant, correct)

    async def _keep(
        self,
        transaction: AsyncConnection,
        tenant: str,
        stored: StoredEvent,
        amended: UsageEvent | None,
        reason: str,
    ) -> Revision:
        """Keep the new state, and before the first correction the original one."""
        source, event_id = stored.event.source, stored.event.event_id
        revisions = await load_revisions(transaction, tenant, (source, event_id))
        if not revisions:
            original = Revision(1, RevisionKind.ORIGINAL, stored.event, "", stored.ingest_time)
            await save_revision(transaction, tenant, original)
            revisions = [original]
        revision = Revision(
            revisions[-1].number + 1,
            RevisionKind.AMENDED if amended else RevisionKind.VOIDED,
            amended or stored.event,
            reason,
            self._clock.now(),
        )
        await save_revision(transaction, tenant, revision)
        return revision


async def _correctable(
    transaction: AsyncConnection, tenant: str, identity: Identity
) -> StoredEvent:
    if not await lock_identity(transaction, tenant, identity):
        raise event_not_found(identity)
    stored = await load_event(transaction, tenant, identity)
    if stored:
        return stored
    source, event_id = identity
    if await load_revisions(transaction, tenant, identity):
        raise Precondition(
            "EVENT_VOIDED",
            f"the event {event_id} of {source} was taken back",
            metadata={"source": source, "event_id": event_id},
        )
    # It came late, so it does not count, or it is older than what is kept.
    raise event_not_found(identity)


async def _check_open(
    transaction: AsyncConnection, tenant: str, stored: UsageEvent, amended: UsageEvent | None
) -> None:
    """Allow corrections of open periods only: what was billed is corrected by a credit note."""
    events = [stored, amended] if amended else [stored]
    closed = await load_closed(transaction, tenant, {event.customer_id for event in events})
    for event in events:
        closed_until: datetime | None = closed.get(event.customer_id)
        if closed_until and event.time < closed_until:
            raise Precondition(
                "PERIOD_CLOSED",
                f"the period of the customer {event.customer_id} is closed",
                metadata={
                    "customer_id": event.customer_id,
                    "closed_until": closed_until.isoformat(),
                },
            )


async def _adjust(
    transaction: AsyncConnection, tenant: str, events: Sequence[IncomingEvent]
) -> None:
    """Count anew wherever one of the events counts or counted."""
    meters = MeterSet(await load_versions(transaction, tenant))
    places = {(each.series, each.start) for event in events for each in roll_up([event], meters)}
    ids = await series_ids(transaction, tenant, sorted({series for series, _ in places}))
    await recount(
        transaction,
        tenant,
        [
            Recount(meters.meter_of(series), series, ids[series], start)
            for series, start in sorted(places)
        ],
    )


def _key(event_id: str, source: str, number: str) -> RevisionKey:
    return event_id, source, bounded(number)


def _texts(revision: Revision) -> tuple[str, ...]:
    return revision.event.event_id, revision.event.source, str(revision.number)
