"""Lets meters count the events that were stored before them: exactly, and beside the traffic.

A meter counts backwards, a stretch of time after the other. What is stored later and happened in
a stretch that is counted already, is counted by whoever stores it; what happened before, by the
stretch to come. Both exclude each other, so that every event is counted by exactly one of them.
"""

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.postgres import Database
from kit.telemetry import get_logger
from services.meter.aggregation import MeterSet, roll_up
from services.meter.model import EARLIEST_TIME, Aggregation, Meter
from services.meter.store.backfilling import start_of_stretch, stretch_events
from services.meter.store.meters import load_versions, lock_for_meters, save_meter
from services.meter.store.retention import load_horizon
from services.meter.store.rollups import Rollups

STRETCH_EVENTS = 10_000
# Between two stretches events are stored for as long as one took, and a little.
_PAUSE_S: Final = 0.02


class Backfill:
    """The use case of catching up; to be closed before its database."""

    def __init__(self, database: Database, rollups: Rollups) -> None:
        self._database = database
        self._rollups = rollups
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def connect(self) -> None:
        """Nothing is opened before there is a meter that has to catch up."""

    async def close(self) -> None:
        """Stop between two stretches; whoever touches the meter next goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def go_on(self, tenant: str) -> None:
        """Let the tenant's meters catch up in the background, if they do not already."""
        if tenant not in self._tasks:
            self._tasks[tenant] = asyncio.create_task(self._catch_up(tenant))

    async def advance(self, transaction: AsyncConnection, tenant: str, meter: Meter) -> Meter:
        """Count the next stretch; the caller holds the lock for meters."""
        if meter.counted_from is None:
            return meter
        horizon = await load_horizon(transaction)
        start = await start_of_stretch(transaction, tenant, meter, STRETCH_EVENTS)
        if _is_the_rest(meter, start, horizon):
            start = None
        counting = MeterSet([replace(meter, counted_from=start)])
        begin, end = start or horizon or EARLIEST_TIME, meter.counted_from
        async for events in stretch_events(transaction, tenant, meter, begin, end):
            await self._rollups.add(transaction, tenant, roll_up(events, counting), counting)
        exact_from = meter.exact_from if start else _exact_from(meter, horizon)
        advanced = replace(meter, counted_from=start, exact_from=exact_from)
        await save_meter(transaction, tenant, advanced)
        return advanced

    async def _catch_up(self, tenant: str) -> None:
        try:
            while await self._next_stretch(tenant):
                pass
        except Exception:  # noqa: BLE001 - nobody waits; the meter stays, and is said to be, behind.
            get_logger().exception("backfill stopped")
        finally:
            del self._tasks[tenant]

    async def _next_stretch(self, tenant: str) -> bool:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        async with self._database.transaction(tenant) as transaction:
            await lock_for_meters(transaction)
            waiting = [
                meter for meter in await load_versions(transaction, tenant) if meter.counted_from
            ]
            if waiting:
                await self.advance(transaction, tenant, waiting[0])
        await asyncio.sleep(loop.time() - started_s + _PAUSE_S)
        return bool(waiting)


def _exact_from(meter: Meter, horizon: datetime | None) -> datetime | None:
    """Answer from when a version has counted every event; nothing where that is all of its time."""
    if horizon and meter.effective_time and meter.effective_time >= horizon:
        return None
    return horizon


def _is_the_rest(meter: Meter, start: datetime | None, horizon: datetime | None) -> bool:
    """Tell whether nothing that the version can count lies before a stretch."""
    if start and horizon and start <= horizon:
        return True
    if start is None or meter.definition.aggregation is Aggregation.WEIGHTED_SUM:
        return start is None
    return meter.effective_time is not None and start <= meter.effective_time
