"""Keeps months of events made ahead, and lets go what is beyond retention.

Every replica looks at it each hour; one at a time takes a step. A step is one transaction, whole
by itself and harmless when it is repeated, so whoever is killed leaves nothing half done: the next
one goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.ending import end
from kit.errors import DomainError
from kit.postgres import Database
from kit.telemetry import get_logger
from services.meter.retention import cut_of, is_over, month_of, months_to_make
from services.meter.store.retention import (
    TRIMMED,
    count_pages,
    drop_month,
    load_partitions,
    load_time,
    load_trimmed_until,
    make_month,
    note_trimmed,
    take_turn,
    trim,
)

_FIRST_PAUSE_S: Final = 60
_PAUSE_S: Final = 3_600
_PAGES_AT_ONCE: Final = 1_000
_CLOCKS_DIFFER_MAX: Final = timedelta(days=1)
# Partitions are everybody's; no tenant has this name.
_NOBODY: Final = ""


@dataclass(frozen=True, slots=True)
class Maintained:
    """What was done, in names of months and numbers of rows; `is_done` where nothing is left."""

    made: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    deleted: int = 0
    is_done: bool = True


@dataclass(slots=True)
class _Done:
    """What was done so far."""

    made: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    deleted: int = 0
    is_all: bool = True


class Retention:
    """The use case of maintenance; it works in the background from `connect` to `close`."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        retention: timedelta,
        *,
        pages_at_once: int = _PAGES_AT_ONCE,
        clocks_differ_max: timedelta = _CLOCKS_DIFFER_MAX,
    ) -> None:
        self._database = database
        self._clock = clock
        self._retention = retention
        self._pages_at_once = pages_at_once
        self._clocks_differ_max = clocks_differ_max
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Begin to look at it each hour."""
        self._task = asyncio.create_task(self._maintain_forever())

    async def close(self) -> None:
        """Stop; another replica goes on."""
        if self._task:
            await end(self._task)

    async def maintain(self) -> Maintained:
        """Make the months to come, drop those beyond retention, delete what else is.

        Nothing is done while another replica is at it, nor where readers of events do not make
        room for a moment; what is left is for the next time. Nor is anything done by a clock that
        PostgreSQL's does not confirm, since what is dropped does not come back.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        done = _Done()
        now = self._clock.now()
        try:
            async with self._step() as transaction:
                difference = abs(await load_time(transaction) - now)
            if difference > self._clocks_differ_max:
                get_logger().error("retention.clocks_differ", days=difference.days)
                return Maintained(is_done=False)
            await self._make_months(months_to_make(now), done)
            cut = cut_of(now, self._retention)
            await self._drop_months(cut, done)
            await self._trim(cut, done)
        except (_OthersTurn, asyncpg.LockNotAvailableError):
            done.is_all = False
        return Maintained(tuple(done.made), tuple(done.dropped), done.deleted, done.is_all)

    async def _make_months(self, months: Sequence[datetime], done: _Done) -> None:
        for month in months:
            async with self._step() as transaction:
                is_made = await make_month(transaction, month)
            done.made += [f"{month:%Y-%m}"] if is_made else []

    async def _drop_months(self, cut: datetime, done: _Done) -> None:
        async with self._step() as transaction:
            months = [month_of(name) for name in await load_partitions(transaction)]
        for month in months:
            if month and is_over(month, cut):
                async with self._step() as transaction:
                    await drop_month(transaction, month)
                done.dropped.append(f"{month:%Y-%m}")

    async def _trim(self, cut: datetime, done: _Done) -> None:
        """Look through everything once, when a month has gone by since the last time."""
        async with self._step() as transaction:
            trimmed_until = await load_trimmed_until(transaction)
        if trimmed_until and trimmed_until >= cut:
            return
        for table in TRIMMED:
            await self._trim_table(table, cut, done)
        async with self._step() as transaction:
            await note_trimmed(transaction, cut)

    async def _trim_table(self, table: str, cut: datetime, done: _Done) -> None:
        async with self._step() as transaction:
            pages = await count_pages(transaction, table)
        first = 0
        while first < pages:
            end = first + self._pages_at_once
            async with self._step() as transaction:
                count = await trim(transaction, table, cut, first_page=first, end_page=end)
            if count is not None:
                done.deleted += count
                first = end

    @asynccontextmanager
    async def _step(self) -> AsyncIterator[AsyncConnection]:
        async with self._database.transaction(_NOBODY) as transaction:
            if not await take_turn(transaction):
                raise _OthersTurn
            yield transaction

    async def _maintain_forever(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _PAUSE_S
            try:
                note(await self.maintain())
            except (DomainError, asyncpg.PostgresError) as error:
                get_logger().warning("retention.failed", cause=type(error).__name__)


def note(maintained: Maintained) -> None:
    """Say what was done, if anything was."""
    if maintained.made or maintained.dropped or maintained.deleted:
        get_logger().info(
            "retention",
            made=maintained.made,
            dropped=maintained.dropped,
            deleted=maintained.deleted,
        )


class _OthersTurn(Exception):
    """Another replica is at a step."""
