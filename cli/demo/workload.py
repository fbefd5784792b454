"""Generates a month of AI calls: bursts, heavy tails, office hours; the same for the same seed.

Nothing here talks to a service. Times lie in each customer's own calendar month.
"""

import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise

from cli.demo.world import DemoCustomer
from kit.interval import Interval

MODELS = ("atlas-large", "atlas-small")
GPUS = ("h100", "l4")

_MODEL_WEIGHTS = (1, 3)

# How likely a call is in each hour of the customer's day: quiet nights, busy office hours.
_HOUR_WEIGHTS = (1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 10, 9, 7, 9, 10, 10, 9, 7, 5, 4, 3, 2, 2, 1)
_BURST_SIZE_TAIL = 1.3
_BURST_SIZE_MAX = 200
_BURST_GAP_MEAN_S = 2.0
# Log-normal prompts: half are below 600 tokens, one in a hundred is above 9,000.
_INPUT_MEDIAN_LOG = 6.4
_INPUT_SPREAD = 1.15
_INPUT_TOKENS_MAX = 120_000
# Pareto answers: most are short, a few are very long.
_OUTPUT_TOKENS_MIN = 60
_OUTPUT_TAIL = 1.5
_OUTPUT_TOKENS_MAX = 8_000
_RESERVED_STEP = 256
_OVERRUN_SHARE = 0.02
_FAILURE_SHARE = 0.01
_GPU_HOURS_STEP = Decimal("0.001")


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A call that a gateway is going to make.

    Args:
        event_id: The identity of its usage event.
        customer_id: Who pays.
        project_id: The project of the key.
        key_id: The API key.
        model: The model.
        time: When it happens.
        input_tokens: How long the prompt is, which is known before.
        reserved_output_tokens: How long the answer is expected to be at most.
        output_tokens: How long it turns out to be, sometimes longer than expected.
        fails: Whether the model fails, so that nothing is used.
    """

    event_id: str
    customer_id: str
    project_id: str
    key_id: str
    model: str
    time: datetime
    input_tokens: int
    reserved_output_tokens: int
    output_tokens: int
    fails: bool

    @property
    def total_tokens(self) -> int:
        """What the call uses."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class GpuJob:
    """GPU time that was used outside of the gate."""

    event_id: str
    customer_id: str
    gpu: str
    time: datetime
    gpu_hours: Decimal


def plan_calls(
    customers: Sequence[DemoCustomer],
    periods: dict[str, Interval],
    call_count: int,
    seed: int,
) -> list[PlannedCall]:
    """Plan the calls of all customers, in the order in which they happen.

    Args:
        customers: Who calls.
        periods: The month of each customer, by id.
        call_count: How many calls in all.
        seed: Decides everything that is left to chance.
    """
    dice = random.Random(seed)  # noqa: S311 - no secret, and the same every time.
    planned: list[PlannedCall] = []
    for customer, count in zip(customers, _shares(customers, call_count), strict=True):
        times = _burst_times(dice, periods[customer.customer_id], count)
        planned += [
            _plan_call(dice, customer, f"{customer.customer_id}-{number:06}", time)
            for number, time in enumerate(times, start=1)
        ]
    return sorted(planned, key=lambda call: (call.time, call.event_id))


def plan_gpu_jobs(
    customers: Sequence[DemoCustomer], periods: dict[str, Interval], seed: int
) -> list[GpuJob]:
    """Plan the GPU jobs; each customer's first and last lie on the bounds of its month.

    The first instant belongs to the month, and the end does not: that job is the next month's.
    """
    dice = random.Random(seed + 1)  # noqa: S311 - as above.
    jobs: list[GpuJob] = []
    for customer in customers:
        period = periods[customer.customer_id]
        span_us = (period.end - period.start) // timedelta(microseconds=1)
        offsets_us = [0, *(dice.randrange(span_us) for _ in range(customer.gpu_jobs - 2)), span_us]
        jobs += [
            GpuJob(
                event_id=f"{customer.customer_id}-gpu-{number:03}",
                customer_id=customer.customer_id,
                gpu=dice.choice(GPUS),
                time=period.start + timedelta(microseconds=offset_us),
                gpu_hours=int(dice.lognormvariate(0, 1) * 1000 + 1) * _GPU_HOURS_STEP,
            )
            for number, offset_us in enumerate(offsets_us[: customer.gpu_jobs], start=1)
        ]
    return jobs


def _shares(customers: Sequence[DemoCustomer], call_count: int) -> Iterator[int]:
    """Split the calls by the customers' shares; what does not divide goes to the last."""
    total = sum(customer.share for customer in customers)
    bounds = [0, *(call_count * part // total for part in accumulate(c.share for c in customers))]
    return (end - start for start, end in pairwise(bounds))


def _burst_times(dice: random.Random, period: Interval, count: int) -> list[datetime]:
    """Draw the times of a customer's calls: bursts at likely hours, calls close together."""
    hour_bounds = list(accumulate(_HOUR_WEIGHTS))
    days = (period.end - period.start) // timedelta(days=1)
    times: list[datetime] = []
    while len(times) < count:
        hour = bisect(hour_bounds, dice.randrange(hour_bounds[-1]))
        time = period.start + timedelta(
            days=dice.randrange(days), hours=hour, seconds=dice.random() * 3600
        )
        size = min(int(dice.paretovariate(_BURST_SIZE_TAIL)), _BURST_SIZE_MAX, count - len(times))
        for _ in range(size):
            times.append(min(time, period.end - timedelta(microseconds=1)))
            time += timedelta(seconds=dice.expovariate(1 / _BURST_GAP_MEAN_S))
    return sorted(times)


def _plan_call(
    dice: random.Random, customer: DemoCustomer, event_id: str, time: datetime
) -> PlannedCall:
    project_id, key_id = dice.choice(customer.keys)
    input_tokens = min(
        1 + int(dice.lognormvariate(_INPUT_MEDIAN_LOG, _INPUT_SPREAD)), _INPUT_TOKENS_MAX
    )
    output_tokens = min(
        int(_OUTPUT_TOKENS_MIN * dice.paretovariate(_OUTPUT_TAIL)), _OUTPUT_TOKENS_MAX
    )
    is_overrun = dice.random() < _OVERRUN_SHARE
    reserved_steps = -(-output_tokens // _RESERVED_STEP)
    return PlannedCall(
        event_id=event_id,
        customer_id=customer.customer_id,
        project_id=project_id,
        key_id=key_id,
        model=dice.choices(MODELS, _MODEL_WEIGHTS)[0],
        time=time,
        input_tokens=input_tokens,
        reserved_output_tokens=output_tokens // 2
        if is_overrun
        else reserved_steps * _RESERVED_STEP,
        output_tokens=output_tokens,
        fails=dice.random() < _FAILURE_SHARE,
    )
