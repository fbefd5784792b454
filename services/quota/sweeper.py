"""Ends holds at their expiry although their customers never call again.

Every replica looks several times a second at whose holds are due, whoever made them. Beside that
it walks slowly over all keys, to find holds that the index misses. Refuses to decide anything: an
empty batch makes the script end what is due.
"""

import asyncio
from collections.abc import Sequence

from kit.ending import end
from kit.errors import DomainError
from kit.telemetry import get_logger
from services.quota.counters import LOST, Batch, Counters, Decided, Root
from services.quota.expiry_index import TAKEN_MAX, ExpiryIndex
from services.quota.redis_link import Link

PAUSE_S = 0.25

_START = b"0"


class Sweeper:
    """One for each replica; it works from `connect` to `close`."""

    def __init__(
        self, link: Link, index: ExpiryIndex, counters: Counters, *, pause_s: float = PAUSE_S
    ) -> None:
        self._link = link
        self._index = index
        self._counters = counters
        self._pause_s = pause_s
        self._cursors: dict[str, bytes] = {}
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def connect(self) -> None:
        """Begin to sweep and to walk."""
        self._tasks = (
            asyncio.create_task(self._sweep_forever()),
            asyncio.create_task(self._walk_forever()),
        )

    async def close(self) -> None:
        """Stop; another replica goes on."""
        await end(*self._tasks)

    async def sweep(self) -> None:
        """End every hold that is due now.

        Raises:
            OSError: Redis does not answer.
        """
        while names := await self._index.take():
            done, foreign = await self._end_due(names)
            await self._index.finish(done)
            await self._index.drop(foreign)
            if len(done) + len(foreign) < len(names) or len(names) < TAKEN_MAX:
                return

    async def _end_due(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Let the script end what is due, as often as there is more; name whose holds it ended.

        And name of whom nothing is kept in this epoch: whose counters were lost, and those of
        another installation. Whoever rebuilds the former notes their holds anew.
        """
        waiting = [Batch(Root(*name.split("/", 1)), ()) for name in names]
        done, foreign = [], []
        while waiting:
            more = []
            for batch, result in zip(waiting, await self._counters.decide(waiting), strict=True):
                if isinstance(result, Decided) and result.more_is_due:
                    more.append(batch)
                elif isinstance(result, Decided):
                    done.append("/".join(batch.root))
                elif result is LOST:
                    foreign.append("/".join(batch.root))
            waiting = more
        return done, foreign

    async def _walk(self) -> bool:
        """Take one step on every node; tell whether all of them were at the end."""
        is_over = True
        for node in await self._link.nodes():
            cursor = await self._index.walk(node, self._cursors.get(node.name, _START))
            self._cursors[node.name] = cursor
            is_over = is_over and cursor == _START
        return is_over

    async def _sweep_forever(self) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self.sweep()
                is_failing = False
            except (OSError, DomainError) as error:
                if not is_failing:
                    get_logger().warning("holds.unswept", cause=type(error).__name__)
                is_failing = True

    async def _walk_forever(self) -> None:
        is_first = True
        while True:
            # At the start holds may be due that nobody noted, so the first walk does not wait.
            await asyncio.sleep(0 if is_first else self._pause_s)
            try:
                if await self._walk():
                    is_first = False
            except (OSError, DomainError):
                # The sweeping says that Redis is away.
                await asyncio.sleep(self._pause_s)
