"""Tallies: what events add up to, for any aggregation, and how tallies join and become figures.

Pure and exact. Joining is associative, and the order in which tallies are joined does not matter,
save for weighted sums, whose tallies must not overlap in time. Refuses to round anything but the
figure itself, once.
"""

from collections.abc import Iterable, Mapping
from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    ROUND_HALF_EVEN,
    ROUND_HALF_UP,
    Context,
    Decimal,
)
from itertools import pairwise
from typing import Final

from kit.decimals import exactly
from services.meter.model import (
    Aggregation,
    Amount,
    Definition,
    Moment,
    Rounding,
    RoundingMode,
    Tally,
)

QUOTIENT_DECIMALS: Final = 18

_DIVIDING = Context(prec=200, rounding=ROUND_HALF_EVEN)
_QUANTUM = Decimal(1).scaleb(-QUOTIENT_DECIMALS)
_MODES = {
    RoundingMode.ROUND: ROUND_HALF_UP,
    RoundingMode.CEIL: ROUND_CEILING,
    RoundingMode.FLOOR: ROUND_FLOOR,
}
_US_PER_SECOND = 1_000_000


class Gathering:
    """Gathers the events of one series and span into a tally."""

    __slots__ = ("_aggregation", "_points", "_values")

    def __init__(self, aggregation: Aggregation) -> None:
        self._aggregation = aggregation
        self._points: list[tuple[Moment, Amount]] = []
        self._values: dict[str, int] = {}

    def add(self, moment: Moment, amount: Amount | str) -> None:
        """Take one event: its amount, or the text of what is told apart."""
        if isinstance(amount, str):
            self._values[amount] = self._values.get(amount, 0) + 1
        else:
            self._points.append((moment, amount))

    def tally(self) -> Tally:
        """Answer what was gathered: at least one event."""
        if self._values:
            return Tally(0, sum(self._values.values()), values=self._values)
        with exactly():
            return self._points_tally()

    def _points_tally(self) -> Tally:
        match self._aggregation:
            case Aggregation.SUM | Aggregation.COUNT | Aggregation.AVERAGE:
                return Tally(sum(amount for _, amount in self._points), len(self._points))
            case Aggregation.MIN:
                return Tally(min(amount for _, amount in self._points), len(self._points))
            case Aggregation.MAX:
                return Tally(max(amount for _, amount in self._points), len(self._points))
            case Aggregation.LATEST:
                last, amount = max(self._points)
                return Tally(amount, len(self._points), last)
            case _:
                return _weighted(sorted(self._points))


def _weighted(points: list[tuple[Moment, Amount]]) -> Tally:
    area: Amount = 0
    for (moment, level), (following, _) in pairwise(points):
        area += level * (following.time_us - moment.time_us)
    last, level = points[-1]
    return Tally(level, len(points), last, points[0][0], area)


def join(aggregation: Aggregation, tallies: Iterable[Tally]) -> Tally:
    """Join one or more tallies; those of a weighted sum are in the order of time."""
    first, *others = tallies
    joined = first
    with exactly():
        for tally in others:
            joined = _join(aggregation, joined, tally)
    return joined


def _join(aggregation: Aggregation, left: Tally, right: Tally) -> Tally:
    count = left.event_count + right.event_count
    match aggregation:
        case Aggregation.MIN:
            return Tally(min(left.quantity, right.quantity), count)
        case Aggregation.MAX:
            return Tally(max(left.quantity, right.quantity), count)
        case Aggregation.LATEST:
            later = max(left, right, key=lambda tally: tally.last or _NEVER)
            return Tally(later.quantity, count, later.last)
        case Aggregation.WEIGHTED_SUM:
            return _follow(left, right, count)
        case Aggregation.UNIQUE_COUNT | Aggregation.PERCENTILE:
            return Tally(0, count, values=_added(left.values or {}, right.values or {}))
        case Aggregation.SUM | Aggregation.COUNT | Aggregation.AVERAGE:
            return Tally(left.quantity + right.quantity, count)


def _follow(left: Tally, right: Tally, count: int) -> Tally:
    assert left.last is not None, "a weighted tally has moments"
    assert right.first is not None, "a weighted tally has moments"
    assert left.last <= right.first, "weighted tallies are joined in the order of time"
    held_us = right.first.time_us - left.last.time_us
    area = (left.area or 0) + left.quantity * held_us + (right.area or 0)
    return Tally(right.quantity, count, right.last, left.first, area)


def _added(left: Mapping[str, int], right: Mapping[str, int]) -> Mapping[str, int]:
    values = dict(left)
    for value, count in right.items():
        values[value] = values.get(value, 0) + count
    return values


def area_within(tallies: Iterable[Tally], start_us: int, end_us: int) -> Amount:
    """Answer level times microseconds between two instants; tallies are in the order of time.

    One that begins before `start_us` lies wholly before it, and carries its level in.
    """
    area: Amount = 0
    level: Amount = 0
    since_us = start_us
    with exactly():
        for tally in tallies:
            assert tally.first is not None, "a weighted tally has moments"
            assert tally.last is not None, "a weighted tally has moments"
            if tally.first.time_us >= start_us:
                area += level * (tally.first.time_us - since_us) + (tally.area or 0)
                since_us = tally.last.time_us
            level = tally.quantity
        return area + level * (end_us - since_us)


def figure(definition: Definition, quantity: Decimal, event_count: int) -> Decimal:
    """Make the figure that is answered of what was added up.

    `quantity` is the sum for an average, and level times microseconds for a weighted sum; for
    everything else it is the figure before it is rounded.
    """
    match definition.aggregation:
        case Aggregation.AVERAGE if event_count:
            exact = _DIVIDING.divide(quantity, Decimal(event_count))
            unrounded = exact.quantize(_QUANTUM, ROUND_HALF_EVEN, _DIVIDING)
        case Aggregation.WEIGHTED_SUM:
            unit_us = Decimal(definition.time_unit.value * _US_PER_SECOND)
            exact = _DIVIDING.divide(quantity, unit_us)
            unrounded = exact.quantize(_QUANTUM, ROUND_HALF_EVEN, _DIVIDING)
        case _:
            unrounded = quantity
    return rounded(unrounded, definition.rounding)


def rounded(value: Decimal, rounding: Rounding | None) -> Decimal:
    """Round a figure as its meter says."""
    if rounding is None:
        return value
    quantum = Decimal(1).scaleb(-rounding.precision)
    return value.quantize(quantum, _MODES[rounding.mode], _DIVIDING)


_NEVER = Moment(-1, "", "")
