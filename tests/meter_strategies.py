"""Draws usage events, ways in which they arrive, and questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import strategies as st

from kit.interval import Interval
from services.meter.model import Window
from services.meter.windows import HOUR
from tests.meter_world import an_event
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

START = datetime(2026, 2, 26, 21, tzinfo=UTC)
WINDOWS = {
    messages.USAGE_WINDOW_UNSPECIFIED: Window.WHOLE,
    messages.USAGE_WINDOW_HOUR: Window.HOUR,
    messages.USAGE_WINDOW_DAY: Window.DAY,
    messages.USAGE_WINDOW_WEEK: Window.WEEK,
    messages.USAGE_WINDOW_MONTH: Window.MONTH,
}
ZONES = ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe")

# Instants around the bounds of hours, where mistakes would be.
times = st.builds(
    lambda hour, microseconds: START + hour * HOUR + timedelta(microseconds=microseconds),
    st.sampled_from([0, 1, 2, 3, 27, 51]),
    st.sampled_from([0, 1, 900_000_000, 1_800_000_000, 2_700_000_001, 3_599_999_999]),
)


amounts = st.one_of(
    st.integers(0, 9_000).map(str),
    st.sampled_from(["0", "0.000000000000000001", "9" * 20 + "." + "9" * 18, "1e3", "2.50"]),
)
events = st.builds(
    an_event,
    st.integers(0, 99).map(str),
    customer_id=st.sampled_from(["acme", "Zeta"]),
    type=st.sampled_from(["llm.call", "llm.call", "other"]),
    time=times,
    dimensions=st.fixed_dictionaries(
        {}, optional={"model": st.sampled_from(["", "large", "small"]), "region": st.just("eu")}
    ),
    quantities=st.fixed_dictionaries({}, optional={"tokens": amounts, "seconds": amounts}),
)
distinct_events = st.lists(events, min_size=5, max_size=60, unique_by=lambda event: event.event_id)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Events, and the calls in which they are sent: shuffled, cut anywhere, in part repeated."""

    events: Sequence[meter_pb2.UsageEvent]
    calls: Sequence[Sequence[meter_pb2.UsageEvent]]
    meter_before_call: int
    at_once: bool


@st.composite
def traffic(draw: st.DrawFn) -> Traffic:
    """Draw events, and an order, repetitions and cuts of them."""
    drawn = draw(distinct_events)
    repeated = draw(st.lists(st.sampled_from(drawn), max_size=15))
    sent = draw(st.permutations([*drawn, *repeated]))
    cuts = sorted(draw(st.sets(st.integers(1, len(sent)), max_size=4)) | {0, len(sent)})
    calls = [sent[first:last] for first, last in pairwise(cuts)]
    return Traffic(drawn, calls, draw(st.integers(0, len(calls))), draw(st.booleans()))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about usage."""

    interval: Interval
    window: messages.UsageWindow.ValueType
    zone: str
    group_by: tuple[str, ...]
    filters: tuple[tuple[str, str], ...]


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Draw a question whose interval begins and ends at interesting instants."""
    start, end = sorted(draw(st.lists(times, min_size=2, max_size=2, unique=True)))
    return Question(
        Interval(start, end),
        draw(st.sampled_from(sorted(WINDOWS))),
        draw(st.sampled_from(ZONES)),
        draw(st.sampled_from([(), ("model",), ("region", "model")])),
        draw(st.sampled_from([(), (("model", "small"),), (("region", ""),)])),
    )
