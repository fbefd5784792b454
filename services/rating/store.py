"""Plans in PostgreSQL, as values of the domain.

Refuses to decide which version counts beyond what is asked for, and to change a stored one.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, and_, func, insert, or_, select, text, true
from sqlalchemy.ext.asyncio import AsyncConnection

from services.rating.documents import read_document, write_document
from services.rating.model import (
    BaseFee,
    Commitment,
    Plan,
    PlanLimit,
    PlanVersion,
    Price,
    ProductCategory,
    Trial,
)
from services.rating.tables import plan_archives, plan_versions

_TERMS: dict[str, Any] = {
    "base_fees": tuple[BaseFee, ...],
    "commitment": Commitment | None,
    "trial": Trial | None,
    "limits": tuple[PlanLimit, ...],
}
_SELECT = select(plan_versions, plan_archives.c.archive_time).join_from(
    plan_versions,
    plan_archives,
    and_(
        plan_archives.c.tenant_id == plan_versions.c.tenant_id,
        plan_archives.c.plan_id == plan_versions.c.plan_id,
    ),
    isouter=True,
)
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('rating.plans ' || :key, 0))")


async def lock_plan(transaction: AsyncConnection, tenant: str, plan_id: str) -> None:
    """Wait for whoever else puts a version of this plan, and keep others waiting."""
    await transaction.execute(_LOCK, {"key": f"{tenant} {plan_id}"})


async def load_version(
    transaction: AsyncConnection, tenant: str, plan_id: str, version: int
) -> PlanVersion | None:
    """Load one version of a plan."""
    versions = _versions_of(tenant, plan_id)
    return await _load_one(transaction, versions.where(plan_versions.c.version == version))


async def load_newest(
    transaction: AsyncConnection, tenant: str, plan_id: str
) -> PlanVersion | None:
    """Load the version of a plan that was put last."""
    versions = _versions_of(tenant, plan_id)
    return await _load_one(transaction, versions.order_by(plan_versions.c.version.desc()).limit(1))


async def load_versions(
    transaction: AsyncConnection, tenant: str, plan_id: str
) -> tuple[PlanVersion, ...]:
    """Load every version of a plan, in the order they were put."""
    versions = _versions_of(tenant, plan_id).order_by(plan_versions.c.version)
    return tuple(map(_plan_version, await transaction.execute(versions)))


async def load_in_effect(
    transaction: AsyncConnection,
    tenant: str,
    plan_id: str,
    instant: datetime,
    contract_start: datetime,
) -> PlanVersion | None:
    """Load the version whose effective time is the last that is not after the instant.

    One that keeps contracts counts only where the contract began no earlier than it.
    """
    effective_time = plan_versions.c.effective_time
    rates_contract = or_(
        plan_versions.c.keeps_contracts.is_(False), effective_time <= contract_start
    )
    return await _load_one(
        transaction,
        _versions_of(tenant, plan_id)
        .where(
            or_(
                effective_time.is_(None),
                and_(effective_time <= instant, rates_contract),
            )
        )
        .order_by(effective_time.desc().nulls_last())
        .limit(1),
    )


async def load_with_effective_time(
    transaction: AsyncConnection, tenant: str, plan_id: str, effective_time: datetime | None
) -> PlanVersion | None:
    """Load the version with exactly this effective time; there is at most one."""
    is_same = plan_versions.c.effective_time.is_not_distinct_from(effective_time)
    return await _load_one(transaction, _versions_of(tenant, plan_id).where(is_same))


async def load_newest_of_each(
    transaction: AsyncConnection, tenant: str, *, after: str, limit: int, show_archived: bool
) -> tuple[PlanVersion, ...]:
    """Load the newest version of each plan behind an id, ordered by id."""
    table = plan_versions.c
    listed = true() if show_archived else plan_archives.c.archive_time.is_(None)
    found = await transaction.execute(
        _SELECT.distinct(table.plan_id)
        .where(table.tenant_id == tenant, table.plan_id > after, listed)
        .order_by(table.plan_id, table.version.desc())
        .limit(limit)
    )
    return tuple(map(_plan_version, found))


async def save_next_version(
    transaction: AsyncConnection, tenant: str, plan: Plan, create_time: datetime
) -> PlanVersion:
    """Store a plan as its next version; the plan must be locked."""
    table = plan_versions.c
    newest = await transaction.scalar(
        select(func.max(table.version)).where(
            table.tenant_id == tenant, table.plan_id == plan.plan_id
        )
    )
    stored = PlanVersion(plan, (newest or 0) + 1, create_time)
    await transaction.execute(
        insert(plan_versions).values(
            tenant_id=tenant,
            plan_id=plan.plan_id,
            version=stored.version,
            display_name=plan.display_name,
            currency=plan.currency,
            base_fee=plan.base_fee,
            category=plan.category.name,
            effective_time=plan.effective_time,
            prices=write_document(plan.prices),
            terms={name: write_document(getattr(plan, name)) for name in _TERMS},
            keeps_contracts=plan.keeps_contracts,
            create_time=create_time,
        )
    )
    return stored


async def save_archive_time(
    transaction: AsyncConnection, tenant: str, plan_id: str, archive_time: datetime
) -> None:
    """Archive a plan; the plan must be locked, and not be archived."""
    await transaction.execute(
        insert(plan_archives).values(tenant_id=tenant, plan_id=plan_id, archive_time=archive_time)
    )


def _versions_of(tenant: str, plan_id: str) -> Select[Any]:
    table = plan_versions.c
    return _SELECT.where(table.tenant_id == tenant, table.plan_id == plan_id)


async def _load_one(transaction: AsyncConnection, statement: Select[Any]) -> PlanVersion | None:
    row = (await transaction.execute(statement)).one_or_none()
    return None if row is None else _plan_version(row)


def _plan_version(row: Row[Any]) -> PlanVersion:
    plan = Plan(
        plan_id=row.plan_id,
        display_name=row.display_name,
        currency=row.currency,
        base_fee=row.base_fee,
        prices=tuple(read_document(Price, price) for price in row.prices),
        effective_time=row.effective_time,
        category=ProductCategory[row.category],
        keeps_contracts=row.keeps_contracts,
        **{
            name: read_document(hint, row.terms[name])
            for name, hint in _TERMS.items()
            if name in row.terms
        },
    )
    return PlanVersion(plan, row.version, row.create_time, row.archive_time)
