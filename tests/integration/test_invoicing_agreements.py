"""What subscriptions agree on: usage that is billed once, and prices that replace the plan's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from google.type.decimal_pb2 import Decimal

from cli.signing_keys import SigningKeys
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.invoicing_world import (
    FEBRUARY,
    START,
    Refusal,
    World,
    billing_world,
    subscription,
)
from tollkeeper.api.invoicing.v1 import customer_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages
from tollkeeper.api.rating.v1 import plan_pb2, rating_service_pb2


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Four servers on the morning of the first of February, a seller, and a plan in euro."""
    async with billing_world(settings_for, keys, tenant) as world:
        yield world


def a_plan(plan_id: str, currency: str = "EUR", **models: str) -> plan_pb2.Plan:
    """Make a plan with a price of tokens for each name; its value is the model, if it names one."""
    return plan_pb2.Plan(
        plan_id=plan_id,
        currency=currency,
        prices=[
            plan_pb2.Price(
                price_id=price_id,
                meter_id="tokens",
                dimensions={"model": model} if model else {},
                standard=plan_pb2.StandardPrice(amount=Decimal(value="1")),
            )
            for price_id, model in models.items()
        ],
    )


@pytest.fixture
async def plans(world: World) -> World:
    """A customer, and plans that price all tokens, or those of one model, or none."""
    await world.put_customer()
    await world.put_meter("model")
    for plan in (
        a_plan("all", every=""),
        a_plan("large", some="large"),
        a_plan("small", some="small"),
        a_plan("both", small="small", large="large"),
    ):
        await world.call("rating.PutPlan", rating_service_pb2.PutPlanRequest(plan=plan))
    return world


async def refused_beside(
    world: World, first: customer_pb2.Subscription, second: customer_pb2.Subscription
) -> Refusal:
    """Subscribe to one plan, and fail with the other."""
    await world.call(
        "invoicing.CreateSubscription", messages.CreateSubscriptionRequest(subscription=first)
    )
    return await world.refused(
        "invoicing.CreateSubscription", messages.CreateSubscriptionRequest(subscription=second)
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [("all", "all"), ("all", "small"), ("small", "all"), ("large", "both")],
)
async def test_usage_is_not_billed_by_two_subscriptions(
    plans: World, first: str, second: str
) -> None:
    """A plan that prices what the other prices is refused, and the other one named."""
    refusal = await refused_beside(
        plans,
        subscription("acme", first, subscription_id="one"),
        subscription("acme", second, subscription_id="two"),
    )

    assert refusal == Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "USAGE_BILLED_TWICE",
        {"subscription_id": "one", "meter_id": "tokens"},
    )
    listed = await plans.call(
        "invoicing.ListSubscriptions", messages.ListSubscriptionsRequest(customer_id="acme")
    )
    assert [each.subscription_id for each in listed.subscriptions] == ["one"]


async def test_subscriptions_that_share_no_usage_run_side_by_side(plans: World) -> None:
    """Other models, no usage at all, another customer, one after the other, or when it is meant."""
    await plans.put_customer("beta")
    await plans.subscribe(subscription_id="fee")
    await plans.subscribe(plan_id="small", subscription_id="small", end_time=render_time(FEBRUARY))
    await plans.subscribe(plan_id="large", subscription_id="large")
    await plans.subscribe("beta", "all", subscription_id="beta")
    await plans.subscribe(
        plan_id="small", subscription_id="later", start_time=render_time(FEBRUARY)
    )
    shared = messages.CreateSubscriptionRequest(
        request_id="shared",
        subscription=subscription("acme", "all", subscription_id="meant"),
        allow_shared_usage=True,
    )

    answers = [await plans.call("invoicing.CreateSubscription", shared) for _ in range(2)]

    assert answers[0] == answers[1]
    listed = await plans.call(
        "invoicing.ListSubscriptions", messages.ListSubscriptionsRequest(customer_id="acme")
    )
    assert [each.subscription_id for each in listed.subscriptions] == [
        "fee",
        "large",
        "later",
        "meant",
        "small",
    ]


async def test_of_two_subscriptions_at_once_one_is_refused(plans: World) -> None:
    """Whichever comes first is seen by the other."""
    requests = [
        messages.CreateSubscriptionRequest(
            subscription=subscription("acme", "all", subscription_id=f"at-once-{number}")
        )
        for number in range(4)
    ]

    answers = await asyncio.gather(
        *(plans.call("invoicing.CreateSubscription", request) for request in requests),
        return_exceptions=True,
    )

    refused = [each for each in answers if isinstance(each, grpc.aio.AioRpcError)]
    assert [each.code() for each in refused] == [grpc.StatusCode.FAILED_PRECONDITION] * 3


AGREED = rating_service_pb2.PlanOverrides(
    base_fee=Decimal(value="7"),
    prices=a_plan("all", every="").prices,
    commitment=plan_pb2.Commitment(steps=[plan_pb2.CommitmentStep(amount=Decimal(value="50"))]),
)
AGREED.prices[0].standard.amount.value = "0.5"


async def test_what_was_agreed_with_a_customer_is_on_its_invoices(plans: World) -> None:
    """Fee, price and commitment replace the plan's; other subscriptions have the plan's own."""
    await plans.put_customer("beta")
    await plans.subscribe(plan_id="all", overrides=AGREED)
    await plans.subscribe("beta", "all")
    for customer_id in ("acme", "beta"):
        await plans.use(customer_id, 10, START)

    await plans.close()

    lines = {
        invoice.customer.customer_id: [
            (line.rated.description, line.amount.units) for line in invoice.lines
        ]
        for invoice in [await plans.get(f"INV-2026-00000{number}") for number in (1, 2)]
    }
    assert lines == {
        "acme": [("all: base fee", 7), ("every", 5), ("all: commitment", 38)],
        "beta": [("every", 10)],
    }
    shown = await plans.call(
        "invoicing.GetSubscription", messages.GetSubscriptionRequest(subscription_id="acme-all")
    )
    assert shown.subscription.overrides == AGREED


async def test_what_cannot_be_agreed_is_refused_with_every_field(plans: World) -> None:
    """A price that the plan does not have, or bad amounts; nobody is subscribed."""
    unknown = rating_service_pb2.PlanOverrides(prices=a_plan("", other="").prices)
    bad = rating_service_pb2.PlanOverrides(
        base_fee=Decimal(value="-1"), prices=a_plan("", every="").prices
    )
    bad.prices[0].standard.amount.value = "x"

    refusals = [
        await plans.refused(
            "invoicing.CreateSubscription",
            messages.CreateSubscriptionRequest(
                subscription=subscription("acme", "all", overrides=overrides)
            ),
        )
        for overrides in (unknown, bad)
    ]

    assert [(refusal.code, refusal.reason, refusal.fields) for refusal in refusals] == [
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            ("subscription.overrides.prices[0].price_id",),
        ),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            (
                "subscription.overrides.base_fee",
                "subscription.overrides.prices[0].standard.amount",
            ),
        ),
    ]
    listed = await plans.call(
        "invoicing.ListSubscriptions", messages.ListSubscriptionsRequest(customer_id="acme")
    )
    assert not listed.subscriptions
