"""Call: what one unary call of gRPC costs by itself, in the version that is pinned.

64 callers ask a bare gRPC server, which answers the bytes it was sent; nothing else runs. No
service answers a call for less, so look at it before another version of gRPC is pinned. `cpu_us` is
how many microseconds of a processor the server and this process spend on a call.
"""

import argparse
import asyncio
import os
from collections.abc import Sequence
from typing import Any

import grpc
import uvloop

from bench import calling
from kit.rpc.channel import open_channel

_CALLERS = 64
_SECONDS = 5.0
_MESSAGE = bytes(150)


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    argparse.ArgumentParser(prog="python -m bench call", description=__doc__).parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        figures = runner.run(measure([_MESSAGE], _CALLERS, _SECONDS))
    return {
        "grpc_version": grpc.__version__,
        "calls_per_s": figures.per_s,
        "p50_ms": figures.p50_ms,
        "p99_ms": figures.p99_ms,
        "cpu_us": figures.cpu_us,
    }


async def measure(messages: Sequence[bytes], callers: int, seconds: float) -> calling.Figures:
    """Let callers send messages, each always the same one, to a server that does nothing."""
    with calling.echoing() as (address, process_id):
        async with open_channel(address) as channel:
            send: Any = channel.unary_unary(calling.ECHO)
            calls = calling.Calls({"server": process_id, "caller": os.getpid()})
            ask = lambda caller: send(messages[caller % len(messages)])  # noqa: E731 - as the contract has it.
            await calling.in_turns([(calls, ask)], callers, seconds)
            return calls.figures
