"""Amends events and takes them back; usage is adjusted in the same transaction."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import Precondition
from kit.idempotency import Answer, Once
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.aggregation import MeterSet, roll_up
from services.meter.model import (
    Identity,
    IncomingEvent,
    Revision,
    RevisionKind,
    StoredEvent,
    UsageEvent,
)
from services.meter.retention import check_kept
from services.meter.store.closing import load_closed
from services.meter.store.corrections import (
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
from services.meter.usecases.usage import event_not_found


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
    async def get_event(
        self, tenant: str, identity: Identity
    ) -> tuple[StoredEvent | None, Sequence[Revision]]:
        """Answer an event as it counts now, and what it was before.

        Raises:
            NotFound: EVENT_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            stored = await load_event(transaction, tenant, identity)
            revisions = await load_revisions(transaction, tenant, identity)
        if stored is None and not revisions:
            raise event_not_found(identity)
        return stored, revisions

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
