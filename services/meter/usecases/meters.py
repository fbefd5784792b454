"""Puts meters, counting the events that are stored already, and answers what they are."""

from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import NotFound
from kit.idempotency import Answer, Once
from kit.paging import Page
from kit.postgres import Database
from kit.telemetry import traced
from services.meter.aggregation import check_change, with_names
from services.meter.model import Meter
from services.meter.store.meters import load_meter, load_meters, lock_for_meters, save_meter
from services.meter.store.rollups import Rollups, count_stored_events
from services.meter.usecases.pages import page_of, read_page_token

_LISTING: Final = "meters"


class Meters:
    """The use cases of defining meters."""

    def __init__(self, database: Database, rollups: Rollups) -> None:
        self._database = database
        self._rollups = rollups

    @traced("meter.put_meter")
    async def put_meter(self, tenant: str, meter: Meter, once: Once[Meter, Answer]) -> Answer:
        """Put a meter, counting what is stored; of one that exists, change the names only.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            Precondition: METER_IMMUTABLE.
        """
        async with self._database.transaction(tenant) as transaction:
            return await once.run(
                transaction, tenant, lambda: self._put(transaction, tenant, meter)
            )

    async def _put(self, transaction: AsyncConnection, tenant: str, meter: Meter) -> Meter:
        await lock_for_meters(transaction)
        stored = await load_meter(transaction, tenant, meter.meter_id)
        named = with_names(meter)
        if stored:
            check_change(stored, named)
            named = replace(named, create_time=stored.create_time)
            await save_meter(transaction, tenant, named)
            return named
        await save_meter(transaction, tenant, named)
        async for rollups in count_stored_events(transaction, tenant, named):
            await self._rollups.add(transaction, tenant, rollups)
        return named

    @traced("meter.get_meter")
    async def get_meter(self, tenant: str, meter_id: str) -> Meter:
        """Answer one meter.

        Raises:
            NotFound: METER_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            return await existing_meter(transaction, tenant, meter_id)

    @traced("meter.list_meters")
    async def list_meters(self, tenant: str, size: int, page_token: str) -> Page[Meter]:
        """List meters, ordered by id.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        after = read_page_token(page_token, _LISTING, lambda meter_id: meter_id) or ""
        async with self._database.transaction(tenant) as transaction:
            found = await load_meters(transaction, tenant, after=after, limit=size + 1)
        return page_of(found, size, _LISTING, lambda meter: (meter.meter_id,))


async def existing_meter(transaction: AsyncConnection, tenant: str, meter_id: str) -> Meter:
    """Load a meter that must exist.

    Raises:
        NotFound: METER_NOT_FOUND.
    """
    meter = await load_meter(transaction, tenant, meter_id)
    if meter is None:
        raise NotFound(
            "METER_NOT_FOUND", f"there is no meter {meter_id}", metadata={"meter_id": meter_id}
        )
    return meter
