"""What usage costs the seller: the rates of its providers, and what one event comes to by them.

A quantity that another includes is taken off it before that is charged, so that no token is charged
twice. The context of a call chooses the rate of the whole call. Refuses to round, to convert
currencies and to know who used something.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, Inexact

from kit.decimals import EXACT, exactly
from kit.errors import InvalidInput

CONTEXT_QUANTITY = "input_tokens"
RATES_MAX = 200
STANDARD_TIER = ""

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class CostRate:
    """What one unit of a quantity costs, in calls of a service tier and above a context.

    `part_of` is the quantity that includes this one, if there is one.
    """

    quantity: str
    part_of: str
    service_tier: str
    context_above: Decimal
    unit_amount: Decimal


@dataclass(frozen=True, slots=True)
class ProviderCost:
    """What a provider charges for a model from some time on; no time is since ever."""

    provider: str
    model: str
    currency: str
    effective_time: datetime | None
    rates: tuple[CostRate, ...]
    context_quantity: str = CONTEXT_QUANTITY
    source: str = ""


@dataclass(frozen=True, slots=True)
class StoredCost:
    """A cost as it was put; of those for the same time the highest revision counts."""

    cost: ProviderCost
    revision: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class CostStep:
    """A quantity of an event without its parts, and what it comes to."""

    rate: CostRate
    quantity: Decimal
    amount: Decimal


_Choices = Mapping[str, tuple[CostRate, ...]]
"""By quantity: its rates, those above the largest context first."""


@dataclass(slots=True)
class RateTable:
    """The rates of a cost, ordered so that an event finds its own at once."""

    cost: ProviderCost
    _by_tier: dict[str, _Choices] = field(default_factory=dict)

    def steps_of(
        self, quantities: Mapping[str, Decimal], service_tier: str
    ) -> tuple[CostStep, ...]:
        """Charge one event; quantities without a rate cost nothing, and none is below 0.

        Raises:
            InvalidInput: an amount has more digits than can be computed exactly.
        """
        context = quantities.get(self.cost.context_quantity, _ZERO)
        choices = self._choices(service_tier)
        try:
            with exactly():
                rates = [_at(choices[name], context) for name in quantities if name in choices]
                units = {rate.quantity: quantities[rate.quantity] for rate in rates if rate}
                for rate in rates:
                    if rate is not None and rate.part_of in units:
                        units[rate.part_of] -= quantities[rate.quantity]
                return tuple(
                    _step(rate, max(units[rate.quantity], _ZERO)) for rate in rates if rate
                )
        except Inexact as error:
            raise InvalidInput.of(
                "quantities", f"come to an amount of more than {EXACT.prec} digits"
            ) from error

    def _choices(self, service_tier: str) -> _Choices:
        """Answer the rates of a tier; what it does not price has the standard ones."""
        if service_tier not in self._by_tier:
            standard = _grouped(self.cost, STANDARD_TIER)
            if service_tier == STANDARD_TIER:
                self._by_tier[service_tier] = standard
            else:
                own = _grouped(self.cost, service_tier)
                if not own:
                    return self._choices(STANDARD_TIER)
                self._by_tier[service_tier] = {**standard, **own}
        return self._by_tier[service_tier]


def amount_of(steps: tuple[CostStep, ...]) -> Decimal:
    """Add up what an event cost."""
    with exactly():
        return sum((step.amount for step in steps), _ZERO)


def in_effect(stored: tuple[StoredCost, ...], instant: datetime) -> StoredCost | None:
    """Find what counts at an instant among what was put for one provider and model."""
    begun = [
        each
        for each in stored
        if each.cost.effective_time is None or each.cost.effective_time <= instant
    ]
    return max(begun, key=_order, default=None)


def _order(stored: StoredCost) -> tuple[bool, datetime | None, int]:
    since = stored.cost.effective_time
    # Without a time, the first element decides, and the times are not compared.
    return since is not None, since, stored.revision


def _grouped(cost: ProviderCost, service_tier: str) -> _Choices:
    rates = defaultdict[str, list[CostRate]](list)
    for rate in cost.rates:
        if rate.service_tier == service_tier:
            rates[rate.quantity].append(rate)
    return {
        name: tuple(sorted(several, key=_context_above, reverse=True))
        for name, several in rates.items()
    }


def _context_above(rate: CostRate) -> Decimal:
    return rate.context_above


def _at(rates: tuple[CostRate, ...], context: Decimal) -> CostRate | None:
    for rate in rates:
        if context > rate.context_above or not rate.context_above:
            return rate
    return None


def _step(rate: CostRate, units: Decimal) -> CostStep:
    return CostStep(rate, units, rate.unit_amount * units)
