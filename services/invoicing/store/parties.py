"""The seller, customers and subscriptions."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from services.invoicing.model import (
    BillingAnchor,
    BuyerKind,
    CurrencyConversion,
    Customer,
    Language,
    PostalAddress,
    Seller,
    Subscription,
    TaxId,
)
from services.invoicing.tables import customers, sellers, subscriptions


async def load_seller(transaction: AsyncConnection, tenant: str) -> Seller | None:
    """Load what the tenant said about itself."""
    found = await transaction.execute(select(sellers).where(sellers.c.tenant_id == tenant))
    row = found.one_or_none()
    return None if row is None else _seller(row)


async def save_seller(transaction: AsyncConnection, tenant: str, seller: Seller) -> None:
    """Store the seller in place of the one before."""
    values = {
        "legal_name": seller.legal_name,
        "email": seller.email,
        "address": _address_document(seller.address),
        "payment_instructions": seller.payment_instructions,
        "number_prefix": seller.number_prefix,
        "payment_term_days": seller.payment_term_days,
    }
    statement = insert(sellers).values(tenant_id=tenant, **values)
    await transaction.execute(
        statement.on_conflict_do_update(index_elements=["tenant_id"], set_=values)
    )


async def load_customer(
    transaction: AsyncConnection, tenant: str, customer_id: str, *, lock: bool = False
) -> Customer | None:
    """Load one customer; with `lock`, others wait before they change it or lock it."""
    table = customers.c
    statement = select(customers).where(table.tenant_id == tenant, table.customer_id == customer_id)
    found = await transaction.execute(statement.with_for_update() if lock else statement)
    row = found.one_or_none()
    return None if row is None else _customer(row)


async def load_customers(
    transaction: AsyncConnection, tenant: str, *, after: str, limit: int
) -> tuple[Customer, ...]:
    """Load customers behind an id, ordered by id."""
    table = customers.c
    found = await transaction.execute(
        select(customers)
        .where(table.tenant_id == tenant, table.customer_id > after)
        .order_by(table.customer_id)
        .limit(limit)
    )
    return tuple(map(_customer, found))


async def save_customer(transaction: AsyncConnection, tenant: str, customer: Customer) -> None:
    """Store a customer in place of the one of the same id, whose create time stays."""
    values = {
        "legal_name": customer.legal_name,
        "email": customer.email,
        "address": _address_document(customer.address),
        "kind": customer.kind.value,
        "tax_ids": [[tax_id.country, tax_id.number] for tax_id in customer.tax_ids],
        "exemption_certificates": list(customer.exemption_certificates),
        "location_evidence": list(customer.location_evidence),
        "currency": customer.currency,
        "time_zone": customer.time_zone,
        "language": customer.language.value,
    }
    statement = insert(customers).values(
        tenant_id=tenant,
        customer_id=customer.customer_id,
        create_time=customer.create_time,
        **values,
    )
    await transaction.execute(
        statement.on_conflict_do_update(index_elements=["tenant_id", "customer_id"], set_=values)
    )


async def add_subscription(
    transaction: AsyncConnection, tenant: str, subscription: Subscription
) -> bool:
    """Store a new subscription; answer false when one of its id exists."""
    statement = insert(subscriptions).values(
        tenant_id=tenant,
        subscription_id=subscription.subscription_id,
        customer_id=subscription.customer_id,
        plan_id=subscription.plan_id,
        start_time=subscription.start_time,
        end_time=subscription.end_time,
        anchor=subscription.anchor.value,
        conversion=subscription.conversion.value,
        time_zone=subscription.time_zone,
        create_time=subscription.create_time,
        overrides=subscription.overrides,
    )
    added = await transaction.execute(statement.on_conflict_do_nothing())
    return bool(added.rowcount)


async def save_end(transaction: AsyncConnection, tenant: str, subscription: Subscription) -> None:
    """Store when a subscription ends; its limits are to be put again."""
    table = subscriptions.c
    await transaction.execute(
        update(subscriptions)
        .where(table.tenant_id == tenant, table.subscription_id == subscription.subscription_id)
        .values(end_time=subscription.end_time, limits_time=None)
    )


async def load_without_limits(
    transaction: AsyncConnection, tenant: str, now: datetime, *, after: str, limit: int
) -> list[Subscription]:
    """Load subscriptions behind an id that have started and whose limits are to be put."""
    table = subscriptions.c
    statement = (
        select(subscriptions)
        .where(
            table.tenant_id == tenant,
            table.limits_time.is_(None),
            table.start_time <= now,
            table.subscription_id > after,
        )
        .order_by(table.subscription_id)
        .limit(limit)
    )
    return list(map(_subscription, await transaction.execute(statement)))


async def save_limits_time(
    transaction: AsyncConnection, tenant: str, put: Sequence[Subscription], now: datetime
) -> None:
    """Store that limits were put, but for subscriptions that end at another time by now."""
    table = subscriptions.c
    by_end: dict[datetime | None, list[str]] = {}
    for subscription in put:
        by_end.setdefault(subscription.end_time, []).append(subscription.subscription_id)
    for end_time, ids in by_end.items():
        await transaction.execute(
            update(subscriptions)
            .where(
                table.tenant_id == tenant,
                table.subscription_id.in_(ids),
                table.end_time.is_not_distinct_from(end_time),
            )
            .values(limits_time=now)
        )


async def load_subscription(
    transaction: AsyncConnection, tenant: str, subscription_id: str, *, lock: bool = False
) -> Subscription | None:
    """Load one subscription; with `lock`, others wait before they change it or lock it."""
    table = subscriptions.c
    statement = select(subscriptions).where(
        table.tenant_id == tenant, table.subscription_id == subscription_id
    )
    found = await transaction.execute(statement.with_for_update() if lock else statement)
    row = found.one_or_none()
    return None if row is None else _subscription(row)


async def load_subscriptions(
    transaction: AsyncConnection, tenant: str, *, after: str, limit: int, customer_id: str = ""
) -> tuple[Subscription, ...]:
    """Load subscriptions behind an id, ordered by id; of one customer or of all."""
    table = subscriptions.c
    statement = select(subscriptions).where(
        table.tenant_id == tenant, table.subscription_id > after
    )
    if customer_id:
        statement = statement.where(table.customer_id == customer_id)
    found = await transaction.execute(statement.order_by(table.subscription_id).limit(limit))
    return tuple(map(_subscription, found))


async def load_running_beside(
    transaction: AsyncConnection, tenant: str, subscription: Subscription
) -> tuple[Subscription, ...]:
    """Load the customer's other subscriptions that run while one does, ordered by id."""
    table = subscriptions.c
    statement = select(subscriptions).where(
        table.tenant_id == tenant,
        table.customer_id == subscription.customer_id,
        table.subscription_id != subscription.subscription_id,
        or_(table.end_time.is_(None), table.end_time > subscription.start_time),
    )
    if subscription.end_time is not None:
        statement = statement.where(table.start_time < subscription.end_time)
    found = await transaction.execute(statement.order_by(table.subscription_id))
    return tuple(map(_subscription, found))


async def load_customers_of(
    transaction: AsyncConnection, tenant: str, customer_ids: set[str]
) -> dict[str, Customer]:
    """Load the customers of these ids."""
    table = customers.c
    found = await transaction.execute(
        select(customers).where(table.tenant_id == tenant, table.customer_id.in_(customer_ids))
    )
    return {customer.customer_id: customer for customer in map(_customer, found)}


async def load_terms(
    transaction: AsyncConnection, tenant: str, subscription_ids: Collection[str]
) -> dict[str, tuple[datetime | None, str]]:
    """Load when subscriptions end and their customers' currencies, and keep them as they are."""
    found = await transaction.execute(
        select(subscriptions.c.subscription_id, subscriptions.c.end_time, customers.c.currency)
        .join(
            customers,
            and_(
                customers.c.tenant_id == subscriptions.c.tenant_id,
                customers.c.customer_id == subscriptions.c.customer_id,
            ),
        )
        .where(
            subscriptions.c.tenant_id == tenant,
            subscriptions.c.subscription_id.in_(subscription_ids),
        )
        .order_by(subscriptions.c.subscription_id)
        .with_for_update(read=True)
    )
    return {row.subscription_id: (row.end_time, row.currency) for row in found}


def _address_document(address: PostalAddress) -> dict[str, Any]:
    return {
        "lines": list(address.lines),
        "city": address.city,
        "region": address.region,
        "postal_code": address.postal_code,
        "country": address.country,
    }


def _address(document: dict[str, Any]) -> PostalAddress:
    return PostalAddress(**{**document, "lines": tuple(document["lines"])})


def _seller(row: Row[Any]) -> Seller:
    return Seller(
        legal_name=row.legal_name,
        address=_address(row.address),
        email=row.email,
        payment_instructions=row.payment_instructions,
        number_prefix=row.number_prefix,
        payment_term_days=row.payment_term_days,
    )


def _customer(row: Row[Any]) -> Customer:
    return Customer(
        customer_id=row.customer_id,
        legal_name=row.legal_name,
        email=row.email,
        address=_address(row.address),
        kind=BuyerKind(row.kind),
        tax_ids=tuple(TaxId(country, number) for country, number in row.tax_ids),
        currency=row.currency,
        time_zone=row.time_zone,
        language=Language(row.language),
        create_time=row.create_time,
        exemption_certificates=tuple(row.exemption_certificates),
        location_evidence=tuple(row.location_evidence),
    )


def _subscription(row: Row[Any]) -> Subscription:
    return Subscription(
        subscription_id=row.subscription_id,
        customer_id=row.customer_id,
        plan_id=row.plan_id,
        start_time=row.start_time,
        end_time=row.end_time,
        anchor=BillingAnchor(row.anchor),
        conversion=CurrencyConversion(row.conversion),
        time_zone=row.time_zone,
        create_time=row.create_time,
        overrides=row.overrides,
    )
