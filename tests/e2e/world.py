"""Five real servers in one process, real clients, and one clock that the test moves."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf.message import Message

from cli.scopes import all_scopes
from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.rpc.auth import TokenIssuer
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tollkeeper import Tollkeeper
from tollkeeper.api.invoicing.v1.invoicing_service_pb2_grpc import InvoicingServiceStub
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceStub
from tollkeeper.api.tax.v1.tax_service_pb2_grpc import TaxServiceStub

SERVICES = ("quota", "meter", "tax", "rating", "invoicing")
STUBS = {
    "quota": QuotaServiceStub,
    "meter": MeterServiceStub,
    "rating": RatingServiceStub,
    "tax": TaxServiceStub,
    "invoicing": InvoicingServiceStub,
}
TOKEN_LIFETIME = timedelta(days=3650)


@dataclass
class World:
    """What a story needs: addresses, a clock, a tenant's token, and stubs by service."""

    tenant: str
    clock: ManualClock
    issuer: TokenIssuer
    addresses: dict[str, str]
    channels: dict[str, grpc.aio.Channel]
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def token(self, *scopes: str, tenant: str = "") -> str:
        """Return a token of the tenant, by default with every scope."""
        return self.issuer.issue(
            tenant=tenant or self.tenant,
            scopes=scopes or all_scopes(),
            key_id="key-of-the-story",
            expires=self.clock.now() + TOKEN_LIFETIME,
        )

    def request_id(self) -> str:
        """Return a request id that was not used before."""
        return f"request-{next(self._numbers)}"

    async def call(self, method: str, request: Message, *, token: str = "") -> Any:  # noqa: ANN401 - whatever the method answers.
        """Call a unary method, named like `meter.PutMeter`, and return its answer."""
        service, name = method.split(".")
        stub = STUBS[service](self.channels[service])
        return await getattr(stub, name)(
            request, metadata=(("authorization", f"Bearer {token or self.token()}"),), timeout=30
        )

    async def stream(self, method: str, request: Message) -> list[Any]:
        """Call a method that answers with a stream, and return every answer."""
        service, name = method.split(".")
        stub = STUBS[service](self.channels[service])
        metadata = (("authorization", f"Bearer {self.token()}"),)
        return [answer async for answer in getattr(stub, name)(request, metadata=metadata)]

    def client(self, source: str = "gateway") -> Tollkeeper:
        """Return a gateway's client."""
        return Tollkeeper(
            token=self.token(),
            quota=self.addresses["quota"],
            meter=self.addresses["meter"],
            source=source,
            timeout_s=10,
        )


@asynccontextmanager
async def running_world(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    start: datetime,
) -> AsyncIterator[World]:
    """Start the five services at one clock, and end them."""
    clock = ManualClock(start)
    addresses: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        for service in SERVICES:
            others = {f"{name}_address": address for name, address in addresses.items()}
            settings = settings_for(service, **others)
            addresses[service] = await stack.enter_async_context(hosted(service, settings, clock))
        channels = {
            name: await stack.enter_async_context(grpc.aio.insecure_channel(address))
            for name, address in addresses.items()
        }
        issuer = TokenIssuer(keys.issuer_key(), clock)
        yield World(tenant, clock, issuer, addresses, channels)
