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


async def test_a_level_is_read_from_the_first_usage_on(world: World) -> None:
    """What was there in former years counts on; what is removed takes away."""
    (line,) = await rated(
        world,
        f"""prices {{ {A_PRICE} standard {{ amount {{ value: "31" }} }} recurrence {{
          prorated: true removal {{ key: "kind" value: "removed" }} }} }}""",
        an_event("1", "5", datetime(2012, 3, 1, tzinfo=UTC), kind="added"),
        an_event("2", "2", datetime(2024, 3, 1, tzinfo=UTC), kind="removed"),
        an_event("3", "4", datetime(2026, 1, 17, tzinfo=UTC), kind="added"),
        an_event("4", "1", datetime(2026, 1, 30, 23, tzinfo=UTC), kind="removed"),
    )

    assert line.amount.units == 3 * 31 + 4 * 15 - 1


async def test_each_change_of_a_level_is_read_where_the_order_matters(world: World) -> None:
    """What was set last counts, in former years as well; a sum would tell something else."""
    (line,) = await rated(
        world,
        f"""prices {{ {A_PRICE} standard {{ amount {{ value: "31" }} }} recurrence {{
          prorated: true sets_level: true }} }}""",
        an_event("1", "5", datetime(2012, 3, 1, tzinfo=UTC)),
        an_event("2", "2", datetime(2024, 3, 1, tzinfo=UTC)),
        an_event("3", "4", datetime(2026, 1, 17, tzinfo=UTC)),
    )

    assert line.amount.units == 2 * 16 + 4 * 15


async def test_usage_before_the_period_fills_tiers_and_leaves_allowances(world: World) -> None:
    """The contract's usage is asked for where tiers span it, former periods' where they leave."""
    tokens = [
        an_event("1", "8", datetime(2025, 12, 5, tzinfo=UTC), model="large"),
        an_event("2", "5", at(9), model="large"),
        an_event("3", "4", datetime(2025, 12, 6, tzinfo=UTC), model="small"),
        an_event("4", "20", at(10), model="small"),
    ]
    await world.ask("meter.IngestEvents", IngestEventsRequest(events=tokens))
    plan = """
        plan_id: "kinds" currency: "USD"
        prices { price_id: "a" meter_id: "tokens" dimensions { key: "model" value: "large" }
          tier_span: TIER_SPAN_CONTRACT
          graduated { tiers { up_to { value: "10" } unit_amount { value: "2" } }
                      tiers { unit_amount { value: "1" } } } }
        prices { price_id: "b" meter_id: "tokens" dimensions { key: "model" value: "small" }
          included_quantity { value: "10" } rollover { periods: 1 }
          standard { amount { value: "1" } } }
    """
    await world.put_plan(Parse(plan, plan_pb2.Plan()))

    large, small = (
        await world.rate(
            """plan_id: "kinds" contract_start { seconds: 1764547200 } previous_periods {
               start_time { seconds: 1764547200 } end_time { seconds: 1767225600 } }"""
        )
    ).lines

    assert written(large) == ["tier 1: up to 10: 2 = 4", "tier 2: above 10: 3 = 3"]
    assert written(small) == [
        "kept from earlier periods: up to 6: 6 = 0",
        "included: up to 10: 10 = 0",
        "each: 4 = 4",
    ]


async def test_each_event_is_charged_in_advance(world: World) -> None:
    """The events of the meter are charged one by one, in the order of their time."""
    (line,) = await rated(
        world,
        f"""prices {{ {A_PRICE} billing_timing: BILLING_TIMING_IN_ADVANCE
          included_quantity {{ value: "5" }} standard {{ amount {{ value: "0.001" }} }} }}""",
        an_event("1", "10", at(12)),
        an_event("2", "9", at(11)),
    )

    assert written(line) == ["event 1: 9 = 0", "event 2: 10 = 0.01"]
