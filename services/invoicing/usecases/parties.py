"""The seller, customers and subscriptions: put, shown and ended."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.clock import Clock
from kit.errors import AlreadyExists, DomainError, NotFound, Precondition, Violation
from kit.idempotency import Answer, Once
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import get_logger, traced
from services.invoicing.assembly import check_currency
from services.invoicing.clients import LimitsOfPlan, PlanLimits, RatingClient
from services.invoicing.model import Customer, Seller, SoldPlan, Subscription
from services.invoicing.periods import end_subscription, take_to_days
from services.invoicing.store import invoices, parties

_ALL_CUSTOMERS = "customers"
_LIMITS_PER_PAGE = 500


class _PlansNeeded(Exception):
    """Plans are still to be asked for."""

    def __init__(self, plan_ids: set[str]) -> None:
        super().__init__(plan_ids)
        self.plan_ids = plan_ids


class PartyUseCases:
    """The use cases over one database and one rating service."""

    def __init__(
        self, database: Database, rating: RatingClient, limits: PlanLimits, clock: Clock
    ) -> None:
        self._database = database
        self._rating = rating
        self._limits = limits
        self._clock = clock

    @traced("invoicing.put_seller")
    async def put_seller(self, tenant: str, seller: Seller, once: Once[Seller, Answer]) -> Answer:
        """Store who sells; invoices that exist keep the seller they were made with.

        Raises:
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:

            async def put() -> Seller:
                await parties.save_seller(transaction, tenant, seller)
                return seller

            return await once.run(transaction, tenant, put)

    @traced("invoicing.get_seller")
    async def get_seller(self, tenant: str) -> Seller:
        """Answer who sells.

        Raises:
            NotFound: SELLER_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            return await require_seller(transaction, tenant)

    @traced("invoicing.put_customer")
    async def put_customer(
        self, tenant: str, customer: Customer, once: Once[Customer, Answer]
    ) -> Answer:
        """Create a customer or replace the one of the same id; its create time stays.

        Raises:
            Conflict: REQUEST_ID_REUSED.
            Precondition: CURRENCY_MISMATCH, it has invoices in another currency.
        """
        async with self._database.transaction(tenant) as transaction:

            async def put() -> Customer:
                present = await parties.load_customer(
                    transaction, tenant, customer.customer_id, lock=True
                )
                put_customer = customer
                if present is not None:
                    put_customer = replace(customer, create_time=present.create_time)
                    if present.currency != customer.currency:
                        await _check_has_no_invoices(transaction, tenant, present)
                await parties.save_customer(transaction, tenant, put_customer)
                return put_customer

            return await once.run(transaction, tenant, put)

    @traced("invoicing.get_customer")
    async def get_customer(self, tenant: str, customer_id: str) -> Customer:
        """Answer one customer.

        Raises:
            NotFound: CUSTOMER_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            return await require_customer(transaction, tenant, customer_id)

    @traced("invoicing.list_customers")
    async def list_customers(self, tenant: str, size: int, page_token: str) -> Page[Customer]:
        """Answer customers, ordered by id.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        (after,) = decode_page_token(page_token, _ALL_CUSTOMERS) or ("",)
        async with self._database.transaction(tenant) as transaction:
            found = await parties.load_customers(transaction, tenant, after=after, limit=size + 1)
        last = [found[size - 1].customer_id] if len(found) > size else []
        return Page(found[:size], encode_page_token(_ALL_CUSTOMERS, last) if last else "")

    @traced("invoicing.create_subscription")
    async def create_subscription(
        self,
        tenant: str,
        subscription: Subscription,
        once: Once[Subscription, Answer],
        *,
        allow_shared_usage: bool = False,
    ) -> Answer:
        """Subscribe a customer to a plan; start and end are taken to days of its time zone.

        Raises:
            NotFound: PLAN_NOT_FOUND, CUSTOMER_NOT_FOUND.
            Precondition: CURRENCY_MISMATCH, USAGE_BILLED_TWICE.
            AlreadyExists: SUBSCRIPTION_EXISTS.
            Unavailable: SERVICE_UNAVAILABLE.
            InvalidInput: it would not last a day.
            Conflict: REQUEST_ID_REUSED.
        """
        plan_ids = {subscription.plan_id}
        plans: dict[str, SoldPlan] = {}
        while True:
            for plan_id in sorted(plan_ids):
                plans[plan_id] = await self._rating.get_plan(tenant, plan_id)
            if subscription.overrides and subscription.plan_id in plan_ids:
                version = plans[subscription.plan_id].version
                await self._rating.check_overrides(tenant, subscription, version)
            try:
                answer = await self._create(
                    tenant, subscription, once, plans, allow_shared_usage=allow_shared_usage
                )
            except _PlansNeeded as needed:
                # Rating is asked while no transaction is open.
                plan_ids = needed.plan_ids
            else:
                break
        await self._put_limits(tenant, subscription.subscription_id)
        return answer

    async def _create(
        self,
        tenant: str,
        subscription: Subscription,
        once: Once[Subscription, Answer],
        plans: Mapping[str, SoldPlan],
        *,
        allow_shared_usage: bool,
    ) -> Answer:
        plan = plans[subscription.plan_id]
        async with self._database.transaction(tenant) as transaction:

            async def create() -> Subscription:
                # Locked, so that two that are created at once see each other.
                customer = await require_customer(
                    transaction, tenant, subscription.customer_id, lock=True
                )
                check_currency(plan.currency, customer, subscription.conversion)
                taken = take_to_days(replace(subscription, time_zone=customer.time_zone))
                if not await parties.add_subscription(transaction, tenant, taken):
                    raise AlreadyExists(
                        "SUBSCRIPTION_EXISTS",
                        f"a subscription {taken.subscription_id} exists",
                        metadata={"subscription_id": taken.subscription_id},
                    )
                if not allow_shared_usage:
                    others = await parties.load_running_beside(transaction, tenant, taken)
                    needed = {other.plan_id for other in others} - plans.keys()
                    if needed:
                        raise _PlansNeeded(needed)
                    _check_bills_once(taken, others, plans)
                return taken

            return await once.run(transaction, tenant, create)

    @traced("invoicing.get_subscription")
    async def get_subscription(self, tenant: str, subscription_id: str) -> Subscription:
        """Answer one subscription.

        Raises:
            NotFound: SUBSCRIPTION_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            return await require_subscription(transaction, tenant, subscription_id)

    @traced("invoicing.list_subscriptions")
    async def list_subscriptions(
        self, tenant: str, size: int, page_token: str, customer_id: str
    ) -> Page[Subscription]:
        """Answer subscriptions, ordered by id; of one customer or of all.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        listing = f"subscriptions {customer_id}"
        (after,) = decode_page_token(page_token, listing) or ("",)
        async with self._database.transaction(tenant) as transaction:
            found = await parties.load_subscriptions(
                transaction, tenant, after=after, limit=size + 1, customer_id=customer_id
            )
        last = [found[size - 1].subscription_id] if len(found) > size else []
        return Page(found[:size], encode_page_token(listing, last) if last else "")

    @traced("invoicing.cancel_subscription")
    async def cancel_subscription(
        self,
        tenant: str,
        subscription_id: str,
        end_time: datetime,
        once: Once[Subscription, Answer],
    ) -> Answer:
        """End a subscription at the start of a day; drafts that reach beyond are dropped.

        Raises:
            NotFound: SUBSCRIPTION_NOT_FOUND.
            Precondition: SUBSCRIPTION_ENDED.
            InvalidInput: it would not last a day, or end within a period that is invoiced.
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:

            async def cancel() -> Subscription:
                present = await require_subscription(
                    transaction, tenant, subscription_id, lock=True
                )
                billed_until = await invoices.load_billed_until(
                    transaction, tenant, subscription_id
                )
                ending = end_subscription(
                    present, end_time, billed_until=billed_until, now=once.now
                )
                await parties.save_end(transaction, tenant, ending)
                await invoices.delete_drafts_beyond(transaction, tenant, ending)
                return ending

            answer = await once.run(transaction, tenant, cancel)
        await self._put_limits(tenant, subscription_id)
        return answer

    @traced("invoicing.put_due_limits")
    async def put_due_limits(self, tenant: str) -> None:
        """Put the limits of subscriptions that have started, or end otherwise, since the last time.

        Those of which a service does not take the limits are left for the next time.
        """
        after = ""
        while True:
            async with self._database.transaction(tenant) as transaction:
                page = await parties.load_without_limits(
                    transaction, tenant, self._clock.now(), after=after, limit=_LIMITS_PER_PAGE
                )
            await self._put_limits_of(tenant, page)
            if len(page) < _LIMITS_PER_PAGE:
                return
            after = page[-1].subscription_id

    async def _put_limits(self, tenant: str, subscription_id: str) -> None:
        """Put the limits of one subscription as it is stored, once it has started."""
        async with self._database.transaction(tenant) as transaction:
            stored = await parties.load_subscription(transaction, tenant, subscription_id)
        if stored is not None and stored.start_time <= self._clock.now():
            await self._put_limits_of(tenant, [stored])

    async def _put_limits_of(self, tenant: str, page: Sequence[Subscription]) -> None:
        """Put the limits of subscriptions, asking once for those that began alike."""
        now = self._clock.now()
        loaded: dict[tuple[str, datetime], LimitsOfPlan] = {}
        done = list[Subscription]()
        for subscription in page:
            plan = subscription.plan_id, subscription.start_time
            try:
                if plan not in loaded:
                    loaded[plan] = await self._limits.load(tenant, *plan)
                if subscription.end_time is not None and subscription.end_time <= now:
                    await self._limits.delete(tenant, subscription, loaded[plan])
                else:
                    await self._limits.put(tenant, subscription, loaded[plan])
            except DomainError as error:
                get_logger().warning(
                    "invoicing.limits_not_put",
                    subscription_id=subscription.subscription_id,
                    error=str(error),
                )
            else:
                done.append(subscription)
        async with self._database.transaction(tenant) as transaction:
            await parties.save_limits_time(transaction, tenant, done, now)


async def require_seller(transaction: AsyncConnection, tenant: str) -> Seller:
    """Load the seller, or raise `NotFound`."""
    seller = await parties.load_seller(transaction, tenant)
    if seller is None:
        raise NotFound("SELLER_NOT_FOUND", "the seller is not known yet: put it first")
    return seller


def _check_bills_once(
    subscription: Subscription, others: Sequence[Subscription], plans: Mapping[str, SoldPlan]
) -> None:
    """Refuse a subscription that bills what another one of the customer bills at that time."""
    plan = plans[subscription.plan_id]
    for other in others:
        meter_id = plan.shared_meter(plans[other.plan_id])
        if meter_id is not None:
            message = (
                f"the plans {subscription.plan_id} and {other.plan_id} would both bill usage of the"
                f" meter {meter_id}: end {other.subscription_id} first, or set allow_shared_usage"
            )
            raise Precondition(
                "USAGE_BILLED_TWICE",
                message,
                metadata={"subscription_id": other.subscription_id, "meter_id": meter_id},
                violations=(Violation("subscription.plan_id", message),),
            )


async def require_customer(
    transaction: AsyncConnection, tenant: str, customer_id: str, *, lock: bool = False
) -> Customer:
    """Load a customer, or raise `NotFound`."""
    customer = await parties.load_customer(transaction, tenant, customer_id, lock=lock)
    if customer is None:
        raise NotFound(
            "CUSTOMER_NOT_FOUND",
            f"there is no customer {customer_id}",
            metadata={"customer_id": customer_id},
        )
    return customer


async def require_subscription(
    transaction: AsyncConnection, tenant: str, subscription_id: str, *, lock: bool = False
) -> Subscription:
    """Load a subscription, or raise `NotFound`."""
    subscription = await parties.load_subscription(transaction, tenant, subscription_id, lock=lock)
    if subscription is None:
        raise NotFound(
            "SUBSCRIPTION_NOT_FOUND",
            f"there is no subscription {subscription_id}",
            metadata={"subscription_id": subscription_id},
        )
    return subscription


async def _check_has_no_invoices(
    transaction: AsyncConnection, tenant: str, customer: Customer
) -> None:
    if await invoices.has_invoices(transaction, tenant, customer.customer_id):
        raise Precondition(
            "CURRENCY_MISMATCH",
            f"the customer {customer.customer_id} has invoices in {customer.currency};"
            " its currency cannot change any more",
            metadata={"customer_currency": customer.currency},
        )
