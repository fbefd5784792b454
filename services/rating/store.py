"""Plans in PostgreSQL, as values of the domain.

Refuses to decide which version counts beyond what is asked for, and to change a stored one.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, Select, func, insert, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.rating.model import (
    GraduatedPrice,
    PackagePrice,
    Plan,
    PlanVersion,
    Price,
    PriceModel,
    ProductCategory,
    StandardPrice,
    Tier,
)
from services.rating.tables import plan_versions

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


async def load_in_effect(
    transaction: AsyncConnection, tenant: str, plan_id: str, instant: datetime
) -> PlanVersion | None:
    """Load the version whose effective time is the last that is not after the instant."""
    effective_time = plan_versions.c.effective_time
    return await _load_one(
        transaction,
        _versions_of(tenant, plan_id)
        .where(or_(effective_time.is_(None), effective_time <= instant))
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
    transaction: AsyncConnection, tenant: str, *, after: str, limit: int
) -> tuple[PlanVersion, ...]:
    """Load the newest version of each plan behind an id, ordered by id."""
    table = plan_versions.c
    found = await transaction.execute(
        select(plan_versions)
        .distinct(table.plan_id)
        .where(table.tenant_id == tenant, table.plan_id > after)
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
            prices=[_price_document(price) for price in plan.prices],
            create_time=create_time,
        )
    )
    return stored


def _versions_of(tenant: str, plan_id: str) -> Select[Any]:
    table = plan_versions.c
    return select(plan_versions).where(table.tenant_id == tenant, table.plan_id == plan_id)


async def _load_one(transaction: AsyncConnection, statement: Select[Any]) -> PlanVersion | None:
    row = (await transaction.execute(statement)).one_or_none()
    return None if row is None else _plan_version(row)


def _plan_version(row: Row[Any]) -> PlanVersion:
    plan = Plan(
        plan_id=row.plan_id,
        display_name=row.display_name,
        currency=row.currency,
        base_fee=row.base_fee,
        prices=tuple(map(_price, row.prices)),
        effective_time=row.effective_time,
        category=ProductCategory[row.category],
    )
    return PlanVersion(plan, row.version, row.create_time)


def _price_document(price: Price) -> dict[str, Any]:
    return {
        "price_id": price.price_id,
        "display_name": price.display_name,
        "meter_id": price.meter_id,
        "dimensions": dict(price.dimensions),
        "included_quantity": str(price.included_quantity),
        "model": _model_document(price.model),
        "category": price.category.name,
    }


def _price(document: dict[str, Any]) -> Price:
    return Price(
        price_id=document["price_id"],
        display_name=document["display_name"],
        meter_id=document["meter_id"],
        dimensions=tuple(sorted(document["dimensions"].items())),
        included_quantity=Decimal(document["included_quantity"]),
        model=_model(document["model"]),
        category=ProductCategory[document["category"]],
    )


def _model_document(model: PriceModel) -> dict[str, Any]:
    match model:
        case StandardPrice(amount, per_quantity):
            return {"kind": "standard", "amount": str(amount), "per_quantity": str(per_quantity)}
        case PackagePrice(amount, package_size):
            return {"kind": "package", "amount": str(amount), "package_size": str(package_size)}
        case GraduatedPrice(tiers):
            return {"kind": "graduated", "tiers": [_tier_document(tier) for tier in tiers]}


def _model(document: dict[str, Any]) -> PriceModel:
    match document:
        case {"kind": "standard", "amount": amount, "per_quantity": per_quantity}:
            return StandardPrice(Decimal(amount), Decimal(per_quantity))
        case {"kind": "package", "amount": amount, "package_size": package_size}:
            return PackagePrice(Decimal(amount), Decimal(package_size))
        case {"kind": "graduated", "tiers": tiers}:
            return GraduatedPrice(tuple(map(_tier, tiers)))
    raise ValueError(f"a stored price has the unknown kind {document.get('kind')!r}")


def _tier_document(tier: Tier) -> dict[str, str | None]:
    return {
        "up_to": None if tier.up_to is None else str(tier.up_to),
        "unit_amount": str(tier.unit_amount),
        "flat_amount": str(tier.flat_amount),
    }


def _tier(document: dict[str, Any]) -> Tier:
    return Tier(
        up_to=None if document["up_to"] is None else Decimal(document["up_to"]),
        unit_amount=Decimal(document["unit_amount"]),
        flat_amount=Decimal(document["flat_amount"]),
    )
