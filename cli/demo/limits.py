"""The limits of the demo: one for each level and window, each reached before the month is over.

The gate decides in real time while the demo plays a month within seconds. So the day of the day
limit and the minute of the rolling rate meet a whole month of calls, and capacities are chosen
accordingly: as a share of what is planned.
"""

from collections.abc import Sequence
from datetime import timedelta
from fractions import Fraction

from google.protobuf.duration_pb2 import Duration

from cli.demo.workload import PlannedCall
from cli.demo.world import GOLDEN_GATE, ISAR, MANON
from tollkeeper.api.quota.v1.quota_pb2 import (
    CALENDAR_PERIOD_DAY,
    CALENDAR_PERIOD_MONTH,
    LEVEL_CUSTOMER,
    LEVEL_KEY,
    LEVEL_PROJECT,
    CalendarWindow,
    Limit,
    RollingRate,
)
from tollkeeper.api.type.v1.subject_pb2 import Subject

_TOKENS = ("input_tokens", "output_tokens")
_BUDGET_SHARE = Fraction(4, 5)
_NIGHTLY_SHARE = Fraction(3, 5)
_BURST_SHARE = Fraction(2, 5)
_REQUESTS_PER_MINUTE = 60
_ROUND_DIGITS = 2


def demo_limits(calls: Sequence[PlannedCall]) -> tuple[Limit, ...]:
    """Give the limits for these calls."""
    manon_tokens = sum(call.total_tokens for call in calls if call.customer_id == MANON.customer_id)
    nightly_tokens = sum(call.total_tokens for call in calls if call.project_id == "nightly")
    intern_calls = sum(call.key_id == "gg-intern" for call in calls)
    minute = Duration()
    minute.FromTimedelta(timedelta(minutes=1))
    return (
        Limit(
            limit_id="intern-rate",
            display_name="Requests of the intern's key, each minute",
            level=LEVEL_KEY,
            subject=Subject(customer_id=GOLDEN_GATE.customer_id, key_id="gg-intern"),
            units=["requests"],
            capacity=_REQUESTS_PER_MINUTE,
            rolling=RollingRate(period=minute, burst=share_of(intern_calls, _BURST_SHARE)),
        ),
        Limit(
            limit_id="manon-budget",
            display_name="Manon's tokens, each month",
            level=LEVEL_CUSTOMER,
            subject=Subject(customer_id=MANON.customer_id),
            units=_TOKENS,
            capacity=share_of(manon_tokens, _BUDGET_SHARE),
            calendar=CalendarWindow(
                period=CALENDAR_PERIOD_MONTH, time_zone=MANON.customer.time_zone
            ),
        ),
        Limit(
            limit_id="nightly-tokens",
            display_name="Tokens of the nightly project, each day",
            level=LEVEL_PROJECT,
            subject=Subject(customer_id=ISAR.customer_id, project_id="nightly"),
            units=_TOKENS,
            capacity=share_of(nightly_tokens, _NIGHTLY_SHARE),
            calendar=CalendarWindow(period=CALENDAR_PERIOD_DAY, time_zone=ISAR.customer.time_zone),
        ),
    )


def share_of(amount: int, share: Fraction) -> int:
    """Give a share of an amount as a round number, rounded down, at least 1."""
    exact = int(amount * share)
    step: int = 10 ** max(len(str(exact)) - _ROUND_DIGITS, 0)
    return max(exact // step * step, 1)
