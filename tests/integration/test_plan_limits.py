"""Limits of a plan: put into the quota service when a subscription starts, and gone with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.text_format import Parse

from cli.demo.world import MANON, SELLER
from cli.signing_keys import SigningKeys
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.e2e.world import World, running_world
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as invoicing
from tollkeeper.api.invoicing.v1.customer_pb2 import Subscription
from tollkeeper.api.quota.v1.quota_pb2 import Limit
from tollkeeper.api.quota.v1.quota_service_pb2 import ListLimitsRequest
from tollkeeper.api.rating.v1.plan_pb2 import Plan
from tollkeeper.api.rating.v1.rating_service_pb2 import PutPlanRequest

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
PLAN = """
    plan_id: "pro" currency: "USD"
    limits { limit_id: "tokens" display_name: "Tokens of a month" units: "input_tokens"
             units: "output_tokens" capacity: 1000 billing_period {} }
    limits { limit_id: "day" units: "requests" capacity: 500
             calendar_period: CALENDAR_PERIOD_DAY enforcement: ENFORCEMENT_SOFT
             dimensions { key: "model" value: "large" } }
    limits { limit_id: "rate" level: LEVEL_KEY units: "requests" capacity: 60
             rolling { period { seconds: 60 } burst: 10 } }
    limits { limit_id: "parallel" units: "holds" capacity: 3 concurrency {} }
    limits { limit_id: "trial" units: "requests" capacity: 100 lifetime {} overdraft: 5 }
"""
CLOSED = "outage_policy: OUTAGE_POLICY_CLOSED"
LIMITS = {
    "manon-pro.tokens": """
        display_name: "Tokens of a month" level: LEVEL_CUSTOMER units: "input_tokens"
        units: "output_tokens" capacity: 1000 enforcement: ENFORCEMENT_HARD
        billing_period { anchor { year: 2026 month: 3 day: 1 } months: 1
                         time_zone: "Europe/Paris" }""",
    "manon-pro.day": """
        display_name: "day" level: LEVEL_CUSTOMER units: "requests" capacity: 500
        enforcement: ENFORCEMENT_SOFT dimensions { key: "model" value: "large" }
        calendar { period: CALENDAR_PERIOD_DAY time_zone: "Europe/Paris" }""",
    "manon-pro.rate": """
        display_name: "rate" level: LEVEL_KEY units: "requests" capacity: 60
        enforcement: ENFORCEMENT_HARD rolling { period { seconds: 60 } burst: 10 }""",
    "manon-pro.parallel": """
        display_name: "parallel" level: LEVEL_CUSTOMER units: "holds" capacity: 3
        enforcement: ENFORCEMENT_HARD concurrency {}""",
    "manon-pro.trial": """
        display_name: "trial" level: LEVEL_CUSTOMER units: "requests" capacity: 100
        enforcement: ENFORCEMENT_HARD lifetime {} overdraft: 5""",
}


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Five servers on 1 March 2026, a seller, a French customer, and a plan with limits."""
    async with running_world(settings_for, keys, tenant, MARCH) as world:
        new_id = world.request_id
        plan = Parse(PLAN, Plan())
        await world.call("rating.PutPlan", PutPlanRequest(request_id=new_id(), plan=plan))
        await world.call(
            "invoicing.PutSeller", invoicing.PutSellerRequest(request_id=new_id(), seller=SELLER)
        )
        await world.call(
            "invoicing.PutCustomer",
            invoicing.PutCustomerRequest(request_id=new_id(), customer=MANON.customer),
        )
        yield world


async def subscribe(world: World, start: datetime, end: datetime | None = None) -> None:
    """Put Manon on the plan from a day on."""
    subscription = Subscription(
        subscription_id="manon-pro",
        customer_id="manon",
        plan_id="pro",
        start_time=render_time(start),
        end_time=None if end is None else render_time(end),
    )
    await world.call(
        "invoicing.CreateSubscription",
        invoicing.CreateSubscriptionRequest(
            request_id=world.request_id(), subscription=subscription
        ),
    )


async def close(world: World) -> None:
    """Close what has ended."""
    await world.stream(
        "invoicing.CloseBillingPeriod",
        invoicing.CloseBillingPeriodRequest(request_id=world.request_id()),
    )


async def limits_of(world: World) -> dict[str, Limit]:
    """List the limits there are, without what the gate adds."""
    listed = (await world.call("quota.ListLimits", ListLimitsRequest())).limits
    for limit in listed:
        limit.ClearField("create_time")
        limit.ClearField("update_time")
    return {limit.limit_id: limit for limit in listed}


async def test_the_limits_of_a_plan_are_put_for_its_subscriber(world: World) -> None:
    """Each window, in the customer's time zone and by the day on which it is billed."""
    await subscribe(world, MARCH)

    found = await limits_of(world)

    subject = 'subject { customer_id: "manon" }'
    assert found == {
        limit_id: Parse(f'limit_id: "{limit_id}" {subject} {written} {CLOSED}', Limit())
        for limit_id, written in LIMITS.items()
    }


async def test_limits_wait_until_the_subscription_starts(world: World) -> None:
    """A subscription of next month has none today; closing periods finds that it has started."""
    await subscribe(world, APRIL)
    before = await limits_of(world)

    world.clock.advance(APRIL - MARCH)
    await close(world)
    started = await limits_of(world)
    await close(world)

    assert before == {}
    assert started.keys() == LIMITS.keys()
    assert await limits_of(world) == started


async def test_limits_end_with_the_subscription(world: World) -> None:
    """They apply until the day on which it ends, and a later end moves them."""
    await subscribe(world, MARCH)
    end = APRIL + timedelta(days=4)

    await world.call(
        "invoicing.CancelSubscription",
        invoicing.CancelSubscriptionRequest(
            request_id=world.request_id(), subscription_id="manon-pro", end_time=render_time(end)
        ),
    )

    expire_times = {
        limit.expire_time.ToDatetime(UTC) for limit in (await limits_of(world)).values()
    }
    assert expire_times == {datetime(2026, 4, 4, 22, tzinfo=UTC)}


async def test_a_change_of_the_plan_leaves_who_is_on_it(world: World) -> None:
    """Limits are copied as they were when the subscription started."""
    await subscribe(world, MARCH)
    before = await limits_of(world)
    plan = Parse(PLAN.replace("1000", "2000"), Plan(effective_time=render_time(APRIL)))
    await world.call("rating.PutPlan", PutPlanRequest(request_id=world.request_id(), plan=plan))

    world.clock.advance(APRIL - MARCH)
    await close(world)

    assert await limits_of(world) == before
