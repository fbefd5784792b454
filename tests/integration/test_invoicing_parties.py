"""The seller, customers and subscriptions over the wire, with the real rating service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from cli.signing_keys import SigningKeys
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.invoicing_world import (
    FEBRUARY,
    START,
    Refusal,
    World,
    billing_world,
    customer,
    seller,
    subscription,
)
from tollkeeper.api.invoicing.v1 import customer_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages

MONTH = timedelta(days=31)


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Four servers on the morning of the first of February, a seller, and a plan in euro."""
    async with billing_world(settings_for, keys, tenant) as world:
        yield world


async def test_a_seller_is_put_replaced_and_shown(world: World) -> None:
    """The last one put is the one shown; an empty prefix is INV."""
    put = await world.call(
        "invoicing.PutSeller", messages.PutSellerRequest(seller=seller(legal_name="Lumen SE"))
    )

    shown = await world.call("invoicing.GetSeller", messages.GetSellerRequest())

    assert shown.seller == put.seller == seller(legal_name="Lumen SE", number_prefix="INV")


async def test_a_customer_keeps_its_age_when_it_is_replaced(world: World) -> None:
    """Everything else is the last that was put."""
    await world.put_customer()
    world.clock.advance(MONTH)

    replaced = await world.call(
        "invoicing.PutCustomer",
        messages.PutCustomerRequest(customer=customer(legal_name="Acme AG", language="de")),
    )

    shown = await world.call(
        "invoicing.GetCustomer", messages.GetCustomerRequest(customer_id="acme")
    )
    assert shown.customer == replaced.customer
    assert (shown.customer.legal_name, shown.customer.create_time) == (
        "Acme AG",
        render_time(FEBRUARY + timedelta(hours=6)),
    )


async def test_a_repeat_returns_the_first_answer_and_other_content_is_refused(
    world: World,
) -> None:
    """Whatever happened between, the same request gets the same answer."""
    first = messages.PutCustomerRequest(request_id="put-1", customer=customer())
    answer = await world.call("invoicing.PutCustomer", first)
    await world.put_customer(legal_name="Acme AG")

    repeated = await world.call("invoicing.PutCustomer", first)
    other = messages.PutCustomerRequest(request_id="put-1", customer=customer("other"))

    assert repeated == answer
    assert await world.refused("invoicing.PutCustomer", other) == Refusal(
        grpc.StatusCode.ABORTED,
        "REQUEST_ID_REUSED",
        {"request_id": "put-1", "method": "PutCustomer"},
    )


async def test_customers_and_subscriptions_are_listed_by_id_page_by_page(world: World) -> None:
    """Upper case comes before lower case, no row is missed, and a token fits its own list only."""
    for customer_id in ("b", "A", "c", "a"):
        await world.put_customer(customer_id)
        await world.subscribe(
            customer_id, subscription_id=f"{customer_id.lower()}-{ord(customer_id)}"
        )

    first = await world.call("invoicing.ListCustomers", messages.ListCustomersRequest(page_size=3))
    second = await world.call(
        "invoicing.ListCustomers",
        messages.ListCustomersRequest(page_size=3, page_token=first.next_page_token),
    )
    of_one = await world.call(
        "invoicing.ListSubscriptions", messages.ListSubscriptionsRequest(customer_id="a")
    )
    misused = await world.refused(
        "invoicing.ListSubscriptions",
        messages.ListSubscriptionsRequest(page_token=first.next_page_token),
    )

    assert [each.customer_id for each in first.customers] == ["A", "a", "b"]
    assert [each.customer_id for each in second.customers] == ["c"]
    assert second.next_page_token == ""
    assert [each.subscription_id for each in of_one.subscriptions] == ["a-97"]
    assert misused.reason == "INVALID_PAGE_TOKEN"


async def test_a_subscription_begins_with_a_day_where_the_customer_is(world: World) -> None:
    """Noon in UTC on the 31st is the 31st in Tokyo, which began at 15:00 on the day before."""
    await world.put_customer("tokyo", time_zone="Asia/Tokyo")
    await world.subscribe(
        "tokyo",
        start_time=render_time(datetime(2026, 1, 31, 12, tzinfo=UTC)),
        end_time=render_time(datetime(2026, 4, 1, 0, tzinfo=UTC)),
        anchor=customer_pb2.BILLING_ANCHOR_ANNIVERSARY,
    )

    shown = await world.call(
        "invoicing.GetSubscription",
        messages.GetSubscriptionRequest(subscription_id="tokyo-team"),
    )

    assert shown.subscription == subscription(
        "tokyo",
        start_time=render_time(datetime(2026, 1, 30, 15, tzinfo=UTC)),
        end_time=render_time(datetime(2026, 3, 31, 15, tzinfo=UTC)),
        anchor=customer_pb2.BILLING_ANCHOR_ANNIVERSARY,
        create_time=render_time(FEBRUARY + timedelta(hours=6)),
    )


async def test_a_subscription_keeps_the_zone_in_which_it_began(world: World) -> None:
    """A customer who moves does not move the periods that are billed."""
    await world.put_customer("mover", time_zone="Asia/Tokyo")
    await world.subscribe("mover", start_time=render_time(datetime(2025, 12, 31, 15, tzinfo=UTC)))
    await world.put_customer("mover", time_zone="America/New_York")

    (_, closed) = await world.close()

    assert (closed.invoice.period.start_time, closed.invoice.period.end_time) == (
        render_time(datetime(2025, 12, 31, 15, tzinfo=UTC)),
        render_time(datetime(2026, 1, 31, 15, tzinfo=UTC)),
    )


async def test_a_subscription_that_cannot_be_is_refused(world: World) -> None:
    """An unknown customer or plan, another currency, a double id, and less than a day."""
    await world.put_customer()
    await world.put_plan("usd", currency="USD")
    await world.subscribe()
    refusals = [
        await world.refused(
            "invoicing.CreateSubscription",
            messages.CreateSubscriptionRequest(subscription=refused),
        )
        for refused in (
            subscription("stranger"),
            subscription(plan_id="unknown"),
            subscription(plan_id="usd"),
            subscription(start_time=render_time(FEBRUARY)),
            subscription(
                subscription_id="short",
                start_time=render_time(START + timedelta(hours=1)),
                end_time=render_time(START + timedelta(hours=23)),
            ),
        )
    ]

    assert refusals == [
        Refusal(grpc.StatusCode.NOT_FOUND, "CUSTOMER_NOT_FOUND", {"customer_id": "stranger"}),
        Refusal(grpc.StatusCode.NOT_FOUND, "PLAN_NOT_FOUND", {"plan_id": "unknown"}),
        Refusal(
            grpc.StatusCode.FAILED_PRECONDITION,
            "CURRENCY_MISMATCH",
            {"plan_currency": "USD", "customer_currency": "EUR"},
        ),
        Refusal(
            grpc.StatusCode.ALREADY_EXISTS,
            "SUBSCRIPTION_EXISTS",
            {"subscription_id": "acme-team"},
        ),
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {}, ("end_time",)),
    ]


async def test_the_currency_of_a_customer_is_fixed_by_its_first_invoice(world: World) -> None:
    """Before there is one it may change; a draft is enough to hold it."""
    await world.put_customer(currency="USD")
    await world.put_customer(currency="EUR")
    await world.subscribe()
    await world.close(finalize=False)

    refusal = await world.refused(
        "invoicing.PutCustomer",
        messages.PutCustomerRequest(customer=customer(currency="USD")),
    )

    assert refusal == Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "CURRENCY_MISMATCH",
        {"customer_currency": "EUR"},
    )


async def cancelled(world: World, end: datetime, subscription_id: str = "acme-team") -> Refusal:
    """Try to cancel a subscription, and answer the refusal."""
    return await world.refused(
        "invoicing.CancelSubscription",
        messages.CancelSubscriptionRequest(
            subscription_id=subscription_id, end_time=render_time(end)
        ),
    )


async def test_a_subscription_ends_neither_before_its_start_nor_within_what_is_billed(
    world: World,
) -> None:
    """Nor can one be ended that has ended, or that does not exist."""
    await world.put_customer()
    await world.subscribe()
    await world.close()
    invalid_end = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {}, ("end_time",))

    before = await cancelled(world, START - MONTH)
    billed = await cancelled(world, FEBRUARY - timedelta(days=1))
    unknown = await cancelled(world, FEBRUARY, "unknown")
    await world.call(
        "invoicing.CancelSubscription",
        messages.CancelSubscriptionRequest(
            subscription_id="acme-team", end_time=render_time(FEBRUARY + timedelta(days=3))
        ),
    )
    world.clock.advance(MONTH)
    ended = await cancelled(world, FEBRUARY + MONTH)

    assert (before, billed) == (invalid_end, invalid_end)
    assert unknown == Refusal(
        grpc.StatusCode.NOT_FOUND, "SUBSCRIPTION_NOT_FOUND", {"subscription_id": "unknown"}
    )
    assert ended == Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "SUBSCRIPTION_ENDED",
        {"subscription_id": "acme-team"},
    )


async def test_an_end_that_lies_ahead_may_be_moved(world: World) -> None:
    """A cancellation that has not taken effect is no end yet."""
    await world.put_customer()
    await world.subscribe()
    ends = [FEBRUARY + timedelta(days=day) for day in (3, 10)]
    for end in ends:
        answer = await world.call(
            "invoicing.CancelSubscription",
            messages.CancelSubscriptionRequest(
                subscription_id="acme-team", end_time=render_time(end)
            ),
        )

    assert answer.subscription.end_time == render_time(ends[-1])


async def test_racing_puts_of_one_request_store_it_once(world: World) -> None:
    """Ten at once with one request id: one answer for all."""
    await world.put_customer()
    request = messages.CreateSubscriptionRequest(
        request_id="subscribe-1", subscription=subscription()
    )

    answers = await asyncio.gather(
        *(world.call("invoicing.CreateSubscription", request) for _ in range(10))
    )

    assert all(answer == answers[0] for answer in answers)


async def test_a_preview_outside_of_the_subscription_is_refused(world: World) -> None:
    """Before its start and from its end on there is nothing to preview."""
    await world.put_customer()
    await world.subscribe(end_time=render_time(FEBRUARY))

    early = await world.refused(
        "invoicing.PreviewInvoice",
        messages.PreviewInvoiceRequest(
            subscription_id="acme-team", time=render_time(START - timedelta(seconds=1))
        ),
    )
    late = await world.refused(
        "invoicing.PreviewInvoice",
        messages.PreviewInvoiceRequest(subscription_id="acme-team"),
    )

    assert early == Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {}, ("time",))
    assert late == Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "SUBSCRIPTION_ENDED",
        {"subscription_id": "acme-team"},
    )
