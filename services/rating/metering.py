"""What a plan's prices count, as the meter service has it.

Refuses to choose the version of a plan and to price what was used.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import chain

from kit.errors import Precondition, Unavailable, Violation
from kit.interval import Interval
from services.rating.clients import MeterClient
from services.rating.model import Meter, Plan, Price, Usage, UsageEntry
from services.rating.prices import CostPlusPrice, DynamicPrice
from services.rating.selection import (
    Grain,
    History,
    Reading,
    Spans,
    adds_parts,
    count,
    dimensions_of,
    readings_of,
)

_QUERY_MAX = timedelta(days=1800)
_METER_FIELDS = {
    DynamicPrice: "dynamic.amount_meter_id",
    CostPlusPrice: "cost_plus.cost_meter_id",
}

Meters = Mapping[str, Meter | Unavailable | None]
"""By id: the meter, nothing when there is none of that id, or that the service did not answer."""


class Metering:
    """Reads over one meter service."""

    def __init__(self, meters: MeterClient) -> None:
        self._meters = meters

    async def load_meters(self, tenant: str, plans: Iterable[Plan]) -> Meters:
        """Load the meters of plans, once each."""
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

    async def load_usages(
        self, tenant: str, customer_id: str, spans: Spans, plan: Plan, meters: Meters
    ) -> list[Usage]:
        """Ask for the usage of every price at once; no two prices of a plan count the same."""
        return await asyncio.gather(
            *(
                self.load_usage(tenant, customer_id, spans, reading, meters)
                for reading in readings_of(plan)
            )
        )

    async def load_usage(
        self, tenant: str, customer_id: str, spans: Spans, reading: Reading, meters: Meters
    ) -> Usage:
        """Ask for the usage of one price."""

        async def read(span: Interval | None, meter_id: str) -> tuple[UsageEntry, ...]:
            read = [
                await self._meters.get_usage(tenant, meter_id, customer_id, part, reading)
                for part in parts_of(span)
            ]
            return count(reading, chain.from_iterable(read))

        async def list_events(span: Interval | None) -> tuple[UsageEntry, ...]:
            listed = [
                await self._meters.list_events(tenant, meter, customer_id, part, reading)
                for part in parts_of(span)
            ]
            return count(reading, chain.from_iterable(listed))

        meter = found_meter(meters, reading.meter_id)
        amounts: tuple[UsageEntry, ...] = ()
        if reading.amount_meter_id is not None:
            amounts = await read(spans.period, reading.amount_meter_id)
        if reading.grain is Grain.EVENT:
            entries = await list_events(spans.period)
        else:
            entries = await read(spans.period, reading.meter_id)
        if reading.history is History.CHANGES:
            before = await list_events(spans.before(reading.history))
        else:
            before = await read(spans.before(reading.history), reading.meter_id)
        previous = spans.previous if reading.history is History.PERIODS else ()
        earlier = [await read(each, reading.meter_id) for each in previous]
        return Usage(entries, meter.unit, amounts, reading.excluded, before, tuple(earlier))


def check_meters(plan: Plan, meters: Meters) -> None:
    """Refuse prices whose meters do not exist, keep no dimension apart, or do not add up.

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
        if not meter.adds_up and adds_parts(price, reading):
            violation = Violation(
                f"{field}.meter_id",
                f"the figures of the meter {meter_id} do not add up, and the price adds parts",
            )
            yield "METER_NOT_ADDITIVE", metadata, violation


def parts_of(span: Interval | None) -> tuple[Interval, ...]:
    """Cut a span into what one query may cover; no span has no parts."""
    if span is None:
        return ()
    cuts = (span.start + _QUERY_MAX * n for n in range(1, span.duration // _QUERY_MAX + 1))
    return span.split_at(*cuts)


def found_meter(meters: Meters, meter_id: str) -> Meter:
    """Answer a meter of a plan that was checked.

    Raises:
        Unavailable: the meter service did not tell.
    """
    meter = meters[meter_id]
    if isinstance(meter, Unavailable):
        raise meter
    assert meter is not None, "the meters of the plan were checked"
    return meter
