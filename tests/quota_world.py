"""A real quota service to ask, and its answers and errors as values."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict

from cli.signing_keys import SigningKeys
from kit.errors import DomainError
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.api.type.v1 import subject_pb2

ALLOW = quota_pb2.DECISION_ALLOW
DENY = quota_pb2.DECISION_DENY
PARTIAL = quota_pb2.DECISION_ALLOW_PARTIAL
A_YEAR: Mapping[str, Any] = {"calendar": {"period": "CALENDAR_PERIOD_YEAR"}}
"""A window that does not turn while a test runs, unless it runs into the new year."""

WINDOWS = {"calendar", "rolling", "billing_period", "lifetime", "concurrency"}

Stream = grpc.aio.StreamStreamCall[messages.SessionRequest, messages.SessionResponse]

_HOUR = timedelta(hours=1)
_numbers = count(1)


def request_id() -> str:
    """Make a request id nobody used before."""
    return f"request-{next(_numbers)}"


def subject(customer: str = "acme", **ids: str) -> subject_pb2.Subject:
    """Make the path of a call: `subject(project="search", key="k1")`."""
    names = {f"{level}_id": value for level, value in ids.items()}
    return subject_pb2.Subject(customer_id=customer, **names)


def amounts(**quantities: int) -> list[quota_pb2.Amount]:
    """Make amounts: `amounts(tokens=5)`."""
    return [quota_pb2.Amount(unit=unit, quantity=each) for unit, each in quantities.items()]


def a_limit(limit_id: str = "tokens", **fields: Any) -> quota_pb2.Limit:  # noqa: ANN401 - as JSON.
    """Make a limit, by default of 100 tokens a year for each customer; fields replace."""
    window = {} if WINDOWS & fields.keys() else A_YEAR
    defaults = {"level": "LEVEL_CUSTOMER", "units": ["tokens"], "capacity": "100"}
    return ParseDict({"limit_id": limit_id, **defaults, **window, **fields}, quota_pb2.Limit())


def a_reserve(
    tokens: int = 10,
    *,
    request: str = "",
    ttl_ms: int = 0,
    **ids: str,
) -> messages.ReserveRequest:
    """Ask to hold tokens."""
    message = messages.ReserveRequest(
        request_id=request or request_id(), subject=subject(**ids), amounts=amounts(tokens=tokens)
    )
    if ttl_ms:
        message.ttl.CopyFrom(Duration(seconds=ttl_ms // 1000, nanos=ttl_ms % 1000 * 1_000_000))
    return message


def a_commit(
    hold: str = "",
    tokens: int = 10,
    *,
    request: str = "",
    of: subject_pb2.Subject | None = None,
) -> messages.CommitRequest:
    """Ask to book tokens, of a hold or of a subject or of both."""
    return messages.CommitRequest(
        request_id=request or request_id(),
        reservation_id=hold,
        subject=of,
        amounts=amounts(tokens=tokens) if tokens else [],
    )


def a_release(hold: str, *, request: str = "") -> messages.ReleaseRequest:
    """Ask to give a hold back."""
    return messages.ReleaseRequest(request_id=request or request_id(), reservation_id=hold)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands, without its times."""

    limit: str
    scope: str
    used: int
    reserved: int
    remaining: int
    decided: bool = False


def standings(limits: Sequence[quota_pb2.LimitStatus]) -> list[Standing]:
    """Reduce statuses to what does not depend on the time of day."""
    return [
        Standing(s.limit_id, s.scope, s.used, s.reserved, s.remaining, s.decided) for s in limits
    ]


@dataclass(frozen=True, slots=True)
class QuotaWorld:
    """A running quota service, and whoever asks it."""

    stub: QuotaServiceStub
    issuer: TokenIssuer
    address: str
    tenant: str

    def token(self, *scopes: str, tenant: str = "") -> tuple[tuple[str, str], ...]:
        """Make the metadata of a caller; without scopes it may do everything."""
        granted = scopes or ("quota.decide", "quota.read", "quota.write")
        expires = datetime.now(UTC) + _HOUR
        issued = self.issuer.issue(tenant or self.tenant, granted, "key", expires)
        return (("authorization", f"Bearer {issued}"),)

    async def ask(self, method: str, request: Any, tenant: str = "") -> Any:  # noqa: ANN401 - any message.
        """Call a method for a tenant; a failure is raised as the domain error it was."""
        try:
            return await getattr(self.stub, method)(request, metadata=self.token(tenant=tenant))
        except grpc.aio.AioRpcError as error:
            raise read_error(error) from error

    async def refusal(self, method: str, request: Any, tenant: str = "") -> DomainError:  # noqa: ANN401 - as above.
        """Call a method that must fail, and answer how."""
        try:
            answer = await self.ask(method, request, tenant)
        except DomainError as error:
            return error
        raise AssertionError(f"{method} answered {answer}")

    def session(
        self,
        *sent: messages.SessionRequest,
        scopes: Sequence[str] = (),
        by: Any = None,  # noqa: ANN401 - a stub.
    ) -> Stream:
        """Open a session; what is given is sent at once, and then nothing more."""
        stub: Any = by or self.stub
        metadata = self.token(*scopes)
        stream: Stream = stub.Session(iter(sent) if sent else None, metadata=metadata)
        return stream

    async def put(self, *limits: quota_pb2.Limit, tenant: str = "") -> None:
        """Put limits."""
        for limit in limits:
            request = messages.PutLimitRequest(request_id=request_id(), limit=limit)
            await self.ask("PutLimit", request, tenant)

    async def epoch(self, client: Any) -> str:  # noqa: ANN401 - redis-py types its clients as one.
        """Learn the epoch of the counters, for who makes some without this service."""
        await self.ask("Reserve", a_reserve(1, customer="of-an-epoch"))
        key = f"tollkeeper:quota:{{{self.tenant}/of-an-epoch}}:counters"
        return str(await client.hget(key, "_e"))

    async def balances(self, tenant: str = "", **ids: str) -> list[Standing]:
        """Show how the limits of a subject stand."""
        request = messages.GetBalancesRequest(subject=subject(**ids))
        return standings((await self.ask("GetBalances", request, tenant)).limits)


@asynccontextmanager
async def quota_world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str, **settings: object
) -> AsyncIterator[QuotaWorld]:
    """Run a quota service on this test's servers, for a tenant nobody used before."""
    async with (
        hosted("quota", settings_for("quota", **settings)) as address,
        open_channel(address) as channel,
    ):
        issuer = TokenIssuer(keys.issuer_key())
        yield QuotaWorld(QuotaServiceStub(channel), issuer, address, tenant)
