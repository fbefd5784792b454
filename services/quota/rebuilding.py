"""Counters anew from what the meter has stored: usage summed by subject path and dimensions.

A limit counts what was used since it was made: in its present window; with a lifetime, all; as a
rolling rate, what was used within the time in which all of it drains, as if it had just been used,
so that it refuses too much at most for that time, and never too little. Open holds are added where
counters are.
Refuses floating point: the meter's quantities are decimal, and become quanta by rounding up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TypeAlias

from services.quota.counting import TAKEN_MAX
from services.quota.coverage import LimitClock, LimitIndex, Terms
from services.quota.model import Amounts, ConcurrencyWindow, Dimensions, Subject

REQUESTS = "requests"

_SECONDS = "seconds"
_CURRENCY_LENGTH = 3
_MILLIONTHS = Decimal(1_000_000)

MadeMs: TypeAlias = Mapping[str, int]
"""When each limit was made, by its id."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one subject path used in an interval, of events with equal dimensions."""

    subject: Subject
    dimensions: Dimensions
    quantities: Mapping[str, Decimal]
    events_count: int

    def amounts(self) -> Amounts:
        """Answer the quanta of each unit; where events do not count requests, each is one."""
        counted = {unit: _quanta(unit, quantity) for unit, quantity in self.quantities.items()}
        return {REQUESTS: self.events_count, **counted}


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The state of a counter without holds; its name is the field."""

    field: str
    stamp_ms: int
    taken: int
    drain: int
    scale: int


def starts_of(clocks: Iterable[LimitClock], now_ms: int, made_ms: MadeMs) -> Sequence[int]:
    """Answer from when on usage matters, for each distinct start."""
    return sorted({_start_ms(clock, now_ms, made_ms) for clock in clocks if counts_usage(clock)})


def rebuild(
    index: LimitIndex, usage_since: Mapping[int, Sequence[Usage]], now_ms: int, made_ms: MadeMs
) -> Sequence[Rebuilt]:
    """Add up usage on the counters that cover it, each from when its limit counts.

    Raises:
        Precondition: TOO_MANY_LIMITS.
        Unavailable: RATE_CARD_UNAVAILABLE.
    """
    taken: dict[str, int] = {}
    terms_of: dict[str, Terms] = {}
    for start_ms, usages in usage_since.items():
        for usage in usages:
            coverage = index.coverage(usage.subject, usage.dimensions)
            sums = coverage.sums(usage.amounts())
            for limit in coverage.limits:
                clock = limit.clock
                assert clock is not None, "the index knows the rule of each limit"
                if counts_usage(clock) and _start_ms(clock, now_ms, made_ms) == start_ms:
                    terms = terms_of[limit.field] = clock.terms_at(now_ms)
                    parts = sums[limit.slot - 1] * terms.scale
                    taken[limit.field] = min(taken.get(limit.field, 0) + parts, TAKEN_MAX)
    return [
        Rebuilt(field, _stamp_ms(terms_of[field], now_ms), parts, *terms_of[field][1:3])
        for field, parts in taken.items()
    ]


def fresh(field: str, clock: LimitClock, now_ms: int) -> Rebuilt:
    """Make the counter of which nothing was used, for a hold to take from."""
    terms = clock.terms_at(now_ms)
    return Rebuilt(field, _stamp_ms(terms, now_ms), 0, terms.drain, terms.scale)


def counts_usage(clock: LimitClock) -> bool:
    """Tell whether a limit counts what was used, and not only what is in flight."""
    return not isinstance(clock.limit.window, ConcurrencyWindow)


def _start_ms(clock: LimitClock, now_ms: int, made_ms: MadeMs) -> int:
    terms = clock.terms_at(now_ms)
    start_ms = now_ms - -(-terms.room // terms.drain) if terms.drain else terms.start_ms
    return max(start_ms, made_ms[clock.limit.limit_id])


def _stamp_ms(terms: Terms, now_ms: int) -> int:
    return now_ms if terms.drain else terms.end_ms


def _quanta(unit: str, quantity: Decimal) -> int:
    is_currency = len(unit) == _CURRENCY_LENGTH and unit.isupper()
    scaled = quantity * _MILLIONTHS if is_currency or unit == _SECONDS else quantity
    return max(int(scaled.to_integral_value(ROUND_CEILING)), 0)
