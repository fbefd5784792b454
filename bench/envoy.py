"""Envoy's rate limit service: how many awaited answers in a second, beside a bare echo.

The quota service runs as its own process on a durable Redis of its own. 64 callers, in this
process, ask over one channel as Envoy does, one request at a time each: two descriptors, of one of
256 keys and of its route. `echo_per_s` is a grpc.aio server that answers the bytes it got, asked
the same requests by as many callers.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from bench.rig import running
from cli.embedded.loopback import HOST, choose_ports
from kit.rpc.channel import open_channel
from services.quota.envoy.messages import METHOD, RateLimitRequest, RateLimitResponse

_CALLERS = 64
_KEYS = 256
_ROUTES = 4
_WARM_UP_S = 1.0
_CASE_S = 5.0
_ECHO = "/bench.Echo/Echo"

_RULES = """\
domain: bench
descriptors:
  - key: api_key
    rate_limit: {unit: hour, requests_per_unit: 4000000000}
  - key: route
    rate_limit: {unit: minute, requests_per_unit: 4000000000}
"""


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench envoy", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_CASE_S, help="how long each case runs")
    seconds = parser.parse_args(arguments).seconds
    (port,) = choose_ports(1)
    address = f"{HOST}:{port}"
    with tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as folder:
        rules = Path(folder) / "rules.yaml"
        rules.write_text(_RULES)
        variables = {
            "TOLLKEEPER_ENVOY_LISTEN": address,
            "TOLLKEEPER_ENVOY_CONFIG": str(rules),
            "TOLLKEEPER_ENVOY_TENANT": "bench",
        }
        # Processes are started before the first gRPC call, as threads make it unsafe to fork after.
        with (
            running("quota", variables),
            _echoing() as echo_address,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            rls = runner.run(_measure(address, METHOD, RateLimitResponse, seconds))
            echo = runner.run(_measure(echo_address, _ECHO, RateLimitRequest, seconds))
    return {
        "rls_per_s": round(rls[0]),
        "rls_p99_ms": round(rls[1], 2),
        "echo_per_s": round(echo[0]),
        "rls_ratio_to_echo": round(rls[0] / echo[0], 3),
    }


async def _measure(
    address: str,
    method: str,
    answer_type: Any,  # noqa: ANN401 - made at run time.
    seconds: float,
) -> tuple[float, float]:
    """Let callers ask, each as soon as it has its answer; tell answers a second and p99 in ms."""
    async with open_channel(address) as channel:
        ask: Any = channel.unary_unary(
            method,
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=answer_type.FromString,
        )
        await _call(ask, _WARM_UP_S)
        return await _call(ask, seconds)


async def _call(ask: Any, seconds: float) -> tuple[float, float]:  # noqa: ANN401 - as gRPC's.
    latencies_s: list[float] = []
    started_s = time.perf_counter()

    async def call_in_turn(caller: int) -> None:
        after_s, number = started_s, caller
        while after_s - started_s < seconds:
            number += _CALLERS
            before_s = time.perf_counter()
            await ask(_request(number))
            after_s = time.perf_counter()
            latencies_s.append(after_s - before_s)

    await asyncio.gather(*map(call_in_turn, range(_CALLERS)))
    took_s = time.perf_counter() - started_s
    latencies_s.sort()
    return len(latencies_s) / took_s, 1000 * latencies_s[len(latencies_s) * 99 // 100]


def _request(number: int) -> Any:  # noqa: ANN401 - made at run time.
    request = RateLimitRequest(domain="bench")
    request.descriptors.add().entries.add(key="api_key", value=f"key-{number * 7 % _KEYS}")
    request.descriptors.add().entries.add(key="route", value=f"/v{number % _ROUTES}/chat")
    return request


@contextmanager
def _echoing() -> Iterator[str]:
    command = (sys.executable, "-P", "-m", "bench.echo")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None, "it was asked for"
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
