"""What a quantity costs: one function for each kind of price, each answering formula steps.

The amount of a price is the sum of its steps. Everything is computed inside `kit.decimals.exactly`,
which the caller opens: products and sums are exact, and only `divide` may cut. Refuses to round,
to include quantities and to know customers; that is the pipeline's order, not a price's.
"""

from collections.abc import Iterator, Sequence
from decimal import ROUND_05UP, Context, Decimal, Inexact

from kit.decimals import DECIMALS_MAX, EXACT, plain
from services.rating.model import FormulaStep
from services.rating.prices import (
    GraduatedPercentagePrice,
    GraduatedPrice,
    PackagePrice,
    PercentageTier,
    QuantityModel,
    StairstepPrice,
    StandardPrice,
    Tier,
    VolumePrice,
)

_ZERO = Decimal(0)
_ONE = Decimal(1)
_CUTTING = Context(prec=EXACT.prec, rounding=ROUND_05UP)
_LAST_DECIMAL = Decimal(1).scaleb(-DECIMALS_MAX)


def price_quantity(
    model: QuantityModel, quantity: Decimal, before: Decimal | None = None
) -> tuple[FormulaStep, ...]:
    """Price a quantity, not below 0; the steps' amounts add up to what it costs.

    `before` is what fills the tiers already; nothing means that they are new.
    """
    match model:
        case StandardPrice():
            return _price_standard(model, quantity)
        case GraduatedPrice(tiers):
            return tuple(_price_tiers([_as_amounts(tier) for tier in tiers], quantity, before))
        case GraduatedPercentagePrice(percentages):
            shares = [_as_percentages(tier) for tier in percentages]
            return tuple(_price_tiers(shares, quantity, before))
        case VolumePrice():
            return _price_volume(model, quantity, before or _ZERO)
        case StairstepPrice():
            return _price_stairs(model, quantity)
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


def percent_of(rate_percent: Decimal, amount: Decimal) -> Decimal:
    """Take a percentage, exactly."""
    return (amount * rate_percent).scaleb(-2)


def price_per(
    description: str, quantity: Decimal, amount: Decimal, per_quantity: Decimal
) -> FormulaStep:
    """Price a quantity of which `per_quantity` cost the amount."""
    if per_quantity == _ONE:
        return FormulaStep(description, quantity, amount, amount * quantity)
    # Multiplied first: 7 units at 1 per 3 come to 7 / 3, not to 7 times a cut third.
    total = divide(amount * quantity, per_quantity)
    return FormulaStep(description, quantity, divide(amount, per_quantity), total)


def bounds(start: Decimal, up_to: Decimal | None) -> str:
    """Describe from where to where a tier goes."""
    if up_to is None:
        return f"above {plain(start)}" if start else ""
    if start:
        return f"above {plain(start)} up to {plain(up_to)}"
    return f"up to {plain(up_to)}"


def _price_standard(price: StandardPrice, quantity: Decimal) -> tuple[FormulaStep, ...]:
    if price.per_quantity == _ONE:
        return (FormulaStep("each", quantity, price.amount, price.amount * quantity),)
    description = f"{plain(price.amount)} per {plain(price.per_quantity)}"
    return (price_per(description, quantity, price.amount, price.per_quantity),)


_PricedTier = tuple[Decimal | None, Decimal, Decimal, str]
"""The bound, the amount of a unit, the flat amount, and what is behind the amount, if anything."""


def _as_amounts(tier: Tier) -> _PricedTier:
    return tier.up_to, tier.unit_amount, tier.flat_amount, ""


def _as_percentages(tier: PercentageTier) -> _PricedTier:
    rate = tier.rate_percent
    return tier.up_to, rate.scaleb(-2), tier.flat_amount, f"{plain(rate)}%"


def _price_tiers(
    tiers: Sequence[_PricedTier], quantity: Decimal, before: Decimal | None
) -> Iterator[FormulaStep]:
    filled = before or _ZERO
    total = filled + quantity
    start = _ZERO
    for number, (up_to, unit_amount, flat_amount, rate) in enumerate(tiers, 1):
        is_reached = before is None if number == 1 else total > start >= filled
        if number > 1 and total <= start:
            break
        end = total if up_to is None else min(total, up_to)
        units = end - max(start, filled)
        if units > 0 or (units == 0 and not quantity):
            name = ": ".join(filter(None, (f"tier {number}", rate, bounds(start, up_to))))
            yield FormulaStep(name, units, unit_amount, unit_amount * units, tier=number)
        if flat_amount and is_reached:
            yield flat(number, flat_amount)
        start = end


def _price_volume(
    price: VolumePrice, quantity: Decimal, before: Decimal
) -> tuple[FormulaStep, ...]:
    number, tier, start = tier_of(price, before + quantity)
    name = ": ".join(filter(None, (f"all in tier {number}", bounds(start, tier.up_to))))
    amount = tier.unit_amount * quantity
    step = FormulaStep(name, quantity, tier.unit_amount, amount, tier=number)
    return (step, flat(number, tier.flat_amount)) if tier.flat_amount else (step,)


def tier_of(price: VolumePrice, quantity: Decimal) -> tuple[int, Tier, Decimal]:
    """Find the tier in which a quantity ends, its number, and where it starts."""
    start = _ZERO
    for number, tier in enumerate(price.tiers, 1):
        if tier.up_to is None or quantity <= tier.up_to:
            return number, tier, start
        start = tier.up_to
    raise AssertionError("the last tier has no end")


def _price_stairs(price: StairstepPrice, quantity: Decimal) -> tuple[FormulaStep, ...]:
    start = _ZERO
    for number, stair in enumerate(price.stairs, 1):
        if stair.up_to is None or quantity <= stair.up_to:
            name = ": ".join(filter(None, (f"stair {number}", bounds(start, stair.up_to))))
            return (FormulaStep(name, _ONE, stair.amount, stair.amount, tier=number),)
        start = stair.up_to
    raise AssertionError("the last stair has no end")


def _price_packages(price: PackagePrice, quantity: Decimal) -> tuple[FormulaStep, ...]:
    full, rest = divmod(quantity, price.package_size)
    packages = full + _ONE if rest else full
    description = f"packages of {plain(price.package_size)}"
    return (FormulaStep(description, packages, price.amount, price.amount * packages),)


def flat(number: int, amount: Decimal) -> FormulaStep:
    """Charge the flat amount of a tier."""
    return FormulaStep(f"tier {number}: flat", _ONE, amount, amount, tier=number)
