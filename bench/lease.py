"""Leases: how many decisions a client makes by itself in a second, out of what it holds.

A decision is `take`, with room or without, and the `settle` of what was taken: one process, one
event loop, a real service and a durable Redis that the lease is renewed from all the while. Callers
take turns on the loop, some calls each, as the calls of a gateway do.

`lease_per_s` counts by the processor time of the client's process, since the service and Redis
share the machine; `lease_wall_per_s` counts by the clock. `lease_bare_per_s` is the raw limit:
as many calls of a method that subtracts from a list and of one that adds.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from bench.rig import Rig, running
from kit.rpc.channel import open_channel
from tollkeeper import Lease, Tollkeeper
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

_TENANT = "bench"
_SCOPES = ("quota.decide", "quota.read", "quota.write")
_CASE_S = 3.0
_CALLERS = 64
_CALLS_PER_TURN = 100
_AMPLE = 10**15
_MOST = 10_000_000
_AMOUNTS = {"requests": 1, "input_tokens": 1_200, "output_tokens": 800}


@dataclass(frozen=True, slots=True)
class Figures:
    """What one process reached with calls of so many units."""

    units: int
    per_s: int
    wall_per_s: int
    refused_parts_in_million: int


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench lease", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_CASE_S, help="how long each case runs")
    options = parser.parse_args(arguments)
    with (
        running("quota") as rig,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(measure(rig, options.seconds))


async def measure(rig: Rig, seconds: float) -> dict[str, Any]:
    """Measure leases on a running service."""
    one, two, three = await _cases(rig, seconds)
    bare_per_s = _bare_per_s()
    return {
        "lease_per_s": three.per_s,
        "lease_wall_per_s": three.wall_per_s,
        "lease_bare_per_s": bare_per_s,
        "lease_ratio_to_bare": round(three.per_s / bare_per_s, 3),
        "lease_cases": [asdict(figures) for figures in (one, two, three)],
    }


async def _cases(rig: Rig, seconds: float) -> list[Figures]:
    metadata = rig.metadata(_TENANT, *_SCOPES)
    await _put_limits(rig.address, metadata)
    token = metadata[0][1].removeprefix("Bearer ")
    amounts = tuple(_AMOUNTS.items())
    async with Tollkeeper(token=token, quota=rig.address) as toll:
        return [
            await _case(toll, dict(amounts[:count]), seconds)
            for count in range(1, len(amounts) + 1)
        ]


async def _case(toll: Tollkeeper, amounts: dict[str, int], seconds: float) -> Figures:
    call = tuple(amounts.values())
    most = {unit: _MOST * each for unit, each in amounts.items()}
    async with toll.lease("acme", most, project="search", key="key-1") as lease:
        await lease.acquire(*call)
        await _take_turns(lease, call, seconds / 3)
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        counts = await _take_turns(lease, call, seconds)
        took_s, took_cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    calls, refused = map(sum, zip(*counts, strict=True))
    return Figures(
        len(call),
        round(calls / took_cpu_s),
        round(calls / took_s),
        round(1_000_000 * refused / calls),
    )


async def _take_turns(lease: Lease, call: tuple[int, ...], seconds: float) -> list[tuple[int, int]]:
    """Let callers decide in turns; answer how many calls each made, and how many had no room."""
    until_s = time.perf_counter() + seconds

    async def call_in_turn() -> tuple[int, int]:
        calls = refused = 0
        while time.perf_counter() < until_s:
            for _ in range(_CALLS_PER_TURN):
                taken = lease.take(*call)
                if taken is None:
                    refused += 1
                else:
                    lease.settle(taken, *call)
            calls += _CALLS_PER_TURN
            await asyncio.sleep(0)
        return calls, refused

    return await asyncio.gather(*(call_in_turn() for _ in range(_CALLERS)))


async def _put_limits(address: str, metadata: tuple[tuple[str, str], ...]) -> None:
    async with open_channel(address) as channel:
        for unit in _AMOUNTS:
            limit = quota_pb2.Limit(
                limit_id=unit.replace("_", "-"),
                level=quota_pb2.LEVEL_KEY,
                units=[unit],
                capacity=_AMPLE,
                calendar=quota_pb2.CalendarWindow(period=quota_pb2.CALENDAR_PERIOD_MONTH),
            )
            request = messages.PutLimitRequest(request_id=limit.limit_id, limit=limit)
            await QuotaServiceStub(channel).PutLimit(request, metadata=metadata)


class _Bare:
    """What a decision costs when nothing is looked at."""

    def __init__(self) -> None:
        self._left = [_AMPLE] * len(_AMOUNTS)

    def take(self, *amounts: int) -> tuple[int, ...]:
        for index, amount in enumerate(amounts):
            self._left[index] -= amount
        return amounts

    def settle(self, taken: tuple[int, ...], /, *used: int) -> None:
        for index, (before, now) in enumerate(zip(taken, used, strict=True)):
            self._left[index] += before - now


def _bare_per_s() -> int:
    bare, call = _Bare(), tuple(_AMOUNTS.values())
    return _per_s(lambda: bare.settle(bare.take(*call), *call))


def _per_s(decide: Callable[[], None]) -> int:
    count, begun_s = 200_000, time.process_time()
    for _ in range(count):
        decide()
    return round(count / (time.process_time() - begun_s))
