"""Usage that is a level: it stays until it changes, and may be billed by days.

Days are those of the customer's calendar. What is added counts from its own day, what is removed
counts its own day too. Refuses to know what a unit costs beyond its tiers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
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
_DAY = timedelta(days=1)


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
    standing = _Standing(recurrence, zone)
    for entry in _in_order(recurrence, usage.before):
        standing.take(entry)
    standing.level = max(standing.level, _ZERO)
    changes = [Change(standing.level, days)]
    for entry in usage.entries:
        units, first = standing.take(entry)
        changes.append(Change(units, count_days(first, last)))
    return Level(tuple(changes), period_days)


def _in_order(recurrence: Recurrence, entries: Sequence[UsageEntry]) -> Sequence[UsageEntry]:
    return sorted(entries, key=_time_of) if recurrence.depends_on_order else entries


def _time_of(entry: UsageEntry) -> datetime:
    assert entry.time is not None, "changes of a level were read with their time"
    return entry.time


@dataclass(slots=True)
class _Standing:
    """What is there, while its changes are gone through."""

    recurrence: Recurrence
    zone: ZoneInfo
    level: Decimal = _ZERO
    things: set[str] = field(default_factory=set)
    removed_on: dict[str, date] = field(default_factory=dict)

    def take(self, entry: UsageEntry) -> tuple[Decimal, date]:
        """Answer by how much an entry changes the level, and the first day that this counts.

        What is removed counts its own day too, so that its change counts from the day after.
        """
        day = local_day(_time_of(entry), self.zone)
        removal = self.recurrence.removal
        takes_away = bool(removal) and matches(removal, entry.dimensions)
        if self.recurrence.sets_level:
            units, first = entry.quantity - self.level, day
        elif self.recurrence.identity:
            thing = entry.dimensions.get(self.recurrence.identity, "")
            units, first = self._remove(thing, day) if takes_away else self._add(thing, day)
        elif takes_away:
            units, first = -entry.quantity, day + _DAY
        else:
            units, first = entry.quantity, day
        self.level += units
        return units, first

    def _add(self, thing: str, day: date) -> tuple[Decimal, date]:
        if thing in self.things:
            return _ZERO, day
        self.things.add(thing)
        # Its day was paid for already where it was removed on it.
        return _ONE, day + _DAY if self.removed_on.get(thing) == day else day

    def _remove(self, thing: str, day: date) -> tuple[Decimal, date]:
        if thing not in self.things:
            return _ZERO, day
        self.things.remove(thing)
        self.removed_on[thing] = day
        return -_ONE, day + _DAY


def price_days(model: PriceModel, level: Level) -> tuple[FormulaStep, ...]:
    """Price a level by the days of its changes."""
    match model:
        case StandardPrice(amount, per_quantity):
            description = f"{plain(amount)} per {plain(per_quantity)}, by days"
            return (_by_days(description, level.unit_days, amount, level, per_quantity),)
        case VolumePrice():
            number, tier, start = tier_of(model, level.units)
            name = _name(f"all in tier {number}", start, tier.up_to)
            step = replace(_by_days(name, level.unit_days, tier.unit_amount, level), tier=number)
            return (step, flat(number, tier.flat_amount)) if tier.flat_amount else (step,)
        case GraduatedPrice():
            return _price_tiers(model, level)
    raise AssertionError(f"{model} is not prorated")


def _price_tiers(model: GraduatedPrice, level: Level) -> tuple[FormulaStep, ...]:
    """Fill the tiers with full units in their order; each pays for the days of its change."""
    unit_days = [_ZERO] * len(model.tiers)
    standing = highest = _ZERO
    for change in level.changes:
        reached = standing + change.units
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
        steps.append(replace(_by_days(name, days, tier.unit_amount, level), tier=number))
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
        # More may be taken away than was there: that lies below the first tier, and counts in it.
        units = end - (max(start, low) if index else low)
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
