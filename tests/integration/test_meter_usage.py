"""Usage and events as a real meter service answers them: exact at every edge, stable in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput, NotFound
from kit.interval import Interval
from kit.rpc.wire import parse_interval, render_interval
from kit.settings import ServiceSettings
from tests.meter_world import NOON, TODAY, World, a_meter, an_event, meter_world
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

MICROSECOND = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
FEBRUARY = Interval(datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon, with a meter of tokens by model and region."""
    async with meter_world(settings_for, keys, tenant) as running:
        await running.put_meter(a_meter(group_by=("model", "region")))
        yield running


async def windows(world: World, interval: Interval, **fields: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - of any query.
    """Ask for usage: the start of each row's window, and the quantity."""
    answer = await world.query(interval=interval, **fields)
    return [
        (f"{parse_interval(row.interval, 'interval').start:%m-%dT%H:%M}", row.quantity.value)
        for row in answer.rows
    ]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (NOON, NOON + HOUR, "11"),
        (NOON - MICROSECOND, NOON + HOUR, "111"),
        (NOON, NOON + HOUR + MICROSECOND, "10011"),
        (NOON + MICROSECOND, NOON + HOUR, "10"),
        (NOON, NOON + HOUR - MICROSECOND, "1"),
        (NOON - HOUR, NOON + 2 * HOUR, "10111"),
        (NOON + MICROSECOND, NOON + 2 * MICROSECOND, None),
        (NOON, NOON + MICROSECOND, "1"),
    ],
)
async def test_an_interval_is_exact_to_the_microsecond(
    world: World, start: datetime, end: datetime, expected: str | None
) -> None:
    """The start belongs to the interval and the end does not, wherever they lie in an hour."""
    await world.ingest(
        an_event("before", time=NOON - MICROSECOND, quantities={"tokens": "100"}),
        an_event("first", time=NOON, quantities={"tokens": "1"}),
        an_event("last", time=NOON + HOUR - MICROSECOND, quantities={"tokens": "10"}),
        an_event("after", time=NOON + HOUR, quantities={"tokens": "10000"}),
    )

    rows = (await world.query(interval=Interval(start, end))).rows

    assert [(row.quantity.value, row.interval) for row in rows] == [
        (quantity, render_interval(Interval(start, end))) for quantity in [expected] if quantity
    ]


async def test_windows_follow_the_calendar_of_the_zone(world: World) -> None:
    """Days of India begin at half past an hour of UTC, and an event there falls on one side."""
    midnight = datetime(2026, 2, 10, 18, 30, tzinfo=UTC)
    await world.ingest(
        an_event("a", time=midnight - MICROSECOND, quantities={"tokens": "1"}),
        an_event("b", time=midnight, quantities={"tokens": "2"}),
        an_event("c", time=midnight + 12 * HOUR, quantities={"tokens": "4"}),
        an_event("d", time=midnight + 24 * HOUR, quantities={"tokens": "8"}),
    )
    day = messages.USAGE_WINDOW_DAY

    india = await windows(world, FEBRUARY, window=day, time_zone="Asia/Kolkata")
    utc = await windows(world, FEBRUARY, window=day)

    assert india == [("02-09T18:30", "1"), ("02-10T18:30", "6"), ("02-11T18:30", "8")]
    assert utc == [("02-10T00:00", "3"), ("02-11T00:00", "12")]


async def test_hours_and_months_are_windows_too(world: World) -> None:
    """Windows without usage have no row; the first and last are as short as the interval."""
    await world.ingest(
        an_event("a", time=datetime(2026, 1, 31, 23, 30, tzinfo=UTC)),
        an_event("b", time=datetime(2026, 2, 28, 22, 59, tzinfo=UTC)),
        an_event("c", time=datetime(2026, 2, 28, 23, 0, tzinfo=UTC)),
    )
    winter = Interval(datetime(2026, 1, 31, 23, 15, tzinfo=UTC), NOON)
    month, hour = messages.USAGE_WINDOW_MONTH, messages.USAGE_WINDOW_HOUR

    months = await windows(world, winter, window=month, time_zone="Europe/Berlin")
    hours = await windows(world, winter, window=hour)
    half_hours = await windows(world, winter, window=hour, time_zone="Asia/Kolkata")

    assert months == [("01-31T23:15", "20"), ("02-28T23:00", "10")]
    assert hours == [("01-31T23:15", "10"), ("02-28T22:00", "10"), ("02-28T23:00", "10")]
    assert half_hours == [("01-31T23:30", "10"), ("02-28T22:30", "20")]


@pytest.mark.parametrize("end", [NOON + HOUR, NOON + HOUR / 2], ids=["whole hours", "split hours"])
async def test_groups_and_filters_tell_usage_apart(world: World, end: datetime) -> None:
    """The same figures come from rollups and from events; absent dimensions are empty."""
    await world.ingest(
        an_event("a", dimensions={"model": "small", "region": "eu"}),
        an_event("b", dimensions={"model": "small", "region": "us"}),
        an_event("c", dimensions={"model": "large", "region": "eu", "other": "x"}),
        an_event("d", dimensions={"model": "small"}, customer_id="zeta"),
        an_event("e", dimensions={"model": "small"}, quantities={"seconds": "1"}),
        an_event("f", dimensions={"model": "small"}, type="image.call"),
    )
    interval = Interval(NOON, end)

    async def usage(**fields: Any) -> list[tuple[str, str, int]]:  # noqa: ANN401 - as above.
        return await world.usage(interval=interval, **fields)

    assert await usage() == [("acme", "30", 3), ("zeta", "10", 1)]
    assert await usage(group_by=["model"]) == [
        ("acme large", "10", 1),
        ("acme small", "20", 2),
        ("zeta small", "10", 1),
    ]
    assert await usage(group_by=["region"], customer_id="zeta") == [("zeta ", "10", 1)]
    assert await usage(filters={"region": "eu"}) == [("acme", "20", 2)]
    assert await usage(filters={"region": ""}) == [("zeta", "10", 1)]
    assert await usage(filters={"region": "eu", "model": "large"}, group_by=["model"]) == [
        ("acme large", "10", 1)
    ]


@pytest.mark.parametrize("end", [NOON + HOUR, NOON + HOUR / 2], ids=["whole hours", "split hours"])
async def test_several_customers_are_asked_about_at_once(world: World, end: datetime) -> None:
    """Each has rows of its own, in pages too; who is named twice counts once."""
    await world.ingest(
        *(
            an_event(f"{customer}-{model}", customer_id=customer, dimensions={"model": model})
            for customer in ("a", "b", "c", "d")
            for model in ("large", "small")
        )
    )
    fields: dict[str, Any] = {
        "customer_ids": ["d", "b", "nobody", "b"],
        "group_by": ["model"],
        "interval": Interval(NOON, end),
    }

    whole = await world.query(**fields)
    first = await world.query(page_size=3, **fields)
    rest = await world.query(page_size=3, page_token=first.next_page_token, **fields)

    assert [(row.customer_id, row.group["model"], row.quantity.value) for row in whole.rows] == [
        ("b", "large", "10"),
        ("b", "small", "10"),
        ("d", "large", "10"),
        ("d", "small", "10"),
    ]
    assert [*first.rows, *rest.rows] == list(whole.rows)
    assert rest.next_page_token == ""


async def test_figures_keep_every_digit(world: World) -> None:
    """38-digit quantities add up exactly, in one call, over calls, and at split hours."""
    most = {"tokens": "9" * 20 + "." + "9" * 18}
    await world.ingest(an_event("a", quantities=most), an_event("b", quantities=most))
    await world.ingest(an_event("c", quantities={"tokens": "0.000000000000000002"}))
    total = "2" + "0" * 20

    assert await world.usage() == [("acme", total, 3)]
    assert await world.usage(interval=Interval(NOON, NOON + MICROSECOND)) == [("acme", total, 3)]


async def test_usage_comes_in_pages_that_lose_and_repeat_nothing(world: World) -> None:
    """Rows are ordered by customer, window and group, and each appears on one page."""
    await world.ingest(
        *(
            an_event(
                f"{customer}-{hour}-{model}",
                customer_id=customer,
                time=TODAY.start + hour * HOUR,
                dimensions={"model": model},
            )
            for customer in ("b", "a", "B")
            for hour in (3, 1)
            for model in ("y", "", "x")
        )
    )
    fields: dict[str, Any] = {"window": messages.USAGE_WINDOW_HOUR, "group_by": ["model"]}

    whole = await world.query(**fields)
    pages = [await world.query(page_size=7, **fields)]
    pages.append(await world.query(page_size=7, page_token=pages[0].next_page_token, **fields))
    pages.append(await world.query(page_size=7, page_token=pages[1].next_page_token, **fields))

    order = [
        (row.customer_id, row.interval.start_time.seconds, row.group["model"]) for row in whole.rows
    ]
    assert (len(order), order) == (18, sorted(order))
    assert [row for page in pages for row in page.rows] == list(whole.rows)
    assert [len(page.rows) for page in pages] == [7, 7, 4]
    assert (whole.next_page_token, pages[2].next_page_token) == ("", "")


async def test_a_page_token_continues_its_own_query_only(world: World) -> None:
    """A token of another query, or one that was tampered with, is refused."""
    await world.ingest(an_event("a"), an_event("b", customer_id="b"))
    token = (await world.query(page_size=1)).next_page_token
    listing_token = (
        await world.ask("ListEvents", messages.ListEventsRequest(page_size=1))
    ).next_page_token
    request = messages.QueryUsageRequest(meter_id="tokens", interval=render_interval(TODAY))

    refusals = []
    for bad in (token[:-4], "x", listing_token):
        request.page_token = bad
        refusals.append(await world.refusal("QueryUsage", request))
    request.page_token, request.customer_id = token, "acme"
    refusals.append(await world.refusal("QueryUsage", request))

    assert [type(refusal) for refusal in refusals] == [InvalidInput] * 4
    assert {refusal.reason for refusal in refusals} == {"INVALID_PAGE_TOKEN"}


async def test_a_query_of_an_unknown_meter_or_dimension_is_refused(world: World) -> None:
    """What does not exist is named."""
    interval = render_interval(TODAY)

    meter = await world.refusal(
        "QueryUsage", messages.QueryUsageRequest(meter_id="nothing", interval=interval)
    )
    dimension = await world.refusal(
        "QueryUsage",
        messages.QueryUsageRequest(meter_id="tokens", interval=interval, group_by=["user"]),
    )
    listing = await world.refusal("ListEvents", messages.ListEventsRequest(meter_id="nothing"))

    assert (type(meter), meter.reason, meter.metadata) == (
        NotFound,
        "METER_NOT_FOUND",
        {"meter_id": "nothing"},
    )
    assert (type(dimension), dimension.reason, dimension.metadata) == (
        InvalidInput,
        "UNKNOWN_DIMENSION",
        {"meter_id": "tokens", "dimension": "user"},
    )
    assert (type(listing), listing.reason) == (NotFound, "METER_NOT_FOUND")


async def listed(world: World, **fields: Any) -> list[str]:  # noqa: ANN401 - as above.
    """List events, and name them by their ids."""
    return [stored.event.event_id for stored in await world.events(**fields)]


async def test_events_are_listed_by_time_source_and_id(world: World) -> None:
    """Each restriction works alone and together; the order is always the same."""
    await world.put_meter(a_meter("large", filters={"model": ["large"]}))
    await world.put_meter(a_meter("calls", quantity=""))
    await world.ingest(
        an_event("c", time=NOON + HOUR, dimensions={"model": "large"}),
        an_event("b", source="z"),
        an_event("a", source="z", customer_id="zeta"),
        an_event("d", source="y", type="image.call"),
        an_event("e", time=NOON - MICROSECOND, quantities={}),
    )
    interval = render_interval(Interval(NOON, NOON + HOUR))

    assert await listed(world) == ["e", "d", "a", "b", "c"]
    assert await listed(world, customer_id="acme") == ["e", "d", "b", "c"]
    assert await listed(world, type="llm.call") == ["e", "a", "b", "c"]
    assert await listed(world, interval=interval) == ["d", "a", "b"]
    assert await listed(world, meter_id="large") == ["c"]
    assert await listed(world, meter_id="tokens") == ["a", "b", "c"]
    assert await listed(world, meter_id="calls", customer_id="acme") == ["e", "b", "c"]
    assert await listed(world, meter_id="calls", type="image.call") == []


async def test_a_listed_event_says_what_the_meter_counts_of_it(world: World) -> None:
    """Each by the version of its time: a quantity, 1, what is derived, or nothing."""
    await world.put_meter(a_meter("calls", quantity=""))
    who = a_meter("who", quantity="")
    who.aggregation, who.unique_by = meter_pb2.AGGREGATION_UNIQUE_COUNT, "subject.user_id"
    await world.put_meter(who)
    billable = a_meter("billable", quantity="", filters={"model": ["large"]})
    billable.aggregation = meter_pb2.AGGREGATION_SUM
    billable.expression = "sub(quantities.tokens, quantities.cached)"
    await world.put_meter(billable)
    world.clock.advance(HOUR)
    billable.expression = "mul(quantities.tokens, 3)"
    billable.filters["model"].values.append("small")
    await world.put_meter(billable, request_id="again")
    cached = {"tokens": "10", "cached": "4"}
    await world.ingest(
        an_event("a", quantities=cached, dimensions={"model": "large"}),
        an_event("b", quantities={"tokens": "7"}, dimensions={"model": "large"}),
        an_event("c", quantities=cached, dimensions={"model": "small"}),
        an_event("d", quantities=cached, dimensions={"model": "small"}, time=NOON + HOUR),
    )

    async def counted(meter_id: str) -> dict[str, str | None]:
        return {
            stored.event.event_id: stored.counted_quantity.value
            if stored.HasField("counted_quantity")
            else None
            for stored in await world.events(meter_id=meter_id)
        }

    assert await counted("billable") == {"a": "6", "b": None, "d": "30"}
    assert await counted("tokens") == {"a": "10", "b": "7", "c": "10", "d": "10"}
    assert await counted("calls") == {"a": "1", "b": "1", "c": "1", "d": "1"}
    assert await counted("who") == {"a": None, "b": None, "c": None, "d": None}
    assert await counted("") == {"a": None, "b": None, "c": None, "d": None}
    assert await world.usage("billable", interval=Interval(NOON, NOON + 2 * HOUR)) == [
        ("acme", "36", 2)
    ]


async def test_events_come_in_pages_though_times_are_equal(world: World) -> None:
    """Equal times are told apart by source and id, so a page ends anywhere."""
    await world.ingest(*(an_event(f"{number:02}", source=f"s{number % 3}") for number in range(20)))

    whole = await world.ask("ListEvents", messages.ListEventsRequest())
    first = await world.ask("ListEvents", messages.ListEventsRequest(page_size=9))
    second = await world.ask(
        "ListEvents", messages.ListEventsRequest(page_size=9, page_token=first.next_page_token)
    )
    third = await world.ask(
        "ListEvents", messages.ListEventsRequest(page_size=9, page_token=second.next_page_token)
    )

    assert [*first.events, *second.events, *third.events] == list(whole.events)
    assert (len(whole.events), third.next_page_token) == (20, "")
