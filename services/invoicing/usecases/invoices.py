"""Invoices: previewed, made by closing periods, issued, voided, and given as documents."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import InvalidInput, NotFound, Precondition
from kit.idempotency import Answer, Once
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.rpc.wire import parse_time
from kit.telemetry import traced
from services.invoicing.assembly import as_issued, void
from services.invoicing.closing import Outcome, PeriodCloser
from services.invoicing.document import describe_page
from services.invoicing.drafting import Drafter, DuePeriod
from services.invoicing.model import (
    DocumentFormat,
    Invoice,
    InvoiceState,
    InvoiceSummary,
    Subscription,
)
from services.invoicing.periods import period_containing
from services.invoicing.snapshot import write_json
from services.invoicing.store import invoices
from services.invoicing.typesetting import Typesetter
from services.invoicing.usecases.parties import (
    require_customer,
    require_seller,
    require_subscription,
)


@dataclass(frozen=True, slots=True)
class Document:
    """An issued invoice as a document; the name is its number."""

    content: bytes
    format: DocumentFormat
    number: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a closing is; the first message has no outcome and tells the total."""

    done: int
    total: int
    outcome: Outcome | None


class InvoiceUseCases:
    """The use cases over one database, a drafter, a closer and a typesetter."""

    def __init__(
        self,
        database: Database,
        drafter: Drafter,
        closer: PeriodCloser,
        typesetter: Typesetter,
        clock: Clock,
    ) -> None:
        self._database = database
        self._drafter = drafter
        self._closer = closer
        self._typesetter = typesetter
        self._clock = clock

    @traced("invoicing.preview_invoice")
    async def preview_invoice(
        self, tenant: str, subscription_id: str, time: datetime | None
    ) -> Invoice:
        """Compute the invoice of the period that contains an instant, or now. Stores nothing.

        Raises:
            NotFound: SUBSCRIPTION_NOT_FOUND, SELLER_NOT_FOUND, PLAN_NOT_FOUND.
            InvalidInput: the subscription has not started at that time.
            Precondition: SUBSCRIPTION_ENDED, CURRENCY_MISMATCH, RATING_FAILED, TAX_UNDETERMINED,
                EXCHANGE_RATE_NOT_FOUND.
            Unavailable: SERVICE_UNAVAILABLE.
        """
        async with self._database.transaction(tenant) as transaction:
            subscription = await require_subscription(transaction, tenant, subscription_id)
            customer = await require_customer(transaction, tenant, subscription.customer_id)
            seller = await require_seller(transaction, tenant)
        instant = self._clock.now() if time is None else time
        period = period_containing(subscription, instant)
        if period is None:
            raise _outside(subscription, instant)
        due = DuePeriod(subscription, customer, period)
        (draft,) = await self._drafter.compute_each(tenant, seller, [due])
        if isinstance(draft, Exception):
            raise draft
        return replace(draft, invoice_id="")

    async def close_billing_period(
        self,
        tenant: str,
        *,
        until: datetime | None,
        customer_id: str,
        issue: bool,
        once: Once[datetime, Timestamp],
    ) -> AsyncGenerator[Progress, None]:
        """Make the invoice of every period that ended at or before `until`, or now.

        The first answer stored for a request is the instant it closes until, so that a repeat
        finds the same periods; what it issued before is reported again.

        Raises:
            NotFound: SELLER_NOT_FOUND, CUSTOMER_NOT_FOUND.
            InvalidInput: `until` is after now.
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:
            seller = await require_seller(transaction, tenant)

            async def begin() -> datetime:
                if customer_id:
                    await require_customer(transaction, tenant, customer_id)
                return _not_after(once.now, once.now if until is None else until)

            begun = await once.run(transaction, tenant, begin)
        agenda = await self._closer.plan(
            tenant,
            until=parse_time(begun, "until"),
            customer_id=customer_id,
            request_id=once.request_id,
        )
        yield Progress(0, agenda.total, None)
        closing = self._closer.close(
            tenant, seller, agenda, request_id=once.request_id, issue=issue
        )
        done = 0
        async with aclosing(closing) as outcomes:
            async for outcome in outcomes:
                done += 1
                yield Progress(done, agenda.total, outcome)

    @traced("invoicing.get_invoice")
    async def get_invoice(self, tenant: str, id_or_number: str) -> Invoice:
        """Answer one invoice.

        Raises:
            NotFound: INVOICE_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            return await _require_invoice(transaction, tenant, id_or_number)

    @traced("invoicing.list_invoices")
    async def list_invoices(
        self,
        tenant: str,
        size: int,
        page_token: str,
        *,
        customer_id: str,
        state: InvoiceState | None,
    ) -> Page[InvoiceSummary]:
        """Answer invoices, newest first; of one customer or of all, in one state or in any.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        listing = f"invoices {customer_id} {state}"
        (before,) = decode_page_token(page_token, listing) or (None,)
        async with self._database.transaction(tenant) as transaction:
            found = await invoices.load_summaries(
                transaction,
                tenant,
                before=before,
                limit=size + 1,
                customer_id=customer_id,
                state=state,
            )
        last = [found[size - 1].invoice_id] if len(found) > size else []
        return Page(found[:size], encode_page_token(listing, last) if last else "")

    @traced("invoicing.finalize_invoice")
    async def finalize_invoice(
        self, tenant: str, invoice_id: str, once: Once[Invoice, Answer]
    ) -> Answer:
        """Issue a draft.

        Raises:
            NotFound: INVOICE_NOT_FOUND.
            Precondition: INVOICE_STATE.
            Conflict: REQUEST_ID_REUSED.
            Unavailable: SERVICE_UNAVAILABLE, the meter cannot be told that the period is closed.
        """
        async with self._database.transaction(tenant) as transaction:

            async def issue() -> Invoice:
                draft = await _require_invoice(transaction, tenant, invoice_id, lock=True)
                ends = [(draft.customer.customer_id, draft.period.end)]
                await self._closer.close_usage(tenant, ends)
                (issued,) = await self._closer.issue_each(transaction, tenant, [draft])
                await invoices.save_issued(transaction, tenant, issued)
                return issued

            return await once.run(transaction, tenant, issue)

    @traced("invoicing.void_invoice")
    async def void_invoice(
        self, tenant: str, id_or_number: str, reason: str, once: Once[Invoice, Answer]
    ) -> Answer:
        """Take an issued invoice back.

        Raises:
            NotFound: INVOICE_NOT_FOUND.
            Precondition: INVOICE_STATE.
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:

            async def take_back() -> Invoice:
                present = await _require_invoice(transaction, tenant, id_or_number, lock=True)
                voided = void(present, void_time=once.now, reason=reason)
                await invoices.save_void(transaction, tenant, voided)
                return voided

            return await once.run(transaction, tenant, take_back)

    @traced("invoicing.get_invoice_document")
    async def get_document(
        self, tenant: str, id_or_number: str, wanted: DocumentFormat
    ) -> Document:
        """Answer an issued invoice as a document; made when first asked for, and kept.

        Raises:
            NotFound: INVOICE_NOT_FOUND.
            Precondition: INVOICE_STATE, it is a draft.
        """
        async with self._database.transaction(tenant) as transaction:
            invoice = await _require_invoice(transaction, tenant, id_or_number)
            issued = as_issued(invoice)
            kept = await invoices.load_document(
                transaction, tenant, issued.invoice_id, wanted.value
            )
            subscription = await require_subscription(transaction, tenant, issued.subscription_id)
        if kept is None:
            made = await self._make_document(issued, subscription, wanted)
            async with self._database.transaction(tenant) as transaction:
                kept = await invoices.keep_document(
                    transaction, tenant, issued.invoice_id, wanted.value, made
                )
        return Document(kept, wanted, issued.number)

    async def _make_document(
        self, issued: Invoice, subscription: Subscription, wanted: DocumentFormat
    ) -> bytes:
        match wanted:
            case DocumentFormat.JSON:
                return write_json(issued)
            case DocumentFormat.PDF:
                assert issued.finalize_time is not None, "an issued invoice has its time"
                page = describe_page(issued, subscription.time_zone)
                return await self._typesetter.typeset(page, issued.finalize_time)


async def _require_invoice(
    transaction: AsyncConnection, tenant: str, id_or_number: str, *, lock: bool = False
) -> Invoice:
    invoice = await invoices.load_invoice(transaction, tenant, id_or_number, lock=lock)
    if invoice is None:
        raise NotFound(
            "INVOICE_NOT_FOUND",
            f"there is no invoice {id_or_number}",
            metadata={"invoice_id": id_or_number},
        )
    return invoice


def _not_after(now: datetime, until: datetime) -> datetime:
    if until > now:
        raise InvalidInput.of("until", "must not be after now")
    return until


def _outside(subscription: Subscription, instant: datetime) -> InvalidInput | Precondition:
    if instant < subscription.start_time:
        start = subscription.start_time.isoformat()
        return InvalidInput.of("time", f"must not be before {start}, when the subscription starts")
    return Precondition(
        "SUBSCRIPTION_ENDED",
        f"the subscription {subscription.subscription_id} has ended by that time",
        metadata={"subscription_id": subscription.subscription_id},
    )
