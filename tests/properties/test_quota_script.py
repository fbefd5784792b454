"""The script inside Redis obeys the rule that `services/quota/decisions.py` states.

Long random histories are decided twice: by `decide.lua` on a real Redis, and by the pure function.
Every answer must be the same. Time is part of the history, so the script is given a present in
place of its own; that is the only change to its source.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
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
from services.quota.admission import Demand, Flexible
from services.quota.arguments import encode
from services.quota.counters import (
    SCRIPT,
    Answer,
    Batch,
    LimitsChanged,
    Root,
    decode,
    keys_of,
)
from services.quota.counting import Rule
from services.quota.coverage import (
    NOTHING,
    LimitClock,
    LimitIndex,
    described_hold,
    sums_of,
    weights_of,
)
from services.quota.decisions import Failure, SubjectState, decide
from services.quota.model import (
    HOLDS,
    BillingPeriodWindow,
    CalendarPeriod,
    CalendarWindow,
    CheckCall,
    CommitCall,
    ConcurrencyWindow,
    Enforcement,
    ExtendCall,
    HoldId,
    Kind,
    Level,
    LifetimeWindow,
    Limit,
    MarkDispatchedCall,
    RecordCall,
    ReleaseCall,
    ReserveCall,
    Subject,
    Window,
)
from services.quota.operations import (
    Operation,
    cancel_operation,
    check_operation,
    commit_operation,
    extend_operation,
    record_operation,
    release_operation,
    reserve_operation,
)
from services.quota.weights import CardEntry, RateCard
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
    *(CalendarWindow(period, zone) for period in CalendarPeriod for zone in ("UTC", BERLIN)),
    BillingPeriodWindow(date(2025, 10, 31), 1, BERLIN),
    LifetimeWindow(),
    ConcurrencyWindow(),
]
CARD = RateCard(
    "pro",
    1,
    "USD",
    tuple(
        CardEntry(
            unit, unit, unit, (), (), Decimal(amount), Decimal(event), context, Decimal(above)
        )
        for unit, amount, event, context, above in (
            ("tokens", "0.0000015", "0.000005", "requests", "0"),
            ("tokens", "0.0000007", "0", "requests", "9"),
            ("requests", "0.000003", "0", "", "0"),
        )
    ),
)
ELAPSES_MS = st.one_of(
    st.integers(0, 5),
    st.integers(0, 2_000),
    st.sampled_from([9_999, 10_000, 60_000, 599_999, 600_000, 1_200_000, 3_600_000, 86_400_000]),
    st.integers(0, 40 * 86_400_000),
)

Told = tuple[Any, ...] | str


@dataclass(frozen=True)
class Asked:
    """One operation as both sides read it, with the amounts from which it was made."""

    operation: Operation
    amounts: dict[str, int]
    least: dict[str, int]
    holds: int
    is_shadow: bool
    description: bytes = b""

    def for_redis(self) -> Operation:
        """Write it for the script."""
        if self.description and self.operation.rebased:
            return self.operation.rebased(self.description)
        return self.operation

    def for_the_core(self, now_ms: int) -> decisions.Operation:
        """Write it for the pure function."""
        asked, coverage = self.operation, self.operation.coverage
        clocks = [cast("LimitClock", limit.clock) for limit in coverage.limits]
        own = described_hold(self.description).slots if self.description else ()
        return decisions.Operation(
            kind=Kind(asked.kind),
            parts=tuple((limit.field, limit.slot - 1) for limit in coverage.limits),
            rules=tuple(rule_at(clock, now_ms) for clock in clocks),
            demand=self._demand(coverage.slots),
            description=coverage.description,
            request=asked.request_id,
            fingerprint=asked.fingerprint,
            hold=asked.hold,
            ttl_ms=asked.detail,
            is_subject_known=bool(asked.detail),
            may_be_unknown=asked.kind in (Kind.RELEASE, Kind.MARK_DISPATCHED)
            and bool(asked.detail),
            forgotten=asked.extra[1:] if isinstance(asked.extra, str) else "",
            is_shadow=self.is_shadow,
            event_ms=min(cast("int", asked.extra), now_ms) if asked.kind == Kind.RECORD else 0,
            own=(self.description, self._demand(own)) if self.description else None,
        )

    def _demand(self, slots: Any) -> Demand:  # noqa: ANN401 - of a coverage or a description.
        is_more = self.operation.kind == Kind.EXTEND
        amounts = tuple(sums_of(slots, self.amounts, self.holds, is_more=is_more))
        if not self.least:
            return Demand(amounts)
        smallest = {**self.amounts, **self.least}
        least = tuple(sums_of(slots, smallest, self.holds, is_more=is_more))
        flexible = tuple(
            Flexible(
                self.amounts[unit] - self.least[unit],
                tuple(
                    (slot - 1, num, den)
                    for slot, num, den in weights_of(slots, unit, self.amounts, is_more=is_more)
                ),
            )
            for unit in self.least
            if self.least[unit] < self.amounts[unit]
        )
        return Demand(amounts, least, flexible)


def rule_at(clock: LimitClock, now_ms: int) -> Rule:
    """Answer the rule of a limit at an instant."""
    terms = clock.terms_at(now_ms)
    return Rule(
        terms.room, terms.drain, terms.scale, terms.end_ms, terms.start_ms, refuses=terms.refuses
    )


def told_by_redis(answer: Answer | LimitsChanged | DomainError) -> Told:
    """Reduce an answer of the script to what both sides know."""
    if isinstance(answer, DomainError):
        return answer.reason
    if isinstance(answer, LimitsChanged):
        return "LIMITS_CHANGED"
    told = (answer.kind, answer.outcome, answer.now_ms, answer.detail, answer.hold)
    return (*told, tuple(answer.figures))


def told_by_the_core(answer: decisions.Answer | Failure) -> Told:
    """Reduce an answer of the pure function to what both sides know."""
    if isinstance(answer, Failure):
        return answer.reason
    told = (answer.kind, answer.outcome, answer.now_ms, answer.detail, answer.hold)
    return (*told, answer.figures + answer.granted)


class InRedis:
    """The script on a real Redis, for one customer nobody used before, at a present we choose."""

    def __init__(self, client: redis.Redis) -> None:
        source = SCRIPT.decode()
        assert source.count("redis.call('TIME')") == 1
        self._client = client
        self._script = source.replace("redis.call('TIME')", "{ARGV[2], ARGV[3]}")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()
        self._root = Root(f"tenant-{secrets.token_hex(8)}", "acme")
        client.script_load(self._script)

    def decide(
        self, operations: list[Operation], now_ms: int
    ) -> list[Answer | LimitsChanged | DomainError]:
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
                a_limit("prepaid", capacity=300, window=LifetimeWindow(), overdraft=20),
                a_limit("money", capacity=200, units=("USD",), plan_id="pro"),
                a_limit("flying", capacity=4, units=(HOLDS,), window=ConcurrencyWindow()),
            )
        }
        self.index = LimitIndex(self.limits.values(), cards={"pro": CARD})

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
        enforcement=st.sampled_from([Enforcement.HARD, *Enforcement]),
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
        enforcement: Enforcement,
    ) -> None:
        """Replace a limit by any other, or add one."""
        limit = (
            a_rate(limit_id, capacity=capacity, period_ms=period_ms, level=level, units=units)
            if window is None
            else a_limit(limit_id, capacity=capacity, window=window, level=level, units=units)
        )
        if isinstance(window, ConcurrencyWindow):
            limit = replace(limit, units=(HOLDS,))
        self.limits[limit_id] = replace(limit, enforcement=enforcement)
        self.index = LimitIndex(self.limits.values(), cards={"pro": CARD})

    @rule(limit_id=st.sampled_from(["month", "day", "tokens", "requests", "extra"]))
    def delete_limit(self, limit_id: str) -> None:
        """Delete a limit while holds of it are open."""
        self.limits.pop(limit_id, None)
        self.index = LimitIndex(self.limits.values(), cards={"pro": CARD})

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
            if isinstance(answer, decisions.Answer) and answer.hold
        ]

    def _draw(self, data: st.DataObject) -> Asked:
        kind = data.draw(st.sampled_from(Kind))
        coverage = self.index.coverage(data.draw(st.sampled_from(SUBJECTS)), ())
        amounts = data.draw(st.dictionaries(st.sampled_from(UNITS), st.integers(0, 40)))
        request_id = data.draw(st.sampled_from(REQUEST_IDS))
        fingerprint = data.draw(st.sampled_from([b"8 bytes.", b"others 8"]))
        of_call = (coverage.subject, ()) if data.draw(st.booleans()) else None
        hold = HoldId(data.draw(st.sampled_from(["unknown", *self.holds[-8:]])), "acme", of_call)
        of = (request_id, fingerprint, hold)
        subject, holds = coverage.subject, 0
        least: dict[str, int] = {}
        is_shadow = data.draw(st.sampled_from([False, False, False, True]))
        description = b""
        match kind:
            case Kind.CHECK:
                operation = check_operation(CheckCall(subject, (), amounts, is_shadow), coverage)
                holds = 1 if amounts else 0
            case Kind.RESERVE:
                least, holds = self._least(data, amounts), 1
                ttl_ms = data.draw(st.sampled_from([100, 5_000, 60_000, 86_400_000]))
                call = ReserveCall(
                    request_id, fingerprint, subject, (), amounts, ttl_ms, least, is_shadow
                )
                operation = reserve_operation(call, coverage, f"hold-{secrets.token_hex(6)}")
            case Kind.COMMIT:
                is_known = data.draw(st.sampled_from([True, True, True, False]))
                is_of_hold = data.draw(st.booleans()) or not is_known
                commit = CommitCall(
                    request_id, fingerprint, hold if is_of_hold else None, subject, (), amounts
                )
                operation = commit_operation(
                    commit, coverage if is_known else NOTHING, is_known=is_known
                )
            case Kind.EXTEND:
                least = self._least(data, amounts)
                ttl_ms = data.draw(st.sampled_from([0, 100, 60_000]))
                extend = ExtendCall(*of, subject, (), amounts, ttl_ms, least, is_shadow)
                operation = extend_operation(extend, coverage)
                known = self.state.holds.get(hold.name)
                if known and data.draw(st.booleans()):
                    description = known.description
            case Kind.RECORD:
                event_ms = self.now_ms - data.draw(ELAPSES_MS)
                record = RecordCall(request_id, fingerprint, subject, (), amounts, event_ms)
                operation = record_operation(record, coverage)
                is_shadow = False
            case Kind.RELEASE:
                operation = release_operation(ReleaseCall(*of))
                if data.draw(st.booleans()):
                    reserve = operation._replace(request_id=data.draw(st.sampled_from(REQUEST_IDS)))
                    operation = cancel_operation(reserve)._replace(request_id=request_id)
            case Kind.MARK_DISPATCHED:
                operation = release_operation(MarkDispatchedCall(*of))
        return Asked(operation, amounts, least, holds, is_shadow, description)

    def _least(self, data: st.DataObject, amounts: dict[str, int]) -> dict[str, int]:
        if data.draw(st.booleans()):
            return {}
        units = data.draw(st.permutations(sorted(amounts)))
        return {unit: data.draw(st.integers(0, amounts[unit])) for unit in units}


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


def test_a_part_of_a_hold_under_other_limits_waits_alike(redis_url: str) -> None:
    """The least that is accepted is in terms of the limits of then, the waits in those of now."""
    day = a_limit("day", capacity=0, window=WINDOWS[3])
    month = a_limit("month", capacity=100, units=("requests",), window=WINDOWS[6])
    subject, state = SUBJECTS[0], SubjectState()
    amounts, least = {"tokens": 1, "requests": 0}, {"requests": 0, "tokens": 1}
    before = LimitIndex([day, month]).coverage(subject, ())
    closed = a_rate("month", capacity=0, period_ms=1_000, units=UNITS)
    after = LimitIndex([day, closed]).coverage(subject, ())
    call = ReserveCall("first", b"8 bytes.", subject, (), {}, 100)
    more = ExtendCall("more", b"8 bytes.", HoldId("h", "acme"), subject, (), amounts, 0, least)
    with redis.Redis.from_url(redis_url) as client:
        script = InRedis(client)
        for asked in (
            Asked(reserve_operation(call, before, "h"), {}, {}, 1, is_shadow=False),
            Asked(
                *(extend_operation(more, after), amounts, least, 0),
                is_shadow=False,
                description=before.description,
            ),
        ):
            (told,) = script.decide([asked.for_redis()], START_MS)
            state, (expected,) = decide(state, [asked.for_the_core(START_MS)], START_MS, SWEEP_MAX)
            assert told_by_redis(told) == told_by_the_core(expected)
