"""Meters at a real service: put once, fixed in what they count, exact however late they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import Conflict, InvalidInput, NotFound, Precondition
from kit.settings import ServiceSettings
from tests.meter_world import NOON, World, a_meter, an_event, meter_world, some_events
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon."""
    async with meter_world(settings_for, keys, tenant) as running:
        yield running


def stored(meter: meter_pb2.Meter, display_name: str, unit: str) -> meter_pb2.Meter:
    """Tell how a meter comes back: with its names, and when it was put."""
    answer = meter_pb2.Meter()
    answer.CopyFrom(meter)
    answer.display_name = display_name
    answer.unit = unit
    answer.create_time.FromDatetime(NOON)
    answer.version = 1
    answer.backfill.complete = True
    return answer


async def test_a_meter_comes_back_as_it_was_put(world: World) -> None:
    """Every field survives the database; names left out are filled in."""
    meter = a_meter(
        "small-tokens",
        group_by=("a.b", "model"),
        filters={"model": ["large", "small"], "region": [""]},
    )

    answer = await world.put_meter(meter)
    got = await world.ask("GetMeter", messages.GetMeterRequest(meter_id="small-tokens"))

    assert answer == got.meter == stored(meter, "small-tokens", "tokens")


async def test_a_repeated_put_gets_the_first_answer(world: World) -> None:
    """The same request id and content is the same call, whatever happened in between."""
    first = await world.put_meter(request_id="once")
    renamed = a_meter()
    renamed.display_name = "Renamed"
    await world.put_meter(renamed, request_id="other")

    again = await world.put_meter(request_id="once")

    assert again == first


async def test_a_request_id_cannot_be_used_for_something_else(world: World) -> None:
    """Another content under the same request id changes nothing."""
    await world.put_meter(request_id="once")

    refusal = await world.refusal(
        "PutMeter", messages.PutMeterRequest(request_id="once", meter=a_meter("other"))
    )

    assert (type(refusal), refusal.reason) == (Conflict, "REQUEST_ID_REUSED")
    answer = await world.ask("ListMeters", messages.ListMetersRequest())
    assert [meter.meter_id for meter in answer.meters] == ["tokens"]


async def test_a_put_needs_a_request_id(world: World) -> None:
    """Without one it could not be repeated safely."""
    refusal = await world.refusal("PutMeter", messages.PutMeterRequest(meter=a_meter()))

    assert (type(refusal), [each.field for each in refusal.violations]) == (
        InvalidInput,
        ["request_id"],
    )


async def test_a_meter_can_be_renamed_and_keeps_its_usage(world: World) -> None:
    """Putting it again changes names only; usage is not counted a second time."""
    await world.put_meter()
    await world.ingest(an_event())
    renamed = a_meter()
    renamed.display_name, renamed.unit = "All tokens", "token"

    answer = await world.put_meter(renamed, request_id="rename")
    await world.ingest(an_event("e2"))

    assert answer == stored(renamed, "All tokens", "token")
    assert await world.usage() == [("acme", "20", 2)]


async def test_a_meter_cannot_aggregate_otherwise(world: World) -> None:
    """History would change with it; the refusal names the field, and nothing changes."""
    before = await world.put_meter()
    request = messages.PutMeterRequest(request_id="change", meter=a_meter(quantity=""))

    refusal = await world.refusal("PutMeter", request)

    assert (type(refusal), refusal.reason, refusal.metadata) == (
        Precondition,
        "METER_IMMUTABLE",
        {"meter_id": "tokens", "field": "aggregation"},
    )
    got = await world.ask("GetMeter", messages.GetMeterRequest(meter_id="tokens"))
    assert got.meter == before


async def test_a_bad_meter_is_refused_and_nothing_is_stored(world: World) -> None:
    """Every bad field is named at once."""
    request = messages.PutMeterRequest(request_id="bad", meter=a_meter("", group_by=("a", "a")))

    refusal = await world.refusal("PutMeter", request)

    assert [each.field for each in refusal.violations] == ["meter.meter_id", "meter.group_by[1]"]
    assert not (await world.ask("ListMeters", messages.ListMetersRequest())).meters


@pytest.mark.parametrize("meter_id", ["nothing", "0"])
async def test_a_meter_that_does_not_exist_is_not_found(world: World, meter_id: str) -> None:
    """The refusal names the meter."""
    refusal = await world.refusal("GetMeter", messages.GetMeterRequest(meter_id=meter_id))

    assert (type(refusal), refusal.reason, refusal.metadata) == (
        NotFound,
        "METER_NOT_FOUND",
        {"meter_id": meter_id},
    )


async def test_meters_are_listed_in_pages_by_id(world: World) -> None:
    """Each appears once, whatever was put first."""
    await asyncio.gather(*(world.put_meter(a_meter(each)) for each in ("c", "a", "b-1", "b")))

    first = await world.ask("ListMeters", messages.ListMetersRequest(page_size=3))
    second = await world.ask(
        "ListMeters", messages.ListMetersRequest(page_size=3, page_token=first.next_page_token)
    )

    assert [[meter.meter_id for meter in page.meters] for page in (first, second)] == [
        ["a", "b", "b-1"],
        ["c"],
    ]
    assert second.next_page_token == ""


async def test_a_meter_put_later_counts_what_is_stored(world: World) -> None:
    """It counts every event it covers, in every hour and group, and goes on from there."""
    await world.ingest(
        *some_events(300),
        an_event("large", dimensions={"model": "large"}, quantities={"tokens": "0.5"}),
        an_event("none", dimensions={}),
        an_event("no tokens", quantities={"seconds": "1"}),
        an_event("other", type="image.call"),
        an_event("zeta", customer_id="zeta"),
    )

    await world.put_meter()
    await world.put_meter(a_meter("calls", quantity="", group_by=()))
    await world.put_meter(a_meter("large", group_by=(), filters={"model": ["", "large"]}))
    await world.ingest(*some_events(310))

    assert await world.usage(group_by=["model"]) == [
        ("acme ", "10", 1),
        ("acme large", "0.5", 1),
        ("acme small", "3100", 310),
        ("zeta small", "10", 1),
    ]
    assert await world.usage("calls") == [("acme", "313", 313), ("zeta", "1", 1)]
    assert await world.usage("large") == [("acme", "10.5", 2)]


async def test_a_meter_put_while_events_come_in_misses_and_repeats_none(world: World) -> None:
    """Events of calls that run at the same time are counted once, by one side or the other."""
    meters = [a_meter(f"m{number}", group_by=()) for number in range(6)]
    calls = [some_events(250, first=200 * number) for number in range(12)]

    await asyncio.gather(
        *(world.ingest(*events) for events in calls[:6]),
        *(world.put_meter(meter) for meter in meters[:3]),
        *(world.ingest(*events) for events in calls[6:]),
        *(world.put_meter(meter) for meter in meters[3:]),
    )

    totals = [await world.usage(meter.meter_id) for meter in meters]
    assert totals == [[("acme", "24500", 2450)]] * 6
