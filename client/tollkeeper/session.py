"""Many awaited quota calls over one stream.

Calls that are made in the same turn of the event loop, or while a message is being written, travel
in one message; a single call is sent at once. When the stream breaks it is opened anew and every
call that has no answer yet is sent again, which is safe because calls are idempotent.

What waits is bounded by the callers that wait: a call that nobody waits for is not sent again, and
beyond 65,536 that wait further ones are refused at once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import NamedTuple

import grpc

from tollkeeper.api.quota.v1.quota_service_pb2 import (
    SessionAnswer,
    SessionCall,
    SessionRequest,
    SessionResponse,
)
from tollkeeper.errors import CallFailed, QuotaUnavailable, parse_rpc_error, parse_status

CALLS_PER_MESSAGE_MAX = 1000
CALLS_WAITING_MAX = 65_536
BACKOFF_FIRST_S = 0.02
BACKOFF_MAX_S = 1.0
TIMEOUT_CHECKS_PER_TIMEOUT = 8

logger = logging.getLogger("tollkeeper")

Stream = grpc.aio.StreamStreamCall[SessionRequest, SessionResponse]

_HOPELESS = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}


class _Waiting(NamedTuple):
    call: SessionCall
    answer: asyncio.Future[SessionAnswer]
    deadline: float


class Session:
    """Sends calls and hands out their answers; one for each event loop.

    Args:
        open_stream: opens the bidirectional stream.
        timeout_s: how long a call waits for its answer, reconnects included.
    """

    def __init__(self, open_stream: Callable[[], Stream], *, timeout_s: float) -> None:
        self._open_stream = open_stream
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._outbox: list[SessionCall] = []
        self._wake = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, call: SessionCall) -> SessionAnswer:
        """Send a call and return its answer; it is repeated while the service says UNAVAILABLE.

        Raises:
            CallFailed: the service refused the call.
            QuotaUnavailable: no answer came in time.
        """
        loop = self._loop or self._start()
        deadline = loop.time() + self._timeout_s
        answer = await self._send(loop, call, deadline)
        if answer.HasField("error"):
            return await self._repeat(loop, call, answer, deadline)
        return answer

    async def _repeat(
        self,
        loop: asyncio.AbstractEventLoop,
        call: SessionCall,
        answer: SessionAnswer,
        deadline: float,
    ) -> SessionAnswer:
        backoff_s = BACKOFF_FIRST_S
        while answer.HasField("error"):
            failure = parse_status(answer.error)
            if failure.code is not grpc.StatusCode.UNAVAILABLE:
                raise failure
            if failure.retry_after is not None:
                backoff_s = failure.retry_after.total_seconds()
            if loop.time() + backoff_s > deadline:
                raise QuotaUnavailable(str(failure))
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            answer = await self._send(loop, call, deadline)
        return answer

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise QuotaUnavailable("the client is closed")
        loop = self._loop = asyncio.get_running_loop()
        self._tasks = (loop.create_task(self._run()), loop.create_task(self._expire()))
        return loop

    def _send(
        self, loop: asyncio.AbstractEventLoop, call: SessionCall, deadline: float
    ) -> asyncio.Future[SessionAnswer]:
        if self._closed:
            raise QuotaUnavailable("the client is closed")
        if len(self._waiting) >= CALLS_WAITING_MAX:
            raise QuotaUnavailable(f"{CALLS_WAITING_MAX} calls wait for the quota service")
        call.call_id = call_id = next(self._ids)
        answer: asyncio.Future[SessionAnswer] = loop.create_future()
        self._waiting[call_id] = _Waiting(call, answer, deadline)
        if not self._outbox:
            self._wake.set()
        self._outbox.append(call)
        return answer

    async def close(self) -> None:
        """End the stream; calls without an answer fail."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_all(QuotaUnavailable("the client was closed"))

    async def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._closed:
            stream = self._open_stream()
            self._outbox = [each.call for each in self._still_waiting()]
            reader = asyncio.create_task(self._read(stream))
            writer = asyncio.create_task(self._write(stream))
            try:
                await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
                progressed = self._note_end(reader, writer)
            finally:
                stream.cancel()
                reader.cancel()
                writer.cancel()
                await asyncio.gather(reader, writer, return_exceptions=True)
            backoff_s = BACKOFF_FIRST_S if progressed else min(backoff_s * 2, BACKOFF_MAX_S)
            await asyncio.sleep(backoff_s)

    def _note_end(self, reader: asyncio.Task[bool], writer: asyncio.Task[None]) -> bool:
        """Say whether the stream that ended had answered anything; fail what is hopeless."""
        for task in (reader, writer):
            error = task.exception() if task.done() else None
            if isinstance(error, grpc.aio.AioRpcError):
                logger.warning("session ended: %s %s", error.code().name, error.details())
                if error.code() in _HOPELESS:
                    self._fail_all(parse_rpc_error(error))
        return reader.done() and reader.exception() is None and reader.result()

    async def _write(self, stream: Stream) -> None:
        while True:
            if not self._outbox:
                self._wake.clear()
                await self._wake.wait()
            batch = self._outbox[:CALLS_PER_MESSAGE_MAX]
            del self._outbox[:CALLS_PER_MESSAGE_MAX]
            await stream.write(SessionRequest(calls=batch))

    async def _read(self, stream: Stream) -> bool:
        answered = False
        take = self._waiting.pop
        async for message in stream:
            answered = True
            for answer in message.answers:
                entry = take(answer.call_id, None)
                if entry is not None and not entry.answer.done():
                    entry.answer.set_result(answer)
        return answered

    async def _expire(self) -> None:
        """Fail calls whose time is over; one look for all of them instead of a timer each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._timeout_s / TIMEOUT_CHECKS_PER_TIMEOUT)
            now = loop.time()
            for entry in self._still_waiting():
                if entry.deadline <= now:
                    text = f"no answer from the quota service within {self._timeout_s} s"
                    entry.answer.set_exception(QuotaUnavailable(text))
            # Nothing is written while the service cannot be reached.
            if len(self._outbox) > 2 * len(self._waiting) + CALLS_PER_MESSAGE_MAX:
                self._outbox = [each for each in self._outbox if each.call_id in self._waiting]

    def _fail_all(self, error: CallFailed | QuotaUnavailable) -> None:
        for entry in self._still_waiting():
            entry.answer.set_exception(error)

    def _still_waiting(self) -> list[_Waiting]:
        """Forget calls whose callers have gone or were failed, and return the others."""
        for call_id, entry in tuple(self._waiting.items()):
            if entry.answer.done():
                del self._waiting[call_id]
        return list(self._waiting.values())
