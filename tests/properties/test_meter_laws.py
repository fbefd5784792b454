"""Laws of metering: the same events give the same usage, however they arrive.

`test_meter_usage_laws` holds every aggregation to a model; here are the laws of the pieces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
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
from services.meter.model import EPOCH, IncomingEvent, Series, Window
from services.meter.windows import DAY, HOUR, QUARTER, Calendar, Plan, cut, plan
from tests.meter_builders import LONG_AFTER_US, a_stored_meter
from tests.meter_strategies import START, amounts, distinct_events, events
from tests.meter_world import NOON, REJECTED, World, meter_world
from tollkeeper.api.meter.v1 import meter_pb2

LATEST_US = int((NOON + timedelta(hours=1)).timestamp()) * 10**6


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


@dataclass(frozen=True, slots=True)
class Total:
    """What rollups of one series and span add up to."""

    quantity: Fraction
    event_count: int


def totals(pieces: Iterable[Sequence[IncomingEvent]]) -> dict[tuple[Series, datetime], Total]:
    """Roll up each piece by itself, and add up."""
    meters = MeterSet([a_stored_meter(group_by=("model",)), a_stored_meter("calls", quantity="")])
    added: dict[tuple[Series, datetime], Total] = {}
    for rollup in (rollup for piece in pieces for rollup in roll_up(piece, meters)):
        key = rollup.series, rollup.start
        before = added.get(key, Total(Fraction(0), 0))
        added[key] = Total(
            before.quantity + Fraction(rollup.tally.quantity),
            before.event_count + rollup.tally.event_count,
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

    windows = cut(interval, Calendar(window, zone))

    bounds = [interval.start, *(piece.end for piece in windows)]
    assert [piece.start for piece in windows] == bounds[:-1]
    assert bounds[-1] == interval.end
    last_instants = [piece.end - timedelta(microseconds=1) for piece in windows]
    assert [named(piece.start, zone, window) for piece in windows] == [
        named(last, zone, window) for last in last_instants
    ]


@given(
    intervals,
    st.sampled_from(list(Window)),
    st.sampled_from(sorted(available_timezones())),
    st.one_of(st.none(), intervals.map(lambda interval: interval.start)),
)
def test_what_windows_are_read_from_tiles_them(
    interval: Interval, window: Window, zone_name: str, anchor: datetime | None
) -> None:
    """Days, quarters of an hour and edges leave nothing out, and none spans two windows."""
    short = Interval(interval.start, min(interval.end, interval.start + timedelta(days=3)))
    windows = cut(short, Calendar(window, ZoneInfo(zone_name), anchor))

    planned = plan(windows)

    pieces = sorted(
        (*planned.days, *planned.quarters, *planned.edges), key=lambda piece: piece.start
    )
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert (pieces[0].start, pieces[-1].end) == (short.start, short.end)
    assert all(not (piece.start - EPOCH) % DAY for piece in planned.days)
    quarters = [piece for piece in planned.quarters if (piece.end - EPOCH) % QUARTER]
    assert quarters == []
    inside = {window.start for window in windows[1:]}
    assert all(not (start - EPOCH) % QUARTER for start in inside if lies_in(start, planned))


def lies_in(instant: datetime, planned: Plan) -> bool:
    """Tell whether an instant lies inside what is read from rollups."""
    return any(piece.contains(instant) for piece in (*planned.days, *planned.quarters))


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
    await world.put_meter(tenant=tenant)

    answer = await world.ingest(*sent, tenant=tenant)

    rejected = [each.index for each in answer.problems if each.outcome == REJECTED]
    assert [number for number, each in enumerate(answer.outcomes) if each == REJECTED] == rejected
    assert all(each.violations for each in answer.problems)
    kept = [event for event in sent if parses(event)]
    stored = await world.events(tenant, page_size=1_000)
    assert all(parses(each.event) for each in stored)
    assert len(stored) == len({(event.source, event.event_id) for event in kept})
    assert len(kept) + len(rejected) == len(sent)
