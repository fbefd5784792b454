"""Sets the demo up in the services, closes its month, and fetches what came of it."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import grpc
from google.type.date_pb2 import Date

from cli.call_meters import CALLS, INPUT_TOKENS, OUTPUT_TOKENS, put_missing_meters
from cli.demo.recompute import Used, month_bounds
from cli.demo.world import CUSTOMERS, METERS, PLAN_FILES, REGISTRATIONS, SELLER
from cli.errors import CommandError
from cli.plan_applying import apply_plan_file
from cli.plan_files import read_plan_file
from cli.services import Services, new_request_id
from kit.interval import Interval
from kit.rpc.wire import render_interval, render_time
from tollkeeper.api.invoicing.v1.invoice_pb2 import Invoice
from tollkeeper.api.invoicing.v1.invoicing_service_pb2 import (
    DOCUMENT_FORMAT_PDF,
    CloseBillingPeriodRequest,
    CreateSubscriptionRequest,
    GetInvoiceDocumentRequest,
    GetInvoiceRequest,
    PutCustomerRequest,
    PutSellerRequest,
)
from tollkeeper.api.meter.v1.meter_service_pb2 import ListEventsRequest, QueryUsageRequest
from tollkeeper.api.quota.v1.quota_pb2 import Limit, LimitStatus
from tollkeeper.api.quota.v1.quota_service_pb2 import GetBalancesRequest, PutLimitRequest
from tollkeeper.api.tax.v1.tax_service_pb2 import GetExchangeRateRequest, PutRegistrationRequest
from tollkeeper.errors import parse_rpc_error

_WESTERNMOST = ZoneInfo("America/Los_Angeles")
_MONTHS_BACK_MAX = 120
_EVENTS_PER_PAGE = 10_000
_NO_RATE = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}

Usage = dict[tuple[str, str], Fraction]


async def choose_month(services: Services, now: datetime) -> date:
    """Choose the newest month that has ended for every customer and has an exchange rate.

    Raises:
        CommandError: No month has a rate.
    """
    month = now.astimezone(_WESTERNMOST).date().replace(day=1)
    for _ in range(_MONTHS_BACK_MAX):
        last_day = month - timedelta(days=1)
        month = last_day.replace(day=1)
        request = GetExchangeRateRequest(
            base_currency="USD",
            quote_currency="JPY",
            date=Date(year=last_day.year, month=last_day.month, day=last_day.day),
        )
        try:
            await services.tax.GetExchangeRate(request, metadata=services.metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            if parse_rpc_error(error).code not in _NO_RATE:
                raise services.explain(error, request) from None
        else:
            return month
    raise CommandError("the tax service knows no exchange rate of the last ten years")


def periods_of(month: date) -> dict[str, Interval]:
    """Give every customer's own month."""
    return {
        each.customer_id: Interval(*month_bounds(month, each.customer.time_zone))
        for each in CUSTOMERS
    }


async def put_everything(services: Services, month: date, limits: Sequence[Limit]) -> None:
    """Put seller, registrations, meters, plans, customers, subscriptions and limits."""
    ask, new_id = services.ask, new_request_id
    await ask(services.invoicing.PutSeller, PutSellerRequest(request_id=new_id(), seller=SELLER))
    for registration in REGISTRATIONS:
        put_registration = PutRegistrationRequest(request_id=new_id(), registration=registration)
        await ask(services.tax.PutRegistration, put_registration)
    await put_missing_meters(services, (CALLS, INPUT_TOKENS, OUTPUT_TOKENS))
    for file in PLAN_FILES:
        await apply_plan_file(services, read_plan_file(file))
    for each in CUSTOMERS:
        put_customer = PutCustomerRequest(request_id=new_id(), customer=each.customer)
        await ask(services.invoicing.PutCustomer, put_customer)
        start_time, _ = month_bounds(month, each.customer.time_zone)
        subscription = each.subscription(render_time(start_time))
        subscribe = CreateSubscriptionRequest(request_id=new_id(), subscription=subscription)
        await ask(services.invoicing.CreateSubscription, subscribe)
    for limit in limits:
        await ask(services.quota.PutLimit, PutLimitRequest(request_id=new_id(), limit=limit))


async def query_usage(services: Services, periods: dict[str, Interval]) -> Usage:
    """Ask every meter for every customer's month."""
    usage: Usage = {}
    for customer_id, period in periods.items():
        for meter in METERS:
            request = QueryUsageRequest(
                meter_id=meter.meter_id, customer_id=customer_id, interval=render_interval(period)
            )
            answer = await services.ask(services.meter.QueryUsage, request)
            usage[customer_id, meter.meter_id] = sum(
                (Fraction(row.quantity.value) for row in answer.rows), Fraction(0)
            )
    return usage


async def query_balances(services: Services, limits: Sequence[Limit]) -> list[LimitStatus]:
    """Ask how each limit stands."""
    statuses: list[LimitStatus] = []
    for limit in limits:
        request = GetBalancesRequest(subject=limit.subject)
        answer = await services.ask(services.quota.GetBalances, request)
        statuses += [status for status in answer.limits if status.limit_id == limit.limit_id]
    return statuses


async def list_events(services: Services) -> list[Used]:
    """List every usage event of the tenant."""
    events: list[Used] = []
    request = ListEventsRequest(page_size=_EVENTS_PER_PAGE)
    while True:
        page = await services.ask(services.meter.ListEvents, request)
        events += [Used.of(stored.event) for stored in page.events]
        if not page.next_page_token:
            return events
        request.page_token = page.next_page_token


async def close_month(
    services: Services, until: datetime, advance: Callable[[int], None]
) -> list[Invoice]:
    """Close the month of every customer, and return the issued invoices by number.

    Raises:
        CommandError: A period could not be closed.
    """
    request = CloseBillingPeriodRequest(
        request_id=new_request_id(), until=render_time(until), finalize=True
    )
    invoices: list[Invoice] = []
    async for progress in services.stream(services.invoicing.CloseBillingPeriod, request):
        match progress.WhichOneof("result"):
            case "invoice":
                get = GetInvoiceRequest(invoice_id=progress.invoice.invoice_id)
                invoices.append((await services.ask(services.invoicing.GetInvoice, get)).invoice)
                advance(1)
            case "error":
                raise CommandError(
                    f"the month of {progress.subscription_id} could not be closed: "
                    f"{progress.error.message}"
                )
    return sorted(invoices, key=lambda invoice: invoice.number)


async def fetch_documents(
    services: Services, invoices: Sequence[Invoice]
) -> list[tuple[str, bytes]]:
    """Return the file name and the PDF of each invoice."""
    documents = []
    for invoice in invoices:
        request = GetInvoiceDocumentRequest(
            invoice_id=invoice.invoice_id, format=DOCUMENT_FORMAT_PDF
        )
        document = await services.ask(services.invoicing.GetInvoiceDocument, request)
        documents.append((Path(document.file_name).name, document.content))
    return documents


def last_end(periods: dict[str, Interval]) -> datetime:
    """Give the instant at which the month has ended for every customer."""
    return max(period.end for period in periods.values()).astimezone(UTC)
