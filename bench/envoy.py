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
_ROUNDS = 5
# Envoy always names a deadline.
_TIMEOUT_S = 30.0
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
            rls, echo = runner.run(_measure(address, echo_address, seconds / _ROUNDS))
    return {
        "rls_per_s": rls.per_s,
        "rls_p99_ms": rls.p99_ms,
        "echo_per_s": echo.per_s,
        "rls_ratio_to_echo": round(rls.per_s / echo.per_s, 3),
    }


async def _measure(address: str, echo_address: str, seconds: float) -> tuple["_Calls", "_Calls"]:
    """Let both answer in turn, so that what else the machine does meets both."""
    async with open_channel(address) as channel, open_channel(echo_address) as echo_channel:
        ask: Any = channel.unary_unary(
            METHOD,
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )
        ask_echo: Any = echo_channel.unary_unary(
            _ECHO,
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitRequest.FromString,
        )
        rls, echo = _Calls(), _Calls()
        for calls, method in ((_Calls(), ask), (_Calls(), ask_echo)):
            await calls.make(method, _WARM_UP_S)
        for _ in range(_ROUNDS):
            await rls.make(ask, seconds)
            await echo.make(ask_echo, seconds)
        return rls, echo


class _Calls:
    """Calls of one method, and how long they took."""

    def __init__(self) -> None:
        self._latencies_s: list[float] = []
        self._took_s = 0.0

    @property
    def per_s(self) -> int:
        """Answers in a second."""
        return round(len(self._latencies_s) / self._took_s)

    @property
    def p99_ms(self) -> float:
        """What 99 of 100 callers waited at most."""
        return round(1000 * sorted(self._latencies_s)[len(self._latencies_s) * 99 // 100], 2)

    async def make(self, ask: Any, seconds: float) -> None:  # noqa: ANN401 - as gRPC's.
        """Let callers ask, each as soon as it has its answer."""
        started_s = time.perf_counter()

        async def call_in_turn(caller: int) -> None:
            after_s, number = started_s, caller
            while after_s - started_s < seconds:
                number += _CALLERS
                before_s = time.perf_counter()
                await ask(_request(number), timeout=_TIMEOUT_S)
                after_s = time.perf_counter()
                self._latencies_s.append(after_s - before_s)

        await asyncio.gather(*map(call_in_turn, range(_CALLERS)))
        self._took_s += time.perf_counter() - started_s


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
