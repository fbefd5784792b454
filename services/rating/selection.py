"""Which usage a price counts, and how finely it must be read.

Of the prices whose filters some usage matches, the one with the most dimensions counts it, so that
no usage is billed twice. Refuses to read usage itself, and to price it.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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
    TimeOfUsePrice,
)

_NO_TIME = datetime.min.replace(tzinfo=UTC)


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


def count(reading: Reading, entries: Iterable[UsageEntry]) -> tuple[UsageEntry, ...]:
    """Leave out the entries that another price counts."""
    if not reading.excluded:
        return tuple(entries)
    return tuple(
        entry
        for entry in entries
        if not any(matches(excluded, entry.dimensions) for excluded in reading.excluded)
    )


def count_given(
    plan: Plan, given: Sequence[GivenUsage], period: Interval | None
) -> tuple[Usage, ...]:
    """Answer what each price of the plan counts of usage that the caller gives; units are unknown.

    Usage that no price counts is left out, as it is when a meter has no price; so is usage with a
    time outside of the period, and all of it where usage is billed at no time.

    Raises:
        InvalidInput: a price needs the time of usage that has none.
    """
    by_meter = defaultdict[str, list[UsageEntry]](list)
    for usage in given:
        if period and (usage.entry.time is None or period.contains(usage.entry.time)):
            by_meter[usage.meter_id].append(usage.entry)

    def matching(reading: Reading, meter_id: str) -> tuple[UsageEntry, ...]:
        entries = by_meter.get(meter_id, ())
        return count(
            reading, (entry for entry in entries if matches(reading.dimensions, entry.dimensions))
        )

    usages = []
    for reading in readings_of(plan):
        entries = matching(reading, reading.meter_id)
        if reading.grain is Grain.HOUR and any(entry.time is None for entry in entries):
            raise InvalidInput.of(
                "given_usage.quantities",
                f"of the meter {reading.meter_id} must have a time: a price depends on it",
            )
        if reading.grain is Grain.EVENT:
            entries = tuple(sorted(entries, key=_time_of))
        amounts = reading.amount_meter_id
        usages.append(
            Usage(
                entries,
                "",
                () if amounts is None else matching(reading, amounts),
                reading.excluded,
            )
        )
    return tuple(usages)


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
    match price.model:
        case MatrixPrice(rows=rows):
            keys.update(name for row in rows for name, _ in row.dimensions)
        case DynamicPrice(meter_id) | CostPlusPrice(cost_meter_id=meter_id):
            amount_meter_id = meter_id
        case TimeOfUsePrice(time_zone=zone):
            grain, time_zone = Grain.HOUR, zone
        case ContextTierPrice():
            grain = Grain.EVENT
        case PercentagePrice() as model if _looks_at_events(model):
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
    )


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
    return all(dimensions.get(name) == value for name, value in filters)
