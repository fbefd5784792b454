"""An event loop whose clock moves only when nothing else is left to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Value = TypeVar("Value")


class _Selector(selectors.DefaultSelector):
    """Waits for nobody: what would be waited for is noted as time that has passed."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None:
            self.passed_s += timeout
        return super().select(0)


class StoppedLoop(asyncio.SelectorEventLoop):
    """Runs timers in their order, at once."""

    def __init__(self) -> None:
        self._stopped_selector = _Selector()
        super().__init__(self._stopped_selector)

    def time(self) -> float:
        """Return how much has been waited for."""
        return self._stopped_selector.passed_s


def run_stopped(work: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine to its end on a loop of its own, without waiting."""
    with asyncio.Runner(loop_factory=StoppedLoop) as runner:
        return runner.run(work)
