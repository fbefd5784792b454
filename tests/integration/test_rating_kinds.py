"""Kinds of price that look at the parts of usage, rated by what a real meter service has stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from google.protobuf.text_format import Parse

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.rating_world import World, a_meter_message, an_event, metered_world
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import IngestEventsRequest
from tollkeeper.api.rating.v1 import plan_pb2, rating_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

A_PRICE = 'price_id: "tokens" meter_id: "tokens"'
MILLION = 'per_quantity { value: "1000000" }'


def at(hour: int, minute: int = 0) -> datetime:
    """Name a time of the first of January 2026, a Thursday."""
    return datetime(2026, 1, 1, hour, minute, tzinfo=UTC)


def a_call(
    event_id: str, tokens: str, *, amount: str = "0", **dimensions: str
) -> meter_pb2.UsageEvent:
    """Make a call whose event says its size and what it cost."""
    event = an_event(event_id, tokens, at(9), **dimensions)
    event.quantities["input_tokens"] = tokens
    event.quantities["amount"] = amount
    return event


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating and a meter service, with meters of tokens and of amounts, kept apart."""
    async with metered_world(settings_for, keys, tenant) as running:
        await running.put_meter(a_meter_message("tokens", "model", "kind"))
        await running.put_meter(a_meter_message("amount", "model", "kind"))
        yield running


async def rated(
    world: World, prices: str, *events: meter_pb2.UsageEvent
) -> list[rating_pb2.RatedLine]:
    """Rate January by a plan of the prices once the events are stored."""
    await world.ask("meter.IngestEvents", IngestEventsRequest(events=events))
    plan = Parse(f'plan_id: "kinds" currency: "USD" {prices}', plan_pb2.Plan())
    stored = await world.put_plan(plan)
    asked = await world.ask("GetPlan", messages.GetPlanRequest(plan_id="kinds"))
    assert asked.plan == stored
    return list((await world.rate('plan_id: "kinds"')).lines)


def written(line: rating_pb2.RatedLine) -> list[str]:
    """Write the steps of a line."""
    return [
        f"{each.description}: {each.quantity.value} = {each.amount.value}" for each in line.steps
    ]


async def test_a_matrix_prices_by_model_and_kind(world: World) -> None:
    """The meter tells usage apart by the dimensions of the rows, and each row prices its own."""
    (line,) = await rated(
        world,
        f"""prices {{ {A_PRICE} matrix {{ {MILLION}
          rows {{ amount {{ value: "1" }} }}
          rows {{ dimensions {{ key: "model" value: "large" }} amount {{ value: "8" }} }}
          rows {{ dimensions {{ key: "model" value: "large" }}
                  dimensions {{ key: "kind" value: "output" }} amount {{ value: "20" }} }} }} }}""",
        a_call("1", "1000000", model="large", kind="output"),
        a_call("2", "2000000", model="large", kind="input"),
        a_call("3", "500000", model="small", kind="output"),
    )

    assert written(line) == [
        "other: 500000 = 0.5",
        "model large: 2000000 = 16",
        "kind output, model large: 1000000 = 20",
    ]
    assert line.quantity.value == "3500000"


async def test_the_size_of_a_call_prices_all_of_it(world: World) -> None:
    """Single events are read, and the quantity that is their size chooses the tier."""
    (line,) = await rated(
        world,
        f"""prices {{ {A_PRICE} dimensions {{ key: "model" value: "large" }}
          context_tiers {{ {MILLION} context_quantity: "input_tokens"
            tiers {{ up_to {{ value: "200000" }} amount {{ value: "1" }} }}
            tiers {{ amount {{ value: "2" }} }} }} }}""",
        a_call("1", "200000", model="large"),
        a_call("2", "200001", model="large"),
        a_call("3", "900000", model="small"),
    )

    assert written(line) == [
        "calls of input_tokens up to 200000: 200000 = 0.2",
        "calls of input_tokens above 200000: 200001 = 0.400002",
    ]


async def test_the_hour_of_use_prices_it(world: World) -> None:
    """Half-hour zones are no hindrance: 17:29 UTC is 22:59 in Kolkata, 17:30 is 23:00."""
    (line,) = await rated(
        world,
        f"""prices {{ {A_PRICE} time_of_use {{ time_zone: "Asia/Kolkata"
          windows {{ weekdays: THURSDAY start_hour: 23 end_hour: 7 amount {{ value: "1" }} }}
          other_amount {{ value: "3" }} }} }}""",
        an_event("1", "10", at(17, 29)),
        an_event("2", "100", at(17, 30)),
        an_event("3", "1000", at(17, 59)),
    )

    assert written(line) == [
        "window 1: 23:00 to 07:00: 1100 = 1100",
        "other hours: 10 = 30",
    ]


async def test_a_percentage_counts_events_without_reading_them(world: World) -> None:
    """The fixed amount is due for each event that the meter has added up."""
    (line,) = await rated(
        world,
        f"""prices {{ {A_PRICE} percentage {{
          rate_percent {{ value: "2.9" }} fixed_amount {{ value: "0.3" }} }} }}""",
        a_call("1", "100", model="large"),
        a_call("2", "50", model="large"),
        a_call("3", "50", model="small"),
    )

    assert written(line) == ["2.9%: 200 = 5.8", "fixed for each event: 3 = 0.9"]


async def test_a_percentage_frees_the_first_events(world: World) -> None:
    """Single events are read where some are free, in the order of their time."""
    later = an_event("1", "100", at(12))
    (line,) = await rated(
        world,
        f"""prices {{ {A_PRICE} percentage {{
          rate_percent {{ value: "10" }} free_events: 1 maximum_amount {{ value: "4" }} }} }}""",
        later,
        an_event("2", "7", at(11)),
    )

    assert written(line) == [
        "free: 1 whole events: 7 = 0",
        "10%: 100 = 10",
        "lowered to 4 for each event: 1 = -6",
    ]


async def test_amounts_come_from_another_meter(world: World) -> None:
    """What events say they cost is billed, and a markup on it where the price has one."""
    dynamic, cost_plus = await rated(
        world,
        f"""prices {{ {A_PRICE} dimensions {{ key: "model" value: "large" }}
                     dynamic {{ amount_meter_id: "amount" }} }}
            prices {{ price_id: "rest" meter_id: "tokens"
                     cost_plus {{ cost_meter_id: "amount" markup_percent {{ value: "20" }} }} }}""",
        a_call("1", "20", amount="0.402", model="large"),
        a_call("2", "10", amount="0.5", model="small"),
    )

    assert written(dynamic) == ["amounts of the events: 20 = 0.402"]
    assert written(cost_plus) == ["cost: 10 = 0.5", "markup of 20%: 0.5 = 0.1"]


async def test_groups_have_lines_of_their_own_and_leave_specific_usage_out(world: World) -> None:
    """A group for each model that no other price counts, each with the query of its quantity."""
    specific, *groups = await rated(
        world,
        f"""prices {{ {A_PRICE} dimensions {{ key: "model" value: "large" }}
                     dimensions {{ key: "kind" value: "output" }}
                     standard {{ amount {{ value: "2" }} }} }}
            prices {{ price_id: "rest" meter_id: "tokens" group_by: "model"
                     package {{ amount {{ value: "5" }} package_size {{ value: "10" }} }} }}""",
        a_call("1", "1", model="large", kind="output"),
        a_call("2", "11", model="large", kind="input"),
        a_call("3", "9", model="small", kind="output"),
    )

    assert specific.quantity.value == "1"
    assert [(line.description, line.quantity.value, line.amount.units) for line in groups] == [
        ("rest: large", "11", 10),
        ("rest: small", "9", 5),
    ]
    assert [dict(line.usage.dimensions) for line in groups] == [
        {"model": "large"},
        {"model": "small"},
    ]
    (excluded,) = groups[0].usage.excluded
    assert dict(excluded.dimensions) == {"model": "large", "kind": "output"}
