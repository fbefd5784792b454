"""The order in which a period is rated, from usage to settled lines; the same for every price.

Usage -> what is included -> the price -> rounding, half up, once for each line. Refuses to fetch
usage and to choose the version of a plan: both are arguments.
"""

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

from kit.decimals import exactly, plain
from kit.errors import InvalidInput
from kit.interval import Interval
from kit.money import Money, Rounding, settle
from services.rating.model import (
    USAGE_MAX,
    FormulaStep,
    GivenQuantity,
    LineKind,
    Plan,
    PlanVersion,
    Price,
    Proration,
    RatedLine,
    Rating,
    Usage,
    UsageReference,
)
from services.rating.pricing import divide, price_quantity

_ZERO = Decimal(0)
_ONE = Decimal(1)


def rate_period(
    rated_by: PlanVersion,
    customer_id: str,
    period: Interval,
    usages: Sequence[Usage],
    proration: Proration | None = None,
) -> Rating:
    """Rate one period of one customer; `usages` holds what each price of the plan counts, in order.

    Raises:
        InvalidInput: a quantity, or an amount in minor units, is too large to be billed.
    """
    plan = rated_by.plan
    with exactly():
        lines = [_rate_base_fee(plan, period, proration)] if plan.base_fee else []
        for price, usage in zip(plan.prices, usages, strict=True):
            lines.append(_rate_price(plan, price, customer_id, period, usage))
        total = sum((line.amount for line in lines), Money.zero(plan.currency))
    return Rating(plan.plan_id, rated_by.version, plan.currency, tuple(lines), total)


def count_given(plan: Plan, given: Sequence[GivenQuantity]) -> tuple[Usage, ...]:
    """Answer what each price of the plan counts of usage that the caller gives; units are unknown.

    Usage that no price counts is left out, as it is when a meter has no price.
    """
    by_meter = defaultdict[str, list[tuple[dict[str, str], Decimal]]](list)
    for usage in given:
        by_meter[usage.meter_id].append((dict(usage.dimensions), usage.quantity))

    def count(price: Price) -> Usage:
        counted = (
            quantity
            for values, quantity in by_meter[price.meter_id]
            if all(values.get(name) == value for name, value in price.dimensions)
        )
        return Usage(sum(counted, _ZERO), unit="")

    with exactly():
        return tuple(map(count, plan.prices))


def _rate_base_fee(plan: Plan, period: Interval, proration: Proration | None) -> RatedLine:
    """Bill base fee x billed days / period days, which is the base fee for a whole period."""
    if proration is None or proration.billed_days == proration.period_days:
        step = FormulaStep("base fee", _ONE, plan.base_fee, plan.base_fee)
    else:
        billed, whole = Decimal(proration.billed_days), Decimal(proration.period_days)
        step = FormulaStep(
            f"base fee: {proration.billed_days} of {proration.period_days} days",
            divide(billed, whole),
            plan.base_fee,
            divide(plan.base_fee * billed, whole),
        )
    return RatedLine(
        kind=LineKind.BASE_FEE,
        price_id="",
        description=f"{plan.name}: base fee",
        quantity=step.quantity,
        unit="period",
        unrounded_amount=step.amount,
        amount=settle(step.amount, plan.currency, Rounding.HALF_UP),
        steps=(step,),
        usage=None,
        category=plan.category,
        period=period,
    )


def _rate_price(
    plan: Plan, price: Price, customer_id: str, period: Interval, usage: Usage
) -> RatedLine:
    """Rate one price: the pipeline itself."""
    _check_quantity(price, usage.quantity)
    included, billable = _include(price.included_quantity, usage.quantity)
    steps = included + price_quantity(price.model, billable)
    unrounded_amount = sum((step.amount for step in steps), _ZERO)
    assert unrounded_amount >= 0, "no price gives a negative fee"
    return RatedLine(
        kind=LineKind.USAGE,
        price_id=price.price_id,
        description=price.name,
        quantity=usage.quantity,
        unit=usage.unit,
        unrounded_amount=unrounded_amount,
        amount=settle(unrounded_amount, plan.currency, Rounding.HALF_UP),
        steps=steps,
        usage=UsageReference(price.meter_id, customer_id, period, price.dimensions),
        category=price.category,
        period=period,
    )


def _include(included: Decimal, quantity: Decimal) -> tuple[tuple[FormulaStep, ...], Decimal]:
    """Take what is included off the quantity; a price without an allowance has no such step."""
    if not included:
        return (), quantity
    used = min(quantity, included)
    step = FormulaStep(f"included: up to {plain(included)}", used, _ZERO, _ZERO)
    return (step,), quantity - used


def _check_quantity(price: Price, quantity: Decimal) -> None:
    assert quantity >= 0, "usage is never negative"
    if quantity > USAGE_MAX:
        raise InvalidInput.of(
            "quantity", f"of price {price.price_id} is above {plain(USAGE_MAX)}, too much to rate"
        )
