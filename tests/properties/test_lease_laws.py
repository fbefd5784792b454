"""Laws of leases, over random traffic, slow and broken answers, and a rival for the same limit."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.stopped_loop import run_stopped
from tollkeeper import QuotaDenied, QuotaUnavailable
from tollkeeper.api.quota.v1 import quota_pb2 as quota
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.type.v1.subject_pb2 import Subject
from tollkeeper.lease import Lease, LeasedCalls
from tollkeeper.settlements import Settlements

UNITS = ("requests", "tokens")
CALLS = 80


@dataclass
class Gate:
    """One limit for each unit, holds that expire, and idempotency: the gate by its contract."""

    capacity: dict[str, int]
    random: Random
    slow_s: float
    broken: float
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UNITS, 0))
    holds: dict[str, tuple[float, dict[str, int]]] = field(default_factory=dict)
    answers: dict[str, messages.SessionAnswer] = field(default_factory=dict)
    asked: int = 0

    async def ask(self, call: messages.SessionCall) -> messages.SessionAnswer:
        """Decide after a while; an answer may be lost, before or after the decision."""
        self.asked += 1
        await asyncio.sleep(self.random.random() * self.slow_s)
        if self.random.random() < self.broken:
            raise QuotaUnavailable("the request was lost")
        answer = self._decide(call)
        await asyncio.sleep(self.random.random() * self.slow_s)
        if self.random.random() < self.broken:
            raise QuotaUnavailable("the answer was lost")
        return answer

    def held(self, unit: str) -> int:
        """Return what open holds have of a unit."""
        now = asyncio.get_running_loop().time()
        self.holds = {name: each for name, each in self.holds.items() if each[0] > now}
        return sum(amounts.get(unit, 0) for _, amounts in self.holds.values())

    def _decide(self, call: messages.SessionCall) -> messages.SessionAnswer:
        kind = call.WhichOneof("call")
        request = getattr(call, kind or "")
        if request.request_id not in self.answers:
            amounts = {each.unit: each.quantity for each in request.amounts}
            decide: dict[str, Callable[..., messages.SessionAnswer]] = {
                "reserve": self._reserve,
                "extend": self._extend,
                "commit": self._commit,
            }
            self.answers[request.request_id] = decide[kind or ""](request, amounts)
        return self.answers[request.request_id]

    def _reserve(
        self, request: messages.ReserveRequest, amounts: dict[str, int]
    ) -> messages.SessionAnswer:
        refused = [
            quota.LimitStatus(limit_id=unit, units=[unit], decided=True)
            for unit, each in amounts.items()
            if self.used[unit] + self.held(unit) + each > self.capacity[unit]
        ]
        if refused:
            answer = messages.ReserveResponse(decision=quota.DECISION_DENY, limits=refused)
        else:
            until = asyncio.get_running_loop().time() + request.ttl.seconds
            self.holds[request.request_id] = (until, amounts)
            answer = messages.ReserveResponse(
                decision=quota.DECISION_ALLOW, reservation_id=request.request_id
            )
        return messages.SessionAnswer(reserve=answer)

    def _extend(
        self, request: messages.ExtendRequest, _amounts: dict[str, int]
    ) -> messages.SessionAnswer:
        until, held = self.holds[request.reservation_id]
        longer = asyncio.get_running_loop().time() + request.ttl.seconds
        self.holds[request.reservation_id] = (max(until, longer), held)
        answer = messages.ExtendResponse(decision=quota.DECISION_ALLOW)
        return messages.SessionAnswer(extend=answer)

    def _commit(
        self, request: messages.CommitRequest, amounts: dict[str, int]
    ) -> messages.SessionAnswer:
        self.holds.pop(request.reservation_id, None)
        for unit, each in amounts.items():
            self.used[unit] += each
        return messages.SessionAnswer(commit=messages.CommitResponse())


@dataclass
class Gateway:
    """A lease and the calls that run on it."""

    gate: Gate
    random: Random
    most: tuple[int, int]
    longest_s: float
    name: str
    all: list[Gateway]
    running: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UNITS, 0))
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(UNITS, 0))
    held_at_rest: dict[str, int] = field(default_factory=dict)

    async def run(self, calls: int, pause_s: float, wanted_most: int, rest_s: float) -> None:
        """Make calls, one beside the other, rest, and close."""
        numbers = itertools.count()
        settlements = Settlements(self.gate.ask)
        lease = Lease(
            self.gate.ask,
            settlements.send_or_log,
            lambda: f"{self.name}-{next(numbers)}",
            LeasedCalls(Subject(customer_id="acme"), {}, UNITS),
            self.most,
        )
        async with asyncio.TaskGroup() as running:
            for _ in range(calls):
                await asyncio.sleep(self.random.random() * pause_s)
                running.create_task(self._call(lease, self.random.randint(0, wanted_most)))
        await asyncio.sleep(rest_s)
        self.held_at_rest = {unit: self.gate.held(unit) for unit in UNITS}
        await lease.close()
        await settlements.close(1_000)

    async def _call(self, lease: Lease, wanted: int) -> None:
        try:
            taken = lease.take(1, wanted) or await lease.acquire(1, wanted)
        except (QuotaDenied, QuotaUnavailable):
            return
        self._note(1, 1, wanted)
        await asyncio.sleep(self.random.random() * self.longest_s)
        spent = self.random.randint(0, wanted)
        has_run = self.random.random() < 0.9
        self._note(-1, 1, wanted)
        if has_run:
            lease.settle(taken, 1, spent)
            self.used["requests"] += 1
            self.used["tokens"] += spent
        else:
            lease.settle(taken)

    def _note(self, sign: int, *amounts: int) -> None:
        """Note what runs; nobody ever has more than the limits, not even together."""
        for unit, amount in zip(UNITS, amounts, strict=True):
            self.running[unit] += sign * amount
            granted = sum(each.running[unit] + each.used[unit] for each in self.all)
            assert granted <= self.gate.capacity[unit]
            assert self.gate.used[unit] + self.gate.held(unit) <= self.gate.capacity[unit]


@dataclass(frozen=True)
class Traffic:
    """A case."""

    seed: int
    capacity: tuple[int, int]
    most: tuple[int, int]
    slow_s: float
    broken: float
    pause_s: float
    wanted_most: int
    longest_s: float

    def gate(self) -> Gate:
        """Make the gate of this case."""
        capacity = dict(zip(UNITS, self.capacity, strict=True))
        return Gate(capacity, Random(self.seed), self.slow_s, self.broken)

    def gateways(self, gate: Gate, *names: str) -> list[Gateway]:
        """Make gateways of this case that share a gate."""
        together: list[Gateway] = []
        together += [
            Gateway(gate, Random(f"{self.seed}{name}"), self.most, self.longest_s, name, together)
            for name in names
        ]
        return together

    async def run(self, *names: str, rest_s: float = 0.0) -> tuple[Gate, list[Gateway]]:
        """Let gateways race, and rest afterwards."""
        gate = self.gate()
        together = self.gateways(gate, *names)
        wanted = self.wanted_most
        await asyncio.gather(*(each.run(CALLS, self.pause_s, wanted, rest_s) for each in together))
        return gate, together


def traffic(*, broken: float = 0.0) -> st.SearchStrategy[Traffic]:
    """Draw traffic: much or little, for limits that are wide or narrow."""
    return st.builds(
        Traffic,
        seed=st.integers(0, 10**6),
        capacity=st.tuples(st.integers(0, 400), st.integers(0, 20_000)),
        most=st.tuples(st.integers(1, 200), st.integers(1, 20_000)),
        slow_s=st.sampled_from([0.0, 0.01, 0.2]),
        broken=st.just(broken),
        pause_s=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
        wanted_most=st.integers(1, 500),
        # Calls that outlive a lease's holds, too.
        longest_s=st.sampled_from([1.0, 40.0]),
    )


@given(traffic())
@settings(deadline=None, max_examples=40)
def test_no_call_too_many_passes_and_no_unit_is_lost(case: Traffic) -> None:
    """Running and used amounts stay within the limits; at the end exactly the used ones are booked.

    The first half is looked at whenever a call begins or ends, also of calls that run for longer
    than a hold of the lease lives.
    """
    gate, gateways = run_stopped(case.run("a", "b"))

    assert gate.used == {unit: sum(each.used[unit] for each in gateways) for unit in UNITS}
    assert gate.holds == {}


@given(traffic(broken=0.2))
@settings(deadline=None, max_examples=30)
def test_lost_requests_and_answers_book_nothing_twice(case: Traffic) -> None:
    """Settlements are sent again until one arrives, and count once."""
    gate, (gateway,) = run_stopped(case.run("a"))

    assert gate.used == gateway.used


@given(traffic())
@settings(deadline=None, max_examples=30)
def test_what_is_held_without_use_has_a_bound(case: Traffic) -> None:
    """Once calls have ended, what they gave back is held no longer than the chunk it came from."""
    _, (gateway,) = run_stopped(case.run("a", rest_s=10.0))

    assert gateway.held_at_rest["requests"] <= case.most[0]
    assert gateway.held_at_rest["tokens"] <= case.most[1]


async def idle(case: Traffic) -> int:
    """Let a gateway call once and then nobody; answer what is held after a while."""
    gate = case.gate()
    numbers = itertools.count()
    calls = LeasedCalls(Subject(customer_id="acme"), {}, UNITS)
    lease = Lease(gate.ask, gate.ask, lambda: f"{next(numbers)}", calls, case.most)
    lease.settle(await lease.acquire(1, 1), 1, 1)
    await asyncio.sleep(30)
    return sum(map(gate.held, UNITS)) + gate.asked * 1_000_000


def test_a_lease_that_nobody_uses_ends() -> None:
    """One chunk, one after it for what was used, two commits, and silence."""
    case = Traffic(1, (400, 20_000), (200, 20_000), 0.0, 0.0, 0.0, 1, 1.0)

    assert run_stopped(idle(case)) == 4_000_000


@pytest.mark.parametrize("amounts", [(1,), (1, 1, 1), (1, -1), (1, 0.5), (1, "1")])
def test_amounts_that_are_none_change_nothing(amounts: tuple[object, ...]) -> None:
    """A wrong number of them, a negative one, a float and a text are refused."""

    async def take() -> dict[str, int]:
        case = Traffic(1, (400, 20_000), (200, 20_000), 0.0, 0.0, 0.0, 1, 1.0)
        gate, numbers = case.gate(), itertools.count()
        calls = LeasedCalls(Subject(customer_id="acme"), {}, UNITS)
        lease = Lease(gate.ask, gate.ask, lambda: f"{next(numbers)}", calls, case.most)
        taken = await lease.acquire(1, 1)
        with pytest.raises((TypeError, ValueError)):
            lease.take(*amounts)  # type: ignore[arg-type]  # what is tried.
        with pytest.raises((TypeError, ValueError)):
            lease.settle(taken, *amounts)  # type: ignore[arg-type]  # as above.
        left = lease.left
        await lease.close()
        return left

    assert run_stopped(take()) == {"requests": 2, "tokens": 311}
