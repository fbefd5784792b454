"""Compares what is kept with what the events say, and tells differences in words.

Pure: what is compared was loaded before.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from kit.decimals import plain
from kit.interval import Interval
from services.meter.aggregation import MeterSet, days_of, roll_up
from services.meter.model import (
    KEEPING_VALUES,
    Aggregation,
    Amount,
    IncomingEvent,
    Rollup,
    Series,
    Span,
    Tally,
)
from services.meter.tallies import join

Place = tuple[Series, Span, datetime]


class Difference(NamedTuple):
    """A rollup that is not what the events say; a text is empty where there is nothing."""

    series: Series
    span: Span
    start: datetime
    kept: str
    counted: str


class Verified(NamedTuple):
    """What was found in one day."""

    day: Interval
    event_count: int
    rollup_count: int
    differences: Sequence[Difference]


class Recounting:
    """Counts the events of a day, part by part in the order of time."""

    def __init__(self, meters: MeterSet) -> None:
        self._meters = meters
        self._quarters: dict[tuple[Series, datetime], Tally] = {}
        self.event_count = 0

    def add(self, events: list[IncomingEvent]) -> None:
        """Count the next part."""
        self.event_count += len(events)
        for rollup in roll_up(events, self._meters):
            key = (rollup.series, rollup.start)
            before = self._quarters.get(key)
            aggregation = self._meters.meter_of(rollup.series).definition.aggregation
            tally = rollup.tally
            self._quarters[key] = join(aggregation, [before, tally]) if before else tally

    def counted(self) -> dict[Place, Tally]:
        """Answer what the events say."""
        quarters = [
            Rollup(series, Span.QUARTER, start, tally)
            for (series, start), tally in self._quarters.items()
        ]
        days = days_of(quarters, self._meters)
        return {(each.series, each.span, each.start): each.tally for each in (*quarters, *days)}


def compare(
    kept: Mapping[Place, Tally], counted: Mapping[Place, Tally], meters: MeterSet
) -> list[Difference]:
    """Name every rollup that is not what the events say."""
    found = []
    for place in sorted(kept.keys() | counted.keys(), key=_order):
        aggregation = meters.meter_of(place[0]).definition.aggregation
        texts = [
            _in_words(side[place], aggregation) if place in side else "" for side in (kept, counted)
        ]
        if texts[0] != texts[1]:
            found.append(Difference(*place, *texts))
    return found


def _in_words(tally: Tally, aggregation: Aggregation) -> str:
    """Write what matters of a tally to its aggregation."""
    words = [f"{tally.event_count} events"]
    if aggregation in KEEPING_VALUES:
        values = sorted((tally.values or {}).items())
        words += [f"{value!r} {count} times" for value, count in values]
    else:
        words.append(f"quantity {_text(tally.quantity)}")
    if aggregation in {Aggregation.LATEST, Aggregation.WEIGHTED_SUM} and tally.last:
        time_us, source, event_id = tally.last
        words.append(f"last {event_id!r} of {source!r} at {time_us}")
    if aggregation is Aggregation.WEIGHTED_SUM and tally.first:
        words.append(f"from {tally.first.time_us}, area {_text(tally.area or 0)}")
    return ", ".join(words)


def _text(amount: Amount) -> str:
    return str(amount) if isinstance(amount, int) else plain(amount)


def _order(place: Place) -> tuple[Series, int, datetime]:
    series, span, start = place
    return series, span.value, start


def customers_of(differences: Iterable[Difference]) -> tuple[str, ...]:
    """Name the customers whose rollups differ."""
    return tuple(sorted({each.series.customer_id for each in differences}))
