"""What providers charge, in PostgreSQL, as values of the domain.

Refuses to change what was put: a correction is a new revision.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Row, insert, literal, select, text, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from services.rating.costs import CostRate, ProviderCost, StoredCost
from services.rating.documents import read_document, write_document
from services.rating.tables import provider_costs

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('rating.provider_costs ' || :key, 0))")

CostKey = tuple[str, str]
"""A provider and a model."""


async def lock_costs(transaction: AsyncConnection, tenant: str) -> None:
    """Wait for whoever else puts costs, and keep others waiting."""
    await transaction.execute(_LOCK, {"key": tenant})


async def load_costs(
    transaction: AsyncConnection, tenant: str, keys: Iterable[CostKey]
) -> dict[CostKey, tuple[StoredCost, ...]]:
    """Load every revision of some providers and models."""
    table = provider_costs.c
    wanted = tuple_(table.provider, table.model).in_(list(keys))
    return await _load_grouped(transaction, tenant, wanted)


async def load_costs_of_models(
    transaction: AsyncConnection, tenant: str, models: Iterable[str]
) -> dict[CostKey, tuple[StoredCost, ...]]:
    """Load every revision of some models, of whichever provider."""
    return await _load_grouped(transaction, tenant, provider_costs.c.model.in_(list(models)))


async def load_page(
    transaction: AsyncConnection,
    tenant: str,
    *,
    provider: str,
    model: str,
    after: tuple[str, str, int] | None,
    limit: int,
) -> tuple[StoredCost, ...]:
    """Load revisions behind a key, of one provider or model where they are named."""
    table = provider_costs.c
    key = (table.provider, table.model, table.revision)
    statement = select(provider_costs).where(table.tenant_id == tenant)
    if provider:
        statement = statement.where(table.provider == provider)
    if model:
        statement = statement.where(table.model == model)
    if after is not None:
        statement = statement.where(tuple_(*key) > tuple_(*map(literal, after)))
    found = await transaction.execute(statement.order_by(*key).limit(limit))
    return tuple(map(_stored, found))


async def save_costs(
    transaction: AsyncConnection, tenant: str, costs: Sequence[StoredCost]
) -> None:
    """Store revisions; the costs must be locked."""
    if costs:
        await transaction.execute(
            insert(provider_costs), [_row(tenant, stored) for stored in costs]
        )


async def _load_grouped(
    transaction: AsyncConnection,
    tenant: str,
    condition: Any,  # noqa: ANN401 - SQLAlchemy's own conditions.
) -> dict[CostKey, tuple[StoredCost, ...]]:
    table = provider_costs.c
    found = await transaction.execute(
        select(provider_costs)
        .where(table.tenant_id == tenant, condition)
        .order_by(table.provider, table.model, table.revision)
    )
    grouped: dict[CostKey, tuple[StoredCost, ...]] = {}
    for stored in map(_stored, found):
        key = (stored.cost.provider, stored.cost.model)
        grouped[key] = (*grouped.get(key, ()), stored)
    return grouped


def _row(tenant: str, stored: StoredCost) -> dict[str, Any]:
    cost = stored.cost
    return {
        "tenant_id": tenant,
        "provider": cost.provider,
        "model": cost.model,
        "revision": stored.revision,
        "currency": cost.currency,
        "effective_time": cost.effective_time,
        "context_quantity": cost.context_quantity,
        "rates": write_document(cost.rates),
        "source": cost.source,
        "create_time": stored.create_time,
    }


def _stored(row: Row[Any]) -> StoredCost:
    cost = ProviderCost(
        provider=row.provider,
        model=row.model,
        currency=row.currency,
        effective_time=row.effective_time,
        rates=read_document(tuple[CostRate, ...], row.rates),
        context_quantity=row.context_quantity,
        source=row.source,
    )
    return StoredCost(cost, row.revision, row.create_time)
