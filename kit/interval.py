"""Half-open intervals of UTC time: the start belongs to the interval, the end does not.

Refuses naive times, other zones and empty intervals, so that neither can reach a store.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from kit.errors import InvalidInput

_NO_OFFSET = timedelta(0)


@dataclass(frozen=True, slots=True)
class Interval:
    """From `start` to just before `end`; adjacent intervals share no instant and leave none out."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.utcoffset() != _NO_OFFSET or self.end.utcoffset() != _NO_OFFSET:
            raise InvalidInput.of("interval", "must be given in UTC")
        if self.start >= self.end:
            raise InvalidInput.of("interval", "must start before it ends")

    @property
    def duration(self) -> timedelta:
        """How long it lasts."""
        return self.end - self.start

    def contains(self, instant: datetime) -> bool:
        """Tell whether the instant lies inside."""
        return self.start <= instant < self.end

    def overlaps(self, other: "Interval") -> bool:
        """Tell whether the two share an instant."""
        return self.start < other.end and other.start < self.end

    def intersection(self, other: "Interval") -> "Interval | None":
        """Answer what the two share, or nothing."""
        if not self.overlaps(other):
            return None
        return Interval(max(self.start, other.start), min(self.end, other.end))

    def split_at(self, *instants: datetime) -> tuple["Interval", ...]:
        """Cut at each instant that lies inside; the pieces, in order, make up the whole."""
        cuts = sorted({cut for cut in instants if self.start < cut < self.end})
        edges = [self.start, *cuts, self.end]
        return tuple(Interval(start, end) for start, end in pairwise(edges))
