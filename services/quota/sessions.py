"""One session: a stream of calls, and the stream of their answers.

Calls go to the batcher as they are read, several messages at a time; answers are written as they
come, all that are there in one message. What waits is bounded: a session that has enough calls
waiting, or that does not take its answers, is not read. A session whose caller has gone leaves its
calls to be decided; nobody is told the answers then.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from google.rpc.status_pb2 import Status

from kit import telemetry
from kit.ending import end
from kit.errors import DomainError, InvalidInput
from kit.rpc.status import internal_status, render_status
from services.quota.convert.answers import (
    WrittenMessage,
    render_session_answer,
    render_session_error,
)
from services.quota.convert.session_calls import read_session_call
from services.quota.counters import Answer
from services.quota.model import Call
from services.quota.usecases import Gate

CALLS_PER_MESSAGE_MAX = 1000
CALLS_WAITING_MAX = 4096

# Others get their turn in between, and Redis begins with these while the next ones are read.
_CALLS_PER_TURN = 512
# The status of a limit has some hundred bytes, and clients take messages of up to 4 MiB.
_STATUSES_PER_MESSAGE_MAX = 4096
_DOMAIN = "tollkeeper.quota"


class Session:
    """The calls of one stream that wait, and the answers that are to be written."""

    def __init__(self, gate: Gate, tenant: str) -> None:
        self._gate = gate
        self._tenant = tenant
        self._waiting: set[int] = set()
        self._outbox = _Outbox()
        self._reading: asyncio.Task[None] | None = None
        self._is_read = False
        self._refusal: DomainError | None = None
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()

    async def answers(self, requests: AsyncIterator[Any]) -> AsyncGenerator[WrittenMessage, None]:
        """Read calls until there are no more, each request a twin, and answer all of them.

        Raises:
            InvalidInput: PAYLOAD_TOO_LARGE, once all calls before have been answered.
        """
        self._reading = asyncio.create_task(self._read(requests))
        try:
            while not self._is_read or self._waiting or self._outbox.count:
                await self._changed.wait()
                self._changed.clear()
                while self._outbox.count:
                    yield self._outbox.take()
                self._has_room.set()
        finally:
            await end(self._reading)
        if self._refusal is not None:
            raise self._refusal

    def drain(self) -> None:
        """Read no more; what waits is answered, then the stream ends."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                if len(request.calls) > CALLS_PER_MESSAGE_MAX:
                    raise InvalidInput(
                        "PAYLOAD_TOO_LARGE",
                        f"a message holds {len(request.calls)} calls,"
                        f" at most {CALLS_PER_MESSAGE_MAX} are accepted",
                        metadata={"maximum": str(CALLS_PER_MESSAGE_MAX)},
                    )
                while len(self._waiting) + self._outbox.count >= CALLS_WAITING_MAX:
                    self._has_room.clear()
                    await self._has_room.wait()
                for number, call in enumerate(request.calls, 1):
                    self._ask(call)
                    if number % _CALLS_PER_TURN == 0:
                        await asyncio.sleep(0)
        except DomainError as error:
            self._refusal = error
        finally:
            self._is_read = True
            self._changed.set()

    def _ask(self, twin: Any) -> None:  # noqa: ANN401 - made at run time.
        call_id = twin.call_id
        if call_id in self._waiting:
            self._refuse(call_id, InvalidInput.of("call_id", "is that of another call that waits"))
            return
        try:
            call, written = read_session_call(twin)
            self._waiting.add(call_id)
            self._gate.submit(self._tenant, call, self._end, (call_id, call, written))
        except DomainError as error:
            self._waiting.discard(call_id)
            self._refuse(call_id, error)

    def _end(self, asked: tuple[int, Call, Sequence[bytes]], answer: Answer | Exception) -> None:
        call_id, call, written = asked
        self._waiting.discard(call_id)
        if isinstance(answer, Answer):
            size = len(answer.coverage.limits) + 1
            self._put(render_session_answer(call_id, call, answer, written), size)
        else:
            self._refuse(call_id, answer)

    def _refuse(self, call_id: int, error: Exception) -> None:
        self._put(render_session_error(call_id, _status(error)), 1)

    def _put(self, answer: bytes, statuses_count: int) -> None:
        self._outbox.put(answer, statuses_count)
        if not self._changed.is_set():
            self._changed.set()


class _Outbox:
    """Answers that are not written yet, gathered into messages of bounded size."""

    def __init__(self) -> None:
        self.count = 0
        self._full: deque[list[bytes]] = deque()
        self._open: list[bytes] = []
        self._statuses_count = 0

    def put(self, answer: bytes, statuses_count: int) -> None:
        """Add an answer that holds some statuses."""
        self.count += 1
        self._open.append(answer)
        self._statuses_count += statuses_count
        if self._statuses_count >= _STATUSES_PER_MESSAGE_MAX:
            self._close()

    def take(self) -> WrittenMessage:
        """Take the oldest message; there must be one."""
        if not self._full:
            self._close()
        answers = self._full.popleft()
        self.count -= len(answers)
        return WrittenMessage(b"".join(answers))

    def _close(self) -> None:
        self._full.append(self._open)
        self._open = []
        self._statuses_count = 0


def _status(error: Exception) -> Status:
    if isinstance(error, DomainError):
        return render_status(error, _DOMAIN)
    trace_id = telemetry.trace_id() or secrets.token_hex(16)
    telemetry.get_logger().error("call.failed", trace_id=trace_id, exc_info=error)
    return internal_status(trace_id, _DOMAIN)
