"""Envoy's rate limit service: how many awaited answers in a second, beside a bare echo.

The quota service runs as its own process on a durable Redis of its own. 64 callers, in this
process, ask over one channel as Envoy does, one request at a time each: two descriptors, of one of
256 keys and of its route. `echo_per_s` is a grpc.aio server that answers the bytes it got, asked
the same requests by as many callers.
"""

import argparse
import asyncio
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvloop

from bench.calling import ECHO, Calls, echoing, in_turns
from bench.rig import running
from cli.embedded.loopback import HOST, choose_ports
from kit.rpc.channel import open_channel
from services.quota.envoy.messages import METHOD, RateLimitRequest, RateLimitResponse

_CALLERS = 64
_KEYS = 256
_ROUTES = 4
_CASE_S = 5.0
# Envoy always names a deadline.
_TIMEOUT_S = 30.0

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
    # Processes are started before the first gRPC call, as threads make it unsafe to fork after.
    with (
        rules() as (address, variables),
        running("quota", variables) as rig,
        echoing() as (echo_address, echo_process),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        deciding = {
            "client": os.getpid(),
            "service": rig.process_id,
            "redis": rig.redis_process_id,
        }
        rls, echo = Calls(deciding), Calls({"client": os.getpid(), "service": echo_process})

        async def measure_both() -> None:
            async with open_channel(address) as channel, open_channel(echo_address) as echo_channel:
                await measure(channel, echo_channel, rls, echo, seconds)

        runner.run(measure_both())
    return {
        "rls_per_s": rls.figures.per_s,
        "rls_p99_ms": rls.figures.p99_ms,
        "rls_cpu_us": rls.figures.cpu_us,
        "echo_per_s": echo.figures.per_s,
        "echo_cpu_us": echo.figures.cpu_us,
        "rls_ratio_to_echo": round(rls.figures.per_s / echo.figures.per_s, 3),
    }


@contextmanager
def rules() -> Iterator[tuple[str, Mapping[str, str]]]:
    """Write the rules; give the address of the rate limit service and the variables for it."""
    (port,) = choose_ports(1)
    address = f"{HOST}:{port}"
    with tempfile.TemporaryDirectory(prefix="tollkeeper-bench-") as folder:
        file = Path(folder) / "rules.yaml"
        file.write_text(_RULES)
        yield (
            address,
            {
                "TOLLKEEPER_ENVOY_LISTEN": address,
                "TOLLKEEPER_ENVOY_CONFIG": str(file),
                "TOLLKEEPER_ENVOY_TENANT": "bench",
            },
        )


async def measure(
    channel: Any,  # noqa: ANN401 - as gRPC's, as the next.
    echo_channel: Any,  # noqa: ANN401
    rls: Calls,
    echo: Calls,
    seconds: float,
) -> None:
    """Let the rate limit service and the echo answer in turns."""
    ask: Any = channel.unary_unary(
        METHOD,
        request_serializer=RateLimitRequest.SerializeToString,
        response_deserializer=RateLimitResponse.FromString,
    )
    ask_echo: Any = echo_channel.unary_unary(
        ECHO,
        request_serializer=RateLimitRequest.SerializeToString,
        response_deserializer=RateLimitRequest.FromString,
    )
    numbers = itertools.count()
    await in_turns(
        (
            (rls, lambda _: ask(_request(next(numbers)), timeout=_TIMEOUT_S)),
            (echo, lambda _: ask_echo(_request(next(numbers)), timeout=_TIMEOUT_S)),
        ),
        _CALLERS,
        seconds,
    )


def _request(number: int) -> Any:  # noqa: ANN401 - made at run time.
    request = RateLimitRequest(domain="bench")
    request.descriptors.add().entries.add(key="api_key", value=f"key-{number * 7 % _KEYS}")
    request.descriptors.add().entries.add(key="route", value=f"/v{number % _ROUTES}/chat")
    return request
