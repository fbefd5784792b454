"""What a quantity costs: one function for each kind of price, each answering formula steps.

The amount of a price is the sum of its steps. Everything is computed inside `kit.decimals.exactly`,
which the caller opens: products and sums are exact, and only `divide` may cut. Refuses to round,
to include quantities and to know customers; that is the pipeline's order, not a price's.
"""

from decimal import ROUND_05UP, Context, Decimal, Inexact

from kit.decimals import DECIMALS_MAX, EXACT, plain
from services.rating.model import (
    FormulaStep,
    GraduatedPrice,
    PackagePrice,
    PriceModel,
    StandardPrice,
)

_ZERO = Decimal(0)
_ONE = Decimal(1)
_CUTTING = Context(prec=EXACT.prec, rounding=ROUND_05UP)
_LAST_DECIMAL = Decimal(1).scaleb(-DECIMALS_MAX)


def price_quantity(model: PriceModel, quantity: Decimal) -> tuple[FormulaStep, ...]:
    """Price a quantity, not below 0; the steps' amounts add up to what it costs."""
    match model:
        case StandardPrice():
            return _price_standard(model, quantity)
        case GraduatedPrice():
            return _price_graduated(model, quantity)
        case PackagePrice():
            return _price_packages(model, quantity)


def divide(dividend: Decimal, divisor: Decimal) -> Decimal:
    """Divide exactly, or, where the quotient does not end within 100 digits, to 24 decimals.

    The cut never ends in 0 or 5, as the decimal arithmetic specification has it for results that
    are rounded again (round-05up, https://speleotrove.com/decimal/damodel.html): settling the cut
    quotient gives what settling the true one would, in every rounding mode.
    """
    try:
        return EXACT.divide(dividend, divisor)
    except Inexact:
        quotient = _CUTTING.divide(dividend, divisor)
        return quotient.quantize(_LAST_DECIMAL, context=_CUTTING)


def _price_standard(price: StandardPrice, quantity: Decimal) -> tuple[FormulaStep, ...]:
    if price.per_quantity == _ONE:
        amount = price.amount * quantity
        return (FormulaStep("each", quantity, price.amount, amount),)
    # Multiplied first: 7 units at 1 per 3 come to 7 / 3, not to 7 times a cut third.
    amount = divide(price.amount * quantity, price.per_quantity)
    description = f"{plain(price.amount)} per {plain(price.per_quantity)}"
    unit_amount = divide(price.amount, price.per_quantity)
    return (FormulaStep(description, quantity, unit_amount, amount),)


def _price_graduated(price: GraduatedPrice, quantity: Decimal) -> tuple[FormulaStep, ...]:
    steps = []
    start = _ZERO
    for number, tier in enumerate(price.tiers, 1):
        if number > 1 and quantity <= start:
            break
        end = quantity if tier.up_to is None else min(quantity, tier.up_to)
        units = end - start
        name = f"tier {number}{_bounds(start, tier.up_to)}"
        steps.append(FormulaStep(name, units, tier.unit_amount, tier.unit_amount * units))
        if tier.flat_amount:
            steps.append(
                FormulaStep(f"tier {number}: flat", _ONE, tier.flat_amount, tier.flat_amount)
            )
        start = end
    return tuple(steps)


def _price_packages(price: PackagePrice, quantity: Decimal) -> tuple[FormulaStep, ...]:
    full, rest = divmod(quantity, price.package_size)
    packages = full + _ONE if rest else full
    description = f"packages of {plain(price.package_size)}"
    return (FormulaStep(description, packages, price.amount, price.amount * packages),)


def _bounds(start: Decimal, up_to: Decimal | None) -> str:
    if up_to is None:
        return f": above {plain(start)}" if start else ""
    if start:
        return f": above {plain(start)} up to {plain(up_to)}"
    return f": up to {plain(up_to)}"
