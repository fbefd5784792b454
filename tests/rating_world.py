"""A real rating service to ask; its refusals come back as domain errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
from google.protobuf.message import Message
from google.protobuf.text_format import Merge, Parse

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.errors import DomainError
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import PutMeterRequest
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.rating.v1 import plan_pb2, rating_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceStub

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALL_SCOPES = (
    *("rating.read", "rating.write", "meter.read", "meter.write", "meter.ingest"),
    *("quota.decide", "quota.read", "quota.write"),
)
NOBODY = "127.0.0.1:1"
"""An address at which nothing listens."""
JANUARY = "start_time { seconds: 1767225600 } end_time { seconds: 1769904000 }"

A_PLAN = """
    plan_id: "pro" display_name: "Pro" currency: "USD" base_fee { value: "100" }
    prices {
      price_id: "tokens" display_name: "Tokens" meter_id: "tokens"
      included_quantity { value: "1000000" }
      standard { amount { value: "0.02" } per_quantity { value: "1000" } }
    }
"""


def a_plan_message(written: str = "") -> plan_pb2.Plan:
    """Make the plan at 100 a month with a million tokens; what is written is merged over it."""
    return Merge(written, Parse(A_PLAN, plan_pb2.Plan()))


def a_rate_request(written: str = "") -> messages.RateRequest:
    """Ask for Acme's January by the plan `pro`; what is written is merged over it."""
    request = f'customer_id: "acme" plan_id: "pro" period {{ {JANUARY} }}'
    return Merge(written, Parse(request, messages.RateRequest()))


def given_tokens(quantity: str) -> str:
    """Write usage that the caller gives, for `a_rate_request`."""
    return (
        f'given_usage {{ quantities {{ meter_id: "tokens" quantity {{ value: "{quantity}" }} }} }}'
    )


def a_meter_message(meter_id: str = "tokens", *group_by: str) -> meter_pb2.Meter:
    """Make a meter that adds up the quantity of its own name."""
    return meter_pb2.Meter(
        meter_id=meter_id,
        event_type="llm.call",
        aggregation=meter_pb2.AGGREGATION_SUM,
        quantity=meter_id,
        group_by=group_by,
        unit="token",
    )


def an_event(
    event_id: str, quantity: str, time: datetime, **dimensions: str
) -> meter_pb2.UsageEvent:
    """Make an event of Acme that used tokens."""
    event = meter_pb2.UsageEvent(
        event_id=event_id,
        source="test",
        type="llm.call",
        quantities={"tokens": quantity},
        dimensions=dimensions,
        time=render_time(time),
    )
    event.subject.customer_id = "acme"
    return event


@dataclass(frozen=True, slots=True)
class World:
    """Running services, and whoever asks them; methods are named `Rate` or `meter.PutMeter`."""

    stubs: Mapping[str, Any]
    issuer: TokenIssuer
    tenant: str
    addresses: Mapping[str, str]

    def token(self, *scopes: str, tenant: str = "") -> tuple[tuple[str, str], ...]:
        """Make the metadata of a caller, by default of this test's tenant with every scope."""
        granted = scopes or ALL_SCOPES
        issued = self.issuer.issue(tenant or self.tenant, granted, "key", NOON + timedelta(hours=1))
        return (("authorization", f"Bearer {issued}"),)

    def method(self, name: str) -> Any:  # noqa: ANN401 - a stub's method.
        """Find a method of a stub."""
        service, _, method = name.rpartition(".")
        return getattr(self.stubs[service or "rating"], method)

    async def ask(self, name: str, request: Message, tenant: str = "") -> Any:  # noqa: ANN401 - any answer.
        """Call a method; a failure is raised as the domain error it was."""
        try:
            return await self.method(name)(request, metadata=self.token(tenant=tenant))
        except grpc.aio.AioRpcError as error:
            raise read_error(error) from error

    async def refusal(self, name: str, request: Message, tenant: str = "") -> DomainError:
        """Call a method that must fail, and answer how."""
        try:
            answer = await self.ask(name, request, tenant)
        except DomainError as error:
            return error
        raise AssertionError(f"{name} answered {answer}")

    async def put_meter(self, meter: meter_pb2.Meter) -> None:
        """Put a meter."""
        request = PutMeterRequest(request_id=f"put-{meter.meter_id}", meter=meter)
        await self.ask("meter.PutMeter", request)

    async def put_plan(
        self, plan: plan_pb2.Plan | None = None, request_id: str = "put-1", tenant: str = ""
    ) -> plan_pb2.Plan:
        """Put a plan, and answer it as it is stored."""
        request = messages.PutPlanRequest(request_id=request_id, plan=plan or a_plan_message())
        answer = await self.ask("PutPlan", request, tenant)
        stored: plan_pb2.Plan = answer.plan
        return stored

    async def rate(self, written: str = "") -> rating_pb2.Rating:
        """Rate Acme's January by the plan `pro`, with what is written merged over the request."""
        answer = await self.ask("Rate", a_rate_request(written))
        rating: rating_pb2.Rating = answer.rating
        return rating


@asynccontextmanager
async def rating_world(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    meter_address: str = NOBODY,
) -> AsyncIterator[World]:
    """Run a rating service, by default with a meter service that does not answer."""
    clock = ManualClock(NOON)
    settings = settings_for("rating", meter_address=meter_address)
    async with hosted("rating", settings, clock) as address, open_channel(address) as channel:
        issuer = TokenIssuer(keys.issuer_key(), clock)
        async with open_channel(meter_address) as meter_channel:
            stubs = {
                "rating": RatingServiceStub(channel),
                "meter": MeterServiceStub(meter_channel),
            }
            yield World(stubs, issuer, tenant, {"rating": address, "meter": meter_address})


@asynccontextmanager
async def metered_world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Run a rating service and the meter service that it asks."""
    async with (
        hosted("meter", settings_for("meter"), ManualClock(NOON)) as meter_address,
        rating_world(settings_for, keys, tenant, meter_address) as world,
    ):
        yield world
