"""A hold that a gateway works with: what is held, and what the call turned out to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from tollkeeper.amounts import Number, parse_amounts, render_amounts
from tollkeeper.api.quota.v1.quota_pb2 import Amount
from tollkeeper.api.quota.v1.quota_service_pb2 import ReserveRequest
from tollkeeper.errors import LimitState
from tollkeeper.lease import TTL_S, Lease


@dataclass(slots=True)
class Hold:
    """Amounts that are held for a call; say what it used with `commit`, inside the block."""

    reservation_id: str
    granted: dict[str, Number]
    expire_time: datetime
    limits: tuple[LimitState, ...]
    request_id: str
    lease: Lease | None = None
    used: dict[str, Number] | None = None
    booked: list[Amount] = field(default_factory=list)
    event_id: str = ""
    event_type: str = ""
    time: Timestamp | None = None
    dimensions: dict[str, str] = field(default_factory=dict)

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


def leased_hold(request: ReserveRequest, lease: Lease) -> Hold | None:
    """Return a hold whose amounts are taken out of a lease, if that has room."""
    amounts = parse_amounts(request.amounts)
    if lease.take(*amounts.values()) is None:
        return None
    return Hold(
        "",
        amounts,
        datetime.now(UTC) + timedelta(seconds=TTL_S),
        (),
        request.request_id,
        lease,
    )


def render_time(time: datetime | None) -> Timestamp:
    """Return an instant, by default now, as a message.

    Raises:
        ValueError: the instant names no time zone.
    """
    if time is not None and time.tzinfo is None:
        raise ValueError(f"time {time.isoformat()} names no time zone")
    message = Timestamp()
    message.FromDatetime(time or datetime.now(UTC))
    return message
