"""Budgets of money over gRPC: what calls cost by the rate card of a real rating service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.errors import InvalidInput, Unavailable
from kit.rpc.channel import open_channel
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.quota_world import (
    ALLOW,
    DENY,
    PARTIAL,
    Standing,
    a_limit,
    amounts,
    request_id,
    standings,
    subject,
)
from tests.rating_world import (
    NOBODY,
    NOON,
    World,
    a_meter_message,
    a_plan_message,
    metered_world,
    rating_world,
)
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import IngestEventsRequest
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.api.rating.v1 import plan_pb2

MORE_PRICES = """
    prices {
      price_id: "output" display_name: "Output" meter_id: "output_tokens"
      dimensions { key: "model" value: "large" }
      context_tiers {
        context_quantity: "tokens" per_quantity { value: "1000" }
        tiers { up_to { value: "200" } amount { value: "0.01" } }
        tiers { amount { value: "0.02" } }
      }
    }
    prices {
      price_id: "calls" display_name: "Calls" meter_id: "calls"
      standard { amount { value: "0.001" } per_quantity { value: "1" } }
    }
"""
CALLS = meter_pb2.Meter(
    meter_id="calls", event_type="llm.call", aggregation=meter_pb2.AGGREGATION_COUNT
)
A_BUDGET = {"units": ["USD"], "capacity": "1000000", "planId": "pro"}


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Rating and the meter with the plan `pro`: 0.02 dollars for a thousand tokens."""
    async with metered_world(settings_for, keys, tenant) as running:
        await put_plan(running)
        yield running


async def put_plan(world: World) -> None:
    """Put the plan and its meters."""
    await world.put_meter(a_meter_message("tokens", "model"))
    await world.put_meter(a_meter_message("output_tokens", "model"))
    await world.put_meter(CALLS)
    await world.put_plan(the_plan())


def the_plan() -> plan_pb2.Plan:
    """Make the plan; nothing is included in it, so that every unit costs what the card says."""
    plan = a_plan_message(MORE_PRICES)
    plan.prices[0].ClearField("included_quantity")
    return plan


@asynccontextmanager
async def gate(
    settings_for: Callable[..., ServiceSettings], world: World, **settings: object
) -> AsyncIterator[World]:
    """Run a quota service that asks these services."""
    addresses = {f"{service}_address": where for service, where in world.addresses.items()}
    given = settings_for("quota", **{**addresses, **settings})
    async with (
        hosted("quota", given, ManualClock(NOON)) as address,
        open_channel(address) as channel,
    ):
        yield replace(world, stubs={**world.stubs, "quota": QuotaServiceStub(channel)})


async def put(world: World, limit_id: str = "budget", **fields: Any) -> None:  # noqa: ANN401 - as JSON.
    """Put a budget of a dollar a year for each customer; fields replace."""
    limit = a_limit(limit_id, **{**A_BUDGET, **fields})
    request = messages.PutLimitRequest(request_id=request_id(), limit=limit)
    await world.ask("quota.PutLimit", request)


def a_call(model: str = "", customer: str = "acme", **used: int) -> messages.ReserveRequest:
    """Ask to hold amounts of a call to a model."""
    return messages.ReserveRequest(
        request_id=request_id(),
        subject=subject(customer),
        dimensions={"model": model} if model else {},
        amounts=amounts(**used),
    )


async def reserved(world: World, call: messages.ReserveRequest) -> int:
    """Hold what a call needs, tell how much money that was, and give it back."""
    held = await world.ask("quota.Reserve", call)
    release = messages.ReleaseRequest(request_id=request_id(), reservation_id=held.reservation_id)
    await world.ask("quota.Release", release)
    (status,) = held.limits
    taken: int = status.reserved
    return taken


async def test_a_budget_counts_what_calls_cost(
    world: World, settings_for: Callable[..., ServiceSettings]
) -> None:
    """By the most specific price of each meter, and the tier that the call's size chooses."""
    async with gate(settings_for, world) as asked:
        await put(asked)
        costs = [
            await reserved(asked, call)
            for call in (
                a_call(tokens=1000),
                a_call(tokens=1, requests=1),
                a_call("large", tokens=200, output_tokens=10),
                a_call("large", tokens=201, output_tokens=10),
                a_call("small", output_tokens=10),
                a_call(tokens=1000, USD=7),
            )
        ]

    assert costs == [20_000, 20 + 1000, 4000 + 100, 4020 + 200, 0, 20_007]


async def test_a_budget_refuses_what_it_cannot_pay(
    world: World, settings_for: Callable[..., ServiceSettings]
) -> None:
    """A dollar pays fifty thousand tokens; a commit is booked for what it used."""
    async with gate(settings_for, world) as asked:
        await put(asked)
        held = await asked.ask("quota.Reserve", a_call(tokens=50_000))
        refused = await asked.ask("quota.Reserve", a_call(tokens=1))
        commit = messages.CommitRequest(
            request_id=request_id(),
            reservation_id=held.reservation_id,
            amounts=amounts(tokens=49_999),
        )
        booked = await asked.ask("quota.Commit", commit)
        passed = await asked.ask("quota.Reserve", a_call(tokens=1))

    assert [each.decision for each in (held, refused, passed)] == [ALLOW, DENY, ALLOW]
    assert standings(booked.limits) == [Standing("budget", "acme", 999_980, 0, 20)]


async def test_a_part_is_granted_for_what_is_left(
    world: World, settings_for: Callable[..., ServiceSettings]
) -> None:
    """A thousand millionths pay fifty tokens; a stream that goes on pays by the dearest tier."""
    async with gate(settings_for, world) as asked:
        await put(asked, capacity="1000")
        call = a_call("large", tokens=80, requests=0)
        call.min_amounts.extend(amounts(tokens=1))
        part = await asked.ask("quota.Reserve", call)
        release = messages.ReleaseRequest(
            request_id=request_id(), reservation_id=part.reservation_id
        )
        await asked.ask("quota.Release", release)
        held = await asked.ask("quota.Reserve", a_call("large", tokens=10))
        extend = messages.ExtendRequest(
            request_id=request_id(),
            reservation_id=held.reservation_id,
            amounts=amounts(output_tokens=90),
            min_amounts=amounts(output_tokens=1),
        )
        more = await asked.ask("quota.Extend", extend)

    assert (part.decision, part.granted) == (PARTIAL, amounts(tokens=50, requests=0))
    assert (more.decision, more.granted) == (PARTIAL, amounts(output_tokens=40))
    assert standings(more.limits) == [Standing("budget", "acme", 0, 1000, 0)]


async def test_the_gate_counts_what_rating_bills(
    world: World, settings_for: Callable[..., ServiceSettings]
) -> None:
    """The same usage, booked at the gate and metered; every unit costs just what the card says."""
    calls = [(150, 33), (201, 7), (0, 12)]
    async with gate(settings_for, world) as asked:
        await put(asked)
        for tokens, output in calls:
            commit = messages.CommitRequest(
                request_id=request_id(),
                subject=subject(),
                dimensions={"model": "large"},
                amounts=amounts(tokens=tokens, output_tokens=output, requests=1),
            )
            answer = await asked.ask("quota.Commit", commit)
    events = [
        a_usage_event(f"call-{number}", tokens=str(tokens), output_tokens=str(output))
        for number, (tokens, output) in enumerate(calls)
    ]
    await world.ask("meter.IngestEvents", IngestEventsRequest(events=events))
    rating = await world.rate()
    billed = sum(
        Decimal(line.unrounded_amount.value)
        for line in rating.lines
        if line.price_id in ("tokens", "output", "calls")
    )

    assert billed == Decimal("0.01061")
    assert Decimal(answer.limits[0].used).scaleb(-6) == billed


def a_usage_event(event_id: str, **quantities: str) -> meter_pb2.UsageEvent:
    """Make the event of one of Acme's calls to the large model, in January."""
    return meter_pb2.UsageEvent(
        source="gateway",
        event_id=event_id,
        type="llm.call",
        subject=subject(),
        time=render_time(datetime(2026, 1, 15, tzinfo=UTC)),
        dimensions={"model": "large"},
        quantities=quantities,
    )


async def test_a_new_version_of_the_plan_is_counted_by_soon(
    world: World, settings_for: Callable[..., ServiceSettings]
) -> None:
    """Cards are asked for again and again."""
    async with gate(settings_for, world, quota_rate_card_refresh_s=0.1) as asked:
        await put(asked)
        before = await reserved(asked, a_call(tokens=1000))
        dearer = the_plan()
        dearer.prices[0].standard.amount.value = "0.03"
        dearer.effective_time.FromDatetime(NOON)
        await world.put_plan(dearer, "put-2")
        after = await until_it_costs(30_000, asked)

    assert (before, after) == (20_000, 30_000)


async def until_it_costs(wanted: int, world: World) -> int:
    """Ask until a thousand tokens cost so much; it gives up after many times."""
    for _ in range(200):
        cost = await reserved(world, a_call(tokens=1000))
        if cost == wanted:
            break
        await asyncio.sleep(0.05)
    return cost


async def test_the_last_card_is_kept_while_rating_is_away(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> None:
    """Decisions go on by it; another replica, which never had one, refuses, and says why."""
    async with hosted("meter", settings_for("meter"), ManualClock(NOON)) as meter:
        async with rating_world(settings_for, keys, tenant, meter) as world:
            await put_plan(world)
            first = gate(settings_for, world, quota_rate_card_refresh_s=0.1)
            asked = await first.__aenter__()
            await put(asked)
            await reserved(asked, a_call(tokens=1000))
        await asyncio.sleep(1.5)
        cost = await reserved(asked, a_call(tokens=1000))
        async with gate(settings_for, world, rating_address=NOBODY) as other:
            error = await other.refusal("quota.Reserve", a_call(tokens=1))
        await first.__aexit__(None, None, None)

    assert cost == 20_000
    assert (type(error), error.reason, error.metadata) == (
        Unavailable,
        "RATE_CARD_UNAVAILABLE",
        {"plan_id": "pro"},
    )


async def test_a_card_that_was_missing_is_used_once_it_can_be_had(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> None:
    """Calls that no budget covers pass meanwhile."""
    async with metered_world(settings_for, keys, tenant) as world:
        await put_plan(world)
        async with gate(settings_for, world) as asked:
            await put(asked, subject={"customerId": "acme"})
        async with gate(settings_for, world, meter_address=NOBODY) as alone:
            error = await alone.refusal("quota.Reserve", a_call(tokens=1))
            passed = await alone.ask("quota.Reserve", a_call(tokens=1, customer="other"))

    assert error.reason == "RATE_CARD_UNAVAILABLE"
    assert passed.decision == ALLOW


async def test_a_budget_by_a_plan_that_cannot_be_is_refused(
    world: World, settings_for: Callable[..., ServiceSettings]
) -> None:
    """A plan that is not there, and one in another currency; and any while rating is away."""
    limits = [a_limit("a", **{**A_BUDGET, "planId": "gone"}), a_limit("b", **A_BUDGET)]
    limits[1].units[0] = "EUR"
    puts = [messages.PutLimitRequest(request_id=request_id(), limit=limit) for limit in limits]
    async with gate(settings_for, world) as asked:
        errors = [await asked.refusal("quota.PutLimit", each) for each in puts]
        listed = await asked.ask("quota.ListLimits", messages.ListLimitsRequest())
    async with gate(settings_for, world, rating_address=NOBODY) as alone:
        away = await alone.refusal("quota.PutLimit", puts[1])

    assert [(type(error), error.message) for error in errors] == [
        (InvalidInput, "limit.plan_id: there is no plan gone"),
        (InvalidInput, "limit.plan_id: is a plan in USD, not EUR"),
    ]
    assert list(listed.limits) == []
    assert away.reason == "RATE_CARD_UNAVAILABLE"
