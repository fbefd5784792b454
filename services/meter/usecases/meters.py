"""Puts meters, counting the events that are stored already, and answers what they are."""

from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import NotFound
from kit.idempotency import Answer, Once
from kit.interval import Interval
from kit.paging import Page
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.aggregation import changes_what_counts, with_names
from services.meter.model import EPOCH, Meter, MeterState, Span
from services.meter.store.backfilling import NOTHING_COUNTED, customers_since, oldest_event
from services.meter.store.meters import (
    load_meter,
    load_meters,
    load_versions,
    lock_for_meters,
    save_meter,
)
from services.meter.store.recounting import Recount, recount, stored_series
from services.meter.usecases.backfill import Backfill
from services.meter.usecases.pages import page_of, read_page_token
from services.meter.windows import start_of_quarter

_LISTING: Final = "meters"
_PERCENT: Final = 100


class Meters:
    """The use cases of defining meters."""

    def __init__(self, database: Database, backfill: Backfill, clock: Clock) -> None:
        self._database = database
        self._backfill = backfill
        self._clock = clock

    @traced("meter.put_meter")
    async def put_meter(self, tenant: str, meter: Meter, once: Once[MeterState, Answer]) -> Answer:
        """Put a meter, counting what is stored; of one that exists, make a new version.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            Precondition: METER_IMMUTABLE.
        """
        behind: list[Meter] = []

        async def put() -> MeterState:
            state = await self._put(transaction, tenant, meter)
            behind.extend([state.meter] if state.meter.counted_from else [])
            return state

        async with self._database.transaction(tenant) as transaction:
            answer = await once.run(transaction, tenant, put)
        if behind:
            self._backfill.go_on(tenant)
        return answer

    async def _put(self, transaction: AsyncConnection, tenant: str, meter: Meter) -> MeterState:
        await lock_for_meters(transaction)
        stored = await load_meter(transaction, tenant, meter.meter_id)
        named = with_names(meter)
        if stored is None:
            named = replace(named, counted_from=NOTHING_COUNTED)
        elif changes_what_counts(stored, named):
            await self._end(transaction, tenant, stored, meter.create_time)
            named = replace(
                named,
                version=stored.version + 1,
                create_time=stored.create_time,
                effective_time=meter.create_time,
                counted_from=NOTHING_COUNTED,
            )
        else:
            named = replace(stored, display_name=named.display_name, unit=named.unit)
        await save_meter(transaction, tenant, named)
        named = await self._backfill.advance(transaction, tenant, named)
        return await self._state(transaction, tenant, named)

    async def _end(
        self, transaction: AsyncConnection, tenant: str, meter: Meter, end_time: datetime
    ) -> None:
        """End a version; what it has counted of a time after its end it gives back."""
        ended = replace(meter, end_time=end_time)
        await save_meter(transaction, tenant, ended)
        begin = start_of_quarter(end_time)
        customers = await customers_since(transaction, tenant, meter, begin)
        after = Interval(begin, NOTHING_COUNTED)
        wanted = [
            Recount(ended, series, series_id, quarter)
            for series, series_id, quarter in await stored_series(
                transaction,
                tenant,
                meter,
                customer_ids=customers,
                span=Span.QUARTER,
                interval=after,
            )
        ]
        await recount(transaction, tenant, wanted)

    @traced("meter.get_meter")
    async def get_meter(self, tenant: str, meter_id: str) -> MeterState:
        """Answer one meter.

        Raises:
            NotFound: METER_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            versions = await existing_versions(transaction, tenant, meter_id)
            state = await self._state(transaction, tenant, versions[-1])
        if state.meter.counted_from:
            self._backfill.go_on(tenant)
        return state

    @traced("meter.list_meters")
    async def list_meters(self, tenant: str, size: int, page_token: str) -> Page[MeterState]:
        """List meters, ordered by id.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        after = read_page_token(page_token, _LISTING, lambda meter_id: meter_id) or ""
        async with self._database.transaction(tenant) as transaction:
            found = await load_meters(transaction, tenant, after=after, limit=size + 1)
            states = [await self._state(transaction, tenant, meter) for meter in found]
        return page_of(states, size, _LISTING, lambda state: (state.meter.meter_id,))

    async def _state(self, transaction: AsyncConnection, tenant: str, meter: Meter) -> MeterState:
        if meter.counted_from is None:
            return MeterState(meter, _PERCENT)
        now = self._clock.now()
        oldest = await oldest_event(transaction, tenant, meter) or EPOCH
        counted, whole = now - min(meter.counted_from, now), now - min(oldest, now)
        return MeterState(meter, min(_PERCENT * counted // whole, 99) if whole else 0)


async def existing_versions(
    transaction: AsyncConnection, tenant: str, meter_id: str
) -> tuple[Meter, ...]:
    """Load the versions of a meter that must exist, the newest last.

    Raises:
        NotFound: METER_NOT_FOUND.
    """
    versions = await load_versions(transaction, tenant, meter_id)
    if not versions:
        raise meter_not_found(meter_id)
    return versions


def meter_not_found(meter_id: str) -> NotFound:
    """Make the error for a meter that there is not."""
    return NotFound(
        "METER_NOT_FOUND", f"there is no meter {meter_id}", metadata={"meter_id": meter_id}
    )
