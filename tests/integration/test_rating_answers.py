"""What a real rating service answers beside ratings: why, what if, at which rates, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from google.protobuf.text_format import Merge, Parse

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.rating_world import (
    JANUARY,
    World,
    a_meter_message,
    a_plan_message,
    a_rate_request,
    an_event,
    given_tokens,
    metered_world,
)
from tollkeeper.api.meter.v1.meter_service_pb2 import IngestEventsRequest
from tollkeeper.api.rating.v1 import plan_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating and a meter service, with a meter of tokens kept apart by model."""
    async with metered_world(settings_for, keys, tenant) as running:
        await running.put_meter(a_meter_message("tokens", "model"))
        yield running


def a_question(written: str) -> messages.EstimateCostRequest:
    """Ask what a call of Acme's in January adds."""
    request = messages.EstimateCostRequest(rate=a_rate_request())
    return Merge(written, request)


def some_tokens(quantity: str) -> str:
    """Write a call."""
    return f'quantities {{ meter_id: "tokens" quantity {{ value: "{quantity}" }} }}'


async def test_a_line_explains_itself(world: World) -> None:
    """Quantity, query, every step with the sum so far, and the rounding."""
    await world.put_plan()
    request = messages.ExplainLineRequest(
        rate=a_rate_request(given_tokens("1234567")), price_id="tokens"
    )

    answer = await world.ask("ExplainLine", request)

    assert answer.text.splitlines() == [
        "Tokens, by version 1 of the plan pro",
        "quantity: 1234567",
        (
            "counted by: meter tokens, customer acme,"
            " from 2026-01-01T00:00:00+00:00 to 2026-02-01T00:00:00+00:00"
        ),
        "included: included: up to 1000000: 1000000 x 0 = 0, so far 0",
        "price: 0.02 per 1000: 234567 x 0.00002 = 4.69134, so far 4.69134",
        "rounded half up: 4.69134 becomes 4.69 USD",
    ]
    assert [step.amount_so_far.value for step in answer.steps] == ["0", "4.69134"]
    assert (answer.plan_version, answer.line.amount.units) == (1, 4)


async def test_a_line_that_is_not_there_has_no_explanation(world: World) -> None:
    """The refusal names the kind and the price; a bad rating is named by its path."""
    await world.put_plan()
    request = messages.ExplainLineRequest(rate=a_rate_request(given_tokens("1")), price_id="seats")
    missing = await world.refusal("ExplainLine", request)
    bad = await world.refusal("ExplainLine", Parse("kind: 9", messages.ExplainLineRequest()))

    assert (missing.reason, missing.metadata) == (
        "LINE_NOT_FOUND",
        {"kind": "USAGE", "price_id": "seats"},
    )
    assert [violation.field for violation in bad.violations] == [
        "kind",
        "rate.customer_id",
        "rate.plan_id",
        "rate.period.start_time",
        "rate.period.end_time",
    ]


async def test_an_estimate_is_what_a_call_adds_to_the_metered_period(world: World) -> None:
    """Of 1,500 more tokens, 500 are still included."""
    await world.put_plan()
    event = an_event("1", "999500", datetime(2026, 1, 3, tzinfo=UTC))
    await world.ask("meter.IngestEvents", IngestEventsRequest(events=[event]))

    answer = await world.ask("EstimateCost", a_question(some_tokens("1500")))

    assert (answer.amount.value, answer.rounded_amount.nanos) == ("0.02", 20_000_000)
    assert [(line.price_id, line.amount.value) for line in answer.lines] == [("tokens", "0.02")]


async def test_an_estimate_alone_knows_no_allowance(world: World) -> None:
    """The same call by itself costs all its tokens, and no meter is asked."""
    await world.put_plan()

    answer = await world.ask("EstimateCost", a_question(f"{some_tokens('1500')} alone: true"))

    assert answer.amount.value == "0.03"


async def test_an_estimate_needs_a_call(world: World) -> None:
    """Nothing costs nothing, so nobody asks for it."""
    refusal = await world.refusal("EstimateCost", a_question(""))

    assert [violation.field for violation in refusal.violations] == ["quantities"]


async def test_a_rate_card_says_what_units_cost(world: World) -> None:
    """Rows, tiers of calls, and prices by the thousand, each with what may make it cheaper."""
    plan = """
        plan_id: "cards" currency: "USD"
        prices { price_id: "a" meter_id: "tokens" matrix { per_quantity { value: "1000" }
          rows { amount { value: "1" } }
          rows { dimensions { key: "model" value: "large" } amount { value: "2" } } } }
        prices { price_id: "b" meter_id: "tokens" dimensions { key: "model" value: "huge" }
          context_tiers { context_quantity: "input_tokens"
            tiers { up_to { value: "9" } amount { value: "3" } } tiers { amount { value: "4" } } }
          included_quantity { value: "5" } }
    """
    await world.put_plan(Parse(plan, plan_pb2.Plan()))

    card = await world.ask("GetRateCard", messages.GetRateCardRequest(plan_id="cards"))

    expected = """
        plan_id: "cards" plan_version: 1 currency: "USD"
        entries { price_id: "a" meter_id: "tokens" unit_amount { value: "0.001" } is_exact: true }
        entries { price_id: "a" meter_id: "tokens" unit_amount { value: "0.002" } is_exact: true
                  dimensions { key: "model" value: "large" } }
        entries { price_id: "b" meter_id: "tokens" unit_amount { value: "3" }
                  dimensions { key: "model" value: "huge" }
                  context_quantity: "input_tokens" context_above { value: "0" } }
        entries { price_id: "b" meter_id: "tokens" unit_amount { value: "4" }
                  dimensions { key: "model" value: "huge" }
                  context_quantity: "input_tokens" context_above { value: "9" } }
    """
    assert card == Parse(expected, messages.GetRateCardResponse())


async def test_an_archived_plan_rates_on_and_takes_no_new_version(world: World) -> None:
    """It leaves the list, stays readable with its time, and may be archived again."""
    stored = await world.put_plan()
    request = messages.ArchivePlanRequest(request_id="archive-1", plan_id="pro")

    archived = (await world.ask("ArchivePlan", request)).plan
    again = await world.ask(
        "ArchivePlan", messages.ArchivePlanRequest(request_id="archive-2", plan_id="pro")
    )
    listed = await world.ask("ListPlans", messages.ListPlansRequest())
    everything = await world.ask("ListPlans", messages.ListPlansRequest(show_archived=True))
    put = messages.PutPlanRequest(
        request_id="put-2", plan=a_plan_message("base_fee { value: '1' }")
    )
    refusal = await world.refusal("PutPlan", put)

    assert archived.archive_time.seconds > 0
    assert again.plan == archived
    archived.ClearField("archive_time")
    assert archived == stored
    assert [list(listed.plans), [each.plan_id for each in everything.plans]] == [[], ["pro"]]
    assert (refusal.reason, refusal.metadata) == ("PLAN_ARCHIVED", {"plan_id": "pro"})
    assert (await world.rate(given_tokens("0"))).total.units == 100


async def test_a_plan_that_is_not_there_cannot_be_archived(world: World) -> None:
    """The refusal names the plan."""
    request = messages.ArchivePlanRequest(request_id="archive-1", plan_id="pro")

    assert (await world.refusal("ArchivePlan", request)).reason == "PLAN_NOT_FOUND"


async def test_a_customer_has_what_was_agreed(world: World) -> None:
    """Base fee, price and commitment of the request stand for those of the plan."""
    await world.put_plan()

    rating = await world.rate(
        f"""{given_tokens("2000")} overrides {{
          base_fee {{ value: "7" }} commitment {{ steps {{ amount {{ value: "20" }} }} }}
          prices {{ price_id: "tokens" meter_id: "tokens"
                    standard {{ amount {{ value: "0.001" }} }} }} }}"""
    )

    assert [line.amount.units for line in rating.lines] == [7, 2, 11]
    assert rating.plan_version == 1


async def test_nothing_is_agreed_that_the_plan_does_not_have(world: World) -> None:
    """An override of a price that the plan lacks is refused by its path."""
    await world.put_plan()
    seats = 'price_id: "seats" meter_id: "tokens" standard { amount { value: "1" } }'
    request = a_rate_request(f"overrides {{ prices {{ {seats} }} }} period {{ {JANUARY} }}")

    refusal = await world.refusal("Rate", request)

    assert [violation.field for violation in refusal.violations] == ["overrides.prices[0].price_id"]
