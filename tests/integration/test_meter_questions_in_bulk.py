"""Many questions at once, live totals, and single events, at a real meter service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput, NotFound
from kit.interval import Interval
from kit.rpc.wire import render_interval
from kit.settings import ServiceSettings
from tests.meter_world import NOON, TODAY, World, a_meter, an_event, meter_world
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

MINUTE = timedelta(minutes=1)


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon, with a meter of tokens by model."""
    async with meter_world(settings_for, keys, tenant) as running:
        await running.put_meter()
        yield running


def a_query(
    customer_id: str = "acme",
    meter_id: str = "tokens",
    interval: Interval = TODAY,
    customers: Sequence[str] = (),
) -> messages.QueryUsageRequest:
    """Make a question by model."""
    return messages.QueryUsageRequest(
        meter_id=meter_id,
        customer_id=customer_id,
        customer_ids=customers,
        interval=render_interval(interval),
        group_by=["model"],
    )


async def test_many_questions_are_answered_each_by_its_position(world: World) -> None:
    """Customers that are asked about alike, twice, differently, in vain, and wrongly."""
    await world.put_meter(a_meter("calls", quantity="", group_by=("model",)))
    await world.ingest(
        *(
            an_event(f"{customer}-{model}", customer_id=customer, dimensions={"model": model})
            for customer in ("acme", "beta", "zeta")
            for model in ("small", "large")
        )
    )
    queries = [
        a_query("zeta"),
        a_query("acme"),
        a_query("nobody"),
        a_query("acme", "calls"),
        a_query("acme", "nothing"),
        a_query("zeta"),
        a_query("beta", interval=Interval(NOON - MINUTE, NOON)),
        a_query(""),
        a_query("", customers=["zeta", "beta"]),
        a_query("", customers=["acme"]),
    ]

    call = world.stub.BatchQueryUsage(
        messages.BatchQueryUsageRequest(queries=queries), metadata=world.token()
    )
    answers = {answer.index: answer async for answer in call}

    single = [await world.ask("QueryUsage", query) for query in queries if query.meter_id[0] != "n"]
    usage = [answers[index].usage.rows for index in (0, 1, 2, 3, 5, 6, 7, 8, 9)]
    assert [list(rows) for rows in usage] == [list(answer.rows) for answer in single]
    info = ErrorInfo()
    answers[4].error.details[0].Unpack(info)
    assert (len(answers), info.reason) == (len(queries), "METER_NOT_FOUND")


async def test_bad_questions_are_named_by_their_position(world: World) -> None:
    """Nothing is answered when one of them cannot be read."""
    paged = a_query()
    paged.page_size = 5
    request = messages.BatchQueryUsageRequest(queries=[a_query(), a_query(meter_id=""), paged])

    call = world.stub.BatchQueryUsage(request, metadata=world.token())
    with pytest.raises(Exception, match=r"queries\[1\].meter_id"):
        await call.read()


async def test_live_totals_come_when_they_change(world: World) -> None:
    """The first answer is what is there; the next comes with the next event, and not before."""
    await world.ingest(an_event("a"))
    call = world.stub.WatchUsage(
        messages.WatchUsageRequest(query=a_query()), metadata=world.token()
    )

    first = await call.read()
    await world.ingest(an_event("b"))
    async with asyncio.timeout(20):
        second = await call.read()
    call.cancel()

    assert [answer.rows[0].quantity.value for answer in (first, second)] == ["10", "20"]


async def test_an_event_is_found_by_its_identity(world: World) -> None:
    """The event comes back as it was taken; one that was never sent is not found."""
    event = an_event("a", time=NOON - MINUTE)
    await world.ingest(event)

    found = await world.ask("GetEvent", messages.GetEventRequest(source="gateway", event_id="a"))
    missing = await world.refusal(
        "GetEvent", messages.GetEventRequest(source="gateway", event_id="b")
    )
    bad = await world.refusal("GetEvent", messages.GetEventRequest())

    assert found.event.event == event
    assert (type(missing), missing.reason) == (NotFound, "EVENT_NOT_FOUND")
    assert (type(bad), [each.field for each in bad.violations]) == (
        InvalidInput,
        ["source", "event_id"],
    )


async def test_events_are_listed_by_their_dimensions(world: World) -> None:
    """An empty value stands for an absent dimension."""
    await world.ingest(
        an_event("a", dimensions={"model": "small", "region": "eu"}),
        an_event("b", dimensions={"model": "small"}),
        an_event("c", dimensions={"model": "large", "region": "eu"}),
    )

    async def listed(**dimensions: str) -> list[str]:
        return [each.event.event_id for each in await world.events(dimensions=dimensions)]

    assert await listed(model="small") == ["a", "b"]
    assert await listed(model="small", region="") == ["b"]
    assert await listed(region="eu", model="large") == ["c"]
