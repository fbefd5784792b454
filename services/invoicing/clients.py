"""The services that invoicing asks and tells, answering in our own values.

What they refuse comes back as an error of ours that carries their words. Refuses to guess: what
cannot be rated, taxed or converted is an error for that period, never zero.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from kit.errors import (
    INVALID_FIELD,
    DomainError,
    InvalidInput,
    NotFound,
    Precondition,
    Unavailable,
    Violation,
)
from kit.interval import Interval
from kit.rpc.auth import ServiceIdentity
from kit.rpc.status import read_error
from kit.rpc.wire import parse_money, render_interval, render_money, render_time
from services.invoicing.model import (
    Customer,
    Determination,
    ExchangeRate,
    PricedUsage,
    Rating,
    SoldPlan,
    Subscription,
    TaxableLine,
)
from services.invoicing.periods import BillingPeriod, periods_until
from services.invoicing.plan_limits import render_delete_limit, render_put_limit
from services.invoicing.snapshot import (
    BUYER_KINDS,
    read_exchange_rate,
    read_rated_line,
    read_reported_tax,
    read_tax,
    render_date,
    render_tax_id,
)
from tollkeeper.api.meter.v1.meter_service_pb2 import ClosedPeriod, ClosePeriodsRequest
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.api.rating.v1 import rating_pb2
from tollkeeper.api.rating.v1.plan_pb2 import PlanLimit
from tollkeeper.api.rating.v1.rating_service_pb2 import (
    BatchRateRequest,
    GetPlanRequest,
    RateRequest,
)
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceStub
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2
from tollkeeper.api.tax.v1.tax_service_pb2_grpc import TaxServiceStub

_RATING_SCOPES = frozenset({"rating.read"})
_METER_SCOPES = frozenset({"meter.write"})
_TAX_SCOPES = frozenset({"tax.read"})
_QUOTA_SCOPES = frozenset({"quota.write"})
_TIMEOUT_S = 10
_BATCH_TIMEOUT_S = 60
_RETRY_AFTER = timedelta(seconds=1)
_LINES_PER_CALL_MAX = 5_000
_DEPENDENT_PER_CALL_MAX = 10
_EARLIER_PERIODS_MAX = 120
_EXCHANGE_RATE_REASONS = frozenset({"EXCHANGE_RATE_NOT_FOUND", "EXCHANGE_RATE_STALE"})


@dataclass(frozen=True, slots=True)
class Supply:
    """What is sold to whom on which day: what the tax on an invoice depends on."""

    customer: Customer
    supply_date: date
    lines: tuple[TaxableLine, ...]


class RatingClient:
    """Asks the rating service on behalf of a tenant."""

    def __init__(self, channel: grpc.aio.Channel, identity: ServiceIdentity) -> None:
        self._stub = RatingServiceStub(channel)
        self._identity = identity

    async def get_plan(self, tenant: str, plan_id: str) -> SoldPlan:
        """Answer what the newest version of a plan sells.

        Raises:
            NotFound: PLAN_NOT_FOUND.
            Unavailable: SERVICE_UNAVAILABLE.
        """
        async with _asking("rating"):
            answer = await self._stub.GetPlan(
                GetPlanRequest(plan_id=plan_id),
                metadata=self._identity.metadata(tenant, _RATING_SCOPES),
                timeout=_TIMEOUT_S,
            )
        return SoldPlan(
            answer.plan.version,
            answer.plan.currency,
            tuple(
                PricedUsage(price.meter_id, tuple(sorted(price.dimensions.items())))
                for price in answer.plan.prices
            ),
        )

    async def check_overrides(self, tenant: str, subscription: Subscription, version: int) -> None:
        """Have rating read what was agreed instead of what a version of the plan says.

        Raises:
            InvalidInput: naming every bad field.
            DomainError: as `get_plan`, or RATING_FAILED.
        """
        start = subscription.start_time
        request = RateRequest(
            customer_id=subscription.customer_id,
            plan_id=subscription.plan_id,
            plan_version=version,
            period=render_interval(Interval(start, start + timedelta(days=1))),
            contract_start=render_time(start),
        )
        request.given_usage.SetInParent()
        request.overrides.MergeFromString(subscription.overrides)
        metadata = self._identity.metadata(tenant, _RATING_SCOPES)
        async with _asking("rating"):
            try:
                await self._stub.Rate(request, metadata=metadata, timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                refused = read_error(error)
                if not isinstance(refused, InvalidInput):
                    raise
                violations = tuple(
                    Violation(f"subscription.{each.field}", each.description)
                    for each in refused.violations
                )
                message = f"subscription.{refused.message}"
                raise InvalidInput(INVALID_FIELD, message, violations=violations) from error

    async def rate_each(
        self, tenant: str, periods: Sequence[tuple[Subscription, BillingPeriod]]
    ) -> list[Rating | DomainError]:
        """Rate many periods; each fails by itself, in the order asked.

        Those that depend on the periods before them are asked for again with these, so that
        nobody else pays for it. A rating that is refused is PLAN_NOT_FOUND or RATING_FAILED; where
        the service does not answer, each is SERVICE_UNAVAILABLE.
        """
        ratings = await self._rate_each(tenant, [_render_rate(*each) for each in periods])
        dependent = [
            index
            for index, rating in enumerate(ratings)
            if isinstance(rating, Rating) and rating.needs_earlier_periods
        ]
        for first in range(0, len(dependent), _DEPENDENT_PER_CALL_MAX):
            part = dependent[first : first + _DEPENDENT_PER_CALL_MAX]
            again = await self._rate_each(
                tenant, [_render_rate_with_earlier(*periods[index]) for index in part]
            )
            for index, rating in zip(part, again, strict=True):
                ratings[index] = rating
        return ratings

    async def _rate_each(
        self, tenant: str, requests: Sequence[RateRequest]
    ) -> list[Rating | DomainError]:
        request = BatchRateRequest(requests=requests)
        results: dict[int, Rating | DomainError] = {}
        try:
            async with _asking("rating"):
                async for answer in self._stub.BatchRate(
                    request,
                    metadata=self._identity.metadata(tenant, _RATING_SCOPES),
                    timeout=_BATCH_TIMEOUT_S,
                ):
                    results[answer.index] = (
                        _read_rating(answer.rating)
                        if answer.HasField("rating")
                        else _read_refusal("rating", answer.error)
                    )
        except DomainError as error:
            return [results.get(index, error) for index in range(len(requests))]
        return [results[index] for index in range(len(requests))]


LimitsOfPlan = Sequence[PlanLimit]
"""The limits of a version of a plan, which only this module reads."""


class PlanLimits:
    """Puts the limits of plans into the quota service on behalf of a tenant."""

    def __init__(
        self, rating: grpc.aio.Channel, quota: grpc.aio.Channel, identity: ServiceIdentity
    ) -> None:
        self._rating = RatingServiceStub(rating)
        self._quota = QuotaServiceStub(quota)
        self._identity = identity

    async def put(self, tenant: str, subscription: Subscription, limits: LimitsOfPlan) -> None:
        """Put limits for a subscription, until it ends.

        What was put before is put again at no effect, and one that is refused spoils no other.

        Raises:
            DomainError: a service refused, or SERVICE_UNAVAILABLE.
        """
        refusals = list[DomainError]()
        for limit in limits:
            try:
                async with _asking("quota"):
                    await self._quota.PutLimit(
                        render_put_limit(subscription, limit),
                        metadata=self._identity.metadata(tenant, _QUOTA_SCOPES),
                        timeout=_TIMEOUT_S,
                    )
            except DomainError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    async def delete(self, tenant: str, subscription: Subscription, limits: LimitsOfPlan) -> None:
        """Delete the limits of a subscription that has ended.

        Raises:
            DomainError: a service refused, or SERVICE_UNAVAILABLE.
        """
        for limit in limits:
            delete = render_delete_limit(subscription, limit)
            with suppress(NotFound):
                async with _asking("quota"):
                    await self._quota.DeleteLimit(
                        delete,
                        metadata=self._identity.metadata(tenant, _QUOTA_SCOPES),
                        timeout=_TIMEOUT_S,
                    )

    async def load(self, tenant: str, plan_id: str, start: datetime) -> LimitsOfPlan:
        """Load the limits of the version of a plan that rates a contract which began then.

        A plan that began later has none for it.

        Raises:
            DomainError: rating refused, or SERVICE_UNAVAILABLE.
        """
        try:
            async with _asking("rating"):
                answer = await self._rating.GetPlan(
                    GetPlanRequest(plan_id=plan_id, time=render_time(start)),
                    metadata=self._identity.metadata(tenant, _RATING_SCOPES),
                    timeout=_TIMEOUT_S,
                )
        except Precondition:
            return ()
        return answer.plan.limits


class MeterClient:
    """Tells the meter service which usage is on invoices."""

    def __init__(self, channel: grpc.aio.Channel, identity: ServiceIdentity) -> None:
        self._stub = MeterServiceStub(channel)
        self._identity = identity

    async def close_periods(self, tenant: str, ends: Iterable[tuple[str, datetime]]) -> None:
        """Let what comes from now on for before these ends, each a customer's, be late.

        Raises:
            Unavailable: SERVICE_UNAVAILABLE.
        """
        latest: dict[str, datetime] = {}
        for customer_id, end in ends:
            latest[customer_id] = max(end, latest.get(customer_id, end))
        written = " ".join(f"{each}={end.isoformat()}" for each, end in sorted(latest.items()))
        # The same ends are the same request, whoever asks: closing them again changes nothing.
        request = ClosePeriodsRequest(
            request_id=f"close-{sha256(written.encode()).hexdigest()}",
            periods=[
                ClosedPeriod(customer_id=customer_id, end_time=render_time(end))
                for customer_id, end in sorted(latest.items())
            ],
        )
        async with _asking("meter"):
            await self._stub.ClosePeriods(
                request,
                metadata=self._identity.metadata(tenant, _METER_SCOPES),
                timeout=_TIMEOUT_S,
            )


class TaxClient:
    """Asks the tax service on behalf of a tenant."""

    def __init__(self, channel: grpc.aio.Channel, identity: ServiceIdentity) -> None:
        self._stub = TaxServiceStub(channel)
        self._identity = identity

    async def determine_each(
        self, tenant: str, supplies: Sequence[Supply]
    ) -> list[Determination | DomainError]:
        """Determine the taxes of many invoices; each fails by itself, in the order asked.

        What is refused is TAX_UNDETERMINED; where the service does not answer, each is
        SERVICE_UNAVAILABLE.
        """
        results: list[Determination | DomainError] = []
        for batch in _batches(supplies):
            request = tax_service_pb2.BatchDetermineTaxRequest(requests=map(_render_supply, batch))
            try:
                async with _asking("tax"):
                    answer = await self._stub.BatchDetermineTax(
                        request,
                        metadata=self._identity.metadata(tenant, _TAX_SCOPES),
                        timeout=_BATCH_TIMEOUT_S,
                    )
            except DomainError as error:
                results.extend(error for _ in batch)
            else:
                results.extend(map(_read_tax_result, answer.results))
        return results

    async def get_exchange_rate(
        self, tenant: str, base: str, quote: str, day: date
    ) -> ExchangeRate:
        """Answer what one currency was worth in another on a day.

        Raises:
            Precondition: EXCHANGE_RATE_NOT_FOUND.
            Unavailable: SERVICE_UNAVAILABLE.
        """
        async with _asking("tax"):
            answer = await self._stub.GetExchangeRate(
                tax_service_pb2.GetExchangeRateRequest(
                    base_currency=base, quote_currency=quote, date=render_date(day)
                ),
                metadata=self._identity.metadata(tenant, _TAX_SCOPES),
                timeout=_TIMEOUT_S,
            )
        return read_exchange_rate(answer.rate)


@asynccontextmanager
async def _asking(service: str) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        answered = read_error(error)
        if isinstance(answered, DomainError):
            raise _translate(
                service,
                answered.reason,
                answered.message,
                metadata=answered.metadata,
                retry_after=answered.retry_after,
                is_unavailable=isinstance(answered, Unavailable),
            ) from error
        raise answered from error


def _read_refusal(service: str, status: Status) -> DomainError:
    info, retry = ErrorInfo(), RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return _translate(
        service,
        info.reason,
        status.message,
        metadata=info.metadata,
        retry_after=retry.retry_delay.ToTimedelta() or None,
        is_unavailable=status.code == grpc.StatusCode.UNAVAILABLE.value[0],
    )


def _translate(
    service: str,
    reason: str,
    message: str,
    *,
    metadata: Mapping[str, str],
    retry_after: timedelta | None,
    is_unavailable: bool,
) -> DomainError:
    if is_unavailable:
        return Unavailable(
            "SERVICE_UNAVAILABLE",
            f"the {service} service cannot answer now: {message}",
            metadata={"service": service},
            retry_after=retry_after or _RETRY_AFTER,
        )
    if reason == "PLAN_NOT_FOUND":
        return NotFound(reason, message, metadata=metadata)
    if reason in _EXCHANGE_RATE_REASONS:
        return Precondition("EXCHANGE_RATE_NOT_FOUND", message, metadata=metadata)
    ours = {"rating": "RATING_FAILED", "tax": "TAX_UNDETERMINED"}[service]
    return Precondition(ours, message, metadata=metadata)


def _render_rate(subscription: Subscription, period: BillingPeriod) -> RateRequest:
    part = rating_pb2.Proration(billed_days=period.billed_days, period_days=period.period_days)
    request = RateRequest(
        customer_id=subscription.customer_id,
        plan_id=subscription.plan_id,
        period=render_interval(period.interval),
        proration=None if period.is_whole else part,
        contract_start=render_time(subscription.start_time),
        time_zone=subscription.time_zone,
    )
    if subscription.overrides:
        request.overrides.MergeFromString(subscription.overrides)
    return request


def _render_rate_with_earlier(subscription: Subscription, period: BillingPeriod) -> RateRequest:
    request = _render_rate(subscription, period)
    before = periods_until(subscription, period.interval.start)[-_EARLIER_PERIODS_MAX:]
    for each in before:
        earlier = request.earlier_periods.add(period=render_interval(each.interval))
        if not each.is_whole:
            earlier.proration.billed_days = each.billed_days
            earlier.proration.period_days = each.period_days
    return request


def _read_rating(message: rating_pb2.Rating) -> Rating:
    return Rating(
        plan_id=message.plan_id,
        plan_version=message.plan_version,
        currency=message.currency,
        lines=tuple(map(read_rated_line, message.lines)),
        needs_earlier_periods=message.needs_earlier_periods,
    )


def _batches(supplies: Sequence[Supply]) -> Iterator[list[Supply]]:
    """Keep the answer to each call within what one message may hold."""
    batch: list[Supply] = []
    lines = 0
    for supply in supplies:
        if batch and lines + len(supply.lines) > _LINES_PER_CALL_MAX:
            yield batch
            batch, lines = [], 0
        batch.append(supply)
        lines += len(supply.lines)
    if batch:
        yield batch


def _render_supply(supply: Supply) -> tax_service_pb2.DetermineTaxRequest:
    address = supply.customer.address
    return tax_service_pb2.DetermineTaxRequest(
        buyer=tax_pb2.Buyer(
            address=tax_pb2.TaxAddress(
                country=address.country, region=address.region, postal_code=address.postal_code
            ),
            kind=BUYER_KINDS[supply.customer.kind],
            tax_ids=map(render_tax_id, supply.customer.tax_ids),
            exemption_certificates=map(
                tax_pb2.ExemptionCertificate.FromString, supply.customer.exemption_certificates
            ),
            location_evidence=map(
                tax_pb2.LocationEvidence.FromString, supply.customer.location_evidence
            ),
        ),
        supply_date=render_date(supply.supply_date),
        lines=[
            tax_service_pb2.TaxableLine(
                line_id=line.line_id,
                amount=render_money(line.amount),
                category=tax_pb2.ProductCategory.ValueType(line.category),
            )
            for line in supply.lines
        ],
        language=supply.customer.language.value,
    )


def _read_tax_result(
    result: tax_service_pb2.BatchDetermineTaxResult,
) -> Determination | DomainError:
    if result.HasField("error"):
        return _read_refusal("tax", result.error)
    determination = result.determination
    return Determination(
        lines=tuple(tuple(map(read_tax, line.taxes)) for line in determination.lines),
        totals=tuple(map(read_tax, determination.totals)),
        tax_total=parse_money(determination.tax_total, "tax_total"),
        buyer_tax_id=determination.buyer_tax_id.number,
        reported_taxes=tuple(map(read_reported_tax, determination.reported_taxes)),
    )
