"""Gathers what arrives at the same time, so that Redis is asked once for each customer.

There is no timer: operations wait only until the event loop has read what else has arrived, and
while their customer's batch before is with Redis. So a lone call goes at once, and batches grow by
themselves under load. Operations of one customer are decided in the order in which they came.
Refuses to let more than `waiting_max` operations wait.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

from kit.errors import DomainError
from services.quota.counters import (
    Answer,
    Batch,
    Counters,
    FoundHold,
    Operation,
    Root,
    unavailable,
)
from services.quota.coverage import NOTHING, Coverage
from services.quota.model import Amounts, Dimensions, Kind, Subject

OPERATIONS_PER_BATCH_MAX = 256
COUNTERS_PER_BATCH_MAX = 2048
WAITING_MAX = 100_000

Deliver = Callable[[Answer | Exception], None]
Cover = Callable[[str, Subject, Dimensions], Coverage]
"""Finds what covers a call of a tenant."""


class CommitOfHold(NamedTuple):
    """A commit of which only its hold says whose call it was."""

    request_id: str
    fingerprint: bytes
    hold: str
    amounts: Amounts


class _Waiting(NamedTuple):
    """What is to be decided, and who is to be told the answer."""

    asked: Operation | CommitOfHold
    deliver: Deliver


class _Queue:
    """What waits for one customer; it exists while anything waits or is with Redis."""

    __slots__ = ("root", "waiting")

    def __init__(self, root: Root) -> None:
        self.root = root
        self.waiting: deque[_Waiting] = deque()

    def take(self) -> list[_Waiting]:
        """Take what one script call decides without keeping Redis busy for long."""
        taken: list[_Waiting] = []
        counters_count = 0
        while self.waiting and len(taken) < OPERATIONS_PER_BATCH_MAX:
            asked = self.waiting[0].asked
            if isinstance(asked, Operation):
                counters_count += len(asked.coverage.limits)
            if taken and counters_count > COUNTERS_PER_BATCH_MAX:
                break
            taken.append(self.waiting.popleft())
        return taken


class Batcher:
    """One for the service: unary calls and all sessions share it.

    Args:
        cover: Finds what covers the call of a hold, once the hold was found.
    """

    def __init__(self, counters: Counters, cover: Cover, *, waiting_max: int = WAITING_MAX) -> None:
        self._counters = counters
        self._cover = cover
        self._waiting_max = waiting_max
        self._waiting_count = 0
        self._queues: dict[Root, _Queue] = {}
        self._serving: set[asyncio.Task[None]] = set()

    async def connect(self) -> None:
        """Nothing to open; the first operation starts the work."""

    async def close(self) -> None:
        """Return once everything that waits has been answered."""
        while self._serving:
            await asyncio.wait(self._serving)

    def submit(self, root: Root, asked: Operation | CommitOfHold, deliver: Deliver) -> None:
        """Have an operation decided; `deliver` is told the answer, or why there is none."""
        if self._waiting_count >= self._waiting_max:
            deliver(unavailable())
            return
        self._waiting_count += 1
        queue = self._queues.get(root)
        if queue is None:
            queue = self._queues[root] = _Queue(root)
            serving = asyncio.create_task(self._serve(queue))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)
        queue.waiting.append(_Waiting(asked, deliver))

    async def decide(self, root: Root, asked: Operation | CommitOfHold) -> Answer:
        """Have an operation decided, and wait for the answer; raise why there is none."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def deliver(answer: Answer | Exception) -> None:
            if future.done():
                return
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

        self.submit(root, asked, deliver)
        return await future

    async def _serve(self, queue: _Queue) -> None:
        """Decide what waits for a customer, batch after batch, until nothing does."""
        more_is_due = False
        while queue.waiting or more_is_due:
            taken = queue.take()
            self._waiting_count -= len(taken)
            answers: Sequence[Answer | Exception]
            try:
                taken = await self._resolve(queue.root, taken)
                operations = [cast("Operation", waiting.asked) for waiting in taken]
                answers, more_is_due = await self._counters.decide(Batch(queue.root, operations))
            except Exception as error:  # noqa: BLE001 - told to every caller that waits for it.
                answers, more_is_due = [error] * len(taken), False
            for waiting, answer in zip(taken, answers, strict=True):
                waiting.deliver(answer)
        del self._queues[queue.root]

    async def _resolve(self, root: Root, taken: list[_Waiting]) -> list[_Waiting]:
        """Find the holds that commits name instead of a subject."""
        wanted = [
            waiting.asked.hold for waiting in taken if isinstance(waiting.asked, CommitOfHold)
        ]
        if not wanted:
            return taken
        found = await self._counters.find_holds(root, wanted)
        calls = dict(zip(wanted, found, strict=True))
        resolved = [self._resolved(root, waiting, calls) for waiting in taken]
        return [waiting for waiting in resolved if waiting is not None]

    def _resolved(
        self, root: Root, waiting: _Waiting, calls: Mapping[str, FoundHold | None]
    ) -> _Waiting | None:
        asked = waiting.asked
        if not isinstance(asked, CommitOfHold):
            return waiting
        call = calls[asked.hold]
        try:
            coverage = self._cover(root.tenant, *call) if call else NOTHING
        except DomainError as error:
            waiting.deliver(error)
            return None
        operation = Operation(
            Kind.COMMIT,
            coverage,
            asked.request_id,
            asked.fingerprint,
            asked.hold,
            int(call is not None),
            coverage.sums(asked.amounts),
        )
        return _Waiting(operation, waiting.deliver)
