"""A simulation of stored events: a meter and a rating service, and a month of many customers.

Every event is a call of one of three models with input and output tokens; three meters count it.
The plan in force and both candidates price tokens by a table and calls by tiers. The customers are
named, as `tollkeeper plans simulate` names those that are subscribed.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from google.protobuf.text_format import Parse

from bench.rig import Rig
from kit.interval import Interval
from kit.rpc.channel import open_channel
from kit.rpc.wire import render_interval, render_time
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as meter_messages
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.api.rating.v1 import plan_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages
from tollkeeper.api.rating.v1.rating_service_pb2_grpc import RatingServiceStub

EVENTS = 1_000_000
CUSTOMERS = 10_000
_BATCH = 5_000
_CALLERS = 4
_MODELS = ("claude-sonnet-4-5", "gpt-4o-mini", "o3")
_PLAN = """
    plan_id: "{plan_id}" currency: "USD" base_fee {{ value: "{base_fee}" }}
    prices {{
      price_id: "input" meter_id: "input_tokens"
      matrix {{
        per_quantity {{ value: "1000000" }}
        rows {{ dimensions {{ key: "model" value: "gpt-4o-mini" }} amount {{ value: "0.15" }} }}
        rows {{ dimensions {{ key: "model" value: "o3" }} amount {{ value: "2" }} }}
        rows {{ amount {{ value: "3" }} }}
      }}
    }}
    prices {{
      price_id: "output" meter_id: "output_tokens"
      matrix {{
        per_quantity {{ value: "1000000" }}
        rows {{ dimensions {{ key: "model" value: "gpt-4o-mini" }} amount {{ value: "0.6" }} }}
        rows {{ dimensions {{ key: "model" value: "o3" }} amount {{ value: "8" }} }}
        rows {{ amount {{ value: "15" }} }}
      }}
    }}
    prices {{
      price_id: "calls" meter_id: "calls"
      graduated {{
        tiers {{ up_to {{ value: "{bound}" }} unit_amount {{ value: "0.02" }} }}
        tiers {{ unit_amount {{ value: "0.01" }} }}
      }}
    }}
"""


async def measure_simulation(
    tenant: str, meter: Rig, rating: Rig, period: Interval, count: int
) -> dict[str, Any]:
    """Store events, simulate two candidates over all of them, and answer the figures."""
    metadata = meter.metadata(
        tenant, "meter.ingest", "meter.write", "meter.read", "rating.read", "rating.write"
    )
    async with open_channel(meter.address) as channel:
        await _store_events(MeterServiceStub(channel), metadata, period, count)
    async with open_channel(rating.address) as channel:
        stub = RatingServiceStub(channel)
        current = messages.PutPlanRequest(request_id="current", plan=_plan("current", "20", "50"))
        await stub.PutPlan(current, metadata=metadata)
        request = messages.SimulateRequest(
            candidates=[_plan("cheaper", "10", "50"), _plan("later", "20", "100")],
            current_plan_id="current",
        )
        request.periods.add().period.CopyFrom(render_interval(period))
        for number in range(min(CUSTOMERS, count)):
            request.customers.add(customer_id=_customer_id(number))
        spent_s = rating.cpu_seconds(), meter.cpu_seconds()
        started_s = time.perf_counter()
        steps = 0
        customers = 0
        async for answer in stub.Simulate(request, metadata=metadata):
            steps += answer.HasField("progress")
            customers += len(answer.outcomes.outcomes)
        took_s = time.perf_counter() - started_s
    assert answer.report.customer_count == customers == min(CUSTOMERS, count)
    return {
        "simulate_1m_s" if count == EVENTS else "simulate_s": round(took_s, 2),
        "simulate_events": count,
        "simulate_customers": customers,
        "simulate_progress_steps": steps,
        "simulate_cpu_s": round(rating.cpu_seconds() - spent_s[0], 2),
        "simulate_meter_cpu_s": round(meter.cpu_seconds() - spent_s[1], 2),
        "simulate_peak_mb": rating.peak_memory_mb(),
    }


async def _store_events(
    stub: Any,  # noqa: ANN401 - a generated stub.
    metadata: tuple[tuple[str, str], ...],
    period: Interval,
    count: int,
) -> None:
    for meter in _meters():
        request = meter_messages.PutMeterRequest(request_id=meter.meter_id, meter=meter)
        await stub.PutMeter(request, metadata=metadata)
    batches = _batches(period, count)

    async def send() -> None:
        for batch in batches:
            await stub.IngestEvents(batch, metadata=metadata)

    await asyncio.gather(*(send() for _ in range(_CALLERS)))


def _meters() -> Iterator[meter_pb2.Meter]:
    for quantity in ("input_tokens", "output_tokens"):
        yield meter_pb2.Meter(
            meter_id=quantity,
            event_type="llm.call",
            aggregation=meter_pb2.AGGREGATION_SUM,
            quantity=quantity,
            group_by=["model"],
        )
    yield meter_pb2.Meter(
        meter_id="calls", event_type="llm.call", aggregation=meter_pb2.AGGREGATION_COUNT
    )


def _batches(period: Interval, count: int) -> Iterator[meter_messages.IngestEventsRequest]:
    chance = random.Random(2)
    seconds = int(period.duration.total_seconds())
    for first in range(0, count, _BATCH):
        request = meter_messages.IngestEventsRequest()
        for number in range(first, min(first + _BATCH, count)):
            event = request.events.add(
                event_id=f"{number:032}",
                source="gateway",
                type="llm.call",
                time=render_time(period.start + timedelta(seconds=chance.randrange(seconds))),
                dimensions={"model": chance.choice(_MODELS)},
                quantities={
                    "input_tokens": str(chance.randrange(1, 20_000)),
                    "output_tokens": str(chance.randrange(1, 2_000)),
                },
            )
            event.subject.customer_id = _customer_id(number % CUSTOMERS)
        yield request


def _customer_id(number: int) -> str:
    return f"customer-{number:05}"


def _plan(plan_id: str, base_fee: str, bound: str) -> plan_pb2.Plan:
    return Parse(_PLAN.format(plan_id=plan_id, base_fee=base_fee, bound=bound), plan_pb2.Plan())
