"""Gathers what arrives at the same time, so that Redis is asked once for each customer.

There is no timer: operations wait while their customer's batch before is with Redis, and while
turns of the event loop bring others, if the ones before had company. So a lone call goes at once,
and batches grow by themselves under load. Operations of one customer are decided in the order in
which they came. Refuses to let more than `waiting_max` operations wait.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from kit.errors import DomainError, Unavailable
from kit.gathering import Gathering
from services.quota.counters import (
    Answer,
    Batch,
    Counters,
    Decided,
    LimitsChanged,
    Root,
)
from services.quota.coverage import NOTHING, Coverage, DescribedHold
from services.quota.model import LIMITS_PER_CALL_MAX, Dimensions, ExtendCall, Subject
from services.quota.operations import (
    Asked,
    OfHold,
    Operation,
    commit_operation,
    extend_operation,
)
from services.quota.refusals import unavailable
from services.quota.standby import Standby

OPERATIONS_PER_BATCH_MAX = 256
COUNTERS_PER_BATCH_MAX = 2048
OPERATIONS_PER_ROUND_TRIP_MAX = 1024
WAITING_MAX = 100_000

# Each costs little less when more are decided together.
_ENOUGH = 48
_QUIET_TURNS = 40
_OPERATIONS_ALWAYS_TAKEN = COUNTERS_PER_BATCH_MAX // LIMITS_PER_CALL_MAX

Deliver = Callable[[Any, Answer | Exception], None]
"""Gets a ticket back, and the answer, or why there is none."""
Ticket = TypeVar("Ticket")
See = Callable[[Root, Answer], None]
"""Looks at an answer about limits with thresholds."""
Cover = Callable[[str, Subject, Dimensions], Coverage]
"""Finds what covers a call of a tenant."""


class _Waiting(NamedTuple):
    """What is to be decided, and who is to be told the answer, by which ticket."""

    asked: Asked
    deliver: Deliver
    ticket: object
    may_stand_by: bool = True


# As the class itself, without what Python does for names of arguments.
_new_waiting = cast("Callable[[tuple[object, ...]], _Waiting]", partial(tuple.__new__, _Waiting))


class _Queue:
    """What waits for one customer, and what is with Redis; it exists while there is either."""

    __slots__ = ("resolved", "root", "taken", "waiting")

    def __init__(self, root: Root) -> None:
        self.root = root
        self.waiting: list[_Waiting] = []
        self.taken: list[_Waiting] = []
        # Of what was taken, once it is known whose calls the holds were for.
        self.resolved: list[Operation] | None = None

    def take(self) -> int:
        """Take what one script call decides without keeping Redis busy for long; count it."""
        waiting = self.waiting
        count = len(waiting)
        if count > _OPERATIONS_ALWAYS_TAKEN:
            count = min(count, OPERATIONS_PER_BATCH_MAX)
            counters_count = 0
            for place in range(count):
                asked = waiting[place].asked
                if isinstance(asked, Operation):
                    counters_count += len(asked.coverage.limits)
                if place and counters_count > COUNTERS_PER_BATCH_MAX:
                    count = place
                    break
        self.taken, self.waiting = waiting[:count], waiting[count:]
        self.resolved = None
        return count

    def batch(self) -> Batch:
        """Answer what was taken; of every hold is known by now whose call it was."""
        if self.resolved is not None:
            return Batch(self.root, self.resolved)
        operations = [waiting[0] for waiting in self.taken]
        return Batch(self.root, cast("list[Operation]", operations))


class Batcher:
    """One for the service: unary calls and all sessions share it.

    Args:
        cover: Finds what covers the call of a hold, once the hold was found.
        standby: Answers while the counters cannot be reached.
        see: Is told the answers that concern limits with thresholds.
        round_trips_max: How many messages to Redis may be unanswered at once.
    """

    def __init__(
        self,
        counters: Counters,
        cover: Cover,
        standby: Standby,
        see: See,
        *,
        round_trips_max: int = 2,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._counters = counters
        self._cover = cover
        self._standby = standby
        self._see = see
        self._round_trips_max = round_trips_max
        self._waiting_max = waiting_max
        self._waiting_count = 0
        self._queues: dict[Root, _Queue] = {}
        self._ready: deque[_Queue] = deque()
        self._round_trips: set[asyncio.Task[None]] = set()
        self._on_their_way = 0
        self._is_scheduled = False
        self._gathering = Gathering(enough=_ENOUGH, quiet_turns=_QUIET_TURNS)
        self._gathered_count = 0

    async def connect(self) -> None:
        """Nothing to open; the first operation starts the work."""

    async def close(self) -> None:
        """Return once everything that waits has been answered."""
        while self._queues:
            await asyncio.sleep(0)
            if self._round_trips:
                await asyncio.wait(self._round_trips)

    def submit(
        self,
        root: Root,
        asked: Asked,
        deliver: Callable[[Ticket, Answer | Exception], None],
        ticket: Ticket,
        *,
        may_stand_by: bool = True,
    ) -> None:
        """Have an operation decided; `deliver` gets the ticket back, and the answer.

        While the counters cannot be reached the standby answers, if it may.
        """
        if self._waiting_count >= self._waiting_max:
            deliver(ticket, unavailable())
            return
        self._waiting_count += 1
        self._gathered_count += 1
        queue = self._queues.get(root)
        if queue is None:
            queue = self._queues[root] = _Queue(root)
            self._ready.append(queue)
            self._schedule()
        queue.waiting.append(_new_waiting((asked, deliver, ticket, may_stand_by)))

    async def decide(self, root: Root, asked: Asked, *, may_stand_by: bool = True) -> Answer:
        """Have an operation decided, and wait for the answer; raise why there is none."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.submit(root, asked, _settle, future, may_stand_by=may_stand_by)
        return await future

    async def book(self, root: Root, asked: Asked) -> Answer:
        """Have the counters themselves decide, and wait for the answer; raise why there is none."""
        return await self.decide(root, asked, may_stand_by=False)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._on_their_way >= self._round_trips_max:
            return
        if self._gathering.may_grow(self._gathered_count):
            self._schedule()
            return
        self._gathering.begin(self._gathered_count)
        self._gathered_count = 0
        share = len(self._ready)
        if not self._on_their_way:
            # One part is decided while the answers of the other are written. Whoever waits for
            # answers asks again together, so the parts stay apart.
            share = -(-share // self._round_trips_max)
        while self._ready and self._on_their_way < self._round_trips_max:
            queues: list[_Queue] = []
            operations_count = 0
            while (
                self._ready
                and len(queues) < share
                and operations_count < OPERATIONS_PER_ROUND_TRIP_MAX
            ):
                queue = self._ready.popleft()
                operations_count += queue.take()
                queues.append(queue)
            self._on_their_way += 1
            round_trip = asyncio.create_task(self._make_round_trip(queues))
            self._round_trips.add(round_trip)
            round_trip.add_done_callback(self._round_trips.discard)

    async def _make_round_trip(self, queues: Sequence[_Queue]) -> None:
        results = await self._decide(queues)
        self._on_their_way -= 1
        decided = [
            (queue, queue.taken, self._answers(queue, result))
            for queue, result in zip(queues, results, strict=True)
        ]
        if self._ready and not self._is_scheduled:
            # Redis gets its next work before this one's answers are written.
            self._flush()
            await asyncio.sleep(0)
        for queue, taken, answers in decided:
            self._waiting_count -= len(taken)
            for waiting, answer in zip(taken, answers, strict=True):
                if isinstance(answer, LimitsChanged):
                    self._ask_again(queue.root, waiting, answer)
                else:
                    waiting.deliver(waiting.ticket, answer)
                    if isinstance(answer, Answer) and answer.coverage.watched:
                        self._see(queue.root, answer)

    def _ask_again(self, root: Root, waiting: _Waiting, changed: LimitsChanged) -> None:
        """Ask what is to be extended by the limits that applied when it was held."""
        rebased = changed.operation.rebased
        assert rebased is not None, "only what is extended depends on former limits"
        again = rebased(changed.description)
        deliver, ticket, may_stand_by = waiting[1:]
        self.submit(root, again, deliver, ticket, may_stand_by=may_stand_by)

    def _answers(
        self, queue: _Queue, result: Decided | Exception
    ) -> Sequence[Answer | LimitsChanged | Exception]:
        """Answer what was decided for a queue, which is ready again or at its end."""
        answers: Sequence[Answer | LimitsChanged | Exception]
        if isinstance(result, Decided):
            answers, more_is_due = result
        else:
            answers = [self._in_place_of(result, queue.root, waiting) for waiting in queue.taken]
            more_is_due = False
        if queue.waiting or more_is_due:
            self._ready.append(queue)
        else:
            del self._queues[queue.root]
        return answers

    def _in_place_of(self, error: Exception, root: Root, waiting: _Waiting) -> Answer | Exception:
        """Answer what the counters did not, where somebody else may."""
        if waiting.may_stand_by and isinstance(error, Unavailable):
            return self._standby.answer(root, waiting.asked, error)
        return error

    async def _decide(self, queues: Sequence[_Queue]) -> Sequence[Decided | Exception]:
        try:
            await self._resolve(queues)
            return await self._counters.decide([queue.batch() for queue in queues])
        except Exception as error:  # noqa: BLE001 - told to every caller that waits for it.
            return [error] * len(queues)

    async def _resolve(self, queues: Sequence[_Queue]) -> None:
        """Find the holds that commits name instead of a subject."""
        wanted = [
            (queue.root, waiting.asked.hold.name)
            for queue in queues
            for waiting in queue.taken
            if isinstance(waiting.asked, OfHold)
        ]
        if not wanted:
            return
        found = dict(zip(wanted, await self._counters.find_holds(wanted), strict=True))
        for queue in queues:
            resolved = [
                (waiting, operation)
                for waiting in queue.taken
                if (operation := self._resolved(queue.root, waiting, found)) is not None
            ]
            # What was asked stays as it is, for the standby: the hold may only be lost for now.
            queue.taken = [waiting for waiting, _ in resolved]
            queue.resolved = [operation for _, operation in resolved]

    def _resolved(
        self,
        root: Root,
        waiting: _Waiting,
        found: Mapping[tuple[Root, str], DescribedHold | None],
    ) -> Operation | None:
        asked = waiting.asked
        if not isinstance(asked, OfHold):
            return asked
        described = found[root, asked.hold.name]
        try:
            coverage = NOTHING
            if described:
                coverage = self._cover(root.tenant, described.subject, described.dimensions)
        except DomainError as error:
            self._waiting_count -= 1
            waiting.deliver(waiting.ticket, error)
            return None
        if isinstance(asked.call, ExtendCall):
            return extend_operation(asked.call, coverage)
        return commit_operation(asked.call, coverage, is_known=described is not None)


def _settle(future: "asyncio.Future[Answer]", answer: Answer | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
