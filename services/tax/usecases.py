"""What the tax service does: loads what the core needs, asks it, and stores what is to be kept.

Each use case is one transaction. It refuses to compute anything itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import DomainError
from kit.idempotency import Answer, Once
from kit.money import Money
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import traced
from services.tax import store
from services.tax.determination import determine
from services.tax.exchange import (
    Conversion,
    EndedCurrency,
    ExchangeRate,
    convert,
    exchange_rate,
    legs,
)
from services.tax.model import Determination, Registration, Seller, Supply
from services.tax.reference_rates import SOURCE_ECB, new_rates, parse_reference_rates
from services.tax.registrations import check_registration
from services.tax.reporting import CurrencyPair, Determined, currency_pairs, report
from services.tax.rulebook import Rate, Rulebook

NO_TENANT = ""
_ALL_REGISTRATIONS = "registrations"

PutRegistration = tuple[Registration, datetime]
_Rates = dict[tuple[date, CurrencyPair], ExchangeRate | DomainError]


class TaxUseCases:
    """The use cases over one database, one rulebook and the currencies that ended."""

    def __init__(
        self, database: Database, book: Rulebook, ended: Mapping[str, EndedCurrency]
    ) -> None:
        self._database = database
        self._book = book
        self._ended = ended

    @traced("tax.determine")
    async def determine(self, tenant: str, supply: Supply, today: date) -> Determined:
        """Determine the taxes on one supply.

        Raises:
            InvalidInput: the lines do not fit together.
            NotFound: EXCHANGE_RATE_NOT_FOUND, and the law wants the tax in another currency.
            Precondition: TAX_UNDETERMINED, SELLER_NOT_ESTABLISHED, EXCHANGE_RATE_STALE.
        """
        (determined,) = await self.determine_each(tenant, [supply], today)
        if isinstance(determined, DomainError):
            raise determined
        return determined

    @traced("tax.determine_each")
    async def determine_each(
        self, tenant: str, supplies: Sequence[Supply], today: date
    ) -> list[Determined | DomainError]:
        """Determine the taxes on many supplies; each fails by itself.

        What the law wants in another currency is converted at the rate of the supply date, or of
        today for a supply that is still to come.
        """
        async with self._database.transaction(tenant) as transaction:
            loaded = await store.load_registrations(transaction, tenant)
            seller = Seller(tuple(registration for registration, _ in loaded))
            determinations = [self._attempt(seller, supply) for supply in supplies]
            days = [min(supply.day, today) for supply in supplies]
            rates = await self._rates_for(transaction, determinations, days)
        return [
            self._report(determination, day, rates)
            for determination, day in zip(determinations, days, strict=True)
        ]

    @traced("tax.put_registration")
    async def put_registration(
        self, tenant: str, registration: Registration, once: Once[PutRegistration, Answer]
    ) -> Answer:
        """Put a registration of the seller.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            InvalidInput: it contradicts another registration, or its scheme its country.
        """
        async with self._database.transaction(tenant) as transaction:

            async def put() -> PutRegistration:
                await store.lock_registrations(transaction, tenant)
                loaded = await store.load_registrations(transaction, tenant)
                check_registration(registration, (other for other, _ in loaded), self._book)
                await store.save_registration(transaction, tenant, registration, once.now)
                return registration, once.now

            return await once.run(transaction, tenant, put)

    @traced("tax.list_registrations")
    async def list_registrations(
        self, tenant: str, size: int, page_token: str
    ) -> Page[PutRegistration]:
        """List the seller's registrations, ordered by id.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        after, *_ = decode_page_token(page_token, _ALL_REGISTRATIONS) or ("",)
        async with self._database.transaction(tenant) as transaction:
            found = await store.load_registrations(transaction, tenant, after=after, limit=size + 1)
        last = [found[size - 1][0].registration_id] if len(found) > size else []
        token = encode_page_token(_ALL_REGISTRATIONS, last) if last else ""
        return Page(found[:size], token)

    def list_rates(self, country: str, day: date | None, size: int, page_token: str) -> Page[Rate]:
        """List the tax rates of a country, or of all, on a day or ever.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        listing = f"rates {country} {day}"
        after = decode_page_token(page_token, listing) or ("",)
        found = [rate for rate in self._book.rates_of(country, day) if _rate_key(rate) > after]
        token = encode_page_token(listing, _rate_key(found[size - 1])) if len(found) > size else ""
        return Page(tuple(found[:size]), token)

    @traced("tax.exchange_rate")
    async def exchange_rate(self, tenant: str, base: str, quote: str, day: date) -> ExchangeRate:
        """Answer what one currency was worth in another on a day.

        Raises:
            NotFound: EXCHANGE_RATE_NOT_FOUND.
            Precondition: EXCHANGE_RATE_STALE.
        """
        async with self._database.transaction(tenant) as transaction:
            return await self._rate(transaction, base, quote, day)

    async def convert(
        self, tenant: str, conversion: Conversion
    ) -> tuple[Money, Decimal, ExchangeRate]:
        """Convert an amount at the rate of a day: settled, exact, and the rate taken.

        Raises:
            InvalidInput: the result exceeds what money can hold.
            NotFound: EXCHANGE_RATE_NOT_FOUND.
            Precondition: EXCHANGE_RATE_STALE.
        """
        rate = await self.exchange_rate(tenant, conversion.base, conversion.quote, conversion.day)
        exact, money = convert(conversion.amount, rate, conversion.rounding)
        return money, exact, rate

    @traced("tax.import_reference_rates")
    async def import_reference_rates(self, lines: Iterable[str]) -> int:
        """Store the rates of a file of the European Central Bank; answer how many were new.

        Raises:
            InvalidInput: the file cannot be read, or contradicts a stored rate; nothing is stored.
        """
        rates = tuple(parse_reference_rates(lines))
        if not rates:
            return 0
        days = [rate.rate_date for rate in rates]
        async with self._database.transaction(NO_TENANT) as transaction:
            stored = await store.load_rates_between(transaction, SOURCE_ECB, min(days), max(days))
            new = new_rates(rates, stored)
            await store.save_rates(transaction, SOURCE_ECB, new)
        return len(new)

    async def _rate(
        self, transaction: AsyncConnection, base: str, quote: str, day: date
    ) -> ExchangeRate:
        newest = await store.load_newest_rates(transaction, SOURCE_ECB, legs(base, quote), day)
        return exchange_rate(base, quote, day, newest, self._ended)

    async def _rates_for(
        self,
        transaction: AsyncConnection,
        determinations: Sequence[Determination | DomainError],
        days: Sequence[date],
    ) -> _Rates:
        wanted = {
            (day, pair)
            for determination, day in zip(determinations, days, strict=True)
            if isinstance(determination, Determination)
            for pair in currency_pairs(determination, day, self._book)
        }
        rates: _Rates = {}
        for day, pair in sorted(wanted):
            try:
                rates[day, pair] = await self._rate(transaction, *pair, day)
            except DomainError as error:
                rates[day, pair] = error
        return rates

    def _report(
        self, determination: Determination | DomainError, day: date, rates: _Rates
    ) -> Determined | DomainError:
        if isinstance(determination, DomainError):
            return determination
        found: dict[CurrencyPair, ExchangeRate] = {}
        for pair in sorted(currency_pairs(determination, day, self._book)):
            rate = rates[day, pair]
            if isinstance(rate, DomainError):
                return rate
            found[pair] = rate
        return report(determination, day, self._book, found)

    def _attempt(self, seller: Seller, supply: Supply) -> Determination | DomainError:
        try:
            return determine(seller, supply, self._book)
        except DomainError as error:
            return error


def _rate_key(rate: Rate) -> tuple[str, ...]:
    return rate.jurisdiction, rate.name, rate.valid.start.isoformat()
