"""Registrations and published exchange rates in PostgreSQL, as values of the domain.

It refuses to decide anything: what a row means is the core's.
"""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import Any

from sqlalchemy import Row, delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.tax.exchange import PublishedRate
from services.tax.model import (
    Confirmation,
    DateRange,
    Registration,
    RegistrationScheme,
    SellerSettings,
)
from services.tax.tables import (
    exchange_rates,
    registrations,
    settings,
    tax_id_confirmations,
    uploaded_rates,
)
from services.tax.uploads import UploadedRate

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('tax.registrations ' || :tenant, 0))")

_INSERT_RATES = text(
    """
    INSERT INTO tax.exchange_rates (source, currency, rate_date, units_per_euro)
    SELECT :source, * FROM unnest(
        CAST(:currencies AS text[]), CAST(:days AS date[]), CAST(:units AS numeric[])
    )
    ON CONFLICT DO NOTHING
    """
)


async def lock_registrations(transaction: AsyncConnection, tenant: str) -> None:
    """Wait for whoever else puts a registration of this tenant, and keep others waiting."""
    await transaction.execute(_LOCK, {"tenant": tenant})


async def load_registrations(
    transaction: AsyncConnection, tenant: str, *, after: str = "", limit: int | None = None
) -> tuple[tuple[Registration, datetime], ...]:
    """Load registrations with the time each was put, ordered by id."""
    table = registrations.c
    found = await transaction.execute(
        select(registrations)
        .where(table.tenant_id == tenant, table.registration_id > after)
        .order_by(table.registration_id)
        .limit(limit)
    )
    return tuple((_registration(row), row.create_time) for row in found)


async def save_registration(
    transaction: AsyncConnection, tenant: str, registration: Registration, create_time: datetime
) -> None:
    """Store a registration in place of the one with the same id."""
    values = {
        "country": registration.country,
        "region": registration.region,
        "scheme": registration.scheme.value,
        "number": registration.number,
        "established": registration.established,
        "start_date": registration.valid.start,
        "end_date": registration.valid.end,
        "create_time": create_time,
    }
    key = {"tenant_id": tenant, "registration_id": registration.registration_id}
    statement = insert(registrations).values(**key, **values)
    await transaction.execute(
        statement.on_conflict_do_update(index_elements=list(key), set_=values)
    )


async def load_settings(transaction: AsyncConnection, tenant: str) -> SellerSettings:
    """Load what the seller has decided on, or the defaults."""
    found = await transaction.execute(select(settings).where(settings.c.tenant_id == tenant))
    row = found.one_or_none()
    if row is None:
        return SellerSettings()
    return SellerSettings(
        exchange_rate_source=row.exchange_rate_source,
        maximum_rate_age_days=row.maximum_rate_age_days,
        refuses_unconfirmed_tax_ids=row.refuses_unconfirmed_tax_ids,
        uses_engine=row.uses_engine,
        falls_back=row.falls_back,
    )


async def save_settings(transaction: AsyncConnection, tenant: str, decided: SellerSettings) -> None:
    """Store what the seller has decided on."""
    values = {
        "exchange_rate_source": decided.exchange_rate_source,
        "maximum_rate_age_days": decided.maximum_rate_age_days,
        "refuses_unconfirmed_tax_ids": decided.refuses_unconfirmed_tax_ids,
        "uses_engine": decided.uses_engine,
        "falls_back": decided.falls_back,
    }
    statement = insert(settings).values(tenant_id=tenant, **values)
    await transaction.execute(
        statement.on_conflict_do_update(index_elements=["tenant_id"], set_=values)
    )


async def load_uploads(
    transaction: AsyncConnection, tenant: str, *, after: int = -1, limit: int | None = None
) -> tuple[UploadedRate, ...]:
    """Load the rates that the seller uploaded, in their order."""
    table = uploaded_rates.c
    found = await transaction.execute(
        select(uploaded_rates)
        .where(table.tenant_id == tenant, table.position > after)
        .order_by(table.position)
        .limit(limit)
    )
    return tuple(
        UploadedRate(
            jurisdiction=row.jurisdiction,
            name=row.name,
            rate_percent=row.rate_percent,
            postal_codes=tuple(row.postal_codes),
            valid=DateRange(row.start_date, row.end_date),
            source=row.source,
        )
        for row in found
    )


async def replace_uploads(
    transaction: AsyncConnection, tenant: str, uploads: Sequence[UploadedRate]
) -> None:
    """Store the rates that the seller uploaded in place of those before."""
    await transaction.execute(delete(uploaded_rates).where(uploaded_rates.c.tenant_id == tenant))
    rows = [
        {
            "tenant_id": tenant,
            "position": position,
            "jurisdiction": upload.jurisdiction,
            "name": upload.name,
            "rate_percent": upload.rate_percent,
            "postal_codes": list(upload.postal_codes),
            "start_date": upload.valid.start,
            "end_date": upload.valid.end,
            "source": upload.source,
        }
        for position, upload in enumerate(uploads)
    ]
    if rows:
        await transaction.execute(insert(uploaded_rates), rows)


async def load_confirmations(
    transaction: AsyncConnection, tenant: str, numbers: Collection[str]
) -> dict[str, Confirmation]:
    """Load the last confirmation of each tax id that has one."""
    if not numbers:
        return {}
    table = tax_id_confirmations.c
    found = await transaction.execute(
        select(tax_id_confirmations)
        .where(table.tenant_id == tenant, table.number.in_(numbers))
        .order_by(table.check_time)
    )
    return {
        row.number: Confirmation(
            register=row.register,
            is_valid=row.is_valid,
            name=row.name,
            consultation_number=row.consultation_number,
            check_time=row.check_time,
        )
        for row in found
    }


async def save_confirmation(
    transaction: AsyncConnection, tenant: str, number: str, confirmation: Confirmation
) -> None:
    """Store what a register said of a tax id, as proof."""
    values = {
        "tenant_id": tenant,
        "number": number,
        "check_time": confirmation.check_time,
        "register": confirmation.register,
        "is_valid": confirmation.is_valid,
        "name": confirmation.name,
        "consultation_number": confirmation.consultation_number,
    }
    await transaction.execute(
        insert(tax_id_confirmations).values(**values).on_conflict_do_nothing()
    )


async def load_newest_rates(
    transaction: AsyncConnection, source: str, currencies: Sequence[str], day: date
) -> tuple[PublishedRate, ...]:
    """Load the rates of the last day, not after `day`, that has one for every currency."""
    if not currencies:
        return ()
    legs = [exchange_rates.alias(f"leg_{index}") for index, _ in enumerate(currencies)]
    first = legs[0].c
    columns = (first.rate_date, *(leg.c.units_per_euro for leg in legs))
    newest = select(*columns).where(first.rate_date <= day).order_by(first.rate_date.desc())
    for leg, currency in zip(legs, currencies, strict=True):
        newest = newest.where(
            leg.c.source == source, leg.c.currency == currency, leg.c.rate_date == first.rate_date
        )
    found = (await transaction.execute(newest.limit(1))).one_or_none()
    if found is None:
        return ()
    rate_date, *units = found
    return tuple(
        PublishedRate(source, currency, rate_date, each)
        for currency, each in zip(currencies, units, strict=True)
    )


async def load_rates_between(
    transaction: AsyncConnection, source: str, first: date, last: date
) -> tuple[PublishedRate, ...]:
    """Load every rate from the first day to the last, both included."""
    table = exchange_rates.c
    found = await transaction.execute(
        select(exchange_rates).where(table.source == source, table.rate_date.between(first, last))
    )
    return tuple(_published(row) for row in found)


async def save_rates(
    transaction: AsyncConnection, source: str, rates: Sequence[PublishedRate]
) -> None:
    """Store rates of a source; one that is stored already stays as it is."""
    columns = {
        "currencies": [rate.currency for rate in rates],
        "days": [rate.rate_date for rate in rates],
        "units": [rate.units_per_euro for rate in rates],
    }
    await transaction.execute(_INSERT_RATES, {"source": source, **columns})


def _registration(row: Row[Any]) -> Registration:
    return Registration(
        registration_id=row.registration_id,
        country=row.country,
        region=row.region,
        scheme=RegistrationScheme(row.scheme),
        number=row.number,
        established=row.established,
        valid=DateRange(row.start_date, row.end_date),
    )


def _published(row: Row[Any]) -> PublishedRate:
    return PublishedRate(row.source, row.currency, row.rate_date, row.units_per_euro)
