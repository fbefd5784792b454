"""The one source of the present. The core never reads it; it gets the time as an argument."""

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the present in UTC."""

    def now(self) -> datetime:
        """Answer the present instant, aware and in UTC."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Answer the machine's time."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is moved, for tests and simulations."""

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """Answer the time it was last moved to."""
        return self._now

    def set(self, instant: datetime) -> None:
        """Move to an instant, forwards or backwards."""
        self._now = instant.astimezone(UTC)

    def advance(self, duration: timedelta) -> None:
        """Move on by a duration."""
        self._now += duration
