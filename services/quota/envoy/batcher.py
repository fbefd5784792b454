"""Gathers the requests that arrive at the same time, so that Redis is asked once.

There is no timer: a lone request goes at once; those that follow some which had company wait while
turns of the event loop bring others. Refuses to let more than `waiting_max` requests wait.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from kit.gathering import Gathering
from services.quota.envoy.counters import Counters, Request, unavailable
from services.quota.envoy.verdict import Counted

HITS_PER_ROUND_TRIP_MAX = 4000
WAITING_MAX = 20_000

_ENOUGH = 48
_QUIET_TURNS = 40

Answer = list[Counted | None]


class _Waiting(NamedTuple):
    """A request, and who waits for its counters."""

    request: Request
    answer: "asyncio.Future[Answer]"


class Batcher:
    """One for the facade.

    Args:
        timeout_s: How long requests wait for Redis before they fail as COUNTERS_UNAVAILABLE.
        round_trips_max: How many calls of Redis may be on their way at once.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        timeout_s: float,
        round_trips_max: int = 2,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._counters = counters
        self._timeout_s = timeout_s
        self._round_trips_max = round_trips_max
        self._waiting_max = waiting_max
        self._waiting: deque[_Waiting] = deque()
        self._round_trips: set[asyncio.Task[None]] = set()
        self._is_scheduled = False
        self._gathering = Gathering(enough=_ENOUGH, quiet_turns=_QUIET_TURNS)

    async def connect(self) -> None:
        """Nothing to open; the first request starts the work."""

    async def close(self) -> None:
        """Return once everything that waits has been answered."""
        while self._waiting or self._round_trips:
            await asyncio.sleep(0)
            if self._round_trips:
                await asyncio.wait(self._round_trips)

    async def count(self, request: Request) -> Answer:
        """Have a request counted, and wait for its counters; raise why there are none."""
        if len(self._waiting) >= self._waiting_max:
            raise unavailable()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, answer))
        self._schedule()
        return await answer

    def _schedule(self) -> None:
        if self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if len(self._round_trips) >= self._round_trips_max:
            return
        if self._gathering.may_grow(len(self._waiting)):
            self._schedule()
            return
        taken: list[_Waiting] = []
        hits_count = 0
        while self._waiting and hits_count < HITS_PER_ROUND_TRIP_MAX:
            waiting = self._waiting.popleft()
            hits_count += len(waiting.request.hits)
            # Who has gone is not charged for what nobody counted yet.
            if not waiting.answer.done():
                taken.append(waiting)
        self._gathering.begin(len(taken))
        if taken:
            round_trip = asyncio.create_task(self._make_round_trip(taken))
            self._round_trips.add(round_trip)
            round_trip.add_done_callback(self._end_round_trip)
        self._schedule()

    def _end_round_trip(self, round_trip: "asyncio.Task[None]") -> None:
        self._round_trips.discard(round_trip)
        round_trip.result()
        self._schedule()

    async def _make_round_trip(self, taken: Sequence[_Waiting]) -> None:
        for waiting, result in zip(taken, await self._ask(taken), strict=True):
            if waiting.answer.done():
                continue
            if isinstance(result, Exception):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result(result)

    async def _ask(self, taken: Sequence[_Waiting]) -> Sequence[Answer | Exception]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._counters.count([waiting.request for waiting in taken])
        except TimeoutError:
            return [unavailable()] * len(taken)
        except Exception as error:  # noqa: BLE001 - told to every caller that waits for it.
            return [error] * len(taken)
