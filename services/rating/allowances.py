"""What is included in a price: used first, and kept for later periods where the price says so.

Refuses to know where usage comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from kit.decimals import plain
from services.rating.model import FormulaStep, Stage
from services.rating.prices import Rollover

_ZERO = Decimal(0)


@dataclass(slots=True)
class _Kept:
    quantity: Decimal
    periods_left: int


def include(
    included: Decimal, kept: Decimal, quantity: Decimal
) -> tuple[tuple[FormulaStep, ...], Decimal]:
    """Take what was kept and what is included off the quantity; nothing allowed has no step."""
    steps = []
    for name, allowed in (("kept from earlier periods", kept), ("included", included)):
        if allowed:
            used = min(quantity, allowed)
            description = f"{name}: up to {plain(allowed)}"
            steps.append(FormulaStep(description, used, _ZERO, _ZERO, Stage.INCLUDED))
            quantity -= used
    return tuple(steps), quantity


def keep(rollover: Rollover, included: Decimal, earlier: Sequence[Decimal]) -> Decimal:
    """Answer what is kept of earlier periods, given what was used in each, the oldest first."""
    kept: list[_Kept] = []
    for quantity in earlier:
        used = quantity
        for each in kept:
            taken = min(each.quantity, used)
            each.quantity -= taken
            used -= taken
            each.periods_left -= 1
        kept = [each for each in kept if each.periods_left]
        kept.append(_Kept(max(included - used, _ZERO), rollover.periods))
        _limit(rollover, kept)
    return sum((each.quantity for each in kept), _ZERO)


def _limit(rollover: Rollover, kept: Sequence[_Kept]) -> None:
    """Let the oldest lapse where more is kept than the maximum."""
    if rollover.maximum_quantity is None:
        return
    excess = sum((each.quantity for each in kept), _ZERO) - rollover.maximum_quantity
    for each in kept:
        lapsed = min(max(excess, _ZERO), each.quantity)
        each.quantity -= lapsed
        excess -= lapsed
