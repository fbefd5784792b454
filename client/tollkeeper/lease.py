"""Leases: amounts held at the gate, divided locally among many calls.

A lease has chunks, each a hold at the gate, and hands parts of them out without asking anybody. For
each unit it keeps one equation, at every moment:

    size of all chunks = used by settled calls + taken by running calls + left

A chunk is given up only while `left` stays at zero or above without it, so what running calls have
taken is held at the gate all the time, and no limit is exceeded. Before the amounts or the time of
a chunk run out the next one is held, with room for the calls that run; then the old one is
committed with what was used. Where no next one is to be had, as a limit is used up, the last lives
on while calls need it. What a lease keeps from others without use is its bound (twice that
for the moment of a change), and a lease that nobody uses commits and ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from google.protobuf.duration_pb2 import Duration

from tollkeeper.amounts import Number, quanta_per_unit, to_quanta
from tollkeeper.api.quota.v1.quota_pb2 import DECISION_DENY, Amount
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    CommitRequest,
    ExtendRequest,
    ReserveRequest,
    SessionAnswer,
    SessionCall,
)
from tollkeeper.api.type.v1.subject_pb2 import Subject
from tollkeeper.errors import (
    LimitState,
    QuotaDenied,
    QuotaUnavailable,
    TollkeeperError,
    parse_limit,
)

TTL_S = 10
# A chunk is not used in its last second, so that clocks and answers may be slow.
MARGIN_S = 1.0
REFRESH_S = 6.0
PROLONG_S = 7.5
CHUNKS_TO_BOUND = 64
BACKOFF_S = 0.2
# So long is a refusal repeated without asking, to callers who want as much or more.
REFUSED_S = 0.05
NEVER = -math.inf

logger = logging.getLogger("tollkeeper")

Ask = Callable[[SessionCall], Awaitable[SessionAnswer]]
Quanta = tuple[int, ...]
Taken = tuple[Number, ...]


@dataclass(slots=True)
class _Chunk:
    """A hold at the gate that is being handed out."""

    reservation_id: str
    size: Quanta
    usable_until: float


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the gate has refused a moment ago."""

    least: Quanta
    limits: tuple[LimitState, ...]
    until: float


@dataclass(frozen=True, slots=True)
class LeasedCalls:
    """Of which calls a lease is: those of one subject with these dimensions and units."""

    subject: Subject
    dimensions: Mapping[str, str]
    units: tuple[str, ...]


class Lease:
    """Hands out parts of its chunks; made by `Tollkeeper.lease`.

    >>> async with toll.lease("acme", key="k-17", requests=1_000, output_tokens=500_000) as lease:
    ...     held = lease.take(1, 800) or await lease.acquire(1, 800)
    ...     answer = await call_the_model()
    ...     lease.settle(held, 1, 312)

    Args:
        ask: sends a call to the gate.
        submit: sends a settlement until the gate has taken it.
        new_request_id: makes idempotency keys.
        calls: of which calls.
        most: the bound on what is held without use, in quanta of each unit; the first chunk is a
            64th of it.
    """

    def __init__(
        self,
        ask: Ask,
        submit: Callable[[SessionCall], Awaitable[object]],
        new_request_id: Callable[[], str],
        calls: LeasedCalls,
        most: Quanta,
    ) -> None:
        self._ask = ask
        self._submit = submit
        self._new_request_id = new_request_id
        self._calls = calls
        # Amounts of units with fractions are always converted.
        self._is_plain = all(quanta_per_unit(unit) == 1 for unit in calls.units)
        nothing = [0] * len(calls.units)
        self._now = asyncio.get_running_loop().time
        self._chunks: list[_Chunk] = []
        # The earliest end of a chunk; before it amounts are handed out.
        self._until = NEVER
        self._left = nothing.copy()
        self._used = nothing.copy()
        # What was used of units that are not held.
        self._others: dict[str, int] = {}
        # Below these marks the next chunk is asked for.
        self._marks = nothing.copy()
        self._most = list(most)
        self._wanted = [max(1, each // CHUNKS_TO_BOUND) for each in most]
        self._grown_at = NEVER
        self._renewal: asyncio.Task[_Refusal | None] | None = None
        self._refusal: _Refusal | None = None
        self._retry_at = NEVER
        self._ending: set[asyncio.Future[Any]] = set()
        self._is_closed = False

    def take(self, *amounts: Number) -> Taken | None:
        """Take amounts for one call, one of each unit of the lease in its order.

        Returns what was taken, to be named in `settle`; None when the lease has no room at the
        moment, which says nothing about the limits: `acquire` asks.

        Raises:
            TypeError: an amount is neither an int nor a Decimal, or their number is not that of the
                units.
            ValueError: an amount is not one of its unit.
        """
        left, marks = self._left, self._marks
        if not self._is_plain or len(amounts) != len(left) or self._now() >= self._until:
            return self._take_carefully(amounts)
        for index, amount in enumerate(amounts):
            if type(amount) is not int or not 0 <= amount <= left[index] - marks[index]:
                return self._take_carefully(amounts)
        for index, amount in enumerate(amounts):
            left[index] -= amount  # type: ignore[assignment]  # only ints pass.
        return amounts

    def settle(self, taken: Taken, /, *used: Number) -> None:
        """Book what a call used, once for each that was taken; without amounts it never ran.

        What was taken and not used is handed out again; more than was taken is booked in full. The
        usage event is the caller's to report, with `Tollkeeper.report`.

        Raises:
            TypeError: as `take`.
            ValueError: as `take`.
        """
        left, total = self._left, self._used
        if not (self._is_plain and self._chunks and len(taken) == len(used) == len(left)):
            self._settle_carefully(taken, used)
            return
        for amount in used:
            if type(amount) is not int or amount < 0:
                self._settle_carefully(taken, used)
                return
        for index, amount in enumerate(used):
            left[index] += taken[index] - amount  # type: ignore[assignment]  # only ints pass.
            total[index] += amount  # type: ignore[assignment]  # as above.

    def settle_units(self, taken: Mapping[str, Number], used: Mapping[str, Number] | None) -> None:
        """Settle a call that names its units; what it used of other units is booked as well."""
        used = used or {}
        units = self._calls.units
        for unit in used.keys() - set(units):
            self._others[unit] = self._others.get(unit, 0) + to_quanta(unit, used[unit])
        self.settle(tuple(taken[unit] for unit in units), *(used.get(unit, 0) for unit in units))

    def _settle_carefully(self, taken: Taken, used: Taken) -> None:
        """Settle amounts that need a look: converted, none, or of a lease that holds nothing."""
        held = self._quanta(taken)
        spent = self._quanta(used) if used else (0,) * len(held)
        left, total = self._left, self._used
        for index, (before, now) in enumerate(zip(held, spent, strict=True)):
            left[index] += before - now
            total[index] += now
        if not self._chunks and (any(total) or self._others):
            # The time of the chunks was over before this call was.
            self._commit("", self._drain(total))

    async def acquire(self, *amounts: Number) -> Taken:
        """Take amounts as `take` does, and ask the gate for more where the lease has no room.

        Raises:
            QuotaDenied: a limit has no room; within 50 ms a refusal is repeated without asking.
            QuotaUnavailable: no answer came in time.
            CallFailed: the request is not valid.
        """
        quanta = self._quanta(amounts)
        while (taken := self.take(*amounts)) is None:
            refusal = self._refusal
            if refusal is not None and self._now() < refusal.until and _covers(quanta, refusal):
                raise QuotaDenied(refusal.limits)
            if self._is_closed:
                raise QuotaUnavailable("the lease is closed")
            is_own = self._renewal is None
            refusal = await asyncio.shield(self._renew(quanta))
            if is_own and refusal is not None:
                raise QuotaDenied(refusal.limits)
        return taken

    def raise_bound(self, most: Quanta) -> None:
        """Let the bound be at least this."""
        if any(map(int.__gt__, most, self._most)):
            self._most = list(map(max, self._most, most))
            first = [each // CHUNKS_TO_BOUND for each in self._most]
            self._wanted = list(map(max, self._wanted, first))

    async def close(self) -> None:
        """Commit what was used, and give the rest back."""
        self._is_closed = True
        if self._renewal is not None:
            # Not cancelled: the gate may have held the next chunk already.
            await asyncio.gather(self._renewal, return_exceptions=True)
        for chunk in tuple(self._chunks):
            self._give_up(chunk)
        if self._ending:
            await asyncio.gather(*self._ending)

    async def __aenter__(self) -> Self:
        await asyncio.shield(self._renew((0,) * len(self._left)))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.shield(self.close())

    def __await__(self) -> Generator[object, None, Self]:
        """Hold the first chunk: `lease = await toll.lease(...)`, to be closed with `close`."""
        return self.__aenter__().__await__()

    @property
    def units(self) -> tuple[str, ...]:
        """The units that each call takes, in this order."""
        return self._calls.units

    @property
    def left(self) -> dict[str, int]:
        """How many quanta of each unit are held at the gate and neither taken nor used."""
        return dict(zip(self._calls.units, self._left, strict=True))

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held, nothing is taken, and nobody asks for more."""
        return not self._chunks and self._renewal is None and not any(self._left)

    def _quanta(self, amounts: Sequence[Number]) -> Quanta:
        units = self._calls.units
        if len(amounts) != len(units):
            raise TypeError(f"{len(amounts)} amounts, but the lease is of {', '.join(units)}")
        return tuple(map(to_quanta, units, amounts))

    def _take_carefully(self, amounts: Taken) -> Taken | None:
        """Take amounts that need a look: converted, near the low mark, or with no room."""
        quanta = self._quanta(amounts)
        now = self._now()
        while now >= self._until and self._chunks:
            self._give_up(min(self._chunks, key=_end_of))
        left = self._left
        if not self._chunks or any(map(int.__gt__, quanta, left)):
            self._ask_for_more(quanta)
            return None
        for index, amount in enumerate(quanta):
            left[index] -= amount
        if any(map(int.__lt__, left, self._marks)):
            self._ask_for_more(quanta)
        return amounts

    def _ask_for_more(self, quanta: Quanta) -> None:
        """Begin to hold the next chunk, unless that is under way or was refused a moment ago."""
        if self._renewal is None and self._now() >= self._retry_at and not self._is_closed:
            self._renew(quanta).add_done_callback(_forget_failure)

    def _renew(self, least: Quanta) -> asyncio.Task[_Refusal | None]:
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._replace(least))
        return self._renewal

    async def _replace(self, least: Quanta) -> _Refusal | None:
        """Hold the next chunk and give up the others; with room for at least one call if need be.

        Returns how the gate refused, or nothing.
        """
        try:
            size = tuple(map(max, map(min, self._wanted, self._most), least))
            refused_by = await self._hold(size)
            if refused_by and size != least and any(least):
                self._wanted = [max(1, each // 4) for each in self._wanted]
                refused_by = await self._hold(least)
            if not refused_by:
                return None
            now = self._now()
            self._retry_at = now + BACKOFF_S
            self._refusal = _Refusal(least, refused_by, now + REFUSED_S)
        except TollkeeperError as error:
            logger.warning("no lease: %s", error)
            self._retry_at = self._now() + BACKOFF_S
            raise
        else:
            return self._refusal
        finally:
            self._renewal = None

    async def _hold(self, room: Quanta) -> tuple[LimitState, ...]:
        """Hold a chunk with room for calls to come beside those that run; say who refused it."""
        running = self._running()
        size = tuple(map(int.__add__, room, running))
        begun = self._now()
        request = ReserveRequest(
            request_id=self._new_request_id(),
            subject=self._calls.subject,
            dimensions=self._calls.dimensions,
            amounts=self._amounts(size),
            ttl=Duration(seconds=TTL_S),
        )
        answer = (await self._ask(SessionCall(reserve=request))).reserve
        if answer.decision == DECISION_DENY:
            return tuple(map(parse_limit, answer.limits))
        self._resize(begun)
        chunk = _Chunk(answer.reservation_id, size, begun + TTL_S - MARGIN_S)
        self._chunks.append(chunk)
        self._left = list(map(int.__add__, self._left, size))
        self._marks = [each // 4 for each in room]
        self._note_chunks()
        for other in tuple(self._chunks[:-1]):
            self._give_up_if_spare(other)
        self._watch(chunk, begun)
        return ()

    def _watch(self, chunk: _Chunk, begun: float) -> None:
        """See to a chunk before its time is over."""
        loop = asyncio.get_running_loop()
        loop.call_at(begun + REFRESH_S, self._refresh, chunk)
        loop.call_at(begun + PROLONG_S, self._keep, chunk)
        loop.call_at(chunk.usable_until, self._end, chunk)

    def _resize(self, now: float) -> None:
        """Ask for more next time when a chunk was used up early, for less when most was left."""
        if now < self._grown_at + REFRESH_S:
            self._wanted = [min(m, w * 2) for m, w in zip(self._most, self._wanted, strict=True)]
        elif self._chunks and not any(map(int.__gt__, self._used, self._marks)):
            self._wanted = [max(1, each // 2) for each in self._wanted]
        self._grown_at = now

    def _running(self) -> list[int]:
        """Return what running calls have taken."""
        sizes = [sum(each) for each in zip(*(chunk.size for chunk in self._chunks), strict=True)]
        sizes = sizes or [0] * len(self._left)
        return [
            size - used - left
            for size, used, left in zip(sizes, self._used, self._left, strict=True)
        ]

    def _note_chunks(self) -> None:
        self._until = min(map(_end_of, self._chunks), default=NEVER)

    def _refresh(self, chunk: _Chunk) -> None:
        """Replace a chunk that is in use before its time is over."""
        if chunk in self._chunks and (any(self._used) or any(self._running())):
            self._ask_for_more((0,) * len(self._left))

    def _keep(self, chunk: _Chunk) -> None:
        """Let a chunk live longer that could not be replaced and that running calls need."""
        if chunk in self._chunks and any(self._running()):
            prolonging = asyncio.ensure_future(self._prolong(chunk))
            self._ending.add(prolonging)
            prolonging.add_done_callback(self._ending.discard)

    async def _prolong(self, chunk: _Chunk) -> None:
        begun = self._now()
        request = ExtendRequest(
            request_id=self._new_request_id(),
            reservation_id=chunk.reservation_id,
            ttl=Duration(seconds=TTL_S),
            subject=self._calls.subject,
            dimensions=self._calls.dimensions,
        )
        try:
            answer = (await self._ask(SessionCall(extend=request))).extend
        except TollkeeperError as error:
            logger.warning("a lease of running calls is not prolonged: %s", error)
            return
        if answer.decision != DECISION_DENY and chunk in self._chunks:
            chunk.usable_until = begun + TTL_S - MARGIN_S
            self._note_chunks()
            self._watch(chunk, begun)

    def _end(self, chunk: _Chunk) -> None:
        """Give up a chunk whose time is over."""
        if chunk in self._chunks and self._now() >= chunk.usable_until:
            self._give_up(chunk)

    def _give_up_if_spare(self, chunk: _Chunk) -> None:
        """Give up a chunk that running calls do not need."""
        freed = map(int.__sub__, chunk.size, map(min, chunk.size, self._used))
        if all(map(int.__ge__, self._left, freed)):
            self._give_up(chunk)

    def _give_up(self, chunk: _Chunk) -> None:
        """Commit a chunk with what was used of it; the last one with all that was used."""
        self._chunks.remove(chunk)
        self._left = list(map(int.__sub__, self._left, chunk.size))
        self._note_chunks()
        bounds = chunk.size if self._chunks else self._used
        self._commit(chunk.reservation_id, self._drain(bounds))

    def _drain(self, bounds: Sequence[int]) -> Quanta:
        """Take what is to be booked out of what was used, at most the bounds."""
        booked = tuple(map(min, self._used, bounds))
        self._used = list(map(int.__sub__, self._used, booked))
        self._left = list(map(int.__add__, self._left, booked))
        return booked

    def _commit(self, reservation_id: str, booked: Quanta) -> None:
        commit = CommitRequest(
            request_id=self._new_request_id(),
            reservation_id=reservation_id,
            amounts=[each for each in self._amounts(booked) if each.quantity]
            + [Amount(unit=unit, quantity=each) for unit, each in self._others.items() if each],
            subject=self._calls.subject,
            dimensions=self._calls.dimensions,
        )
        self._others = {}
        ending = asyncio.ensure_future(self._submit(SessionCall(commit=commit)))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _amounts(self, quanta: Sequence[int]) -> list[Amount]:
        pairs = zip(self._calls.units, quanta, strict=True)
        return [Amount(unit=unit, quantity=each) for unit, each in pairs]


def _end_of(chunk: _Chunk) -> float:
    return chunk.usable_until


def _covers(quanta: Quanta, refusal: _Refusal) -> bool:
    """Say whether a call wants at least as much as one that was refused."""
    return all(map(int.__ge__, quanta, refusal.least))


def _forget_failure(renewal: asyncio.Task[_Refusal | None]) -> None:
    """Look at how a renewal that nobody waits for has ended: the log has said it."""
    if not renewal.cancelled():
        renewal.exception()
