"""What is left of revenue once providers are paid: for each customer, model and plan.

The revenue of a line belongs to the models whose usage it prices, in proportion to what the usage
of each comes to by itself, before allowances, bounds and discounts; the shares add up to the line.
Refuses to rate differently than `pipeline`, to look costs up, and to convert by rates of its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import Enum, auto

from kit.decimals import exactly
from kit.errors import InvalidInput
from kit.interval import Interval
from services.rating.model import (
    LineKind,
    Meter,
    Plan,
    PlanVersion,
    Price,
    Rating,
    Usage,
    UsageEntry,
)
from services.rating.pipeline import Terms, rate_period
from services.rating.pricing import divide
from services.rating.selection import Reading
from services.rating.simulation import SimulatedCustomer, SimulatedPeriod

MODEL = "model"
PROVIDER = "provider"
SERVICE_TIER = "service_tier"
NO_MODEL = ""

_ZERO = Decimal(0)
_PERCENT = 100


class MarginScope(Enum):
    """What a margin is told of."""

    TOTAL = auto()
    CUSTOMER = auto()
    MODEL = auto()
    PLAN = auto()


@dataclass(frozen=True, slots=True)
class Margin:
    """Revenue and cost of all, a customer, a model or a plan."""

    scope: MarginScope
    name: str
    revenue: Decimal
    cost: Decimal

    @property
    def amount(self) -> Decimal:
        """What is left."""
        with exactly():
            return self.revenue - self.cost

    @property
    def percent(self) -> Decimal | None:
        """What is left of a hundred; nothing without revenue."""
        if not self.revenue:
            return None
        with exactly():
            return divide((self.revenue - self.cost) * _PERCENT, self.revenue)

    def is_below(self, minimum_percent: Decimal) -> bool:
        """Tell whether too little is left; cost without revenue always is too little."""
        percent = self.percent
        return self.cost > 0 if percent is None else percent < minimum_percent


@dataclass(frozen=True, slots=True)
class MarginAlert:
    """A margin below a threshold, as it was reported."""

    alert_id: int
    margin: Margin
    minimum_percent: Decimal
    interval: Interval
    currency: str
    create_time: datetime


@dataclass(frozen=True, slots=True)
class EventCost:
    """What an event of a customer cost by which model, in the currency of the report."""

    customer_id: str
    model: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class MarginQuestion:
    """Whose margins are asked for, over which periods, and in which currency."""

    periods: tuple[SimulatedPeriod, ...]
    customers: tuple[SimulatedCustomer, ...]
    currency: str
    exchange_rates: Mapping[str, Decimal]

    @property
    def interval(self) -> Interval:
        """From the start of the first period to the end of the last."""
        return Interval(self.periods[0].period.start, self.periods[-1].period.end)

    def worth(self, currency: str) -> Decimal:
        """Answer what one of a currency is worth in that of the report.

        Raises:
            InvalidInput: it is not known.
        """
        if currency == self.currency:
            return Decimal(1)
        rate = self.exchange_rates.get(currency)
        if rate is None:
            raise InvalidInput.of(
                f"exchange_rates.{currency}",
                f"is required: something is billed or charged in {currency}",
            )
        return rate


@dataclass(frozen=True, slots=True)
class MarginReport:
    """The margins, and how many events of which provider and model have no known cost."""

    currency: str
    margins: tuple[Margin, ...]
    uncosted: tuple[tuple[str, str, int], ...]


@dataclass(slots=True)
class MarginTally:
    """Revenue and cost, added up in each scope."""

    plan_of: Mapping[str, str]
    _revenues: defaultdict[tuple[MarginScope, str], Decimal] = field(
        default_factory=lambda: defaultdict(Decimal)
    )
    _costs: defaultdict[tuple[MarginScope, str], Decimal] = field(
        default_factory=lambda: defaultdict(Decimal)
    )

    def add_revenue(self, customer_id: str, by_model: Mapping[str, Decimal]) -> None:
        """Count what a customer was billed, by model."""
        with exactly():
            for model, amount in by_model.items():
                for key in self._keys(customer_id, model):
                    self._revenues[key] += amount

    def add_costs(self, costs: Iterable[EventCost]) -> None:
        """Count what events cost."""
        with exactly():
            for cost in costs:
                for key in self._keys(cost.customer_id, cost.model):
                    self._costs[key] += cost.amount

    def margins(self) -> tuple[Margin, ...]:
        """Answer the margin of all, then of each customer, model and plan by name."""
        keys = {*self._revenues, *self._costs, (MarginScope.TOTAL, "")}
        ordered = sorted(keys, key=lambda key: (key[0].value, key[1]))
        return tuple(
            Margin(scope, name, self._revenues[scope, name], self._costs[scope, name])
            for scope, name in ordered
        )

    def _keys(self, customer_id: str, model: str) -> tuple[tuple[MarginScope, str], ...]:
        return (
            (MarginScope.TOTAL, ""),
            (MarginScope.CUSTOMER, customer_id),
            (MarginScope.MODEL, model),
            (MarginScope.PLAN, self.plan_of[customer_id]),
        )


def by_model(reading: Reading, meters: Iterable[Meter]) -> Reading:
    """Read usage apart by model as well, where that adds up to the same, so that ratings stay."""
    if not all(meter.adds_up and MODEL in meter.dimensions for meter in meters):
        return reading
    return replace(reading, keys=tuple(sorted({*reading.keys, MODEL})))


def revenue_by_model(
    rated_by: PlanVersion, terms: Terms, usages: Sequence[Usage], rating: Rating
) -> Mapping[str, Decimal]:
    """Share a rating among models; what belongs to none, such as fees, has no name.

    The shares add up to the total of the rating.
    """
    shares: defaultdict[str, Decimal] = defaultdict(Decimal)
    with exactly():
        for price, usage in zip(rated_by.plan.prices, usages, strict=True):
            billed = sum(
                (
                    line.amount.to_decimal()
                    for line in rating.lines
                    if line.price_id == price.price_id
                    and line.kind in {LineKind.USAGE, LineKind.TRUE_UP}
                ),
                _ZERO,
            )
            if billed:
                weights = _weights(rated_by, terms, price, usage)
                for model, amount in _split(billed, weights):
                    shares[model] += amount
        shares[NO_MODEL] += rating.total.to_decimal() - sum(shares.values(), _ZERO)
    return {model: amount for model, amount in shares.items() if amount}


def _weights(
    rated_by: PlanVersion, terms: Terms, price: Price, usage: Usage
) -> Mapping[str, Decimal]:
    """Answer what the usage of each model comes to by itself."""
    models = sorted({_model_of(entry, price) for entry in (*usage.entries, *usage.amounts)})
    if len(models) == 1:
        return {models[0]: Decimal(1)}
    bare = replace(
        price,
        included_quantity=_ZERO,
        rollover=None,
        minimum_amount=None,
        maximum_amount=None,
        discounts=None,
    )
    plan: Plan = replace(
        rated_by.plan, prices=(bare,), base_fee=_ZERO, base_fees=(), commitment=None
    )
    alone = replace(rated_by, plan=plan)
    weights = {}
    for model in models:
        part = _usage_of(usage, model, price)
        lines = rate_period(alone, terms, (part,)).lines
        weights[model] = sum((line.unrounded_amount for line in lines), _ZERO)
    return weights


def _usage_of(usage: Usage, model: str, price: Price) -> Usage:
    def only(entries: tuple[UsageEntry, ...]) -> tuple[UsageEntry, ...]:
        return tuple(entry for entry in entries if _model_of(entry, price) == model)

    return Usage(
        only(usage.entries),
        usage.unit,
        only(usage.amounts),
        usage.excluded,
        only(usage.before),
        tuple(map(only, usage.earlier)),
    )


def _model_of(entry: UsageEntry, price: Price) -> str:
    return entry.dimensions.get(MODEL) or dict(price.dimensions).get(MODEL, NO_MODEL)


def _split(amount: Decimal, weights: Mapping[str, Decimal]) -> Iterator[tuple[str, Decimal]]:
    """Share an amount in proportion; the last of the largest weights takes what is cut off."""
    total = sum(weights.values(), _ZERO)
    if not total:
        yield NO_MODEL, amount
        return
    largest = max(weights, key=lambda model: (weights[model], model))
    left = amount
    for model, weight in weights.items():
        if model != largest:
            share = divide(amount * weight, total)
            left -= share
            yield model, share
    yield largest, left
