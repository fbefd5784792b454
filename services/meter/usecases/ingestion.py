"""Takes events in: stores each identity once and counts it, in one transaction for many calls."""

from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.aggregation import MeterSet, differences, roll_up
from services.meter.group_commit import GroupCommit, GroupLimits
from services.meter.model import Fate, Identity, IncomingEvent, Outcome
from services.meter.store.events import (
    load_events_at,
    load_identities,
    save_events,
)
from services.meter.store.meters import load_versions, lock_for_events
from services.meter.store.rollups import Rollups

LIMITS: Final = GroupLimits(
    tenant_transactions_max=2,
    transactions_max=4,
    transaction_items=20_000,
    items_max=100_000,
    parallel_items=500,
)
_TENANTS_REMEMBERED_MAX: Final = 10_000
_CREATED: Final = Fate(Outcome.CREATED)
_DUPLICATE: Final = Fate(Outcome.DUPLICATE)


class Ingestion:
    """The use case of storing events; to be closed before its database."""

    def __init__(
        self, database: Database, clock: Clock, rollups: Rollups, limits: GroupLimits = LIMITS
    ) -> None:
        self._database = database
        self._clock = clock
        self._rollups = rollups
        self._group_commit = GroupCommit(self._store, limits)
        self._known_meters: dict[str, tuple[int, MeterSet]] = {}

    async def connect(self) -> None:
        """Nothing is opened before there are events."""

    async def close(self) -> None:
        """Wait for the transactions that run."""
        await self._group_commit.close()

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
        accepted = [each for each in parsed if isinstance(each, IncomingEvent)]
        stored = await self._group_commit.submit(tenant, accepted, waits=waits) if accepted else []
        if len(accepted) == len(parsed):
            return stored
        following = iter(stored)
        return [each if isinstance(each, Fate) else next(following) for each in parsed]

    async def _store(self, tenant: str, incoming: Sequence[IncomingEvent]) -> list[Fate]:
        distinct: dict[Identity, IncomingEvent] = {}
        for each in incoming:
            distinct.setdefault(each.identity, each)
        async with self._database.transaction(tenant) as transaction:
            meters = await self._current_meters(transaction, tenant)
            created = await save_events(
                transaction, tenant, list(distinct.values()), self._clock.now()
            )
            new = [each for identity, each in distinct.items() if identity in created]
            rollups = roll_up(new, meters)
            series = await self._rollups.add(transaction, tenant, rollups, meters)
            fates = await _fates(transaction, tenant, incoming, created)
        self._rollups.remember(tenant, series)
        return fates

    async def _current_meters(self, transaction: AsyncConnection, tenant: str) -> MeterSet:
        """Answer the tenant's meters, which then cannot change until the transaction ends."""
        revision = await lock_for_events(transaction, tenant)
        known = self._known_meters.get(tenant)
        if known and known[0] == revision:
            return known[1]
        meters = MeterSet(await load_versions(transaction, tenant) if revision else ())
        if len(self._known_meters) >= _TENANTS_REMEMBERED_MAX:
            self._known_meters.clear()
        self._known_meters[tenant] = (revision, meters)
        return meters


async def _fates(
    transaction: AsyncConnection,
    tenant: str,
    incoming: Sequence[IncomingEvent],
    created: AbstractSet[Identity],
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
        violations = () if same else differences(each.event(), stored[each.identity])
        fates.append(Fate(Outcome.CONFLICT, violations) if violations else _DUPLICATE)
    return fates
