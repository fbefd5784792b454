"""Takes events in: stores each identity once and counts it, in one transaction for many calls."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import Violation
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.aggregation import MeterSet, differences, microseconds, roll_up
from services.meter.group_commit import GroupCommit, GroupLimits
from services.meter.model import Fate, Identity, IncomingEvent, Outcome, UsageEvent
from services.meter.store.closing import load_closed, save_late_events
from services.meter.store.events import (
    load_events_at,
    load_identities,
    save_events,
)
from services.meter.store.meters import lock_for_events
from services.meter.store.rejected import save_rejected
from services.meter.store.rollups import Rollups
from services.meter.usecases.known_meters import KnownMeters

LIMITS: Final = GroupLimits(
    tenant_transactions_max=2,
    transactions_max=4,
    transaction_items=20_000,
    items_max=100_000,
    parallel_items=500,
)
_CREATED: Final = Fate(Outcome.CREATED)
_LATE: Final = Fate(Outcome.CREATED, late=True)
_DUPLICATE: Final = Fate(Outcome.DUPLICATE)


class Ingestion:
    """The use case of storing events; to be closed before its database."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        rollups: Rollups,
        known_meters: KnownMeters,
        limits: GroupLimits = LIMITS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._rollups = rollups
        self._group_commit = GroupCommit(self._store, limits)
        self._imports = GroupCommit(self._store_billed, limits)
        self._known_meters = known_meters

    async def connect(self) -> None:
        """Nothing is opened before there are events."""

    async def close(self) -> None:
        """Wait for the transactions that run."""
        await self._group_commit.close()
        await self._imports.close()

    async def wait_for_room(self, count: int) -> None:
        """Return once so many events could be stored without waiting for others."""
        await self._group_commit.wait_for_room(count)

    @traced("meter.ingest_events")
    async def ingest_events(
        self, tenant: str, parsed: Sequence[IncomingEvent | Fate], *, waits: bool = False
    ) -> Sequence[Fate]:
        """Store and count events, each identity once; what is rejected already stays so.

        Raises:
            Exhausted: OVERLOADED; never for a caller that `waits` until there is room.
        """
        return await self._ingest(self._group_commit, tenant, parsed, waits=waits)

    @traced("meter.import_usage")
    async def import_usage(
        self, tenant: str, parsed: Sequence[IncomingEvent | Fate]
    ) -> Sequence[Fate]:
        """Store history that was billed elsewhere, each identity once.

        Raises:
            Exhausted: OVERLOADED.
        """
        billed = [
            each._replace(billed=True) if isinstance(each, IncomingEvent) else each
            for each in parsed
        ]
        return await self._ingest(self._imports, tenant, billed, waits=False)

    async def _ingest(
        self,
        group_commit: GroupCommit[IncomingEvent, Fate],
        tenant: str,
        parsed: Sequence[IncomingEvent | Fate],
        *,
        waits: bool,
    ) -> Sequence[Fate]:
        accepted = [each for each in parsed if isinstance(each, IncomingEvent)]
        stored = await group_commit.submit(tenant, accepted, waits=waits) if accepted else []
        if len(accepted) == len(parsed):
            return stored
        rejected = [each for each in parsed if isinstance(each, Fate) and each.payload]
        if rejected:
            async with self._database.transaction(tenant) as transaction:
                await save_rejected(transaction, tenant, rejected, self._clock.now())
        following = iter(stored)
        return [each if isinstance(each, Fate) else next(following) for each in parsed]

    async def _store_billed(self, tenant: str, incoming: Sequence[IncomingEvent]) -> list[Fate]:
        return await self._store(tenant, incoming, billed=True)

    async def _store(
        self, tenant: str, incoming: Sequence[IncomingEvent], *, billed: bool = False
    ) -> list[Fate]:
        distinct: dict[Identity, IncomingEvent] = {}
        for each in incoming:
            distinct.setdefault(each.identity, each)
        now = self._clock.now()
        async with self._database.transaction(tenant) as transaction:
            standing = await lock_for_events(transaction, tenant)
            meters = await self._known_meters.at(transaction, tenant, standing.revision)
            late: list[IncomingEvent] = []
            if standing.closed_until and not billed:
                late = await _take_late(transaction, tenant, distinct, standing.closed_until)
            refused: Mapping[Identity, Fate] = {}
            if standing.horizon:
                refused = await _take_uncountable(
                    transaction, tenant, distinct, meters, standing.horizon
                )
            new = list(distinct.values())
            created = await save_events(transaction, tenant, new, now, billed=billed)
            if len(created) < len(new):
                new = [each for each in new if each.identity in created]
            rollups = roll_up(new, meters)
            series = await self._rollups.add(transaction, tenant, rollups, meters)
            kept = await save_late_events(transaction, tenant, late, now) if late else set()
            fates = await _fates(transaction, tenant, incoming, created | kept, refused)
        self._rollups.remember(tenant, series)
        if kept:
            return [
                _LATE if fate is _CREATED and each.identity in kept else fate
                for each, fate in zip(incoming, fates, strict=True)
            ]
        return fates


async def _take_late(
    transaction: AsyncConnection,
    tenant: str,
    distinct: dict[Identity, IncomingEvent],
    closed_until: datetime,
) -> list[IncomingEvent]:
    """Take out the events of closed periods."""
    bound_us = microseconds(closed_until)
    early = [each for each in distinct.values() if each.time_us < bound_us]
    if not early:
        return []
    ends = await load_closed(transaction, tenant, {each.customer_id for each in early})
    ends_us = {customer_id: microseconds(end) for customer_id, end in ends.items()}
    late = [each for each in early if each.time_us < ends_us.get(each.customer_id, 0)]
    for each in late:
        del distinct[each.identity]
    return late


async def _take_uncountable(
    transaction: AsyncConnection,
    tenant: str,
    distinct: dict[Identity, IncomingEvent],
    meters: MeterSet,
    horizon: datetime,
) -> dict[Identity, Fate]:
    """Take out levels of a time whose events are gone, unless they were stored before.

    A level that comes between others is counted with the events beside it.
    """
    bound_us = microseconds(horizon)
    early = {
        each.identity
        for each in distinct.values()
        if each.time_us < bound_us and meters.weighs(each)
    }
    if not early:
        return {}
    refused = early - (await load_identities(transaction, tenant, early)).keys()
    description = (
        f"must not be before {horizon.isoformat()}, since a meter follows levels of this type"
        " and needs the events beside it, which are no longer kept"
    )
    for identity in refused:
        del distinct[identity]
    return dict.fromkeys(refused, Fate(Outcome.REJECTED, (Violation("time", description),)))


async def _fates(
    transaction: AsyncConnection,
    tenant: str,
    incoming: Sequence[IncomingEvent],
    created: AbstractSet[Identity],
    refused: Mapping[Identity, Fate],
) -> list[Fate]:
    """Tell what became of each event: the first of a created identity made it, others repeat it."""
    fates = [_CREATED] * len(incoming)
    if len(created) == len(incoming):
        return fates
    unclaimed = set(created)
    repeats: dict[int, IncomingEvent] = {}
    for position, each in enumerate(incoming):
        if each.identity in unclaimed:
            unclaimed.remove(each.identity)
        elif each.identity in refused:
            fates[position] = refused[each.identity]
        else:
            repeats[position] = each
    compared = await _compare(transaction, tenant, repeats.values())
    for position, fate in zip(repeats, compared, strict=True):
        fates[position] = fate
    return fates


async def _compare(
    transaction: AsyncConnection, tenant: str, repeats: Collection[IncomingEvent]
) -> list[Fate]:
    """Tell a duplicate from a conflict: by fingerprint, then by the stored event's fields."""
    if not repeats:
        return []
    known = await load_identities(transaction, tenant, {each.identity for each in repeats})
    suspects = {
        each.identity: known[each.identity].time
        for each in repeats
        if each.fingerprint != known[each.identity].fingerprint
    }
    if not suspects:
        return [_DUPLICATE] * len(repeats)
    stored = await load_events_at(
        transaction, tenant, [(time, *identity) for identity, time in suspects.items()]
    )
    fates = []
    for each in repeats:
        same = each.fingerprint == known[each.identity].fingerprint
        violations = () if same else _differences(each, stored.get(each.identity))
        fates.append(Fate(Outcome.CONFLICT, violations) if violations else _DUPLICATE)
    return fates


def _differences(sent: IncomingEvent, stored: UsageEvent | None) -> tuple[Violation, ...]:
    if stored is None:
        description = "was taken with other content, which is no longer kept"
        return (Violation("event_id", description),)
    return differences(sent.event(), stored)
