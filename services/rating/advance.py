"""Usage that is charged with each event: the price with the event less the price without it.

Each event is rounded by itself, half up, since it is charged by itself. Of a level only increases
above its former highest are charged. Refuses prices of which the parts are not priced one by one.
"""

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from kit.money import Rounding, settle
from services.rating.conversion import convert
from services.rating.entry_pricing import charge_events
from services.rating.model import FormulaStep, Price, UsageEntry
from services.rating.prices import PercentagePrice
from services.rating.pricing import divide
from services.rating.recurrence import Change, Level

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
    by_days = price.recurrence is not None and price.recurrence.prorated
    for number, entry in enumerate(entries, 1):
        change = None if level is None else level.changes[number]
        standing += entry.quantity if change is None else change.units
        increase = max(standing - highest, _ZERO)
        highest = max(standing, highest)
        if level is not None and change is not None and by_days:
            units, charged = _by_days(price, increase, change, level, amount_of)
        else:
            amount = amount_of(highest) if increase else amount_before
            units, charged = increase, amount - amount_before
            amount_before = amount
        yield _step(number, units, charged, currency)


def _by_days(
    price: Price,
    increase: Decimal,
    change: Change,
    level: Level,
    amount_of: Callable[[Decimal], Decimal],
) -> tuple[Decimal, Decimal]:
    """Charge an increase for its days; every unit costs the same."""
    days, whole = Decimal(change.days), Decimal(level.period_days)
    units = divide(increase * days, whole)
    if price.conversion is not None:
        return convert(price.conversion, units), amount_of(units)
    return units, divide(amount_of(increase) * days, whole)


def _step(number: int, units: Decimal, amount: Decimal, currency: str) -> FormulaStep:
    settled = settle(amount, currency, Rounding.HALF_UP).to_decimal()
    if units or not amount:
        each = divide(amount, units) if units else _ZERO
        return FormulaStep(f"event {number}", units, each, settled)
    return FormulaStep(f"event {number}", _ONE, amount, settled)
