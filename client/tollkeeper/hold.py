"""A hold that a gateway works with: what is held, and what the call turned out to use.

While an answer streams, `used_so_far` is told how much it has used, and lets the hold grow by
itself before that is all it has: a call begins with little and takes what it really needs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from tollkeeper.amounts import Number, from_quanta, parse_amounts, render_amounts
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.quota.v1.quota_pb2 import DECISION_DENY, Amount
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    CommitRequest,
    ExtendRequest,
    MarkDispatchedRequest,
    ReserveRequest,
    SessionAnswer,
    SessionCall,
)
from tollkeeper.errors import LimitState, QuotaDenied, TollkeeperError, parse_limit
from tollkeeper.lease import Lease
from tollkeeper.rendering import render_duration, render_quantities, render_time

# At four fifths of what is held the hold grows.
GROWS_AT_FIFTHS = 4
GROWTH_PARTS = 4
GROWTH_RETRY_S = 0.25
TTL_DEFAULT = timedelta(seconds=60)

logger = logging.getLogger("tollkeeper")


class Gate(Protocol):
    """What a hold needs of its client."""

    def ask(self, call: SessionCall) -> Awaitable[SessionAnswer]:
        """Send one call of the session and return its answer."""

    def begin(self, work: Coroutine[object, object, None]) -> asyncio.Future[None]:
        """Do something in the background."""

    def new_request_id(self) -> str:
        """Make an idempotency key."""


@dataclass(slots=True)
class Hold:
    """Amounts that are held for a call; say what it used with `commit`, inside the block.

    `granted` is what is held, `limits` how the limits stood then. `is_partial` says that less was
    granted than was asked for, `is_degraded` that the counters could not be reached and the limits'
    outage policies let the call pass. `refused` is why the hold could not grow, if so.
    """

    reservation_id: str
    granted: dict[str, Number]
    expire_time: datetime
    limits: tuple[LimitState, ...]
    request: ReserveRequest
    gate: Gate | None = None
    lease: Lease | None = None
    max_amounts: Mapping[str, Number] = field(default_factory=dict)
    is_partial: bool = False
    is_degraded: bool = False
    refused: QuotaDenied | None = None
    used: dict[str, Number] | None = None
    booked: list[Amount] = field(default_factory=list)
    event_id: str = ""
    event_type: str = ""
    time: Timestamp | None = None
    dimensions: dict[str, str] = field(default_factory=dict)
    _begun_with: dict[str, Number] = field(default_factory=dict)
    _growth: asyncio.Future[None] | None = None
    _grows_from: float = 0.0

    @property
    def request_id(self) -> str:
        """The idempotency key of the reserve."""
        return self.request.request_id

    @property
    def exceeded(self) -> tuple[LimitState, ...]:
        """The limits for which the call was too much and that let it pass: soft or in shadow."""
        return tuple(limit for limit in self.limits if limit.exceeded)

    def commit(
        self,
        amounts: Mapping[str, Number] | None = None,
        /,
        *,
        event_id: str = "",
        event_type: str = "llm.call",
        time: datetime | None = None,
        dimensions: Mapping[str, str] | None = None,
        **quantities: Number,
    ) -> None:
        """Say what the call really used; it is booked and metered at the end of the block.

        Args:
            amounts: amounts by unit, joined with the keyword ones, which read better.
            event_id: the identity of the usage event; by default that of the reservation.
            event_type: the type of the usage event.
            time: when the usage happened; by default now.
            dimensions: dimensions that were not known before the call.
            quantities: amounts by unit, as in `commit(input_tokens=1187, output_tokens=1012)`.

        Raises:
            TypeError: an amount is neither an int nor a Decimal.
            ValueError: an amount is not one of its unit, or the time names no time zone.
        """
        used = {**(amounts or {}), **quantities}
        self.booked = render_amounts(used)
        self.time = render_time(time)
        self.used = used
        self.event_id = event_id or self.request_id
        self.event_type = event_type
        self.dimensions = dict(dimensions or {})

    def commit_request(self) -> CommitRequest:
        """Return what books the call at the gate, once it has committed."""
        return CommitRequest(
            request_id=f"{self.request_id}:commit",
            reservation_id=self.reservation_id,
            amounts=self.booked,
            subject=self.request.subject,
            dimensions=self.request.dimensions,
        )

    def usage_event(self, source: str) -> UsageEvent:
        """Return what tells the meter of the call, once it has committed."""
        return UsageEvent(
            event_id=self.event_id,
            source=source,
            subject=self.request.subject,
            type=self.event_type,
            time=self.time,
            dimensions={**self.request.dimensions, **self.dimensions},
            quantities=render_quantities(self.used or {}),
        )

    async def mark_dispatched(self) -> None:
        """Say that the call has left for its provider.

        Should this gateway die, the hold is booked at what it held when it expires, instead of
        being given back.

        Raises:
            QuotaUnavailable: no answer came in time.
        """
        if self.gate is None or self.lease is not None or not self.reservation_id:
            return
        request = MarkDispatchedRequest(
            request_id=f"{self.request_id}:dispatched", reservation_id=self.reservation_id
        )
        await self.gate.ask(SessionCall(mark_dispatched=request))

    async def extend(
        self,
        amounts: Mapping[str, Number] | None = None,
        /,
        *,
        min_amounts: Mapping[str, Number] | None = None,
        ttl: timedelta | None = None,
        **quantities: Number,
    ) -> dict[str, Number]:
        """Hold more, or for longer, and return what is held in addition.

        Args:
            amounts: amounts by unit beyond what is held, joined with the keyword ones.
            min_amounts: the least that is of use, as in `reserve`.
            ttl: how long the hold lives from now on; it never becomes shorter.
            quantities: amounts by unit, as in `extend(output_tokens=400)`.

        Raises:
            QuotaDenied: a limit has no room; the hold is as before.
            QuotaUnavailable: no answer came in time.
            CallFailed: the request is not valid, or the hold has ended.
        """
        more = {**(amounts or {}), **quantities}
        if self.lease is not None:
            return self._note_growth(await self._take_of_lease(self.lease, more))
        if self.gate is None or not self.reservation_id:
            # What was let pass without counters is booked when they are back.
            return self._note_growth(more)
        request = ExtendRequest(
            request_id=self.gate.new_request_id(),
            reservation_id=self.reservation_id,
            amounts=render_amounts(more),
            min_amounts=render_amounts(min_amounts or {}),
            ttl=render_duration(ttl),
            subject=self.request.subject,
            dimensions=self.request.dimensions,
            mode=self.request.mode,
        )
        answer = (await self.gate.ask(SessionCall(extend=request))).extend
        limits = tuple(map(parse_limit, answer.limits))
        if answer.decision == DECISION_DENY:
            raise QuotaDenied(limits, is_degraded=answer.degraded)
        self.limits = limits or self.limits
        if answer.HasField("expire_time"):
            self.expire_time = answer.expire_time.ToDatetime(UTC)
        return self._note_growth(parse_amounts(answer.granted))

    def used_so_far(
        self, amounts: Mapping[str, Number] | None = None, /, **quantities: Number
    ) -> bool:
        """Say how much the running call has used in all, and let the hold grow when it needs to.

        At four fifths of what is held the hold grows in the background: by a quarter of what it has
        or by what it began with, whichever is more, in part if that is all there is, and up to the
        call's `max_amounts`. Its time grows with it. Returns False when the call has used up what
        is held and the gate has refused more: a gateway that wants to stay within the limits then
        ends the answer. It costs little until the hold grows, so it may be called for each token.
        """
        covers = True
        for unit, used in {**(amounts or {}), **quantities}.items():
            held = self.granted.get(unit, 0)
            covers = covers and used < held
            if self._growth is None and used * (GROWS_AT_FIFTHS + 1) >= held * GROWS_AT_FIFTHS:
                self._grow(unit, used, held)
        return covers or self.refused is None

    async def covers(
        self, amounts: Mapping[str, Number] | None = None, /, **quantities: Number
    ) -> bool:
        """Say whether the call may use so much in all, and wait while the hold grows for it.

        As `used_so_far`, for answers that stream faster than the hold grows: it waits only where
        what is held does not cover the amounts. False means that the gate has refused more.
        """
        wanted = {**(amounts or {}), **quantities}
        self.used_so_far(wanted)
        while not self._has(wanted) and self._growth is not None:
            await asyncio.shield(self._growth)
            self.used_so_far(wanted)
        return self._has(wanted) or self.refused is None

    def _has(self, amounts: Mapping[str, Number]) -> bool:
        return all(amount <= self.granted.get(unit, 0) for unit, amount in amounts.items())

    def _grow(self, unit: str, used: Number, held: Number) -> None:
        """Begin to hold more of a unit, unless that was refused a moment ago."""
        now = asyncio.get_running_loop().time()
        begun_with = self._begun_with.setdefault(unit, held)
        more = max(held // GROWTH_PARTS, begun_with, used - held, 1)
        if unit in self.max_amounts:
            more = min(more, self.max_amounts[unit] - held)
        if self.gate is None or more <= 0 or now < self._grows_from:
            return
        self._grows_from = now + GROWTH_RETRY_S
        self._growth = self.gate.begin(self._grow_by(unit, more))

    async def _grow_by(self, unit: str, more: Number) -> None:
        least = {unit: from_quanta(unit, 1)}
        lived = self.request.ttl.ToTimedelta() if self.request.HasField("ttl") else TTL_DEFAULT
        try:
            await self.extend({unit: more}, min_amounts=least, ttl=lived)
            self.refused = None
            self._grows_from = 0.0
        except QuotaDenied as denied:
            self.refused = denied
        except TollkeeperError as error:
            logger.warning("hold %s does not grow: %s", self.reservation_id, error)
        finally:
            self._growth = None

    async def _take_of_lease(self, lease: Lease, more: Mapping[str, Number]) -> dict[str, Number]:
        wanted = {unit: more.get(unit, 0) for unit in lease.units}
        if more.keys() - wanted.keys():
            raise ValueError(f"the lease of this hold is of {', '.join(lease.units)}")
        await lease.acquire(*wanted.values())
        return {unit: amount for unit, amount in wanted.items() if amount}

    def _note_growth(self, granted: Mapping[str, Number]) -> dict[str, Number]:
        for unit, amount in granted.items():
            self.granted[unit] = self.granted.get(unit, 0) + amount
        return dict(granted)
