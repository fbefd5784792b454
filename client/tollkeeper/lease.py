"""Leases: one hold at the gate, divided locally among many calls.

A lease holds a chunk of amounts for one subject and hands parts of it out without asking anybody. A
chunk is replaced before it is used up or expires: first the next one is held, with room for the
calls in flight, then the old one is committed with what was used. So at every moment the gate has
held at least what was handed out, and no limit is exceeded.

What a lease keeps from others is bounded by one chunk (two for the moment of the change) and by
its time to live. A lease that nobody uses commits and ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from tollkeeper.api.quota.v1.quota_pb2 import DECISION_ALLOW, Amount
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    CommitRequest,
    ReserveRequest,
    SessionAnswer,
    SessionCall,
)
from tollkeeper.api.type.v1.subject_pb2 import Subject
from tollkeeper.errors import TollkeeperError

TTL_S = 10
# A chunk is not used in its last second, so that clocks and answers may be slow.
MARGIN_S = 1.0
REFRESH_S = 6.0
CALLS_PER_CHUNK_FIRST = 16
CALLS_PER_CHUNK_MAX = 16_384
BACKOFF_S = 0.2
COMMIT_ATTEMPTS = 5
LEASES_MAX = 1000

logger = logging.getLogger("tollkeeper")

Ask = Callable[[SessionCall], Awaitable[SessionAnswer]]

# The subject, the dimensions and the units of calls that share a lease.
_Key = tuple[bytes, tuple[tuple[str, str], ...], tuple[str, ...]]


@dataclass(slots=True)
class _Chunk:
    """A hold at the gate that is being handed out."""

    reservation_id: str
    usable_until: float
    used: dict[str, int] = field(default_factory=dict)


class Lease:
    """Hands out parts of a chunk to the calls of one subject, dimensions and set of units.

    Args:
        ask: sends a call to the gate.
        new_request_id: makes idempotency keys.
        subject: whose calls.
        dimensions: of which calls.
        units: what each call takes, in this order.
    """

    def __init__(
        self,
        ask: Ask,
        new_request_id: Callable[[], str],
        subject: Subject,
        dimensions: Mapping[str, str],
        units: tuple[str, ...],
    ) -> None:
        self._ask = ask
        self._new_request_id = new_request_id
        self._subject = subject
        self._dimensions = dict(dimensions)
        self._units = units
        self._now = asyncio.get_running_loop().time
        self._chunk: _Chunk | None = None
        self._left = [0] * len(units)
        self._low = [0] * len(units)
        self._in_flight = [0] * len(units)
        self._largest = [1] * len(units)
        self._calls_per_chunk = CALLS_PER_CHUNK_FIRST
        self._renewal: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self._ending: set[asyncio.Task[None]] = set()

    def take(self, quanta: tuple[int, ...]) -> bool:
        """Take amounts for one call out of the chunk; False when the gate must be asked instead."""
        left = self._left
        for index, amount in enumerate(quanta):
            if left[index] < amount:
                self._renew(quanta)
                return False
        chunk = self._chunk
        if chunk is None or self._now() >= chunk.usable_until:
            self._renew(quanta)
            return False
        in_flight = self._in_flight
        is_low = False
        for index, amount in enumerate(quanta):
            left[index] -= amount
            in_flight[index] += amount
            is_low = is_low or left[index] < self._low[index]
        if is_low:
            self._renew(quanta)
        return True

    def settle(self, quanta: tuple[int, ...], used: Mapping[str, int]) -> None:
        """Book what a call used, and take back what it did not; nothing used means it never ran."""
        chunk = self._chunk
        for index, (unit, amount) in enumerate(zip(self._units, quanta, strict=True)):
            self._in_flight[index] -= amount
            self._left[index] += amount - used.get(unit, 0)
        if chunk is None:
            # The chunk's time was over before this call was; what it used is booked without a hold.
            self._end(_Chunk("", 0.0, dict(used)))
            return
        for unit, amount in used.items():
            chunk.used[unit] = chunk.used.get(unit, 0) + amount

    async def close(self) -> None:
        """Commit what was used and give the rest back."""
        if self._renewal is not None:
            # Not cancelled: the gate may have held the next chunk already.
            await self._renewal
        if self._chunk is not None:
            self._stop(self._chunk)
        await asyncio.gather(*self._ending)

    @property
    def is_idle(self) -> bool:
        """Whether there is no chunk and nobody asks for one."""
        return self._chunk is None and self._renewal is None and not any(self._in_flight)

    def _renew(self, quanta: tuple[int, ...]) -> None:
        """Begin to replace the chunk, unless that is under way or was refused a moment ago."""
        if quanta:
            self._largest = list(map(max, self._largest, quanta))
        if self._renewal is None and self._now() >= self._retry_at:
            self._renewal = asyncio.create_task(self._replace())

    async def _replace(self) -> None:
        try:
            wanted = [each * self._calls_per_chunk for each in self._largest]
            size = [new + flying for new, flying in zip(wanted, self._in_flight, strict=True)]
            begun = self._now()
            answer = (await self._ask(SessionCall(reserve=self._request(size)))).reserve
            if answer.decision != DECISION_ALLOW:
                self._calls_per_chunk = max(1, self._calls_per_chunk // 4)
                self._retry_at = self._now() + BACKOFF_S
                return
            if self._chunk is not None and begun < self._chunk.usable_until:
                self._calls_per_chunk = min(CALLS_PER_CHUNK_MAX, self._calls_per_chunk * 2)
            old = self._chunk
            self._chunk = _Chunk(answer.reservation_id, begun + TTL_S - MARGIN_S)
            self._left = [s - flying for s, flying in zip(size, self._in_flight, strict=True)]
            self._low = [each // 4 for each in wanted]
            loop = asyncio.get_running_loop()
            loop.call_at(begun + REFRESH_S, self._refresh, self._chunk)
            loop.call_at(self._chunk.usable_until, self._stop, self._chunk)
            if old is not None:
                self._end(old)
        except TollkeeperError as error:
            logger.warning("no lease: %s", error)
            self._retry_at = self._now() + BACKOFF_S
        finally:
            self._renewal = None

    def _request(self, size: list[int]) -> ReserveRequest:
        return ReserveRequest(
            request_id=self._new_request_id(),
            subject=self._subject,
            dimensions=self._dimensions,
            amounts=[Amount(unit=u, quantity=q) for u, q in zip(self._units, size, strict=True)],
            ttl=Duration(seconds=TTL_S),
        )

    def _refresh(self, chunk: _Chunk) -> None:
        """Replace a chunk that is in use before its time is over."""
        if chunk is self._chunk and (chunk.used or any(self._in_flight)):
            self._renew(())

    def _stop(self, chunk: _Chunk) -> None:
        """End a chunk that was not replaced."""
        if chunk is self._chunk:
            self._chunk = None
            self._left = [0] * len(self._units)
            self._end(chunk)

    def _end(self, chunk: _Chunk) -> None:
        task = asyncio.create_task(self._commit(chunk))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _commit(self, chunk: _Chunk) -> None:
        commit = CommitRequest(
            request_id=self._new_request_id(),
            reservation_id=chunk.reservation_id,
            amounts=[Amount(unit=unit, quantity=each) for unit, each in chunk.used.items() if each],
            subject=self._subject,
            dimensions=self._dimensions,
        )
        for _ in range(COMMIT_ATTEMPTS):
            try:
                await self._ask(SessionCall(commit=commit))
            except TollkeeperError as error:
                logger.warning("lease %s is not committed: %s", chunk.reservation_id, error)
                await asyncio.sleep(BACKOFF_S)
            else:
                return


class Leases:
    """The leases of one client; calls share one that agree in subject, dimensions and units.

    Args:
        ask: sends a call to the gate.
        new_request_id: makes idempotency keys.
    """

    def __init__(self, ask: Ask, new_request_id: Callable[[], str]) -> None:
        self._ask = ask
        self._new_request_id = new_request_id
        self._leases: dict[_Key, Lease] = {}

    def of(self, request: ReserveRequest) -> Lease:
        """Return the lease for a call, which asks the gate for nothing yet if it is new."""
        units = tuple(amount.unit for amount in request.amounts)
        dimensions = tuple(sorted(request.dimensions.items()))
        key = (request.subject.SerializeToString(), dimensions, units)
        lease = self._leases.get(key)
        if lease is None:
            if len(self._leases) >= LEASES_MAX:
                self._leases = {k: each for k, each in self._leases.items() if not each.is_idle}
            lease = Lease(
                self._ask, self._new_request_id, request.subject, request.dimensions, units
            )
            self._leases[key] = lease
        return lease

    async def close(self) -> None:
        """Commit what was used of each lease and give the rest back."""
        await asyncio.gather(*(lease.close() for lease in self._leases.values()))


def quanta_of(request: ReserveRequest) -> tuple[int, ...]:
    """Return the amounts of a request, in its order."""
    return tuple(amount.quantity for amount in request.amounts)
