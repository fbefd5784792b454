"""Clocks: aware, in UTC, and steerable in tests."""

from datetime import UTC, datetime, timedelta, timezone

from kit.clock import ManualClock, SystemClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_manual_clock_moves_only_when_told() -> None:
    """It stands still, advances, and may be set back."""
    clock = ManualClock(NOON)
    seen = [clock.now(), clock.now()]
    clock.advance(timedelta(hours=1))
    seen.append(clock.now())
    clock.set(NOON)
    seen.append(clock.now())

    assert seen == [NOON, NOON, NOON + timedelta(hours=1), NOON]


def test_every_clock_tells_utc() -> None:
    """A start in another zone is the same instant, told in UTC."""
    local = NOON.astimezone(timezone(timedelta(hours=9)))

    assert ManualClock(local).now().tzinfo is UTC
    assert SystemClock().now().tzinfo is UTC
