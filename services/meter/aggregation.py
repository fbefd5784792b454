"""Adds up events for the meters that count them, and tells events and meters apart.

Pure and exact. It refuses to know when a window begins (`windows` does) and what is stored.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kit.decimals import exactly
from kit.errors import InvalidInput, Precondition, Violation
from services.meter.model import (
    EPOCH,
    Amount,
    IncomingEvent,
    Meter,
    Rollup,
    Series,
    UsageEvent,
    UsageQuery,
)
from services.meter.windows import HOUR

REMEMBERED_MAX = 5_000

_HOUR_US = 3_600_000_000
_PLAIN_FIELDS = {
    "subject.customer_id": "customer_id",
    "subject.project_id": "project_id",
    "subject.user_id": "user_id",
    "subject.key_id": "key_id",
    "subject.run_id": "run_id",
    "type": "type",
}
_MAP_FIELDS = ("dimensions", "quantities")


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What events of one type with the same dimensions add: a meter, the group, the quantity.

    `quantity` is the name of what is added, and empty where events are counted. A `MeterSet` makes
    one object for each, so they are told apart by identity, which is fast.
    """

    meter_id: str
    group: tuple[str, ...]
    quantity: str


class MeterSet:
    """The meters of one tenant, arranged so that what an event adds to is found at once."""

    def __init__(self, meters: Iterable[Meter]) -> None:
        self._by_type: dict[str, list[Meter]] = {}
        for meter in meters:
            self._by_type.setdefault(meter.event_type, []).append(meter)
        self._found: dict[tuple[str, str], tuple[Contribution, ...]] = {}
        self._made: dict[tuple[str, tuple[str, ...]], Contribution] = {}

    def contributions(self, event_type: str, dimensions: str) -> tuple[Contribution, ...]:
        """Answer what an event of this type, with these dimensions, may add."""
        found = self._found.get((event_type, dimensions))
        if found is None:
            values = json.loads(dimensions)
            found = self._found[event_type, dimensions] = tuple(
                self._contribution(meter, group_of(meter, values))
                for meter in self._by_type.get(event_type, ())
                if matches(meter, values)
            )
        return found

    def forget_surplus(self) -> None:
        """Forget what was found for too many different dimensions; most recur, some never do."""
        if len(self._found) > REMEMBERED_MAX:
            self._found.clear()
            self._made.clear()

    def _contribution(self, meter: Meter, group: tuple[str, ...]) -> Contribution:
        key = (meter.meter_id, group)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = Contribution(meter.meter_id, group, meter.quantity)
        return made


def matches(meter: Meter, dimensions: Mapping[str, str]) -> bool:
    """Tell whether the meter's filters let these dimensions pass; an absent one is empty."""
    return all(dimensions.get(key, "") in values for key, values in meter.filters)


def group_of(meter: Meter, dimensions: Mapping[str, str]) -> tuple[str, ...]:
    """Answer the group that dimensions belong to; an absent one is empty."""
    return tuple(dimensions.get(key, "") for key in meter.group_by)


def roll_up(events: Iterable[IncomingEvent], meters: MeterSet) -> list[Rollup]:
    """Add up events by series and hour, exactly.

    An event without the quantity that a meter adds is not counted by that meter.
    """
    meters.forget_surplus()
    totals: dict[tuple[Contribution, str, int], list[Amount]] = {}
    with exactly():
        for event in events:
            hour = event.time_us // _HOUR_US
            for contribution in meters.contributions(event.type, event.dimensions):
                quantity = contribution.quantity
                amount = event.amounts.get(quantity) if quantity else 1
                if amount is None:
                    continue
                key = (contribution, event.customer_id, hour)
                total = totals.get(key)
                if total is None:
                    totals[key] = [amount, 1]
                else:
                    total[0] += amount
                    total[1] += 1
    hours = {hour: EPOCH + hour * HOUR for _, _, hour in totals}
    return [
        Rollup(Series(part.meter_id, customer_id, part.group), hours[hour], quantity, int(count))
        for (part, customer_id, hour), (quantity, count) in totals.items()
    ]


def differences(sent: UsageEvent, stored: UsageEvent) -> tuple[Violation, ...]:
    """Name each field in which an event differs from the stored one of the same identity."""
    found = [
        Violation(field, _difference(getattr(sent, name), getattr(stored, name)))
        for field, name in _PLAIN_FIELDS.items()
        if getattr(sent, name) != getattr(stored, name)
    ]
    if sent.time != stored.time:
        found.append(Violation("time", _difference(sent.time.isoformat(), stored.time.isoformat())))
    for name in _MAP_FIELDS:
        ours, theirs = json.loads(getattr(sent, name)), json.loads(getattr(stored, name))
        found.extend(
            Violation(
                f"{name}[{json.dumps(key, ensure_ascii=False)}]",
                _difference(ours.get(key), theirs.get(key)),
            )
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        )
    return tuple(found)


def check_change(stored: Meter, changed: Meter) -> None:
    """Allow a meter to change its names only.

    Raises:
        Precondition: METER_IMMUTABLE, naming the first field that would change what is counted.
    """
    for field in ("event_type", "aggregation", "quantity", "filters", "group_by"):
        if getattr(stored, field) != getattr(changed, field):
            raise Precondition(
                "METER_IMMUTABLE",
                f"the {field} of the meter {stored.meter_id} cannot change;"
                " put one under another id",
                metadata={"meter_id": stored.meter_id, "field": field},
                violations=(Violation(field, "cannot change"),),
            )


def with_names(meter: Meter) -> Meter:
    """Name the meter and its unit where the caller left that to us."""
    return replace(
        meter,
        display_name=meter.display_name or meter.meter_id,
        unit=meter.unit or meter.quantity or "event",
    )


def check_dimensions(query: UsageQuery, meter: Meter) -> None:
    """Allow a query to group and filter only by what the meter keeps apart.

    Raises:
        InvalidInput: UNKNOWN_DIMENSION, naming the first that it does not.
    """
    fields = [(key, f"filters[{json.dumps(key, ensure_ascii=False)}]") for key, _ in query.filters]
    fields += [(key, f"group_by[{index}]") for index, key in enumerate(query.group_by)]
    for key, field in fields:
        if key not in meter.group_by:
            description = f"the meter {meter.meter_id} does not group by {key}"
            raise InvalidInput(
                "UNKNOWN_DIMENSION",
                f"{field}: {description}",
                metadata={"meter_id": meter.meter_id, "dimension": key},
                violations=(Violation(field, description),),
            )


def _difference(sent: str | None, stored: str | None) -> str:
    if sent is None:
        return f'is absent, and "{stored}" is stored'
    if stored is None:
        return f'is "{sent}", and nothing is stored'
    return f'is "{sent}", and "{stored}" is stored'
