"""The generated month: the same every time, bursty, heavy-tailed, and within its bounds."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest

from cli.demo.limits import demo_limits, share_of
from cli.demo.month import periods_of
from cli.demo.workload import PlannedCall, plan_calls, plan_gpu_jobs
from cli.demo.world import CUSTOMERS
from kit.interval import Interval

PERIODS = periods_of(datetime(2026, 10, 1, tzinfo=UTC).date())


@pytest.fixture(scope="module")
def calls() -> list[PlannedCall]:
    """A month of calls."""
    return plan_calls(CUSTOMERS, PERIODS, 5000, 7)


def test_the_same_seed_gives_the_same_month(calls: list[PlannedCall]) -> None:
    """And another one another month."""
    assert plan_calls(CUSTOMERS, PERIODS, 5000, 7) == calls
    assert plan_calls(CUSTOMERS, PERIODS, 5000, 8) != calls


def test_calls_are_shared_out_and_each_has_an_identity(calls: list[PlannedCall]) -> None:
    """Shares are 40, 25, 15 and 20 of 100."""
    assert Counter(call.customer_id for call in calls) == {
        "golden-gate": 2000,
        "isar": 1250,
        "manon": 750,
        "hanako": 1000,
    }
    assert len({call.event_id for call in calls}) == 5000


def test_an_odd_number_of_calls_is_planned_in_full() -> None:
    """Nothing is lost where shares do not divide."""
    assert len(plan_calls(CUSTOMERS, PERIODS, 101, 7)) == 101


def test_every_call_lies_in_its_customers_month_and_in_order(calls: list[PlannedCall]) -> None:
    """Months differ by time zone."""
    assert all(PERIODS[call.customer_id].contains(call.time) for call in calls)
    assert [call.time for call in calls] == sorted(call.time for call in calls)


def test_sizes_have_heavy_tails(calls: list[PlannedCall]) -> None:
    """One call in a hundred is over ten times as large as half of the calls."""
    sizes = sorted(call.total_tokens for call in calls)

    assert sizes[len(sizes) * 99 // 100] > 10 * sizes[len(sizes) // 2]


def test_arrivals_are_bursty(calls: list[PlannedCall]) -> None:
    """Spread evenly, 2,000 calls would be 22 minutes apart; here most follow within seconds."""
    times = [call.time for call in calls if call.customer_id == "golden-gate"]
    gaps = sorted(later - earlier for earlier, later in pairwise(times))

    assert gaps[len(gaps) // 2] < timedelta(seconds=10)


def test_some_calls_fail_and_some_use_more_than_they_reserve(calls: list[PlannedCall]) -> None:
    """The gate has to cope with both; most calls stay within what they reserve."""
    failing = sum(call.fails for call in calls)
    overruns = sum(call.output_tokens > call.reserved_output_tokens for call in calls)

    assert 10 < failing < 200
    assert 20 < overruns < 400


def test_the_first_and_the_last_gpu_job_lie_on_the_bounds() -> None:
    """The one at the end belongs to the next month."""
    jobs = [job for job in plan_gpu_jobs(CUSTOMERS, PERIODS, 7) if job.customer_id == "isar"]
    period: Interval = PERIODS["isar"]

    assert len(jobs) == 40
    assert (jobs[0].time, jobs[-1].time) == (period.start, period.end)
    assert sum(period.contains(job.time) for job in jobs) == 39


def test_each_limit_admits_less_than_is_planned(calls: list[PlannedCall]) -> None:
    """So each refuses some calls, whatever the number of calls."""
    planned = {
        "manon-budget": sum(call.total_tokens for call in calls if call.customer_id == "manon"),
        "nightly-tokens": sum(call.total_tokens for call in calls if call.project_id == "nightly"),
        "intern-rate": sum(call.key_id == "gg-intern" for call in calls),
    }
    admitted = {
        limit.limit_id: limit.rolling.burst or limit.capacity for limit in demo_limits(calls)
    }

    assert admitted.keys() == planned.keys()
    assert all(0 < admitted[name] < planned[name] * Fraction(5, 6) for name in planned)


@pytest.mark.parametrize(
    ("amount", "expected"), [(1_234_567, 610_000), (0, 1), (3, 1), (199, 99), (300, 150)]
)
def test_a_share_is_a_round_number_below(amount: int, expected: int) -> None:
    """Two digits and zeros, and never nothing."""
    assert share_of(amount, Fraction(1, 2)) == expected
