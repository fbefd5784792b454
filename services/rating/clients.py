"""The meter service, answering in rating's own values.

Questions about usage that are asked together go in one call, which the meter reads together.
Bounds how many calls run at once, so that a large batch cannot drown the meter. Refuses to wait
long for an answer, and to guess what was used when there is none.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import grpc.aio

from kit.decimals import parse_decimal
from kit.errors import NotFound, Unavailable
from kit.interval import Interval
from kit.rpc.auth import ServiceIdentity
from kit.rpc.status import read_error
from kit.rpc.wire import parse_time, render_interval
from services.rating.model import Meter, UsageEntry
from services.rating.selection import Grain, Reading, matches
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import (
    BatchQueryUsageRequest,
    GetMeterRequest,
    ListEventsRequest,
    QueryUsageRequest,
    QueryUsageResponse,
    UsageWindow,
)
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

_SCOPES = frozenset({"meter.read"})
_CALLS_AT_ONCE_MAX = 32
_TIMEOUT_S = 10
_USAGE_DIGITS_MAX = 64
_PAGE_SIZE = 10_000
_QUERIES_MAX = 2_000
_BATCH_TIMEOUT_S = 60
_WINDOWS = {
    Grain.TOTAL: UsageWindow.USAGE_WINDOW_UNSPECIFIED,
    Grain.HOUR: UsageWindow.USAGE_WINDOW_HOUR,
    Grain.EVENT: UsageWindow.USAGE_WINDOW_UNSPECIFIED,
}
_ADDING_UP = frozenset({meter_pb2.AGGREGATION_SUM, meter_pb2.AGGREGATION_COUNT})
_ONE = Decimal(1)
_RETRY_AFTER = timedelta(seconds=1)


Rows = Sequence[meter_pb2.UsageRow]
_Asking = tuple[QueryUsageRequest, "asyncio.Future[Rows | None]"]


class _Gathering:
    """Sends questions that arrive together as one call, so that the meter reads them together.

    While a call of a tenant runs, its next questions gather for the following one.
    """

    def __init__(
        self, ask: Callable[[str, Sequence[QueryUsageRequest]], Awaitable[dict[int, Rows]]]
    ) -> None:
        self._ask = ask
        self._waiting: dict[str, list[_Asking]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, tenant: str, query: QueryUsageRequest) -> Rows | None:
        """Answer the rows of one question; nothing when it failed among the others.

        Raises:
            Unavailable: METER_UNAVAILABLE.
        """
        future: asyncio.Future[Rows | None] = asyncio.get_running_loop().create_future()
        if tenant in self._waiting:
            self._waiting[tenant].append((query, future))
        else:
            self._waiting[tenant] = [(query, future)]
            task = asyncio.create_task(self._send(tenant))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def _send(self, tenant: str) -> None:
        # Once around the loop, so that questions which are asked at the same time come along.
        await asyncio.sleep(0)
        while waiting := self._waiting[tenant]:
            now, self._waiting[tenant] = waiting[:_QUERIES_MAX], waiting[_QUERIES_MAX:]
            try:
                answered = await self._ask(tenant, [query for query, _ in now])
            except Exception as error:  # noqa: BLE001 - passed on to everyone who asked.
                for _, future in now:
                    _settle(future, error)
                continue
            for index, (_, future) in enumerate(now):
                _settle(future, answered.get(index))
        del self._waiting[tenant]


def _settle(future: "asyncio.Future[Rows | None]", outcome: Rows | Exception | None) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


@dataclass(frozen=True, slots=True)
class CustomerEvent:
    """An event: whose it is, when it happened, and all of its quantities."""

    customer_id: str
    time: datetime
    dimensions: Mapping[str, str]
    quantities: Mapping[str, Decimal]


@dataclass(frozen=True, slots=True)
class UsagePage:
    """What some customers used, and what asks for the next page; nothing on the last."""

    rows: tuple[tuple[str, UsageEntry], ...]
    next_token: str


class MeterClient:
    """Asks the meter service on behalf of a tenant."""

    def __init__(self, channel: grpc.aio.Channel, identity: ServiceIdentity) -> None:
        self._stub = MeterServiceStub(channel)
        self._identity = identity
        self._vacancies = asyncio.Semaphore(_CALLS_AT_ONCE_MAX)
        self._gathering = _Gathering(self._ask_together)

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

    async def get_usage(
        self, tenant: str, meter_id: str, customer_id: str, interval: Interval, reading: Reading
    ) -> tuple[UsageEntry, ...]:
        """Answer what a customer used of a meter, kept apart as finely as a price reads it.

        Raises:
            Unavailable: METER_UNAVAILABLE, the meter service does not answer.
        """
        request = _usage_request(meter_id, interval, reading)
        request.customer_id = customer_id
        request.page_size = 0
        rows = await self._gathering.ask(tenant, request)
        if rows is not None:
            return tuple(_parse_row(row, reading) for row in rows)
        # It failed among others; asked by itself it fails with its own details.
        request.page_size = _PAGE_SIZE
        entries: list[UsageEntry] = []
        while True:
            page = await self._query_usage(tenant, request)
            entries.extend(_parse_row(row, reading) for row in page.rows)
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return tuple(entries)

    async def _ask_together(
        self, tenant: str, queries: Sequence[QueryUsageRequest]
    ) -> dict[int, Rows]:
        answered: dict[int, Rows] = {}
        async with self._calling():
            async for answer in self._stub.BatchQueryUsage(
                BatchQueryUsageRequest(queries=queries),
                metadata=self._identity.metadata(tenant, _SCOPES),
                timeout=_BATCH_TIMEOUT_S,
            ):
                if answer.HasField("usage"):
                    answered[answer.index] = answer.usage.rows
        return answered

    async def get_usage_page(
        self,
        tenant: str,
        meter_id: str,
        interval: Interval,
        reading: Reading,
        *,
        page_token: str,
        customer_ids: Sequence[str] = (),
    ) -> UsagePage:
        """Answer a page of what these customers, or all, used of a meter, ordered by customer.

        Raises:
            Unavailable: METER_UNAVAILABLE, the meter service does not answer.
        """
        request = _usage_request(meter_id, interval, reading)
        request.page_token = page_token
        request.customer_ids.extend(customer_ids)
        page = await self._query_usage(tenant, request)
        rows = tuple((row.customer_id, _parse_row(row, reading)) for row in page.rows)
        return UsagePage(rows, page.next_page_token)

    async def get_events_page(
        self, tenant: str, customer_id: str, interval: Interval, *, page_token: str
    ) -> tuple[tuple[CustomerEvent, ...], str]:
        """Answer a page of the events of a customer, or of all, and what asks for the next.

        History that was billed elsewhere is left out.

        Raises:
            Unavailable: METER_UNAVAILABLE, the meter service does not answer.
        """
        request = ListEventsRequest(
            customer_id=customer_id,
            interval=render_interval(interval),
            page_size=_PAGE_SIZE,
            page_token=page_token,
        )
        async with self._calling():
            page = await self._stub.ListEvents(
                request, metadata=self._identity.metadata(tenant, _SCOPES), timeout=_TIMEOUT_S
            )
        events = tuple(_parse_customer_event(each.event) for each in page.events if not each.billed)
        return events, page.next_page_token

    async def _query_usage(self, tenant: str, request: QueryUsageRequest) -> QueryUsageResponse:
        async with self._calling():
            return await self._stub.QueryUsage(
                request, metadata=self._identity.metadata(tenant, _SCOPES), timeout=_TIMEOUT_S
            )

    async def list_events(
        self, tenant: str, meter: Meter, customer_id: str, interval: Interval, reading: Reading
    ) -> tuple[UsageEntry, ...]:
        """Answer the single events of a customer that a meter counts, ordered by time.

        History that was billed elsewhere is left out, as it is from usage.

        Raises:
            Unavailable: METER_UNAVAILABLE, the meter service does not answer.
        """
        request = ListEventsRequest(
            meter_id=meter.meter_id,
            customer_id=customer_id,
            interval=render_interval(interval),
            page_size=_PAGE_SIZE,
        )
        entries: list[UsageEntry] = []
        while True:
            async with self._calling():
                page = await self._stub.ListEvents(
                    request,
                    metadata=self._identity.metadata(tenant, _SCOPES),
                    timeout=_TIMEOUT_S,
                )
            entries.extend(
                entry
                for stored in page.events
                if not stored.billed and matches(reading.dimensions, stored.event.dimensions)
                for entry in _parse_event(stored, meter)
            )
            request.page_token = page.next_page_token
            if not page.next_page_token:
                return tuple(entries)

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


def _usage_request(meter_id: str, interval: Interval, reading: Reading) -> QueryUsageRequest:
    return QueryUsageRequest(
        meter_id=meter_id,
        interval=render_interval(interval),
        filters=dict(reading.dimensions),
        group_by=reading.keys,
        window=_WINDOWS[reading.grain],
        time_zone=reading.time_zone.key if reading.time_zone else "",
        page_size=_PAGE_SIZE,
    )


def _parse_meter(message: meter_pb2.Meter) -> Meter:
    counts = message.aggregation == meter_pb2.AGGREGATION_COUNT
    return Meter(
        meter_id=message.meter_id,
        unit=message.unit or ("event" if counts else message.quantity),
        dimensions=frozenset(message.group_by),
        quantity=None if counts else message.quantity,
        adds_up=message.aggregation in _ADDING_UP,
    )


def _parse_row(row: meter_pb2.UsageRow, reading: Reading) -> UsageEntry:
    dimensions = dict(row.group)
    dimensions.update(reading.dimensions)
    return UsageEntry(
        quantity=parse_decimal(row.quantity.value, "rows.quantity", max_digits=_USAGE_DIGITS_MAX),
        dimensions=dimensions,
        event_count=row.event_count,
        time=parse_time(row.interval.start_time, "rows.interval.start_time"),
    )


def _parse_customer_event(event: meter_pb2.UsageEvent) -> CustomerEvent:
    return CustomerEvent(
        customer_id=event.subject.customer_id,
        time=parse_time(event.time, "event.time"),
        dimensions=dict(event.dimensions),
        quantities={
            name: parse_decimal(text, f"quantities.{name}")
            for name, text in event.quantities.items()
        },
    )


def _parse_event(stored: meter_pb2.StoredEvent, meter: Meter) -> Iterator[UsageEntry]:
    """Read an event with what the meter counts of it; one of which it counts nothing is none."""
    event = stored.event
    quantities = {
        name: parse_decimal(text, f"quantities.{name}") for name, text in event.quantities.items()
    }
    counted: Decimal | None
    if stored.HasField("counted_quantity"):
        written = stored.counted_quantity.value
        counted = parse_decimal(written, "counted_quantity", max_digits=_USAGE_DIGITS_MAX)
    else:
        counted = _ONE if meter.quantity is None else quantities.get(meter.quantity)
    if counted is not None:
        yield UsageEntry(
            quantity=counted,
            dimensions=dict(event.dimensions),
            time=parse_time(event.time, "event.time"),
            quantities=quantities,
        )
