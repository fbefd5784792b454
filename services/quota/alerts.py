"""Writes an alert once when a threshold is crossed, beside the way of decisions.

What the figures of answers show is noted in memory, and written to the outbox some times a second;
its key makes each alert exist once, however many replicas saw it. Refuses to hold more than so many
that are not written: those, and whatever was lost with this process, are seen again at the next
booking.
"""

import asyncio
from collections import OrderedDict, defaultdict
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from kit.clock import Clock
from kit.ending import end
from kit.errors import DomainError
from kit.postgres import Database
from kit.telemetry import get_logger
from services.quota import store
from services.quota.counters import Answer, Root
from services.quota.crossings import Crossing, crossed
from services.quota.model import Outcome

PAUSE_S = 0.2
UNWRITTEN_MAX = 10_000

_FAULTS = (OSError, DomainError, SQLAlchemyError)
_KNOWN_MAX = 200_000
_FIGURES = 3
_FIGURES_WITH_WAIT = 4
# Plain numbers, since looking up a member of an enumeration takes a while.
_WITH_WAIT = frozenset(map(int, (Outcome.EXCEEDING, Outcome.DENIED, Outcome.PARTIAL)))

Key = tuple[Root, str, str, int, int]
"""A customer, the limit, whose counter, its window, and the threshold."""


class Alerts:
    """One for each replica."""

    def __init__(self, database: Database, clock: Clock, *, pause_s: float = PAUSE_S) -> None:
        self._database = database
        self._clock = clock
        self._pause_s = pause_s
        self._unwritten: dict[Key, Crossing] = {}
        self._known: OrderedDict[Key, None] = OrderedDict()
        self._writing: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Begin to write."""
        self._writing = asyncio.create_task(self._write_forever())

    async def close(self) -> None:
        """Write what was seen last, and stop."""
        if self._writing is None:
            return
        await end(self._writing)
        with suppress(*_FAULTS):
            await self.write()

    def see(self, root: Root, answer: Answer) -> None:
        """Note the thresholds that an answer shows as reached, unless they are known."""
        if answer.outcome >= Outcome.DEGRADED_ALLOWED:
            # Nothing is known of what is used.
            return
        width = _FIGURES_WITH_WAIT if answer.outcome in _WITH_WAIT else _FIGURES
        if len(answer.figures) < width * len(answer.coverage.limits):
            # What was answered without the counters shows nothing that is used.
            return
        watched = answer.coverage.watched
        for crossing in crossed(watched, answer.figures, width=width, now_ms=answer.now_ms):
            key = (root, *crossing[:4])
            if key in self._known or key in self._unwritten:
                continue
            if len(self._unwritten) < UNWRITTEN_MAX:
                self._unwritten[key] = crossing

    async def write(self) -> None:
        """Write what was noted.

        Raises:
            OSError, DomainError, SQLAlchemyError: PostgreSQL does not answer, or refuses; what was
                noted is kept.
        """
        by_tenant = defaultdict[str, dict[Key, Crossing]](dict)
        for key, crossing in self._unwritten.items():
            by_tenant[key[0].tenant][key] = crossing
        now = self._clock.now()
        for tenant, some in by_tenant.items():
            rows = [(key[0].customer, crossing) for key, crossing in some.items()]
            async with self._database.transaction(tenant) as transaction:
                await store.save_alerts(transaction, tenant, rows, now)
            for key in some:
                del self._unwritten[key]
                self._known[key] = None
            while len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)

    async def _write_forever(self) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(self._pause_s)
            if not self._unwritten:
                continue
            try:
                await self.write()
                is_failing = False
            except _FAULTS as error:
                if not is_failing:
                    get_logger().warning("alerts.unwritten", cause=type(error).__name__)
                is_failing = True
