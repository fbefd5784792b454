"""The client of a gateway: reserve before a call, commit after it, report what was used."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
from google.protobuf.duration_pb2 import Duration

from tollkeeper.amounts import Number, decimal_text, parse_amounts, render_amounts
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.quota.v1.quota_pb2 import DECISION_ALLOW
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    CheckRequest,
    CommitRequest,
    GetBalancesRequest,
    ReleaseRequest,
    ReserveRequest,
    SessionAnswer,
    SessionCall,
)
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.api.type.v1.subject_pb2 import Subject
from tollkeeper.errors import (
    LimitState,
    QuotaDenied,
    TollkeeperError,
    parse_limit,
    parse_rpc_error,
)
from tollkeeper.events import EventReporter, UsageReport, WhenFull
from tollkeeper.hold import Hold, leased_hold, render_time
from tollkeeper.lease import Lease, LeasedCalls
from tollkeeper.leases import Leases
from tollkeeper.session import Session
from tollkeeper.settlements import Settlements
from tollkeeper.spool import SPOOL_BYTES_MAX, Spool

if TYPE_CHECKING:
    # The generated stubs name these for type checkers only.
    from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceAsyncStub
    from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceAsyncStub

QUOTA_ADDRESS_DEFAULT = "127.0.0.1:7301"
METER_ADDRESS_DEFAULT = "127.0.0.1:7302"
INGEST_TIMEOUT_S = 30.0
MESSAGE_BYTES_MAX = 16 * 1024 * 1024

logger = logging.getLogger("tollkeeper")


class Reservation:
    """What `reserve` returns: the hold is taken on entering the block and settled on leaving it."""

    def __init__(
        self, client: Tollkeeper, request: ReserveRequest, lease: Lease | None = None
    ) -> None:
        self._client = client
        self._request = request
        self._lease = lease
        self._hold: Hold | None = None

    async def __aenter__(self) -> Hold:
        if self._lease is not None:
            self._hold = leased_hold(self._request, self._lease)
            if self._hold is not None:
                return self._hold
        answer = (await self._client.ask_for_hold(SessionCall(reserve=self._request))).reserve
        limits = tuple(map(parse_limit, answer.limits))
        if answer.decision != DECISION_ALLOW:
            raise QuotaDenied(limits)
        self._hold = Hold(
            answer.reservation_id,
            parse_amounts(answer.granted),
            answer.expire_time.ToDatetime(UTC),
            limits,
            self._request.request_id,
        )
        return self._hold

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._hold is not None:
            await asyncio.shield(self._client.settle(self._request, self._hold))


class Tollkeeper:
    """The client; one for each event loop, used as an async context manager.

    >>> async with Tollkeeper(token=token) as toll:
    ...     async with toll.reserve("acme", input_tokens=1200, output_tokens=800) as hold:
    ...         answer = await call_the_model()
    ...         hold.commit(input_tokens=1187, output_tokens=1012)

    Args:
        token: the signed token; it carries the tenant.
        quota: address of the quota service.
        meter: address of the meter service.
        source: who reports the usage events; with the event id it is an event's identity.
        timeout_s: how long a decision may take before `QuotaUnavailable` is raised.
        spool: folder in which usage events wait for the meter, so that they survive this process;
            by default they wait in memory, at most 20,000.
        spool_bytes_max: the bound on what the spool keeps on disk.
        when_full: what becomes of a usage event for which there is no room, since the meter has
            been gone for long: `wait` lets its call wait at its end, so that no usage is lost;
            `drop` lets it go, counts it in `usage.dropped`, and `flush` complains.
        close_timeout_s: how long leaving the block waits for the meter to take the last events.
        credentials: TLS credentials of the channels; without them they are not encrypted.
    """

    def __init__(
        self,
        *,
        token: str,
        quota: str = QUOTA_ADDRESS_DEFAULT,
        meter: str = METER_ADDRESS_DEFAULT,
        source: str = "gateway",
        timeout_s: float = 1.0,
        spool: Path | None = None,
        spool_bytes_max: int = SPOOL_BYTES_MAX,
        when_full: WhenFull = "wait",
        close_timeout_s: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._addresses = (quota, meter)
        self._source = source
        self._timeout_s = timeout_s
        self._spool = spool
        self._spool_bytes_max = spool_bytes_max
        self._when_full = when_full
        self._close_timeout_s = close_timeout_s
        self._credentials = credentials
        self._request_prefix = secrets.token_hex(8)
        self._request_numbers = itertools.count(1)
        self._channels: list[grpc.aio.Channel] = []
        self._settlements = Settlements(self.ask)
        self._leases = Leases(self.ask, self._settlements.send_or_log, self._new_request_id)

    @classmethod
    def from_environment(cls, *, source: str = "gateway") -> Self:
        """Make a client from TOLLKEEPER_TOKEN and TOLLKEEPER_QUOTA_ADDRESS, ..._METER_ADDRESS.

        Raises:
            TollkeeperError: there is no token.
        """
        token = os.environ.get("TOLLKEEPER_TOKEN", "")
        if not token:
            raise TollkeeperError("TOLLKEEPER_TOKEN is not set")
        return cls(
            token=token,
            quota=os.environ.get("TOLLKEEPER_QUOTA_ADDRESS", QUOTA_ADDRESS_DEFAULT),
            meter=os.environ.get("TOLLKEEPER_METER_ADDRESS", METER_ADDRESS_DEFAULT),
            source=source,
        )

    async def __aenter__(self) -> Self:
        quota_channel, meter_channel = map(self._open_channel, self._addresses)
        self._channels = [quota_channel, meter_channel]
        self._quota: QuotaServiceAsyncStub = QuotaServiceStub(quota_channel)
        self._meter: MeterServiceAsyncStub = MeterServiceStub(meter_channel)
        self._session = Session(
            lambda: self._quota.Session(metadata=self._metadata), timeout_s=self._timeout_s
        )
        self._reporter = EventReporter(
            lambda request: self._meter.IngestEvents(
                request, metadata=self._metadata, timeout=INGEST_TIMEOUT_S
            ),
            None if self._spool is None else Spool(self._spool, bytes_max=self._spool_bytes_max),
            when_full=self._when_full,
        )
        self._reporter.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._leases.close()
            await self._settlements.close(self._close_timeout_s)
            await self._reporter.close(self._close_timeout_s)
        finally:
            await self._session.close()
            await asyncio.gather(*(channel.close() for channel in self._channels))

    @property
    def usage(self) -> UsageReport:
        """What became of the usage events so far."""
        return self._reporter.report

    def reserve(
        self,
        customer: str,
        amounts: Mapping[str, Number] | None = None,
        /,
        *,
        project: str = "",
        user: str = "",
        key: str = "",
        run: str = "",
        dimensions: Mapping[str, str] | None = None,
        ttl: timedelta | None = None,
        request_id: str = "",
        lease: bool = False,
        **quantities: Number,
    ) -> Reservation:
        """Hold amounts for a call while the block runs.

        A block that commits is booked with what it used; any other gives its hold back.

        Args:
            customer: who pays.
            amounts: amounts by unit, joined with the keyword ones, which read better.
            project: the customer's project.
            user: the end user.
            key: the API key.
            run: the agent run.
            dimensions: `model`, `provider` and the like.
            ttl: how long the hold lives if it is never settled; by default 60 seconds.
            request_id: the idempotency key; by default a new one.
            lease: take the amounts out of a larger hold that this client shares among the calls of
                the same subject, dimensions and units, so that most of them wait for nobody. Their
                decisions carry no limits. Up to one larger hold stays unused, for 10 s at most.
            quantities: amounts by unit, as in `reserve("acme", input_tokens=1200)`.

        Raises:
            QuotaDenied: on entering the block; a limit has no room.
            QuotaUnavailable: on entering the block; no answer came in time.
            CallFailed: on entering the block; the request is not valid.
        """
        request = ReserveRequest(
            request_id=request_id or self._new_request_id(),
            subject=_subject(customer, project, user, key, run),
            dimensions=dimensions,
            amounts=render_amounts({**(amounts or {}), **quantities}),
            ttl=_duration(ttl),
        )
        return Reservation(self, request, self._leases.of(request) if lease else None)

    def lease(
        self,
        customer: str,
        most: Mapping[str, Number] | None = None,
        /,
        *,
        project: str = "",
        user: str = "",
        key: str = "",
        run: str = "",
        dimensions: Mapping[str, str] | None = None,
        **quantities: Number,
    ) -> Lease:
        """Hold amounts that calls are given locally, at once, hundreds of thousands in a second.

        The units and their order are those of `lease.take`. Used as `async with toll.lease(...)` or
        `lease = await toll.lease(...)`; ended by leaving the block, `lease.close()`, or with the
        client.

        Args:
            customer: who pays.
            most: by unit, how much the lease may hold at the gate without use, joined with the
                keyword ones. It starts with a 64th of it and follows the traffic.
            project: the customer's project.
            user: the end user.
            key: the API key.
            run: the agent run.
            dimensions: `model`, `provider` and the like.
            quantities: as `most`, as in `lease("acme", requests=1_000, output_tokens=500_000)`.

        Raises:
            ValueError: no unit is named.
            QuotaUnavailable: on entering; no answer came in time.
            CallFailed: on entering; the request is not valid.
        """
        amounts = render_amounts({**(most or {}), **quantities})
        if not amounts:
            raise ValueError("a lease needs at least one unit")
        calls = LeasedCalls(
            _subject(customer, project, user, key, run),
            dict(dimensions or {}),
            tuple(amount.unit for amount in amounts),
        )
        return self._leases.make(calls, tuple(amount.quantity for amount in amounts))

    async def check(
        self,
        customer: str,
        amounts: Mapping[str, Number] | None = None,
        /,
        *,
        project: str = "",
        user: str = "",
        key: str = "",
        run: str = "",
        dimensions: Mapping[str, str] | None = None,
        **quantities: Number,
    ) -> tuple[LimitState, ...]:
        """Return the limits of a call that would pass now, without counting anything.

        Raises:
            QuotaDenied: the call would be refused.
        """
        request = CheckRequest(
            subject=_subject(customer, project, user, key, run),
            dimensions=dimensions,
            amounts=render_amounts({**(amounts or {}), **quantities}),
        )
        answer = (await self.ask(SessionCall(check=request))).check
        limits = tuple(map(parse_limit, answer.limits))
        if answer.decision != DECISION_ALLOW:
            raise QuotaDenied(limits)
        return limits

    async def balances(
        self,
        customer: str,
        *,
        project: str = "",
        user: str = "",
        key: str = "",
        run: str = "",
        dimensions: Mapping[str, str] | None = None,
    ) -> tuple[LimitState, ...]:
        """Return how every limit of a subject stands."""
        request = GetBalancesRequest(
            subject=_subject(customer, project, user, key, run),
            dimensions=dimensions,
        )
        try:
            answer = await self._quota.GetBalances(
                request, metadata=self._metadata, timeout=self._timeout_s
            )
        except grpc.aio.AioRpcError as error:
            raise parse_rpc_error(error) from None
        return tuple(map(parse_limit, answer.limits))

    async def report(
        self,
        customer: str,
        amounts: Mapping[str, Number] | None = None,
        /,
        *,
        event_id: str = "",
        event_type: str = "llm.call",
        time: datetime | None = None,
        project: str = "",
        user: str = "",
        key: str = "",
        run: str = "",
        dimensions: Mapping[str, str] | None = None,
        **quantities: Number,
    ) -> None:
        """Report usage to the meter, in the background; a repeat of an event id counts nothing."""
        await self._reporter.submit(
            UsageEvent(
                event_id=event_id or self._new_request_id(),
                source=self._source,
                subject=_subject(customer, project, user, key, run),
                type=event_type,
                time=render_time(time),
                dimensions=dimensions,
                quantities=_quantities({**(amounts or {}), **quantities}),
            )
        )

    async def flush(self) -> None:
        """Wait until the meter has taken every usage event so far.

        Raises:
            UsageNotReported: the meter refused events.
        """
        await self._reporter.flush()

    def ask(self, call: SessionCall) -> Awaitable[SessionAnswer]:
        """Send one call of the session and return its answer, as messages."""
        return self._session.ask(call)

    async def ask_for_hold(self, call: SessionCall) -> SessionAnswer:
        """Ask as `ask` does; a caller that is cancelled meanwhile leaves no hold behind."""
        asking = asyncio.ensure_future(self._session.ask(call))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(self._give_back_unwanted)
            raise

    def _give_back_unwanted(self, asking: asyncio.Future[SessionAnswer]) -> None:
        """Release a hold that came when its caller had gone."""
        if asking.cancelled() or asking.exception() is not None:
            return
        reservation_id = asking.result().reserve.reservation_id
        if reservation_id:
            release = ReleaseRequest(
                request_id=f"{reservation_id}:unwanted", reservation_id=reservation_id
            )
            self._settlements.submit(SessionCall(release=release))

    async def settle(self, request: ReserveRequest, hold: Hold) -> None:
        """End a hold: book and report what was committed, or give it back.

        The meter is the truth and hears of the usage first, unless its events have no room; those
        wait after the gate has been told. When the gate cannot be reached, it is told later, for
        some minutes.
        """
        event = None if hold.used is None else self._usage_event(request, hold)
        is_taken = event is None or self._reporter.offer(event)
        if hold.lease is not None:
            hold.lease.settle_units(hold.granted, hold.used)
        elif hold.used is None:
            release = ReleaseRequest(
                request_id=f"{request.request_id}:release", reservation_id=hold.reservation_id
            )
            await self._settlements.send(SessionCall(release=release))
        else:
            await self._settlements.send(SessionCall(commit=_commit(request, hold)))
        if event is not None and not is_taken:
            await self._reporter.submit(event)

    def _usage_event(self, request: ReserveRequest, hold: Hold) -> UsageEvent:
        return UsageEvent(
            event_id=hold.event_id,
            source=self._source,
            subject=request.subject,
            type=hold.event_type,
            time=hold.time,
            dimensions={**request.dimensions, **hold.dimensions},
            quantities=_quantities(hold.used or {}),
        )

    def _open_channel(self, address: str) -> grpc.aio.Channel:
        options = (
            # A name may stand for several replicas.
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # A service that was killed is back within seconds, and decisions wait for it.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        )
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, self._credentials, options)

    def _new_request_id(self) -> str:
        return f"{self._request_prefix}-{next(self._request_numbers)}"


def _commit(request: ReserveRequest, hold: Hold) -> CommitRequest:
    return CommitRequest(
        request_id=f"{request.request_id}:commit",
        reservation_id=hold.reservation_id,
        amounts=hold.booked,
        subject=request.subject,
        dimensions=request.dimensions,
    )


def _subject(customer: str, project: str, user: str, key: str, run: str) -> Subject:
    return Subject(customer_id=customer, project_id=project, user_id=user, key_id=key, run_id=run)


def _duration(ttl: timedelta | None) -> Duration | None:
    if ttl is None:
        return None
    message = Duration()
    message.FromTimedelta(ttl)
    return message


def _quantities(amounts: Mapping[str, Number]) -> dict[str, str]:
    return {unit: decimal_text(unit, value) for unit, value in amounts.items()}
