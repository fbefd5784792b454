"""The rating service with the meters that its cards speak of, and what the meter has stored.

Refuses to wait longer than a few seconds, and to guess what costs what.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal

import grpc.aio

from kit.decimals import parse_decimal
from kit.errors import DomainError, NotFound, Precondition, Unavailable
from kit.interval import Interval
from kit.rpc.auth import ServiceIdentity
from kit.rpc.status import read_error
from kit.rpc.wire import render_interval
from services.quota.coverage import card_unavailable
from services.quota.model import Subject
from services.quota.rebuilding import Usage
from services.quota.unix_time import instant_of
from services.quota.weights import CardEntry, RateCard
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import GetMeterRequest, SummarizeUsageRequest
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.rating.v1.rating_service_pb2 import (
    GetRateCardRequest,
    GetRateCardResponse,
    RateCardEntry,
)
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceStub

REQUESTS = "requests"
"""The unit of the gate that a meter counts which counts events."""

_RATING_SCOPES = frozenset({"rating.read"})
_METER_SCOPES = frozenset({"meter.read"})
_TIMEOUT_S = 3
_RETRY_AFTER = timedelta(seconds=1)
_USAGE_DIGITS_MAX = 64
_UNIT_AMOUNT_DIGITS_MAX = 64
_ZERO = Decimal(0)


class CardClient:
    """Asks for rate cards on behalf of a tenant."""

    def __init__(
        self, rating: grpc.aio.Channel, meter: grpc.aio.Channel, identity: ServiceIdentity
    ) -> None:
        self._rating = RatingServiceStub(rating)
        self._meter = MeterServiceStub(meter)
        self._identity = identity

    async def get_card(self, tenant: str, plan_id: str) -> RateCard:
        """Answer what units cost under the version of a plan that is in effect now.

        Raises:
            NotFound: the plan, or a meter of it.
            Unavailable: RATE_CARD_UNAVAILABLE, rating or the meter does not answer.
        """
        async with _asking(plan_id):
            answer: GetRateCardResponse = await self._rating.GetRateCard(
                GetRateCardRequest(plan_id=plan_id),
                metadata=self._identity.metadata(tenant, _RATING_SCOPES),
                timeout=_TIMEOUT_S,
            )
            ids = sorted({entry.meter_id for entry in answer.entries})
            meters = await asyncio.gather(*(self._get_meter(tenant, each) for each in ids))
        return _parse_card(answer, dict(zip(ids, meters, strict=True)))

    async def _get_meter(self, tenant: str, meter_id: str) -> meter_pb2.Meter:
        answer = await self._meter.GetMeter(
            GetMeterRequest(meter_id=meter_id),
            metadata=self._identity.metadata(tenant, _METER_SCOPES),
            timeout=_TIMEOUT_S,
        )
        return answer.meter


class UsageClient:
    """Asks the meter what customers used, on behalf of their tenant."""

    def __init__(self, meter: grpc.aio.Channel, identity: ServiceIdentity) -> None:
        self._meter = MeterServiceStub(meter)
        self._identity = identity

    async def since(
        self, tenant: str, customer: str, starts_ms: Iterable[int], end_ms: int
    ) -> Mapping[int, Sequence[Usage]]:
        """Sum what a customer used from each of some instants until one, by path and dimensions.

        Raises:
            Precondition: EVENTS_EXPIRED, events of some instant are not kept any more.
            Unavailable: METER_UNAVAILABLE.
        """
        return {
            start_ms: await self._summarize(tenant, customer, _interval(start_ms, end_ms))
            for start_ms in starts_ms
            if start_ms < end_ms
        }

    async def _summarize(self, tenant: str, customer: str, interval: Interval) -> Sequence[Usage]:
        request = SummarizeUsageRequest(
            customer_id=customer, interval=render_interval(interval), page_size=10_000
        )
        found: list[Usage] = []
        while True:
            try:
                page = await self._meter.SummarizeUsage(
                    request,
                    metadata=self._identity.metadata(tenant, _METER_SCOPES),
                    timeout=_TIMEOUT_S,
                )
            except grpc.aio.AioRpcError as error:
                answered = read_error(error)
                if isinstance(answered, Precondition):
                    raise answered from error
                raise Unavailable(
                    "METER_UNAVAILABLE",
                    "the meter, from which counters are rebuilt, does not answer",
                    retry_after=_RETRY_AFTER,
                ) from error
            found += map(_parse_usage, page.summaries)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


def _interval(start_ms: int, end_ms: int) -> Interval:
    return Interval(instant_of(start_ms), instant_of(end_ms))


def _parse_usage(summary: meter_pb2.UsageSummary) -> Usage:
    path = summary.subject
    return Usage(
        Subject(path.customer_id, path.project_id, path.user_id, path.key_id, path.run_id),
        tuple(sorted(summary.dimensions.items())),
        {
            name: parse_decimal(text, name, max_digits=_USAGE_DIGITS_MAX)
            for name, text in summary.quantities.items()
        },
        summary.event_count,
    )


@asynccontextmanager
async def _asking(plan_id: str) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        answered = read_error(error)
        if isinstance(answered, NotFound):
            raise answered from error
        raise card_unavailable(plan_id) from error
    except DomainError as error:
        if isinstance(error, NotFound):
            raise
        raise card_unavailable(plan_id) from error


def _parse_card(answer: GetRateCardResponse, meters: Mapping[str, meter_pb2.Meter]) -> RateCard:
    entries = [
        _parse_entry(entry, meters[entry.meter_id], unit)
        for entry in answer.entries
        if (unit := _unit_of(meters[entry.meter_id]))
    ]
    return RateCard(answer.plan_id, answer.plan_version, answer.currency, tuple(entries))


def _unit_of(meter: meter_pb2.Meter) -> str:
    """Name the unit that a meter counts; none where calls do not add up to what it says."""
    match meter.aggregation:
        case meter_pb2.AGGREGATION_SUM:
            return meter.quantity
        case meter_pb2.AGGREGATION_COUNT:
            return REQUESTS
        case _:
            return ""


def _parse_entry(entry: RateCardEntry, meter: meter_pb2.Meter, unit: str) -> CardEntry:
    return CardEntry(
        price=entry.price_id,
        meter=entry.meter_id,
        unit=unit,
        dimensions=tuple(sorted(entry.dimensions.items())),
        filters=tuple(
            sorted((name, frozenset(allowed.values)) for name, allowed in meter.filters.items())
        ),
        unit_amount=_parse_amount(entry.unit_amount.value, "unit_amount"),
        event_amount=_parse_amount(entry.event_amount.value, "event_amount"),
        context=entry.context_quantity,
        above=_parse_amount(entry.context_above.value, "context_above"),
    )


def _parse_amount(text: str, field: str) -> Decimal:
    if not text:
        return _ZERO
    return parse_decimal(text, field, minimum=_ZERO, max_digits=_UNIT_AMOUNT_DIGITS_MAX)
