"""The meter service, answering in rating's own values.

Bounds how many calls run at once, so that a large batch cannot drown the meter. Refuses to wait
longer than ten seconds for an answer, and to guess what was used when there is none.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal

import grpc.aio

from kit.decimals import exactly, parse_decimal
from kit.errors import NotFound, Unavailable
from kit.rpc.auth import ServiceIdentity
from kit.rpc.status import read_error
from kit.rpc.wire import render_interval
from services.rating.model import Meter, UsageReference
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import GetMeterRequest, QueryUsageRequest
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

_SCOPES = frozenset({"meter.read"})
_CALLS_AT_ONCE_MAX = 32
_TIMEOUT_S = 10
_USAGE_DIGITS_MAX = 64
_RETRY_AFTER = timedelta(seconds=1)


class MeterClient:
    """Asks the meter service on behalf of a tenant."""

    def __init__(self, channel: grpc.aio.Channel, identity: ServiceIdentity) -> None:
        self._stub = MeterServiceStub(channel)
        self._identity = identity
        self._vacancies = asyncio.Semaphore(_CALLS_AT_ONCE_MAX)

    async def get_meter(self, tenant: str, meter_id: str) -> Meter | None:
        """Answer a meter, or nothing when there is none of that id.

        Raises:
            Unavailable: METER_UNAVAILABLE, the meter service does not answer.
        """
        try:
            async with self._calling():
                answer = await self._stub.GetMeter(
                    GetMeterRequest(meter_id=meter_id),
                    metadata=self._identity.metadata(tenant, _SCOPES),
                    timeout=_TIMEOUT_S,
                )
        except NotFound:
            return None
        return _parse_meter(answer.meter)

    async def get_usage(self, tenant: str, reference: UsageReference) -> Decimal:
        """Answer how much a customer used of a meter.

        Raises:
            Unavailable: METER_UNAVAILABLE, the meter service does not answer.
        """
        quantity = Decimal(0)
        page_token = ""
        while True:
            async with self._calling():
                page = await self._stub.QueryUsage(
                    QueryUsageRequest(
                        meter_id=reference.meter_id,
                        customer_id=reference.customer_id,
                        interval=render_interval(reference.interval),
                        filters=dict(reference.dimensions),
                        page_token=page_token,
                    ),
                    metadata=self._identity.metadata(tenant, _SCOPES),
                    timeout=_TIMEOUT_S,
                )
            with exactly():
                for row in page.rows:
                    quantity += parse_decimal(
                        row.quantity.value, "rows.quantity", max_digits=_USAGE_DIGITS_MAX
                    )
            page_token = page.next_page_token
            if not page_token:
                return quantity

    @asynccontextmanager
    async def _calling(self) -> AsyncIterator[None]:
        async with self._vacancies:
            try:
                yield
            except grpc.aio.AioRpcError as error:
                answered = read_error(error)
                if answered is error:
                    raise
                if isinstance(answered, Unavailable):
                    raise Unavailable(
                        "METER_UNAVAILABLE",
                        "the meter service does not answer",
                        retry_after=answered.retry_after or _RETRY_AFTER,
                    ) from error
                raise answered from error


def _parse_meter(message: meter_pb2.Meter) -> Meter:
    counts = message.aggregation == meter_pb2.AGGREGATION_COUNT
    return Meter(
        meter_id=message.meter_id,
        unit=message.unit or ("event" if counts else message.quantity),
        dimensions=frozenset(message.group_by),
    )
