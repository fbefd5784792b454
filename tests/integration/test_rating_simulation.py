"""Simulations over a real meter: every customer pays what `Rate` says, and reports add up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.text_format import Parse

from cli.signing_keys import SigningKeys
from kit.errors import DomainError, InvalidInput, Precondition
from kit.rpc.status import read_error
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from services.rating import clients, usage_streams
from tests.rating_world import World, a_meter_message, a_plan_message, metered_world, rating_world
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import IngestEventsRequest
from tollkeeper.api.rating.v1 import plan_pb2, simulation_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

DECEMBER, JANUARY, FEBRUARY, MARCH = (
    datetime(2025, 12, 1, tzinfo=UTC),
    *(datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3)),
)
CUSTOMERS = ("acme", "Bolt", "cora", "delta", "zeta")

TIERED = """
    plan_id: "tiered" currency: "USD" base_fee { value: "10" }
    prices {
      price_id: "tokens" meter_id: "tokens"
      graduated {
        tiers { up_to { value: "1000" } unit_amount { value: "0.01" } }
        tiers { unit_amount { value: "0.007" } }
      }
    }
"""
MIXED = """
    plan_id: "mixed" currency: "USD"
    prices {
      price_id: "by_model" meter_id: "calls"
      matrix {
        rows { dimensions { key: "model" value: "large" } amount { value: "0.5" } }
        rows { amount { value: "0.1" } }
      }
    }
    prices {
      price_id: "long" meter_id: "tokens"
      dimensions { key: "model" value: "large" }
      context_tiers {
        context_quantity: "tokens"
        tiers { up_to { value: "300" } amount { value: "0.01" } } tiers { amount { value: "0.02" } }
      }
    }
    prices {
      price_id: "tokens" meter_id: "tokens" included_quantity { value: "500" }
      rollover { periods: 2 } standard { amount { value: "0.013" } }
    }
    prices {
      price_id: "ever" meter_id: "ever" tier_span: TIER_SPAN_LIFETIME
      volume {
        tiers { up_to { value: "900" } unit_amount { value: "0.01" } }
        tiers { unit_amount { value: "0.002" } }
      }
    }
    prices {
      price_id: "hours" meter_id: "hours"
      time_of_use {
        time_zone: "Europe/Berlin" other_amount { value: "0.001" }
        windows { start_hour: 8 end_hour: 20 amount { value: "0.003" } }
      }
    }
"""


def events() -> list[meter_pb2.UsageEvent]:
    """Make what five customers used from December to February."""
    made = []
    for number in range(240):
        time = DECEMBER + timedelta(hours=9 * number)
        event = meter_pb2.UsageEvent(
            event_id=f"e{number}",
            source="test",
            type="llm.call",
            time=render_time(time),
            dimensions={"model": "large" if number % 3 else "small"},
            quantities={
                name: str(50 + 7 * number % 400) for name in ("tokens", "calls", "ever", "hours")
            },
        )
        event.subject.customer_id = CUSTOMERS[number * number % 4]
        made.append(event)
    return made


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating and a meter service that knows what five customers used; `zeta` used nothing."""
    async with metered_world(settings_for, keys, tenant) as running:
        for meter_id in ("tokens", "calls", "ever", "hours"):
            await running.put_meter(a_meter_message(meter_id, "model"))
        await running.ask("meter.IngestEvents", IngestEventsRequest(events=events()))
        await running.put_plan()
        yield running


def a_request(*candidates: str, current: str = "pro") -> messages.SimulateRequest:
    """Ask what January and half of February would come to by candidates."""
    request = messages.SimulateRequest(
        candidates=[Parse(text, plan_pb2.Plan()) for text in candidates], current_plan_id=current
    )
    for start, end in ((JANUARY, FEBRUARY), (FEBRUARY, datetime(2026, 2, 15, tzinfo=UTC))):
        period = request.periods.add().period
        period.start_time.CopyFrom(render_time(start))
        period.end_time.CopyFrom(render_time(end))
    request.periods[1].proration.billed_days = 14
    request.periods[1].proration.period_days = 28
    return request


def naming(request: messages.SimulateRequest, *customers: str) -> messages.SimulateRequest:
    """Name customers, each in a segment of its first letter."""
    request.customers.extend(
        simulation_pb2.SimulatedCustomer(customer_id=each, segment=each[0]) for each in customers
    )
    return request


async def simulate(world: World, request: messages.SimulateRequest) -> list[Any]:
    """Simulate to the end, and answer every step; a refusal is a domain error."""
    try:
        answers = world.method("Simulate")(request, metadata=world.token())
        return [answer async for answer in answers]
    except grpc.aio.AioRpcError as error:
        raise read_error(error) from error


def outcomes_of(steps: Sequence[Any]) -> dict[str, simulation_pb2.CustomerOutcome]:
    """Find what each customer pays and would pay."""
    return {each.customer_id: each for step in steps for each in step.outcomes.outcomes}


def progress_of(steps: Sequence[Any]) -> list[int]:
    """Tell how many customers were done at each step of progress."""
    return [step.progress.done_count for step in steps if step.HasField("progress")]


def cents(money: Any) -> int:  # noqa: ANN401 - a message of Google's.
    """Answer an amount in cents."""
    return int(money.units * 100 + money.nanos // 10**7)


async def rated(
    world: World,
    request: messages.SimulateRequest,
    customer: str,
    plan: str,
    overrides: messages.PlanOverrides | None = None,
) -> int:
    """Rate each period of a request by itself, and answer the sum in cents."""
    total = 0
    for number, each in enumerate(request.periods):
        asked = messages.RateRequest(
            customer_id=customer,
            plan_id=plan,
            period=each.period,
            previous_periods=[before.period for before in request.periods[:number]],
            overrides=overrides,
        )
        if each.HasField("proration"):
            asked.proration.CopyFrom(each.proration)
        total += cents((await world.ask("Rate", asked)).rating.total)
    return total


async def test_every_customer_pays_what_rate_says(world: World) -> None:
    """Now and by each candidate, over all periods, whoever has usage."""
    request = a_request(TIERED, MIXED)

    outcomes = outcomes_of(await simulate(world, request))

    for candidate in (TIERED, MIXED):
        await world.put_plan(Parse(candidate, plan_pb2.Plan()), request_id=str(len(candidate)))
    expected = {
        customer: [
            await rated(world, request, customer, plan) for plan in ("pro", "tiered", "mixed")
        ]
        for customer in sorted({event.subject.customer_id for event in events()})
    }
    assert {
        name: [cents(each.current), *(cents(candidate.total) for candidate in each.candidates)]
        for name, each in outcomes.items()
    } == expected
    assert len({tuple(amounts) for amounts in expected.values()}) == len(expected) > 1


async def test_reading_some_customers_at_a_time_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of one and two customers, and pages that end within a customer, say the same."""
    request = naming(a_request(TIERED, MIXED), *CUSTOMERS)
    whole = outcomes_of(await simulate(world, request))

    monkeypatch.setattr(usage_streams, "_CUSTOMERS_FIRST", 1)
    monkeypatch.setattr(usage_streams, "_CUSTOMERS_MAX", 2)
    monkeypatch.setattr(clients, "_PAGE_SIZE", 3)
    steps = await simulate(world, request)
    monkeypatch.setattr(usage_streams, "_ROWS_PER_BLOCK", 1)
    one_by_one = await simulate(world, request)

    assert progress_of(steps) == [0, 1, 2, 3, 5]
    assert progress_of(one_by_one) == [0, 1, 2, 3, 4, 5]
    assert outcomes_of(steps) == outcomes_of(one_by_one) == whole
    assert list(outcomes_of(steps)) == sorted(whole)


async def test_what_was_agreed_holds_now_and_for_the_same_plan(world: World) -> None:
    """A candidate of another plan is another agreement; what cannot be fails its customer alone."""
    same = a_plan_message('base_fee { value: "30" }')
    request = naming(a_request(TIERED), "acme", "Bolt", "zeta")
    request.candidates.append(same)
    agreed = messages.PlanOverrides()
    agreed.base_fee.value = "1"
    agreed.prices.add().CopyFrom(a_plan_message().prices[0])
    agreed.prices[0].meter_id = "ever"
    request.overrides.add(customer_id="acme", overrides=agreed)
    unknown = messages.PlanOverrides(prices=Parse(TIERED, plan_pb2.Plan()).prices)
    unknown.prices[0].price_id = "nothing"
    request.overrides.add(customer_id="zeta", overrides=unknown)

    outcomes = outcomes_of(await simulate(world, request))

    await world.put_plan(Parse(TIERED, plan_pb2.Plan()), request_id="tiered")
    now = await rated(world, request, "acme", "pro", agreed)
    assert cents(outcomes["acme"].current) == now
    assert cents(outcomes["acme"].candidates[0].total) == await rated(
        world, request, "acme", "tiered"
    )
    assert cents(outcomes["acme"].candidates[1].total) == now
    assert cents(outcomes["Bolt"].current) == await rated(world, request, "Bolt", "pro")
    assert outcomes["zeta"].error.message == (
        "overrides.prices[0].price_id: is no price of the plan pro"
    )


async def test_customers_are_billed_by_their_own_calendar(world: World) -> None:
    """Each pays what `Rate` says of its own periods, whichever others are rated beside."""
    middle = datetime(2026, 1, 15, 11, tzinfo=UTC)
    spans = [(DECEMBER, middle, 46), (middle, datetime(2026, 2, 15, tzinfo=UTC), 0)]
    own = messages.SimulateRequest()
    for start, end, days in spans:
        each = own.periods.add()
        each.period.start_time.CopyFrom(render_time(start))
        each.period.end_time.CopyFrom(render_time(end))
        if days:
            each.proration.billed_days, each.proration.period_days = 20, days
    request = naming(a_request(TIERED, MIXED), "acme", "Bolt", "zeta", "cora")
    request.calendars.add(periods=own.periods[1:])
    request.calendars.add(periods=own.periods)
    request.customers[0].calendar, request.customers[1].calendar = 2, 1

    steps = await simulate(world, request)

    await world.put_plan(Parse(MIXED, plan_pb2.Plan()), request_id="mixed")
    asked = {
        "acme": own,
        "Bolt": messages.SimulateRequest(periods=own.periods[1:]),
        "zeta": request,
        "cora": request,
    }
    assert {
        name: (cents(each.current), cents(each.candidates[1].total))
        for name, each in outcomes_of(steps).items()
    } == {
        name: (
            await rated(world, periods, name, "pro"),
            await rated(world, periods, name, "mixed"),
        )
        for name, periods in asked.items()
    }
    assert progress_of(steps)[-1] == steps[-1].report.customer_count == 4


async def test_customers_that_are_named_are_rated_even_without_usage(world: World) -> None:
    """A base fee is due without usage; others are left out."""
    request = naming(a_request(TIERED), "zeta", "acme")

    steps = await simulate(world, request)

    outcomes = outcomes_of(steps)
    assert list(outcomes) == ["acme", "zeta"]
    assert cents(outcomes["zeta"].current) == 15_000
    assert cents(outcomes["zeta"].candidates[0].total) == 1_500
    report = steps[-1].report
    assert (report.customer_count, report.failed_count) == (2, 0)
    assert [segment.segment for segment in report.candidates[0].segments] == ["a", "z"]


async def test_steps_come_in_order_and_the_report_adds_up(world: World) -> None:
    """Progress first and after each part, at last the report with the sums of all outcomes."""
    steps = await simulate(world, a_request(TIERED))

    kinds = [step.WhichOneof("step") for step in steps]
    outcomes = outcomes_of(steps).values()
    report = steps[-1].report.candidates[0]
    assert kinds == ["progress", "outcomes", "progress", "report"]
    assert (steps[0].progress.done_count, steps[2].progress.done_count) == (0, len(outcomes))
    assert cents(report.total.current) == sum(cents(each.current) for each in outcomes)
    assert cents(report.total.simulated) == sum(
        cents(each.candidates[0].total) for each in outcomes
    )
    assert report.winner_count + report.loser_count + report.unchanged_count == len(outcomes)
    assert sum(bucket.customer_count for bucket in report.distribution) == len(outcomes)
    assert sum(tier.customer_count for tier in report.tiers) == len(outcomes)
    assert {tier.price_id for tier in report.tiers} == {"tokens"}


async def test_an_unknown_plan_fails_its_customers_alone(world: World) -> None:
    """Others are rated, and the report says how many were not."""
    request = naming(a_request(TIERED), "acme", "cora")
    request.customers[1].plan_id = "nowhere"

    steps = await simulate(world, request)

    outcomes = outcomes_of(steps)
    assert outcomes["cora"].error.message == "there is no plan nowhere"
    assert not outcomes["acme"].HasField("error")
    assert (steps[-1].report.customer_count, steps[-1].report.failed_count) == (1, 1)


async def test_versions_follow_the_periods_and_later_contracts_count_from_their_start(
    world: World,
) -> None:
    """A new version rates from its time on; a contract is not rated before it begins."""
    newer = a_plan_message('base_fee { value: "200" }')
    newer.effective_time.CopyFrom(render_time(FEBRUARY))
    await world.put_plan(newer, request_id="newer")
    request = naming(a_request(TIERED), "zeta", "zora")
    request.customers[1].contract_start.CopyFrom(render_time(FEBRUARY))

    outcomes = outcomes_of(await simulate(world, request))

    assert cents(outcomes["zeta"].current) == 10_000 + 10_000
    assert cents(outcomes["zora"].current) == 10_000
    assert cents(outcomes["zora"].candidates[0].total) == 500


async def test_without_a_current_plan_all_is_new(world: World) -> None:
    """What is not known counts as nothing."""
    steps = await simulate(world, a_request(TIERED, current=""))

    report = steps[-1].report.candidates[0]
    assert not any(each.HasField("current") for each in outcomes_of(steps).values())
    assert cents(report.total.current) == 0
    assert report.distribution[-1].customer_count == report.loser_count


REFUSALS = [
    pytest.param(messages.SimulateRequest, ["candidates"], id="nothing to try"),
    pytest.param(
        lambda: a_request(TIERED, TIERED.replace("USD", "EUR")),
        ["candidates[1].currency"],
        id="two currencies",
    ),
    pytest.param(
        lambda: naming(a_request(TIERED.replace('"0.01"', '"-1"')), "acme", "a b"),
        ["candidates[0].prices[0].graduated.tiers[0].unit_amount", "customers[1].customer_id"],
        id="every fault at once",
    ),
    pytest.param(
        lambda: naming(a_request(TIERED), "acme", "acme"), ["customers[1].customer_id"], id="twice"
    ),
    pytest.param(
        lambda: messages.SimulateRequest(
            candidates=a_request(TIERED).candidates,
            periods=a_request(TIERED).periods,
            calendars=[simulation_pb2.SimulatedCalendar()],
            overrides=[messages.CustomerOverrides(customer_id="a b")],
            customers=[simulation_pb2.SimulatedCustomer(customer_id="acme", calendar=2)],
        ),
        ["calendars[0].periods", "customers[0].calendar", "overrides[0].customer_id"],
        id="calendars and agreements",
    ),
]


@pytest.mark.parametrize(("make", "fields"), REFUSALS)
async def test_bad_requests_are_refused(
    world: World, make: Callable[[], messages.SimulateRequest], fields: list[str]
) -> None:
    """Every bad field is named."""
    with pytest.raises(InvalidInput) as refused:
        await simulate(world, make())

    assert [violation.field for violation in refused.value.violations] == fields


async def test_a_candidate_whose_meters_do_not_fit_is_refused(world: World) -> None:
    """The fields of every candidate are named by its position."""
    unknown = TIERED.replace('meter_id: "tokens"', 'meter_id: "nothing"')

    with pytest.raises(Precondition) as refused:
        await simulate(world, a_request(TIERED, unknown))

    assert refused.value.reason == "METER_NOT_FOUND"
    assert [violation.field for violation in refused.value.violations] == [
        "candidates[1].prices[0].meter_id"
    ]


async def test_a_meter_that_does_not_answer_ends_the_simulation(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> None:
    """Nobody guesses what was used."""
    async with rating_world(settings_for, keys, tenant) as world:
        with pytest.raises(DomainError) as refused:
            await simulate(world, naming(a_request(TIERED), "acme"))

    assert refused.value.reason == "METER_UNAVAILABLE"
