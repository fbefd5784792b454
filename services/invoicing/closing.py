"""Closing billing periods: each that has ended gets an invoice, a draft or issued at once.

Periods are taken in batches: their drafts are computed, and one transaction stores them; should it
fail, each invoice gets a transaction of its own. A period that fails is reported, and the others go
on. Running it twice, or two at once, makes one invoice for each period: a unique index decides, and
whoever comes second reports what is there.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import Unavailable
from kit.postgres import Database
from services.invoicing.assembly import finalize, series_of
from services.invoicing.clients import MeterClient
from services.invoicing.drafting import Drafter, DuePeriod
from services.invoicing.model import Invoice, InvoiceState, InvoiceSummary, Seller, summarize
from services.invoicing.periods import day_of, periods_until
from services.invoicing.store import invoices, parties

_SUBSCRIPTIONS_PER_PAGE = 500
_PERIODS_PER_BATCH = 50


@dataclass(frozen=True, slots=True)
class Agenda:
    """What a closing has to do, and what a run of the same request has done before."""

    due: tuple[DuePeriod, ...]
    made: tuple[InvoiceSummary, ...]

    @property
    def total(self) -> int:
        """How many periods the closing reports."""
        return len(self.due) + len(self.made)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one period."""

    subscription_id: str
    result: InvoiceSummary | Exception


class PeriodCloser:
    """Makes the invoices of periods."""

    def __init__(
        self, database: Database, drafter: Drafter, meter: MeterClient, clock: Clock
    ) -> None:
        self._database = database
        self._drafter = drafter
        self._meter = meter
        self._clock = clock

    async def plan(
        self, tenant: str, *, until: datetime, customer_id: str, request_id: str
    ) -> Agenda:
        """Find every period that ended at or before `until` and has no issued invoice.

        What this request issued before is reported again rather than left out, so that a repeat
        of it tells the same. Void invoices of other requests leave their period open.
        """
        due: list[DuePeriod] = []
        made: list[str] = []
        after = ""
        while True:
            async with self._database.transaction(tenant) as transaction:
                page = await parties.load_subscriptions(
                    transaction,
                    tenant,
                    after=after,
                    limit=_SUBSCRIPTIONS_PER_PAGE,
                    customer_id=customer_id,
                )
                customers = await parties.load_customers_of(
                    transaction, tenant, {each.customer_id for each in page}
                )
                billed = await invoices.load_billed_periods(
                    transaction, tenant, {each.subscription_id for each in page}
                )
            by_this = [each for each in billed if each.close_request_id == request_id]
            made.extend(each.invoice_id for each in by_this)
            settled = {
                (each.subscription_id, each.period_start)
                for each in billed
                if each.state is InvoiceState.FINALIZED or each.close_request_id == request_id
            }
            due.extend(
                DuePeriod(subscription, customers[subscription.customer_id], period)
                for subscription in page
                for period in periods_until(subscription, until)
                if (subscription.subscription_id, period.interval.start) not in settled
            )
            if len(page) < _SUBSCRIPTIONS_PER_PAGE:
                break
            after = page[-1].subscription_id
        async with self._database.transaction(tenant) as transaction:
            summaries = await invoices.load_summaries_of(transaction, tenant, made)
        due.sort(key=lambda each: (each.period.interval.end, each.subscription.subscription_id))
        in_order = sorted(
            summaries.values(), key=lambda each: (each.period.end, each.subscription_id)
        )
        return Agenda(tuple(due), tuple(in_order))

    async def close(
        self, tenant: str, seller: Seller, agenda: Agenda, *, request_id: str, issue: bool
    ) -> AsyncGenerator[Outcome, None]:
        """Make the invoices of an agenda, and report each, in order, when it is stored."""
        for summary in agenda.made:
            yield Outcome(summary.subscription_id, summary)
        async with aclosing(self._computed(tenant, seller, agenda.due, issue=issue)) as computed:
            async for due, drafts in computed:
                complete = [
                    (each, draft)
                    for each, draft in zip(due, drafts, strict=True)
                    if isinstance(draft, Invoice)
                ]
                stored = iter(
                    await self._store_each(tenant, complete, request_id=request_id, issue=issue)
                )
                for each, draft in zip(due, drafts, strict=True):
                    result = next(stored) if isinstance(draft, Invoice) else draft
                    yield Outcome(each.subscription.subscription_id, result)

    async def close_usage(self, tenant: str, ends: Iterable[tuple[str, datetime]]) -> None:
        """Keep the usage of customers before these ends as it is, since it goes on invoices.

        Raises:
            Unavailable: SERVICE_UNAVAILABLE.
        """
        await self._meter.close_periods(tenant, ends)

    async def issue_each(
        self, transaction: AsyncConnection, tenant: str, drafts: Sequence[Invoice]
    ) -> list[Invoice]:
        """Give drafts the next numbers of their series, and the day in the customer's time zone.

        Raises:
            Precondition: INVOICE_STATE, one is no draft.
        """
        now = self._clock.now()
        days = [day_of(now, draft.customer.time_zone) for draft in drafts]
        series = [series_of(draft.seller, day) for draft, day in zip(drafts, days, strict=True)]
        # Sorted, so that two transactions never wait for each other's series.
        numbers = {
            name: iter(await invoices.take_numbers(transaction, tenant, name, count))
            for name, count in sorted(Counter(series).items())
        }
        return [
            finalize(draft, sequence=next(numbers[name]), issue_date=day, finalize_time=now)
            for draft, day, name in zip(drafts, days, series, strict=True)
        ]

    async def _computed(
        self, tenant: str, seller: Seller, due: Sequence[DuePeriod], *, issue: bool
    ) -> AsyncGenerator[tuple[Sequence[DuePeriod], list[Invoice | Exception]], None]:
        """Compute in batches; the next one is under way while the caller stores this one."""
        batches = [
            due[start : start + _PERIODS_PER_BATCH]
            for start in range(0, len(due), _PERIODS_PER_BATCH)
        ]
        computing: deque[asyncio.Task[list[Invoice | Exception]]] = deque()
        try:
            for index, batch in enumerate(batches):
                for ahead in batches[index + len(computing) : index + 2]:
                    computing.append(
                        asyncio.create_task(self._compute_batch(tenant, seller, ahead, issue=issue))
                    )
                yield batch, await computing.popleft()
        finally:
            for task in computing:
                task.cancel()
            await asyncio.gather(*computing, return_exceptions=True)

    async def _compute_batch(
        self, tenant: str, seller: Seller, due: Sequence[DuePeriod], *, issue: bool
    ) -> list[Invoice | Exception]:
        try:
            if issue:
                await self.close_usage(
                    tenant, [(each.customer.customer_id, each.period.interval.end) for each in due]
                )
            return await self._drafter.compute_each(tenant, seller, due)
        except Exception as error:  # noqa: BLE001 - reported for each period; the others go on.
            return [error] * len(due)

    async def _store_each(
        self,
        tenant: str,
        computed: Sequence[tuple[DuePeriod, Invoice]],
        *,
        request_id: str,
        issue: bool,
    ) -> list[InvoiceSummary | Exception]:
        """Store drafts in one transaction, or, when that fails, each in its own."""
        try:
            return await self._store_together(tenant, computed, request_id=request_id, issue=issue)
        except Exception as error:  # noqa: BLE001 - reported for the period; the others go on.
            if len(computed) == 1:
                return [error]
        return [
            result
            for each in computed
            for result in await self._store_each(tenant, [each], request_id=request_id, issue=issue)
        ]

    async def _store_together(
        self,
        tenant: str,
        computed: Sequence[tuple[DuePeriod, Invoice]],
        *,
        request_id: str,
        issue: bool,
    ) -> list[InvoiceSummary | Exception]:
        while True:
            try:
                async with self._database.transaction(tenant) as transaction:
                    return await self._store(
                        transaction, tenant, computed, request_id=request_id, issue=issue
                    )
            except invoices.PeriodTaken:
                # Its transaction has ended: beginning anew finds the invoice it stored.
                continue

    async def _store(
        self,
        transaction: AsyncConnection,
        tenant: str,
        computed: Sequence[tuple[DuePeriod, Invoice]],
        *,
        request_id: str,
        issue: bool,
    ) -> list[InvoiceSummary | Exception]:
        subscription_ids = {draft.subscription_id for _, draft in computed}
        terms = await parties.load_terms(transaction, tenant, subscription_ids)
        present = await invoices.load_present(
            transaction, tenant, {invoices.period_key(draft) for _, draft in computed}
        )
        results: dict[invoices.PeriodKey, InvoiceSummary | Exception] = {}
        drafts: list[Invoice] = []
        for due, draft in computed:
            key = invoices.period_key(draft)
            there = present.get(key)
            if terms[draft.subscription_id] != due.terms:
                results[key] = _changed_meanwhile()
            elif there is None:
                drafts.append(draft)
            elif there.state is InvoiceState.DRAFT:
                drafts.append(replace(draft, invoice_id=there.invoice_id))
            else:
                results[key] = there
        made = await self.issue_each(transaction, tenant, drafts) if issue else drafts
        await invoices.save_invoices(
            transaction,
            tenant,
            made,
            close_request_id=request_id,
            drafts={there.invoice_id for there in present.values()},
        )
        results |= {invoices.period_key(invoice): summarize(invoice) for invoice in made}
        return [results[invoices.period_key(draft)] for _, draft in computed]


def _changed_meanwhile() -> Unavailable:
    return Unavailable(
        "UNAVAILABLE",
        "the subscription or its customer changed meanwhile; close the period again",
        retry_after=timedelta(0),
    )
