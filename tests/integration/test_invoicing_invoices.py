"""Drafts, issued and void invoices, and their documents, with the real other services."""

from __future__ import annotations

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
    euro,
    results,
)
from tollkeeper.api.invoicing.v1 import invoice_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages

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


async def test_a_draft_has_no_document(world: World) -> None:
    """Only what is issued can be sent."""
    await world.put_customer()
    await world.subscribe()
    (_, closed) = await world.close(finalize=False)

    refusal = await world.refused(
        "invoicing.GetInvoiceDocument",
        messages.GetInvoiceDocumentRequest(invoice_id=closed.invoice.invoice_id),
    )

    assert refusal == Refusal(
        grpc.StatusCode.FAILED_PRECONDITION,
        "INVOICE_STATE",
        {"invoice_id": closed.invoice.invoice_id, "state": "DRAFT"},
    )


async def test_drafts_are_computed_anew_and_issued_later(world: World) -> None:
    """Late usage changes a draft when its period is closed again; its id stays."""
    await world.put_meter()
    await world.put_plan("pro", base_fee="50", per="1")
    await world.put_customer()
    await world.subscribe(plan_id="pro")
    (_, before) = await world.close(finalize=False)
    await world.use("acme", 3_000, START)

    (_, after) = await world.close(finalize=False)
    issued = await world.call(
        "invoicing.FinalizeInvoice",
        messages.FinalizeInvoiceRequest(invoice_id=after.invoice.invoice_id),
    )

    assert (before.invoice.state, before.invoice.number, before.invoice.total) == (
        DRAFT,
        "",
        euro(50),
    )
    assert after.invoice.invoice_id == before.invoice.invoice_id
    assert after.invoice.total == euro(53)
    assert (issued.invoice.number, issued.invoice.total) == ("INV-2026-000001", euro(53))
    assert results(await world.close()) == []


async def test_an_issued_invoice_stays_what_it_was_whatever_changes(world: World) -> None:
    """Another name of customer or seller changes neither the invoice nor its documents."""
    await world.put_customer()
    await world.subscribe()
    await world.close()
    invoice = await world.get("INV-2026-000001")
    pdf = await world.document("INV-2026-000001")
    json = await world.document("INV-2026-000001", format=messages.DOCUMENT_FORMAT_JSON)

    await world.put_customer(legal_name="Acme AG")
    await world.put_seller(legal_name="Lumen SE")
    await world.call(
        "invoicing.VoidInvoice",
        messages.VoidInvoiceRequest(invoice_id="INV-2026-000001", reason="wrong address"),
    )

    voided = await world.get("INV-2026-000001")
    assert (voided.state, voided.void_reason) == (VOIDED, "wrong address")
    voided.state = FINALIZED
    voided.ClearField("void_time")
    voided.ClearField("void_reason")
    assert voided == invoice
    assert await world.document("INV-2026-000001") == pdf
    assert await world.document("INV-2026-000001", format=messages.DOCUMENT_FORMAT_JSON) == json


async def test_a_void_invoice_opens_its_period_for_a_corrected_one(world: World) -> None:
    """The next closing bills the period again under the next number; the old request does not."""
    await world.put_customer()
    await world.subscribe()
    await world.close(request_id="january")
    await world.call(
        "invoicing.VoidInvoice",
        messages.VoidInvoiceRequest(invoice_id="INV-2026-000001", reason="wrong address"),
    )
    world.clock.advance(timedelta(seconds=1))

    repeated = await world.close(request_id="january")
    corrected = await world.close()

    assert [each.invoice.state for each in repeated[1:]] == [VOIDED]
    assert results(corrected) == [("acme-team", "INV-2026-000002")]
    assert [each.state for each in await world.listed()] == [FINALIZED, VOIDED]


async def test_a_preview_shows_the_open_period_and_stores_nothing(world: World) -> None:
    """February so far, as a draft without an id."""
    await world.put_customer()
    await world.subscribe()

    answer = await world.call(
        "invoicing.PreviewInvoice",
        messages.PreviewInvoiceRequest(subscription_id="acme-team"),
    )

    invoice = answer.invoice
    assert (invoice.invoice_id, invoice.number, invoice.state) == ("", "", DRAFT)
    assert (invoice.period.start_time, invoice.total) == (render_time(FEBRUARY), euro(100))
    assert await world.listed() == []


async def test_a_cancelled_subscription_is_billed_to_its_last_day(world: World) -> None:
    """Ended on the tenth, the draft of the month is dropped and nine days are billed."""
    await world.put_customer()
    await world.subscribe()
    await world.close(until=FEBRUARY)
    world.clock.set(datetime(2026, 3, 1, 6, tzinfo=UTC))
    await world.close(finalize=False)

    await world.call(
        "invoicing.CancelSubscription",
        messages.CancelSubscriptionRequest(
            subscription_id="acme-team",
            end_time=render_time(datetime(2026, 2, 10, 15, tzinfo=UTC)),
        ),
    )
    drafts = await world.listed(state=DRAFT)
    answers = await world.close()

    assert drafts == []
    assert results(answers) == [("acme-team", "INV-2026-000002")]
    invoice = await world.get("INV-2026-000002")
    assert (invoice.period.end_time, invoice.subtotal) == (
        render_time(datetime(2026, 2, 10, tzinfo=UTC)),
        euro(32, 14),
    )


async def test_another_tenant_sees_and_changes_nothing(world: World) -> None:
    """Ids and numbers of one tenant are unknown to every other."""
    await world.put_customer()
    await world.subscribe()
    await world.close()
    stranger = "stranger-" + world.tenant
    number = "INV-2026-000001"

    refusals = [
        (await world.refused(method, request, tenant=stranger)).reason
        for method, request in (
            ("invoicing.GetInvoice", messages.GetInvoiceRequest(invoice_id=number)),
            (
                "invoicing.GetInvoiceDocument",
                messages.GetInvoiceDocumentRequest(invoice_id=number),
            ),
            (
                "invoicing.VoidInvoice",
                messages.VoidInvoiceRequest(invoice_id=number, reason="mine"),
            ),
            ("invoicing.FinalizeInvoice", messages.FinalizeInvoiceRequest(invoice_id=number)),
            ("invoicing.GetCustomer", messages.GetCustomerRequest(customer_id="acme")),
            (
                "invoicing.GetSubscription",
                messages.GetSubscriptionRequest(subscription_id="acme-team"),
            ),
            (
                "invoicing.PreviewInvoice",
                messages.PreviewInvoiceRequest(subscription_id="acme-team"),
            ),
            ("invoicing.GetSeller", messages.GetSellerRequest()),
        )
    ]

    assert refusals == [
        "INVOICE_NOT_FOUND",
        "INVOICE_NOT_FOUND",
        "INVOICE_NOT_FOUND",
        "INVOICE_NOT_FOUND",
        "CUSTOMER_NOT_FOUND",
        "SUBSCRIPTION_NOT_FOUND",
        "SUBSCRIPTION_NOT_FOUND",
        "SELLER_NOT_FOUND",
    ]
    assert (await world.get(number)).state == FINALIZED
