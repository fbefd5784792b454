"""Adds up events for the meters that count them, and tells events and meters apart.

Pure and exact. It refuses to know when a window begins (`windows` does) and what is stored.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from kit.decimals import exactly
from kit.errors import InvalidInput, Precondition, Violation
from services.meter.model import (
    Amount,
    IncomingEvent,
    Meter,
    Rollup,
    Series,
    UsageEvent,
    UsageQuery,
)
from services.meter.windows import HOUR, start_of_hour

_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
_REMEMBERED_MAX = 10_000
_PLAIN_FIELDS = {
    "subject.customer_id": "customer_id",
    "subject.project_id": "project_id",
    "subject.user_id": "user_id",
    "subject.key_id": "key_id",
    "subject.run_id": "run_id",
    "type": "type",
}
_MAP_FIELDS = ("dimensions", "quantities")


class Contribution(NamedTuple):
    """What events of one type with the same dimensions add: a meter, the group, the quantity.

    `quantity` is the name of what is added, and empty where events are counted.
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
        # Dimensions recur from event to event. Those that do not must not fill the memory.
        self._remembered: dict[tuple[str, str], tuple[Contribution, ...]] = {}

    def contributions(self, event: UsageEvent) -> tuple[Contribution, ...]:
        """Answer what the event may add, given its type and dimensions."""
        key = (event.type, event.dimensions)
        found = self._remembered.get(key)
        if found is None:
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            found = self._remembered[key] = self._contributions(*key)
        return found

    def _contributions(self, event_type: str, dimensions: str) -> tuple[Contribution, ...]:
        values = json.loads(dimensions)
        return tuple(
            Contribution(meter.meter_id, group_of(meter, values), meter.quantity)
            for meter in self._by_type.get(event_type, ())
            if matches(meter, values)
        )


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
    totals: dict[tuple[Contribution, str, datetime], list[Amount]] = {}
    hour = next_hour = _LONG_AGO
    with exactly():
        for event, _, _, amounts in events:
            if not hour <= event.time < next_hour:
                hour = start_of_hour(event.time)
                next_hour = hour + HOUR
            for contribution in meters.contributions(event):
                amount = amounts.get(contribution.quantity) if contribution.quantity else 1
                if amount is None:
                    continue
                key = (contribution, event.customer_id, hour)
                total = totals.get(key)
                if total is None:
                    totals[key] = [amount, 1]
                else:
                    total[0] += amount
                    total[1] += 1
    return [
        Rollup(Series(part.meter_id, customer_id, part.group), hour, quantity, int(event_count))
        for (part, customer_id, hour), (quantity, event_count) in totals.items()
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
