"""Usage events on their way to the meter: gathered, sent in batches, sent again until taken."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import grpc

from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.meter.v1.meter_service_pb2 import (
    INGEST_OUTCOME_CREATED,
    INGEST_OUTCOME_DUPLICATE,
    IngestEventsRequest,
    IngestEventsResponse,
    IngestOutcome,
)
from tollkeeper.errors import UsageNotReported, parse_rpc_error
from tollkeeper.spool import Spool

EVENTS_PER_BATCH_MAX = 1000
EVENTS_PENDING_MAX = 20_000
LINGER_S = 0.02
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0

logger = logging.getLogger("tollkeeper")

WhenFull = Literal["wait", "drop"]
"""What becomes of an event for which there is no room."""

Ingest = Callable[[IngestEventsRequest], Awaitable[IngestEventsResponse]]

_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


@dataclass(slots=True)
class UsageReport:
    """What became of the usage events so far.

    `refused` counts conflicts and rejected ones, `dropped` those for which there was no room.
    """

    created: int = 0
    duplicate: int = 0
    refused: int = 0
    dropped: int = 0


class MemoryQueue:
    """A queue of events that dies with the process."""

    def __init__(self) -> None:
        self._events: deque[bytes] = deque()

    def __len__(self) -> int:
        """Return how many events wait for the meter."""
        return len(self._events)

    def has_room(self) -> bool:
        """Say whether an event can be appended."""
        return len(self._events) < EVENTS_PENDING_MAX

    def append(self, event: bytes) -> None:
        """Keep an event."""
        self._events.append(event)

    def peek(self, count: int) -> list[bytes]:
        """Return the oldest events, at most `count`; they stay."""
        return list(itertools.islice(self._events, count))

    def acknowledge(self, count: int) -> None:
        """Forget the oldest `count` events: the meter has taken them."""
        for _ in range(count):
            self._events.popleft()

    def close(self) -> None:
        """Nothing is kept."""


class EventReporter:
    """Takes usage events without waiting for the meter, and delivers them in order.

    What waits is bounded. Without a spool the queue is in memory and holds 20,000 events; with one
    it survives the process, and what an earlier process left is delivered first.

    Args:
        ingest: calls `IngestEvents`.
        spool: where events wait; None means in memory.
        when_full: whether `submit` waits for room, or drops the event and says so in `flush`.
    """

    def __init__(
        self, ingest: Ingest, spool: Spool | None = None, *, when_full: WhenFull = "wait"
    ) -> None:
        self.report = UsageReport()
        self.problems: list[str] = []
        self._ingest = ingest
        self._pending: Spool | MemoryQueue = MemoryQueue() if spool is None else spool
        self._change = asyncio.Condition()
        self._arrival = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._drops = when_full == "drop"
        self._full = asyncio.Event()
        self._blocked = ""
        self._dropped_told = 0

    def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._run())

    def offer(self, event: UsageEvent) -> bool:
        """Take an event if there is room."""
        if not self._pending.has_room():
            return False
        self._pending.append(event.SerializeToString())
        self._arrival.set()
        if len(self._pending) >= EVENTS_PER_BATCH_MAX:
            self._full.set()
        return True

    async def submit(self, event: UsageEvent) -> None:
        """Take an event; while there is no room, wait or drop it."""
        while not self.offer(event):
            if self._drops:
                self.report.dropped += 1
                if self.report.dropped == 1:
                    logger.error("usage events are dropped, since the meter takes none")
                return
            async with self._change:
                await self._change.wait_for(self._pending.has_room)

    async def flush(self) -> None:
        """Wait until the meter has answered for every event taken so far.

        Raises:
            UsageNotReported: the meter refused events, or refuses to talk to this client, or
                events were dropped; the message says which and why.
        """
        self._full.set()
        async with self._change:
            await self._change.wait_for(lambda: len(self._pending) == 0 or self._blocked)
        if self._blocked:
            raise UsageNotReported(f"{len(self._pending)} usage events wait: {self._blocked}")
        dropped = self.report.dropped - self._dropped_told
        if dropped:
            self._dropped_told = self.report.dropped
            self.problems.append(f"{dropped} usage events were dropped: there was no room")
        if self.problems:
            problems, self.problems = self.problems, []
            raise UsageNotReported("; ".join(problems))

    async def close(self, timeout_s: float) -> None:
        """Flush, and stop.

        Raises:
            UsageNotReported: events were refused, or are still pending after the timeout.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self.flush()
        except TimeoutError:
            text = f"{len(self._pending)} usage events were not taken within {timeout_s} s"
            if isinstance(self._pending, Spool):
                text += "; they wait in the spool"
            raise UsageNotReported(text) from None
        finally:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
            self._pending.close()

    async def _run(self) -> None:
        while True:
            if len(self._pending) == 0:
                self._arrival.clear()
                await self._arrival.wait()
            await self._linger()
            batch = self._pending.peek(EVENTS_PER_BATCH_MAX)
            await self._deliver([UsageEvent.FromString(event) for event in batch])
            async with self._change:
                self._pending.acknowledge(len(batch))
                self._change.notify_all()

    async def _linger(self) -> None:
        """Give further events a moment to join the batch, unless it is full or being flushed."""
        if len(self._pending) < EVENTS_PER_BATCH_MAX:
            try:
                async with asyncio.timeout(LINGER_S):
                    await self._full.wait()
            except TimeoutError:
                return
        self._full.clear()

    async def _deliver(self, batch: Sequence[UsageEvent]) -> None:
        """Send a batch until the meter answers for it; the meter counts no event twice."""
        request = IngestEventsRequest(events=batch)
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                self._note(batch, await self._ingest(request))
            except grpc.aio.AioRpcError as error:
                failure = parse_rpc_error(error)
                logger.warning("the meter did not take %d events: %s", len(batch), failure)
                await self._block("" if error.code() in _PASSING else str(failure))
                wait = failure.retry_after
                await asyncio.sleep(backoff_s if wait is None else wait.total_seconds())
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            else:
                self._blocked = ""
                return

    async def _block(self, reason: str) -> None:
        """Note why nothing can be delivered until somebody acts, and tell those who wait."""
        self._blocked = reason
        async with self._change:
            self._change.notify_all()

    def _note(self, batch: Sequence[UsageEvent], answer: IngestEventsResponse) -> None:
        outcomes = list(answer.outcomes)
        self.report.created += outcomes.count(INGEST_OUTCOME_CREATED)
        self.report.duplicate += outcomes.count(INGEST_OUTCOME_DUPLICATE)
        self.report.refused += len(answer.problems)
        for problem in answer.problems:
            event = batch[problem.index]
            details = ", ".join(f"{each.field}: {each.description}" for each in problem.violations)
            outcome = IngestOutcome.Name(problem.outcome).removeprefix("INGEST_OUTCOME_")
            self._complain(f"event {event.event_id!r} of {event.source!r} is {outcome}: {details}")

    def _complain(self, text: str) -> None:
        logger.error("%s", text)
        self.problems.append(text)
