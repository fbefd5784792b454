"""The client for programs without an event loop.

The same client, driven by a loop in a thread of its own; any thread may call it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from tollkeeper.client import Reservation, Tollkeeper
from tollkeeper.events import UsageReport
from tollkeeper.hold import Hold

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


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
) -> Callable[Concatenate[BlockingTollkeeper, Arguments], AbstractContextManager[Hold]]:
    @wraps(method)
    @contextmanager
    def hold(
        self: BlockingTollkeeper, /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Iterator[Hold]:
        reservation = method(self.client, *args, **kwargs)
        held = self.wait(reservation.__aenter__())
        try:
            yield held
        finally:
            self.wait(reservation.__aexit__(None, None, None))

    return hold


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
    check = _blocking(Tollkeeper.check)
    balances = _blocking(Tollkeeper.balances)
    report = _blocking(Tollkeeper.report)
    flush = _blocking(Tollkeeper.flush)

    def wait(self, call: Coroutine[Any, Any, Value]) -> Value:
        """Run a coroutine on the client's loop, and return what it answers."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()
