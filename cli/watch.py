"""Starts again what dies, after a pause that grows while it keeps dying."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from cli.errors import CommandError

_POLL_S = 0.1
_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# After this long alive, the next death counts as the first.
_STABLE_S = 60.0


class Restartable(Protocol):
    """A service or a server that runs as a child of this process."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    def start(self) -> object:
        """Start it at the address it had before."""
        ...

    def how_it_ended(self) -> str | None:
        """Say how it ended; None while it lives."""
        ...

    def is_serving(self) -> bool:
        """Tell whether it does its work."""
        ...


@dataclass(slots=True)
class _Watched:
    process: Restartable
    started_at: float
    deaths: int = 0
    start_at: float | None = None
    recovering: bool = False


class Watch:
    """Looks after the processes it was given while `keeping` is entered."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._watched: list[_Watched] = []
        self._stop = threading.Event()

    def add(self, process: Restartable) -> None:
        """Look after one more process, which was just started."""
        self._watched.append(_Watched(process, time.monotonic()))

    def look(self, now: float) -> None:
        """Look at every process once.

        Args:
            now: On the monotonic clock.
        """
        for watched in self._watched:
            self._look_at(watched, now)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Start again what dies, until left; on leaving, nothing is being started any more."""
        thread = threading.Thread(target=self._run, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_POLL_S):
            self.look(time.monotonic())

    def _look_at(self, watched: _Watched, now: float) -> None:
        process = watched.process
        if watched.start_at is not None:
            if now >= watched.start_at:
                self._start_again(watched, now)
            return
        end = process.how_it_ended()
        if end:
            self._plan_start(watched, now, f"{process.name} ended unexpectedly ({end})")
        elif watched.recovering and process.is_serving():
            watched.recovering = False
            self._report(f"{process.name} serves again")

    def _plan_start(self, watched: _Watched, now: float, incident: str) -> None:
        if now - watched.started_at > _STABLE_S:
            watched.deaths = 0
        pause_s = _PAUSES_S[min(watched.deaths, len(_PAUSES_S) - 1)]
        watched.deaths += 1
        watched.start_at = now + pause_s
        self._report(f"{incident}; starting it again in {pause_s:g} s")

    def _start_again(self, watched: _Watched, now: float) -> None:
        watched.start_at = None
        watched.started_at = now
        watched.recovering = True
        try:
            watched.process.start()
        except (CommandError, OSError) as error:
            self._plan_start(watched, now, f"{watched.process.name} does not start: {error}")
