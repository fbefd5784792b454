"""Limits, calls and holds for tests of the gate; a test names only what matters to it."""

from collections.abc import Mapping
from datetime import UTC, datetime

from services.quota.coverage import Coverage, LimitIndex
from services.quota.model import (
    CalendarPeriod,
    CalendarWindow,
    Enforcement,
    Level,
    Limit,
    RollingRate,
    Subject,
    Window,
)

A_DAY = CalendarWindow(CalendarPeriod.DAY, "UTC")
A_MONTH = CalendarWindow(CalendarPeriod.MONTH, "UTC")
EVERYBODY = Subject("")
NO_DIMENSIONS: Mapping[str, str] = {}


class TrustingKeeper:
    """Keeps counters of which it knows that none are lost."""

    def __init__(self, epoch: str = "epoch", installation: str = "installation") -> None:
        self.epoch = epoch
        self.installation = installation

    async def may_begin(self, root: object) -> bool:
        """Let every customer begin."""
        assert root
        return True

    def lost(self, root: object) -> None:
        """Nothing is lost here."""
        raise AssertionError(f"the counters of {root} were lost")

    def note(self, batch: object, decided: object) -> None:
        """Remember nothing."""


def a_limit(
    limit_id: str = "tokens",
    *,
    level: Level = Level.CUSTOMER,
    subject: Subject = EVERYBODY,
    dimensions: Mapping[str, str] = NO_DIMENSIONS,
    units: tuple[str, ...] = ("tokens",),
    capacity: int = 100,
    window: Window = A_DAY,
    overdraft: int = 0,
    enforcement: Enforcement = Enforcement.HARD,
    only_if: str = "",
    overrides: str = "",
    expire_time: datetime | None = None,
    plan_id: str = "",
    alert_thresholds: tuple[int, ...] = (),
) -> Limit:
    """Make a limit of 100 tokens a day for each customer."""
    return Limit(
        limit_id=limit_id,
        display_name="",
        level=level,
        subject=subject,
        dimensions=tuple(sorted(dimensions.items())),
        units=units,
        capacity=capacity,
        window=window,
        overdraft=overdraft,
        enforcement=enforcement,
        filter=only_if,
        overrides=overrides,
        expire_time=expire_time,
        plan_id=plan_id,
        alert_thresholds=alert_thresholds,
    )


def a_rate(
    limit_id: str = "rate",
    *,
    capacity: int = 60,
    period_ms: int = 60_000,
    burst: int = 0,
    level: Level = Level.CUSTOMER,
    units: tuple[str, ...] = ("tokens",),
) -> Limit:
    """Make a limit of 60 tokens a minute for each customer."""
    window = RollingRate(period_ms, burst)
    return a_limit(limit_id, level=level, units=units, capacity=capacity, window=window)


def a_subject(
    customer: str = "acme", *, project: str = "", user: str = "", key: str = "", run: str = ""
) -> Subject:
    """Make the path of a call of the customer acme."""
    return Subject(customer, project, user, key, run)


def covering(*limits: Limit, subject: Subject | None = None) -> Coverage:
    """Answer what covers a call when these are all limits."""
    return LimitIndex(limits).coverage(subject or a_subject(), ())


def unix_ms(text: str) -> int:
    """Read an instant of UTC, such as 2026-03-01T00:00, as Unix milliseconds."""
    instant = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return int(instant.timestamp()) * 1000 + instant.microsecond // 1000
