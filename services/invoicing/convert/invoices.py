"""Invoices, closings and documents on the wire."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from google.rpc.status_pb2 import Status

from kit.errors import InvalidInput, Violations
from kit.ids import parse_id
from kit.paging import Page
from kit.rpc.wire import render_interval, render_money
from services.invoicing.convert.fields import (
    parse_customer_id,
    parse_instant,
    parse_text,
    take,
)
from services.invoicing.model import DocumentFormat, InvoiceState, InvoiceSummary
from services.invoicing.snapshot import INVOICE_STATES
from tollkeeper.api.invoicing.v1 import invoice_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages

REASON_LENGTH_MAX = 500
ID_OR_NUMBER_LENGTH_MAX = 64

_STATES: Mapping[int, InvoiceState | None] = {
    invoice_pb2.INVOICE_STATE_UNSPECIFIED: None,
    **{number: state for state, number in INVOICE_STATES.items()},
}
_FORMATS: Mapping[int, DocumentFormat] = {
    messages.DOCUMENT_FORMAT_UNSPECIFIED: DocumentFormat.PDF,
    messages.DOCUMENT_FORMAT_PDF: DocumentFormat.PDF,
    messages.DOCUMENT_FORMAT_JSON: DocumentFormat.JSON,
}
_MEDIA_TYPES = {
    DocumentFormat.PDF: "application/pdf",
    DocumentFormat.JSON: "application/json",
}


@dataclass(frozen=True, slots=True)
class Listing:
    """Which invoices are listed."""

    customer_id: str
    state: InvoiceState | None


@dataclass(frozen=True, slots=True)
class Closing:
    """Which periods are closed, and whether their invoices are issued."""

    until: datetime | None
    customer_id: str
    issue: bool


def parse_preview(request: messages.PreviewInvoiceRequest) -> tuple[str, datetime | None]:
    """Read which period is previewed; no time is now."""
    v = Violations()
    subscription_id = take(v, "subscription_id", parse_id, request.subscription_id)
    has_time = request.HasField("time")
    time = take(v, "time", parse_instant, request.time) if has_time else None
    v.raise_if_any()
    return subscription_id, time


def parse_close(request: messages.CloseBillingPeriodRequest) -> Closing:
    """Read which periods are closed; no `until` is now."""
    v = Violations()
    has_until = request.HasField("until")
    closing = Closing(
        until=take(v, "until", parse_instant, request.until) if has_until else None,
        customer_id=take(v, "customer_id", _optional_customer_id, request.customer_id),
        issue=request.finalize,
    )
    v.raise_if_any()
    return closing


def parse_list_invoices(request: messages.ListInvoicesRequest) -> Listing:
    """Read which invoices are listed."""
    v = Violations()
    listing = Listing(
        customer_id=take(v, "customer_id", _optional_customer_id, request.customer_id),
        state=take(v, "state", _state, request.state),
    )
    v.raise_if_any()
    return listing


def parse_list_subscriptions(request: messages.ListSubscriptionsRequest) -> str:
    """Read whose subscriptions are listed; nothing is everybody's."""
    return _optional_customer_id(request.customer_id, "customer_id")


def parse_id_or_number(text: str, field: str) -> str:
    """Read what names an invoice."""
    return parse_text(text, field, length_max=ID_OR_NUMBER_LENGTH_MAX, required=True)


def parse_void(request: messages.VoidInvoiceRequest) -> tuple[str, str]:
    """Read which invoice is taken back, and why."""
    v = Violations()
    id_or_number = take(v, "invoice_id", parse_id_or_number, request.invoice_id)
    reason = take(
        v,
        "reason",
        partial(parse_text, length_max=REASON_LENGTH_MAX, required=True),
        request.reason,
    )
    v.raise_if_any()
    return id_or_number, reason


def parse_get_document(
    request: messages.GetInvoiceDocumentRequest,
) -> tuple[str, DocumentFormat]:
    """Read which document is asked for."""
    v = Violations()
    id_or_number = take(v, "invoice_id", parse_id_or_number, request.invoice_id)
    wanted = take(v, "format", _format, request.format)
    v.raise_if_any()
    return id_or_number, wanted


def render_summary(summary: InvoiceSummary) -> invoice_pb2.InvoiceSummary:
    """Write the short view of an invoice."""
    return invoice_pb2.InvoiceSummary(
        invoice_id=summary.invoice_id,
        number=summary.number,
        state=INVOICE_STATES[summary.state],
        customer_id=summary.customer_id,
        period=render_interval(summary.period),
        subtotal=render_money(summary.subtotal),
        tax_total=render_money(summary.tax_total),
        total=render_money(summary.total),
        subscription_id=summary.subscription_id,
    )


def render_summaries(page: Page[InvoiceSummary]) -> messages.ListInvoicesResponse:
    """Write a page of invoices."""
    return messages.ListInvoicesResponse(
        invoices=map(render_summary, page.items), next_page_token=page.next_page_token
    )


def render_progress(
    done: int, total: int, subscription_id: str = "", result: InvoiceSummary | Status | None = None
) -> messages.CloseBillingPeriodResponse:
    """Write how far a closing is, and what became of a period."""
    return messages.CloseBillingPeriodResponse(
        done=done,
        total=total,
        subscription_id=subscription_id,
        invoice=render_summary(result) if isinstance(result, InvoiceSummary) else None,
        error=result if isinstance(result, Status) else None,
    )


def render_document(
    content: bytes, number: str, wanted: DocumentFormat
) -> messages.GetInvoiceDocumentResponse:
    """Write a document and what to call it."""
    return messages.GetInvoiceDocumentResponse(
        content=content,
        media_type=_MEDIA_TYPES[wanted],
        file_name=f"{number}.{wanted.value}",
    )


def _optional_customer_id(text: str, field: str) -> str:
    return parse_customer_id(text, field) if text else ""


def _state(number: int, field: str) -> InvoiceState | None:
    if number not in _STATES:
        raise InvalidInput.of(field, "must be a state of the contract")
    return _STATES[number]


def _format(number: int, field: str) -> DocumentFormat:
    wanted = _FORMATS.get(number)
    if wanted is None:
        raise InvalidInput.of(field, "must be a format of the contract")
    return wanted
