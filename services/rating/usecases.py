"""What the rating service does: loads plans and usage, asks the core, and stores what is put.

Refuses to compute anything itself, and to hold a transaction open while the meter is asked.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import (
    AlreadyExists,
    DomainError,
    InvalidInput,
    NotFound,
    Precondition,
    Unavailable,
    Violation,
)
from kit.idempotency import Answer, Once
from kit.interval import Interval
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import get_logger, traced
from services.rating import store
from services.rating.clients import MeterClient
from services.rating.estimating import Estimate, estimate, estimate_alone
from services.rating.model import (
    GivenUsage,
    Meter,
    Overrides,
    PeriodToRate,
    Plan,
    PlanVersion,
    Price,
    Rating,
    Usage,
    UsageEntry,
)
from services.rating.overrides import override
from services.rating.pipeline import Terms, rate_period, spans_of
from services.rating.prices import CostPlusPrice, DynamicPrice
from services.rating.rate_card import RateCardEntry, rate_card_of
from services.rating.selection import (
    Grain,
    History,
    Reading,
    Spans,
    count,
    count_given,
    dimensions_of,
    readings_of,
)

_ALL_PLANS = "all plans"
_OPEN_PLANS = "plans"
_RATED_AT_ONCE_MAX = 16
_QUERY_MAX = timedelta(days=1800)
_METER_FIELDS = {
    DynamicPrice: "dynamic.amount_meter_id",
    CostPlusPrice: "cost_plus.cost_meter_id",
}


# By id: the meter, nothing when there is none of that id, or that the service did not answer.
_Meters = Mapping[str, Meter | Unavailable | None]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which version of a plan rates; without a version, the one in effect at the instant.

    Versions that keep contracts depend on when the contract began.
    """

    plan_id: str
    version: int | None
    instant: datetime
    contract_start: datetime


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What several ratings share: versions of plans and meters, or why there is none."""

    versions: dict[_Wanted, PlanVersion | DomainError]
    meters: _Meters


class RatingUseCases:
    """The use cases over one database and one meter service."""

    def __init__(self, database: Database, meters: MeterClient) -> None:
        self._database = database
        self._meters = meters

    @traced("rating.put_plan")
    async def put_plan(self, tenant: str, plan: Plan, once: Once[PlanVersion, Answer]) -> Answer:
        """Store a plan as a new version, or answer the version that says the same.

        When the meter service does not answer, the meters are left for the rating to check.

        Raises:
            Precondition: METER_NOT_FOUND, UNKNOWN_DIMENSION, PLAN_ARCHIVED.
            Conflict: REQUEST_ID_REUSED.
            AlreadyExists: PLAN_VERSION_EXISTS.
        """
        meters = await self._load_meters(tenant, [plan])
        if any(isinstance(meter, Unavailable) for meter in meters.values()):
            get_logger().warning("rating.meters_unchecked", plan_id=plan.plan_id)
        _check_meters(plan, meters)
        async with self._database.transaction(tenant) as transaction:

            async def put() -> PlanVersion:
                await store.lock_plan(transaction, tenant, plan.plan_id)
                newest = await store.load_newest(transaction, tenant, plan.plan_id)
                if newest is not None and newest.archive_time is not None:
                    raise _plan_archived(plan.plan_id)
                same_time = await store.load_with_effective_time(
                    transaction, tenant, plan.plan_id, plan.effective_time
                )
                if same_time is None:
                    return await store.save_next_version(transaction, tenant, plan, once.now)
                if same_time.plan != plan:
                    raise _version_exists(same_time)
                return same_time

            return await once.run(transaction, tenant, put)

    @traced("rating.get_plan")
    async def get_plan(self, tenant: str, plan_id: str, version: int | None) -> PlanVersion:
        """Answer a version of a plan; no version is the newest.

        Raises:
            NotFound: PLAN_NOT_FOUND.
        """
        async with self._database.transaction(tenant) as transaction:
            if version is None:
                found = await store.load_newest(transaction, tenant, plan_id)
            else:
                found = await store.load_version(transaction, tenant, plan_id, version)
        if found is None:
            raise _plan_not_found(plan_id, version)
        return found

    @traced("rating.list_plans")
    async def list_plans(
        self, tenant: str, page_size: int, page_token: str, *, show_archived: bool
    ) -> Page[PlanVersion]:
        """Answer the newest version of each plan, ordered by id, perhaps of archived ones as well.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        listed = _ALL_PLANS if show_archived else _OPEN_PLANS
        last = decode_page_token(page_token, listed)
        async with self._database.transaction(tenant) as transaction:
            found = await store.load_newest_of_each(
                transaction,
                tenant,
                after=last[0] if last else "",
                limit=page_size + 1,
                show_archived=show_archived,
            )
        plans = found[:page_size]
        more = len(found) > page_size
        token = encode_page_token(listed, [plans[-1].plan.plan_id]) if more else ""
        return Page(plans, token)

    @traced("rating.archive_plan")
    async def archive_plan(
        self, tenant: str, plan_id: str, once: Once[PlanVersion, Answer]
    ) -> Answer:
        """Take a plan off the list and close it for new versions, and answer its newest.

        Raises:
            NotFound: PLAN_NOT_FOUND.
            Conflict: REQUEST_ID_REUSED.
        """
        async with self._database.transaction(tenant) as transaction:

            async def archive() -> PlanVersion:
                await store.lock_plan(transaction, tenant, plan_id)
                newest = await store.load_newest(transaction, tenant, plan_id)
                if newest is None:
                    raise _plan_not_found(plan_id, None)
                if newest.archive_time is not None:
                    return newest
                await store.save_archive_time(transaction, tenant, plan_id, once.now)
                return replace(newest, archive_time=once.now)

            return await once.run(transaction, tenant, archive)

    @traced("rating.get_rate_card")
    async def get_rate_card(
        self, tenant: str, plan_id: str, version: int | None, instant: datetime
    ) -> tuple[PlanVersion, tuple[RateCardEntry, ...]]:
        """Answer what units cost under a version, by default under the one in effect.

        Raises:
            NotFound: PLAN_NOT_FOUND.
            Precondition: PLAN_NOT_IN_EFFECT.
        """
        async with self._database.transaction(tenant) as transaction:
            wanted = _Wanted(plan_id, version, instant, instant)
            found = await self._find_version(transaction, tenant, wanted)
        if isinstance(found, DomainError):
            raise found
        return found, rate_card_of(found.plan)

    @traced("rating.estimate_cost")
    async def estimate_cost(
        self, tenant: str, to_rate: PeriodToRate, call: Sequence[GivenUsage], *, alone: bool
    ) -> Estimate:
        """Estimate what a call adds to a period, or costs alone.

        Raises:
            As `rate`.
        """
        if alone:
            to_rate = replace(to_rate, given_usage=())
        prepared = await self._prepare(tenant, [to_rate])
        version = _version_of(to_rate, prepared)
        terms = _terms_of(to_rate)
        if alone:
            return estimate_alone(version, terms, call)
        so_far = await self._usages_of(tenant, to_rate, version, prepared)
        return estimate(version, terms, so_far, call)

    @traced("rating.rate")
    async def rate(self, tenant: str, to_rate: PeriodToRate) -> Rating:
        """Rate a period of a customer.

        Raises:
            NotFound: PLAN_NOT_FOUND.
            Precondition: PLAN_NOT_IN_EFFECT, METER_NOT_FOUND, UNKNOWN_DIMENSION.
            Unavailable: METER_UNAVAILABLE.
            InvalidInput: the amount or the usage is too large.
        """
        prepared = await self._prepare(tenant, [to_rate])
        return await self._rate(tenant, to_rate, prepared)

    async def rate_each(
        self, tenant: str, to_rate: Sequence[PeriodToRate | DomainError]
    ) -> AsyncGenerator[Rating | DomainError, None]:
        """Rate many periods, in order, some at a time; each fails by itself, as `rate` would."""
        periods = [each for each in to_rate if isinstance(each, PeriodToRate)]
        prepared = await self._prepare(tenant, periods)
        running: deque[asyncio.Task[Rating | DomainError]] = deque()
        try:
            for each in to_rate:
                running.append(asyncio.create_task(self._attempt(tenant, each, prepared)))
                if len(running) == _RATED_AT_ONCE_MAX:
                    yield await running[0]
                    running.popleft()
            while running:
                yield await running[0]
                running.popleft()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _attempt(
        self, tenant: str, to_rate: PeriodToRate | DomainError, prepared: _Prepared
    ) -> Rating | DomainError:
        if isinstance(to_rate, DomainError):
            return to_rate
        try:
            return await self._rate(tenant, to_rate, prepared)
        except DomainError as error:
            return error

    async def _rate(self, tenant: str, to_rate: PeriodToRate, prepared: _Prepared) -> Rating:
        version = _version_of(to_rate, prepared)
        usages = await self._usages_of(tenant, to_rate, version, prepared)
        return rate_period(version, _terms_of(to_rate), usages)

    async def _usages_of(
        self, tenant: str, to_rate: PeriodToRate, version: PlanVersion, prepared: _Prepared
    ) -> Sequence[Usage]:
        """Count the usage that is given, or ask the meters for it."""
        spans = spans_of(version.plan, _terms_of(to_rate))
        if to_rate.given_usage is not None:
            return count_given(version.plan, to_rate.given_usage, spans)
        _check_meters(version.plan, prepared.meters)
        return await self._load_usages(
            tenant, to_rate.customer_id, spans, version.plan, prepared.meters
        )

    async def _prepare(self, tenant: str, to_rate: Sequence[PeriodToRate]) -> _Prepared:
        """Load once what the ratings share: the plans, in one transaction, then the meters."""
        async with self._database.transaction(tenant) as transaction:
            versions: dict[_Wanted, PlanVersion | DomainError] = {}
            for wanted in dict.fromkeys(map(_wanted, to_rate)):
                versions[wanted] = await self._find_version(transaction, tenant, wanted)
        plans = [
            plan
            for each in to_rate
            if each.given_usage is None
            for plan in _plans_of(versions[_wanted(each)], each.overrides)
        ]
        return _Prepared(versions, await self._load_meters(tenant, plans))

    async def _find_version(
        self, transaction: AsyncConnection, tenant: str, wanted: _Wanted
    ) -> PlanVersion | DomainError:
        plan_id = wanted.plan_id
        if wanted.version is not None:
            found = await store.load_version(transaction, tenant, plan_id, wanted.version)
            return found or _plan_not_found(plan_id, wanted.version)
        found = await store.load_in_effect(
            transaction, tenant, plan_id, wanted.instant, wanted.contract_start
        )
        if found is not None:
            return found
        if await store.load_newest(transaction, tenant, plan_id) is None:
            return _plan_not_found(plan_id, None)
        return _plan_not_in_effect(plan_id, wanted.instant)

    async def _load_meters(self, tenant: str, plans: Iterable[Plan]) -> _Meters:
        ids = list(
            dict.fromkeys(
                meter_id
                for plan in plans
                for reading in readings_of(plan)
                for meter_id in reading.meter_ids
            )
        )

        async def load(meter_id: str) -> Meter | Unavailable | None:
            try:
                return await self._meters.get_meter(tenant, meter_id)
            except Unavailable as error:
                return error

        return dict(zip(ids, await asyncio.gather(*map(load, ids)), strict=True))

    async def _load_usages(
        self, tenant: str, customer_id: str, spans: Spans, plan: Plan, meters: _Meters
    ) -> list[Usage]:
        """Ask for the usage of every price at once; no two prices of a plan count the same."""

        async def read(
            span: Interval | None, reading: Reading, meter_id: str
        ) -> tuple[UsageEntry, ...]:
            parts = () if span is None else _parts(span)
            read = [
                await self._meters.get_usage(tenant, meter_id, customer_id, part, reading)
                for part in parts
            ]
            return count(reading, chain.from_iterable(read))

        async def load(reading: Reading) -> Usage:
            meter = _found(meters, reading.meter_id)
            amounts: tuple[UsageEntry, ...] = ()
            if reading.amount_meter_id is not None:
                amounts = await read(spans.period, reading, reading.amount_meter_id)
            if reading.grain is Grain.EVENT and spans.period is not None:
                events = await self._meters.list_events(
                    tenant, meter, customer_id, spans.period, reading
                )
                entries = count(reading, events)
            else:
                entries = await read(spans.period, reading, reading.meter_id)
            before = await read(spans.before(reading.history), reading, reading.meter_id)
            previous = spans.previous if reading.history is History.PERIODS else ()
            earlier = [await read(each, reading, reading.meter_id) for each in previous]
            return Usage(entries, meter.unit, amounts, reading.excluded, before, tuple(earlier))

        return await asyncio.gather(*map(load, readings_of(plan)))


def _parts(span: Interval) -> tuple[Interval, ...]:
    """Cut a span into what one query may cover."""
    cuts = (span.start + _QUERY_MAX * n for n in range(1, span.duration // _QUERY_MAX + 1))
    return span.split_at(*cuts)


def _found(meters: _Meters, meter_id: str) -> Meter:
    meter = meters[meter_id]
    if isinstance(meter, Unavailable):
        raise meter
    assert meter is not None, "the meters of the plan were checked"
    return meter


def _plans_of(version: PlanVersion | DomainError, overrides: Overrides) -> Iterator[Plan]:
    """Answer the plan whose meters are asked; one that cannot be had fails when it rates."""
    if isinstance(version, PlanVersion):
        with suppress(InvalidInput):
            yield override(version.plan, overrides)


def _version_of(to_rate: PeriodToRate, prepared: _Prepared) -> PlanVersion:
    version = prepared.versions[_wanted(to_rate)]
    if isinstance(version, DomainError):
        raise version
    return replace(version, plan=override(version.plan, to_rate.overrides))


def _terms_of(to_rate: PeriodToRate) -> Terms:
    return Terms(
        to_rate.customer_id,
        to_rate.period,
        to_rate.proration,
        to_rate.contract,
        to_rate.as_of,
        to_rate.previous_periods,
    )


def _wanted(to_rate: PeriodToRate) -> _Wanted:
    start = to_rate.period.start
    return _Wanted(to_rate.plan_id, to_rate.plan_version, start, to_rate.contract.start or start)


def _check_meters(plan: Plan, meters: _Meters) -> None:
    """Refuse prices whose meters do not exist or do not keep their dimensions apart.

    Meters of which the meter service did not tell are taken as good.
    """
    faults = [
        fault
        for index, (price, reading) in enumerate(zip(plan.prices, readings_of(plan), strict=True))
        for meter_id in reading.meter_ids
        for fault in _faults(f"plan.prices[{index}]", price, reading, meter_id, meters[meter_id])
    ]
    if faults:
        reason, metadata, first = faults[0]
        message = f"{first.field}: {first.description}"
        violations = tuple(violation for _, _, violation in faults)
        raise Precondition(reason, message, metadata=metadata, violations=violations)


def _faults(
    field: str, price: Price, reading: Reading, meter_id: str, meter: Meter | Unavailable | None
) -> Iterator[tuple[str, dict[str, str], Violation]]:
    metadata = {"meter_id": meter_id, "price_id": price.price_id}
    if meter is None:
        inner = _METER_FIELDS.get(type(price.model), "meter_id")
        name = "meter_id" if meter_id == price.meter_id else inner
        violation = Violation(f"{field}.{name}", f"there is no meter {meter_id}")
        yield "METER_NOT_FOUND", metadata, violation
    elif isinstance(meter, Meter):
        for name in dimensions_of(reading):
            if name not in meter.dimensions:
                violation = Violation(
                    f"{field}.dimensions.{name}",
                    f"the meter {meter_id} does not keep this dimension",
                )
                yield "UNKNOWN_DIMENSION", {**metadata, "dimension": name}, violation


def _plan_not_found(plan_id: str, version: int | None) -> NotFound:
    metadata = {"plan_id": plan_id, **({} if version is None else {"version": str(version)})}
    what = f"plan {plan_id}" if version is None else f"version {version} of the plan {plan_id}"
    return NotFound("PLAN_NOT_FOUND", f"there is no {what}", metadata=metadata)


def _plan_archived(plan_id: str) -> Precondition:
    return Precondition(
        "PLAN_ARCHIVED",
        f"the plan {plan_id} is archived and takes no new version",
        metadata={"plan_id": plan_id},
    )


def _plan_not_in_effect(plan_id: str, instant: datetime) -> Precondition:
    time = _written(instant)
    return Precondition(
        "PLAN_NOT_IN_EFFECT",
        f"no version of the plan {plan_id} is in effect at {time}",
        metadata={"plan_id": plan_id, "time": time},
    )


def _version_exists(stored: PlanVersion) -> AlreadyExists:
    effective_time = stored.plan.effective_time
    time = "" if effective_time is None else _written(effective_time)
    return AlreadyExists(
        "PLAN_VERSION_EXISTS",
        f"version {stored.version} of the plan {stored.plan.plan_id} says something else for the"
        f" same time, {time or 'since ever'}: give the new content a later effective_time",
        metadata={"plan_id": stored.plan.plan_id, "effective_time": time},
    )


def _written(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
