"""Usage that is a level: it stays until it changes, and may be billed by days.

Days are those of the customer's calendar. What is added counts from its own day, what is removed
counts its own day too. Refuses to know what a unit costs beyond its tiers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from kit.decimals import plain
from kit.interval import Interval
from services.rating.days import count_days, last_day, local_day
from services.rating.model import (
    FormulaStep,
    Proration,
    Usage,
    UsageEntry,
)
from services.rating.prices import (
    GraduatedPrice,
    PriceModel,
    Recurrence,
    StandardPrice,
    VolumePrice,
)
from services.rating.pricing import bounds, divide, flat, tier_of
from services.rating.selection import matches

_ZERO = Decimal(0)
_ONE = Decimal(1)


@dataclass(frozen=True, slots=True)
class Change:
    """Units that are added, or taken away where they are below 0, and the days that count."""

    units: Decimal
    days: int


@dataclass(frozen=True, slots=True)
class Level:
    """What a level was at the start of a period, how it changed, and the days of a period."""

    changes: tuple[Change, ...]
    period_days: int

    @property
    def units(self) -> Decimal:
        """The level at the end."""
        return max(sum((change.units for change in self.changes), _ZERO), _ZERO)

    @property
    def unit_days(self) -> Decimal:
        """Each unit times its days."""
        return max(sum((change.units * change.days for change in self.changes), _ZERO), _ZERO)


def level_of(
    recurrence: Recurrence,
    usage: Usage,
    period: Interval,
    *,
    proration: Proration | None,
    start: datetime,
    zone: ZoneInfo,
) -> Level:
    """Tell how a level stood and changed in a period, of which the days from `start` are billed."""
    last = last_day(period, zone)
    days = count_days(local_day(start, zone), last)
    period_days = (
        count_days(local_day(period.start, zone), last)
        if proration is None
        else proration.period_days
    )
    at_start = max(sum((signed(recurrence, entry) for entry in usage.before), _ZERO), _ZERO)
    changes = [Change(at_start, days)]
    for entry in usage.entries:
        assert entry.time is not None, "changes of a level were read with their time"
        units = signed(recurrence, entry)
        left = count_days(local_day(entry.time, zone), last)
        changes.append(Change(units, left - 1 if units < 0 else left))
    return Level(tuple(changes), period_days)


def signed(recurrence: Recurrence, entry: UsageEntry) -> Decimal:
    """Answer by how much an entry changes a level."""
    takes_away = recurrence.removal and matches(recurrence.removal, entry.dimensions)
    return -entry.quantity if takes_away else entry.quantity


def price_days(model: PriceModel, level: Level) -> tuple[FormulaStep, ...]:
    """Price a level by the days of its changes."""
    match model:
        case StandardPrice(amount, per_quantity):
            description = f"{plain(amount)} per {plain(per_quantity)}, by days"
            return (_by_days(description, level.unit_days, amount, level, per_quantity),)
        case VolumePrice():
            number, tier, start = tier_of(model, level.units)
            name = _name(f"all in tier {number}", start, tier.up_to)
            step = _by_days(name, level.unit_days, tier.unit_amount, level)
            return (step, flat(number, tier.flat_amount)) if tier.flat_amount else (step,)
        case GraduatedPrice():
            return _price_tiers(model, level)
    raise AssertionError(f"{model} is not prorated")


def _price_tiers(model: GraduatedPrice, level: Level) -> tuple[FormulaStep, ...]:
    """Fill the tiers with full units in their order; each pays for the days of its change."""
    unit_days = [_ZERO] * len(model.tiers)
    standing = highest = _ZERO
    for change in level.changes:
        reached = max(standing + change.units, _ZERO)
        low, high = sorted([standing, reached])
        sign = 1 if reached >= standing else -1
        for index, units in _in_tiers(model, low, high):
            unit_days[index] += units * change.days * sign
        standing, highest = reached, max(highest, reached)
    steps = []
    start = _ZERO
    for number, (tier, days) in enumerate(zip(model.tiers, unit_days, strict=True), 1):
        if number > 1 and highest <= start:
            break
        name = _name(f"tier {number}", start, tier.up_to)
        steps.append(_by_days(name, days, tier.unit_amount, level))
        if tier.flat_amount:
            steps.append(flat(number, tier.flat_amount))
        start = tier.up_to or start
    total = sum((step.amount for step in steps), _ZERO)
    if total < 0:
        steps.append(FormulaStep("not below 0", _ONE, -total, -total))
    return tuple(steps)


def _in_tiers(model: GraduatedPrice, low: Decimal, high: Decimal) -> Iterator[tuple[int, Decimal]]:
    start = _ZERO
    for index, tier in enumerate(model.tiers):
        end = high if tier.up_to is None else min(tier.up_to, high)
        units = end - max(start, low)
        if units > 0:
            yield index, units
        start = tier.up_to or start


def _by_days(
    name: str, unit_days: Decimal, amount: Decimal, level: Level, per: Decimal = _ONE
) -> FormulaStep:
    whole = Decimal(level.period_days)
    total = divide(unit_days * amount, whole * per)
    return FormulaStep(name, divide(unit_days, whole), divide(amount, per), total)


def _name(name: str, start: Decimal, up_to: Decimal | None) -> str:
    return ", by days: ".join(filter(None, (name, bounds(start, up_to))))
