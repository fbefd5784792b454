"""How what a caller says becomes messages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tollkeeper.amounts import Number, decimal_text, to_quanta
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire
from tollkeeper.api.type.v1.subject_pb2 import Subject

Mode = Literal["enforce", "shadow"]
"""Whether limits are enforced on a call, or only say what they would have done."""


def render_subject(customer: str, project: str, user: str, key: str, run: str) -> Subject:
    """Return the path of a call."""
    return Subject(customer_id=customer, project_id=project, user_id=user, key_id=key, run_id=run)


def render_mode(mode: Mode) -> wire.Mode.ValueType:
    """Return whether limits are enforced.

    Raises:
        ValueError: the mode is neither `enforce` nor `shadow`.
    """
    if mode not in {"enforce", "shadow"}:
        raise ValueError(f"mode is {mode!r}, not 'enforce' or 'shadow'")
    return wire.MODE_SHADOW if mode == "shadow" else wire.MODE_UNSPECIFIED


def render_estimates(most: Mapping[str, Number], route: str) -> list[wire.Estimate]:
    """Return the units that are to be estimated, each with the most that the call can use."""
    return [
        wire.Estimate(unit=unit, max_quantity=to_quanta(unit, each), route=route)
        for unit, each in most.items()
    ]


def render_duration(duration: timedelta | None) -> Duration | None:
    """Return a duration, where there is one."""
    if duration is None:
        return None
    message = Duration()
    message.FromTimedelta(duration)
    return message


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


def render_quantities(amounts: Mapping[str, Number]) -> dict[str, str]:
    """Return the quantities of a usage event."""
    return {unit: decimal_text(unit, value) for unit, value in amounts.items()}
