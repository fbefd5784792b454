"""The rating service, and the meters that its cards speak of, answering in our own values.

Refuses to wait longer than a few seconds, and to guess what costs what.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal

import grpc.aio

from kit.decimals import parse_decimal
from kit.errors import DomainError, NotFound
from kit.rpc.auth import ServiceIdentity
from kit.rpc.status import read_error
from services.quota.coverage import card_unavailable
from services.quota.weights import CardEntry, RateCard
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import GetMeterRequest
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
