"""Closing billing periods: what has ended is rated, converted, taxed and becomes an invoice.

Other services are asked before a transaction begins, in batches; each invoice is one transaction.
A period that fails is reported, and the others go on. Running it twice, or two at once, makes one
invoice for each period: a unique index decides, and whoever comes second reports what is there.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import DomainError, Unavailable
from kit.ids import new_id
from kit.money import Money
from kit.postgres import Database
from services.invoicing.assembly import (
    assemble,
    check_currency,
    finalize,
    series_of,
    settle_lines,
)
from services.invoicing.clients import RatingClient, Supply, TaxClient
from services.invoicing.model import (
    Customer,
    Determination,
    ExchangeRate,
    Invoice,
    InvoiceState,
    InvoiceSummary,
    Rating,
    Seller,
    Subscription,
    TaxableLine,
    summarize,
)
from services.invoicing.periods import BillingPeriod, day_of, periods_until
from services.invoicing.store import invoices, parties

_SUBSCRIPTIONS_PER_PAGE = 500
_PERIODS_PER_BATCH = 100
_SAVES_AT_ONCE_MAX = 8
_RatePair = tuple[str, str, date]


@dataclass(frozen=True, slots=True)
class DuePeriod:
    """A period to be invoiced."""

    subscription: Subscription
    customer: Customer
    period: BillingPeriod


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


@dataclass(frozen=True, slots=True)
class _Priced:
    """A period that is rated and settled in the invoice's currency, but not taxed yet."""

    due: DuePeriod
    rating: Rating
    exchange_rate: ExchangeRate | None
    lines: tuple[TaxableLine, ...]


class _Overtaken(Exception):
    """Another closing stored the invoice of the period first."""


class PeriodCloser:
    """Makes the invoices of periods."""

    def __init__(
        self, database: Database, rating: RatingClient, tax: TaxClient, clock: Clock
    ) -> None:
        self._database = database
        self._rating = rating
        self._tax = tax
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
        return Agenda(tuple(due), tuple(summaries[invoice_id] for invoice_id in sorted(summaries)))

    async def close(
        self, tenant: str, seller: Seller, agenda: Agenda, *, request_id: str, issue: bool
    ) -> AsyncGenerator[Outcome, None]:
        """Make the invoices of an agenda, and report each, in order, as it is stored."""
        for summary in agenda.made:
            yield Outcome(summary.subscription_id, summary)
        saving: deque[asyncio.Task[Outcome]] = deque()
        try:
            async with aclosing(self._computed(tenant, seller, agenda.due)) as computed:
                async for due, draft in computed:
                    saved = self._outcome(tenant, due, draft, request_id=request_id, issue=issue)
                    saving.append(asyncio.create_task(saved))
                    if len(saving) == _SAVES_AT_ONCE_MAX:
                        yield await saving.popleft()
            while saving:
                yield await saving.popleft()
        finally:
            for task in saving:
                task.cancel()
            await asyncio.gather(*saving, return_exceptions=True)

    async def compute_each(
        self, tenant: str, seller: Seller, due: Sequence[DuePeriod]
    ) -> list[Invoice | Exception]:
        """Compute the drafts of many periods; each fails by itself, in order. Stores nothing.

        The errors are PLAN_NOT_FOUND, RATING_FAILED, CURRENCY_MISMATCH, EXCHANGE_RATE_NOT_FOUND,
        TAX_UNDETERMINED, SERVICE_UNAVAILABLE, and whatever is a mistake of ours.
        """
        ratings = await self._rating.rate_each(
            tenant, [(each.subscription, each.period) for each in due]
        )
        now = self._clock.now()
        rates = await self._load_rates(tenant, due, ratings, now)
        priced = [
            rating if isinstance(rating, DomainError) else _price(each, rating, rates, now)
            for each, rating in zip(due, ratings, strict=True)
        ]
        taxable = [each for each in priced if isinstance(each, _Priced) and each.lines]
        determinations = iter(
            await self._tax.determine_each(
                tenant,
                [
                    Supply(each.due.customer, each.due.period.last_day, each.lines)
                    for each in taxable
                ],
            )
        )
        drafts: list[Invoice | Exception] = []
        for each in priced:
            if isinstance(each, Exception):
                drafts.append(each)
                continue
            determined = next(determinations) if each.lines else _nothing_to_tax(each)
            drafts.append(_draft(each, seller, determined, now))
        return drafts

    async def issue(self, transaction: AsyncConnection, tenant: str, draft: Invoice) -> Invoice:
        """Give a draft the next number of its series, and the day in the customer's time zone.

        Raises:
            Precondition: INVOICE_STATE, it is no draft.
        """
        now = self._clock.now()
        issue_date = day_of(now, draft.customer.time_zone)
        series = series_of(draft.seller, issue_date)
        sequence = await invoices.take_next_number(transaction, tenant, series)
        return finalize(draft, sequence=sequence, issue_date=issue_date, finalize_time=now)

    async def _computed(
        self, tenant: str, seller: Seller, due: Sequence[DuePeriod]
    ) -> AsyncGenerator[tuple[DuePeriod, Invoice | Exception], None]:
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
                        asyncio.create_task(self._compute_batch(tenant, seller, ahead))
                    )
                for pair in zip(batch, await computing.popleft(), strict=True):
                    yield pair
        finally:
            for task in computing:
                task.cancel()
            await asyncio.gather(*computing, return_exceptions=True)

    async def _compute_batch(
        self, tenant: str, seller: Seller, due: Sequence[DuePeriod]
    ) -> list[Invoice | Exception]:
        try:
            return await self.compute_each(tenant, seller, due)
        except Exception as error:  # noqa: BLE001 - reported for each period; the others go on.
            return [error] * len(due)

    async def _outcome(
        self,
        tenant: str,
        due: DuePeriod,
        draft: Invoice | Exception,
        *,
        request_id: str,
        issue: bool,
    ) -> Outcome:
        subscription_id = due.subscription.subscription_id
        if isinstance(draft, Exception):
            return Outcome(subscription_id, draft)
        try:
            while True:
                try:
                    summary = await self._save(tenant, due, draft, request_id, issue=issue)
                except _Overtaken:
                    continue
                return Outcome(subscription_id, summary)
        except Exception as error:  # noqa: BLE001 - reported for the period; the others go on.
            return Outcome(subscription_id, error)

    async def _save(
        self, tenant: str, due: DuePeriod, draft: Invoice, request_id: str, *, issue: bool
    ) -> InvoiceSummary:
        async with self._database.transaction(tenant) as transaction:
            if not await parties.is_unchanged(transaction, tenant, due.subscription, due.customer):
                raise Unavailable(
                    "UNAVAILABLE",
                    "the subscription or its customer changed meanwhile; close the period again",
                    retry_after=timedelta(0),
                )
            present = await invoices.load_invoice_of_period(
                transaction, tenant, draft.subscription_id, draft.period.start
            )
            if present is not None:
                if present.state is not InvoiceState.DRAFT:
                    return summarize(present)
                draft = replace(
                    draft, invoice_id=present.invoice_id, create_time=present.create_time
                )
            invoice = await self.issue(transaction, tenant, draft) if issue else draft
            if present is not None:
                await invoices.replace_draft(transaction, tenant, invoice, request_id)
            elif not await invoices.add_invoice(transaction, tenant, invoice, request_id):
                # Raised, and not returned, since the number must go back.
                raise _Overtaken
            return summarize(invoice)

    async def _load_rates(
        self,
        tenant: str,
        due: Sequence[DuePeriod],
        ratings: Sequence[Rating | DomainError],
        now: datetime,
    ) -> dict[_RatePair, ExchangeRate | DomainError]:
        wanted = sorted(
            {
                _rate_pair(each, rating, now)
                for each, rating in zip(due, ratings, strict=True)
                if isinstance(rating, Rating) and rating.currency != each.customer.currency
            }
        )
        found = await asyncio.gather(*(self._load_rate(tenant, *pair) for pair in wanted))
        return dict(zip(wanted, found, strict=True))

    async def _load_rate(
        self, tenant: str, base: str, quote: str, day: date
    ) -> ExchangeRate | DomainError:
        try:
            return await self._tax.get_exchange_rate(tenant, base, quote, day)
        except DomainError as error:
            return error


def _rate_pair(due: DuePeriod, rating: Rating, now: datetime) -> _RatePair:
    """Name the rate of the period's last day, or of today while the period is open."""
    day = min(due.period.last_day, day_of(now, due.subscription.time_zone))
    return rating.currency, due.customer.currency, day


def _price(
    due: DuePeriod,
    rating: Rating,
    rates: dict[_RatePair, ExchangeRate | DomainError],
    now: datetime,
) -> _Priced | Exception:
    try:
        check_currency(rating.currency, due.customer, due.subscription.conversion)
        rate = rates.get(_rate_pair(due, rating, now))
        if isinstance(rate, DomainError):
            return rate
        lines = settle_lines(rating, due.customer.currency, rate)
    except Exception as error:  # noqa: BLE001 - reported for the period; the others go on.
        return error
    return _Priced(due, rating, rate, lines)


def _draft(
    priced: _Priced, seller: Seller, determined: Determination | DomainError, now: datetime
) -> Invoice | Exception:
    if isinstance(determined, DomainError):
        return determined
    try:
        return assemble(
            invoice_id=new_id("inv", now),
            seller=seller,
            customer=priced.due.customer,
            subscription=priced.due.subscription,
            period=priced.due.period,
            rating=priced.rating,
            exchange_rate=priced.exchange_rate,
            determination=determined,
            create_time=now,
        )
    except Exception as error:  # noqa: BLE001 - as above.
        return error


def _nothing_to_tax(priced: _Priced) -> Determination:
    """Answer for a plan without base fee and prices, whose invoice has no lines."""
    return Determination((), (), Money.zero(priced.due.customer.currency), "")
