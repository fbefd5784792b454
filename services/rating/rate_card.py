"""What one unit costs under a plan, for those who turn usage into money before it is rated.

Refuses to know what was used: of tiers and hours it names the dearest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

from kit.decimals import exactly
from services.rating.model import Plan, Price
from services.rating.prices import (
    ContextTierPrice,
    CostPlusPrice,
    Dimensions,
    DynamicPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    MatrixPrice,
    PackagePrice,
    PercentagePrice,
    PriceModel,
    Stair,
    StairstepPrice,
    StandardPrice,
    TimeOfUsePrice,
    VolumePrice,
)
from services.rating.pricing import divide

_ZERO = Decimal(0)
_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class RateCardEntry:
    """What a unit of a meter costs, at most where it is not exact."""

    price_id: str
    meter_id: str
    dimensions: Dimensions
    unit_amount: Decimal
    is_exact: bool
    event_amount: Decimal = _ZERO
    context_quantity: str = ""
    context_above: Decimal | None = None


def rate_card_of(plan: Plan) -> tuple[RateCardEntry, ...]:
    """List what units cost under a plan, in the order of its prices."""
    with exactly():
        return tuple(entry for price in plan.prices for entry in _entries_of(price))


def _entries_of(price: Price) -> Iterator[RateCardEntry]:
    is_plain = not (
        price.included_quantity
        or price.discounts
        or price.minimum_amount is not None
        or price.maximum_amount is not None
        or price.recurrence
        or (price.conversion and price.conversion.rounding)
        or (price.virtual_currency and price.virtual_currency.decimals is not None)
    )
    worth = _ONE if price.virtual_currency is None else price.virtual_currency.rate
    divisor = _ONE if price.conversion is None else price.conversion.divisor
    for entry in _by_model(price):
        yield replace(
            entry,
            unit_amount=divide(entry.unit_amount * worth, divisor),
            event_amount=entry.event_amount * worth,
            is_exact=entry.is_exact and is_plain,
        )


def _by_model(price: Price) -> Iterator[RateCardEntry]:
    entry = RateCardEntry(price.price_id, price.meter_id, price.dimensions, _ZERO, is_exact=True)
    match price.model:
        case MatrixPrice(rows, per_quantity):
            for row in rows:
                values = {**dict(price.dimensions), **dict(row.dimensions)}
                yield replace(
                    entry,
                    dimensions=tuple(sorted(values.items())),
                    unit_amount=divide(row.amount, per_quantity),
                )
        case ContextTierPrice(context_quantity, tiers, per_quantity):
            above = _ZERO
            for tier in tiers:
                yield replace(
                    entry,
                    unit_amount=divide(tier.amount, per_quantity),
                    context_quantity=context_quantity,
                    context_above=above,
                )
                above = tier.up_to or above
        case DynamicPrice(meter_id):
            yield replace(entry, meter_id=meter_id, unit_amount=_ONE)
        case CostPlusPrice(meter_id, markup_percent):
            factor = _ONE + markup_percent.scaleb(-2)
            yield replace(entry, meter_id=meter_id, unit_amount=factor)
        case PercentagePrice() as model:
            yield replace(
                entry,
                unit_amount=model.rate_percent.scaleb(-2),
                event_amount=model.fixed_amount,
                is_exact=model == _without_conditions(model),
            )
        case StandardPrice(amount, per_quantity):
            yield replace(entry, unit_amount=divide(amount, per_quantity))
        case _ as model:
            yield replace(entry, unit_amount=_dearest(model), is_exact=False)


def _dearest(model: PriceModel) -> Decimal:
    """Answer what a unit of the dearest tier, hour, package or stair costs."""
    match model:
        case GraduatedPrice(tiers) | VolumePrice(tiers):
            return max(tier.unit_amount for tier in tiers)
        case GraduatedPercentagePrice(percentages):
            return max(tier.rate_percent for tier in percentages).scaleb(-2)
        case PackagePrice(amount, package_size):
            return divide(amount, package_size)
        case TimeOfUsePrice(windows=windows, other_amount=other, per_quantity=per_quantity):
            return divide(max(other, *(window.amount for window in windows)), per_quantity)
        case StairstepPrice(stairs):
            return max(_share_of_stairs(stairs))
    raise AssertionError(f"{model} has entries of its own")


def _share_of_stairs(stairs: tuple[Stair, ...]) -> Iterator[Decimal]:
    """Share each stair among its units; the last has no end, and shares among those before it."""
    yield from (divide(each.amount, each.up_to) for each in stairs if each.up_to is not None)
    for before, last in pairwise(stairs):
        if last.up_to is None and before.up_to is not None:
            yield divide(last.amount, before.up_to)
    if len(stairs) == 1:
        yield stairs[0].amount


def _without_conditions(model: PercentagePrice) -> PercentagePrice:
    return PercentagePrice(model.rate_percent, model.fixed_amount, None, None, None, None)
