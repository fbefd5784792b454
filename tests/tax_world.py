"""A real tax service to ask, and its answers and errors as values."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc.aio
from google.protobuf.json_format import ParseDict
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.errors import DomainError
from kit.money import Rounding, settle
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.rpc.wire import render_money
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tollkeeper.api.tax.v1 import tax_pb2
from tollkeeper.api.tax.v1 import tax_service_pb2 as messages
from tollkeeper.api.tax.v1.tax_service_pb2_grpc import TaxServiceStub

NOON = datetime(2026, 10, 31, 12, tzinfo=UTC)
TODAY = NOON.date()


def day(value: date = TODAY) -> Date:
    """Write a date."""
    return Date(year=value.year, month=value.month, day=value.day)


def a_registration(**fields: Any) -> tax_pb2.Registration:  # noqa: ANN401 - as JSON.
    """Make a registration, by default the seat in California; fields replace or add."""
    defaults: dict[str, Any] = {
        "registration_id": "seat",
        "country": "US",
        "region": "CA",
        "scheme": "REGISTRATION_SCHEME_DOMESTIC",
        "number": "102-123456",
        "established": True,
        "start_date": {"year": 2020, "month": 1, "day": 1},
    }
    return ParseDict({**defaults, **fields}, tax_pb2.Registration())


OSS = a_registration(
    registration_id="oss",
    country="IE",
    region="",
    scheme="REGISTRATION_SCHEME_NON_UNION_OSS",
    number="EU372022452",
    established=False,
)


def a_request(
    country: str = "FR",
    *,
    kind: str = "BUYER_KIND_CONSUMER",
    tax_ids: Sequence[tuple[str, str]] = (),
    amounts: Sequence[str] = ("100",),
    **fields: Any,  # noqa: ANN401 - as JSON.
) -> messages.DetermineTaxRequest:
    """Ask for the taxes on amounts in euro, in major units; a country may be `US-CA`."""
    code, _, region = country.partition("-")
    request = ParseDict(fields, messages.DetermineTaxRequest())
    request.buyer.address.country = code
    request.buyer.address.region = region
    request.buyer.kind = tax_pb2.BuyerKind.Value(kind)
    for issuer, number in tax_ids:
        request.buyer.tax_ids.add(country=issuer, number=number)
    if not request.HasField("supply_date"):
        request.supply_date.CopyFrom(day())
    for index, amount in enumerate(amounts, 1):
        money = settle(Decimal(amount), "EUR", Rounding.HALF_UP)
        request.lines.add(line_id=str(index), amount=render_money(money))
    return request


def a_conversion(amount: str, base: str, quote: str) -> messages.ConvertMoneyRequest:
    """Ask for a conversion at today's rate."""
    return messages.ConvertMoneyRequest(
        amount=DecimalMessage(value=amount), base_currency=base, quote_currency=quote, date=day()
    )


@dataclass(frozen=True, slots=True)
class TaxWorld:
    """A running tax service, and whoever asks it."""

    stub: TaxServiceStub
    issuer: TokenIssuer
    address: str

    def token(self, tenant: str, *scopes: str) -> tuple[tuple[str, str], ...]:
        """Make the metadata of a caller of a tenant; without scopes it may read and write."""
        granted = scopes or ("tax.read", "tax.write")
        issued = self.issuer.issue(tenant, granted, "key", NOON + timedelta(hours=1))
        return (("authorization", f"Bearer {issued}"),)

    async def ask(self, method: str, request: Any, tenant: str) -> Any:  # noqa: ANN401 - any message.
        """Call a method for a tenant; a failure is raised as the domain error it was."""
        try:
            return await getattr(self.stub, method)(request, metadata=self.token(tenant))
        except grpc.aio.AioRpcError as error:
            raise read_error(error) from error

    async def refusal(self, method: str, request: Any, tenant: str) -> DomainError:  # noqa: ANN401 - as above.
        """Call a method that must fail, and answer how."""
        try:
            answer = await self.ask(method, request, tenant)
        except DomainError as error:
            return error
        raise AssertionError(f"{method} answered {answer}")

    async def register(self, tenant: str, *registrations: tax_pb2.Registration) -> None:
        """Put registrations, each with its own id as the id of the request."""
        for registration in registrations:
            request = messages.PutRegistrationRequest(
                request_id=registration.registration_id, registration=registration
            )
            await self.ask("PutRegistration", request, tenant)


@asynccontextmanager
async def tax_world(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    **overrides: Any,  # noqa: ANN401 - as the settings.
) -> AsyncIterator[TaxWorld]:
    """Run a tax service on this test's servers, at noon of the last day of October 2026."""
    clock = ManualClock(NOON)
    async with hosted("tax", settings_for("tax", **overrides), clock) as address:
        channel = open_channel(address)
        try:
            yield TaxWorld(TaxServiceStub(channel), TokenIssuer(keys.issuer_key(), clock), address)
        finally:
            await channel.close()
