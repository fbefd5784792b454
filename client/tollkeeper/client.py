"""The client of a gateway: reserve before a call, commit after it, report what was used."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
from collections.abc import Awaitable, Coroutine, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from tollkeeper.amounts import Number, render_amounts
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.quota.v1.quota_pb2 import DECISION_DENY
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    CheckRequest,
    GetBalancesRequest,
    RecordRequest,
    ReleaseRequest,
    ReserveRequest,
    SessionAnswer,
    SessionCall,
)
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.channel import open_channel
from tollkeeper.errors import (
    LimitState,
    QuotaDenied,
    TollkeeperError,
    parse_limit,
    parse_rpc_error,
)
from tollkeeper.events import EventReporter, UsageReport, WhenFull
from tollkeeper.hold import Hold
from tollkeeper.lease import Lease, LeasedCalls
from tollkeeper.leases import Leases
from tollkeeper.rendering import (
    Mode,
    render_duration,
    render_estimates,
    render_mode,
    render_quantities,
    render_subject,
    render_time,
)
from tollkeeper.reservation import Reservation
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

logger = logging.getLogger("tollkeeper")


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
        self._background: set[asyncio.Future[None]] = set()
        self._settlements = Settlements(self.ask)
        self._leases = Leases(self.ask, self._settlements.send_or_log, self.new_request_id)

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
        quota_channel, meter_channel = self._channels = [
            open_channel(address, self._credentials) for address in self._addresses
        ]
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
            await asyncio.gather(*self._background)
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
        min_amounts: Mapping[str, Number] | None = None,
        max_amounts: Mapping[str, Number] | None = None,
        estimates: Mapping[str, Number] | None = None,
        route: str = "",
        mode: Mode = "enforce",
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
            min_amounts: the least that is of use, by unit: where the amounts do not fit, as much of
                these units as does is held, and `hold.is_partial` says so.
            max_amounts: up to how much the hold may grow by `used_so_far`, by unit.
            estimates: units whose amounts the gate estimates by what calls alike have used, each
                with the most that this call can use, 0 where that is not known. `hold.granted` says
                how much is held, and the hold may grow up to that most.
            route: what calls are alike: those of one route and one `model` learn from each other.
            mode: in `shadow` no limit refuses the call; `hold.exceeded` says which would have.
            request_id: the idempotency key; by default a new one.
            lease: take the amounts out of a larger hold that this client shares among the calls of
                the same subject, dimensions and units, so that most of them wait for nobody. Their
                decisions carry no limits. Up to one larger hold stays unused, for 10 s at most.
                Calls in shadow, in part or to be estimated are decided one by one all the same.
            quantities: amounts by unit, as in `reserve("acme", input_tokens=1200)`.

        Raises:
            QuotaDenied: on entering the block; a limit has no room.
            QuotaUnavailable: on entering the block; no answer came in time.
            CallFailed: on entering the block; the request is not valid.
        """
        request = ReserveRequest(
            request_id=request_id or self.new_request_id(),
            subject=render_subject(customer, project, user, key, run),
            dimensions=dimensions,
            amounts=render_amounts({**(amounts or {}), **quantities}),
            ttl=render_duration(ttl),
            min_amounts=render_amounts(min_amounts or {}),
            estimates=render_estimates(estimates or {}, route),
            mode=render_mode(mode),
        )
        is_plain = not (request.min_amounts or request.estimates or request.mode)
        shared = self._leases.of(request) if lease and is_plain else None
        known = {unit: most for unit, most in (estimates or {}).items() if most}
        return Reservation(self, request, shared, {**known, **(max_amounts or {})})

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
            render_subject(customer, project, user, key, run),
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
        mode: Mode = "enforce",
        **quantities: Number,
    ) -> tuple[LimitState, ...]:
        """Return the limits of a call that would pass now, without counting anything.

        Raises:
            QuotaDenied: the call would be refused.
        """
        request = CheckRequest(
            subject=render_subject(customer, project, user, key, run),
            dimensions=dimensions,
            amounts=render_amounts({**(amounts or {}), **quantities}),
            mode=render_mode(mode),
        )
        answer = (await self.ask(SessionCall(check=request))).check
        limits = tuple(map(parse_limit, answer.limits))
        if answer.decision == DECISION_DENY:
            raise QuotaDenied(limits, is_degraded=answer.degraded)
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
            subject=render_subject(customer, project, user, key, run),
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
                event_id=event_id or self.new_request_id(),
                source=self._source,
                subject=render_subject(customer, project, user, key, run),
                type=event_type,
                time=render_time(time),
                dimensions=dimensions,
                quantities=render_quantities({**(amounts or {}), **quantities}),
            )
        )

    async def record(
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
        """Book usage that nobody has held, at the gate and with the meter.

        It counts in the windows in which it happened, and refuses nothing. A repeat of an event id
        counts nothing. While the gate is gone, it is told later.

        Args:
            customer: who pays.
            amounts: amounts by unit, joined with the keyword ones, which read better.
            event_id: the identity of the usage event, and the idempotency key at the gate.
            event_type: the type of the usage event.
            time: when the usage happened; by default now.
            project: the customer's project.
            user: the end user.
            key: the API key.
            run: the agent run.
            dimensions: `model`, `provider` and the like.
            quantities: amounts by unit, as in `record("acme", output_tokens=312)`.

        Raises:
            CallFailed: the request is not valid.
        """
        used = {**(amounts or {}), **quantities}
        subject = render_subject(customer, project, user, key, run)
        event = UsageEvent(
            event_id=event_id or self.new_request_id(),
            source=self._source,
            subject=subject,
            type=event_type,
            time=render_time(time),
            dimensions=dimensions,
            quantities=render_quantities(used),
        )
        request = RecordRequest(
            request_id=event.event_id,
            subject=subject,
            dimensions=dimensions,
            amounts=render_amounts(used),
            event_time=event.time,
        )
        await self._settlements.send(SessionCall(record=request))
        await self._reporter.submit(event)

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

    def begin(self, work: Coroutine[object, object, None]) -> asyncio.Future[None]:
        """Do something in the background, which the client waits for when it is closed."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def settle(self, hold: Hold) -> None:
        """End a hold: book and report what was committed, or give it back.

        The meter is the truth and hears of the usage first, unless its events have no room; those
        wait after the gate has been told. When the gate cannot be reached, it is told later, for
        some minutes.
        """
        event = None if hold.used is None else hold.usage_event(self._source)
        is_taken = event is None or self._reporter.offer(event)
        if hold.lease is not None:
            hold.lease.settle_units(hold.granted, hold.used)
        elif hold.used is not None:
            await self._settlements.send(SessionCall(commit=hold.commit_request()))
        elif hold.reservation_id:
            release = ReleaseRequest(
                request_id=f"{hold.request_id}:release", reservation_id=hold.reservation_id
            )
            await self._settlements.send(SessionCall(release=release))
        if event is not None and not is_taken:
            await self._reporter.submit(event)

    def new_request_id(self) -> str:
        """Make an idempotency key."""
        return f"{self._request_prefix}-{next(self._request_numbers)}"
