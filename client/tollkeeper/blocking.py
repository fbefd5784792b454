"""The client for programs without an event loop.

The same client, driven by a loop in a thread of its own; any thread may call it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from tollkeeper.amounts import Number
from tollkeeper.client import Tollkeeper
from tollkeeper.errors import LimitState, QuotaDenied
from tollkeeper.events import UsageReport
from tollkeeper.hold import Hold
from tollkeeper.lease import Lease, Taken
from tollkeeper.reservation import Reservation

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")

Wait = Callable[[Coroutine[Any, Any, Any]], Any]


class BlockingHold:
    """A hold for threads; its members are those of `Hold`, without `await`."""

    def __init__(self, hold: Hold, wait: Wait) -> None:
        self._hold = hold
        self._wait = wait

    @property
    def reservation_id(self) -> str:
        """The hold's name at the gate."""
        return self._hold.reservation_id

    @property
    def granted(self) -> dict[str, Number]:
        """What is held, by unit."""
        return self._hold.granted

    @property
    def expire_time(self) -> datetime:
        """When the hold ends by itself."""
        return self._hold.expire_time

    @property
    def limits(self) -> tuple[LimitState, ...]:
        """How the limits stood after the last decision."""
        return self._hold.limits

    @property
    def exceeded(self) -> tuple[LimitState, ...]:
        """The limits for which the call was too much and that let it pass: soft or in shadow."""
        return self._hold.exceeded

    @property
    def is_partial(self) -> bool:
        """Whether less was granted than was asked for."""
        return self._hold.is_partial

    @property
    def is_degraded(self) -> bool:
        """Whether outage policies let the call pass, and not the counters."""
        return self._hold.is_degraded

    @property
    def refused(self) -> QuotaDenied | None:
        """Why the hold could not grow, if so."""
        return self._hold.refused

    def commit(
        self,
        amounts: Mapping[str, Number] | None = None,
        /,
        *,
        event_id: str = "",
        event_type: str = "llm.call",
        time: datetime | None = None,
        dimensions: Mapping[str, str] | None = None,
        **quantities: Number,
    ) -> None:
        """Say what the call really used; it is booked and metered at the end of the block."""
        self._hold.commit(
            amounts,
            event_id=event_id,
            event_type=event_type,
            time=time,
            dimensions=dimensions,
            **quantities,
        )

    def mark_dispatched(self) -> None:
        """Say that the call has left for its provider."""
        self._wait(self._hold.mark_dispatched())

    def extend(
        self,
        amounts: Mapping[str, Number] | None = None,
        /,
        *,
        min_amounts: Mapping[str, Number] | None = None,
        ttl: timedelta | None = None,
        **quantities: Number,
    ) -> dict[str, Number]:
        """Hold more, or for longer, and return what is held in addition."""
        more = {**(amounts or {}), **quantities}
        added: dict[str, Number] = self._wait(
            self._hold.extend(more, min_amounts=min_amounts, ttl=ttl)
        )
        return added

    def used_so_far(
        self, amounts: Mapping[str, Number] | None = None, /, **quantities: Number
    ) -> bool:
        """Say how much the running call has used in all, and let the hold grow when it needs to."""

        async def say() -> bool:
            return self._hold.used_so_far({**(amounts or {}), **quantities})

        return bool(self._wait(say()))

    def covers(self, amounts: Mapping[str, Number] | None = None, /, **quantities: Number) -> bool:
        """Say whether the call may use so much in all, and wait while the hold grows for it."""
        return bool(self._wait(self._hold.covers({**(amounts or {}), **quantities})))


class BlockingLease:
    """A lease for threads; its methods are those of `Lease`, without `await`."""

    def __init__(self, lease: Lease, wait: Wait) -> None:
        self._lease = lease
        self._wait = wait

    def take(self, *amounts: Number) -> Taken | None:
        """Take amounts for one call; None when the lease has no room at the moment."""

        async def take() -> Taken | None:
            return self._lease.take(*amounts)

        taken: Taken | None = self._wait(take())
        return taken

    def acquire(self, *amounts: Number) -> Taken:
        """Take amounts as `take` does, and ask the gate for more where there is no room."""
        taken: Taken = self._wait(self._lease.acquire(*amounts))
        return taken

    def settle(self, taken: Taken, /, *used: Number) -> None:
        """Book what a call used; without amounts it never ran."""

        async def settle() -> None:
            self._lease.settle(taken, *used)

        self._wait(settle())


def _blocking(
    method: Callable[Concatenate[Tollkeeper, Arguments], Coroutine[Any, Any, Value]],
) -> Callable[Concatenate[BlockingTollkeeper, Arguments], Value]:
    @wraps(method)
    def call(
        self: BlockingTollkeeper, /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Value:
        return self.wait(method(self.client, *args, **kwargs))

    return call


def _blocking_reservation(
    method: Callable[Concatenate[Tollkeeper, Arguments], Reservation],
) -> Callable[Concatenate[BlockingTollkeeper, Arguments], AbstractContextManager[BlockingHold]]:
    @wraps(method)
    @contextmanager
    def hold(
        self: BlockingTollkeeper, /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Iterator[BlockingHold]:
        reservation = method(self.client, *args, **kwargs)
        held = self.wait(reservation.__aenter__())
        try:
            yield BlockingHold(held, self.wait)
        finally:
            self.wait(reservation.__aexit__(None, None, None))

    return hold


def _blocking_lease(
    method: Callable[Concatenate[Tollkeeper, Arguments], Lease],
) -> Callable[Concatenate[BlockingTollkeeper, Arguments], AbstractContextManager[BlockingLease]]:
    @wraps(method)
    @contextmanager
    def lease(
        self: BlockingTollkeeper, /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Iterator[BlockingLease]:
        async def begin() -> Lease:
            return await method(self.client, *args, **kwargs)

        begun = self.wait(begin())
        try:
            yield BlockingLease(begun, self.wait)
        finally:
            self.wait(begun.close())

    return lease


class BlockingTollkeeper:
    """Drives a client from threads; its methods are those of `Tollkeeper`, without `await`.

    >>> with BlockingTollkeeper(Tollkeeper(token=token)) as toll:
    ...     with toll.reserve("acme", input_tokens=1200) as hold:
    ...         hold.commit(input_tokens=1187)

    Args:
        client: a client that nobody else has entered.
    """

    def __init__(self, client: Tollkeeper) -> None:
        self.client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait(self.client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait(self.client.__aexit__(kind, error, trace))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def usage(self) -> UsageReport:
        """What became of the usage events so far."""
        return self.client.usage

    reserve = _blocking_reservation(Tollkeeper.reserve)
    lease = _blocking_lease(Tollkeeper.lease)
    check = _blocking(Tollkeeper.check)
    balances = _blocking(Tollkeeper.balances)
    report = _blocking(Tollkeeper.report)
    record = _blocking(Tollkeeper.record)
    flush = _blocking(Tollkeeper.flush)

    def wait(self, call: Coroutine[Any, Any, Value]) -> Value:
        """Run a coroutine on the client's loop, and return what it answers."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()
