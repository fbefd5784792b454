"""Laws of metering: the same events give the same usage, however they arrive.

The model adds up events in plain Python with fractions and knows neither hours, rollups, batches
nor SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.signing_keys import SigningKeys
from kit.interval import Interval
from kit.settings import ServiceSettings
from services.meter.aggregation import MeterSet, roll_up
from services.meter.convert.events import parse_event
from services.meter.model import IncomingEvent, Series, Window
from services.meter.windows import HOUR, cut
from tests.meter_builders import LONG_AFTER_US, a_stored_meter
from tests.meter_world import NOON, REJECTED, World, a_meter, an_event, meter_world
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

ROWS_MAX = 1_000
LATEST_US = int((NOON + timedelta(hours=1)).timestamp()) * 10**6
START = datetime(2026, 2, 26, 21, tzinfo=UTC)
WINDOWS = {
    messages.USAGE_WINDOW_UNSPECIFIED: Window.WHOLE,
    messages.USAGE_WINDOW_HOUR: Window.HOUR,
    messages.USAGE_WINDOW_DAY: Window.DAY,
    messages.USAGE_WINDOW_MONTH: Window.MONTH,
}
ZONES = ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe")

# Instants around the bounds of hours, where mistakes would be.
times = st.builds(
    lambda hour, microseconds: START + hour * HOUR + timedelta(microseconds=microseconds),
    st.sampled_from([0, 1, 2, 3, 27, 51]),
    st.sampled_from([0, 1, 900_000_000, 1_800_000_000, 2_700_000_001, 3_599_999_999]),
)


def arbitrary_event(  # noqa: PLR0917 - drawn one by one.
    event_id: str,
    source: str,
    customer_id: str,
    event_type: str,
    dimensions: dict[str, str],
    quantities: dict[str, str],
    seconds: int,
    nanos: int,
) -> meter_pb2.UsageEvent:
    """Make an event of anything that the wire can carry."""
    event = meter_pb2.UsageEvent(
        event_id=event_id,
        source=source,
        type=event_type,
        dimensions=dimensions,
        quantities=quantities,
    )
    event.subject.customer_id = customer_id
    event.time.seconds, event.time.nanos = seconds, nanos
    return event


def parses(event: meter_pb2.UsageEvent) -> bool:
    """Tell whether an event is taken."""
    return isinstance(parse_event(event, LATEST_US), IncomingEvent)


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


UsageByKey = dict[tuple[str, datetime, tuple[str, ...]], tuple[Fraction, int]]


def modelled(
    sent: Iterable[meter_pb2.UsageEvent], quantity: str, windows: Iterable[Interval], ask: Question
) -> UsageByKey:
    """Add up, one event after the other."""
    usage: UsageByKey = {}
    for window in windows:
        for event in sent:
            counted = event.type == "llm.call" and (not quantity or quantity in event.quantities)
            matching = all(event.dimensions.get(key, "") == value for key, value in ask.filters)
            if counted and matching and window.contains(event.time.ToDatetime(UTC)):
                group = tuple(event.dimensions.get(key, "") for key in ask.group_by)
                key = (event.subject.customer_id, window.start, group)
                total, count = usage.get(key, (Fraction(0), 0))
                amount = Fraction(event.quantities[quantity]) if quantity else Fraction(1)
                usage[key] = (total + amount, count + 1)
    return usage


async def answered(world: World, tenant: str, meter_id: str, ask: Question) -> UsageByKey:
    """Ask the service, page by page."""
    rows: list[meter_pb2.UsageRow] = []
    token = None
    while token != "":
        assert len(rows) <= ROWS_MAX, "pages go round in a circle"
        answer = await world.query(
            meter_id,
            ask.interval,
            tenant,
            window=ask.window,
            time_zone=ask.zone,
            group_by=ask.group_by,
            filters=dict(ask.filters),
            page_size=3,
            page_token=token or "",
        )
        rows += answer.rows
        token = answer.next_page_token
    usage = {
        (
            row.customer_id,
            row.interval.start_time.ToDatetime(UTC),
            tuple(row.group[key] for key in ask.group_by),
        ): (Fraction(row.quantity.value), row.event_count)
        for row in rows
    }
    assert len(usage) == len(rows), "a row came twice"
    return usage


@dataclass(frozen=True, slots=True)
class Total:
    """What rollups of one series and hour add up to."""

    quantity: Fraction
    event_count: int


def totals(pieces: Iterable[Sequence[IncomingEvent]]) -> dict[tuple[Series, datetime], Total]:
    """Roll up each piece by itself, and add up."""
    meters = MeterSet([a_stored_meter(group_by=("model",)), a_stored_meter("calls", quantity="")])
    added: dict[tuple[Series, datetime], Total] = {}
    for rollup in (rollup for piece in pieces for rollup in roll_up(piece, meters)):
        key = rollup.series, rollup.hour
        before = added.get(key, Total(Fraction(0), 0))
        added[key] = Total(
            before.quantity + Fraction(rollup.quantity), before.event_count + rollup.event_count
        )
    return added


@given(distinct_events, st.sets(st.integers(1, 60), max_size=4))
def test_rolling_up_in_pieces_is_rolling_up_at_once(
    sent: Sequence[meter_pb2.UsageEvent], cuts: set[int]
) -> None:
    """Rollups of any pieces, in any order, add up to the rollups of the whole, exactly."""
    incoming = [
        event
        for each in sent
        if isinstance(event := parse_event(each, LONG_AFTER_US), IncomingEvent)
    ]
    pieces = [incoming[first:last] for first, last in pairwise([0, *sorted(cuts), len(incoming)])]

    assert len(incoming) == len(sent)
    assert totals(pieces[::-1]) == totals([incoming])


intervals = st.builds(
    lambda start, hours, microseconds: Interval(
        start, start + hours * HOUR + timedelta(microseconds=microseconds)
    ),
    st.datetimes(datetime(2005, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - Hypothesis adds the zone.
    st.integers(0, 2_000),
    st.integers(1, 3_600_000_000),
)
calendar = {
    Window.HOUR: "%Y-%m-%d %H",
    Window.DAY: "%Y-%m-%d",
    Window.MONTH: "%Y-%m",
}


@given(
    intervals,
    st.sampled_from(sorted(calendar, key=str)),
    st.sampled_from(sorted(available_timezones())),
)
def test_windows_tile_the_interval_and_respect_the_calendar(
    interval: Interval, window: Window, zone_name: str
) -> None:
    """Windows follow each other without gaps, and none spans two hours, days or months."""
    zone = ZoneInfo(zone_name)

    pieces = cut(interval, window, zone)

    bounds = [interval.start, *(piece.end for piece in pieces.windows)]
    assert [piece.start for piece in pieces.windows] == bounds[:-1]
    assert bounds[-1] == interval.end
    last_instants = [piece.end - timedelta(microseconds=1) for piece in pieces.windows]
    assert [named(piece.start, zone, window) for piece in pieces.windows] == [
        named(last, zone, window) for last in last_instants
    ]
    assert set(pieces.split_hours) == {
        bound.replace(minute=0, second=0, microsecond=0)
        for bound in bounds
        if (bound.minute, bound.second, bound.microsecond) != (0, 0, 0)
    }


def named(instant: datetime, zone: ZoneInfo, window: Window) -> str:
    """Name the hour, day or month of the calendar that an instant lies in."""
    return instant.astimezone(zone).strftime(calendar[window])


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service; each example is a tenant of its own."""
    async with meter_world(settings_for, keys, tenant) as running:
        yield running


_tenants = iter(range(10**9))
REAL_SERVICE = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def put_meters(world: World, tenant: str) -> None:
    """Put a meter that adds tokens and one that counts calls, by model and region."""
    for meter_id, quantity in (("tokens", "tokens"), ("calls", "")):
        meter = a_meter(meter_id, quantity=quantity, group_by=("model", "region"))
        await world.put_meter(meter, tenant=tenant)


async def in_turn(calls: Iterable[Awaitable[object]]) -> None:
    """Await one after the other."""
    for call in calls:
        await call


@REAL_SERVICE
@given(sent=traffic(), asks=st.lists(questions(), min_size=1, max_size=3))
async def test_usage_is_what_the_events_say_however_they_arrive(
    world: World, sent: Traffic, asks: Sequence[Question]
) -> None:
    """Any order, repetition and splitting, meters before, between or after: the model's usage."""
    tenant = f"example-{next(_tenants)}"
    before, after = sent.calls[: sent.meter_before_call], sent.calls[sent.meter_before_call :]

    for calls in (before, after):
        ingesting = [world.ingest(*call, tenant=tenant) for call in calls]
        await (asyncio.gather(*ingesting) if sent.at_once else in_turn(ingesting))
        await put_meters(world, tenant)

    for ask in asks:
        windows = cut(ask.interval, WINDOWS[ask.window], ZoneInfo(ask.zone)).windows
        for meter_id, quantity in (("tokens", "tokens"), ("calls", "")):
            expected = modelled(sent.events, quantity, windows, ask)
            assert await answered(world, tenant, meter_id, ask) == expected


anything = st.text(max_size=140)


def mostly(*good: str) -> st.SearchStrategy[str]:
    """Draw something good, and sometimes anything."""
    return st.one_of(st.sampled_from(good), st.sampled_from(good), anything)


arbitrary_events = st.builds(
    arbitrary_event,
    mostly("a", "b", "\\"),
    mostly("gateway", "\\."),
    mostly("acme"),
    mostly("llm.call"),
    st.dictionaries(mostly("model", "%s", "\\"), mostly("small", '"', "\\N"), max_size=3),
    st.dictionaries(mostly("tokens", "%", "{}"), st.one_of(amounts, anything), max_size=3),
    st.one_of(st.just(int(START.timestamp())), st.integers(-(2**63), 2**63 - 1)),
    st.one_of(st.integers(0, 999_999_999), st.integers(-(2**31), 2**31 - 1)),
)


@REAL_SERVICE
@given(sent=st.lists(st.one_of(arbitrary_events, events), min_size=1, max_size=20))
async def test_whatever_is_sent_each_event_has_its_own_outcome(
    world: World, sent: Sequence[meter_pb2.UsageEvent]
) -> None:
    """No event fails the call; a rejected one names its fields, all others are stored."""
    tenant = f"example-{next(_tenants)}"
    await put_meters(world, tenant)

    answer = await world.ingest(*sent, tenant=tenant)

    rejected = [each.index for each in answer.problems if each.outcome == REJECTED]
    assert [number for number, each in enumerate(answer.outcomes) if each == REJECTED] == rejected
    assert all(each.violations for each in answer.problems)
    kept = [event for event in sent if parses(event)]
    stored = await world.events(tenant, page_size=1_000)
    assert all(parses(each.event) for each in stored)
    assert len(stored) == len({(event.source, event.event_id) for event in kept})
    assert len(kept) + len(rejected) == len(sent)
