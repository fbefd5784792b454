"""Which usage a price counts, and how finely it must be read.

Of the prices whose filters some usage matches, the one with the most dimensions counts it, so that
no usage is billed twice. Refuses to read usage itself, and to price it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from zoneinfo import ZoneInfo

from kit.errors import InvalidInput
from kit.interval import Interval
from services.rating.model import (
    GivenUsage,
    Plan,
    Price,
    Usage,
    UsageEntry,
    may_meet,
)
from services.rating.prices import (
    ContextTierPrice,
    CostPlusPrice,
    Dimensions,
    DynamicPrice,
    MatrixPrice,
    PercentagePrice,
    TierSpan,
    TimeOfUsePrice,
)

_NO_TIME = datetime.min.replace(tzinfo=UTC)


class History(Enum):
    """Which usage before the period a price depends on: of a level its sum, or each change."""

    NONE = auto()
    CONTRACT = auto()
    LIFETIME = auto()
    LEVEL = auto()
    CHANGES = auto()
    PERIODS = auto()


@dataclass(frozen=True, slots=True)
class Spans:
    """When usage is counted: in the period, and before it where a price depends on that.

    Nothing is a span in which no usage can lie.
    """

    period: Interval | None
    contract: Interval | None
    lifetime: Interval | None
    level: Interval | None
    previous: tuple[Interval, ...]

    def before(self, history: History) -> Interval | None:
        """Answer the span of what was used before."""
        spans = {
            History.CONTRACT: self.contract,
            History.LIFETIME: self.lifetime,
            History.LEVEL: self.level,
            History.CHANGES: self.level,
        }
        return spans.get(history)


class Grain(Enum):
    """How finely usage is read."""

    TOTAL = auto()
    HOUR = auto()
    EVENT = auto()


@dataclass(frozen=True, slots=True)
class Reading:
    """The usage that a price counts: its meter and filter, and what must be kept apart.

    Usage that matches one of `excluded` is read with its dimensions, and left out by `count`.
    """

    meter_id: str
    amount_meter_id: str | None
    dimensions: Dimensions
    excluded: tuple[Dimensions, ...]
    keys: tuple[str, ...]
    grain: Grain
    time_zone: ZoneInfo | None
    history: History

    @property
    def needs_times(self) -> bool:
        """Whether usage without a time cannot be priced."""
        is_level = self.history in {History.LEVEL, History.CHANGES}
        return self.grain is Grain.HOUR or is_level

    @property
    def meter_ids(self) -> tuple[str, ...]:
        """Name the meters that are read."""
        amounts = self.amount_meter_id
        return (self.meter_id,) if amounts is None else (self.meter_id, amounts)


def readings_of(plan: Plan) -> tuple[Reading, ...]:
    """Say for each price of a plan, in order, which usage it counts."""
    by_meter = defaultdict[str, list[Price]](list)
    for price in plan.prices:
        by_meter[price.meter_id].append(price)
    return tuple(_reading_of(price, by_meter[price.meter_id]) for price in plan.prices)


def dimensions_of(reading: Reading) -> tuple[str, ...]:
    """Name every dimension that the meter must keep apart for a reading."""
    return tuple(sorted({*dict(reading.dimensions), *reading.keys}))


def adds_parts(price: Price, reading: Reading) -> bool:
    """Tell whether what a price counts is put together from parts that the meter tells apart."""
    is_whole = reading.grain is Grain.TOTAL and reading.history is History.NONE
    return not is_whole or not set(reading.keys) <= set(price.group_by)


def count(reading: Reading, entries: Iterable[UsageEntry]) -> tuple[UsageEntry, ...]:
    """Leave out the entries that another price counts."""
    if not reading.excluded:
        return tuple(entries)
    return tuple(
        entry
        for entry in entries
        if not any(matches(excluded, entry.dimensions) for excluded in reading.excluded)
    )


def count_given(plan: Plan, given: Sequence[GivenUsage], spans: Spans) -> tuple[Usage, ...]:
    """Answer what each price of the plan counts of usage that the caller gives; units are unknown.

    Usage that no price counts is left out, as it is when a meter has no price; so is usage with a
    time outside of the period, and all of it where usage is billed at no time.

    Raises:
        InvalidInput: a price needs the time of usage that has none.
    """
    by_meter = defaultdict[str, list[UsageEntry]](list)
    for usage in given:
        by_meter[usage.meter_id].append(usage.entry)

    def within(span: Interval | None, reading: Reading, meter_id: str) -> tuple[UsageEntry, ...]:
        if span is None:
            return ()
        return count(
            reading,
            (
                entry
                for entry in by_meter.get(meter_id, ())
                if (span is spans.period if entry.time is None else span.contains(entry.time))
                and matches(reading.dimensions, entry.dimensions)
            ),
        )

    return tuple(_given(reading, spans, within) for reading in readings_of(plan))


def _given(
    reading: Reading,
    spans: Spans,
    within: Callable[[Interval | None, Reading, str], tuple[UsageEntry, ...]],
) -> Usage:
    entries = within(spans.period, reading, reading.meter_id)
    if reading.needs_times and any(entry.time is None for entry in entries):
        raise InvalidInput.of(
            "given_usage.quantities",
            f"of the meter {reading.meter_id} must have a time: a price depends on it",
        )
    if reading.grain is Grain.EVENT:
        entries = tuple(sorted(entries, key=_time_of))
    amounts, previous = reading.amount_meter_id, spans.previous
    return Usage(
        entries,
        "",
        () if amounts is None else within(spans.period, reading, amounts),
        reading.excluded,
        before=within(spans.before(reading.history), reading, reading.meter_id),
        earlier=tuple(within(each, reading, reading.meter_id) for each in previous)
        if reading.history is History.PERIODS
        else (),
    )


def _reading_of(price: Price, same_meter: Sequence[Price]) -> Reading:
    excluded = tuple(
        dict.fromkeys(
            other.dimensions
            for other in same_meter
            if len(other.dimensions) > len(price.dimensions)
            and may_meet(other.dimensions, price.dimensions)
        )
    )
    keys = {*price.group_by, *(name for filters in excluded for name, _ in filters)}
    amount_meter_id, grain, time_zone = None, Grain.TOTAL, None
    if price.recurrence is not None:
        keys.update(name for name, _ in price.recurrence.removal)
    match price.model:
        case MatrixPrice(rows=rows):
            keys.update(name for row in rows for name, _ in row.dimensions)
        case DynamicPrice(meter_id) | CostPlusPrice(cost_meter_id=meter_id):
            amount_meter_id = meter_id
        case TimeOfUsePrice(time_zone=zone):
            grain, time_zone = Grain.HOUR, zone
        case ContextTierPrice():
            grain = Grain.EVENT
        case PercentagePrice() as model if price.in_advance or _looks_at_events(model):
            grain = Grain.EVENT
        case _ if price.in_advance or price.recurrence is not None:
            grain = Grain.EVENT
        case _:
            pass
    return Reading(
        price.meter_id,
        amount_meter_id,
        price.dimensions,
        excluded,
        tuple(sorted(keys)),
        grain,
        time_zone,
        _history_of(price),
    )


def _history_of(price: Price) -> History:
    if price.recurrence is not None:
        return History.CHANGES if price.recurrence.depends_on_order else History.LEVEL
    if price.tier_span is TierSpan.LIFETIME:
        return History.LIFETIME
    if price.tier_span is TierSpan.CONTRACT:
        return History.CONTRACT
    return History.NONE if price.rollover is None else History.PERIODS


def _looks_at_events(model: PercentagePrice) -> bool:
    conditions = (
        model.free_events,
        model.free_quantity,
        model.minimum_amount,
        model.maximum_amount,
    )
    return any(condition is not None for condition in conditions)


def _time_of(entry: UsageEntry) -> tuple[bool, datetime]:
    """Order events by time; those without come first, as they were given."""
    return entry.time is not None, entry.time or _NO_TIME


def matches(filters: Dimensions, dimensions: Mapping[str, str]) -> bool:
    """Tell whether usage of these dimensions holds all values of a filter."""
    # A loop, since a generator costs more than the comparison, and this runs for each entry.
    for name, value in filters:  # noqa: SIM110
        if dimensions.get(name) != value:
            return False
    return True
