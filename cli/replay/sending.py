"""Sends usage events, straight to the meter or each through the gate, and outlasts a restart.

A service that dies meanwhile is waited for, and what has no answer is sent again; that counts
nothing twice, because events have an identity and calls a request id. The patience is bounded.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from cli.errors import CommandError
from cli.replay.mapping import event_time
from cli.services import CALL_TIMEOUT_S, Services
from tollkeeper import QuotaDenied, Tollkeeper, TollkeeperError, UsageNotReported
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.meter.v1.meter_service_pb2 import (
    INGEST_OUTCOME_CREATED,
    INGEST_OUTCOME_DUPLICATE,
    IngestEventsRequest,
    IngestEventsResponse,
    IngestOutcome,
)
from tollkeeper.errors import parse_rpc_error

PATIENCE_S = 60.0
CONFLICT = "CONFLICT"
CALLERS = 64
EVENTS_PER_BATCH_MAX = 1000
_PROBLEMS_SHOWN_MAX = 5
_PROBLEM_LENGTH_MAX = 300
_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 2.0
_TAKEN = (INGEST_OUTCOME_CREATED, INGEST_OUTCOME_DUPLICATE)
_FINAL = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)
Settled = Callable[[UsageEvent, bool], None]


def _identity(event: UsageEvent) -> str:
    return f"event {event.event_id} of {event.source}"


@dataclass(slots=True)
class Tally:
    """What became of the calls.

    `name` tells an event of which something has to be said. `created`, `duplicate` and `untaken`
    count what the meter said of events; an event whose answer was lost in a restart is a duplicate
    when it is sent again. `denied` counts the calls that the gate refused, by limit. `problems` are
    the first sentences about what was not taken.
    """

    name: Callable[[UsageEvent], str] = _identity
    problems_max: int = _PROBLEMS_SHOWN_MAX
    created: int = 0
    duplicate: int = 0
    untaken: int = 0
    denied: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def complain(self, problem: str) -> None:
        """Keep a sentence about what was not taken, if it is among the first."""
        if len(self.problems) < self.problems_max:
            self.problems.append(problem[:_PROBLEM_LENGTH_MAX])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast events are sent.

    Args:
        speed_up: By how much the recorded gaps are shortened; 0 leaves none.
        patience_s: How long a service that does not answer is waited for.
    """

    speed_up: float = 0.0
    patience_s: float = PATIENCE_S


async def due_batches(
    events: Iterator[UsageEvent], *, speed_up: float, size_max: int
) -> AsyncIterator[list[UsageEvent]]:
    """Give the events when they are due, and together those that are due together."""
    start_s = time.monotonic()
    first: datetime | None = None
    batch: list[UsageEvent] = []
    for event in events:
        if speed_up:
            first = first or event_time(event)
            due_s = start_s + (event_time(event) - first).total_seconds() / speed_up
            if batch and due_s > time.monotonic():
                yield batch
                batch = []
            await asyncio.sleep(due_s - time.monotonic())
        batch.append(event)
        if len(batch) == size_max:
            yield batch
            batch = []
    if batch:
        yield batch


async def patiently(
    services: Services,
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer],
    request: Request,
    patience_s: float,
) -> Answer:
    """Call an idempotent method, again and again while its service does not answer.

    Raises:
        CommandError: The service refused the call, or gave no answer within the patience.
    """
    give_up_s = time.monotonic() + patience_s
    pause_s = _PAUSE_FIRST_S
    while True:
        try:
            return await method(request, timeout=CALL_TIMEOUT_S, metadata=services.metadata)
        except grpc.aio.AioRpcError as error:
            failure = parse_rpc_error(error)
            # What the transport calls INTERNAL may pass; what a service calls so is a defect.
            is_defect = error.code() is grpc.StatusCode.INTERNAL and bool(failure.reason)
            is_late = time.monotonic() + pause_s > give_up_s
            if error.code() in _FINAL or is_defect or is_late:
                raise services.explain(error, request) from None
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)


async def send_to_meter(
    services: Services, events: Iterator[UsageEvent], pace: Pace, settled: Settled, tally: Tally
) -> None:
    """Send every event straight to the meter.

    Args:
        services: Where the meter is.
        events: What to send.
        pace: How fast.
        settled: Told of every event, and whether the meter has taken it, now or before.
        tally: Counts what became of them.

    Raises:
        CommandError: The meter refused to take events at all, or did not answer in time.
    """
    batches = due_batches(events, speed_up=pace.speed_up, size_max=EVENTS_PER_BATCH_MAX)
    async for batch in batches:
        request = IngestEventsRequest(events=batch)
        answer = await patiently(services, services.meter.IngestEvents, request, pace.patience_s)
        _count(batch, answer, settled, tally)


def _count(
    batch: Sequence[UsageEvent], answer: IngestEventsResponse, settled: Settled, tally: Tally
) -> None:
    tally.created += list(answer.outcomes).count(INGEST_OUTCOME_CREATED)
    tally.duplicate += list(answer.outcomes).count(INGEST_OUTCOME_DUPLICATE)
    tally.untaken += len(answer.problems)
    for problem in answer.problems:
        outcome_name = IngestOutcome.Name(problem.outcome).removeprefix("INGEST_OUTCOME_")
        details = "; ".join(f"{each.field}: {each.description}" for each in problem.violations)
        tally.complain(f"{outcome_name} {tally.name(batch[problem.index])}: {details}")
    for event, outcome in zip(batch, answer.outcomes, strict=True):
        settled(event, outcome in _TAKEN)


async def send_through_gate(
    services: Services, events: Iterator[UsageEvent], pace: Pace, settled: Settled, tally: Tally
) -> None:
    """Reserve and commit every call through the client, as a gateway does.

    The arguments are those of `send_to_meter`; all events have one source. `settled` is
    told of every call and whether the gate let it pass.

    Raises:
        CommandError: The gate refused to answer, or it or the meter did not answer in time.
    """
    # What goes wrong is said once, in the report.
    logging.getLogger("tollkeeper").addHandler(logging.NullHandler())
    logging.getLogger("tollkeeper").propagate = False
    first = next(events)
    client = Tollkeeper(
        token=services.connection.token,
        quota=services.connection.addresses["quota"],
        meter=services.connection.addresses["meter"],
        source=first.source,
        timeout_s=pace.patience_s,
    )
    try:
        async with client:
            await _call_all(client, chain([first], events), pace, settled, tally)
            await _flush(client, pace.patience_s)
    except UsageNotReported as error:
        if isinstance(error.__context__, CommandError):
            raise error.__context__ from None
        # It names every event; the first stands for all.
        tally.complain(str(error).partition("; event ")[0])
    usage = client.usage
    tally.created, tally.duplicate, tally.untaken = usage.created, usage.duplicate, usage.refused


async def _call_all(
    client: Tollkeeper, events: Iterator[UsageEvent], pace: Pace, settled: Settled, tally: Tally
) -> None:
    queue: asyncio.Queue[UsageEvent | None] = asyncio.Queue(CALLERS)

    async def feed() -> None:
        async for batch in due_batches(events, speed_up=pace.speed_up, size_max=CALLERS):
            for event in batch:
                await queue.put(event)
        for _ in range(CALLERS):
            await queue.put(None)

    async def call_until_done() -> None:
        while (event := await queue.get()) is not None:
            await _call(client, event, settled, tally)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed())
            for _ in range(CALLERS):
                tasks.create_task(call_until_done())
    except* TollkeeperError as failures:
        raise CommandError(f"the gate gave no decision: {failures.exceptions[0]}") from None


async def _call(client: Tollkeeper, event: UsageEvent, settled: Settled, tally: Tally) -> None:
    subject, dimensions = event.subject, dict(event.dimensions)
    amounts = {unit: int(quantity) for unit, quantity in event.quantities.items()}
    try:
        async with client.reserve(
            subject.customer_id,
            amounts,
            project=subject.project_id,
            key=subject.key_id,
            dimensions=dimensions,
            # The same call again is the same request; with another customer it is another.
            request_id=hashlib.sha256(event.SerializeToString(deterministic=True)).hexdigest(),
        ) as hold:
            hold.commit(
                amounts,
                event_id=event.event_id,
                event_type=event.type,
                time=event_time(event),
            )
    except QuotaDenied as denied:
        tally.denied[denied.limit.limit_id] += 1
        settled(event, False)  # noqa: FBT003 - as its documentation says.
    else:
        settled(event, True)  # noqa: FBT003 - as above.


async def _flush(client: Tollkeeper, patience_s: float) -> None:
    """Wait until the meter has answered for every event, as long as it goes on taking some."""
    while True:
        usage = client.usage
        before = (usage.created, usage.duplicate, usage.refused)
        try:
            async with asyncio.timeout(patience_s):
                await client.flush()
        except TimeoutError:
            if before == (usage.created, usage.duplicate, usage.refused):
                raise CommandError(
                    f"the meter took no usage events for {patience_s:.0f} s; run the same command "
                    "again once it is back: what it has taken counts once"
                ) from None
        else:
            return
