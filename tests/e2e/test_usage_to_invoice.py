"""A month in the life of a seller: calls pass the gate, are metered, priced, taxed and invoiced.

A French consumer is on a plan of 100 dollars a month with 1,000 tokens included and 0.02 dollars
for each further 1,000. The customer makes three calls of 700 + 300 tokens, so 2,000 of 3,000 tokens
are billed: 0.04 dollars. The invoice is in euros, at the reference rate of 31 March 2026, which was
1.1498 dollars for a euro: 86.97 for the base fee and 0.03 for the tokens. French VAT of 20 % on
87.00 is 17.40.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money
from pypdf import PdfReader

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.e2e.world import World, running_world
from tollkeeper import QuotaDenied
from tollkeeper.api.invoicing.v1 import customer_pb2, invoicing_service_pb2
from tollkeeper.api.meter.v1 import meter_pb2, meter_service_pb2
from tollkeeper.api.quota.v1 import quota_pb2, quota_service_pb2
from tollkeeper.api.rating.v1 import plan_pb2, rating_service_pb2
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
CUSTOMER = "marie"


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Five servers, and a seller with one customer, one plan and one limit, on 1 March 2026."""
    async with running_world(settings_for, keys, tenant, MARCH) as world:
        await put_meter(world)
        await put_plan(world)
        await put_seller(world)
        await put_customer(world)
        await put_limit(world)
        yield world


async def put_meter(world: World) -> None:
    """Count the tokens of every call."""
    meter = meter_pb2.Meter(
        meter_id="tokens",
        event_type="llm.call",
        aggregation=meter_pb2.AGGREGATION_SUM,
        quantity="total_tokens",
        group_by=["model"],
        unit="token",
    )
    await world.call(
        "meter.PutMeter",
        meter_service_pb2.PutMeterRequest(request_id=world.request_id(), meter=meter),
    )


async def put_plan(world: World) -> None:
    """100 dollars, 1,000 tokens included, 0.02 dollars for each further 1,000."""
    price = plan_pb2.Price(
        price_id="tokens",
        display_name="Tokens",
        meter_id="tokens",
        included_quantity=DecimalMessage(value="1000"),
        standard=plan_pb2.StandardPrice(
            amount=DecimalMessage(value="0.02"), per_quantity=DecimalMessage(value="1000")
        ),
    )
    plan = plan_pb2.Plan(
        plan_id="pro", currency="USD", base_fee=DecimalMessage(value="100"), prices=[price]
    )
    await world.call(
        "rating.PutPlan",
        rating_service_pb2.PutPlanRequest(request_id=world.request_id(), plan=plan),
    )


async def put_seller(world: World) -> None:
    """A company in California that declares EU consumers' VAT in Ireland."""
    registrations = [
        tax_pb2.Registration(
            registration_id="us-ca",
            country="US",
            region="CA",
            scheme=tax_pb2.REGISTRATION_SCHEME_DOMESTIC,
            number="102-345678",
            established=True,
            start_date=Date(year=2020, month=1, day=1),
        ),
        tax_pb2.Registration(
            registration_id="eu-oss",
            country="IE",
            scheme=tax_pb2.REGISTRATION_SCHEME_NON_UNION_OSS,
            number="EU372000041",
            start_date=Date(year=2021, month=7, day=1),
        ),
    ]
    for registration in registrations:
        await world.call(
            "tax.PutRegistration",
            tax_service_pb2.PutRegistrationRequest(
                request_id=world.request_id(), registration=registration
            ),
        )
    seller = customer_pb2.Seller(
        legal_name="Example Models Inc.",
        address=customer_pb2.PostalAddress(
            lines=["1 Market Street"],
            city="San Francisco",
            region="CA",
            postal_code="94105",
            country="US",
        ),
        payment_term_days=14,
    )
    await world.call(
        "invoicing.PutSeller",
        invoicing_service_pb2.PutSellerRequest(request_id=world.request_id(), seller=seller),
    )


async def put_customer(world: World) -> None:
    """A consumer in Lyon, billed in euros from 1 March."""
    customer = customer_pb2.Customer(
        customer_id=CUSTOMER,
        legal_name="Marie Dupont",
        address=customer_pb2.PostalAddress(
            lines=["12 rue de la République"], city="Lyon", postal_code="69001", country="FR"
        ),
        kind=tax_pb2.BUYER_KIND_CONSUMER,
        currency="EUR",
        language="fr",
    )
    await world.call(
        "invoicing.PutCustomer",
        invoicing_service_pb2.PutCustomerRequest(request_id=world.request_id(), customer=customer),
    )
    start_time = Timestamp()
    start_time.FromDatetime(MARCH)
    subscription = customer_pb2.Subscription(
        subscription_id="marie-pro",
        customer_id=CUSTOMER,
        plan_id="pro",
        start_time=start_time,
        currency_conversion=customer_pb2.CURRENCY_CONVERSION_ECB_REFERENCE_RATE,
    )
    await world.call(
        "invoicing.CreateSubscription",
        invoicing_service_pb2.CreateSubscriptionRequest(
            request_id=world.request_id(), subscription=subscription
        ),
    )


async def put_limit(world: World) -> None:
    """3,500 tokens a month."""
    limit = quota_pb2.Limit(
        limit_id="month",
        level=quota_pb2.LEVEL_CUSTOMER,
        units=["total_tokens"],
        capacity=3500,
        calendar=quota_pb2.CalendarWindow(period=quota_pb2.CALENDAR_PERIOD_MONTH),
    )
    await world.call(
        "quota.PutLimit",
        quota_service_pb2.PutLimitRequest(request_id=world.request_id(), limit=limit),
    )


async def make_calls(world: World) -> None:
    """Make three calls in the first days of March, through the gate."""
    world.clock.set(MARCH + timedelta(days=5))
    async with world.client() as toll:
        for number in range(3):
            async with toll.reserve(CUSTOMER, total_tokens=1100) as hold:
                hold.commit(
                    event_id=f"call-{number}",
                    time=MARCH + timedelta(days=number),
                    dimensions={"model": "large"},
                    input_tokens=700,
                    output_tokens=300,
                    total_tokens=1000,
                )


async def close_march(world: World) -> list[invoicing_service_pb2.CloseBillingPeriodResponse]:
    """Close every period that ended by 1 April, and issue the invoices."""
    until = Timestamp()
    until.FromDatetime(APRIL)
    answers = await world.stream(
        "invoicing.CloseBillingPeriod",
        invoicing_service_pb2.CloseBillingPeriodRequest(
            request_id=world.request_id(), until=until, finalize=True
        ),
    )
    return [answer for answer in answers if answer.subscription_id]


async def test_what_was_used_is_what_is_invoiced(world: World) -> None:
    """The invoice follows from the calls, figure by figure."""
    await make_calls(world)
    world.clock.set(APRIL + timedelta(hours=6))

    [closed] = await close_march(world)

    summary = closed.invoice
    assert summary.number == "INV-2026-000001"
    assert (summary.subtotal, summary.tax_total, summary.total) == (
        Money(currency_code="EUR", units=87),
        Money(currency_code="EUR", units=17, nanos=400_000_000),
        Money(currency_code="EUR", units=104, nanos=400_000_000),
    )


async def test_the_documents_say_what_the_invoice_says(world: World) -> None:
    """A person reads the PDF, a program the JSON; both are the same for ever."""
    await make_calls(world)
    world.clock.set(APRIL + timedelta(hours=6))
    [closed] = await close_march(world)

    pdf, again, as_json = [
        await world.call(
            "invoicing.GetInvoiceDocument",
            invoicing_service_pb2.GetInvoiceDocumentRequest(
                invoice_id=closed.invoice.invoice_id, format=document_format
            ),
        )
        for document_format in (
            invoicing_service_pb2.DOCUMENT_FORMAT_PDF,
            invoicing_service_pb2.DOCUMENT_FORMAT_PDF,
            invoicing_service_pb2.DOCUMENT_FORMAT_JSON,
        )
    ]

    text = "".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf.content)).pages)
    assert pdf.content == again.content
    assert "INV-2026-000001" in text
    assert "Marie Dupont" in text
    assert "EU372000041" in text
    assert "104,40" in text
    assert json.loads(as_json.content)["number"] == "INV-2026-000001"


async def test_closing_again_changes_nothing(world: World) -> None:
    """A period that has an issued invoice is left alone, and takes no second number."""
    await make_calls(world)
    world.clock.set(APRIL)
    first = await close_march(world)

    second = await close_march(world)

    listed = await world.call(
        "invoicing.ListInvoices", invoicing_service_pb2.ListInvoicesRequest(page_size=10)
    )
    assert [len(first), len(second), len(listed.invoices)] == [1, 0, 1]


async def test_a_refused_call_is_neither_held_nor_billed(world: World) -> None:
    """A fourth call finds 500 of 3,500 tokens left; it says so, and nothing is charged."""
    await make_calls(world)
    async with world.client() as toll:
        with pytest.raises(QuotaDenied, match="500 of 3500 total_tokens left") as refused:
            async with toll.reserve(CUSTOMER, total_tokens=600):
                pytest.fail("the gate was open")
        [balance] = await toll.balances(CUSTOMER)

    assert (refused.value.limit.limit_id, refused.value.remaining) == ("month", 500)
    assert (balance.used, balance.reserved, balance.remaining) == (3000, 0, 500)


async def test_events_that_are_sent_again_are_billed_once(world: World) -> None:
    """The gateway crashed after its calls and reports them all again."""
    await make_calls(world)
    async with world.client() as toll:
        for number in range(3):
            await toll.report(
                CUSTOMER,
                event_id=f"call-{number}",
                time=MARCH + timedelta(days=number),
                dimensions={"model": "large"},
                input_tokens=700,
                output_tokens=300,
                total_tokens=1000,
            )
        await toll.flush()
        usage = toll.usage

    assert (usage.created, usage.duplicate, usage.refused) == (0, 3, 0)


async def test_another_tenant_sees_nothing(world: World) -> None:
    """Its token opens the same doors to other rooms."""
    await make_calls(world)
    stranger = world.token(tenant="stranger")

    events = await world.call(
        "meter.ListEvents", meter_service_pb2.ListEventsRequest(), token=stranger
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.call(
            "invoicing.GetCustomer",
            invoicing_service_pb2.GetCustomerRequest(customer_id=CUSTOMER),
            token=stranger,
        )

    assert list(events.events) == []
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
