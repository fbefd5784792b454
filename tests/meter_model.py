"""A model of metering in plain Python: one event after the other, with fractions.

It knows neither quarters of an hour, rollups, batches nor SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

from google.type.decimal_pb2 import Decimal as DecimalMessage

from kit.interval import Interval
from tests.meter_strategies import Question
from tests.meter_world import a_meter
from tollkeeper.api.meter.v1 import meter_pb2

UsageByKey = dict[tuple[str, datetime, tuple[str, ...]], tuple[Fraction, int]]
GROUP_BY = ("model", "region")
_DIGITS = 10**18


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as a meter sees it: when, who, its group, and what it adds."""

    time: datetime
    source: str
    event_id: str
    customer_id: str
    dimensions: tuple[str, ...]
    amount: Fraction
    text: str

    @property
    def order(self) -> tuple[datetime, str, str]:
        """Where it stands among the others."""
        return self.time, self.source, self.event_id


@dataclass(frozen=True, slots=True)
class Modelled:
    """A meter of the service, and how plain Python reads and adds up its events."""

    meter: meter_pb2.Meter
    read: Callable[[meter_pb2.UsageEvent], str | None]
    add_up: Callable[[Sequence[Entry]], Fraction]


def quantized(value: Fraction) -> Fraction:
    """Round half to even at 18 digits after the point."""
    return Fraction(round(value * _DIGITS), _DIGITS)


def nearest_rank(entries: Sequence[Entry]) -> Fraction:
    """Answer the smallest amount that three quarters of the events do not exceed."""
    amounts = sorted(entry.amount for entry in entries)
    return next(amount for count, amount in enumerate(amounts, 1) if 4 * count >= 3 * len(amounts))


def mean(entries: Sequence[Entry]) -> Fraction:
    """Answer the mean amount."""
    return quantized(sum((entry.amount for entry in entries), Fraction(0)) / len(entries))


def total(entries: Sequence[Entry]) -> Fraction:
    """Answer the sum of the amounts."""
    return sum((entry.amount for entry in entries), Fraction(0))


def tokens(event: meter_pb2.UsageEvent) -> str | None:
    """Read the quantity of tokens."""
    return event.quantities.get("tokens")


def tokens_and_seconds(event: meter_pb2.UsageEvent) -> str | None:
    """Read what the derived quantity of these tests is: absent without tokens."""
    if "tokens" not in event.quantities:
        return None
    seconds = Fraction(event.quantities.get("seconds", "0"))
    derived = Fraction(event.quantities["tokens"]) + seconds
    return str(derived) if event.dimensions.get("region", "") == "eu" else "1"


def a_derived_meter() -> meter_pb2.Meter:
    """Make a meter with an expression."""
    meter = a_meter("derived", group_by=GROUP_BY)
    meter.quantity = ""
    meter.expression = (
        "'region' in dimensions && dimensions.region == 'eu'"
        " ? add(quantities.tokens, or_zero(quantities, 'seconds'))"
        " : least(1, add(quantities.tokens, 1))"
    )
    return meter


def a_meter_of(name: str, quantity: str = "tokens", **fields: str) -> meter_pb2.Meter:
    """Make a meter of an aggregation."""
    meter = a_meter(name.lower(), group_by=GROUP_BY)
    meter.aggregation = meter_pb2.Aggregation.Value(f"AGGREGATION_{name}")
    meter.quantity = quantity
    if "percentile" in fields:
        meter.percentile.CopyFrom(DecimalMessage(value=fields["percentile"]))
    meter.unique_by = fields.get("unique_by", "")
    return meter


MODELS = [
    Modelled(a_meter_of("SUM"), tokens, total),
    Modelled(a_meter_of("COUNT", ""), lambda _: "1", total),
    Modelled(a_meter_of("MIN"), tokens, lambda entries: min(entry.amount for entry in entries)),
    Modelled(a_meter_of("MAX"), tokens, lambda entries: max(entry.amount for entry in entries)),
    Modelled(a_meter_of("AVERAGE"), tokens, mean),
    Modelled(
        a_meter_of("UNIQUE_COUNT", "", unique_by="model"),
        lambda event: event.dimensions.get("model") or None,
        lambda entries: Fraction(len({entry.text for entry in entries})),
    ),
    Modelled(
        a_meter_of("LATEST"),
        tokens,
        lambda entries: max(entries, key=lambda entry: entry.order).amount,
    ),
    Modelled(a_meter_of("PERCENTILE", percentile="75"), tokens, nearest_rank),
    Modelled(a_derived_meter(), tokens_and_seconds, total),
]
WEIGHTED = a_meter_of("WEIGHTED_SUM")


def entries_of(
    sent: Iterable[meter_pb2.UsageEvent], read: Callable[[meter_pb2.UsageEvent], str | None]
) -> list[Entry]:
    """Read the events of the type that all these meters count."""
    found = []
    for event in sent:
        text = read(event) if event.type == "llm.call" else None
        if text is None:
            continue
        found.append(
            Entry(
                event.time.ToDatetime(UTC),
                event.source,
                event.event_id,
                event.subject.customer_id,
                tuple(event.dimensions.get(key, "") for key in GROUP_BY),
                Fraction(text) if text[0].isdigit() else Fraction(0),
                text,
            )
        )
    return found


def modelled(
    entries: Sequence[Entry],
    add_up: Callable[[Sequence[Entry]], Fraction],
    windows: Iterable[Interval],
    ask: Question,
) -> UsageByKey:
    """Sort events into rows, and add up each row."""
    rows: dict[tuple[str, datetime, tuple[str, ...]], list[Entry]] = {}
    for window in windows:
        for entry in entries:
            if window.contains(entry.time) and passes(entry.dimensions, ask):
                key = (entry.customer_id, window.start, group_of(entry.dimensions, ask))
                rows.setdefault(key, []).append(entry)
    return {key: (add_up(row), len(row)) for key, row in rows.items()}


def modelled_levels(
    entries: Sequence[Entry], windows: Iterable[Interval], ask: Question
) -> UsageByKey:
    """Hold each level until the next, and add level times seconds in each window."""
    held: dict[tuple[str, tuple[str, ...]], list[Entry]] = {}
    for entry in sorted(entries, key=lambda each: each.order):
        if passes(entry.dimensions, ask):
            held.setdefault((entry.customer_id, entry.dimensions), []).append(entry)
    rows: UsageByKey = {}
    for window in windows:
        for (customer_id, dimensions), levels in held.items():
            area = Fraction(0)
            following: list[Entry | None] = [*levels[1:], None]
            for level, after in zip(levels, following, strict=True):
                start = max(level.time, window.start)
                end = min(after.time if after else window.end, window.end)
                if start < end:
                    area += level.amount * Fraction((end - start) // RESOLUTION, 10**6)
            count = sum(window.contains(level.time) for level in levels)
            if area or count:
                key = (customer_id, window.start, group_of(dimensions, ask))
                before, events = rows.get(key, (Fraction(0), 0))
                rows[key] = (before + area, events + count)
    return {key: (quantized(area), count) for key, (area, count) in rows.items()}


def passes(dimensions: tuple[str, ...], ask: Question) -> bool:
    """Tell whether the question's filters let a group pass."""
    values = dict(zip(GROUP_BY, dimensions, strict=True))
    return all(values[key] == wanted for key, wanted in ask.filters)


def group_of(dimensions: tuple[str, ...], ask: Question) -> tuple[str, ...]:
    """Answer the values by which the question groups."""
    values = dict(zip(GROUP_BY, dimensions, strict=True))
    return tuple(values[key] for key in ask.group_by)


RESOLUTION = datetime.resolution
