"""Taxes on supplies, the seller's registrations, and the rates in force."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime

from kit.errors import DomainError, InvalidInput
from kit.idempotency import Answer, Once
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import traced
from services.tax import store
from services.tax.confirmations import confirm_buyer, numbers_to_look_up
from services.tax.exchange import ExchangeRate
from services.tax.model import Determination, Registration, Seller, Supply
from services.tax.registrations import check_registration
from services.tax.reporting import CurrencyPair, Determined, currency_pairs, report
from services.tax.rulebook import Rate, Rulebook
from services.tax.uploads import UploadedRate, check_uploads, lay_over
from services.tax.usecases.engines import EngineUseCases, Finding, attempt
from services.tax.usecases.exchange import DatedPair, ExchangeUseCases

_ALL_REGISTRATIONS = "registrations"
_ALL_UPLOADS = "uploaded rates"
_BOOKS_KEPT_MAX = 100

PutRegistration = tuple[Registration, datetime]
_Rates = dict[DatedPair, ExchangeRate | DomainError]


class TaxUseCases:
    """The use cases over one database, one rulebook, the exchange rates and the engine."""

    def __init__(
        self,
        database: Database,
        book: Rulebook,
        exchange: ExchangeUseCases,
        engines: EngineUseCases,
    ) -> None:
        self._database = database
        self._engines = engines
        self._book = book
        self._exchange = exchange
        self._books: dict[str, tuple[tuple[UploadedRate, ...], Rulebook]] = {}

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
            book = self._laid_over(tenant, await store.load_uploads(transaction, tenant))
            settings = await store.load_settings(transaction, tenant)
            numbers = {number for each in supplies for number in numbers_to_look_up(each.buyer)}
            known = await store.load_confirmations(transaction, tenant, numbers)
            confirmed = [
                replace(each, buyer=confirm_buyer(each.buyer, known, settings, today))
                for each in supplies
            ]
        if settings.uses_engine:
            found = await self._engines.determine_each(seller, confirmed, book, settings)
        else:
            found = [Finding(attempt(seller, supply, book)) for supply in confirmed]
        days = [min(supply.day, today) for supply in supplies]
        pairs = self._dated_pairs([each.outcome for each in found], days)
        rates = await self._exchange.load_rates(tenant, settings, pairs)
        return [self._report(each, day, rates) for each, day in zip(found, days, strict=True)]

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

    @traced("tax.put_uploaded_rates")
    async def put_uploaded_rates(
        self, tenant: str, uploads: Sequence[UploadedRate], once: Once[int, Answer]
    ) -> Answer:
        """Replace the rates that the seller has uploaded.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            InvalidInput: a row contradicts the tables or another row.
        """
        check_uploads(uploads, self._book)
        async with self._database.transaction(tenant) as transaction:

            async def put() -> int:
                await store.lock_registrations(transaction, tenant)
                await store.replace_uploads(transaction, tenant, uploads)
                return len(uploads)

            return await once.run(transaction, tenant, put)

    @traced("tax.list_uploaded_rates")
    async def list_uploaded_rates(
        self, tenant: str, size: int, page_token: str
    ) -> Page[UploadedRate]:
        """List the rates that the seller has uploaded, in their order.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        (position,) = decode_page_token(page_token, _ALL_UPLOADS) or ("-1",)
        after = _parse_position(position)
        async with self._database.transaction(tenant) as transaction:
            found = await store.load_uploads(transaction, tenant, after=after, limit=size + 1)
        last = [str(after + size)] if len(found) > size else []
        return Page(found[:size], encode_page_token(_ALL_UPLOADS, last) if last else "")

    def _dated_pairs(
        self, determinations: Sequence[Determination | DomainError], days: Sequence[date]
    ) -> list[DatedPair]:
        return [
            (*pair, day)
            for determination, day in zip(determinations, days, strict=True)
            if isinstance(determination, Determination)
            for pair in currency_pairs(determination, day, self._book)
        ]

    def _report(self, finding: Finding, day: date, rates: _Rates) -> Determined | DomainError:
        determination = finding.outcome
        if isinstance(determination, DomainError):
            return determination
        found: dict[CurrencyPair, ExchangeRate] = {}
        for pair in sorted(currency_pairs(determination, day, self._book)):
            rate = rates[(*pair, day)]
            if isinstance(rate, DomainError):
                return rate
            found[pair] = rate
        return replace(
            report(determination, day, self._book, found),
            engine=finding.engine,
            fallback_reason=finding.fallback_reason,
        )

    def _laid_over(self, tenant: str, uploads: tuple[UploadedRate, ...]) -> Rulebook:
        """Lay a seller's rates over the tables; what was laid last is kept until they change."""
        if not uploads:
            return self._book
        kept = self._books.get(tenant)
        if kept is None or kept[0] != uploads:
            if len(self._books) >= _BOOKS_KEPT_MAX:
                self._books.clear()
            kept = self._books[tenant] = uploads, lay_over(self._book, uploads)
        return kept[1]


def _parse_position(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInput.of(
            "page_token", "is not one of this listing", reason="INVALID_PAGE_TOKEN"
        ) from None


def _rate_key(rate: Rate) -> tuple[str, ...]:
    return rate.jurisdiction, rate.name, rate.valid.start.isoformat()
