"""What the rating service does: loads plans and usage, asks the core, and stores what is put.

Refuses to compute anything itself, and to hold a transaction open while the meter is asked.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from kit.errors import (
    AlreadyExists,
    DomainError,
    InvalidInput,
    NotFound,
    Precondition,
    Unavailable,
)
from kit.idempotency import Answer, Once
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import get_logger, traced
from services.rating import store
from services.rating.clients import MeterClient
from services.rating.days import local_day
from services.rating.estimating import Estimate, estimate, estimate_alone
from services.rating.fees import begin_of_term, ends_term, needs_earlier_periods
from services.rating.metering import Metering, Meters, check_meters
from services.rating.model import (
    GivenUsage,
    Overrides,
    PeriodToRate,
    Plan,
    PlanVersion,
    Rating,
    Usage,
)
from services.rating.overrides import override
from services.rating.pipeline import rate_period, spans_of, terms_of
from services.rating.rate_card import RateCardEntry, rate_card_of
from services.rating.selection import (
    count_given,
)

_ALL_PLANS = "all plans"
_OPEN_PLANS = "plans"
_RATED_AT_ONCE_MAX = 16
_PREVIOUS_MAX = 60


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
    meters: Meters


class RatingUseCases:
    """The use cases over one database and one meter service."""

    def __init__(self, database: Database, meters: MeterClient) -> None:
        self._database = database
        self._metering = Metering(meters)

    @traced("rating.put_plan")
    async def put_plan(self, tenant: str, plan: Plan, once: Once[PlanVersion, Answer]) -> Answer:
        """Store a plan as a new version, or answer the version that says the same.

        When the meter service does not answer, the meters are left for the rating to check.

        Raises:
            Precondition: METER_NOT_FOUND, UNKNOWN_DIMENSION, METER_NOT_ADDITIVE, PLAN_ARCHIVED.
            Conflict: REQUEST_ID_REUSED.
            AlreadyExists: PLAN_VERSION_EXISTS.
        """
        meters = await self._metering.load_meters(tenant, [plan])
        if any(isinstance(meter, Unavailable) for meter in meters.values()):
            get_logger().warning("rating.meters_unchecked", plan_id=plan.plan_id)
        check_meters(plan, meters)
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
    async def get_plan(
        self, tenant: str, plan_id: str, version: int | None, instant: datetime | None
    ) -> PlanVersion:
        """Answer a version of a plan: the one named or in effect at an instant, else the newest.

        Raises:
            NotFound: PLAN_NOT_FOUND.
            Precondition: PLAN_NOT_IN_EFFECT.
        """
        found: PlanVersion | DomainError | None
        async with self._database.transaction(tenant) as transaction:
            if version is not None:
                found = await store.load_version(transaction, tenant, plan_id, version)
            elif instant is not None:
                wanted = _Wanted(plan_id, None, instant, instant)
                found = await self._find_version(transaction, tenant, wanted)
            else:
                found = await store.load_newest(transaction, tenant, plan_id)
        if isinstance(found, DomainError):
            raise found
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
        terms = terms_of(to_rate)
        if alone:
            return estimate_alone(version, terms, call)
        so_far = await self._usages_of(tenant, to_rate, version, prepared)
        return estimate(version, terms, so_far, call)

    @traced("rating.rate")
    async def rate(self, tenant: str, to_rate: PeriodToRate) -> Rating:
        """Rate a period of a customer.

        Raises:
            NotFound: PLAN_NOT_FOUND.
            Precondition: PLAN_NOT_IN_EFFECT, METER_NOT_FOUND, UNKNOWN_DIMENSION,
                METER_NOT_ADDITIVE.
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
        plan, period, contract = version.plan, to_rate.period, to_rate.contract
        if to_rate.earlier_periods and to_rate.as_of is None and ends_term(plan, period, contract):
            billed = await self._billed_in_term(tenant, to_rate, plan)
            to_rate = replace(to_rate, contract=replace(contract, billed_before=billed))
        usages = await self._usages_of(tenant, to_rate, version, prepared)
        rating = rate_period(version, terms_of(to_rate), usages)
        is_told = to_rate.earlier_periods or to_rate.previous_periods or contract.billed_before
        if not is_told and needs_earlier_periods(plan, period, contract):
            return replace(rating, needs_earlier_periods=True)
        return rating

    async def _billed_in_term(self, tenant: str, to_rate: PeriodToRate, plan: Plan) -> Decimal:
        """Rate the earlier periods of the term again: what they came to was billed before."""
        contract, zone = to_rate.contract, to_rate.contract.time_zone
        assert plan.commitment is not None, "its term ends"
        if contract.start is None or contract.start >= to_rate.period.start:
            return Decimal(0)
        begin = begin_of_term(plan.commitment, contract, to_rate.period.start)
        earlier, given = to_rate.earlier_periods, to_rate.given_usage
        if given is not None:
            # What has no time was used in the period that is rated.
            given = tuple(usage for usage in given if usage.entry.time is not None)
        asked = [
            replace(
                to_rate,
                period=each.period,
                proration=each.proration,
                previous_periods=tuple(
                    before.period for before in earlier[max(index - _PREVIOUS_MAX, 0) : index]
                ),
                earlier_periods=(),
                given_usage=given,
            )
            for index, each in enumerate(earlier)
            if local_day(each.period.start, zone) >= begin
        ]
        prepared = await self._prepare(tenant, asked)
        ratings = await asyncio.gather(*(self._rate(tenant, each, prepared) for each in asked))
        return sum((rating.total.to_decimal() for rating in ratings), Decimal(0))

    async def _usages_of(
        self, tenant: str, to_rate: PeriodToRate, version: PlanVersion, prepared: _Prepared
    ) -> Sequence[Usage]:
        """Count the usage that is given, or ask the meters for it."""
        spans = spans_of(version.plan, terms_of(to_rate))
        if to_rate.given_usage is not None:
            return count_given(version.plan, to_rate.given_usage, spans)
        check_meters(version.plan, prepared.meters)
        return await self._metering.load_usages(
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
        return _Prepared(versions, await self._metering.load_meters(tenant, plans))

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


def _wanted(to_rate: PeriodToRate) -> _Wanted:
    start = to_rate.period.start
    return _Wanted(to_rate.plan_id, to_rate.plan_version, start, to_rate.contract.start or start)


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
