"""Invoices in PostgreSQL: numbers without gaps, and issued invoices that nobody can change."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError

from kit.postgres import Database
from services.invoicing.assembly import finalize, void
from services.invoicing.model import Invoice, InvoiceState, summarize
from services.invoicing.store import invoices, parties
from tests.invoicing_builders import (
    CLOSED,
    a_customer,
    a_draft,
    a_seller,
    a_subscription,
)

SERIES = "INV-2026"
VOIDED_AT = datetime(2026, 2, 3, tzinfo=UTC)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The pool of the invoicing service on a fresh database."""
    database = Database(database_url, "invoicing")
    await database.connect()
    yield database
    await database.close()


@pytest.fixture
async def superuser(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A login that no policy and no grant holds back."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


def a_new_draft(subscription_id: str = "acme-team") -> Invoice:
    """Make a draft that no other test has."""
    return replace(
        a_draft(),
        invoice_id=f"inv_{secrets.token_hex(13)}",
        subscription_id=subscription_id,
    )


async def issue(database: Database, tenant: str, draft: Invoice) -> Invoice:
    """Store an invoice under the next number of its series."""
    async with database.transaction(tenant) as transaction:
        (sequence,) = await invoices.take_numbers(transaction, tenant, SERIES, 1)
        issued = finalize(
            draft, sequence=sequence, issue_date=date(2026, 2, 1), finalize_time=CLOSED
        )
        await invoices.save_invoices(transaction, tenant, [issued], close_request_id="close-1")
    return issued


async def test_an_invoice_comes_back_as_it_was_stored(database: Database, tenant: str) -> None:
    """By id and by number, every field is what it was."""
    issued = await issue(database, tenant, a_new_draft())

    async with database.transaction(tenant) as transaction:
        by_id = await invoices.load_invoice(transaction, tenant, issued.invoice_id)
        by_number = await invoices.load_invoice(transaction, tenant, "INV-2026-000001")
        listed = await invoices.load_summaries(transaction, tenant, before=None, limit=10)

    assert by_id == by_number == issued
    assert listed == (summarize(issued),)


async def test_racing_finalisations_leave_no_gap_and_no_double(
    database: Database, tenant: str
) -> None:
    """Forty at once take two each, and every fourth rolls back: the numbers are 1 to 60."""

    async def attempt(index: int) -> None:
        async with database.transaction(tenant) as transaction:
            numbers = await invoices.take_numbers(transaction, tenant, SERIES, 2)
            issued = [
                finalize(
                    a_new_draft(f"subscription-{index}-{sequence}"),
                    sequence=sequence,
                    issue_date=date(2026, 2, 1),
                    finalize_time=CLOSED,
                )
                for sequence in numbers
            ]
            await invoices.save_invoices(transaction, tenant, issued, close_request_id="close-1")
            if index % 4 == 0:
                raise ConnectionAbortedError

    results = await asyncio.gather(*map(attempt, range(40)), return_exceptions=True)

    async with database.transaction(tenant) as transaction:
        stored = await invoices.load_summaries(transaction, tenant, before=None, limit=100)
    assert sorted(each.number for each in stored) == [
        f"INV-2026-{number:06}" for number in range(1, 61)
    ]
    assert sum(isinstance(result, ConnectionAbortedError) for result in results) == 10


async def test_series_and_tenants_count_for_themselves(database: Database, tenant: str) -> None:
    """Another year, another prefix or another tenant begins with 1."""
    taken = []
    for owner, series, count in [
        (tenant, "INV-2026", 3),
        (tenant, "INV-2026", 1),
        (tenant, "INV-2027", 1),
        (tenant, "LUM-2026", 1),
        ("somebody-else", "INV-2026", 2),
    ]:
        async with database.transaction(owner) as transaction:
            taken.append(list(await invoices.take_numbers(transaction, owner, series, count)))

    assert taken == [[1, 2, 3], [4], [1], [1], [1, 2]]


async def test_a_period_has_one_invoice_until_it_is_void(database: Database, tenant: str) -> None:
    """A second invoice of a period is refused; after the first is void, it is not."""
    first = await issue(database, tenant, a_new_draft())
    second = a_new_draft()
    voided = void(first, void_time=VOIDED_AT, reason="wrong address")
    key = invoices.period_key(first)

    with pytest.raises(invoices.PeriodTaken):
        async with database.transaction(tenant) as transaction:
            await invoices.save_invoices(transaction, tenant, [second], close_request_id="close-2")
    async with database.transaction(tenant) as transaction:
        await invoices.save_void(transaction, tenant, voided)
        await invoices.save_invoices(transaction, tenant, [second], close_request_id="close-2")
        void_as_stored = await invoices.load_invoice(transaction, tenant, first.invoice_id)
        present = await invoices.load_present(transaction, tenant, {key})

    assert void_as_stored == voided
    assert present == {key: summarize(second)}


async def test_a_draft_is_computed_anew_issued_and_dropped(database: Database, tenant: str) -> None:
    """Before it is issued, an invoice may change and go."""
    draft, other = a_new_draft("first"), a_new_draft("second")
    changed = replace(draft, plan_version=2)
    ending = a_subscription(subscription_id="second", end_time=datetime(2026, 1, 20, tzinfo=UTC))
    issued = finalize(changed, sequence=1, issue_date=date(2026, 2, 1), finalize_time=CLOSED)

    async with database.transaction(tenant) as transaction:
        await invoices.save_invoices(
            transaction, tenant, [draft, other], close_request_id="close-1"
        )
        await invoices.save_invoices(
            transaction,
            tenant,
            [changed],
            close_request_id="close-2",
            drafts={draft.invoice_id, other.invoice_id},
        )
        as_changed = await invoices.load_invoice(transaction, tenant, draft.invoice_id)
        await invoices.save_issued(transaction, tenant, issued)
        await invoices.delete_drafts_beyond(transaction, tenant, ending)
        billed = await invoices.load_billed_periods(transaction, tenant, {"first", "second"})
        left = await invoices.load_summaries(transaction, tenant, before=None, limit=10)

    assert as_changed == changed
    assert left == (summarize(issued),)
    assert billed == (
        invoices.BilledPeriod(
            "first", issued.period.start, issued.invoice_id, InvoiceState.FINALIZED, "close-2"
        ),
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invoicing.invoices SET snapshot = 'x'",
        "UPDATE invoicing.invoices SET total_minor = 1, subtotal_minor = 1, tax_total_minor = 0",
        "UPDATE invoicing.invoices SET number = 'INV-2026-000009'",
        "UPDATE invoicing.invoices SET state = 'DRAFT', number = NULL",
        "UPDATE invoicing.invoices SET void_reason = 'nothing'",
        "UPDATE invoicing.invoices SET tenant_id = 'somebody-else'",
        "UPDATE invoicing.invoices SET state = 'VOIDED', void_time = now(), customer_id = 'other'",
        "DELETE FROM invoicing.invoices",
        "TRUNCATE invoicing.invoices",
        "UPDATE invoicing.documents SET content = 'x'",
        "DELETE FROM invoicing.documents",
        "TRUNCATE invoicing.documents",
    ],
)
async def test_not_even_a_superuser_changes_what_is_issued(
    database: Database,
    superuser: asyncpg.Connection[asyncpg.Record],
    tenant: str,
    statement: str,
) -> None:
    """Triggers refuse every statement that would change or remove an issued document."""
    issued = await issue(database, tenant, a_new_draft())
    async with database.transaction(tenant) as transaction:
        kept = await invoices.keep_document(transaction, tenant, issued.invoice_id, "pdf", b"%PDF")

    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=r"never changes|stay"):
        await superuser.execute(statement)

    async with database.transaction(tenant) as transaction:
        assert await invoices.load_invoice(transaction, tenant, issued.invoice_id) == issued
        document = await invoices.load_document(transaction, tenant, issued.invoice_id, "pdf")
        assert document == kept


async def test_a_void_invoice_stays_void(
    database: Database, superuser: asyncpg.Connection[asyncpg.Record], tenant: str
) -> None:
    """There is no way back, and the reason stays as it was given."""
    issued = await issue(database, tenant, a_new_draft())
    voided = void(issued, void_time=VOIDED_AT, reason="wrong address")
    async with database.transaction(tenant) as transaction:
        await invoices.save_void(transaction, tenant, voided)

    for statement in (
        "UPDATE invoicing.invoices SET state = 'FINALIZED', void_time = NULL, void_reason = ''",
        "UPDATE invoicing.invoices SET void_reason = 'another'",
        "DELETE FROM invoicing.invoices",
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="never changes"):
            await superuser.execute(statement)

    async with database.transaction(tenant) as transaction:
        assert await invoices.load_invoice(transaction, tenant, issued.invoice_id) == voided


async def test_the_first_document_stays(database: Database, tenant: str) -> None:
    """Of two that were made at once, both callers get the one that was stored first."""
    async with database.transaction(tenant) as transaction:
        first = await invoices.keep_document(transaction, tenant, "inv_1", "pdf", b"first")
        second = await invoices.keep_document(transaction, tenant, "inv_1", "pdf", b"second")
        other = await invoices.keep_document(transaction, tenant, "inv_1", "json", b"{}")

    assert (first, second, other) == (b"first", b"first", b"{}")


async def test_a_number_is_never_given_twice(database: Database, tenant: str) -> None:
    """Should a series ever be set back, the index refuses the double instead of hiding it."""
    await issue(database, tenant, a_new_draft("first"))
    double = finalize(
        a_new_draft("second"), sequence=1, issue_date=date(2026, 2, 1), finalize_time=CLOSED
    )

    with pytest.raises(IntegrityError, match="invoices_number_once"):
        async with database.transaction(tenant) as transaction:
            await invoices.save_invoices(transaction, tenant, [double], close_request_id="close-1")


async def test_parties_come_back_as_they_were_stored(database: Database, tenant: str) -> None:
    """Sellers, customers and subscriptions keep every field; a later put replaces all but age."""
    seller, customer, subscription = a_seller(), a_customer(), a_subscription()
    renamed = replace(customer, legal_name="Acme AG", create_time=VOIDED_AT)
    ending = replace(subscription, end_time=VOIDED_AT)

    async with database.transaction(tenant) as transaction:
        await parties.save_seller(transaction, tenant, replace(seller, email=""))
        await parties.save_seller(transaction, tenant, seller)
        await parties.save_customer(transaction, tenant, customer)
        await parties.save_customer(transaction, tenant, renamed)
        added = await parties.add_subscription(transaction, tenant, subscription)
        again = await parties.add_subscription(transaction, tenant, ending)
        await parties.save_end(transaction, tenant, ending)
        terms = await parties.load_terms(transaction, tenant, {"acme-team", "unknown"})

        assert await parties.load_seller(transaction, tenant) == seller
        assert await parties.load_customer(transaction, tenant, "acme") == replace(
            renamed, create_time=customer.create_time
        )
        assert await parties.load_subscription(transaction, tenant, "acme-team") == ending
    assert (added, again) == (True, False)
    assert terms == {"acme-team": (VOIDED_AT, "EUR")}


async def test_row_level_security_hides_other_tenants(database: Database, tenant: str) -> None:
    """Within one tenant's transaction, another's rows are not there, whatever is asked."""
    issued = await issue(database, tenant, a_new_draft())
    async with database.transaction(tenant) as transaction:
        await parties.save_seller(transaction, tenant, a_seller())

    async with database.transaction("somebody-else") as transaction:
        assert await invoices.load_invoice(transaction, tenant, issued.invoice_id) is None
        assert await invoices.load_summaries(transaction, tenant, before=None, limit=10) == ()
        assert await parties.load_seller(transaction, tenant) is None
