"""One stream of events: batches as they come, and the answer of each once it is committed.

Batches are stored while later ones are read; answers are written in the order of the batches. What
one stream has under way is bounded: it is not read while too many of its events wait to be stored,
while the service has no room, or while its sender does not take its answers. A batch that cannot be
stored ends the stream, so that no answer ever has to be taken back.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from kit.clock import Clock
from services.meter.convert.event_bytes import parse_events
from services.meter.convert.events import render_stream_outcomes
from services.meter.model import Fate, IncomingEvent
from services.meter.usecases.ingestion import Ingestion
from tollkeeper.api.meter.v1 import meter_service_pb2 as wire

EVENTS_UNDER_WAY_MAX = 20_000
"""Two of the largest batches: while one is stored, the next is read."""

_Answer = asyncio.Task[wire.StreamEventsResponse]


class EventStream:
    """The batches of one stream that are under way."""

    def __init__(self, ingestion: Ingestion, tenant: str, clock: Clock) -> None:
        self._ingestion = ingestion
        self._tenant = tenant
        self._clock = clock
        # In the order of the batches; None stands for the end.
        self._answers: asyncio.Queue[_Answer | None] = asyncio.Queue()
        self._under_way: set[_Answer] = set()
        self._events_under_way = 0
        self._has_room = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def answers(
        self, requests: AsyncIterator[wire.StreamEventsRequest]
    ) -> AsyncGenerator[wire.StreamEventsResponse, None]:
        """Read batches until there are no more, and answer each once it is committed.

        Raises:
            InvalidInput: a batch has no events or too many; all before have been answered.
            Unavailable: a batch could not be stored, or nobody knows whether it was.
        """
        self._reading = asyncio.create_task(self._read(requests))
        try:
            while (answer := await self._answers.get()) is not None:
                response = await answer
                self._under_way.discard(answer)
                yield response
                self._events_under_way -= len(response.outcomes)
                self._has_room.set()
            await asyncio.wait((self._reading,))
            if not self._reading.cancelled():
                self._reading.result()
        finally:
            self._reading.cancel()
            for each in self._under_way:
                each.cancel()
            await asyncio.gather(self._reading, *self._under_way, return_exceptions=True)

    def drain(self) -> None:
        """Read no more; what was read is answered, then the stream ends."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, requests: AsyncIterator[wire.StreamEventsRequest]) -> None:
        try:
            async for request in requests:
                count = len(request.events)
                await self._wait_for_room(count)
                events = parse_events(request, self._clock.now())
                self._events_under_way += count
                answer = asyncio.create_task(self._store(request.batch_id, events))
                self._under_way.add(answer)
                self._answers.put_nowait(answer)
        finally:
            self._answers.put_nowait(None)

    async def _wait_for_room(self, count: int) -> None:
        while self._events_under_way and self._events_under_way + count > EVENTS_UNDER_WAY_MAX:
            self._has_room.clear()
            await self._has_room.wait()
        await self._ingestion.wait_for_room(count)

    async def _store(
        self, batch_id: int, events: list[IncomingEvent | Fate]
    ) -> wire.StreamEventsResponse:
        fates = await self._ingestion.ingest_events(self._tenant, events, waits=True)
        return render_stream_outcomes(batch_id, fates)
