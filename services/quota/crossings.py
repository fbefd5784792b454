"""Which thresholds what is used has reached, as the figures of an answer show it.

A crossing belongs to one counter and one of its windows; a lifetime begins anew where its capacity
changes, so that a balance that is paid into can run low again. Refuses to know what was told
before: a figure beyond a threshold shows its crossing every time.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from services.quota.model import BillingPeriodWindow, CalendarWindow, LifetimeWindow, Limit

WINDOWS = (CalendarWindow, BillingPeriodWindow, LifetimeWindow)
"""The windows that have thresholds."""

_PERCENT = 100


class Watched(NamedTuple):
    """A limit of a coverage that has thresholds.

    Args:
        place: Which of the limits it is.
        steps: From how much on which threshold is reached, ascending.
    """

    place: int
    limit_id: str
    scope: str
    capacity: int
    has_lifetime: bool
    steps: tuple[tuple[int, int], ...]


class Crossing(NamedTuple):
    """A threshold that is reached.

    Args:
        window: The window of the counter: its end in Unix milliseconds, or of a lifetime the
            capacity, negated.
    """

    limit_id: str
    scope: str
    window: int
    threshold: int
    capacity: int
    used: int

    @property
    def window_end_ms(self) -> int | None:
        """When the window ends; nothing for a lifetime."""
        return self.window if self.window > 0 else None


def watch(limits: Iterable[tuple[Limit | None, str]]) -> tuple[Watched, ...]:
    """Find the limits with thresholds among some limits, each with whose counter it is."""
    return tuple(
        Watched(
            place=place,
            limit_id=limit.limit_id,
            scope=scope,
            capacity=limit.capacity,
            has_lifetime=isinstance(limit.window, LifetimeWindow),
            steps=tuple(
                (max(-(-limit.capacity * threshold // _PERCENT), 1), threshold)
                for threshold in limit.alert_thresholds
            ),
        )
        for place, (limit, scope) in enumerate(limits)
        if limit is not None and limit.alert_thresholds
    )


def crossed(
    watched: Iterable[Watched], figures: Sequence[int], *, width: int, now_ms: int
) -> list[Crossing]:
    """Name every threshold that figures show as reached; `width` figures are those of one limit."""
    found = []
    for place, limit_id, scope, capacity, has_lifetime, steps in watched:
        used = figures[place * width]
        if used < steps[0][0]:
            continue
        window = -capacity if has_lifetime else now_ms + figures[place * width + 2]
        found += [
            Crossing(limit_id, scope, window, threshold, capacity, used)
            for quantity, threshold in steps
            if used >= quantity
        ]
    return found
