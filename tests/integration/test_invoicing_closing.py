"""Closing billing periods with the real rating, tax and meter services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest
from google.protobuf.text_format import Parse
from google.type.date_pb2 import Date
from google.type.money_pb2 import Money

from cli.signing_keys import SigningKeys
from kit.interval import Interval
from kit.rpc.wire import render_interval, render_time
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.invoicing_world import (
    FEBRUARY,
    START,
    Refusal,
    World,
    a_french_consumer,
    billing_world,
    euro,
    read_refusal,
    read_status,
    results,
)
from tollkeeper.api.invoicing.v1 import customer_pb2, invoice_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages
from tollkeeper.api.invoicing.v1.invoicing_service_pb2_grpc import InvoicingServiceStub
from tollkeeper.api.meter.v1.meter_service_pb2 import ListLateEventsRequest, QueryUsageRequest
from tollkeeper.api.rating.v1 import plan_pb2
from tollkeeper.api.rating.v1.rating_service_pb2 import PutPlanRequest
from tollkeeper.api.tax.v1 import tax_pb2

FINALIZED = invoice_pb2.INVOICE_STATE_FINALIZED
DRAFT = invoice_pb2.INVOICE_STATE_DRAFT
VOIDED = invoice_pb2.INVOICE_STATE_VOIDED


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Four servers on the morning of the first of February, a seller, and a plan in euro."""
    async with billing_world(settings_for, keys, tenant) as world:
        yield world


async def test_usage_becomes_an_issued_invoice_with_reverse_charge(world: World) -> None:
    """A German business gets base fee and usage, no VAT, the note, a number and both dates."""
    await world.put_meter()
    await world.put_plan("pro", base_fee="50", per="0.02")
    await world.put_customer()
    await world.subscribe(plan_id="pro")
    await world.use("acme", 1_234_567, START + timedelta(days=3))
    await world.use("acme", 1, FEBRUARY)

    first, closed = await world.close()

    assert (first.done, first.total, first.subscription_id) == (0, 1, "")
    assert (closed.done, closed.total, closed.subscription_id) == (1, 1, "acme-pro")
    invoice = await world.get("INV-2026-000001")
    assert invoice.invoice_id == closed.invoice.invoice_id
    assert [(line.rated.description, line.amount) for line in invoice.lines] == [
        ("Pro: base fee", euro(50)),
        ("Tokens", euro(24, 69)),
    ]
    assert (invoice.subtotal, invoice.tax_total, invoice.total) == (
        euro(74, 69),
        Money(currency_code="EUR"),
        euro(74, 69),
    )
    (tax,) = invoice.taxes
    assert (tax.treatment, tax.jurisdiction, bool(tax.invoice_note)) == (
        tax_pb2.TAX_TREATMENT_REVERSE_CHARGE,
        "DE",
        True,
    )
    assert (invoice.buyer_tax_id, invoice.issue_date, invoice.due_date, invoice.state) == (
        "DE136695976",
        Date(year=2026, month=2, day=1),
        Date(year=2026, month=2, day=15),
        FINALIZED,
    )


async def test_a_consumer_pays_the_tax_of_their_country(world: World) -> None:
    """A French consumer of an Irish seller pays 20 percent, in a French document."""
    await world.call(
        "invoicing.PutCustomer", messages.PutCustomerRequest(customer=a_french_consumer())
    )
    await world.subscribe("dupont")

    await world.close()

    invoice = await world.get("INV-2026-000001")
    assert (invoice.subtotal, invoice.tax_total, invoice.total) == (euro(100), euro(20), euro(120))
    document = await world.document("INV-2026-000001")
    assert (document.media_type, document.file_name, document.content[:4]) == (
        "application/pdf",
        "INV-2026-000001.pdf",
        b"%PDF",
    )


async def test_another_currency_is_converted_line_by_line_at_the_rate_of_the_last_day(
    world: World,
) -> None:
    """The last of January 2026 is a Saturday: the rate is Friday's, and the invoice names it."""
    await world.put_plan("usd", currency="USD", base_fee="100")
    await world.put_customer(currency="JPY", time_zone="Asia/Tokyo")
    await world.subscribe(
        plan_id="usd",
        start_time=render_time(datetime(2026, 1, 1, 3, tzinfo=UTC)),
        currency_conversion=customer_pb2.CURRENCY_CONVERSION_ECB_REFERENCE_RATE,
    )

    await world.close()

    invoice = await world.get("INV-2026-000001")
    rate = invoice.exchange_rate
    assert (rate.base_currency, rate.quote_currency, rate.source) == ("USD", "JPY", "ECB")
    assert rate.rate_date == Date(year=2026, month=1, day=30)
    expected = int((100 * Decimal(rate.rate.value) + Decimal("0.5")) // 1)
    assert [line.amount for line in invoice.lines] == [Money(currency_code="JPY", units=expected)]
    assert invoice.lines[0].rated.amount == Money(currency_code="USD", units=100)
    assert invoice.period.start_time == render_time(datetime(2025, 12, 31, 15, tzinfo=UTC))


async def test_a_first_period_that_is_cut_prorates_the_base_fee(world: World) -> None:
    """From the fifteenth on, 17 of 31 days of 100.00 are 54.84."""
    await world.put_customer()
    await world.subscribe(start_time=render_time(datetime(2026, 1, 15, 18, tzinfo=UTC)))

    await world.close()

    invoice = await world.get("INV-2026-000001")
    assert invoice.subtotal == euro(54, 84)


async def test_every_period_that_has_ended_is_closed_in_order(world: World) -> None:
    """Three months that nobody closed are three invoices, each of its month."""
    await world.put_customer()
    await world.subscribe(start_time=render_time(datetime(2025, 11, 1, tzinfo=UTC)))

    answers = await world.close()

    assert [answer.total for answer in answers] == [3, 3, 3, 3]
    assert [answer.invoice.period.start_time.ToDatetime().month for answer in answers[1:]] == [
        11,
        12,
        1,
    ]
    assert len(await world.listed()) == 3


async def test_closing_again_makes_nothing_and_the_same_request_tells_the_same(
    world: World,
) -> None:
    """What is issued is left alone; a repeat of the very request reports what it made."""
    for name in ("acme", "beta"):
        await world.put_customer(name)
        await world.subscribe(name)
    made = await world.close(request_id="january")

    by_another = await world.close(request_id="again")
    repeated = await world.close(request_id="january")

    assert [(each.done, each.total) for each in by_another] == [(0, 0)]
    assert [each.invoice.number for each in repeated] == [each.invoice.number for each in made]
    assert repeated[0].total == 2


async def test_a_request_id_with_other_content_is_refused(world: World) -> None:
    """The same id for another customer's periods is a mistake of the caller."""
    await world.put_customer()
    await world.close(request_id="january")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await world.close(request_id="january", customer_id="acme")

    assert read_refusal(refused.value) == Refusal(
        grpc.StatusCode.ABORTED,
        "REQUEST_ID_REUSED",
        {"request_id": "january", "method": "CloseBillingPeriod"},
    )


async def test_two_closings_at_once_make_each_invoice_once(world: World) -> None:
    """Four racing requests over twenty subscriptions: twenty invoices, numbered 1 to 20."""
    for number in range(20):
        await world.put_customer(f"customer-{number}")
        await world.subscribe(f"customer-{number}")

    closings = await asyncio.gather(*(world.close() for _ in range(4)))

    listed = await world.listed(page_size=100)
    assert sorted(each.number for each in listed) == [f"INV-2026-{n:06}" for n in range(1, 21)]
    assert len({each.subscription_id for each in listed}) == 20
    reported = {each.invoice.number for answers in closings for each in answers[1:]}
    assert reported == {each.number for each in listed}


async def test_a_closing_that_is_broken_off_is_taken_up_again(world: World) -> None:
    """A caller that goes away after a few periods leaves no gap, and the repeat tells all."""
    for number in range(60):
        await world.put_customer(f"customer-{number:02}")
        await world.subscribe(f"customer-{number:02}")
    request = messages.CloseBillingPeriodRequest(request_id="january", finalize=True)
    stream = world.stubs["invoicing"].CloseBillingPeriod(request, metadata=world.metadata())
    for _ in range(5):
        await stream.read()
    stream.cancel()

    repeated = await world.close(request_id="january")

    assert repeated[0].total == 60
    assert [each.subscription_id for each in repeated[1:]] == [
        f"customer-{number:02}-team" for number in range(60)
    ]
    assert sorted(each.invoice.number for each in repeated[1:]) == [
        f"INV-2026-{number:06}" for number in range(1, 61)
    ]


async def test_one_failure_is_reported_and_the_others_go_on(world: World) -> None:
    """A customer whose currency cannot be converted does not keep the next from an invoice."""
    await world.put_plan("dong", currency="VND", base_fee="500000")
    await world.put_customer("acme")
    await world.subscribe(
        "acme",
        "dong",
        currency_conversion=customer_pb2.CURRENCY_CONVERSION_ECB_REFERENCE_RATE,
    )
    await world.put_customer("beta")
    await world.subscribe("beta")

    answers = await world.close()

    assert results(answers) == [
        ("acme-dong", "EXCHANGE_RATE_NOT_FOUND"),
        ("beta-team", "INV-2026-000001"),
    ]
    assert [(each.done, each.total) for each in answers] == [(0, 2), (1, 2), (2, 2)]


async def test_what_tax_cannot_determine_carries_its_words(world: World) -> None:
    """A seller that is established nowhere gets the tax service's own reason in words."""
    other = "other-" + world.tenant
    world.tenant = other
    await world.call("invoicing.PutSeller", messages.PutSellerRequest(seller=customer_seller()))
    await world.put_plan()
    await world.put_customer()
    await world.subscribe()

    (_, answer) = await world.close()

    assert read_status(answer.error).reason == "TAX_UNDETERMINED"
    assert "establish" in answer.error.message
    assert await world.listed() == []


def customer_seller() -> customer_pb2.Seller:
    """Make the least that a seller must say."""
    return customer_pb2.Seller(
        legal_name="Nowhere Ltd",
        address=customer_pb2.PostalAddress(city="Dublin", country="IE"),
    )


async def test_a_closing_is_refused_as_a_whole_only_for_its_own_faults(world: World) -> None:
    """The future, an unknown customer and a tenant without a seller are one error each."""
    nobody = world.metadata(tenant="nobody-" + world.tenant)
    future = messages.CloseBillingPeriodRequest(
        request_id="future", until=render_time(FEBRUARY + timedelta(days=1))
    )
    stranger = messages.CloseBillingPeriodRequest(request_id="stranger", customer_id="stranger")
    unnamed = messages.CloseBillingPeriodRequest()
    bare = messages.CloseBillingPeriodRequest(request_id="bare")
    refusals = []
    for request, metadata in (
        (future, world.metadata()),
        (stranger, world.metadata()),
        (unnamed, world.metadata()),
        (bare, nobody),
        (bare, world.metadata("invoicing.read")),
    ):
        stream = world.stubs["invoicing"].CloseBillingPeriod(request, metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
        refusals.append(read_refusal(refused.value))

    assert refusals == [
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {}, ("until",)),
        Refusal(grpc.StatusCode.NOT_FOUND, "CUSTOMER_NOT_FOUND", {"customer_id": "stranger"}),
        Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", {}, ("request_id",)),
        Refusal(grpc.StatusCode.NOT_FOUND, "SELLER_NOT_FOUND", {}),
        Refusal(
            grpc.StatusCode.PERMISSION_DENIED,
            "PERMISSION_DENIED",
            {"required_scope": "invoicing.write"},
        ),
    ]


@pytest.mark.parametrize("silent", ["rating", "meter"])
async def test_a_service_that_does_not_answer_is_named_and_can_be_retried(
    settings_for: Callable[..., ServiceSettings], world: World, silent: str
) -> None:
    """Without it each period says so, nothing is stored, and a later closing succeeds."""
    await world.put_customer()
    await world.subscribe()
    addresses = {**world.addresses, silent: "127.0.0.1:9"}
    alone = settings_for(
        "invoicing",
        rating_address=addresses["rating"],
        meter_address=addresses["meter"],
        tax_address=addresses["tax"],
    )

    async with (
        hosted("invoicing", alone, world.clock) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stream = InvoicingServiceStub(channel).CloseBillingPeriod(
            messages.CloseBillingPeriodRequest(request_id="early", finalize=True),
            metadata=world.metadata(),
        )
        answers = [answer async for answer in stream]

    assert [read_status(answer.error) for answer in answers[1:]] == [
        Refusal(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", {"service": silent})
    ]
    assert results(await world.close()) == [("acme-team", "INV-2026-000001")]


async def test_what_comes_after_the_invoice_is_late_and_does_not_change_its_usage(
    world: World,
) -> None:
    """A draft leaves the period open; issuing it, at once or later, closes it in the meter."""
    await world.put_meter()
    await world.put_plan("pro", base_fee="50", per="0.02")
    await world.put_customer()
    await world.subscribe(plan_id="pro")
    await world.use("acme", 100, START + timedelta(days=3))
    await world.close(finalize=False)
    await world.use("acme", 10, START + timedelta(days=4))
    (_, closed) = await world.close(finalize=False)

    await world.call(
        "invoicing.FinalizeInvoice",
        messages.FinalizeInvoiceRequest(invoice_id=closed.invoice.invoice_id),
    )
    await world.use("acme", 1, START + timedelta(days=5))

    late = await world.call("meter.ListLateEvents", ListLateEventsRequest(customer_id="acme"))
    assert [each.event.event.quantities["tokens"] for each in late.events] == ["1"]
    usage = await world.call(
        "meter.QueryUsage",
        QueryUsageRequest(meter_id="tokens", interval=render_interval(Interval(START, FEBRUARY))),
    )
    assert [row.quantity.value for row in usage.rows] == ["110"]


async def test_numbers_follow_the_day_of_issue_where_the_customer_is(world: World) -> None:
    """Ten in the evening of the 31st in UTC is the new year in Tokyo, and its series."""
    world.clock.set(datetime(2026, 12, 31, 22, tzinfo=UTC))
    await world.put_customer("tokyo", time_zone="Asia/Tokyo")
    await world.subscribe("tokyo", start_time=render_time(datetime(2026, 12, 1, tzinfo=UTC)))
    await world.put_customer("dublin", time_zone="Europe/Dublin")
    await world.subscribe(
        "dublin",
        start_time=render_time(datetime(2026, 11, 1, tzinfo=UTC)),
        end_time=render_time(datetime(2026, 12, 1, tzinfo=UTC)),
    )

    answers = await world.close()

    assert results(answers) == [
        ("dublin-team", "INV-2026-000001"),
        ("tokyo-team", "INV-2027-000001"),
    ]


async def test_a_plan_without_anything_to_bill_is_an_invoice_of_zero(world: World) -> None:
    """A free plan is closed like any other, without asking what tax nothing bears."""
    await world.put_plan("free", base_fee="0")
    await world.put_customer()
    await world.subscribe(plan_id="free")

    await world.close()

    invoice = await world.get("INV-2026-000001")
    assert (list(invoice.lines), list(invoice.taxes), invoice.total) == (
        [],
        [],
        Money(currency_code="EUR"),
    )


A_DEAL = """
    plan_id: "deal" currency: "EUR" base_fee { value: "100" }
    commitment { steps { amount { value: "500" } } term_months: 2 }
    prices {
      price_id: "tokens" meter_id: "tokens" included_quantity { value: "1000" }
      rollover { periods: 1 } standard { amount { value: "0.01" } }
    }
"""


@pytest.mark.parametrize("at_once", [False, True], ids=["month by month", "all at once"])
async def test_a_term_and_what_is_kept_span_the_invoices_of_a_subscription(
    world: World, *, at_once: bool
) -> None:
    """The invoices of a term come to its commitment; an allowance is kept for the next month."""
    await world.put_meter()
    await world.call("rating.PutPlan", PutPlanRequest(plan=Parse(A_DEAL, plan_pb2.Plan())))
    await world.put_customer()
    await world.subscribe(plan_id="deal")
    for tokens, days_of_next in ((400, 28), (2_000, 31), (1_300, 30), (0, 0)):
        await world.use("acme", tokens, world.clock.now() - timedelta(days=7))
        if not at_once:
            await world.close()
        world.clock.advance(timedelta(days=days_of_next))

    await world.close()

    invoices = [await world.get(f"INV-2026-00000{number}") for number in (1, 2, 3, 4)]
    # 600 of January are left for February; March uses 300 beyond its own; April begins anew.
    assert [
        [(line.rated.description, line.amount.units) for line in invoice.lines]
        for invoice in invoices
    ] == [
        [("deal: base fee", 100), ("tokens", 0)],
        [("deal: base fee", 100), ("tokens", 4), ("deal: commitment", 500 - 100 - 104)],
        [("deal: base fee", 100), ("tokens", 3)],
        [("deal: base fee", 100), ("tokens", 0), ("deal: commitment", 500 - 103 - 100)],
    ]
