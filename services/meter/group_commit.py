"""Lets calls that arrive together share one transaction, each getting its own answer.

While a transaction of a tenant runs, its next calls gather for the following one, and so do those
that are being read when it could begin: the busier it is, the more they share a commit. It refuses
more than a bounded number of waiting items, rather than let memory grow.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Generic, TypeVar, cast

from kit.errors import Exhausted
from kit.gathering import Gathering

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# One caller alone waits for less than a tenth of a millisecond. A transaction costs more than those
# who come back from the last one wait for each other.
_QUIET_TURNS_ALONE = 8
_QUIET_TURNS = 80
# So many share a transaction at little more than the least cost for each. With all of them nothing
# would be left to read and to answer while it runs.
_ENOUGH_CALLS = 40
_RETRY_AFTER = timedelta(seconds=1)


def overloaded() -> Exhausted:
    """Make the error of a caller for whose events there is no room."""
    return Exhausted(
        "OVERLOADED",
        "too many events wait to be stored; try again later",
        retry_after=_RETRY_AFTER,
    )


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """How much is shared, and how much may wait.

    `tenant_transactions_max` and `transactions_max` run at once; a transaction takes calls until
    it has `transaction_items`; `items_max` may wait and run together. Beside a transaction of the
    tenant that runs another one begins only for `parallel_items` that wait: fewer are better off
    sharing the next one, as a transaction costs more than they do.
    """

    tenant_transactions_max: int
    transactions_max: int
    transaction_items: int
    items_max: int
    parallel_items: int = 1


class GroupCommit(Generic[Item, Answer]):
    """Runs `store` once for many calls; it answers one answer for each item, in order."""

    def __init__(
        self,
        store: Callable[[str, Sequence[Item]], Awaitable[Sequence[Answer]]],
        limits: GroupLimits,
    ) -> None:
        self._store = store
        self._limits = limits
        self._transactions = asyncio.Semaphore(limits.transactions_max)
        self._queues: dict[str, _Queue[Item, Answer]] = {}
        self._items = 0
        self._freed = asyncio.Event()

    async def submit(
        self, tenant: str, items: Sequence[Item], *, waits: bool = False
    ) -> Sequence[Answer]:
        """Store items together with those of other calls; answers once they are committed.

        Raises:
            Exhausted: OVERLOADED, too much waits already; never for a caller that `waits` until
                there is room.
        """
        if waits:
            await self.wait_for_room(len(items))
        elif not self._has_room(len(items)):
            raise overloaded()
        queue = self._queues.setdefault(tenant, _Queue())
        call: _Call[Item, Answer] = _Call(items, asyncio.get_running_loop().create_future())
        queue.calls.append(call)
        queue.items += len(items)
        self._items += len(items)
        if len(queue.tasks) < self._limits.tenant_transactions_max and self._has_work(
            queue, beside=len(queue.tasks)
        ):
            queue.tasks.add(asyncio.create_task(self._run(tenant, queue)))
        return await call.answers

    async def wait_for_room(self, count: int) -> None:
        """Return once so many items could be submitted."""
        while not self._has_room(count):
            self._freed.clear()
            await self._freed.wait()

    async def connect(self) -> None:
        """Nothing is opened before there are calls."""

    async def close(self) -> None:
        """Wait for what runs, even where its callers have gone."""
        tasks = [task for queue in self._queues.values() for task in queue.tasks]
        await asyncio.gather(*tasks)

    def _has_room(self, count: int) -> bool:
        return not self._items or self._items + count <= self._limits.items_max

    async def _run(self, tenant: str, queue: "_Queue[Item, Answer]") -> None:
        # This task is one of them.
        while self._has_work(queue, beside=len(queue.tasks) - 1):
            async with self._transactions:
                await self._gather(queue)
                calls = self._take(queue)
                try:
                    await self._store_together(tenant, calls)
                finally:
                    self._items -= sum(len(call.items) for call in calls)
                    self._freed.set()
        queue.tasks.remove(cast("asyncio.Task[None]", asyncio.current_task()))
        if not queue.tasks:
            del self._queues[tenant]

    async def _gather(self, queue: "_Queue[Item, Answer]") -> None:
        """Let calls that are being read join, as long as the turns of the loop bring some."""
        while queue.items < self._limits.parallel_items:
            if not queue.gathering.may_grow(len(queue.calls)):
                return
            await asyncio.sleep(0)

    def _has_work(self, queue: "_Queue[Item, Answer]", beside: int) -> bool:
        """Tell whether what waits deserves a transaction beside so many that run."""
        return queue.items >= (self._limits.parallel_items if beside else 1)

    def _take(self, queue: "_Queue[Item, Answer]") -> "list[_Call[Item, Answer]]":
        calls = [queue.calls.popleft()] if queue.calls else []
        count = sum(len(call.items) for call in calls)
        while queue.calls and count + len(queue.calls[0].items) <= self._limits.transaction_items:
            calls.append(queue.calls.popleft())
            count += len(calls[-1].items)
        queue.items -= count
        queue.gathering.begin(len(calls))
        return calls

    async def _store_together(self, tenant: str, calls: "list[_Call[Item, Answer]]") -> None:
        wanted = [call for call in calls if not call.answers.done()]
        if not wanted:
            return
        try:
            answers = iter(await self._store(tenant, [i for call in wanted for i in call.items]))
        except Exception as error:  # noqa: BLE001 - passed on to every caller.
            for call in wanted:
                call.fail(error)
            return
        for call in wanted:
            call.succeed(list(islice(answers, len(call.items))))


@dataclass(frozen=True, slots=True)
class _Call(Generic[Item, Answer]):
    items: Sequence[Item]
    answers: asyncio.Future[Sequence[Answer]]

    def succeed(self, answers: Sequence[Answer]) -> None:
        if not self.answers.done():
            self.answers.set_result(answers)

    def fail(self, error: Exception) -> None:
        if not self.answers.done():
            self.answers.set_exception(error)


@dataclass(slots=True)
class _Queue(Generic[Item, Answer]):
    items: int = 0
    calls: deque[_Call[Item, Answer]] = field(default_factory=deque)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    gathering: Gathering = field(
        default_factory=lambda: Gathering(
            enough=_ENOUGH_CALLS,
            quiet_turns=_QUIET_TURNS,
            quiet_turns_alone=_QUIET_TURNS_ALONE,
        )
    )
