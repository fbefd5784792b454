"""Exchange rates, conversions, and what the seller has decided on."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import DomainError
from kit.idempotency import Answer, Once
from kit.money import Money
from kit.postgres import Database
from kit.telemetry import traced
from services.tax import store
from services.tax.exchange import (
    Conversion,
    Difference,
    DifferenceQuestion,
    EndedCurrency,
    ExchangeRate,
    convert,
    exchange_difference,
    exchange_rate,
    legs,
)
from services.tax.model import SellerSettings
from services.tax.reference_rates import SOURCE_ECB, new_rates, parse_reference_rates

NO_TENANT = ""

Converted = tuple[Money, Decimal, ExchangeRate]
DatedPair = tuple[str, str, date]


class ExchangeUseCases:
    """The use cases over one database and the currencies that ended."""

    def __init__(self, database: Database, ended: Mapping[str, EndedCurrency]) -> None:
        self._database = database
        self._ended = ended

    @traced("tax.exchange_rate")
    async def exchange_rate(self, tenant: str, base: str, quote: str, day: date) -> ExchangeRate:
        """Answer what one currency was worth in another on a day.

        Raises:
            NotFound: EXCHANGE_RATE_NOT_FOUND.
            Precondition: EXCHANGE_RATE_STALE.
        """
        async with self._database.transaction(tenant) as transaction:
            settings = await store.load_settings(transaction, tenant)
            return await self._rate(transaction, settings, base, quote, day)

    @traced("tax.convert")
    async def convert(self, tenant: str, conversion: Conversion) -> Converted:
        """Convert an amount at the rate of a day: settled, exact, and the rate taken.

        Raises:
            InvalidInput: the result exceeds what money can hold.
            NotFound: EXCHANGE_RATE_NOT_FOUND.
            Precondition: EXCHANGE_RATE_STALE.
        """
        (converted,) = await self._convert_each(tenant, [conversion])
        if isinstance(converted, DomainError):
            raise converted
        return converted

    @traced("tax.convert_each")
    async def convert_each(
        self, tenant: str, conversions: Sequence[Conversion]
    ) -> list[Converted | DomainError]:
        """Convert many amounts; each fails by itself."""
        return await self._convert_each(tenant, conversions)

    @traced("tax.exchange_difference")
    async def exchange_difference(self, tenant: str, asked: DifferenceQuestion) -> Difference:
        """Answer what an amount gained or lost between invoice and payment.

        Raises:
            InvalidInput: a result exceeds what money can hold.
            NotFound: EXCHANGE_RATE_NOT_FOUND.
            Precondition: EXCHANGE_RATE_STALE.
        """
        pair = asked.amount.currency, asked.book_currency
        async with self._database.transaction(tenant) as transaction:
            settings = await store.load_settings(transaction, tenant)
            invoiced = await self._rate(transaction, settings, *pair, asked.invoice_date)
            paid = await self._rate(transaction, settings, *pair, asked.payment_date)
        return exchange_difference(asked.amount, invoiced, paid)

    @traced("tax.get_settings")
    async def get_settings(self, tenant: str) -> SellerSettings:
        """Answer what the seller has decided on, or the defaults."""
        async with self._database.transaction(tenant) as transaction:
            return await store.load_settings(transaction, tenant)

    @traced("tax.put_settings")
    async def put_settings(
        self, tenant: str, settings: SellerSettings, once: Once[SellerSettings, Answer]
    ) -> Answer:
        """Replace what the seller has decided on.

        Raises:
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:

            async def put() -> SellerSettings:
                await store.save_settings(transaction, tenant, settings)
                return settings

            return await once.run(transaction, tenant, put)

    @traced("tax.import_reference_rates")
    async def import_reference_rates(self, lines: Iterable[str], source: str = SOURCE_ECB) -> int:
        """Store the rates of a file against the euro; answer how many were new.

        Raises:
            InvalidInput: the file cannot be read, or contradicts a stored rate; nothing is stored.
        """
        rates = tuple(parse_reference_rates(lines, source))
        if not rates:
            return 0
        days = [rate.rate_date for rate in rates]
        async with self._database.transaction(NO_TENANT) as transaction:
            stored = await store.load_rates_between(transaction, source, min(days), max(days))
            new = new_rates(rates, stored)
            await store.save_rates(transaction, source, new)
        return len(new)

    async def load_rates(
        self, tenant: str, settings: SellerSettings, wanted: Collection[DatedPair]
    ) -> dict[DatedPair, ExchangeRate | DomainError]:
        """Answer the rates of pairs on days; each fails by itself."""
        if not wanted:
            return {}
        async with self._database.transaction(tenant) as transaction:
            return await self._load_rates(transaction, settings, wanted)

    async def _load_rates(
        self,
        transaction: AsyncConnection,
        settings: SellerSettings,
        wanted: Collection[DatedPair],
    ) -> dict[DatedPair, ExchangeRate | DomainError]:
        rates: dict[DatedPair, ExchangeRate | DomainError] = {}
        for pair in sorted(set(wanted)):
            try:
                rates[pair] = await self._rate(transaction, settings, *pair)
            except DomainError as error:
                rates[pair] = error
        return rates

    async def _convert_each(
        self, tenant: str, conversions: Sequence[Conversion]
    ) -> list[Converted | DomainError]:
        async with self._database.transaction(tenant) as transaction:
            settings = await store.load_settings(transaction, tenant)
            pairs = [(each.base, each.quote, each.day) for each in conversions]
            rates = await self._load_rates(transaction, settings, pairs)
        return [
            _converted(conversion, rates[pair])
            for conversion, pair in zip(conversions, pairs, strict=True)
        ]

    async def _rate(
        self,
        transaction: AsyncConnection,
        settings: SellerSettings,
        base: str,
        quote: str,
        day: date,
    ) -> ExchangeRate:
        newest = await store.load_newest_rates(
            transaction, settings.exchange_rate_source, legs(base, quote), day
        )
        age_max_days = settings.maximum_rate_age_days
        return exchange_rate(base, quote, day, newest, self._ended, age_max_days=age_max_days)


def _converted(conversion: Conversion, rate: ExchangeRate | DomainError) -> Converted | DomainError:
    if isinstance(rate, DomainError):
        return rate
    try:
        exact, money = convert(conversion.amount, rate, conversion.rounding)
    except DomainError as error:
        return error
    return money, exact, rate
