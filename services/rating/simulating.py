"""Rates real usage again under plans that are not in force, customer by customer.

Usage of all customers is read side by side, so that memory does not grow with their number, and
other calls get their turn in between. Refuses to store anything, and to compute anything itself.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from kit.errors import DomainError, Precondition, Unavailable, Violation
from kit.interval import Interval
from kit.money import Money
from kit.postgres import Database
from services.rating.clients import MeterClient
from services.rating.metering import Metering, Meters, check_meters, found_meter
from services.rating.model import NO_OVERRIDES, Plan, PlanVersion, Price, Rating, Usage
from services.rating.overrides import override_version
from services.rating.pipeline import KnownLines, Terms, rate_period, spans_of
from services.rating.plan_versions import PlanVersions, with_alike
from services.rating.selection import Grain, History, Reading, Spans, readings_of
from services.rating.simulation import (
    Outcome,
    PlanOutcome,
    Progress,
    SimulatedCustomer,
    SimulatedPeriod,
    Simulation,
    SimulationReport,
    Step,
    Tally,
    compare,
    contract_of,
    tiered_prices,
    tiers_of,
)
from services.rating.usage_streams import SharedUsage, UsageStreams, is_shared, read_blocks

_TURN = 10
_UTC = ZoneInfo("UTC")


class Simulating:
    """Simulations over one database and one meter service."""

    def __init__(self, database: Database, meters: MeterClient) -> None:
        self._database = database
        self._meters = meters

    async def simulate(self, tenant: str, simulation: Simulation) -> AsyncGenerator[Step, None]:
        """Answer outcomes, some customers at a time, with progress between them; then a report.

        Raises:
            Precondition: METER_NOT_FOUND, UNKNOWN_DIMENSION, of a candidate.
            Unavailable: METER_UNAVAILABLE.
        """
        plan_ids = {customer.plan_id for customer in simulation.customers}
        versions = await PlanVersions.load(
            self._database, tenant, plan_ids | {simulation.current_plan_id}
        )
        metering = Metering(self._meters)
        agreed = [
            plan
            for customer in simulation.customers
            for plan in versions.agreed(customer.plan_id, customer.overrides)
        ]
        plans = [*simulation.candidates, *versions.plans, *agreed]
        meters = await metering.load_meters(tenant, plans)
        _check_candidates(simulation, meters)
        customers = simulation.customers or await self._find_customers(tenant, simulation, meters)
        ratings = _Ratings(
            metering, self._meters, tenant, simulation, versions=versions, meters=meters
        )
        tallies = tuple(map(Tally, simulation.candidates))
        done = failed = 0
        yield Progress(0, len(customers))
        async with aclosing(read_blocks(ratings.by_calendar(customers))) as blocks:
            async for rerating, block in blocks:
                outcomes = await rerating.rate_each(block)
                for index, tally in enumerate(tallies):
                    tally.add_each(outcomes, index)
                done += len(outcomes)
                failed += sum(outcome.error is not None for outcome in outcomes)
                yield outcomes
                yield Progress(done, len(customers))
        yield SimulationReport(tallies, done - failed, failed)

    async def _find_customers(
        self, tenant: str, simulation: Simulation, meters: Meters
    ) -> tuple[SimulatedCustomer, ...]:
        """Find everybody who used anything that a plan prices."""
        whole = Interval(simulation.periods[0].period.start, simulation.periods[-1].period.end)

        async def find(meter_id: str) -> set[str]:
            total = Reading(meter_id, None, (), (), (), Grain.TOTAL, None, History.NONE)
            found: set[str] = set()
            token: str | None = ""
            while token is not None:
                page = await self._meters.get_usage_page(
                    tenant, meter_id, whole, total, page_token=token
                )
                found.update(customer_id for customer_id, _ in page.rows)
                token = page.next_token or None
            return found

        known = [meter_id for meter_id, meter in meters.items() if meter is not None]
        ids = set[str]().union(*await asyncio.gather(*map(find, known)))
        plan_id = simulation.current_plan_id
        return tuple(SimulatedCustomer(each, plan_id, "", None, _UTC) for each in ids)


class _Ratings:
    """What all customers of a simulation share."""

    def __init__(
        self,
        metering: Metering,
        client: MeterClient,
        tenant: str,
        simulation: Simulation,
        *,
        versions: PlanVersions,
        meters: Meters,
    ) -> None:
        self.metering = metering
        self.client = client
        self.tenant = tenant
        self.meters = meters
        self._periods = simulation.periods
        # Candidates mostly change few prices: those that they have in common are rated once.
        prices: dict[Price, Price] = {}
        self.versions = versions.alike(prices)
        self.candidates = tuple(
            with_alike(PlanVersion(plan, 0, simulation.periods[0].period.start), prices)
            for plan in simulation.candidates
        )

    def by_calendar(self, customers: Iterable[SimulatedCustomer]) -> Iterator["_Rerating"]:
        """Keep customers apart by their periods, since only those of the same are read together."""
        groups: dict[int, list[SimulatedCustomer]] = {}
        for customer in sorted(customers, key=_customer_id):
            groups.setdefault(id(customer.periods or self._periods), []).append(customer)
        for group in groups.values():
            yield _Rerating(self, group[0].periods or self._periods, group)


class _Rerating:
    """Rates customers of the same periods again."""

    def __init__(
        self,
        shared: _Ratings,
        periods: tuple[SimulatedPeriod, ...],
        customers: Sequence[SimulatedCustomer],
    ) -> None:
        ids = [customer.customer_id for customer in customers]
        self.streams = UsageStreams(shared.client, shared.tenant, ids)
        self._customers = customers
        self._metering = shared.metering
        self._tenant = shared.tenant
        self._meters = shared.meters
        self._versions = shared.versions
        self._candidates = shared.candidates
        self._periods = periods
        self._before = tuple(
            tuple(each.period for each in periods[:index]) for index in range(len(periods))
        )
        self._plans = {
            id(version): _PlanInUse(version, self._read(version.plan, self._share))
            for version in (*self._candidates, *self._versions.all)
        }

    def _share(self, reading: Reading, spans: Spans) -> SharedUsage:
        unit = found_meter(self._meters, reading.meter_id).unit
        return self.streams.share(reading, spans, unit)

    def _read(
        self, plan: Plan, share: Callable[[Reading, Spans], SharedUsage | None]
    ) -> "_ReadPlan":
        """Say how the usage of a plan is read in each period, but for trials that cut it."""
        readings = readings_of(plan)
        fault = _fault_of(plan, self._meters)
        periods = []
        for index, each in enumerate(self._periods) if fault is None else ():
            terms = Terms("", each.period, previous_periods=self._before[index])
            spans = spans_of(plan, terms)
            periods.append(
                tuple(share(reading, spans) if is_shared(reading) else None for reading in readings)
            )
        return _ReadPlan(readings, tuple(periods), tiered_prices(plan), fault)

    async def rate_each(self, block: slice) -> tuple[Outcome, ...]:
        """Rate customers; where usage is read one by one, that of some at the same time."""
        customers = self._customers[block]
        outcomes: list[Outcome] = []
        for first in range(0, len(customers), _TURN):
            turn = customers[first : first + _TURN]
            outcomes += await asyncio.gather(*map(self._rate, turn))
            # Rating takes the processor; other calls get their turn here.
            await asyncio.sleep(0)
        return tuple(outcomes)

    async def _rate(self, customer: SimulatedCustomer) -> Outcome:
        known = _Known(len(self._periods))
        try:
            current = None
            if customer.plan_id is not None:
                outcome = await self._rate_periods(customer, customer.plan_id, known)
                current = outcome.total
            candidates = [
                await self._rate_periods(customer, version, known) for version in self._candidates
            ]
            return compare(customer, current, tuple(candidates))
        except Unavailable:
            raise
        except DomainError as error:
            return Outcome(customer.customer_id, customer.segment, error=error)

    async def _rate_periods(
        self,
        customer: SimulatedCustomer,
        rated_by: PlanVersion | str,
        known: "_Known",
    ) -> PlanOutcome:
        """Rate the periods in their order, but for those that end before the contract begins.

        A plan rates by the version that is in effect at the start of each.
        """
        ratings: list[Rating] = []
        earlier: list[tuple[Interval, Money]] = []
        used = self._plans[id(self._candidates[0])]
        for index, each in enumerate(self._periods):
            start = customer.contract_start
            if start is not None and start >= each.period.end:
                continue
            version = (
                self._versions.at(rated_by, each.period.start, start)
                if isinstance(rated_by, str)
                else rated_by
            )
            used = self._agreed(version, customer, known)
            contract = contract_of(customer, used.version.plan, each.period, earlier)
            terms = Terms(
                customer.customer_id,
                each.period,
                each.proration,
                contract,
                previous_periods=self._before[index],
            )
            usages = await self._usages(used, index, terms, known)
            rating = rate_period(used.version, terms, usages, known.lines[index])
            ratings.append(rating)
            earlier.append((each.period, rating.total))
        total = sum((rating.total for rating in ratings), Money.zero(used.version.plan.currency))
        return PlanOutcome(total, tiers_of(used.read.tiered, ratings))

    def _agreed(
        self, version: PlanVersion, customer: SimulatedCustomer, known: "_Known"
    ) -> "_PlanInUse":
        """Answer a version as it was agreed with a customer who is on that plan."""
        if customer.overrides == NO_OVERRIDES or version.plan.plan_id != customer.plan_id:
            return self._plans[id(version)]
        used = known.agreed.get(id(version))
        if used is None:
            agreed = override_version(version, customer.overrides)
            read = self._read(agreed.plan, self.streams.shared)
            used = known.agreed[id(version)] = _PlanInUse(agreed, read)
        return used

    async def _usages(
        self, used: "_PlanInUse", index: int, terms: Terms, known: "_Known"
    ) -> list[Usage]:
        plan, read = used.version.plan, used.read
        if read.fault is not None:
            raise read.fault
        is_cut = plan.trial is not None and spans_of(plan, terms).period != terms.period
        usages: list[Usage] = []
        for reading, shared in zip(read.readings, read.periods[index], strict=True):
            if shared is None or is_cut:
                usages.append(await self._own_usage(plan, reading, terms, known))
            else:
                usage = known.usages.get(shared.number)
                if usage is None:
                    usage = self.streams.usage_of(shared, terms.customer_id)
                    known.usages[shared.number] = usage
                usages.append(usage)
        return usages

    async def _own_usage(
        self, plan: Plan, reading: Reading, terms: Terms, known: "_Known"
    ) -> Usage:
        spans = spans_of(plan, terms)
        key = (reading, spans)
        usage = known.usages.get(key)
        if usage is None:
            usage = known.usages[key] = await self._metering.load_usage(
                self._tenant, terms.customer_id, spans, reading, self._meters
            )
        return usage


@dataclass(frozen=True, slots=True)
class _ReadPlan:
    """How the usage of a plan is read, by period, and what is wrong with that, if anything is.

    Nothing stands for usage that is read customer by customer.
    """

    readings: tuple[Reading, ...]
    periods: tuple[tuple[SharedUsage | None, ...], ...]
    tiered: frozenset[str]
    fault: DomainError | None


@dataclass(frozen=True, slots=True)
class _PlanInUse:
    """A version, perhaps as a customer agreed it, and how its usage is read."""

    version: PlanVersion
    read: _ReadPlan


class _Known:
    """What is known of one customer, since several plans price the same.

    Usage by its reading, shared usage by number; the lines of each period; and versions as they
    were agreed, by those that are stored.
    """

    def __init__(self, periods: int) -> None:
        self.agreed: dict[int, _PlanInUse] = {}
        self.usages: dict[int | tuple[Reading, Spans], Usage] = {}
        self.lines: tuple[KnownLines, ...] = tuple({} for _ in range(periods))


def _check_candidates(simulation: Simulation, meters: Meters) -> None:
    """Refuse candidates whose meters do not fit, naming the fields of all of them."""
    violations: list[Violation] = []
    first: Precondition | None = None
    for index, plan in enumerate(simulation.candidates):
        fault = _fault_of(plan, meters)
        if fault is not None:
            first = first or fault
            violations += [
                Violation(
                    f"candidates[{index}]{violation.field.removeprefix('plan')}",
                    violation.description,
                )
                for violation in fault.violations
            ]
    if first is not None:
        message = f"{violations[0].field}: {violations[0].description}"
        raise Precondition(
            first.reason, message, metadata=first.metadata, violations=tuple(violations)
        )


def _fault_of(plan: Plan, meters: Meters) -> Precondition | None:
    try:
        check_meters(plan, meters)
    except Precondition as fault:
        return fault
    return None


def _customer_id(customer: SimulatedCustomer) -> str:
    return customer.customer_id
