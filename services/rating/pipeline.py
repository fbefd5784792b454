"""The order in which a period is rated, from usage to settled lines; the same for every price.

Usage -> conversion of the quantity -> what is included -> the price -> conversion of virtual
credits -> rounding, half up, once for each line. Refuses to fetch usage and to choose the version
of a plan: both are arguments.
"""

from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, Inexact

from kit.decimals import EXACT, exactly, plain
from kit.errors import InvalidInput
from kit.interval import Interval
from kit.money import Money, Rounding, settle
from services.rating.entry_pricing import price_entries, price_metered_amount, price_percentage
from services.rating.model import (
    USAGE_MAX,
    FormulaStep,
    LineKind,
    Plan,
    PlanVersion,
    Price,
    Proration,
    RatedLine,
    Rating,
    Stage,
    Usage,
    UsageEntry,
    UsageReference,
)
from services.rating.prices import (
    ContextTierPrice,
    CostPlusPrice,
    Dimensions,
    DynamicPrice,
    MatrixPrice,
    PercentagePrice,
    QuantityConversion,
    QuantityRounding,
    TimeOfUsePrice,
    VirtualCurrency,
)
from services.rating.pricing import divide, price_quantity

_ZERO = Decimal(0)
_ONE = Decimal(1)
_ROUNDINGS = {
    QuantityRounding.HALF_UP: ROUND_HALF_UP,
    QuantityRounding.UP: ROUND_CEILING,
    QuantityRounding.DOWN: ROUND_FLOOR,
}


def rate_period(
    rated_by: PlanVersion,
    customer_id: str,
    period: Interval,
    usages: Sequence[Usage],
    proration: Proration | None = None,
) -> Rating:
    """Rate one period of one customer; `usages` holds what each price of the plan counts, in order.

    Raises:
        InvalidInput: a quantity, or an amount in minor units, is too large to be billed, or an
            amount has more digits than can be computed exactly.
    """
    plan = rated_by.plan
    try:
        with exactly():
            lines = [_rate_base_fee(plan, period, proration)] if plan.base_fee else []
            for price, usage in zip(plan.prices, usages, strict=True):
                lines.extend(_rate_price(plan, price, customer_id, period, usage))
            total = sum((line.amount for line in lines), Money.zero(plan.currency))
    except Inexact as error:
        raise InvalidInput.of(
            "quantity", f"comes to an amount of more than {EXACT.prec} digits"
        ) from error
    return Rating(plan.plan_id, rated_by.version, plan.currency, tuple(lines), total)


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
) -> Iterator[RatedLine]:
    """Rate one price: a line for its usage, or for each group of it."""
    for group, part in _groups(price, usage):
        quantity = sum((entry.quantity for entry in part.entries), _ZERO)
        _check_quantity(price, quantity)
        steps = _price_usage(price, quantity, part)
        unrounded_amount = sum((step.amount for step in steps), _ZERO)
        assert unrounded_amount >= 0, "no price gives a negative fee"
        values = ", ".join(value or "other" for _, value in group)
        yield RatedLine(
            kind=LineKind.USAGE,
            price_id=price.price_id,
            description=f"{price.name}: {values}" if group else price.name,
            quantity=quantity,
            unit=usage.unit,
            unrounded_amount=unrounded_amount,
            amount=settle(unrounded_amount, plan.currency, Rounding.HALF_UP),
            steps=steps,
            usage=UsageReference(
                price.meter_id,
                customer_id,
                period,
                tuple(sorted((*price.dimensions, *group))) if group else price.dimensions,
                usage.excluded,
            ),
            category=price.category,
            period=period,
        )


def _groups(price: Price, usage: Usage) -> Iterator[tuple[Dimensions, Usage]]:
    """Keep usage apart by the dimensions a price groups by, ordered by their values."""
    if not price.group_by:
        yield (), usage
        return

    def group_of(entry: UsageEntry) -> Dimensions:
        return tuple((name, entry.dimensions.get(name, "")) for name in price.group_by)

    for group in sorted({group_of(entry) for entry in (*usage.entries, *usage.amounts)}):
        yield (
            group,
            Usage(
                tuple(entry for entry in usage.entries if group_of(entry) == group),
                usage.unit,
                tuple(entry for entry in usage.amounts if group_of(entry) == group),
            ),
        )


def _price_usage(price: Price, quantity: Decimal, usage: Usage) -> tuple[FormulaStep, ...]:
    """The pipeline itself: convert the quantity, include, price, convert the credits."""
    steps: tuple[FormulaStep, ...] = ()
    if price.conversion is not None:
        converted, quantity = _convert_quantity(price.conversion, quantity)
        steps += converted
    match price.model:
        case MatrixPrice() | ContextTierPrice() | TimeOfUsePrice() as model:
            priced = price_entries(model, usage.entries)
            priced += _include_share(price.included_quantity, quantity, priced)
        case DynamicPrice() | CostPlusPrice() as model:
            priced = price_metered_amount(model, quantity, usage.amounts)
        case PercentagePrice() as model:
            priced = price_percentage(model, usage.entries)
        case _ as model:
            included, quantity = _include(price.included_quantity, quantity)
            steps += included
            priced = price_quantity(model, quantity)
    if price.virtual_currency is not None:
        priced = _convert_credits(price.virtual_currency, priced)
    return steps + priced


def _convert_quantity(
    conversion: QuantityConversion, quantity: Decimal
) -> tuple[tuple[FormulaStep, ...], Decimal]:
    converted = divide(quantity, conversion.divisor)
    description = f"divided by {plain(conversion.divisor)}"
    if conversion.rounding is not None:
        places = Decimal(1).scaleb(-conversion.decimals)
        rounding = _ROUNDINGS[conversion.rounding]
        converted = converted.quantize(places, context=Context(EXACT.prec, rounding))
        word = conversion.rounding.name.lower().replace("_", " ")
        description += f", rounded {word} to {conversion.decimals} decimals"
    return (FormulaStep(description, converted, _ZERO, _ZERO, Stage.CONVERSION),), converted


def _include(included: Decimal, quantity: Decimal) -> tuple[tuple[FormulaStep, ...], Decimal]:
    """Take what is included off the quantity; a price without an allowance has no such step."""
    if not included:
        return (), quantity
    used = min(quantity, included)
    step = FormulaStep(f"included: up to {plain(included)}", used, _ZERO, _ZERO, Stage.INCLUDED)
    return (step,), quantity - used


def _include_share(
    included: Decimal, quantity: Decimal, priced: Sequence[FormulaStep]
) -> tuple[FormulaStep, ...]:
    """Take what is included off all parts of the usage, in proportion."""
    if not included or not quantity:
        return ()
    used = min(quantity, included)
    amount = -divide(sum((step.amount for step in priced), _ZERO) * used, quantity)
    description = f"included: up to {plain(included)}"
    return (FormulaStep(description, used, divide(amount, used), amount, Stage.INCLUDED),)


def _convert_credits(
    currency: VirtualCurrency, steps: Sequence[FormulaStep]
) -> tuple[FormulaStep, ...]:
    """Turn steps in credits into the plan's currency; each names its credits."""
    converted = [
        FormulaStep(
            f"{step.description} ({plain(step.amount)} {currency.code})",
            step.quantity,
            step.unit_amount * currency.rate,
            step.amount * currency.rate,
            step.stage,
        )
        for step in steps
    ]
    if currency.decimals is not None:
        exact = sum((step.amount for step in steps), _ZERO)
        places = Decimal(1).scaleb(-currency.decimals)
        rounded = exact.quantize(places, context=Context(EXACT.prec, ROUND_HALF_UP))
        description = f"rounded to {plain(rounded)} {currency.code}"
        difference = (rounded - exact) * currency.rate
        converted.append(FormulaStep(description, rounded - exact, currency.rate, difference))
    return tuple(converted)


def _check_quantity(price: Price, quantity: Decimal) -> None:
    assert quantity >= 0, "usage is never negative"
    if quantity > USAGE_MAX:
        raise InvalidInput.of(
            "quantity", f"of price {price.price_id} is above {plain(USAGE_MAX)}, too much to rate"
        )
