"""Usage that is charged with each event: the price with the event less the price without it.

Each event is rounded by itself, half up, since it is charged by itself. Of a level only increases
above its former highest are charged. Refuses prices of which the parts are not priced one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from kit.money import Rounding, settle
from services.rating.entry_pricing import charge_events
from services.rating.model import FormulaStep, Price, UsageEntry
from services.rating.prices import PercentagePrice
from services.rating.pricing import divide
from services.rating.recurrence import Level, signed

_ZERO = Decimal(0)
_ONE = Decimal(1)


def charge_percentages(
    price: PercentagePrice, entries: Sequence[UsageEntry], rate: Decimal, currency: str
) -> Iterator[FormulaStep]:
    """Charge each event its percentage; `rate` is what the price's money is worth."""
    for number, (event, amount) in enumerate(charge_events(price, entries), 1):
        yield _step(number, event.quantity, amount * rate, currency)


def charge_increases(
    price: Price,
    entries: Sequence[UsageEntry],
    level: Level | None,
    amount_of: Callable[[Decimal], Decimal],
    currency: str,
) -> Iterator[FormulaStep]:
    """Charge each event what it adds to the price, given what any quantity comes to.

    `level` is how a recurring quantity changed; its first change is the level at the start.
    """
    highest = standing = level.changes[0].units if level is not None else _ZERO
    amount_before = amount_of(highest) if highest else _ZERO
    for number, entry in enumerate(entries, 1):
        recurrence = price.recurrence
        standing += entry.quantity if recurrence is None else signed(recurrence, entry)
        increase = max(standing - highest, _ZERO)
        highest = max(standing, highest)
        amount = amount_of(highest) if increase else amount_before
        units, charged = increase, amount - amount_before
        if level is not None and recurrence is not None and recurrence.prorated:
            days, whole = Decimal(level.changes[number].days), Decimal(level.period_days)
            units, charged = divide(units * days, whole), divide(charged * days, whole)
        amount_before = amount
        yield _step(number, units, charged, currency)


def _step(number: int, units: Decimal, amount: Decimal, currency: str) -> FormulaStep:
    settled = settle(amount, currency, Rounding.HALF_UP).to_decimal()
    each = divide(amount, units) if units else amount
    return FormulaStep(f"event {number}", units or _ONE, each, settled)
