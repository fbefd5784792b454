"""What is kept of usage and what goes: months of events, and the instant from which all are there.

Pure. Events are kept by the month of UTC in which they happened. Before the horizon some may be
gone, from it on none is; rollups are never given up, so figures that need no event do not change.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from kit.errors import Precondition

MONTHS_AHEAD: Final = 3
_MONTHS_PER_YEAR: Final = 12
_PARTITION: Final = re.compile(r"events_([0-9]{4})_([0-9]{2})")


def cut_of(now: datetime, retention: timedelta) -> datetime:
    """Answer before which instant nothing has to be kept: the beginning of a month."""
    return _first_of(now - retention)


def months_to_make(now: datetime) -> tuple[datetime, ...]:
    """Answer the months, by their beginnings, that have to be there: this one and three more."""
    return tuple(_months_after(_first_of(now), number) for number in range(MONTHS_AHEAD + 1))


def month_of(partition: str) -> datetime | None:
    """Answer the beginning of the month whose events a partition holds; nothing for the others."""
    match = _PARTITION.fullmatch(partition)
    return datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC) if match else None


def is_over(month: datetime, cut: datetime) -> bool:
    """Tell whether all of a month lies before the instant."""
    return _months_after(month, 1) <= cut


def check_kept(instant: datetime, horizon: datetime | None) -> None:
    """Allow what needs every event from an instant on.

    Raises:
        Precondition: EVENTS_EXPIRED.
    """
    if horizon and instant < horizon:
        raise Precondition(
            "EVENTS_EXPIRED",
            f"this needs events from {instant.isoformat()} on,"
            f" and those before {horizon.isoformat()} are no longer kept",
            metadata={"kept_from": horizon.isoformat()},
        )


def _first_of(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _months_after(month: datetime, count: int) -> datetime:
    years, index = divmod(month.month - 1 + count, _MONTHS_PER_YEAR)
    return month.replace(year=month.year + years, month=index + 1)
