"""Verifies usage: counts every meter anew from the events, a day after the other."""

from collections.abc import AsyncGenerator
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.postgres import Database
from services.meter.aggregation import MeterSet
from services.meter.store.meters import load_versions, lock_for_meters
from services.meter.store.reading import EventFilter, stream_events
from services.meter.store.retention import load_horizon
from services.meter.store.verifying import load_days, load_kept
from services.meter.verification import Recounting, Verified, compare, customers_of
from services.meter.windows import DAY

_EVENTS_AT_ONCE: Final = 20_000


class Verification:
    """The use case of verifying usage."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def verify(self, tenant: str, interval: Interval) -> AsyncGenerator[Verified, None]:
        """Compare rollups with events, day by day of an interval, as far back as all are kept."""
        async with self._database.transaction(tenant) as transaction:
            horizon = await load_horizon(transaction)
            start = max(interval.start, horizon or interval.start)
            if start >= interval.end:
                return
            days = await load_days(transaction, tenant, Interval(start, interval.end))
        for start in days:
            verified = await self._verify_day(tenant, Interval(start, start + DAY))
            if verified:
                yield verified

    async def _verify_day(self, tenant: str, day: Interval) -> Verified | None:
        async with self._database.transaction(tenant) as transaction:
            verified = await _compare(transaction, tenant, day, ())
        if verified is None or not verified.differences:
            return verified
        # Whoever stored events in between makes what looks like a difference. So those customers
        # are looked at again while nobody stores.
        async with self._database.transaction(tenant) as transaction:
            await lock_for_meters(transaction)
            again = await _compare(transaction, tenant, day, customers_of(verified.differences))
        return verified._replace(differences=again.differences) if again else None


async def _compare(
    transaction: AsyncConnection, tenant: str, day: Interval, customer_ids: tuple[str, ...]
) -> Verified | None:
    """Compare a day; before the horizon there is nothing to compare with."""
    horizon = await load_horizon(transaction)
    if horizon and day.start < horizon:
        return None
    meters = MeterSet(await load_versions(transaction, tenant))
    recounting = Recounting(meters)
    part = []
    chosen = EventFilter(day, customer_ids=customer_ids)
    async for event in stream_events(transaction, tenant, chosen):
        part.append(event)
        if len(part) == _EVENTS_AT_ONCE:
            recounting.add(part)
            part = []
    recounting.add(part)
    kept = await load_kept(transaction, tenant, day, customer_ids)
    counted = recounting.counted()
    differences = compare(kept, counted, meters)
    return Verified(day, recounting.event_count, len(kept.keys() | counted.keys()), differences)
