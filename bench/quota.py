"""Quota: how many awaited decisions in a second, over four limits each, and how long each takes.

The service runs as its own process on a durable Redis of its own; the callers are another process,
this one, and share the machine with both. Every decision is a reserve under a month's limit of the
customer, a day's of the project, and a rolling rate of tokens and one of requests of the key. Each
caller waits for its answer before it asks again.

The figures at the top are of 256 callers with 64 keys of 16 customers. Operations of one customer
share a script call, so fewer customers are faster; the cases show how much.

Raw limits are measured in the same run. `redis_evalsha_per_s` is the same script with one such
reserve, unpipelined, by 50 connections of a loop of sockets that does nothing else (the Redis of a
wheel comes without redis-benchmark). `echo_per_s` is a grpc.aio server that answers the bytes it
got, asked by as many callers over one channel, in a process of its own.
"""

import argparse
import asyncio
import hashlib
import itertools
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
import uvloop
from google.protobuf.duration_pb2 import Duration

from bench.rig import Rig, running
from kit.rpc.channel import open_channel
from services.quota.convert.limits import parse_limit
from services.quota.counters import SCRIPT, Operation, Root, encode, keys_of
from services.quota.coverage import LimitIndex
from services.quota.model import Kind, Subject
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.api.type.v1 import subject_pb2
from tollkeeper.session import Session

_TENANT = "bench"
_CONNECTIONS = 50
_WARM_UP_S = 1.0
_CASE_S = 5.0
_RAW_RESERVES = 60_000
_TTL_MS = 60_000
_ECHO = "/bench.Echo/Echo"
_TIMEOUT_S = 30.0
_AMPLE = 10**12
_TOKENS = ("input_tokens", "output_tokens")
_MINUTE = Duration(seconds=60)

LIMITS = [
    quota_pb2.Limit(
        limit_id="customer-month",
        level=quota_pb2.LEVEL_CUSTOMER,
        units=_TOKENS,
        capacity=_AMPLE,
        calendar=quota_pb2.CalendarWindow(period=quota_pb2.CALENDAR_PERIOD_MONTH),
    ),
    quota_pb2.Limit(
        limit_id="project-day",
        level=quota_pb2.LEVEL_PROJECT,
        units=_TOKENS,
        capacity=_AMPLE,
        calendar=quota_pb2.CalendarWindow(
            period=quota_pb2.CALENDAR_PERIOD_DAY, time_zone="Europe/Berlin"
        ),
    ),
    quota_pb2.Limit(
        limit_id="key-tokens",
        level=quota_pb2.LEVEL_KEY,
        units=_TOKENS,
        capacity=_AMPLE,
        rolling=quota_pb2.RollingRate(period=_MINUTE),
    ),
    quota_pb2.Limit(
        limit_id="key-requests",
        level=quota_pb2.LEVEL_KEY,
        units=["requests"],
        capacity=_AMPLE,
        rolling=quota_pb2.RollingRate(period=_MINUTE),
    ),
]

Ask = Callable[[bytes], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Case:
    """Who calls: so many at once, with so many keys of so many customers."""

    callers: int = 256
    customers: int = 16
    keys: int = 64

    def subject(self, caller: int) -> subject_pb2.Subject:
        """Answer on whose behalf a caller calls."""
        key = caller % self.keys
        return subject_pb2.Subject(
            customer_id=f"customer-{key % self.customers}",
            project_id=f"project-{key // self.customers % 4}",
            key_id=f"key-{key}",
        )


TOP = Case()
ONE = Case(callers=1)
UNARY = Case(callers=64)
CASES = [
    Case(customers=1, keys=1),
    Case(customers=1, keys=64),
    Case(keys=256),
    Case(customers=256, keys=256),
    Case(callers=1_000),
]


@dataclass(frozen=True, slots=True)
class Figures:
    """What callers that wait for each answer reached."""

    per_s: int
    p50_ms: float
    p99_ms: float


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench quota", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_CASE_S, help="how long each case runs")
    parser.add_argument("--top", action="store_true", help="only the figures at the top")
    options = parser.parse_args(arguments)
    seconds, cases = options.seconds, [] if options.top else CASES
    # Processes are started before the first gRPC call, which threads make unsafe to fork after.
    with running("quota") as rig, _echoing() as echo_address:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            session, one, unary, others = runner.run(_measure(rig, cases, seconds))
            echo = runner.run(_measure_echo(echo_address, seconds))
        raw_per_s = _evalsha_per_s(rig)
    return {
        "session_per_s": session.per_s,
        "session_p50_ms": session.p50_ms,
        "session_p99_ms": session.p99_ms,
        "one_caller_p50_ms": one.p50_ms,
        "one_caller_p99_ms": one.p99_ms,
        "redis_evalsha_per_s": raw_per_s,
        "ratio_to_redis": round(session.per_s / raw_per_s, 3),
        "unary_per_s": unary.per_s,
        "unary_p99_ms": unary.p99_ms,
        "echo_per_s": echo.per_s,
        "unary_ratio_to_echo": round(unary.per_s / echo.per_s, 3),
        "session_cases": [
            {**asdict(case), **asdict(figures)} for case, figures in zip(cases, others, strict=True)
        ],
    }


async def _measure(
    rig: Rig, cases: Sequence[Case], seconds: float
) -> tuple[Figures, Figures, Figures, Sequence[Figures]]:
    metadata = rig.metadata(_TENANT, "quota.decide", "quota.write")
    async with open_channel(rig.address) as channel:
        stub = QuotaServiceStub(channel)
        for limit in LIMITS:
            request = messages.PutLimitRequest(request_id=limit.limit_id, limit=limit)
            await stub.PutLimit(request, metadata=metadata)
        session = Session(lambda: stub.Session(metadata=metadata), timeout_s=_TIMEOUT_S)

        def reserve_in_session(template: bytes) -> Awaitable[object]:
            return session.ask(messages.SessionCall(reserve=_reserve(template)))

        def reserve_alone(template: bytes) -> Awaitable[object]:
            return stub.Reserve(_reserve(template), metadata=metadata)

        await _call(reserve_in_session, TOP, _WARM_UP_S)
        top = await _call(reserve_in_session, TOP, seconds)
        one = await _call(reserve_in_session, ONE, seconds)
        others = [await _call(reserve_in_session, case, seconds) for case in cases]
        await session.close()
        unary = await _call(reserve_alone, UNARY, seconds)
    return top, one, unary, others


async def _measure_echo(address: str, seconds: float) -> Figures:
    async with open_channel(address) as channel:
        echo: Any = channel.unary_unary(
            _ECHO, request_serializer=messages.ReserveRequest.SerializeToString
        )
        return await _call(lambda template: echo(_reserve(template)), UNARY, seconds)


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


async def _call(ask: Ask, case: Case, seconds: float) -> Figures:
    """Let callers ask, each as soon as it has its answer."""
    latencies_s: list[float] = []
    started_s = time.perf_counter()

    async def call_in_turn(caller: int) -> None:
        template = _template(case.subject(caller))
        after_s = started_s
        while after_s - started_s < seconds:
            before_s = time.perf_counter()
            await ask(template)
            after_s = time.perf_counter()
            latencies_s.append(after_s - before_s)

    await asyncio.gather(*map(call_in_turn, range(case.callers)))
    took_s = time.perf_counter() - started_s
    latencies_s.sort()
    return Figures(
        per_s=round(len(latencies_s) / took_s),
        p50_ms=round(1000 * latencies_s[len(latencies_s) // 2], 2),
        p99_ms=round(1000 * latencies_s[len(latencies_s) * 99 // 100], 2),
    )


_request_numbers = itertools.count()
_AMOUNTS = [
    quota_pb2.Amount(unit="input_tokens", quantity=1_200),
    quota_pb2.Amount(unit="output_tokens", quantity=800),
    quota_pb2.Amount(unit="requests", quantity=1),
]


def _template(subject: subject_pb2.Subject) -> bytes:
    """Write what all reserves of a caller have in common, so that making one costs little."""
    request = messages.ReserveRequest(subject=subject, amounts=_AMOUNTS)
    return request.SerializeToString()


def _reserve(template: bytes) -> messages.ReserveRequest:
    request = messages.ReserveRequest.FromString(template)
    request.request_id = f"gateway-1-{next(_request_numbers)}"
    return request


def _evalsha_per_s(rig: Rig) -> int:
    """Run the script, with one reserve at a time, over several connections at once."""
    commands = _commands()
    connections = [_connected(rig.redis_url) for _ in range(_CONNECTIONS)]
    started_s = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, hiredis.Reader())
            connection.sendall(next(commands))
        answered = 0
        while answered < _RAW_RESERVES:
            for key, _ in selector.select():
                asked: Any = key.fileobj
                key.data.feed(asked.recv(65_536))
                reply = key.data.gets()
                if reply is False:
                    continue
                if isinstance(reply, Exception):
                    raise reply
                answered += 1
                command = next(commands, None)
                if command is not None:
                    asked.sendall(command)
    took_s = time.perf_counter() - started_s
    for connection in connections:
        connection.close()
    return round(answered / took_s)


def _commands() -> Iterator[bytes]:
    """Make the commands beforehand, so that making them is not measured."""
    index = LimitIndex(map(parse_limit, LIMITS))
    now_ms = time.time_ns() // 1_000_000
    sha = _sha()
    made = []
    for number in range(_RAW_RESERVES):
        subject = TOP.subject(number)
        path = Subject(subject.customer_id, subject.project_id, "", subject.key_id, "")
        coverage = index.coverage(path, ())
        sums = coverage.sums({amount.unit: amount.quantity for amount in _AMOUNTS})
        operation = Operation(
            Kind.RESERVE, coverage, f"raw-{number}", bytes(8), f"raw-{number}", _TTL_MS, sums
        )
        keys = keys_of(Root(f"{_TENANT}-raw", subject.customer_id))
        argument = encode([operation], now_ms)
        made.append(_packed("EVALSHA", sha, len(keys), *keys, argument))
    return iter(made)


def _packed(*parts: str | bytes | int) -> bytes:
    # hiredis types the arguments as a tuple of one.
    packed: bytes = hiredis.pack_command(cast("Any", parts))
    return packed


def _sha() -> str:
    return hashlib.sha1(SCRIPT.read_bytes(), usedforsecurity=False).hexdigest()


def _connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(_packed("AUTH", parts.password or ""))
    assert connection.recv(64) == b"+OK\r\n", "the rig's Redis takes its own password"
    return connection
