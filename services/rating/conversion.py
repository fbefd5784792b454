"""How the quantity that a meter counts becomes the one that is priced: divided, then rounded.

Refuses to know what a unit costs.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal

from kit.decimals import EXACT, plain
from services.rating.model import FormulaStep, Stage
from services.rating.prices import QuantityConversion, QuantityRounding
from services.rating.pricing import divide

_ZERO = Decimal(0)
_ROUNDINGS = {
    QuantityRounding.HALF_UP: ROUND_HALF_UP,
    QuantityRounding.UP: ROUND_CEILING,
    QuantityRounding.DOWN: ROUND_FLOOR,
}


def convert(conversion: QuantityConversion, quantity: Decimal) -> Decimal:
    """Divide a quantity, and round it where the price says so."""
    converted = divide(quantity, conversion.divisor)
    if conversion.rounding is None:
        return converted
    places = Decimal(1).scaleb(-conversion.decimals)
    rounding = _ROUNDINGS[conversion.rounding]
    return converted.quantize(places, context=Context(EXACT.prec, rounding))


def convert_quantity(
    conversion: QuantityConversion, quantity: Decimal
) -> tuple[tuple[FormulaStep, ...], Decimal]:
    """Convert a quantity, and say how in a step."""
    converted = convert(conversion, quantity)
    description = f"divided by {plain(conversion.divisor)}"
    if conversion.rounding is not None:
        word = conversion.rounding.name.lower().replace("_", " ")
        description += f", rounded {word} to {conversion.decimals} decimals"
    return (FormulaStep(description, converted, _ZERO, _ZERO, Stage.CONVERSION),), converted
