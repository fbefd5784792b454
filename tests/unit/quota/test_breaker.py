"""The circuit breaker: when it opens, who may try, and what closes it."""

from services.quota.breaker import CLOSED, FAILURES_MAX, PAUSE_MS, Breaker


def after_failures(count: int, now_ms: int = 1_000) -> Breaker:
    """Let some fail in a row."""
    breaker = CLOSED
    for _ in range(count):
        breaker = breaker.failed(now_ms)
    return breaker


def test_it_is_closed_at_first_and_after_a_few_failures() -> None:
    """One that fails now and then is no outage."""
    assert CLOSED.admits(0)
    assert after_failures(FAILURES_MAX - 1).admits(1_000)


def test_failures_in_a_row_open_it_for_a_pause() -> None:
    """Until the pause has passed nobody asks."""
    breaker = after_failures(FAILURES_MAX)

    assert not breaker.admits(1_000)
    assert not breaker.admits(1_000 + PAUSE_MS - 1)
    assert breaker.admits(1_000 + PAUSE_MS)


def test_one_tries_for_all() -> None:
    """While he waits nobody else does; if nothing is heard of him, another one tries."""
    trying = after_failures(FAILURES_MAX).asking(1_000 + PAUSE_MS)

    assert not trying.admits(1_000 + PAUSE_MS)
    assert trying.admits(1_000 + 2 * PAUSE_MS)


def test_his_failure_keeps_it_open() -> None:
    """For another pause from then on."""
    late_ms = 1_000 + PAUSE_MS + 20
    breaker = after_failures(FAILURES_MAX).asking(1_000 + PAUSE_MS).failed(late_ms)

    assert not breaker.admits(late_ms + PAUSE_MS - 1)
    assert breaker.admits(late_ms + PAUSE_MS)


def test_asking_changes_nothing_while_it_is_closed() -> None:
    """Any number may ask at once."""
    assert CLOSED.asking(1_000) is CLOSED
