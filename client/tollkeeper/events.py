"""Usage events on their way to the meter: gathered, sent in batches, sent again until taken."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

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

EVENTS_PER_BATCH_MAX = 1000
EVENTS_PENDING_MAX = 20_000
LINGER_S = 0.02
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0

logger = logging.getLogger("tollkeeper")

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
    """What became of the usage events so far; `refused` counts conflicts and rejected ones."""

    created: int = 0
    duplicate: int = 0
    refused: int = 0


class EventReporter:
    """Takes usage events without waiting for the meter, and delivers them in order.

    Memory is bounded: with 20,000 events pending, `submit` waits.

    Args:
        ingest: calls `IngestEvents`.
    """

    def __init__(self, ingest: Ingest) -> None:
        self.report = UsageReport()
        self.problems: list[str] = []
        self._ingest = ingest
        self._pending: deque[UsageEvent] = deque()
        self._change = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._full = asyncio.Event()

    async def submit(self, event: UsageEvent) -> None:
        """Take an event; waits only while too many are pending."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        if len(self._pending) >= EVENTS_PENDING_MAX:
            async with self._change:
                await self._change.wait_for(lambda: len(self._pending) < EVENTS_PENDING_MAX)
        self._pending.append(event)
        if len(self._pending) == 1:
            async with self._change:
                self._change.notify_all()
        elif len(self._pending) >= EVENTS_PER_BATCH_MAX:
            self._full.set()

    async def flush(self) -> None:
        """Wait until the meter has answered for every event taken so far.

        Raises:
            UsageNotReported: the meter refused events; the message says which and why.
        """
        self._full.set()
        async with self._change:
            await self._change.wait_for(lambda: not self._pending)
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
            raise UsageNotReported(text) from None
        finally:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            async with self._change:
                await self._change.wait_for(lambda: self._pending)
            await self._linger()
            batch = [self._pending[index] for index in range(self._batch_size())]
            await self._deliver(batch)
            async with self._change:
                for _ in batch:
                    self._pending.popleft()
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

    def _batch_size(self) -> int:
        return min(len(self._pending), EVENTS_PER_BATCH_MAX)

    async def _deliver(self, batch: Sequence[UsageEvent]) -> None:
        """Send a batch until the meter answers for it; the meter counts no event twice."""
        request = IngestEventsRequest(events=batch)
        backoff_s = BACKOFF_FIRST_S
        while True:
            try:
                self._note(batch, await self._ingest(request))
            except grpc.aio.AioRpcError as error:
                failure = parse_rpc_error(error)
                if error.code() not in _PASSING:
                    self.report.refused += len(batch)
                    self._complain(f"{len(batch)} usage events were refused: {failure}")
                    return
                logger.warning("the meter did not take %d events: %s", len(batch), failure)
                wait = failure.retry_after
                await asyncio.sleep(backoff_s if wait is None else wait.total_seconds())
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            else:
                return

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
