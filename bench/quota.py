"""Quota: how many awaited decisions in a second, how long each takes, and what it costs.

The service runs as its own process on a durable Redis of its own; the callers are another process,
this one, and share the machine with both. Each caller waits for its answer before it asks again. A
decision is a reserve under a month's limit of the customer, a day's of the project, and a rolling
rate of tokens and one of requests of the key; where it is under one limit, that is the last.

The figures at the top are of 256 callers with 64 keys of 16 customers under four limits, through
one session. Operations of one customer share a script call, so fewer customers are faster; the
cases show how much. `unary` is one gRPC call for each decision, `rls` the same asked as Envoy does,
both of 64 callers.

Raw limits are measured in the same run, in turns with what is compared to them.
`redis_evalsha_per_s` is the same script under one limit, asked as redis-benchmark would.
`echo_per_s` is a grpc.aio server that answers the bytes it got, asked by as many callers.

`lease_per_s` is what one client decides by itself, out of a lease (`bench/lease.py`).

`cpu_us` is how long each process works on one decision. The three share the machine's cores, so
their sum bounds what can be reached, and it hardly changes when the machine is busy.
"""

import argparse
import asyncio
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import uvloop
from google.protobuf.duration_pb2 import Duration

from bench import envoy, lease
from bench.calling import ECHO, Calls, Figures, echoing, in_turns
from bench.evalsha import Evalsha
from bench.rig import Rig, running
from kit.rpc.channel import open_channel
from services.quota.convert.limits import parse_limit
from services.quota.model import Subject
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub
from tollkeeper.api.type.v1 import subject_pb2
from tollkeeper.session import Session

_WARM_UP_S = 1.0
_CASE_S = 5.0
_RAW_RESERVES = 50_000
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
_LIMITS = {1: LIMITS[-1:], 4: LIMITS}


@dataclass(frozen=True, slots=True)
class Case:
    """Who calls: so many at once, with so many keys of so many customers, under so many limits."""

    callers: int = 256
    limits: int = 4
    customers: int = 16
    keys: int = 64

    @property
    def tenant(self) -> str:
        """Whose limits these are."""
        return f"bench-{self.limits}"

    def subject(self, caller: int) -> Subject:
        """Answer on whose behalf a caller calls."""
        key = caller % self.keys
        return Subject(
            customer=f"customer-{key % self.customers}",
            project=f"project-{key // self.customers % 4}",
            key=f"key-{key}",
        )


TOP = Case()
TOP_OF_ONE_LIMIT = Case(limits=1)
UNARY = Case(callers=64)
CASES = [
    *(Case(callers=callers, limits=limits) for limits in (1, 4) for callers in (1, 64, 256, 1_000)),
    Case(customers=1, keys=1),
    Case(customers=1, keys=64),
    Case(keys=256),
    Case(customers=256, keys=256),
]
_TOP_CASES = [Case(callers=1), TOP_OF_ONE_LIMIT, TOP]


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench quota", description=__doc__)
    parser.add_argument("--seconds", type=float, default=_CASE_S, help="how long each case runs")
    parser.add_argument("--top", action="store_true", help="only the figures at the top")
    options = parser.parse_args(arguments)
    # Processes are started before the first gRPC call, which threads make unsafe to fork after.
    with ExitStack() as stack:
        envoy_address, variables = stack.enter_context(envoy.rules())
        rig = stack.enter_context(running("quota", variables))
        echo_address, echo_process = stack.enter_context(echoing())
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        bench = _Bench(rig, envoy_address, echo_address, echo_process)
        cases = _TOP_CASES if options.top else CASES
        figures = runner.run(bench.run(cases, options.seconds))
        return {**figures, **runner.run(lease.measure(rig, options.seconds))}


def table(figures: dict[str, Any]) -> str:
    """Write figures as the table of a README."""
    rows = [
        ("session", case["limits"], case["callers"], f"{case['keys']}, {case['customers']}", case)
        for case in figures["session_cases"]
    ]
    for name, key in (("unary", "unary"), ("Envoy's protocol", "rls")):
        measured = {figure: figures[f"{key}_{figure}"] for figure in ("per_s", "p99_ms", "cpu_us")}
        rows.append((name, "", UNARY.callers, "", measured))
    lines = [
        "| by | limits | callers | keys, customers | per second | p99 | client | service | Redis |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for *cells, measured in rows:
        cpu_us = [f"{each:.0f} µs" for each in measured["cpu_us"].values()]
        cells += [f"{measured['per_s']:,}", f"{measured['p99_ms']:.1f} ms", *cpu_us]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


class _Bench:
    """What is measured, on what is running."""

    def __init__(self, rig: Rig, envoy_address: str, echo_address: str, echo_process: int) -> None:
        self._rig = rig
        self._envoy_address = envoy_address
        self._echo_address = echo_address
        deciding = {"client": os.getpid(), "service": rig.process_id, "redis": rig.redis_process_id}
        self._deciding = deciding
        self._raw = {limits: Calls({"redis": rig.redis_process_id}) for limits in _LIMITS}
        self._unary, self._rls = Calls(deciding), Calls(deciding)
        self._echo, self._rls_echo = (
            Calls({"client": os.getpid(), "service": echo_process}) for _ in range(2)
        )

    async def run(self, cases: Sequence[Case], seconds: float) -> dict[str, Any]:
        """Measure all of it, and answer the figures."""
        session: dict[Case, Figures] = {}
        async with AsyncExitStack() as stack:
            quota, rls, echo = [
                await stack.enter_async_context(open_channel(address))
                for address in (self._rig.address, self._envoy_address, self._echo_address)
            ]
            stub = QuotaServiceStub(quota)
            for case in (TOP, TOP_OF_ONE_LIMIT):
                await self._put_limits(stub, case)
            for case in cases:
                session[case] = await self._session(stub, case, seconds)
                if case in (TOP, TOP_OF_ONE_LIMIT):
                    self._evalsha(case)
            await self._unary_beside_echo(stub, echo, seconds)
            await envoy.measure(rls, echo, self._rls, self._rls_echo, seconds)
        return self._figures(session)

    async def _session(self, stub: Any, case: Case, seconds: float) -> Figures:  # noqa: ANN401
        metadata = self._metadata(case)
        session = Session(lambda: stub.Session(metadata=metadata), timeout_s=_TIMEOUT_S)
        requests = _Requests(case)

        def ask(caller: int) -> Any:  # noqa: ANN401 - whatever there is to wait for.
            return session.ask(requests.session_call(caller))

        calls = Calls(self._deciding)
        await Calls({}).make(ask, case.callers, min(_WARM_UP_S, seconds))
        await calls.make(ask, case.callers, seconds)
        await session.close()
        return calls.figures

    def _evalsha(self, case: Case) -> None:
        limits = map(parse_limit, _LIMITS[case.limits])
        evalsha = Evalsha(
            self._rig.redis_url, f"{case.tenant}-raw", list(limits), case.subject, _amounts
        )
        evalsha.call(self._raw[case.limits], _RAW_RESERVES)

    async def _unary_beside_echo(self, stub: Any, echo_channel: Any, seconds: float) -> None:  # noqa: ANN401 - as gRPC's.
        metadata, requests = self._metadata(UNARY), _Requests(UNARY)
        echo = echo_channel.unary_unary(
            ECHO, request_serializer=messages.ReserveRequest.SerializeToString
        )

        def reserve(caller: int) -> Any:  # noqa: ANN401 - whatever there is to wait for.
            return stub.Reserve(requests.reserve(caller), metadata=metadata)

        def ask_echo(caller: int) -> Any:  # noqa: ANN401 - as above.
            return echo(requests.reserve(caller))

        await in_turns(((self._unary, reserve), (self._echo, ask_echo)), UNARY.callers, seconds)

    async def _put_limits(self, stub: Any, case: Case) -> None:  # noqa: ANN401 - as gRPC's.
        for limit in _LIMITS[case.limits]:
            request = messages.PutLimitRequest(request_id=limit.limit_id, limit=limit)
            await stub.PutLimit(request, metadata=self._metadata(case))

    def _metadata(self, case: Case) -> tuple[tuple[str, str], ...]:
        return self._rig.metadata(case.tenant, "quota.decide", "quota.write")

    def _figures(self, session: Mapping[Case, Figures]) -> dict[str, Any]:
        top, one_limit, one_caller = (
            session[case] for case in (TOP, TOP_OF_ONE_LIMIT, Case(callers=1))
        )
        raw = {limits: calls.figures for limits, calls in self._raw.items()}
        unary, echo = self._unary.figures, self._echo.figures
        rls, rls_echo = self._rls.figures, self._rls_echo.figures
        return {
            "session_per_s": top.per_s,
            "session_p50_ms": top.p50_ms,
            "session_p99_ms": top.p99_ms,
            "session_cpu_us": top.cpu_us,
            "one_caller_p50_ms": one_caller.p50_ms,
            "one_caller_p99_ms": one_caller.p99_ms,
            "session_of_one_limit_per_s": one_limit.per_s,
            "redis_evalsha_per_s": raw[1].per_s,
            "ratio_to_redis": round(one_limit.per_s / raw[1].per_s, 3),
            "redis_evalsha_of_4_limits_per_s": raw[4].per_s,
            "ratio_to_redis_of_4_limits": round(top.per_s / raw[4].per_s, 3),
            "unary_per_s": unary.per_s,
            "unary_p99_ms": unary.p99_ms,
            "unary_cpu_us": unary.cpu_us,
            "echo_per_s": echo.per_s,
            "echo_cpu_us": echo.cpu_us,
            "unary_ratio_to_echo": round(unary.per_s / echo.per_s, 3),
            "rls_per_s": rls.per_s,
            "rls_p99_ms": rls.p99_ms,
            "rls_cpu_us": rls.cpu_us,
            "rls_ratio_to_echo": round(rls.per_s / rls_echo.per_s, 3),
            "session_cases": [
                {**asdict(case), **asdict(figures)} for case, figures in session.items()
            ],
        }


class _Requests:
    """Makes the requests of a case; what a caller's have in common is written once."""

    _numbers: Iterator[int] = itertools.count()

    def __init__(self, case: Case) -> None:
        self._alone, self._in_session = [], []
        for caller in range(case.callers):
            subject = case.subject(caller)
            request = messages.ReserveRequest(
                subject=subject_pb2.Subject(
                    customer_id=subject.customer, project_id=subject.project, key_id=subject.key
                ),
                amounts=[
                    quota_pb2.Amount(unit=unit, quantity=quantity)
                    for unit, quantity in _amounts(caller).items()
                ],
            )
            call = messages.SessionCall(reserve=request)
            self._alone.append(request.SerializeToString())
            self._in_session.append(call.SerializeToString())

    def reserve(self, caller: int) -> messages.ReserveRequest:
        """Make a caller's next request."""
        request = messages.ReserveRequest.FromString(self._alone[caller])
        self._tell_apart(request)
        return request

    def session_call(self, caller: int) -> messages.SessionCall:
        """Make it as a call of a session."""
        call = messages.SessionCall.FromString(self._in_session[caller])
        self._tell_apart(call.reserve)
        return call

    def _tell_apart(self, request: messages.ReserveRequest) -> None:
        number = next(self._numbers)
        request.request_id = f"gateway-1-{number}"
        request.amounts[0].quantity = _input_tokens(number)


def _amounts(number: int) -> dict[str, int]:
    return {"input_tokens": _input_tokens(number), "output_tokens": 800, "requests": 1}


def _input_tokens(number: int) -> int:
    return 100 + number * 7919 % 4000
