"""Compares what was replayed with what the meters answer.

What a meter should say is added up here from the events that were sent, by the meter's own
definition and in exact decimals; what it does say is asked of the meter service.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from cli.call_meters import TRACE_DIMENSION
from cli.replay.mapping import event_time, interval_end
from cli.replay.sending import patiently
from cli.services import Services
from kit.decimals import exactly, parse_decimal
from kit.interval import Interval
from kit.rpc.wire import render_interval
from tollkeeper.api.meter.v1.meter_pb2 import AGGREGATION_COUNT, Meter, UsageEvent, UsageRow
from tollkeeper.api.meter.v1.meter_service_pb2 import QueryUsageRequest

_ROWS_PER_PAGE = 10_000
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class MeterTotal:
    """One meter after a replay.

    Args:
        meter_id: The meter.
        sent: What the replayed events add up to.
        metered: What the meter answers for their customers and time.
        alone: Whether the meter can tell this replay from other usage; if it cannot, `metered` may
            be more than `sent`.
    """

    meter_id: str
    sent: Decimal
    metered: Decimal
    alone: bool

    @property
    def agrees(self) -> bool:
        """Tell whether the meter has what was sent, and nothing else where it can tell."""
        return self.metered == self.sent if self.alone else self.metered >= self.sent


@dataclass(slots=True)
class Account:
    """What the events taken so far add up to, in the eyes of each meter.

    Args:
        meters: The meters that are asked in the end.
    """

    meters: Sequence[Meter]
    customers: set[str] = field(default_factory=set)
    traces: set[str] = field(default_factory=set)
    earliest: datetime | None = None
    latest: datetime | None = None
    _sums: dict[str, Decimal] = field(default_factory=dict)

    def add(self, event: UsageEvent) -> None:
        """Add an event that was taken."""
        time = event_time(event)
        self.earliest = min(self.earliest or time, time)
        self.latest = max(self.latest or time, time)
        self.customers.add(event.subject.customer_id)
        self.traces.add(event.dimensions.get(TRACE_DIMENSION, ""))
        with exactly():
            for meter in self.meters:
                if counts(meter, event):
                    so_far = self._sums.get(meter.meter_id, _ZERO)
                    self._sums[meter.meter_id] = so_far + contribution(meter, event)

    async def compare(self, services: Services, patience_s: float) -> list[MeterTotal]:
        """Ask every meter that counts any of the events.

        Raises:
            CommandError: The meter service did not answer in time.
        """
        if self.earliest is None or self.latest is None:
            return []
        interval = Interval(self.earliest, interval_end(self.latest))
        return [
            await self._total(services, meter, interval, patience_s)
            for meter in self.meters
            if meter.meter_id in self._sums
        ]

    async def _total(
        self, services: Services, meter: Meter, interval: Interval, patience_s: float
    ) -> MeterTotal:
        # A trace has one name, and usage events of a file have none.
        (trace, *others) = self.traces
        alone = bool(trace) and not others and TRACE_DIMENSION in meter.group_by
        request = QueryUsageRequest(
            meter_id=meter.meter_id,
            interval=render_interval(interval),
            filters={TRACE_DIMENSION: trace} if alone else None,
            page_size=_ROWS_PER_PAGE,
        )
        metered = _ZERO
        while True:
            page = await patiently(services, services.meter.QueryUsage, request, patience_s)
            with exactly():
                metered += sum(map(self._quantity, page.rows), _ZERO)
            if not page.next_page_token:
                sent = self._sums[meter.meter_id]
                return MeterTotal(meter.meter_id, sent, metered, alone)
            request.page_token = page.next_page_token

    def _quantity(self, row: UsageRow) -> Decimal:
        if row.customer_id not in self.customers:
            return _ZERO
        return parse_decimal(row.quantity.value, "quantity")


def counts(meter: Meter, event: UsageEvent) -> bool:
    """Tell whether a meter counts an event, by the meter's definition."""
    return meter.event_type == event.type and all(
        event.dimensions.get(dimension, "") in allowed.values
        for dimension, allowed in meter.filters.items()
    )


def contribution(meter: Meter, event: UsageEvent) -> Decimal:
    """Give what a counted event adds to a meter."""
    if meter.aggregation == AGGREGATION_COUNT:
        return Decimal(1)
    return parse_decimal(event.quantities.get(meter.quantity, "0"), meter.quantity)
