"""A real meter service to ask; its refusals come back as domain errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
from google.protobuf.message import Message
from google.type.interval_pb2 import Interval as IntervalMessage

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.errors import DomainError
from kit.interval import Interval
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.rpc.wire import render_interval, render_time
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TODAY = Interval(datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
ALL_SCOPES = ("meter.read", "meter.write", "meter.ingest")

CREATED = messages.INGEST_OUTCOME_CREATED
DUPLICATE = messages.INGEST_OUTCOME_DUPLICATE
CONFLICT = messages.INGEST_OUTCOME_CONFLICT
REJECTED = messages.INGEST_OUTCOME_REJECTED

DEFAULT_DIMENSIONS: Mapping[str, str] = {"model": "small"}
DEFAULT_QUANTITIES: Mapping[str, str] = {"tokens": "10"}


def an_event(
    event_id: str = "e1",
    *,
    source: str = "gateway",
    customer_id: str = "acme",
    type: str = "llm.call",  # noqa: A002 - the contract's word.
    time: datetime = NOON,
    dimensions: Mapping[str, str] = DEFAULT_DIMENSIONS,
    quantities: Mapping[str, str] = DEFAULT_QUANTITIES,
) -> meter_pb2.UsageEvent:
    """Make an event: a call of Acme's to the small model at noon, of 10 tokens."""
    event = meter_pb2.UsageEvent(
        event_id=event_id,
        source=source,
        type=type,
        time=render_time(time),
        dimensions=dimensions,
        quantities=quantities,
    )
    event.subject.customer_id = customer_id
    return event


def some_events(count: int, first: int = 0, **fields: Any) -> list[meter_pb2.UsageEvent]:  # noqa: ANN401 - of any event.
    """Make events of different identities."""
    return [an_event(f"e{number}", **fields) for number in range(first, first + count)]


def a_meter(
    meter_id: str = "tokens",
    *,
    quantity: str = "tokens",
    group_by: Sequence[str] = ("model",),
    filters: Mapping[str, Sequence[str]] | None = None,
    event_type: str = "llm.call",
) -> meter_pb2.Meter:
    """Make a meter that adds up tokens by model; without a quantity, one that counts events."""
    return meter_pb2.Meter(
        meter_id=meter_id,
        event_type=event_type,
        aggregation=meter_pb2.AGGREGATION_SUM if quantity else meter_pb2.AGGREGATION_COUNT,
        quantity=quantity,
        group_by=group_by,
        filters={
            key: meter_pb2.DimensionValues(values=values) for key, values in (filters or {}).items()
        },
    )


@dataclass(frozen=True, slots=True)
class World:
    """A running meter service, and whoever asks it."""

    stub: Any
    issuer: TokenIssuer
    tenant: str
    clock: ManualClock
    address: str

    def token(self, *scopes: str, tenant: str = "") -> tuple[tuple[str, str], ...]:
        """Make the metadata of a caller, by default of this test's tenant with every scope."""
        expires = self.clock.now() + timedelta(days=365)
        token = self.issuer.issue(tenant or self.tenant, scopes or ALL_SCOPES, "key", expires)
        return (("authorization", f"Bearer {token}"),)

    async def ask(self, method: str, request: Message, tenant: str = "") -> Any:  # noqa: ANN401 - any answer.
        """Call a method; a failure is raised as the domain error it was."""
        try:
            return await getattr(self.stub, method)(request, metadata=self.token(tenant=tenant))
        except grpc.aio.AioRpcError as error:
            raise read_error(error) from error

    async def refusal(self, method: str, request: Message, tenant: str = "") -> DomainError:
        """Call a method that must fail, and answer how."""
        try:
            answer = await self.ask(method, request, tenant)
        except DomainError as error:
            return error
        raise AssertionError(f"{method} answered {answer}")

    async def ingest(
        self, *events: meter_pb2.UsageEvent, tenant: str = ""
    ) -> messages.IngestEventsResponse:
        """Send events."""
        request = messages.IngestEventsRequest(events=events)
        answer: messages.IngestEventsResponse = await self.ask("IngestEvents", request, tenant)
        return answer

    async def put_meter(
        self, meter: meter_pb2.Meter | None = None, request_id: str = "", tenant: str = ""
    ) -> meter_pb2.Meter:
        """Put a meter, and answer it as it is stored."""
        meter = meter or a_meter()
        request = messages.PutMeterRequest(
            request_id=request_id or f"put-{meter.meter_id}", meter=meter
        )
        answer = await self.ask("PutMeter", request, tenant)
        stored: meter_pb2.Meter = answer.meter
        return stored

    async def usage(
        self,
        meter_id: str = "tokens",
        interval: Interval = TODAY,
        tenant: str = "",
        **fields: Any,  # noqa: ANN401 - of any query.
    ) -> list[tuple[str, str, int]]:
        """Ask for usage: the customer with its group, the quantity and the events of each row."""
        answer = await self.query(meter_id, interval, tenant, **fields)
        return [
            (
                " ".join([row.customer_id, *(row.group[key] for key in sorted(row.group))]),
                row.quantity.value,
                row.event_count,
            )
            for row in answer.rows
        ]

    async def query(
        self,
        meter_id: str = "tokens",
        interval: Interval = TODAY,
        tenant: str = "",
        **fields: Any,  # noqa: ANN401 - of any query.
    ) -> messages.QueryUsageResponse:
        """Ask for usage."""
        request = messages.QueryUsageRequest(
            meter_id=meter_id, interval=render_interval(interval), **fields
        )
        answer: messages.QueryUsageResponse = await self.ask("QueryUsage", request, tenant)
        return answer

    async def events(self, tenant: str = "", **fields: Any) -> list[meter_pb2.StoredEvent]:  # noqa: ANN401 - of any query.
        """List events, the first page of them."""
        answer = await self.ask("ListEvents", messages.ListEventsRequest(**fields), tenant)
        return list(answer.events)


def an_interval(start: datetime, end: datetime) -> IntervalMessage:
    """Make an interval of the wire."""
    return render_interval(Interval(start, end))


@asynccontextmanager
async def meter_world(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    now: datetime = NOON,
) -> AsyncIterator[World]:
    """Run a meter service at noon, or at another time."""
    clock = ManualClock(now)
    async with (
        hosted("meter", settings_for("meter"), clock) as address,
        open_channel(address) as channel,
    ):
        issuer = TokenIssuer(keys.issuer_key(), clock)
        yield World(MeterServiceStub(channel), issuer, tenant, clock, address)
