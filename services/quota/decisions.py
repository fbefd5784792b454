"""The rule by which calls are admitted and booked, as a pure function.

`decide.lua` obeys the same rule inside Redis; this is where it can be read, and what tests hold
the script to. How a counter counts says `counting.py`, what fits `admission.py`.

- A call passes when it fits on each limit that refuses. A limit that does not refuse is taken from
  like any other, also beyond its room.
- A hold is settled when its call is committed or released, or when it expires. The hold of a call
  that has not left for its provider gives everything back then. That of a call that has left is
  booked at what it held, and for `LATE_MS` a late commit puts what was really used in the place of
  that, in the window where it was booked.
- A hold is extended on the counters from which it was taken, by the rules that they have now.
- What passes or is booked is told with the figures that all operations left that arrived together.
  What does not fit everywhere is told with those that it met.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Generic, TypeVar

from services.quota.admission import Admission, Demand, Source, admit
from services.quota.counting import GAUGE, Counter, Rule
from services.quota.model import HoldPhase, HoldState, Kind, Outcome

PERIOD_MS = 600_000
"""A request is remembered for at least one period and at most two."""
LATE_MS = 86_400_000
"""How long the hold of a call that had left waits for its commit after it has expired."""

Parts = tuple[tuple[str, int], ...]
"""Counters by name, each with the position of the amount that it takes."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What a reserve took, until when, and from which counters.

    Args:
        description: What covered the call, told apart.
        stamps_ms: Of a hold that is late, the stamp of each counter on which it was booked.
    """

    expire_ms: int
    description: bytes
    parts: Parts
    amounts: tuple[int, ...]
    phase: HoldPhase = HoldPhase.OPEN
    stamps_ms: tuple[int, ...] = ()

    def taken_from(self) -> dict[str, int]:
        """Answer how much each counter gave."""
        return {name: self.amounts[slot] for name, slot in self.parts}

    def booked_on(self) -> dict[str, int]:
        """Answer how much is booked on each counter when the call had left and the hold expires."""
        return {name: amount for name, amount in self.taken_from().items() if GAUGE not in name}


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked: `kind` of the counters `parts`, each by its rule.

    Args:
        description: What covers the call, told apart.
        ttl_ms: How long a reserve holds, or an extended hold lives from now on.
        is_subject_known: Whether a commit can be booked although its hold is unknown.
        may_be_unknown: Whether a hold that is released or dispatched may never have been.
        is_shadow: Whether no limit refuses.
        event_ms: When usage that is recorded happened; 0 for now.
        forgotten: The request of a reserve whose answer a release lets be forgotten.
        own: The description of the hold that is extended and what is asked in its positions, where
            the limits have changed since.
    """

    kind: Kind
    parts: Parts
    rules: tuple[Rule, ...]
    demand: Demand
    description: bytes = b""
    request: str = ""
    fingerprint: bytes = b""
    hold: str = ""
    ttl_ms: int = 0
    is_subject_known: bool = True
    may_be_unknown: bool = False
    is_shadow: bool = False
    event_ms: int = 0
    forgotten: str = ""
    own: tuple[bytes, Demand] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided.

    Args:
        detail: When the hold ends; whether the hold was open.
        figures: Those of each counter; where something did not fit also how long to wait for it
            after a denial, and else 0, or -1 where it fitted.
        granted: How much of each flexible unit was granted beyond the least, if not all.
    """

    kind: Kind
    outcome: Outcome
    now_ms: int
    detail: int
    hold: str
    figures: tuple[int, ...]
    granted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation could not be decided."""

    reason: str


_FORGOTTEN = Counter(stamp_ms=0, taken=0, settled=0, held=0, drain=0, scale=1)
"""A counter that said nothing any more, of a limit that is gone."""

_WITH_OWN_FIGURES = (Outcome.EXCEEDING, Outcome.DENIED, Outcome.PARTIAL)

Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class Remembered(Generic[Known]):
    """A thing known for some time, and the period in which it was learned."""

    period: int
    value: Known


@dataclass(frozen=True, slots=True)
class SubjectState:
    """All that is kept for one customer."""

    counters: Mapping[str, Counter] = field(default_factory=dict)
    holds: Mapping[str, Hold] = field(default_factory=dict)
    requests: Mapping[str, Remembered[tuple[bytes, Answer]]] = field(default_factory=dict)
    ended: Mapping[str, Remembered[HoldState]] = field(default_factory=dict)


def decide(
    state: SubjectState, operations: Iterable[Operation], now_ms: int, sweep_max: int
) -> tuple[SubjectState, tuple[Answer | Failure, ...]]:
    """Let what is due expire, then decide operations that arrived together, in their order."""
    books = _Books(state, now_ms)
    books.expire(sweep_max)
    asked = tuple(operations)
    books.follow(asked)
    answers = books.shown([books.decide(operation) for operation in asked])
    return books.closed(), answers


class _Books:
    """The state of one customer while operations that arrived together are decided."""

    def __init__(self, state: SubjectState, now_ms: int) -> None:
        self._now_ms = now_ms
        self._period = now_ms // PERIOD_MS
        self._counters = dict(state.counters)
        self._holds = dict(state.holds)
        self._requests = dict(state.requests)
        self._ended = dict(state.ended)
        self._rules: dict[str, Rule] = {}
        self._late: list[str] = []
        self._last_expiry_ms = 0
        self._passed: list[tuple[Operation, Answer]] = []

    def closed(self) -> SubjectState:
        return SubjectState(self._counters, self._holds, self._requests, self._ended)

    def expire(self, sweep_max: int) -> None:
        """End holds at their expiry, each at its own instant, so that it matters not when."""
        unsettled = (each for each in self._holds.items() if each[1].phase is not HoldPhase.LATE)
        in_order = sorted(unsettled, key=lambda item: (item[1].expire_ms, item[0]))
        due = (item for item in in_order if item[1].expire_ms <= self._now_ms)
        for name, hold in list(islice(due, sweep_max)):
            is_late = hold.phase is HoldPhase.DISPATCHED
            booked = hold.booked_on() if is_late else {}
            for counter, held in hold.taken_from().items():
                actual = booked.get(counter, 0)
                self._settle(counter, held=held, actual=actual, instant_ms=hold.expire_ms)
            if is_late:
                self._late.append(name)
            else:
                self._end(name, HoldState.EXPIRED)
        still_open = [
            hold
            for name, hold in self._holds.items()
            if hold.phase is not HoldPhase.LATE and name not in self._late
        ]
        self._last_expiry_ms = max((hold.expire_ms for hold in still_open), default=0)

    def follow(self, operations: Iterable[Operation]) -> None:
        """Go on by the rules that limits have now, on every counter that is asked about."""
        for operation in operations:
            for (name, _), rule in zip(operation.parts, operation.rules, strict=True):
                self._counters[name] = self._counter(name, rule)
                self._rules[name] = rule
        for name in self._late:
            hold = self._holds[name]
            self._holds[name] = replace(
                hold,
                phase=HoldPhase.LATE,
                expire_ms=hold.expire_ms + LATE_MS,
                stamps_ms=tuple(self._stamp_ms(name) for name, _ in hold.parts),
            )

    def decide(self, operation: Operation) -> Answer | Failure:
        if operation.kind is Kind.CHECK:
            return self._check(operation)
        first = self._recall(self._requests, operation.request)
        if first is not None:
            fingerprint, first_answer = first
            is_same = fingerprint == operation.fingerprint
            return first_answer if is_same else Failure("REQUEST_ID_REUSED")
        answer = self._carry_out(operation)
        if isinstance(answer, Answer):
            known = (operation.fingerprint, answer)
            self._requests[operation.request] = Remembered(self._period, known)
        return answer

    def shown(self, answers: Iterable[Answer | Failure]) -> tuple[Answer | Failure, ...]:
        """Show what all operations left, in the answers to those that passed or were booked."""
        final = {
            id(answer): replace(answer, figures=self._figures(operation))
            for operation, answer in self._passed
        }
        for operation, answer in self._passed:
            known = self._requests.get(operation.request)
            if known and known.value[1] is answer:
                value = (operation.fingerprint, final[id(answer)])
                self._requests[operation.request] = replace(known, value=value)
        return tuple([final.get(id(answer), answer) for answer in answers])

    def _figures(self, operation: Operation) -> tuple[int, ...]:
        pairs = zip(operation.parts, operation.rules, strict=True)
        counters = [self._counter(name, rule) for (name, _), rule in pairs]
        return tuple([figure for each in counters for figure in each.figures(self._now_ms)])

    def _carry_out(self, operation: Operation) -> Answer | Failure:
        if operation.kind is Kind.RESERVE:
            return self._reserve(operation)
        if operation.kind is Kind.RECORD:
            return self._record(operation)
        ended = self._recall(self._ended, operation.hold) if operation.hold else None
        if ended in (HoldState.COMMITTED, HoldState.RELEASED):
            return Failure("RESERVATION_ENDED")
        if operation.kind is Kind.COMMIT:
            return self._commit(operation)
        hold = self._hold(operation.hold)
        if hold is None and ended is None and not operation.may_be_unknown:
            return Failure("RESERVATION_NOT_FOUND")
        return self._change(operation, hold)

    def _change(self, operation: Operation, hold: Hold | None) -> Answer | Failure:
        if operation.kind is Kind.EXTEND:
            return self._extend(operation, hold)
        if operation.kind is Kind.MARK_DISPATCHED:
            return self._mark_dispatched(operation, hold)
        return self._release(operation, hold)

    def _check(self, operation: Operation) -> Answer:
        admission = self._admit(operation, operation.parts, operation.demand)
        return self._told(operation, admission, 0)

    def _reserve(self, operation: Operation) -> Answer:
        admission = self._admit(operation, operation.parts, operation.demand)
        if admission.outcome is Outcome.DENIED:
            return self._told(operation, admission, 0)
        expire_ms = self._now_ms + operation.ttl_ms
        hold = Hold(expire_ms, operation.description, operation.parts, admission.amounts)
        self._take(hold.taken_from())
        self._holds[operation.hold] = hold
        self._last_expiry_ms = max(self._last_expiry_ms, expire_ms)
        return self._told(operation, admission, expire_ms, operation.hold)

    def _extend(self, operation: Operation, hold: Hold | None) -> Answer | Failure:
        if hold is None or hold.phase is HoldPhase.LATE:
            return Failure("RESERVATION_ENDED")
        description, demand = operation.own or (operation.description, operation.demand)
        if description != hold.description:
            return Failure("LIMITS_CHANGED")
        admission = self._admit(operation, hold.parts, demand)
        if admission.outcome is Outcome.DENIED:
            return self._told(operation, admission, hold.expire_ms)
        expire_ms = hold.expire_ms
        if operation.ttl_ms:
            expire_ms = max(expire_ms, self._now_ms + operation.ttl_ms)
        self._take({name: admission.amounts[slot] for name, slot in hold.parts})
        amounts = tuple(map(sum, zip(hold.amounts, admission.amounts, strict=True)))
        self._holds[operation.hold] = replace(hold, expire_ms=expire_ms, amounts=amounts)
        self._last_expiry_ms = max(self._last_expiry_ms, expire_ms)
        return self._told(operation, admission, expire_ms)

    def _mark_dispatched(self, operation: Operation, hold: Hold | None) -> Answer:
        is_open = hold is not None and hold.phase is not HoldPhase.LATE
        if hold and is_open:
            self._holds[operation.hold] = replace(hold, phase=HoldPhase.DISPATCHED)
        return self._answer(operation, Outcome.DISPATCHED, int(is_open))

    def _commit(self, operation: Operation) -> Answer | Failure:
        if operation.hold and not operation.is_subject_known:
            return Failure("RESERVATION_NOT_FOUND")
        hold = self._hold(operation.hold)
        is_late = hold is not None and hold.phase is HoldPhase.LATE
        if hold and is_late:
            self._unbook(hold)
        held = hold.taken_from() if hold and not is_late else {}
        for (name, slot), rule in zip(operation.parts, operation.rules, strict=True):
            counter = self._counter(name, rule)
            self._counters[name] = counter.settling(
                held=held.pop(name, 0), actual=operation.demand.amounts[slot]
            )
        for name, amount in held.items():
            self._settle(name, held=amount, actual=0, instant_ms=self._now_ms)
        if operation.hold:
            self._end(operation.hold, HoldState.COMMITTED)
        return self._answer(operation, Outcome.COMMITTED, int(hold is not None and not is_late))

    def _record(self, operation: Operation) -> Answer:
        event_ms = operation.event_ms or self._now_ms
        for (name, slot), rule in zip(operation.parts, operation.rules, strict=True):
            self._counters[name] = self._counter(name, rule).recording(
                rule, operation.demand.amounts[slot], event_ms, self._now_ms
            )
        return self._answer(operation, Outcome.COMMITTED)

    def _release(self, operation: Operation, hold: Hold | None) -> Answer:
        self._requests.pop(operation.forgotten, None)
        is_late = hold is not None and hold.phase is HoldPhase.LATE
        if hold and is_late:
            self._unbook(hold)
        elif hold:
            for name, amount in hold.taken_from().items():
                self._settle(name, held=amount, actual=0, instant_ms=self._now_ms)
        self._end(operation.hold, HoldState.RELEASED)
        return self._answer(operation, Outcome.RELEASED, int(hold is not None and not is_late))

    def _admit(self, operation: Operation, parts: Parts, demand: Demand) -> Admission:
        """Judge by the rules that are known: a limit that is gone refuses nothing any more."""
        rules = self._rules
        sources = [
            Source(name, self._counter(name, rules[name]), rules[name], slot)
            for name, slot in parts
            if name in rules
        ]
        return admit(sources, demand, is_shadow=operation.is_shadow)

    def _take(self, amounts: Mapping[str, int]) -> None:
        for name, amount in amounts.items():
            known = self._counters.get(name) or _FORGOTTEN
            self._counters[name] = known.at(self._now_ms).taking(amount)

    def _unbook(self, hold: Hold) -> None:
        """Take back what an expired hold was booked at."""
        booked = hold.booked_on()
        for (name, _), stamp_ms in zip(hold.parts, hold.stamps_ms, strict=True):
            counter = self._counters.get(name)
            if counter and name in booked:
                self._counters[name] = counter.at(self._now_ms).unbooking(
                    booked[name], hold.expire_ms - LATE_MS, stamp_ms, self._now_ms
                )

    def _answer(
        self, operation: Operation, outcome: Outcome, detail: int = 0, hold: str = ""
    ) -> Answer:
        return self._told(operation, Admission(outcome), detail, hold)

    def _told(
        self, operation: Operation, admission: Admission, detail: int, hold: str = ""
    ) -> Answer:
        outcome = admission.outcome
        if outcome not in _WITH_OWN_FIGURES:
            answer = Answer(operation.kind, outcome, self._now_ms, detail, hold, ())
            self._passed.append((operation, answer))
            return answer
        figures: list[int] = []
        demand = operation.demand
        # Of a hold under other limits the least is known by those only, so one waits for all of it.
        amounts = (demand.least or demand.amounts) if operation.own is None else demand.amounts
        for (name, slot), rule in zip(operation.parts, operation.rules, strict=True):
            counter = self._counter(name, rule)
            figures += counter.figures(self._now_ms)
            if outcome is Outcome.DENIED:
                wait_ms = counter.wait_ms(rule, amounts[slot], self._now_ms, self._last_expiry_ms)
                figures.append(wait_ms)
            else:
                figures.append(0 if name in admission.misfits else -1)
        return Answer(
            operation.kind,
            outcome,
            self._now_ms,
            detail,
            hold,
            tuple(figures),
            admission.granted,
        )

    def _counter(self, name: str, rule: Rule) -> Counter:
        known = self._counters.get(name)
        return known.under(rule, self._now_ms) if known else Counter.fresh(rule, self._now_ms)

    def _stamp_ms(self, name: str) -> int:
        known = self._counters.get(name) or _FORGOTTEN
        return 0 if known.drain else known.at(self._now_ms).stamp_ms

    def _hold(self, name: str) -> Hold | None:
        """Find a hold that is open, or that waits for its late commit still."""
        hold = self._holds.get(name)
        is_over = (
            hold is not None and hold.phase is HoldPhase.LATE and hold.expire_ms <= self._now_ms
        )
        return None if is_over else hold

    def _settle(self, name: str, *, held: int, actual: int, instant_ms: int) -> None:
        known = self._counters.get(name)
        if known:
            self._counters[name] = known.at(instant_ms).settling(held=held, actual=actual)

    def _end(self, name: str, state: HoldState) -> None:
        self._holds.pop(name, None)
        self._ended[name] = Remembered(self._period, state)

    def _recall(self, known: Mapping[str, Remembered[Known]], name: str) -> Known | None:
        remembered = known.get(name)
        if remembered is None or remembered.period < self._period - 1:
            return None
        return remembered.value
