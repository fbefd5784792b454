"""What usage costs whose parts choose their own amount: rows of a table, calls, hours, events.

The amount of a price is the sum of its steps, as in `pricing`, and the same rules hold: the caller
opens `kit.decimals.exactly`, nothing is rounded. The order of the parts matters only for a
percentage with a free allowance, which the first events use up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal

from kit.decimals import plain
from services.rating.model import FormulaStep, UsageEntry
from services.rating.prices import (
    ContextTierPrice,
    CostPlusPrice,
    EntryModel,
    MatrixPrice,
    MeteredAmountModel,
    PercentagePrice,
    TimeOfUsePrice,
)
from services.rating.pricing import bounds, divide, percent_of, price_per
from services.rating.selection import matches

_ZERO = Decimal(0)
_ONE = Decimal(1)


def price_entries(model: EntryModel, entries: Sequence[UsageEntry]) -> tuple[FormulaStep, ...]:
    """Price parts of usage, each by the amount it chooses; a step for each amount that is used."""
    match model:
        case MatrixPrice():
            return _price_matrix(model, entries)
        case ContextTierPrice():
            return _price_context_tiers(model, entries)
        case TimeOfUsePrice():
            return _price_hours(model, entries)


def price_metered_amount(
    model: MeteredAmountModel, quantity: Decimal, amounts: Sequence[UsageEntry]
) -> tuple[FormulaStep, ...]:
    """Take the amount that another meter counted, and a markup where there is one."""
    amount = sum((entry.quantity for entry in amounts), _ZERO)
    unit_amount = divide(amount, quantity) if quantity else _ZERO
    if not isinstance(model, CostPlusPrice):
        return (FormulaStep("amounts of the events", quantity, unit_amount, amount),)
    markup = percent_of(model.markup_percent, amount)
    return (
        FormulaStep("cost", quantity, unit_amount, amount),
        FormulaStep(
            f"markup of {plain(model.markup_percent)}%",
            amount,
            model.markup_percent.scaleb(-2),
            markup,
        ),
    )


def price_percentage(
    price: PercentagePrice, entries: Sequence[UsageEntry]
) -> tuple[FormulaStep, ...]:
    """Take a percentage of the events, in their order, and the fixed amount of each."""
    allowance = _Allowance(price)
    paid_quantity = raised = lowered = _ZERO
    paid_events = 0
    for entry in entries:
        paid = allowance.take(entry)
        if paid is None:
            continue
        paid_events += entry.event_count
        paid_quantity += paid
        plain_amount, amount = _charge(price, paid, entry.event_count)
        raised += max(amount - plain_amount, _ZERO)
        lowered += max(plain_amount - amount, _ZERO)
    rate = price.rate_percent.scaleb(-2)
    percentage = f"{plain(price.rate_percent)}%"
    steps = [FormulaStep(percentage, paid_quantity, rate, rate * paid_quantity)]
    if allowance.taken or allowance.events:
        description = f"free: {allowance.events} whole events"
        steps.insert(0, FormulaStep(description, allowance.taken, _ZERO, _ZERO))
    if price.fixed_amount:
        events, fixed = Decimal(paid_events), price.fixed_amount
        steps.append(FormulaStep("fixed for each event", events, fixed, fixed * events))
    if raised:
        least = plain(price.minimum_amount or _ZERO)
        steps.append(FormulaStep(f"raised to {least} for each event", _ONE, raised, raised))
    if lowered:
        most = plain(price.maximum_amount or _ZERO)
        steps.append(FormulaStep(f"lowered to {most} for each event", _ONE, -lowered, -lowered))
    return tuple(steps)


def charge_events(
    price: PercentagePrice, events: Iterable[UsageEntry]
) -> Iterator[tuple[UsageEntry, Decimal]]:
    """Go through events in their order, each with what it costs by itself."""
    allowance = _Allowance(price)
    for event in events:
        paid = allowance.take(event)
        yield event, _ZERO if paid is None else _charge(price, paid, event.event_count)[1]


def _charge(price: PercentagePrice, paid: Decimal, events: int) -> tuple[Decimal, Decimal]:
    """Answer what is due for what is paid, and the same within the bounds of an event."""
    amount = bounded = percent_of(price.rate_percent, paid) + price.fixed_amount * events
    if price.minimum_amount is not None:
        bounded = max(bounded, price.minimum_amount)
    if price.maximum_amount is not None:
        bounded = min(bounded, price.maximum_amount)
    return amount, bounded


class _Allowance:
    """What is free of a percentage; the first of its two bounds that is reached ends it."""

    def __init__(self, price: PercentagePrice) -> None:
        self.taken = _ZERO
        self.events = 0
        self._events_left = price.free_events
        self._quantity_left = price.free_quantity
        self._is_open = price.free_events is not None or price.free_quantity is not None

    def take(self, entry: UsageEntry) -> Decimal | None:
        """Answer how much of an event is paid; nothing when it is free as a whole."""
        if not self._is_open:
            return entry.quantity
        free = entry.quantity
        if self._quantity_left is not None:
            free = min(free, self._quantity_left)
            self._quantity_left -= free
        self.taken += free
        is_whole = free == entry.quantity
        if is_whole:
            self.events += 1
            if self._events_left is not None:
                self._events_left -= 1
        self._is_open = is_whole and self._events_left != 0 and self._quantity_left != 0
        return None if is_whole else entry.quantity - free


def _price_matrix(price: MatrixPrice, entries: Sequence[UsageEntry]) -> tuple[FormulaStep, ...]:
    quantities = [_ZERO] * len(price.rows)
    found: dict[tuple[str | None, ...], int] = {}
    for entry in entries:
        values = tuple(map(entry.dimensions.get, price.named))
        if values not in found:
            found[values] = _find_row(price, entry.dimensions)
        quantities[found[values]] += entry.quantity
    return tuple(
        price_per(name, quantity, row.amount, price.per_quantity)
        for name, row, quantity in zip(price.row_names, price.rows, quantities, strict=True)
        if quantity
    )


def _find_row(price: MatrixPrice, dimensions: Mapping[str, str]) -> int:
    """Find the row of a table that prices usage of these dimensions."""
    for index in price.order:
        if matches(price.rows[index].dimensions, dimensions):
            return index
    raise AssertionError("a table has a row without dimensions")


def _price_context_tiers(
    price: ContextTierPrice, entries: Sequence[UsageEntry]
) -> tuple[FormulaStep, ...]:
    quantities = [_ZERO] * len(price.tiers)
    for entry in entries:
        size = entry.quantities.get(price.context_quantity, _ZERO)
        quantities[_find_tier(price, size)] += entry.quantity
    steps = []
    start = _ZERO
    for tier, quantity in zip(price.tiers, quantities, strict=True):
        if quantity:
            name = f"calls of {price.context_quantity} {bounds(start, tier.up_to)}".rstrip()
            steps.append(price_per(name, quantity, tier.amount, price.per_quantity))
        start = tier.up_to or start
    return tuple(steps)


def _find_tier(price: ContextTierPrice, size: Decimal) -> int:
    for index, tier in enumerate(price.tiers):
        if tier.up_to is None or size <= tier.up_to:
            return index
    raise AssertionError("the last tier has no end")


def _price_hours(price: TimeOfUsePrice, entries: Sequence[UsageEntry]) -> tuple[FormulaStep, ...]:
    quantities = [_ZERO] * (len(price.windows) + 1)
    found: dict[tuple[int, int], int] = {}
    for entry in entries:
        assert entry.time is not None, "usage that is priced by the hour was read by the hour"
        local = entry.time.astimezone(price.time_zone)
        hour = local.weekday(), local.hour
        if hour not in found:
            found[hour] = _find_window(price, *hour)
        quantities[found[hour]] += entry.quantity
    named = [
        (f"window {number}: {window.start_hour:02}:00 to {window.end_hour:02}:00", window.amount)
        for number, window in enumerate(price.windows, 1)
    ]
    return tuple(
        price_per(name, quantity, amount, price.per_quantity)
        for (name, amount), quantity in zip(
            [*named, ("other hours", price.other_amount)], quantities, strict=True
        )
        if quantity
    )


def _find_window(price: TimeOfUsePrice, weekday: int, hour: int) -> int:
    for index, window in enumerate(price.windows):
        if window.covers(weekday, hour):
            return index
    return len(price.windows)
