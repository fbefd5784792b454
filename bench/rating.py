"""Rating: how many lines in a second are priced, by itself and through gRPC.

`lines_per_s` is the pipeline by itself on one core, over a plan with every kind of price
(`rating_mix.yaml`) and the usage of 200 customers: 79 entries each, as the meter hands them over.
It is counted in seconds of the processor, so that other work on the machine does not change it;
`cpu_us_per_line` is the same the other way round. `batch_lines_per_s` is `BatchRate` through gRPC
in seconds of the clock: the service runs as its own process, the caller gives the usage, and every
line comes back with its steps. `batch_cpu_us_per_line` is what the service spends on a line then.

`simulate_1m_s` is `Simulate` through gRPC, in seconds of the clock: a million stored events of
10,000 customers, two candidates beside the plan in force (`rating_simulation.py`). `simulate_cpu_s`
and `simulate_meter_cpu_s` are what both services spend on it, `simulate_peak_mb` is the most memory
that the rating service held. `--events` takes another number of events.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import uvloop

from bench.rating_simulation import EVENTS, measure_simulation
from bench.rig import Rig, running, running_beside
from cli.plan_files import read_plan_file
from kit.interval import Interval
from kit.rpc.channel import open_channel
from kit.rpc.wire import render_decimal, render_interval, render_time
from services.rating.convert.plans import parse_plan
from services.rating.model import GivenUsage, PlanVersion, UsageEntry
from services.rating.pipeline import Terms, rate_period, spans_of
from services.rating.selection import count_given
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceStub

_TENANT = "bench"
_CASE_S = 5.0
_CUSTOMERS = 200
_CALLS = 20
_HOURS = 24
_CALLERS = 2
_MODELS = ("claude-sonnet-4-5", "gpt-4o-mini", "o3", "another")
_PLAN_FILE = Path(__file__).parent / "rating_mix.yaml"
_PERIOD = Interval(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
_QUANTITIES = {
    "input": 50_000_000,
    "requests": 200_000,
    "embeddings": 5_000_000,
    "projects": 200,
    "images": 2_000,
    "payouts": 50_000,
    "tools": 1_000,
    "hosted": 1_000,
    "storage": 10**13,
    "speech": 100_000,
}


def run(arguments: list[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench rating", description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS, help="how many are simulated")
    events = parser.parse_args(arguments).events
    chance = random.Random(1)
    customers = [tuple(_usage_of_a_month(chance)) for _ in range(_CUSTOMERS)]
    figures = _measure_core(customers)
    with running("meter") as meter, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        address = {"TOLLKEEPER_METER_ADDRESS": meter.address}
        with running_beside(meter, "rating", address) as rating:
            simulated = measure_simulation(_TENANT, meter, rating, _PERIOD, events)
            figures |= runner.run(simulated)
        with running_beside(meter, "rating") as rating:
            figures |= runner.run(_measure_service(rating, customers))
    return figures


def _usage_of_a_month(chance: random.Random) -> Iterator[GivenUsage]:
    """Make up what one customer used: totals, groups, hours and calls, as each price reads them."""

    def entry(meter_id: str, most: int, *, decimals: int = 0, **named: Any) -> GivenUsage:  # noqa: ANN401 - fields of the entry.
        quantity = Decimal(chance.randrange(1, most)).scaleb(-decimals)
        return GivenUsage(meter_id, UsageEntry(quantity, **named))

    for meter_id, most in _QUANTITIES.items():
        yield entry(meter_id, most)
    for model in _MODELS:
        yield entry("output", 5_000_000, dimensions={"model": model})
        for kind in ("input", "output"):
            yield entry("tokens", 20_000_000, dimensions={"model": model, "kind": kind})
    for hour in range(_HOURS):
        time_of_use = _PERIOD.start + timedelta(days=hour, hours=hour)
        yield entry("gpu", 3_600, time=time_of_use)
    for call in range(_CALLS):
        size = Decimal(chance.randrange(300_000))
        at = _PERIOD.start + timedelta(hours=call)
        yield entry("sales", 100_000, decimals=2, time=at)
        yield GivenUsage("long_calls", UsageEntry(size, time=at, quantities={"input_tokens": size}))
    for meter_id in ("tools_amount", "hosted_cost"):
        yield entry(meter_id, 10**9, decimals=7)


def _measure_core(customers: list[tuple[GivenUsage, ...]]) -> dict[str, Any]:
    version = PlanVersion(parse_plan(read_plan_file(_PLAN_FILE).plan, "plan"), 1, _PERIOD.start)
    terms = Terms("customer", _PERIOD)
    spans = spans_of(version.plan, terms)
    usages = [count_given(version.plan, given, spans) for given in customers]

    def rate_all() -> int:
        return sum(len(rate_period(version, terms, usage).lines) for usage in usages)

    lines_per_s = _per_cpu_second(rate_all)
    return {
        "lines_per_s": round(lines_per_s),
        "cpu_us_per_line": round(1e6 / lines_per_s, 1),
        "lines_per_rating": rate_all() / _CUSTOMERS,
        "entries_per_rating": sum(map(len, customers)) / _CUSTOMERS,
    }


def _per_cpu_second(once: Callable[[], int]) -> float:
    once()
    done = 0
    started_s = time.process_time()
    while (spent_s := time.process_time() - started_s) < _CASE_S:
        done += once()
    return done / spent_s


async def _measure_service(rig: Rig, customers: list[tuple[GivenUsage, ...]]) -> dict[str, Any]:
    metadata = rig.metadata(_TENANT, "rating.read", "rating.write")
    batch = messages.BatchRateRequest(requests=map(_request, customers))
    async with open_channel(rig.address) as channel:
        stub = RatingServiceStub(channel)
        plan = read_plan_file(_PLAN_FILE).plan
        await stub.PutPlan(messages.PutPlanRequest(request_id="mix", plan=plan), metadata=metadata)

        async def rate_all() -> int:
            lines = 0
            async for answer in stub.BatchRate(batch, metadata=metadata):
                assert answer.HasField("rating"), answer.error
                lines += len(answer.rating.lines)
            return lines

        await rate_all()
        lines = 0
        started_s, spent_s = time.perf_counter(), rig.cpu_seconds()

        async def rate_in_turn() -> None:
            nonlocal lines
            while time.perf_counter() - started_s < _CASE_S:
                lines += await rate_all()

        await asyncio.gather(*(rate_in_turn() for _ in range(_CALLERS)))
        took_s = time.perf_counter() - started_s
        spent_s = rig.cpu_seconds() - spent_s
    return {
        "batch_lines_per_s": round(lines / took_s),
        "batch_cpu_us_per_line": round(1e6 * spent_s / lines, 1),
        "service_peak_mb": rig.peak_memory_mb(),
    }


def _request(given: tuple[GivenUsage, ...]) -> messages.RateRequest:
    request = messages.RateRequest(
        customer_id="customer", plan_id="mix", period=render_interval(_PERIOD)
    )
    for usage in given:
        entry = usage.entry
        request.given_usage.quantities.add(
            meter_id=usage.meter_id,
            dimensions=entry.dimensions,
            quantity=render_decimal(entry.quantity),
            time=None if entry.time is None else render_time(entry.time),
            quantities={name: str(value) for name, value in entry.quantities.items()},
        )
    return request
