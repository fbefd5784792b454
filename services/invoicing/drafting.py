"""Drafts of invoices: a period is rated, converted, taxed, and assembled.

Many at once, since rating and tax answer in batches; each fails by itself. Stores nothing and holds
no transaction while other services are asked.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from kit.clock import Clock
from kit.errors import DomainError
from kit.ids import new_id
from kit.money import Money
from services.invoicing.assembly import assemble, check_currency, settle_lines
from services.invoicing.clients import RatingClient, Supply, TaxClient
from services.invoicing.model import (
    Customer,
    Determination,
    ExchangeRate,
    Invoice,
    Rating,
    Seller,
    Subscription,
    TaxableLine,
)
from services.invoicing.periods import BillingPeriod, day_of

_RatePair = tuple[str, str, date]


@dataclass(frozen=True, slots=True)
class DuePeriod:
    """A period to be invoiced."""

    subscription: Subscription
    customer: Customer
    period: BillingPeriod

    @property
    def terms(self) -> tuple[datetime | None, str]:
        """When the subscription ends and in what is paid: what must not change meanwhile."""
        return self.subscription.end_time, self.customer.currency


@dataclass(frozen=True, slots=True)
class _Priced:
    """A period that is rated and settled in the invoice's currency, but not taxed yet."""

    due: DuePeriod
    rating: Rating
    exchange_rate: ExchangeRate | None
    lines: tuple[TaxableLine, ...]


class Drafter:
    """Computes drafts with the help of the rating and the tax service."""

    def __init__(self, rating: RatingClient, tax: TaxClient, clock: Clock) -> None:
        self._rating = rating
        self._tax = tax
        self._clock = clock

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
