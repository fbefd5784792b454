"""Takes events in: stores each identity once and counts it, in one transaction for many calls.

What is stored and counted is worked out from how the tenant stood when it was last seen; the store
takes it only where that still holds. So the usual transaction is one call of the database.
"""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import Violation
from kit.postgres import Database, raw_connection
from kit.telemetry import traced
from services.meter.aggregation import MeterSet, differences, microseconds, roll_up
from services.meter.group_commit import GroupCommit, GroupLimits
from services.meter.model import Fate, Identity, IncomingEvent, Outcome, UsageEvent
from services.meter.store.closing import load_closed, save_late_events
from services.meter.store.events import (
    IdentityTaken,
    StoredIdentity,
    load_events_at,
    load_identities,
    take_in,
)
from services.meter.store.meters import Standing, lock_for_events
from services.meter.store.rejected import save_rejected
from services.meter.store.rollups import NOTHING_ADDED, Rollups
from services.meter.usecases.known_meters import KnownMeters

LIMITS: Final = GroupLimits(
    tenant_transactions_max=2,
    transactions_max=4,
    transaction_items=20_000,
    items_max=100_000,
    parallel_items=500,
)
_TENANTS_REMEMBERED_MAX: Final = 10_000
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
        self._remembered: dict[str, tuple[Standing, MeterSet]] = {}
        self._repeating: set[str] = set()

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
        firsts: dict[Identity, IncomingEvent] = {}
        for each in incoming:
            firsts.setdefault(each.identity, each)
        # Who repeated events in the last transaction is likely to do so again.
        looks = tenant in self._repeating
        while True:
            known = await self._look_up(tenant, firsts) if looks else {}
            new = firsts
            if known:
                new = {key: each for key, each in firsts.items() if key not in known}
            try:
                taken = await self._take_in(tenant, new, billed=billed) if new else _NOTHING_TAKEN
            except IdentityTaken:
                looks = True
            else:
                break
        (self._repeating.add if known else self._repeating.discard)(tenant)
        if len(taken.created) == len(incoming):
            return [_CREATED] * len(incoming)
        return await self._fates(tenant, incoming, taken, known)

    async def _look_up(
        self, tenant: str, identities: Collection[Identity]
    ) -> Mapping[Identity, StoredIdentity]:
        async with self._database.transaction(tenant) as transaction:
            return await load_identities(transaction, tenant, identities)

    async def _take_in(
        self, tenant: str, new: Mapping[Identity, IncomingEvent], *, billed: bool
    ) -> "_Taken":
        """Store events that are new, by one call if that does, and else step by step."""
        remembered = self._remembered.get(tenant)
        if remembered and not _needs_steps(new.values(), *remembered, billed=billed):
            standing, meters = remembered
            rollups = roll_up(new.values(), meters)
            stands = await take_in(
                partial(self._database.call, tenant),
                tenant,
                standing,
                new.values(),
                additions=await self._rollups.arrange(self._database, tenant, rollups, meters),
                ingest_time=self._clock.now(),
                billed=billed,
            )
            if stands:
                return _Taken(new.keys())
        return await self._take_in_steps(tenant, new, billed=billed)

    async def _take_in_steps(
        self, tenant: str, new: Mapping[Identity, IncomingEvent], *, billed: bool
    ) -> "_Taken":
        """Store events of a tenant whose standing is read first, and what else they ask for."""
        remaining = dict(new)
        now = self._clock.now()
        async with self._database.transaction(tenant) as transaction:
            standing = await lock_for_events(transaction, tenant)
            meters = await self._known_meters.at(transaction, tenant, standing.revision)
            self._remember(tenant, standing, meters)
            late: list[IncomingEvent] = []
            if standing.closed_until and not billed:
                late = await _take_late(transaction, tenant, remaining, standing.closed_until)
            refused: Mapping[Identity, Fate] = {}
            if standing.horizon:
                refused = await _take_uncountable(
                    transaction, tenant, remaining, meters, standing.horizon
                )
            counted = list(remaining.values())
            if counted:
                await take_in(
                    (await raw_connection(transaction)).fetchval,
                    tenant,
                    standing,
                    counted,
                    additions=NOTHING_ADDED,
                    ingest_time=now,
                    billed=billed,
                )
            rollups = roll_up(counted, meters)
            series = await self._rollups.add(transaction, tenant, rollups, meters)
            kept = await save_late_events(transaction, tenant, late, now) if late else set()
        self._rollups.remember(tenant, series)
        return _Taken(remaining.keys(), kept, refused)

    def _remember(self, tenant: str, standing: Standing, meters: MeterSet) -> None:
        if len(self._remembered) >= _TENANTS_REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[tenant] = (standing, meters)

    async def _fates(
        self,
        tenant: str,
        incoming: Sequence[IncomingEvent],
        taken: "_Taken",
        known: Mapping[Identity, StoredIdentity],
    ) -> list[Fate]:
        """Tell what became of each event: the first of an identity made it, others repeat it."""
        made = dict.fromkeys(taken.created, _CREATED) | dict.fromkeys(taken.late, _LATE)
        fates: list[Fate | None] = []
        repeats: list[IncomingEvent] = []
        for each in incoming:
            fate = taken.refused.get(each.identity) or made.pop(each.identity, None)
            fates.append(fate)
            if fate is None:
                repeats.append(each)
        compared = iter(await self._compare(tenant, repeats, known) if repeats else ())
        return [fate or next(compared) for fate in fates]

    async def _compare(
        self,
        tenant: str,
        repeats: Sequence[IncomingEvent],
        known: Mapping[Identity, StoredIdentity],
    ) -> list[Fate]:
        """Tell a duplicate from a conflict: by fingerprint, then by the stored event's fields."""
        unknown = {each.identity for each in repeats} - known.keys()
        if unknown:
            known = {**known, **await self._look_up(tenant, unknown)}
        suspects = {
            each.identity: known[each.identity].time
            for each in repeats
            if each.fingerprint != known[each.identity].fingerprint
        }
        if not suspects:
            return [_DUPLICATE] * len(repeats)
        async with self._database.transaction(tenant) as transaction:
            stored = await load_events_at(
                transaction, tenant, [(time, *identity) for identity, time in suspects.items()]
            )
        fates = []
        for each in repeats:
            same = each.fingerprint == known[each.identity].fingerprint
            violations = () if same else _differences(each, stored.get(each.identity))
            fates.append(Fate(Outcome.CONFLICT, violations) if violations else _DUPLICATE)
        return fates


class _Taken(NamedTuple):
    """What became of new events: which were made, which came late, and why others were refused."""

    created: AbstractSet[Identity] = frozenset()
    late: AbstractSet[Identity] = frozenset()
    refused: Mapping[Identity, Fate] = {}


_NOTHING_TAKEN: Final = _Taken()


def _needs_steps(
    new: Collection[IncomingEvent], standing: Standing, meters: MeterSet, *, billed: bool
) -> bool:
    """Tell whether more has to be known of events than how the tenant stands."""
    if standing.closed_until and not billed:
        bound_us = microseconds(standing.closed_until)
        if any(each.time_us < bound_us for each in new):
            return True
    types = meters.types_with_moments
    return bool(types) and any(each.type in types for each in new)


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


def _differences(sent: IncomingEvent, stored: UsageEvent | None) -> tuple[Violation, ...]:
    if stored is None:
        description = "was taken with other content, which is no longer kept"
        return (Violation("event_id", description),)
    return differences(sent.event(), stored)
