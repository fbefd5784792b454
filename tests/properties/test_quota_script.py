"""The script inside Redis obeys the rule that `services/quota/decisions.py` states.

Long random histories are decided twice: by `decide.lua` on a real Redis, and by the pure function.
Every answer must be the same. Time is part of the history, so the script is given a present in
place of its own; that is the only change to its source.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, cast

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from kit.errors import DomainError
from services.quota import decisions
from services.quota.counters import (
    SCRIPT,
    Answer,
    Batch,
    Operation,
    Root,
    decode,
    encode,
    keys_of,
)
from services.quota.coverage import NOTHING, Coverage, LimitClock, LimitIndex
from services.quota.decisions import Failure, Rule, SubjectState, decide
from services.quota.model import (
    CalendarPeriod,
    CalendarWindow,
    Kind,
    Level,
    Limit,
    Outcome,
    Subject,
    Window,
)
from tests.quota_builders import a_limit, a_rate, unix_ms

SWEEP_MAX = 2
START_MS = unix_ms("2026-03-28T21:59:50")
REQUEST_IDS = [f"request-{number}" for number in range(12)]
SUBJECTS = [
    Subject("acme", project, "", key, "")
    for project in ("search", "chat")
    for key in ("key-1", "key-2")
]
UNITS = ("tokens", "requests")
BERLIN = "Europe/Berlin"
WINDOWS: list[Window] = [
    CalendarWindow(period, zone) for period in CalendarPeriod for zone in ("UTC", BERLIN)
]
ELAPSES_MS = st.one_of(
    st.integers(0, 5),
    st.integers(0, 2_000),
    st.sampled_from([9_999, 10_000, 60_000, 599_999, 600_000, 1_200_000, 3_600_000, 86_400_000]),
    st.integers(0, 40 * 86_400_000),
)

Told = tuple[Any, ...] | str


@dataclass(frozen=True)
class Asked:
    """One operation as both sides read it."""

    kind: Kind
    coverage: Coverage
    request_id: str
    hold: str
    detail: int
    amounts: dict[str, int]
    fingerprint: bytes

    def for_redis(self) -> Operation:
        """Write it for the script."""
        sums = self.coverage.sums(self.amounts)
        return Operation(
            self.kind,
            self.coverage,
            self.request_id,
            self.fingerprint,
            self.hold,
            self.detail,
            sums,
        )

    def for_the_core(self, now_ms: int) -> decisions.Operation:
        """Write it for the pure function."""
        clocks = [cast("LimitClock", limit.clock) for limit in self.coverage.limits]
        return decisions.Operation(
            kind=self.kind,
            parts=tuple((limit.field, limit.slot - 1) for limit in self.coverage.limits),
            rules=tuple(rule_at(clock, now_ms) for clock in clocks),
            amounts=tuple(self.coverage.sums(self.amounts)),
            request=self.request_id,
            fingerprint=self.fingerprint,
            hold=self.hold,
            ttl_ms=self.detail,
            is_subject_known=bool(self.detail),
        )


def rule_at(clock: LimitClock, now_ms: int) -> Rule:
    """Answer the rule of a limit at an instant."""
    terms = clock.terms_at(now_ms)
    return Rule(terms.room, terms.drain, terms.scale, terms.end_ms)


def told_by_redis(answer: Answer | DomainError) -> Told:
    """Reduce an answer of the script to what both sides know."""
    if isinstance(answer, DomainError):
        return answer.reason
    return (answer.outcome, answer.now_ms, answer.detail, answer.hold, tuple(answer.figures))


def told_by_the_core(answer: decisions.Answer | Failure) -> Told:
    """Reduce an answer of the pure function to what both sides know."""
    if isinstance(answer, Failure):
        return answer.reason
    return (answer.outcome, answer.now_ms, answer.detail, answer.hold, answer.figures)


class InRedis:
    """The script on a real Redis, for one customer nobody used before, at a present we choose."""

    def __init__(self, client: redis.Redis) -> None:
        source = SCRIPT.read_text()
        assert source.count("redis.call('TIME')") == 1
        self._client = client
        self._script = source.replace("redis.call('TIME')", "{ARGV[2], ARGV[3]}")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._root = Root(f"tenant-{secrets.token_hex(8)}", "acme")
        client.script_load(self._script)

    def decide(self, operations: list[Operation], now_ms: int) -> list[Answer | DomainError]:
        """Decide a batch; the windows are those of the present, so they are never stale."""
        seconds, milliseconds = divmod(now_ms, 1000)
        keys = keys_of(self._root)
        reply = self._client.evalsha(
            self._sha,
            len(keys),
            *keys,
            cast("str", encode(operations, now_ms, sweep_max=SWEEP_MAX)),
            str(seconds),
            str(milliseconds * 1000),
        )
        _, decided = decode(Batch(self._root, operations), cast("list[bytes]", reply))
        assert decided is not None
        return list(decided.answers)


class ScriptAndCore(RuleBasedStateMachine):
    """One customer, some limits that change now and then, and whatever callers may send."""

    client: redis.Redis

    @initialize(capacity=st.integers(0, 60))
    def begin(self, capacity: int) -> None:
        """Start with a limit of each kind and level."""
        self.now_ms = START_MS
        self.redis = InRedis(self.client)
        self.state = SubjectState()
        self.holds: list[str] = []
        self.limits: dict[str, Limit] = {
            limit.limit_id: limit
            for limit in (
                a_limit("month", capacity=100 + capacity, window=WINDOWS[6]),
                a_limit("day", level=Level.PROJECT, capacity=capacity, window=WINDOWS[3]),
                a_rate("tokens", level=Level.KEY, capacity=7, period_ms=3_000, burst=capacity),
                a_rate("requests", level=Level.KEY, capacity=60, units=("requests",)),
            )
        }
        self.index = LimitIndex(self.limits.values())

    @rule(elapsed_ms=ELAPSES_MS)
    def wait(self, elapsed_ms: int) -> None:
        """Let time pass."""
        self.now_ms += elapsed_ms

    @rule(
        limit_id=st.sampled_from(["month", "day", "tokens", "requests", "extra"]),
        capacity=st.integers(0, 80),
        window=st.sampled_from([None, *WINDOWS]),
        period_ms=st.integers(1_000, 7_000),
        units=st.sampled_from([("tokens",), ("requests",), UNITS]),
        level=st.sampled_from([Level.CUSTOMER, Level.PROJECT, Level.KEY]),
    )
    def put_limit(
        self,
        *,
        limit_id: str,
        capacity: int,
        window: Window | None,
        period_ms: int,
        units: tuple[str, ...],
        level: Level,
    ) -> None:
        """Replace a limit by any other, or add one."""
        self.limits[limit_id] = (
            a_rate(limit_id, capacity=capacity, period_ms=period_ms, level=level, units=units)
            if window is None
            else a_limit(limit_id, capacity=capacity, window=window, level=level, units=units)
        )
        self.index = LimitIndex(self.limits.values())

    @rule(limit_id=st.sampled_from(["month", "day", "tokens", "requests", "extra"]))
    def delete_limit(self, limit_id: str) -> None:
        """Delete a limit while holds of it are open."""
        self.limits.pop(limit_id, None)
        self.index = LimitIndex(self.limits.values())

    @rule(data=st.data(), count=st.integers(1, 6))
    def ask(self, data: st.DataObject, count: int) -> None:
        """Send a batch of operations of any kind, and compare all answers."""
        asked = [self._draw(data) for _ in range(count)]
        told = self.redis.decide([one.for_redis() for one in asked], self.now_ms)
        self.state, expected = decide(
            self.state, [one.for_the_core(self.now_ms) for one in asked], self.now_ms, SWEEP_MAX
        )
        assert list(map(told_by_redis, told)) == list(map(told_by_the_core, expected))
        self.holds += [
            answer.hold
            for answer in expected
            if isinstance(answer, decisions.Answer) and answer.outcome is Outcome.ALLOWED
        ]

    def _draw(self, data: st.DataObject) -> Asked:
        kind = data.draw(st.sampled_from(Kind))
        subject = data.draw(st.sampled_from(SUBJECTS))
        coverage = self.index.coverage(subject, ())
        amounts = data.draw(st.dictionaries(st.sampled_from(UNITS), st.integers(0, 40)))
        detail, hold = 1, ""
        if kind is Kind.RESERVE:
            hold = f"hold-{secrets.token_hex(6)}"
            detail = data.draw(st.sampled_from([100, 5_000, 60_000, 86_400_000]))
        if kind is Kind.COMMIT:
            hold = data.draw(st.sampled_from(["", "unknown", *self.holds[-8:]]))
            detail = data.draw(st.sampled_from([1, 1, 1, 0]))
            coverage = coverage if detail else NOTHING
        if kind is Kind.RELEASE:
            hold = data.draw(st.sampled_from(["unknown", *self.holds[-8:]]))
            coverage = NOTHING
        is_check = kind is Kind.CHECK
        return Asked(
            kind=kind,
            coverage=coverage,
            request_id="" if is_check else data.draw(st.sampled_from(REQUEST_IDS)),
            hold=hold,
            detail=detail,
            amounts=amounts,
            fingerprint=bytes(8)
            if is_check
            else data.draw(st.sampled_from([b"8 bytes.", b"others 8"])),
        )


def test_the_script_and_the_core_decide_alike(redis_url: str) -> None:
    """Over long random histories the script answers exactly what the pure function answers."""
    with redis.Redis.from_url(redis_url) as client:
        machine = type("Machine", (ScriptAndCore,), {"client": client})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=60,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
