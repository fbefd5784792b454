"""What `reserve` returns: a block that takes a hold on entering and settles it on leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Protocol

from tollkeeper.amounts import Number, parse_amounts
from tollkeeper.api.quota.v1.quota_pb2 import DECISION_ALLOW_PARTIAL, DECISION_DENY
from tollkeeper.api.quota.v1.quota_service_pb2 import ReserveRequest, SessionAnswer, SessionCall
from tollkeeper.errors import QuotaDenied, parse_limit
from tollkeeper.hold import Gate, Hold
from tollkeeper.lease import TTL_S, Lease


class HoldingGate(Gate, Protocol):
    """What a reservation needs of its client."""

    def ask_for_hold(self, call: SessionCall) -> Awaitable[SessionAnswer]:
        """Ask as `ask` does; a caller that is cancelled meanwhile leaves no hold behind."""

    def settle(self, hold: Hold) -> Awaitable[None]:
        """End a hold."""


class Reservation:
    """Holds amounts while a block runs."""

    def __init__(
        self,
        gate: HoldingGate,
        request: ReserveRequest,
        lease: Lease | None,
        max_amounts: Mapping[str, Number],
    ) -> None:
        self._gate = gate
        self._request = request
        self._lease = lease
        self._max_amounts = max_amounts
        self._hold: Hold | None = None

    async def __aenter__(self) -> Hold:
        self._hold = self._take() or await self._reserve()
        return self._hold

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._hold is not None:
            await asyncio.shield(self._gate.settle(self._hold))

    def _take(self) -> Hold | None:
        """Take the amounts out of the lease, if there is one with room."""
        if self._lease is None:
            return None
        amounts = parse_amounts(self._request.amounts)
        if self._lease.take(*amounts.values()) is None:
            return None
        until = datetime.now(UTC) + timedelta(seconds=TTL_S)
        return Hold(
            "",
            amounts,
            until,
            (),
            self._request,
            self._gate,
            lease=self._lease,
            max_amounts=self._max_amounts,
        )

    async def _reserve(self) -> Hold:
        answer = (await self._gate.ask_for_hold(SessionCall(reserve=self._request))).reserve
        limits = tuple(map(parse_limit, answer.limits))
        if answer.decision == DECISION_DENY:
            raise QuotaDenied(limits, is_degraded=answer.degraded)
        return Hold(
            answer.reservation_id,
            parse_amounts(answer.granted),
            answer.expire_time.ToDatetime(UTC),
            limits,
            self._request,
            self._gate,
            max_amounts=self._max_amounts,
            is_partial=answer.decision == DECISION_ALLOW_PARTIAL,
            is_degraded=answer.degraded,
        )
