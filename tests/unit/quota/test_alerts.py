"""Which answers show the figures that thresholds are compared with."""

from typing import Any, cast

import pytest

from kit.clock import SystemClock
from services.quota.alerts import Alerts
from services.quota.counters import Answer, Root
from services.quota.model import Kind, Outcome
from tests.quota_builders import a_limit, covering

ROOT = Root("tenant", "acme")
HOUR_MS = 3_600_000
COVERAGE = covering(
    a_limit("a", capacity=10, alert_thresholds=(50,)), a_limit("b", capacity=10), a_limit("c")
)


def seen(outcome: int, figures: list[int]) -> int:
    """Count the crossings that are noted of an answer."""
    alerts = Alerts(cast("Any", None), SystemClock())
    answer = Answer(Kind.RESERVE, outcome, 1_000, 0, "", COVERAGE, figures)
    alerts.see(ROOT, answer)
    alerts.see(ROOT, answer)
    return len(alerts._unwritten)


@pytest.mark.parametrize(
    ("outcome", "figures", "expected"),
    [
        (Outcome.ALLOWED, [5, 0, HOUR_MS] * 3, 1),
        (Outcome.ALLOWED, [4, 1, HOUR_MS] * 3, 0),
        (Outcome.DENIED, [5, 0, HOUR_MS, 0] * 3, 1),
        (Outcome.PARTIAL, [*[5, 0, HOUR_MS, 0] * 3, 7], 1),
        (Outcome.DENIED, [9, 9, 9], 0),
        (Outcome.ALLOWED, [], 0),
    ],
)
def test_a_crossing_is_noted_once_of_what_the_counters_answered(
    outcome: Outcome, figures: list[int], expected: int
) -> None:
    """An answer that was given without them has a figure for each limit, or none."""
    assert seen(int(outcome), figures) == expected
