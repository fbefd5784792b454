"""Brings together what customers were billed and what their events cost; reports thin margins.

Revenue is rated by the pipeline, costs are those of single events. Refuses to compute anything
itself, and to hold a transaction open while the meter is asked.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from decimal import Decimal

from kit.decimals import exactly
from kit.errors import InvalidInput
from kit.idempotency import Answer, Once
from kit.interval import Interval
from kit.money import Money
from kit.paging import Page, decode_page_token, encode_page_token
from kit.postgres import Database
from kit.telemetry import traced
from services.rating import cost_store, margin_store
from services.rating.clients import CustomerEvent, MeterClient
from services.rating.costs import RateTable, StoredCost, amount_of, in_effect
from services.rating.margins import (
    MODEL,
    PROVIDER,
    SERVICE_TIER,
    EventCost,
    MarginAlert,
    MarginQuestion,
    MarginReport,
    MarginTally,
    by_model,
    revenue_by_model,
)
from services.rating.metering import Metering, Meters, check_meters, found_meter
from services.rating.overrides import override_version
from services.rating.pipeline import Terms, rate_period, spans_of
from services.rating.plan_versions import PlanVersions
from services.rating.selection import readings_of
from services.rating.simulation import SimulatedCustomer, contract_of

_LISTED = "margin alerts"
_AT_ONCE = 10
_ASKED_ONE_BY_ONE_MAX = 20


class MarginUseCases:
    """The use cases of margins over one database and one meter service."""

    def __init__(self, database: Database, meters: MeterClient) -> None:
        self._database = database
        self._meters = meters

    @traced("rating.get_margins")
    async def get_margins(self, tenant: str, question: MarginQuestion) -> MarginReport:
        """Answer what is left of revenue, for each customer, model and plan.

        Raises:
            NotFound: PLAN_NOT_FOUND.
            Precondition: PLAN_NOT_IN_EFFECT, METER_NOT_FOUND, UNKNOWN_DIMENSION,
                CONTRACT_START_REQUIRED.
            Unavailable: METER_UNAVAILABLE.
            InvalidInput: an exchange rate is missing, or an amount is too large.
        """
        plan_of = {each.customer_id: each.plan_id or "" for each in question.customers}
        tally = MarginTally(plan_of)
        await self._add_revenues(tenant, question, tally)
        uncosted: Counter[tuple[str, str]] = Counter()
        costs = _CostBook(self._database, tenant)
        async for events in self._events(tenant, question):
            known = [event for event in events if event.customer_id in plan_of]
            await costs.load(event.dimensions.get(MODEL, "") for event in known)
            tally.add_costs(_costs_of(known, question, costs, uncosted))
        return MarginReport(
            question.currency,
            tally.margins(),
            tuple(
                (provider, model, uncosted[provider, model]) for provider, model in sorted(uncosted)
            ),
        )

    @traced("rating.report_margins")
    async def report_margins(
        self,
        tenant: str,
        question: MarginQuestion,
        minimum_percent: Decimal,
        once: Once[tuple[MarginAlert, ...], Answer],
    ) -> Answer:
        """Store the margins below a threshold that were not reported before, and answer them.

        Raises:
            As `get_margins`.
            Conflict: REQUEST_ID_REUSED.
        """
        report = await self.get_margins(tenant, question)
        below = [margin for margin in report.margins if margin.is_below(minimum_percent)]
        async with self._database.transaction(tenant) as transaction:

            async def save() -> tuple[MarginAlert, ...]:
                return await margin_store.save_alerts(
                    transaction,
                    tenant,
                    below,
                    minimum_percent=minimum_percent,
                    interval=question.interval,
                    currency=question.currency,
                    create_time=once.now,
                )

            return await once.run(transaction, tenant, save)

    @traced("rating.list_margin_alerts")
    async def list_alerts(self, tenant: str, page_size: int, page_token: str) -> Page[MarginAlert]:
        """Answer what was reported, in that order.

        Raises:
            InvalidInput: INVALID_PAGE_TOKEN.
        """
        last = decode_page_token(page_token, _LISTED)
        if last is not None and (len(last) != 1 or not last[0].isdecimal()):
            raise InvalidInput.of("page_token", "is malformed", "INVALID_PAGE_TOKEN")
        async with self._database.transaction(tenant) as transaction:
            found = await margin_store.load_alerts(
                transaction, tenant, after=int(last[0]) if last else 0, limit=page_size + 1
            )
        items = found[:page_size]
        more = len(found) > page_size
        token = encode_page_token(_LISTED, [str(items[-1].alert_id)]) if more else ""
        return Page(items, token)

    async def _add_revenues(
        self, tenant: str, question: MarginQuestion, tally: MarginTally
    ) -> None:
        plan_ids = [customer.plan_id for customer in question.customers]
        versions = await PlanVersions.load(self._database, tenant, plan_ids)
        metering = Metering(self._meters)
        agreed = [
            plan
            for customer in question.customers
            for plan in versions.agreed(customer.plan_id, customer.overrides)
        ]
        meters = await metering.load_meters(tenant, [*versions.plans, *agreed])
        rater = _Rater(metering, tenant, question, versions=versions, meters=meters)
        for first in range(0, len(question.customers), _AT_ONCE):
            turn = question.customers[first : first + _AT_ONCE]
            revenues = await asyncio.gather(*map(rater.revenue_of, turn))
            for customer, revenue in zip(turn, revenues, strict=True):
                tally.add_revenue(customer.customer_id, revenue)

    async def _events(
        self, tenant: str, question: MarginQuestion
    ) -> AsyncIterator[tuple[CustomerEvent, ...]]:
        """Go through the events of the periods: of few customers alone, else of everybody."""
        ids = [customer.customer_id for customer in question.customers]
        for each in question.periods:
            for customer_id in ids if len(ids) <= _ASKED_ONE_BY_ONE_MAX else [""]:
                token: str | None = ""
                while token is not None:
                    events, next_token = await self._meters.get_events_page(
                        tenant, customer_id, each.period, page_token=token
                    )
                    yield events
                    token = next_token or None


class _Rater:
    """Rates customers by period, with usage kept apart by model."""

    def __init__(
        self,
        metering: Metering,
        tenant: str,
        question: MarginQuestion,
        *,
        versions: PlanVersions,
        meters: Meters,
    ) -> None:
        self._metering = metering
        self._tenant = tenant
        self._question = question
        self._versions = versions
        self._meters = meters

    async def revenue_of(self, customer: SimulatedCustomer) -> Mapping[str, Decimal]:
        """Answer what a customer was billed over all periods, by model."""
        amounts: dict[str, Decimal] = {}
        earlier: list[tuple[Interval, Money]] = []
        periods = [each.period for each in self._question.periods]
        for index, each in enumerate(self._question.periods):
            start = customer.contract_start
            if customer.plan_id is None or (start is not None and start >= each.period.end):
                continue
            version = override_version(
                self._versions.at(customer.plan_id, each.period.start, start), customer.overrides
            )
            check_meters(version.plan, self._meters)
            terms = Terms(
                customer.customer_id,
                each.period,
                each.proration,
                contract_of(customer, version.plan, each.period, earlier),
                previous_periods=tuple(periods[:index]),
            )
            spans = spans_of(version.plan, terms)
            usages = await asyncio.gather(
                *(
                    self._metering.load_usage(
                        self._tenant,
                        customer.customer_id,
                        spans,
                        by_model(
                            reading, [found_meter(self._meters, each) for each in reading.meter_ids]
                        ),
                        self._meters,
                    )
                    for reading in readings_of(version.plan)
                )
            )
            rating = rate_period(version, terms, usages)
            earlier.append((each.period, rating.total))
            worth = self._question.worth(version.plan.currency)
            with exactly():
                for model, amount in revenue_by_model(version, terms, usages, rating).items():
                    amounts[model] = amounts.get(model, Decimal(0)) + amount * worth
        return amounts


class _CostBook:
    """What providers charge, loaded as events name their models."""

    def __init__(self, database: Database, tenant: str) -> None:
        self._database = database
        self._tenant = tenant
        self._models: set[str] = set()
        self._costs: dict[cost_store.CostKey, tuple[StoredCost, ...]] = {}
        self._providers: dict[str, list[str]] = {}
        self._tables: dict[tuple[cost_store.CostKey, int], RateTable] = {}

    async def load(self, models: Iterable[str]) -> None:
        """Load the costs of models that were not named before."""
        new = set(models) - self._models
        if not new:
            return
        self._models |= new
        async with self._database.transaction(self._tenant) as transaction:
            found = await cost_store.load_costs_of_models(transaction, self._tenant, new)
        self._costs |= found
        for provider, model in found:
            self._providers.setdefault(model, []).append(provider)

    def table_of(self, provider: str, model: str, instant: datetime) -> RateTable | None:
        """Find the rates of an event; without its provider those of the only one there is."""
        key = (provider, model)
        providers = self._providers.get(model, [])
        if key not in self._costs and not provider and len(providers) == 1:
            key = (providers[0], model)
        stored = in_effect(self._costs.get(key, ()), instant)
        if stored is None:
            return None
        known = self._tables.get((key, stored.revision))
        if known is None:
            known = self._tables[key, stored.revision] = RateTable(stored.cost)
        return known


def _costs_of(
    events: Iterable[CustomerEvent],
    question: MarginQuestion,
    costs: _CostBook,
    uncosted: Counter[tuple[str, str]],
) -> list[EventCost]:
    """Charge each event by itself, and count those whose cost is not known."""
    charged: list[EventCost] = []
    for event in events:
        model = event.dimensions.get(MODEL, "")
        provider = event.dimensions.get(PROVIDER, "")
        table = costs.table_of(provider, model, event.time)
        if table is None:
            uncosted[provider, model] += 1
            continue
        steps = table.steps_of(event.quantities, event.dimensions.get(SERVICE_TIER, ""))
        with exactly():
            amount = amount_of(steps) * question.worth(table.cost.currency)
        charged.append(EventCost(event.customer_id, model, amount))
    return charged
