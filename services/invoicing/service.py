"""The RPCs of invoicing: each is parse, call, render. Refuses to hold any rule of its own."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

from kit.clock import Clock
from kit.errors import DomainError
from kit.idempotency import Answer, Once, Value, fingerprint
from kit.ids import parse_id
from kit.paging import page_size
from kit.rpc.auth import caller
from kit.rpc.methods import Context
from kit.rpc.status import internal_status, render_status
from kit.rpc.wire import render_time
from kit.telemetry import get_logger, trace_id
from services.invoicing.convert.fields import parse_customer_id
from services.invoicing.convert.invoices import (
    parse_close,
    parse_get_document,
    parse_id_or_number,
    parse_list_invoices,
    parse_list_subscriptions,
    parse_preview,
    parse_void,
    render_document,
    render_progress,
    render_summaries,
)
from services.invoicing.convert.parties import (
    parse_cancel_subscription,
    parse_create_subscription,
    parse_put_customer,
    parse_put_seller,
    render_customers,
    render_subscription,
    render_subscriptions,
)
from services.invoicing.model import Customer, Invoice, InvoiceSummary, Seller, Subscription
from services.invoicing.snapshot import render_customer, render_invoice, render_seller
from services.invoicing.usecases.invoices import InvoiceUseCases
from services.invoicing.usecases.parties import PartyUseCases
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages

_DOMAIN = "tollkeeper.invoicing"


class InvoicingService:
    """Serves `tollkeeper.api.invoicing.v1.InvoicingService`."""

    def __init__(self, parties: PartyUseCases, invoices: InvoiceUseCases, clock: Clock) -> None:
        self._parties = parties
        self._invoices = invoices
        self._clock = clock

    async def PutSeller(
        self, request: messages.PutSellerRequest, context: Context
    ) -> messages.PutSellerResponse:
        seller = parse_put_seller(request)
        once = self._once(
            request, request.request_id, "PutSeller", messages.PutSellerResponse, _put_seller
        )
        return await self._parties.put_seller(caller(context).tenant, seller, once)

    async def GetSeller(
        self, _request: messages.GetSellerRequest, context: Context
    ) -> messages.GetSellerResponse:
        seller = await self._parties.get_seller(caller(context).tenant)
        return messages.GetSellerResponse(seller=render_seller(seller))

    async def PutCustomer(
        self, request: messages.PutCustomerRequest, context: Context
    ) -> messages.PutCustomerResponse:
        customer = parse_put_customer(request, self._clock.now())
        once = self._once(
            request, request.request_id, "PutCustomer", messages.PutCustomerResponse, _put_customer
        )
        return await self._parties.put_customer(caller(context).tenant, customer, once)

    async def GetCustomer(
        self, request: messages.GetCustomerRequest, context: Context
    ) -> messages.GetCustomerResponse:
        customer_id = parse_customer_id(request.customer_id, "customer_id")
        customer = await self._parties.get_customer(caller(context).tenant, customer_id)
        return messages.GetCustomerResponse(customer=render_customer(customer))

    async def ListCustomers(
        self, request: messages.ListCustomersRequest, context: Context
    ) -> messages.ListCustomersResponse:
        page = await self._parties.list_customers(
            caller(context).tenant, page_size(request.page_size), request.page_token
        )
        return render_customers(page)

    async def CreateSubscription(
        self, request: messages.CreateSubscriptionRequest, context: Context
    ) -> messages.CreateSubscriptionResponse:
        subscription = parse_create_subscription(request, self._clock.now())
        once = self._once(
            request,
            request.request_id,
            "CreateSubscription",
            messages.CreateSubscriptionResponse,
            _create_subscription,
        )
        return await self._parties.create_subscription(
            caller(context).tenant,
            subscription,
            once,
            allow_shared_usage=request.allow_shared_usage,
        )

    async def GetSubscription(
        self, request: messages.GetSubscriptionRequest, context: Context
    ) -> messages.GetSubscriptionResponse:
        subscription_id = parse_id(request.subscription_id, "subscription_id")
        found = await self._parties.get_subscription(caller(context).tenant, subscription_id)
        return messages.GetSubscriptionResponse(subscription=render_subscription(found))

    async def ListSubscriptions(
        self, request: messages.ListSubscriptionsRequest, context: Context
    ) -> messages.ListSubscriptionsResponse:
        customer_id = parse_list_subscriptions(request)
        page = await self._parties.list_subscriptions(
            caller(context).tenant, page_size(request.page_size), request.page_token, customer_id
        )
        return render_subscriptions(page)

    async def CancelSubscription(
        self, request: messages.CancelSubscriptionRequest, context: Context
    ) -> messages.CancelSubscriptionResponse:
        subscription_id, end_time = parse_cancel_subscription(request)
        once = self._once(
            request,
            request.request_id,
            "CancelSubscription",
            messages.CancelSubscriptionResponse,
            _cancel_subscription,
        )
        return await self._parties.cancel_subscription(
            caller(context).tenant, subscription_id, end_time, once
        )

    async def PreviewInvoice(
        self, request: messages.PreviewInvoiceRequest, context: Context
    ) -> messages.PreviewInvoiceResponse:
        subscription_id, time = parse_preview(request)
        invoice = await self._invoices.preview_invoice(
            caller(context).tenant, subscription_id, time
        )
        return messages.PreviewInvoiceResponse(invoice=render_invoice(invoice))

    async def CloseBillingPeriod(
        self, request: messages.CloseBillingPeriodRequest, context: Context
    ) -> AsyncGenerator[messages.CloseBillingPeriodResponse, None]:
        wanted = parse_close(request)
        await self._parties.put_due_limits(caller(context).tenant)
        once = self._once(request, request.request_id, "CloseBillingPeriod", Timestamp, render_time)
        closing = self._invoices.close_billing_period(
            caller(context).tenant,
            until=wanted.until,
            customer_id=wanted.customer_id,
            issue=wanted.issue,
            once=once,
        )
        async with aclosing(closing) as progress:
            async for each in progress:
                if each.outcome is None:
                    yield render_progress(each.done, each.total)
                else:
                    yield render_progress(
                        each.done,
                        each.total,
                        each.outcome.subscription_id,
                        _render_result(each.outcome.result),
                    )

    async def GetInvoice(
        self, request: messages.GetInvoiceRequest, context: Context
    ) -> messages.GetInvoiceResponse:
        id_or_number = parse_id_or_number(request.invoice_id, "invoice_id")
        invoice = await self._invoices.get_invoice(caller(context).tenant, id_or_number)
        return messages.GetInvoiceResponse(invoice=render_invoice(invoice))

    async def ListInvoices(
        self, request: messages.ListInvoicesRequest, context: Context
    ) -> messages.ListInvoicesResponse:
        listing = parse_list_invoices(request)
        page = await self._invoices.list_invoices(
            caller(context).tenant,
            page_size(request.page_size),
            request.page_token,
            customer_id=listing.customer_id,
            state=listing.state,
        )
        return render_summaries(page)

    async def FinalizeInvoice(
        self, request: messages.FinalizeInvoiceRequest, context: Context
    ) -> messages.FinalizeInvoiceResponse:
        invoice_id = parse_id_or_number(request.invoice_id, "invoice_id")
        once = self._once(
            request,
            request.request_id,
            "FinalizeInvoice",
            messages.FinalizeInvoiceResponse,
            _finalize_invoice,
        )
        return await self._invoices.finalize_invoice(caller(context).tenant, invoice_id, once)

    async def VoidInvoice(
        self, request: messages.VoidInvoiceRequest, context: Context
    ) -> messages.VoidInvoiceResponse:
        id_or_number, reason = parse_void(request)
        once = self._once(
            request, request.request_id, "VoidInvoice", messages.VoidInvoiceResponse, _void_invoice
        )
        return await self._invoices.void_invoice(caller(context).tenant, id_or_number, reason, once)

    async def GetInvoiceDocument(
        self, request: messages.GetInvoiceDocumentRequest, context: Context
    ) -> messages.GetInvoiceDocumentResponse:
        id_or_number, wanted = parse_get_document(request)
        document = await self._invoices.get_document(caller(context).tenant, id_or_number, wanted)
        return render_document(document.content, document.number, document.format)

    def _once(
        self,
        request: Message,
        request_id: str,
        method: str,
        answer_type: type[Answer],
        render: Callable[[Value], Answer],
    ) -> Once[Value, Answer]:
        return Once(
            request_id, method, fingerprint(request), answer_type, render, self._clock.now()
        )


def _put_seller(seller: Seller) -> messages.PutSellerResponse:
    return messages.PutSellerResponse(seller=render_seller(seller))


def _put_customer(customer: Customer) -> messages.PutCustomerResponse:
    return messages.PutCustomerResponse(customer=render_customer(customer))


def _create_subscription(subscription: Subscription) -> messages.CreateSubscriptionResponse:
    return messages.CreateSubscriptionResponse(subscription=render_subscription(subscription))


def _cancel_subscription(subscription: Subscription) -> messages.CancelSubscriptionResponse:
    return messages.CancelSubscriptionResponse(subscription=render_subscription(subscription))


def _finalize_invoice(invoice: Invoice) -> messages.FinalizeInvoiceResponse:
    return messages.FinalizeInvoiceResponse(invoice=render_invoice(invoice))


def _void_invoice(invoice: Invoice) -> messages.VoidInvoiceResponse:
    return messages.VoidInvoiceResponse(invoice=render_invoice(invoice))


def _render_result(result: InvoiceSummary | Exception) -> InvoiceSummary | Status:
    """Say what failed; of an unexpected error only the id under which it is logged."""
    match result:
        case InvoiceSummary():
            return result
        case DomainError():
            return render_status(result, _DOMAIN)
        case _:
            logged_as = trace_id() or secrets.token_hex(16)
            get_logger().error("close.failed", trace_id=logged_as, exc_info=result)
            return internal_status(logged_as, _DOMAIN)
