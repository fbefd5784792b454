"""What meters can do at a real service: aggregate, derive, round, change, and catch up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.type.decimal_pb2 import Decimal as DecimalMessage

from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput, Precondition
from kit.interval import Interval
from kit.rpc.wire import render_interval, render_time
from kit.settings import ServiceSettings
from services.meter.usecases import backfill
from tests.meter_world import NOON, TODAY, World, a_meter, an_event, meter_world
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon."""
    async with meter_world(settings_for, keys, tenant) as running:
        yield running


def aggregating(name: str, **fields: Any) -> meter_pb2.Meter:  # noqa: ANN401 - of any meter.
    """Make a meter of an aggregation, of tokens by model unless told otherwise."""
    meter = a_meter(name.lower(), group_by=("model",))
    meter.aggregation = meter_pb2.Aggregation.Value(f"AGGREGATION_{name}")
    meter.quantity = fields.pop("quantity", "tokens")
    meter.MergeFrom(meter_pb2.Meter(**fields))
    return meter


def of_tokens(event_id: str, tokens: str, **fields: Any) -> meter_pb2.UsageEvent:  # noqa: ANN401 - of any event.
    """Make an event of so many tokens."""
    return an_event(event_id, quantities={"tokens": tokens}, **fields)


ROUND_UP = meter_pb2.Rounding(mode=meter_pb2.ROUNDING_MODE_CEIL, precision=1)
METERS = [
    (aggregating("MIN"), "0.25"),
    (aggregating("MAX"), "9"),
    (aggregating("AVERAGE"), "3.416666666666666667"),
    (aggregating("LATEST"), "0.25"),
    (aggregating("UNIQUE_COUNT", quantity="", unique_by="subject.user_id"), "2"),
    (aggregating("PERCENTILE", percentile=DecimalMessage(value="50")), "1"),
    (aggregating("PERCENTILE", percentile=DecimalMessage(value="66.666667")), "9"),
    (aggregating("SUM", quantity="", expression="mul(quantities.tokens, 2)"), "20.5"),
    (aggregating("SUM", rounding=ROUND_UP), "10.3"),
    (aggregating("AVERAGE", rounding=ROUND_UP), "3.5"),
]


@pytest.mark.parametrize("late", [False, True], ids=["meter first", "events first"])
async def test_every_aggregation_gives_its_figure(world: World, *, late: bool) -> None:
    """The same figure whether events were added up as they came or counted afterwards."""
    events = [
        of_tokens("a", "9", time=NOON - 2 * HOUR),
        of_tokens("b", "1", time=NOON - HOUR),
        of_tokens("c", "0.25", time=NOON),
        an_event("d", quantities={"seconds": "1"}),
    ]
    for event, user in zip(events, ("u1", "u2", "u1", ""), strict=True):
        event.subject.user_id = user
    meters = [meter for meter, _ in METERS]
    for number, meter in enumerate(meters):
        meter.meter_id = f"m{number}"

    if late:
        await world.ingest(*events)
    for meter in meters:
        await world.put_meter(meter, request_id=f"{meter.meter_id}-{late}")
    if not late:
        await world.ingest(*events)

    edge = Interval(TODAY.start, NOON + MINUTE)
    figures = [
        [(await world.usage(meter.meter_id, interval))[0][1] for interval in (TODAY, edge)]
        for meter in meters
    ]
    assert figures == [[figure, figure] for _, figure in METERS]


async def test_a_level_is_held_until_the_next_event_and_over_the_ends_of_periods(
    world: World,
) -> None:
    """Two GPUs from ten, eight from eleven to noon, then five; each window has its share."""
    midnight = datetime(2026, 2, 28, tzinfo=UTC)
    meter = aggregating("WEIGHTED_SUM", quantity="gpus", time_unit=meter_pb2.TIME_UNIT_HOUR)
    await world.put_meter(meter)
    for number, (hours, gpus) in enumerate([(10, "2"), (12, "5"), (11, "8")]):
        event = an_event(f"e{number}", time=midnight + hours * HOUR, quantities={"gpus": gpus})
        await world.ingest(event)

    days = await world.query(
        "weighted_sum",
        Interval(midnight, NOON + 12 * HOUR),
        window=messages.USAGE_WINDOW_DAY,
    )
    later = await world.usage("weighted_sum", Interval(NOON - MINUTE, NOON))
    before = await world.usage("weighted_sum", Interval(midnight, midnight + 10 * HOUR))

    assert [(row.quantity.value, row.event_count) for row in days.rows] == [("70", 3), ("60", 0)]
    assert later == [("acme", "0.083333333333333333", 0)]
    assert before == []


async def test_a_level_is_not_held_into_the_future(world: World) -> None:
    """The month is not over at noon: what will be held is not used yet."""
    await world.put_meter(aggregating("WEIGHTED_SUM", time_unit=meter_pb2.TIME_UNIT_HOUR))
    await world.ingest(of_tokens("a", "3", time=NOON - 2 * HOUR))

    usage = await world.usage("weighted_sum", Interval(TODAY.start, TODAY.start + timedelta(31)))

    assert usage == [("acme", "6", 1)]


async def test_a_changed_meter_is_a_new_version_and_history_keeps_the_old_one(
    world: World,
) -> None:
    """Events from the change on count by the new definition, earlier and late ones by the old."""
    await world.put_meter(a_meter(group_by=("model",)))
    await world.ingest(
        of_tokens("before", "1", time=NOON - HOUR), of_tokens("ahead", "10", time=NOON + MINUTE)
    )

    changed = a_meter(group_by=("model", "region"), filters={"model": ["small"]})
    answer = await world.put_meter(changed, request_id="change")
    await world.ingest(
        of_tokens("late", "100", time=NOON - 2 * HOUR, dimensions={"model": "large"}),
        of_tokens("large", "1000", dimensions={"model": "large"}),
        of_tokens("small", "10000", dimensions={"model": "small", "region": "eu"}),
    )

    assert (answer.version, answer.effective_time) == (2, render_time(NOON))
    assert await world.usage() == [("acme", "10111", 4)]
    assert await world.usage(interval=Interval(TODAY.start, NOON)) == [("acme", "101", 2)]
    since = Interval(NOON, TODAY.end)
    assert await world.usage(interval=since, group_by=["region"]) == [
        ("acme ", "10", 1),
        ("acme eu", "10000", 1),
    ]
    refusal = await world.refusal(
        "QueryUsage",
        messages.QueryUsageRequest(
            meter_id="tokens", interval=render_interval(TODAY), group_by=["region"]
        ),
    )
    assert (type(refusal), refusal.reason) == (InvalidInput, "UNKNOWN_DIMENSION")


async def test_a_changed_level_ends_and_its_successor_carries_on(world: World) -> None:
    """The old version holds its level until the change, the new one from what happened before."""
    meter = aggregating("WEIGHTED_SUM", time_unit=meter_pb2.TIME_UNIT_HOUR)
    await world.put_meter(meter)
    await world.ingest(
        of_tokens("a", "2", time=NOON - 3 * HOUR),
        an_event("b", time=NOON - 2 * HOUR, quantities={"seconds": "9"}),
    )

    meter.quantity = "seconds"
    await world.put_meter(meter, request_id="change")
    world.clock.advance(HOUR)

    assert await world.usage("weighted_sum") == [("acme", "15", 1)]
    past, now = Interval(TODAY.start, NOON), Interval(NOON, TODAY.end)
    assert await world.usage("weighted_sum", past) == [("acme", "6", 1)]
    assert await world.usage("weighted_sum", now) == [("acme", "9", 0)]


async def test_a_long_history_is_counted_beside_the_traffic(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until all is counted the meter says how far it is, and refuses to be wrong."""
    monkeypatch.setattr(backfill, "STRETCH_EVENTS", 40)
    await world.ingest(
        *(of_tokens(f"e{number}", "1", time=NOON - number * 10 * MINUTE) for number in range(400))
    )

    meter = await world.put_meter(aggregating("SUM"))
    old = Interval(TODAY.start - timedelta(days=9), TODAY.end)
    request = messages.QueryUsageRequest(meter_id="sum", interval=render_interval(old))
    refusal = await world.refusal("QueryUsage", request)
    recent = await world.usage("sum", Interval(NOON - HOUR, TODAY.end))
    await world.ingest(*(of_tokens(f"n{n}", "1", time=NOON - n * HOUR) for n in range(66)))
    state = messages.GetMeterResponse()
    async with asyncio.timeout(20):
        while not state.meter.backfill.complete:
            state = await world.ask("GetMeter", messages.GetMeterRequest(meter_id="sum"))

    assert not meter.backfill.complete
    assert 0 < meter.backfill.percent < 100
    assert (type(refusal), refusal.reason) == (Precondition, "BACKFILL_RUNNING")
    assert recent == [("acme", "7", 7)]
    assert await world.usage("sum", old) == [("acme", "466", 466)]


async def windows(world: World, interval: Interval, **fields: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - of any query.
    """Ask for usage: the start of each row's window, and the quantity."""
    answer = await world.query("tokens", interval, **fields)
    return [
        (f"{row.interval.start_time.ToDatetime():%m-%dT%H:%M}", row.quantity.value)
        for row in answer.rows
    ]


async def test_windows_begin_where_the_anchor_says(world: World) -> None:
    """Minutes, weeks, and months of a contract that began on the 31st."""
    await world.put_meter()
    at = datetime(2026, 2, 28, 8, 0, 30, tzinfo=UTC)
    await world.ingest(of_tokens("a", "1", time=at - MINUTE), of_tokens("b", "10", time=at))
    around = Interval(at - HOUR, at + HOUR)
    year = Interval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    anchor = render_time(datetime(2025, 12, 31, 8, tzinfo=UTC))

    minutes = await windows(world, around, window=messages.USAGE_WINDOW_MINUTE)
    weeks = await windows(world, year, window=messages.USAGE_WINDOW_WEEK)
    months = await windows(world, year, window=messages.USAGE_WINDOW_MONTH, anchor_time=anchor)

    assert minutes == [("02-28T07:59", "1"), ("02-28T08:00", "10")]
    assert weeks == [("02-23T00:00", "11")]
    assert months == [("01-31T08:00", "1"), ("02-28T08:00", "10")]


async def test_the_largest_rows_of_each_window_come_first(world: World) -> None:
    """Equal sizes are told apart by customer and group, and pages go on where they ended."""
    await world.put_meter()
    await world.ingest(
        *(
            of_tokens(
                f"{customer}{model}", tokens, customer_id=customer, dimensions={"model": model}
            )
            for customer, model, tokens in [
                ("acme", "a", "5"),
                ("acme", "b", "7"),
                ("zeta", "a", "7"),
                ("zeta", "b", "1"),
            ]
        )
    )

    top = await world.usage(group_by=["model"], top=3)
    first = await world.query(group_by=["model"], top=3, page_size=2)
    rest = await world.query(
        group_by=["model"], top=3, page_size=2, page_token=first.next_page_token
    )

    assert top == [("acme b", "7", 1), ("zeta a", "7", 1), ("acme a", "5", 1)]
    assert [row.quantity.value for row in [*first.rows, *rest.rows]] == ["7", "7", "5"]
    assert rest.next_page_token == ""


async def test_usage_is_compared_with_the_window_before(world: World) -> None:
    """Also where there was usage before and is none now, and for levels."""
    await world.put_meter()
    await world.put_meter(aggregating("WEIGHTED_SUM", time_unit=meter_pb2.TIME_UNIT_DAY))
    await world.put_meter(aggregating("AVERAGE"))
    day = timedelta(days=1)
    await world.ingest(
        of_tokens("a", "5", time=NOON - day),
        of_tokens("b", "8", time=NOON - day, customer_id="gone"),
        of_tokens("c", "3", time=NOON),
        of_tokens("d", "4", time=NOON),
    )

    async def compared(meter_id: str) -> list[tuple[str, str, str]]:
        rows = (await world.query(meter_id, TODAY, compare_previous=True)).rows
        return [(row.customer_id, row.quantity.value, row.previous_quantity.value) for row in rows]

    assert await compared("tokens") == [("acme", "7", "5"), ("gone", "0", "8")]
    assert await compared("average") == [("acme", "3.5", "5"), ("gone", "0", "8")]
    assert await compared("weighted_sum") == [("acme", "2.5", "2.5"), ("gone", "4", "4")]
