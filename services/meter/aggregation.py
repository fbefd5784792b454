"""Adds up events for the meters that count them, and tells events and meters apart.

Pure and exact. It refuses to know when a window begins (`windows` does) and what is stored.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from kit.decimals import exactly, plain
from kit.errors import InvalidInput, Precondition, Violation
from kit.interval import Interval
from services.meter.expressions import Expression
from services.meter.model import (
    EPOCH,
    KEEPING_MOMENTS,
    KEEPING_VALUES,
    Aggregation,
    Amount,
    Definition,
    IncomingEvent,
    Meter,
    Moment,
    Rollup,
    Series,
    Span,
    Tally,
    UsageEvent,
    UsageQuery,
)
from services.meter.retention import check_kept
from services.meter.tallies import Gathering, join
from services.meter.windows import QUARTER, start_of_day

REMEMBERED_MAX = 5_000

_QUARTER_US = 900_000_000
_MICROSECOND = timedelta(microseconds=1)
_RETRY_AFTER = timedelta(seconds=1)
_ALWAYS_US = -(2**62)
_NEVER_US = 2**62
_PLAIN_FIELDS = {
    "subject.customer_id": "customer_id",
    "subject.project_id": "project_id",
    "subject.user_id": "user_id",
    "subject.key_id": "key_id",
    "subject.run_id": "run_id",
    "type": "type",
}
_MAP_FIELDS = ("dimensions", "quantities")
# Where an event's content writes the levels of the subject, of which the first is its time.
_LEVELS = {
    "subject.project_id": 3,
    "subject.user_id": 4,
    "subject.key_id": 5,
    "subject.run_id": 6,
}
SUBJECT_LEVELS = frozenset(_LEVELS)
_ADDED_AT_ONCE = frozenset({Aggregation.SUM, Aggregation.COUNT, Aggregation.AVERAGE})


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """What events of one type with the same dimensions add to: a version of a meter, a group.

    It counts events from `start_us` to before `end_us`, microseconds since 1970. `quantity` is the
    name of what is added, and empty where events are counted. Where `derives`, that is not all,
    and `_reading` says what an event adds. A `MeterSet` makes one object for each, so they are
    told apart by identity, which is fast.
    """

    meter: Meter
    group: tuple[str, ...]
    quantity: str
    derives: bool
    start_us: int
    end_us: int


_Key = tuple[Contribution, str, int, bool]
"""What is added up by itself: the contribution, the customer, the quarter, billed elsewhere."""


class MeterSet:
    """Versions of meters, arranged so that what an event adds to is found at once."""

    def __init__(self, meters: Iterable[Meter]) -> None:
        self.meters = tuple(meters)
        self._by_version = {(meter.meter_id, meter.version): meter for meter in self.meters}
        self._by_type: dict[str, list[Meter]] = {}
        self.expressions: dict[str, Expression] = {}
        for meter in self.meters:
            self._by_type.setdefault(meter.definition.event_type, []).append(meter)
            source = meter.definition.expression
            if source and source not in self.expressions:
                self.expressions[source] = Expression(source)
        self.types_with_moments = frozenset(
            meter.definition.event_type
            for meter in self.meters
            if meter.definition.aggregation in KEEPING_MOMENTS
        )
        self._found: dict[tuple[str, str], tuple[Contribution, ...]] = {}
        self._made: dict[tuple[str, int, tuple[str, ...]], Contribution] = {}

    def meter_of(self, series: Series) -> Meter:
        """Answer the version of the meter that a series belongs to."""
        return self._by_version[series.meter_id, series.version]

    def contributions(self, event_type: str, dimensions: str) -> tuple[Contribution, ...]:
        """Answer what an event of this type, with these dimensions, may add to."""
        found = self._found.get((event_type, dimensions))
        if found is None:
            values = json.loads(dimensions)
            found = self._found[event_type, dimensions] = tuple(
                self._contribution(meter, group_of(meter.definition, values))
                for meter in self._by_type.get(event_type, ())
                if matches(meter.definition, values)
            )
        return found

    def weighs(self, event: IncomingEvent) -> bool:
        """Tell whether an event may set a level that a meter follows over time."""
        return any(
            part.meter.definition.aggregation is Aggregation.WEIGHTED_SUM
            for part in self.contributions(event.type, event.dimensions)
        )

    def forget_surplus(self) -> None:
        """Forget what was found for too many different dimensions; most recur, some never do."""
        if len(self._found) > REMEMBERED_MAX:
            self._found.clear()
            self._made.clear()

    def amount(self, part: Contribution, event: IncomingEvent) -> Amount | str | None:
        """Answer what an event adds: an amount, a value that is told apart, or nothing."""
        definition = part.meter.definition
        if definition.unique_by:
            return _property(definition.unique_by, event) or None
        if definition.expression:
            expression = self.expressions[definition.expression]
            dimensions = json.loads(event.dimensions)
            amount = expression.derive(event.amounts, dimensions, event.type)
        else:
            amount = event.amounts.get(definition.quantity) if definition.quantity else 1
        if amount is not None and definition.aggregation in KEEPING_VALUES:
            return plain(Decimal(amount))
        return amount

    def counted(self, event: IncomingEvent) -> Amount | None:
        """Answer what the version of an event's time counts of it; nothing where that is a text."""
        for part in self.contributions(event.type, event.dimensions):
            if covers(part.meter, event.time_us):
                amount = self.amount(part, event)
                return None if isinstance(amount, str) else amount
        return None

    def _contribution(self, meter: Meter, group: tuple[str, ...]) -> Contribution:
        key = (meter.meter_id, meter.version, group)
        made = self._made.get(key)
        if made is None:
            definition = meter.definition
            simple = definition.aggregation in _ADDED_AT_ONCE and not definition.expression
            made = self._made[key] = Contribution(
                meter, group, definition.quantity, not simple, *counted_us(meter)
            )
        return made


def covers(meter: Meter, time_us: int) -> bool:
    """Tell whether a version is the one of this time, counted yet or not."""
    start, end = meter.effective_time, meter.end_time
    is_begun = start is None or microseconds(start) <= time_us
    return is_begun and (end is None or time_us < microseconds(end))


def counted_us(meter: Meter) -> tuple[int, int]:
    """Answer from when to before when a version counts events as they come in.

    The version of a weighted sum counts earlier events too, since their level is carried on.
    """
    weighted = meter.definition.aggregation is Aggregation.WEIGHTED_SUM
    starts = [meter.counted_from, None if weighted else meter.effective_time]
    start_us = max((microseconds(start) for start in starts if start), default=_ALWAYS_US)
    return start_us, microseconds(meter.end_time) if meter.end_time else _NEVER_US


def microseconds(instant: datetime) -> int:
    """Answer the microseconds since 1970."""
    return (instant - EPOCH) // _MICROSECOND


def matches(definition: Definition, dimensions: Mapping[str, str]) -> bool:
    """Tell whether the meter's filters let these dimensions pass; an absent one is empty."""
    return all(dimensions.get(key, "") in values for key, values in definition.filters)


def group_of(definition: Definition, dimensions: Mapping[str, str]) -> tuple[str, ...]:
    """Answer the group that dimensions belong to; an absent one is empty."""
    return tuple(dimensions.get(key, "") for key in definition.group_by)


def roll_up(events: Iterable[IncomingEvent], meters: MeterSet) -> list[Rollup]:
    """Add up events by series and quarter of an hour, exactly.

    An event without what a meter adds is not counted by that meter.
    """
    meters.forget_surplus()
    totals: dict[_Key, list[Amount]] = {}
    gathered: dict[_Key, Gathering] = {}
    with exactly():
        for event in events:
            time_us = event.time_us
            quarter = time_us // _QUARTER_US
            for part in meters.contributions(event.type, event.dimensions):
                if not part.start_us <= time_us < part.end_us:
                    continue
                key = (part, event.customer_id, quarter, event.billed)
                if part.derives:
                    _gather(gathered, key, event, meters.amount(part, event))
                    continue
                quantity = part.quantity
                amount = event.amounts.get(quantity) if quantity else 1
                if amount is None:
                    continue
                total = totals.get(key)
                if total is None:
                    totals[key] = [amount, 1]
                else:
                    total[0] += amount
                    total[1] += 1
        tallies = {key: Tally(quantity, int(count)) for key, (quantity, count) in totals.items()}
        tallies |= {key: gathering.tally() for key, gathering in gathered.items()}
    starts = {quarter: EPOCH + quarter * QUARTER for _, _, quarter, _ in tallies}
    return [
        Rollup(
            Series(part.meter.meter_id, customer_id, part.group, part.meter.version, billed),
            Span.QUARTER,
            starts[quarter],
            tally,
        )
        for (part, customer_id, quarter, billed), tally in tallies.items()
    ]


def days_of(quarters: Iterable[Rollup], meters: MeterSet) -> list[Rollup]:
    """Join what events add up to in quarters of an hour by day of UTC."""
    by_day: dict[tuple[Series, datetime], list[Rollup]] = {}
    days: dict[datetime, datetime] = {}
    for rollup in quarters:
        day = days.get(rollup.start)
        if day is None:
            day = days[rollup.start] = start_of_day(rollup.start)
        by_day.setdefault((rollup.series, day), []).append(rollup)
    return [
        Rollup(series, Span.DAY, day, _joined(rollups, meters))
        for (series, day), rollups in by_day.items()
    ]


def _joined(rollups: list[Rollup], meters: MeterSet) -> Tally:
    if len(rollups) == 1:
        return rollups[0].tally
    rollups.sort(key=lambda rollup: rollup.start)
    aggregation = meters.meter_of(rollups[0].series).definition.aggregation
    return join(aggregation, (rollup.tally for rollup in rollups))


def _gather(
    gathered: dict[_Key, Gathering],
    key: _Key,
    event: IncomingEvent,
    amount: Amount | str | None,
) -> None:
    if amount is None:
        return
    gathering = gathered.get(key)
    if gathering is None:
        gathering = gathered[key] = Gathering(key[0].meter.definition.aggregation)
    gathering.add(Moment(event.time_us, event.source, event.event_id), amount)


def _property(name: str, event: IncomingEvent) -> str:
    level = _LEVELS.get(name)
    if level is not None:
        return event.content.split("\t")[level]
    value: str = json.loads(event.dimensions).get(name, "")
    return value


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


def changes_what_counts(stored: Meter, changed: Meter) -> bool:
    """Tell whether a meter put again counts otherwise than before, so that it is a new version.

    Raises:
        Precondition: METER_IMMUTABLE, it would aggregate otherwise, so that its history and what
            follows could not be told as one figure.
    """
    for field in ("aggregation", "percentile", "time_unit"):
        if getattr(stored.definition, field) != getattr(changed.definition, field):
            raise Precondition(
                "METER_IMMUTABLE",
                f"the {field} of the meter {stored.meter_id} cannot change;"
                " put one under another id",
                metadata={"meter_id": stored.meter_id, "field": field},
                violations=(Violation(field, "cannot change"),),
            )
    return stored.definition != changed.definition


def with_names(meter: Meter) -> Meter:
    """Name the meter and its unit where the caller left that to us."""
    return replace(
        meter,
        display_name=meter.display_name or meter.meter_id,
        unit=meter.unit or meter.definition.quantity or "event",
    )


def check_dimensions(query: UsageQuery, meter: Meter) -> None:
    """Allow a query to group and filter only by what the meter keeps apart.

    Raises:
        InvalidInput: UNKNOWN_DIMENSION, naming the first that it does not.
    """
    fields = [(key, f"filters[{json.dumps(key, ensure_ascii=False)}]") for key, _ in query.filters]
    fields += [(key, f"group_by[{index}]") for index, key in enumerate(query.group_by)]
    for key, field in fields:
        if key not in meter.definition.group_by:
            description = f"the meter {meter.meter_id} does not group by {key}"
            raise InvalidInput(
                "UNKNOWN_DIMENSION",
                f"{field}: {description}",
                metadata={"meter_id": meter.meter_id, "dimension": key},
                violations=(Violation(field, description),),
            )


def check_counted(meter: Meter, interval: Interval) -> None:
    """Allow a question only about what a meter has counted.

    Raises:
        Precondition: BACKFILL_RUNNING; EVENTS_EXPIRED, it was put when events of that time were
            no longer kept.
    """
    counted_from = meter.counted_from
    start = max(interval.start, meter.effective_time or interval.start)
    check_kept(start, meter.exact_from)
    carries = meter.definition.aggregation is Aggregation.WEIGHTED_SUM
    if counted_from and (carries or counted_from > start):
        raise Precondition(
            "BACKFILL_RUNNING",
            f"the meter {meter.meter_id} still counts what was stored before it",
            metadata={"meter_id": meter.meter_id, "counted_from": counted_from.isoformat()},
            retry_after=_RETRY_AFTER,
        )


def _difference(sent: str | None, stored: str | None) -> str:
    if sent is None:
        return f'is absent, and "{stored}" is stored'
    if stored is None:
        return f'is "{sent}", and nothing is stored'
    return f'is "{sent}", and "{stored}" is stored'
