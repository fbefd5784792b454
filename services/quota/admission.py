"""Whether a call fits on every limit at once, and if not, which part of it does.

The part is the largest that fits in the order in which the caller names the units he is flexible
about: the first gets what fits, then the next. Refuses to take anything: it only says what may be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.quota.counting import Counter, Rule
from services.quota.model import Outcome


@dataclass(frozen=True, slots=True)
class Flexible:
    """A unit of which a part is accepted.

    Args:
        extra: The most that is granted beyond the least that is accepted, in quanta.
        weights: The positions of the amounts that grow with it, each by a fraction of two integers
            for each quantum, rounded up.
    """

    extra: int
    weights: tuple[tuple[int, int, int], ...]

    def added(self, quantity: int) -> tuple[tuple[int, int], ...]:
        """Answer by how much which amounts grow when so much more is granted."""
        return tuple((slot, -(-quantity * num // den)) for slot, num, den in self.weights)


@dataclass(frozen=True, slots=True)
class Demand:
    """How much is asked of counters.

    Args:
        amounts: All that is asked, by position.
        least: The least that is accepted; nothing where it is all or nothing.
        flexible: The units between the two, in the order in which they are given what fits.
    """

    amounts: tuple[int, ...]
    least: tuple[int, ...] = ()
    flexible: tuple[Flexible, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A counter that is to give the amount at a position, by the rule of its limit."""

    name: str
    counter: Counter
    rule: Rule
    slot: int

    def admits(self, amounts: Sequence[int]) -> bool:
        """Tell whether its amount fits."""
        return self.counter.admits(self.rule, amounts[self.slot])


@dataclass(frozen=True, slots=True)
class Admission:
    """What may be taken.

    Args:
        amounts: How much, by position; nothing where the call is refused.
        granted: How much of each flexible unit beyond the least, if not all.
        misfits: The counters on which not all that was asked fits.
    """

    outcome: Outcome
    amounts: tuple[int, ...] = ()
    granted: tuple[int, ...] = ()
    misfits: frozenset[str] = frozenset()


def admit(sources: Sequence[Source], demand: Demand, *, is_shadow: bool) -> Admission:
    """Decide how much of a demand its sources give; in shadow none of them refuses."""
    misfits = [source for source in sources if not source.admits(demand.amounts)]
    names = frozenset(source.name for source in misfits)
    refusing = [] if is_shadow else [source for source in sources if source.rule.refuses]
    if not any(source in refusing for source in misfits):
        outcome = Outcome.EXCEEDING if misfits else Outcome.ALLOWED
        return Admission(outcome, demand.amounts, misfits=names)
    if not demand.least or not all(source.admits(demand.least) for source in refusing):
        return Admission(Outcome.DENIED, misfits=names)
    amounts = list(demand.least)
    granted = []
    for unit in demand.flexible:
        quantity = max(min([unit.extra, *_most(unit, refusing, amounts)]), 0)
        granted.append(quantity)
        for slot, added in unit.added(quantity):
            amounts[slot] += added
    return Admission(Outcome.PARTIAL, tuple(amounts), tuple(granted), names)


def _most(unit: Flexible, refusing: Sequence[Source], amounts: Sequence[int]) -> list[int]:
    """Answer how much of a unit each source could still give that grows with it."""
    return [
        (source.counter.room_left(source.rule) - amounts[slot]) * den // num
        for slot, num, den in unit.weights
        for source in refusing
        if source.slot == slot
    ]
