"""Invoicing with the real rating, tax and meter services, and one clock that the test moves."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.money_pb2 import Money

from cli.scopes import all_scopes
from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.rpc.auth import TokenIssuer
from kit.rpc.status import DETAILS_KEY
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tollkeeper.api.invoicing.v1 import customer_pb2, invoice_pb2
from tollkeeper.api.invoicing.v1 import invoicing_service_pb2 as messages
from tollkeeper.api.invoicing.v1.invoicing_service_pb2_grpc import InvoicingServiceStub
from tollkeeper.api.meter.v1 import meter_pb2, meter_service_pb2
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.rating.v1 import plan_pb2, rating_service_pb2
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceStub
from tollkeeper.api.tax.v1 import tax_pb2, tax_service_pb2
from tollkeeper.api.tax.v1.tax_service_pb2_grpc import TaxServiceStub
from tollkeeper.api.type.v1.subject_pb2 import Subject

SERVICES = ("meter", "tax", "rating", "invoicing")
STUBS: dict[str, Any] = {
    "meter": MeterServiceStub,
    "rating": RatingServiceStub,
    "tax": TaxServiceStub,
    "invoicing": InvoicingServiceStub,
}
START = datetime(2026, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Refusal:
    """An error as a caller sees it."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    fields: tuple[str, ...] = ()


@dataclass
class World:
    """The servers' addresses and stubs, and one tenant's token."""

    tenant: str
    clock: ManualClock
    issuer: TokenIssuer
    addresses: dict[str, str]
    stubs: dict[str, Any]
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def request_id(self) -> str:
        """Make a request id that was not used before."""
        return f"request-{next(self.numbers)}"

    def metadata(self, *scopes: str, tenant: str = "") -> tuple[tuple[str, str], ...]:
        """Make the metadata of a call; by default with every scope."""
        token = self.issuer.issue(
            tenant=tenant or self.tenant,
            scopes=scopes or all_scopes(),
            key_id="key-of-the-test",
            expires=self.clock.now() + timedelta(hours=1),
        )
        return (("authorization", f"Bearer {token}"),)

    async def call(self, method: str, request: Any, *, tenant: str = "") -> Any:  # noqa: ANN401 - any message.
        """Call a unary method, named like `tax.PutRegistration`; a request id is filled in."""
        service, name = method.split(".")
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = self.request_id()
        return await getattr(self.stubs[service], name)(
            request, metadata=self.metadata(tenant=tenant), timeout=30
        )

    async def refused(self, method: str, request: Any, *, tenant: str = "") -> Refusal:  # noqa: ANN401 - any message.
        """Call a unary method that must fail, and answer how it did."""
        try:
            answer = await self.call(method, request, tenant=tenant)
        except grpc.aio.AioRpcError as error:
            return read_refusal(error)
        raise AssertionError(f"{method} was expected to fail and answered {answer}")

    async def close(
        self,
        *,
        finalize: bool = True,
        request_id: str = "",
        until: datetime | None = None,
        customer_id: str = "",
    ) -> list[messages.CloseBillingPeriodResponse]:
        """Close billing periods, and answer every message."""
        request = messages.CloseBillingPeriodRequest(
            request_id=request_id or self.request_id(),
            finalize=finalize,
            until=None if until is None else render_time(until),
            customer_id=customer_id,
        )
        stream = self.stubs["invoicing"].CloseBillingPeriod(request, metadata=self.metadata())
        return [message async for message in stream]

    async def get(self, id_or_number: str) -> invoice_pb2.Invoice:
        """Answer one invoice."""
        answer = await self.call(
            "invoicing.GetInvoice", messages.GetInvoiceRequest(invoice_id=id_or_number)
        )
        invoice: invoice_pb2.Invoice = answer.invoice
        return invoice

    async def listed(self, **filters: Any) -> list[invoice_pb2.InvoiceSummary]:  # noqa: ANN401 - fields of the request.
        """List invoices, newest first."""
        answer = await self.call("invoicing.ListInvoices", messages.ListInvoicesRequest(**filters))
        return list(answer.invoices)

    async def document(self, id_or_number: str, **fields: Any) -> Any:  # noqa: ANN401 - as above.
        """Answer a document."""
        return await self.call(
            "invoicing.GetInvoiceDocument",
            messages.GetInvoiceDocumentRequest(invoice_id=id_or_number, **fields),
        )

    async def put_seller(self, **changes: Any) -> None:  # noqa: ANN401 - fields of the message.
        """Put a seller in Dublin that is registered there and in the One Stop Shop."""
        await self.call("invoicing.PutSeller", messages.PutSellerRequest(seller=seller(**changes)))
        for scheme in (
            tax_pb2.REGISTRATION_SCHEME_DOMESTIC,
            tax_pb2.REGISTRATION_SCHEME_UNION_OSS,
        ):
            await self.call(
                "tax.PutRegistration",
                tax_service_pb2.PutRegistrationRequest(
                    registration=tax_pb2.Registration(
                        registration_id=f"ie-{scheme}",
                        country="IE",
                        scheme=scheme,
                        number="IE6388047V",
                        established=scheme == tax_pb2.REGISTRATION_SCHEME_DOMESTIC,
                        start_date=Date(year=2020, month=1, day=1),
                    )
                ),
            )

    async def put_plan(
        self, plan_id: str = "team", currency: str = "EUR", base_fee: str = "100", per: str = ""
    ) -> None:
        """Put a plan with a base fee, and perhaps a price of tokens for a thousand."""
        prices = [
            plan_pb2.Price(
                price_id="tokens",
                display_name="Tokens",
                meter_id="tokens",
                standard=plan_pb2.StandardPrice(
                    amount=DecimalMessage(value=per), per_quantity=DecimalMessage(value="1000")
                ),
            )
        ]
        await self.call(
            "rating.PutPlan",
            rating_service_pb2.PutPlanRequest(
                plan=plan_pb2.Plan(
                    plan_id=plan_id,
                    display_name=plan_id.capitalize(),
                    currency=currency,
                    base_fee=DecimalMessage(value=base_fee),
                    prices=prices if per else (),
                )
            ),
        )

    async def put_meter(self, *group_by: str) -> None:
        """Put a meter of tokens, kept apart by these dimensions."""
        await self.call(
            "meter.PutMeter",
            meter_service_pb2.PutMeterRequest(
                meter=meter_pb2.Meter(
                    meter_id="tokens",
                    event_type="ai.call",
                    aggregation=meter_pb2.AGGREGATION_SUM,
                    quantity="tokens",
                    group_by=group_by,
                    unit="token",
                )
            ),
        )

    async def use(self, customer_id: str, tokens: Decimal | int, time: datetime) -> None:
        """Record usage."""
        await self.call(
            "meter.IngestEvents",
            meter_service_pb2.IngestEventsRequest(
                events=[
                    meter_pb2.UsageEvent(
                        event_id=self.request_id(),
                        source="test",
                        subject=Subject(customer_id=customer_id),
                        type="ai.call",
                        time=render_time(time),
                        quantities={"tokens": str(tokens)},
                    )
                ]
            ),
        )

    async def put_customer(self, customer_id: str = "acme", **changes: Any) -> None:  # noqa: ANN401 - fields of the message.
        """Put a customer; by default a German business."""
        await self.call(
            "invoicing.PutCustomer",
            messages.PutCustomerRequest(customer=customer(customer_id, **changes)),
        )

    async def subscribe(
        self,
        customer_id: str = "acme",
        plan_id: str = "team",
        **changes: Any,  # noqa: ANN401 - as above.
    ) -> None:
        """Subscribe a customer to a plan from the first of January on."""
        await self.call(
            "invoicing.CreateSubscription",
            messages.CreateSubscriptionRequest(
                subscription=subscription(customer_id, plan_id, **changes)
            ),
        )


def seller(**changes: Any) -> customer_pb2.Seller:  # noqa: ANN401 - fields of the message.
    """Make a seller in Dublin."""
    fields: dict[str, Any] = {
        "legal_name": "Lumen Inference Ltd",
        "address": customer_pb2.PostalAddress(
            lines=["12 Harcourt Street"], city="Dublin", postal_code="D02 XY45", country="IE"
        ),
        "email": "billing@lumen.example",
        "payment_instructions": "By bank transfer.\nIBAN IE29 AIBK 9311 5212 3456 78",
        "payment_term_days": 14,
    }
    return customer_pb2.Seller(**{**fields, **changes})


def customer(customer_id: str = "acme", **changes: Any) -> customer_pb2.Customer:  # noqa: ANN401 - as above.
    """Make a German business with a VAT id."""
    fields: dict[str, Any] = {
        "customer_id": customer_id,
        "legal_name": "Acme Robotik GmbH",
        "address": customer_pb2.PostalAddress(
            lines=["Invalidenstraße 44"], city="Berlin", postal_code="10115", country="DE"
        ),
        "kind": tax_pb2.BUYER_KIND_BUSINESS,
        "tax_ids": [tax_pb2.TaxId(country="DE", number="DE 136 695 976")],
        "currency": "EUR",
    }
    return customer_pb2.Customer(**{**fields, **changes})


def a_french_consumer(customer_id: str = "dupont", **changes: Any) -> customer_pb2.Customer:  # noqa: ANN401 - as above.
    """Make a consumer in Paris."""
    fields: dict[str, Any] = {
        "legal_name": "Amélie Dupont",
        "address": customer_pb2.PostalAddress(
            lines=["5 rue des Lilas"], city="Paris", postal_code="75020", country="FR"
        ),
        "kind": tax_pb2.BUYER_KIND_CONSUMER,
        "tax_ids": [],
        "language": "fr",
    }
    return customer(customer_id, **{**fields, **changes})


def subscription(
    customer_id: str = "acme",
    plan_id: str = "team",
    **changes: Any,  # noqa: ANN401 - as above.
) -> customer_pb2.Subscription:
    """Make a subscription from the first of January on."""
    fields: dict[str, Any] = {
        "subscription_id": f"{customer_id}-{plan_id}",
        "customer_id": customer_id,
        "plan_id": plan_id,
        "start_time": render_time(START),
    }
    return customer_pb2.Subscription(**{**fields, **changes})


def euro(units: int, cents: int = 0) -> Money:
    """Make an amount."""
    return Money(currency_code="EUR", units=units, nanos=cents * 10_000_000)


def results(answers: list[messages.CloseBillingPeriodResponse]) -> list[tuple[str, str]]:
    """Answer what became of each period: the subscription, and its number, state or reason."""
    return [
        (
            answer.subscription_id,
            answer.invoice.number or invoice_pb2.InvoiceState.Name(answer.invoice.state)
            if answer.HasField("invoice")
            else read_status(answer.error).reason,
        )
        for answer in answers[1:]
    ]


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read an error of a call."""
    trailers = error.trailing_metadata()
    encoded = next(value for key, value in trailers or () if key == DETAILS_KEY)
    return read_status(Status.FromString(encoded))  # type: ignore[arg-type] # a -bin value is bytes


def read_status(status: Status) -> Refusal:
    """Read an error of a batch or a stream."""
    info, bad = ErrorInfo(), BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    return Refusal(
        code,
        info.reason,
        dict(info.metadata),
        tuple(violation.field for violation in bad.field_violations),
    )


@asynccontextmanager
async def running_world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str, now: datetime
) -> AsyncIterator[World]:
    """Start the four services at one clock, and end them."""
    clock = ManualClock(now)
    async with AsyncExitStack() as stack:
        addresses: dict[str, str] = {}
        stubs: dict[str, Any] = {}
        for service in SERVICES:
            others = {f"{name}_address": address for name, address in addresses.items()}
            settings = settings_for(service, **others)
            addresses[service] = await stack.enter_async_context(hosted(service, settings, clock))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(addresses[service]))
            stubs[service] = STUBS[service](channel)
        issuer = TokenIssuer(keys.issuer_key(), clock)
        yield World(tenant, clock, issuer, addresses, stubs)


@asynccontextmanager
async def billing_world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Start a world on the morning of the first of February, with a seller and a plan in euro."""
    async with running_world(settings_for, keys, tenant, FEBRUARY + timedelta(hours=6)) as world:
        await world.put_seller()
        await world.put_plan()
        yield world
