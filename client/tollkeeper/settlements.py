"""Commits and releases that found the gate gone: sent again until it has taken them.

What a call used is booked late rather than never. Each keeps its request id, so that one which had
arrived before the connection broke is booked once; the gate remembers ids for ten minutes, and
nothing is sent again after half of that. What then is not booked the meter knows all the same.

A gate whose counters are gone accepts a settlement and says that it is `degraded`: only that one
process knows of it. It is sent again too, until it is booked.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tollkeeper.api.quota.v1.quota_service_pb2 import SessionAnswer, SessionCall
from tollkeeper.errors import CallFailed, QuotaUnavailable

PENDING_MAX = 10_000
TOGETHER_MAX = 256
PATIENCE_S = 300.0
BACKOFF_S = 0.1

logger = logging.getLogger("tollkeeper")


@dataclass(frozen=True, slots=True)
class _Pending:
    call: SessionCall
    hopeless_at: float


class Settlements:
    """Sends settlements; those that got no answer wait, at most 10,000, the oldest giving way.

    Args:
        ask: sends a call to the gate.
    """

    def __init__(self, ask: Callable[[SessionCall], Awaitable[SessionAnswer]]) -> None:
        self._ask = ask
        self._pending: deque[_Pending] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many wait for the gate."""
        return len(self._pending)

    async def send(self, call: SessionCall) -> None:
        """Settle, and return when the gate has answered or is seen to be gone.

        Raises:
            CallFailed: the gate refused the settlement.
        """
        hopeless_at = asyncio.get_running_loop().time() + PATIENCE_S
        try:
            is_booked = not _is_degraded(await self._ask(call))
        except QuotaUnavailable as error:
            logger.warning("a settlement is sent again later: %s", error)
            is_booked = False
        if not is_booked:
            self._wait_for_the_gate(_Pending(call, hopeless_at))

    async def send_or_log(self, call: SessionCall) -> None:
        """Settle as `send` does; a refusal is for the log."""
        try:
            await self.send(call)
        except CallFailed as error:
            logger.warning("%s is not booked: %s", _name(call), error)

    def submit(self, call: SessionCall) -> None:
        """Settle in the background."""
        hopeless_at = asyncio.get_running_loop().time() + PATIENCE_S
        self._wait_for_the_gate(_Pending(call, hopeless_at))

    async def close(self, timeout_s: float) -> None:
        """Wait for what is pending, and give up what is left then."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._task)
        except TimeoutError:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._pending:
            self._give_up(self._pending.popleft(), "the client was closed")

    def _wait_for_the_gate(self, pending: _Pending) -> None:
        if len(self._pending) >= PENDING_MAX:
            self._give_up(self._pending.popleft(), "too many wait")
        self._pending.append(pending)
        if self._task is None:
            self._task = asyncio.create_task(self._send_pending())

    async def _send_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            while self._pending and self._pending[0].hopeless_at < loop.time():
                self._give_up(self._pending.popleft(), "the gate was gone for too long")
            count = min(len(self._pending), TOGETHER_MAX)
            together = [self._pending.popleft() for _ in range(count)]
            gone = await asyncio.gather(*map(self._try, together))
            unsent = (each for each, is_gone in zip(together, gone, strict=True) if is_gone)
            self._pending.extendleft(reversed(list(unsent)))
            if any(gone):
                await asyncio.sleep(BACKOFF_S)
        self._task = None

    async def _try(self, pending: _Pending) -> bool:
        """Send once more; say whether the gate or its counters are gone still."""
        try:
            return _is_degraded(await self._ask(pending.call))
        except QuotaUnavailable:
            return True
        except CallFailed as error:
            logger.warning("%s is not booked: %s", _name(pending.call), error)
        return False

    def _give_up(self, pending: _Pending, reason: str) -> None:
        logger.error("%s is not booked: %s", _name(pending.call), reason)


def _is_degraded(answer: SessionAnswer) -> bool:
    """Say whether a settlement was accepted and is not booked yet."""
    match answer.WhichOneof("answer"):
        case "commit":
            return answer.commit.degraded
        case "release":
            return answer.release.degraded
        case "record":
            return answer.record.degraded
        case _:
            return False


def _name(call: SessionCall) -> str:
    """Name a settlement for the log."""
    kind = call.WhichOneof("call") or "call"
    return f"{kind} {getattr(call, kind).request_id}"
