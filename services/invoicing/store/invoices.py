"""Invoices, the numbers of their series, and their documents.

The snapshot holds the invoice whole; the columns beside it are for lists, locks and constraints.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from kit.interval import Interval
from kit.money import Money
from services.invoicing.model import Invoice, InvoiceState, InvoiceSummary, Subscription
from services.invoicing.snapshot import read_snapshot, write_snapshot
from services.invoicing.tables import documents, invoices, number_series

_CONTENT = (
    invoices.c.state,
    invoices.c.snapshot,
    invoices.c.void_time,
    invoices.c.void_reason,
)
_SUMMARY = (
    invoices.c.invoice_id,
    invoices.c.number,
    invoices.c.state,
    invoices.c.customer_id,
    invoices.c.subscription_id,
    invoices.c.period_start,
    invoices.c.period_end,
    invoices.c.currency,
    invoices.c.subtotal_minor,
    invoices.c.tax_total_minor,
    invoices.c.total_minor,
)


PeriodKey = tuple[str, datetime]
"""A subscription and the start of a period."""

ONE_PER_PERIOD = "invoices_one_per_period"
"""The unique index over the invoices that are not void."""


def period_key(invoice: Invoice) -> PeriodKey:
    """Answer which subscription and period an invoice bills."""
    return invoice.subscription_id, invoice.period.start


class PeriodTaken(Exception):
    """A period got its invoice from another transaction; this one must begin anew."""


@dataclass(frozen=True, slots=True)
class BilledPeriod:
    """That a period has an invoice, and which closing made it."""

    subscription_id: str
    period_start: datetime
    invoice_id: str
    state: InvoiceState
    close_request_id: str


async def take_numbers(transaction: AsyncConnection, tenant: str, series: str, count: int) -> range:
    """Take the next numbers of a series; others wait until this transaction ends.

    What is rolled back gives its numbers back, so that the series has no gap.
    """
    statement = insert(number_series).values(tenant_id=tenant, series=series, last_number=count)
    taken = await transaction.execute(
        statement.on_conflict_do_update(
            index_elements=["tenant_id", "series"],
            set_={"last_number": number_series.c.last_number + count},
        ).returning(number_series.c.last_number)
    )
    last = int(taken.scalar_one())
    return range(last - count + 1, last + 1)


async def save_invoices(
    transaction: AsyncConnection,
    tenant: str,
    made: Sequence[Invoice],
    *,
    close_request_id: str,
    drafts: Collection[str] = (),
) -> None:
    """Store invoices that a closing made, in place of the drafts of the same ids, or as new ones.

    Raises:
        PeriodTaken: another transaction stored the invoice of a period first.
    """
    new = [
        {
            "tenant_id": tenant,
            "invoice_id": invoice.invoice_id,
            "close_request_id": close_request_id,
            **_columns(invoice),
        }
        for invoice in made
        if invoice.invoice_id not in drafts
    ]
    for invoice in made:
        if invoice.invoice_id in drafts:
            columns = {"close_request_id": close_request_id, **_columns(invoice)}
            await _update(transaction, tenant, invoice, columns)
    if not new:
        return
    try:
        await transaction.execute(insert(invoices), new)
    except IntegrityError as error:
        if ONE_PER_PERIOD in str(error.orig):
            raise PeriodTaken from error
        raise


async def save_issued(transaction: AsyncConnection, tenant: str, invoice: Invoice) -> None:
    """Store an invoice in place of the draft it was; the closing that made it stays known."""
    await _update(transaction, tenant, invoice, _columns(invoice))


async def save_void(transaction: AsyncConnection, tenant: str, invoice: Invoice) -> None:
    """Store that an invoice is void: its state, when and why, and nothing else."""
    columns = {
        "state": invoice.state.value,
        "void_time": invoice.void_time,
        "void_reason": invoice.void_reason,
    }
    await _update(transaction, tenant, invoice, columns)


async def delete_drafts_beyond(
    transaction: AsyncConnection, tenant: str, subscription: Subscription
) -> None:
    """Delete the drafts of periods that a subscription no longer reaches to their end."""
    table = invoices.c
    await transaction.execute(
        delete(invoices).where(
            table.tenant_id == tenant,
            table.subscription_id == subscription.subscription_id,
            table.state == InvoiceState.DRAFT.value,
            table.period_end > subscription.end_time,
        )
    )


async def load_invoice(
    transaction: AsyncConnection, tenant: str, id_or_number: str, *, lock: bool = False
) -> Invoice | None:
    """Load one invoice by its id or number; with `lock`, others wait before they change it."""
    table = invoices.c
    statement = select(*_CONTENT).where(
        table.tenant_id == tenant,
        or_(table.invoice_id == id_or_number, table.number == id_or_number),
    )
    return await _load_one(transaction, statement.with_for_update() if lock else statement)


async def load_present(
    transaction: AsyncConnection, tenant: str, periods: Collection[PeriodKey]
) -> dict[PeriodKey, InvoiceSummary]:
    """Load the invoices of these periods that are not void, and keep them as they are."""
    table = invoices.c
    found = await transaction.execute(
        select(*_SUMMARY)
        .where(
            table.tenant_id == tenant,
            table.subscription_id.in_({subscription_id for subscription_id, _ in periods}),
            table.period_start.in_({start for _, start in periods}),
            table.state != InvoiceState.VOIDED.value,
        )
        .order_by(table.invoice_id)
        .with_for_update()
    )
    return {
        (summary.subscription_id, summary.period.start): summary for summary in map(_summary, found)
    }


async def load_summaries(
    transaction: AsyncConnection,
    tenant: str,
    *,
    before: str | None,
    limit: int,
    customer_id: str = "",
    state: InvoiceState | None = None,
) -> tuple[InvoiceSummary, ...]:
    """Load short views of invoices made before the one of an id, newest first."""
    table = invoices.c
    statement = select(*_SUMMARY).where(table.tenant_id == tenant)
    if before is not None:
        statement = statement.where(table.invoice_id < before)
    if customer_id:
        statement = statement.where(table.customer_id == customer_id)
    if state is not None:
        statement = statement.where(table.state == state.value)
    found = await transaction.execute(statement.order_by(table.invoice_id.desc()).limit(limit))
    return tuple(map(_summary, found))


async def load_summaries_of(
    transaction: AsyncConnection, tenant: str, invoice_ids: Collection[str]
) -> dict[str, InvoiceSummary]:
    """Load the short views of these invoices, by id."""
    table = invoices.c
    found = await transaction.execute(
        select(*_SUMMARY).where(table.tenant_id == tenant, table.invoice_id.in_(invoice_ids))
    )
    return {summary.invoice_id: summary for summary in map(_summary, found)}


async def load_billed_periods(
    transaction: AsyncConnection, tenant: str, subscription_ids: Collection[str]
) -> tuple[BilledPeriod, ...]:
    """Load which periods of these subscriptions have issued invoices, void ones included."""
    table = invoices.c
    found = await transaction.execute(
        select(
            table.subscription_id,
            table.period_start,
            table.invoice_id,
            table.state,
            table.close_request_id,
        ).where(
            table.tenant_id == tenant,
            table.subscription_id.in_(subscription_ids),
            table.state != InvoiceState.DRAFT.value,
        )
    )
    return tuple(
        BilledPeriod(
            subscription_id=row.subscription_id,
            period_start=row.period_start,
            invoice_id=row.invoice_id,
            state=InvoiceState(row.state),
            close_request_id=row.close_request_id,
        )
        for row in found
    )


async def load_billed_until(
    transaction: AsyncConnection, tenant: str, subscription_id: str
) -> datetime | None:
    """Load the end of the last period of a subscription that an issued invoice bills."""
    table = invoices.c
    billed_until: datetime | None = await transaction.scalar(
        select(func.max(table.period_end)).where(
            table.tenant_id == tenant,
            table.subscription_id == subscription_id,
            table.state == InvoiceState.FINALIZED.value,
        )
    )
    return billed_until


async def has_invoices(transaction: AsyncConnection, tenant: str, customer_id: str) -> bool:
    """Tell whether a customer has an invoice in any state."""
    table = invoices.c
    return bool(
        await transaction.scalar(
            select(exists().where(table.tenant_id == tenant, table.customer_id == customer_id))
        )
    )


async def load_document(
    transaction: AsyncConnection, tenant: str, invoice_id: str, format_name: str
) -> bytes | None:
    """Load a document of an invoice."""
    table = documents.c
    return await transaction.scalar(
        select(table.content).where(
            table.tenant_id == tenant,
            table.invoice_id == invoice_id,
            table.format == format_name,
        )
    )


async def keep_document(
    transaction: AsyncConnection, tenant: str, invoice_id: str, format_name: str, content: bytes
) -> bytes:
    """Store a document of an invoice, and answer the one that stays: the first one stored."""
    statement = insert(documents).values(
        tenant_id=tenant, invoice_id=invoice_id, format=format_name, content=content
    )
    await transaction.execute(statement.on_conflict_do_nothing())
    kept = await load_document(transaction, tenant, invoice_id, format_name)
    assert kept is not None, "a document that was stored is there"
    return kept


async def _update(
    transaction: AsyncConnection, tenant: str, invoice: Invoice, columns: dict[str, Any]
) -> None:
    table = invoices.c
    await transaction.execute(
        update(invoices)
        .where(table.tenant_id == tenant, table.invoice_id == invoice.invoice_id)
        .values(**columns)
    )


async def _load_one(
    transaction: AsyncConnection, statement: Select[tuple[str, bytes, datetime, str]]
) -> Invoice | None:
    row = (await transaction.execute(statement)).one_or_none()
    if row is None:
        return None
    return replace(
        read_snapshot(row.snapshot),
        state=InvoiceState(row.state),
        void_time=row.void_time,
        void_reason=row.void_reason,
    )


def _columns(invoice: Invoice) -> dict[str, Any]:
    return {
        "number": invoice.number or None,
        "state": invoice.state.value,
        "customer_id": invoice.customer.customer_id,
        "subscription_id": invoice.subscription_id,
        "period_start": invoice.period.start,
        "period_end": invoice.period.end,
        "currency": invoice.currency,
        "subtotal_minor": invoice.subtotal.minor_units,
        "tax_total_minor": invoice.tax_total.minor_units,
        "total_minor": invoice.total.minor_units,
        "snapshot": write_snapshot(invoice),
        "void_time": invoice.void_time,
        "void_reason": invoice.void_reason,
    }


def _summary(row: Row[Any]) -> InvoiceSummary:
    return InvoiceSummary(
        invoice_id=row.invoice_id,
        number=row.number or "",
        state=InvoiceState(row.state),
        customer_id=row.customer_id,
        subscription_id=row.subscription_id,
        period=Interval(row.period_start, row.period_end),
        subtotal=Money(row.currency, row.subtotal_minor),
        tax_total=Money(row.currency, row.tax_total_minor),
        total=Money(row.currency, row.total_minor),
    )
