"""What is taken off the price of usage: discounts, and what lies beyond a maximum.

Each answers formula steps with amounts below 0, so that the steps still add up to the line. Refuses
to take off more than there is.
"""

from collections.abc import Iterator
from decimal import Decimal

from kit.decimals import plain
from services.rating.model import FormulaStep, Stage
from services.rating.pricing import divide, percent_of

_ZERO = Decimal(0)
_ONE = Decimal(1)


def take_off_usage(
    free: Decimal, quantity: Decimal, amount: Decimal, amount_of_rest: Decimal | None
) -> Iterator[FormulaStep]:
    """Take usage off: down to the price of the rest, or in proportion where there is none."""
    used = min(free, quantity)
    if not used:
        return
    if amount_of_rest is None:
        amount_of_rest = amount - divide(amount * used, quantity)
    less = amount_of_rest - amount
    yield FormulaStep(
        f"discount: up to {plain(free)}", used, divide(less, used), less, Stage.USAGE_DISCOUNT
    )


def take_off_percent(percent: Decimal, amount: Decimal) -> Iterator[FormulaStep]:
    """Take a percentage off."""
    if percent:
        less = -percent_of(percent, amount)
        description = f"discount of {plain(percent)}%"
        yield FormulaStep(description, amount, -percent.scaleb(-2), less, Stage.DISCOUNT)


def take_off_amount(discount: Decimal, amount: Decimal) -> Iterator[FormulaStep]:
    """Take an amount off, as far as there is any."""
    less = -min(discount, amount)
    if less:
        yield FormulaStep("discount", _ONE, less, less, Stage.DISCOUNT)


def take_off_excess(maximum: Decimal, amount: Decimal, left: Decimal) -> Iterator[FormulaStep]:
    """Take off what lies beyond what is left of a maximum."""
    excess = amount - max(left, _ZERO)
    if excess > 0:
        yield FormulaStep(f"maximum of {plain(maximum)}", _ONE, -excess, -excess, Stage.MAXIMUM)
