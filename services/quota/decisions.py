"""The rule by which calls are admitted and booked, as a pure function.

`decide.lua` obeys the same rule inside Redis; this is where it can be read, and what tests hold
the script to. A counter knows three figures: what was *taken* and has not drained, what of it is
*settled*, and what open holds *hold*. One rule serves every kind of window:

- A call passes when, on each counter, taken + amount stays within the limit's room.
- A reserve takes its amounts. A hold is settled when its call is committed, released or expires:
  what was really used stays taken and becomes settled, what exceeds the hold is taken in addition.
- A calendar window forgets what is settled when it turns, but not what is held: an open hold is
  booked in the window in which it is settled.
- A rolling rate is a token bucket that counts debt: it drains by `drain` parts each millisecond,
  and a quantum is `scale` parts, so that every rate is exact (RFC 2697 counts tokens instead).

After a hold was settled, no more stays taken than what is settled plus what is still held. In a
calendar window this is plain subtraction. In a rolling rate it is what makes giving back safe: part
of a hold's amount has drained while it was open, and giving all of it back would let others take
that part twice. The figure is never lower than if the hold had not been, and equal when no other
hold is open.

Refuses to be exact beyond `TAKEN_MAX` parts, where a counter stays; `model.QUANTITY_MAX` and the
bounds of a limit keep every decision far below.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Generic, TypeVar

from services.quota.model import HoldState, Kind, Outcome

TAKEN_MAX = 2**52
ROOM_MAX = 2**50
PERIOD_MS = 600_000
"""A request is remembered for at least one period and at most two."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How a limit counts at the present.

    Args:
        room: How many parts can be taken.
        drain: How many parts drain each millisecond; 0 in a calendar window.
        scale: How many parts a quantum has.
        window_end_ms: When the calendar window ends; 0 when none does.
    """

    room: int
    drain: int = 0
    scale: int = 1
    window_end_ms: int = 0


@dataclass(frozen=True, slots=True)
class Counter:
    """The state of one limit for one subject.

    Args:
        stamp_ms: Until when it has drained; in a calendar window, when that ends; 0 for neither.
        taken: Parts that were taken and have not drained.
        settled: Parts of them that no hold is open for.
        held: Quanta that open holds took.
    """

    stamp_ms: int
    taken: int
    settled: int
    held: int
    drain: int
    scale: int

    @classmethod
    def fresh(cls, rule: Rule, now_ms: int) -> "Counter":
        """Make the counter of which nothing was taken."""
        stamp_ms = now_ms if rule.drain else rule.window_end_ms
        return cls(stamp_ms, 0, 0, 0, rule.drain, rule.scale)

    def at(self, instant_ms: int) -> "Counter":
        """Let time pass: drain, or turn the window."""
        if self.drain:
            drained = self.drain * max(instant_ms - self.stamp_ms, 0)
            return replace(
                self,
                stamp_ms=max(instant_ms, self.stamp_ms),
                taken=max(self.taken - drained, 0),
                settled=max(self.settled - drained, 0),
            )
        if 0 < self.stamp_ms <= instant_ms:
            return replace(self, stamp_ms=0, taken=self.held, settled=0)
        return self

    def under(self, rule: Rule, now_ms: int) -> "Counter":
        """Go on by a rule, which may differ from the one it was kept by: then in whole quanta."""
        counter = self.at(now_ms)
        if (counter.drain, counter.scale) != (rule.drain, rule.scale):
            settled = min(_whole(counter.settled, counter.scale) * rule.scale, TAKEN_MAX)
            taken = min(_whole(counter.taken, counter.scale) * rule.scale, TAKEN_MAX)
            counter = Counter(
                stamp_ms=now_ms,
                taken=taken if rule.drain else settled + counter.held,
                settled=settled,
                held=counter.held,
                drain=rule.drain,
                scale=rule.scale,
            )
        return counter if rule.drain else replace(counter, stamp_ms=rule.window_end_ms)

    def admits(self, rule: Rule, amount: int) -> bool:
        """Tell whether an amount fits; nothing always does."""
        return amount == 0 or self.taken + amount * self.scale <= rule.room

    def taking(self, amount: int) -> "Counter":
        """Let a hold take an amount."""
        return replace(self, taken=self.taken + amount * self.scale, held=self.held + amount)

    def settling(self, *, held: int, actual: int) -> "Counter":
        """End a hold, or none, and book what was really used, in full."""
        held = min(held, self.held)
        kept = min(actual, held)
        extra = min((actual - kept) * self.scale, TAKEN_MAX)
        settled = min(min(self.settled + kept * self.scale, self.taken) + extra, TAKEN_MAX)
        taken = min(self.taken + extra, TAKEN_MAX)
        still_held = self.held - held
        return replace(
            self,
            settled=settled,
            taken=min(taken, settled + still_held * self.scale),
            held=still_held,
        )

    def figures(self, now_ms: int) -> tuple[int, int, int]:
        """Show what is used, what is reserved, and how long until it is reset; -1 for never."""
        used, total = _whole(self.settled, self.scale), _whole(self.taken, self.scale)
        if self.drain:
            reset_ms = _whole(self.taken, self.drain)
        else:
            reset_ms = self.stamp_ms - now_ms if self.stamp_ms else -1
        return used, total - used, reset_ms

    def wait_ms(self, rule: Rule, amount: int, now_ms: int, last_expiry_ms: int) -> int:
        """Say how long until an amount fits; 0 when it never does, -1 when it fits now.

        Where open holds are in the way, it fits at the latest when the last one of the customer
        has expired; where booked usage is, when the window turns.
        """
        if self.admits(rule, amount):
            return -1
        parts = amount * self.scale
        if parts > rule.room:
            return 0
        if self.drain:
            return _whole(self.taken + parts - rule.room, self.drain)
        expiry_ms = max(last_expiry_ms - now_ms, 1)
        turn_ms = self.stamp_ms - now_ms if self.stamp_ms else None
        waits = [expiry_ms] if self.settled + amount <= rule.room else []
        if turn_ms is not None and self.held + amount <= rule.room:
            waits.append(turn_ms)
        if waits:
            return min(waits)
        return 0 if turn_ms is None else max(expiry_ms, turn_ms)


Parts = tuple[tuple[str, int], ...]
"""Counters by name, each with the position of the amount that it takes."""


@dataclass(frozen=True, slots=True)
class Hold:
    """What a reserve took, until when, and from which counters."""

    expire_ms: int
    parts: Parts
    amounts: tuple[int, ...]

    def taken_from(self) -> dict[str, int]:
        """Answer how much each counter gave."""
        return {name: self.amounts[slot] for name, slot in self.parts}


@dataclass(frozen=True, slots=True)
class Operation:
    """What is asked: `kind` of the counters `parts`, each by its rule.

    Args:
        ttl_ms: How long a reserve holds.
        is_subject_known: Whether a commit can be booked although its hold is unknown.
    """

    kind: Kind
    parts: Parts
    rules: tuple[Rule, ...]
    amounts: tuple[int, ...]
    request: str = ""
    fingerprint: bytes = b""
    hold: str = ""
    ttl_ms: int = 0
    is_subject_known: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided; each counter's figures, and after a denial how long to wait for it."""

    outcome: Outcome
    now_ms: int
    detail: int
    hold: str
    figures: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an operation could not be decided."""

    reason: str


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
    answers = tuple([books.decide(operation) for operation in asked])
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
        self._last_expiry_ms = 0

    def closed(self) -> SubjectState:
        return SubjectState(self._counters, self._holds, self._requests, self._ended)

    def expire(self, sweep_max: int) -> None:
        """End holds at their expiry, each at its own instant, so that it matters not when."""
        in_order = sorted(self._holds.items(), key=lambda item: (item[1].expire_ms, item[0]))
        due = (item for item in in_order if item[1].expire_ms <= self._now_ms)
        for name, hold in list(islice(due, sweep_max)):
            for counter, held in hold.taken_from().items():
                self._settle(counter, held=held, actual=0, instant_ms=hold.expire_ms)
            self._end(name, HoldState.EXPIRED)
        self._last_expiry_ms = max((hold.expire_ms for hold in self._holds.values()), default=0)

    def follow(self, operations: Iterable[Operation]) -> None:
        """Go on by the rules that limits have now, on every counter that is asked about."""
        for operation in operations:
            for (name, _), rule in zip(operation.parts, operation.rules, strict=True):
                self._counters[name] = self._counter(name, rule)

    def decide(self, operation: Operation) -> Answer | Failure:
        if operation.kind is Kind.CHECK:
            return self._answer(operation, self._judge(operation))
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

    def _carry_out(self, operation: Operation) -> Answer | Failure:
        if operation.kind is Kind.RESERVE:
            return self._reserve(operation)
        ended = self._recall(self._ended, operation.hold) if operation.hold else None
        if ended in (HoldState.COMMITTED, HoldState.RELEASED):
            return Failure("RESERVATION_ENDED")
        if operation.kind is Kind.COMMIT:
            return self._commit(operation)
        if operation.hold not in self._holds and ended is None:
            return Failure("RESERVATION_NOT_FOUND")
        return self._release(operation)

    def _reserve(self, operation: Operation) -> Answer:
        if self._judge(operation) is Outcome.DENIED:
            return self._answer(operation, Outcome.DENIED)
        for (name, slot), rule in zip(operation.parts, operation.rules, strict=True):
            self._counters[name] = self._counter(name, rule).taking(operation.amounts[slot])
        expire_ms = self._now_ms + operation.ttl_ms
        self._holds[operation.hold] = Hold(expire_ms, operation.parts, operation.amounts)
        self._last_expiry_ms = max(self._last_expiry_ms, expire_ms)
        return self._answer(operation, Outcome.ALLOWED, expire_ms, operation.hold)

    def _commit(self, operation: Operation) -> Answer | Failure:
        if operation.hold and not operation.is_subject_known:
            return Failure("RESERVATION_NOT_FOUND")
        hold = self._holds.get(operation.hold)
        held = hold.taken_from() if hold else {}
        for (name, slot), rule in zip(operation.parts, operation.rules, strict=True):
            counter = self._counter(name, rule)
            self._counters[name] = counter.settling(
                held=held.pop(name, 0), actual=operation.amounts[slot]
            )
        for name, amount in held.items():
            self._settle(name, held=amount, actual=0, instant_ms=self._now_ms)
        if operation.hold:
            self._end(operation.hold, HoldState.COMMITTED)
        return self._answer(operation, Outcome.COMMITTED, int(hold is not None))

    def _release(self, operation: Operation) -> Answer:
        hold = self._holds.get(operation.hold)
        if hold:
            for name, amount in hold.taken_from().items():
                self._settle(name, held=amount, actual=0, instant_ms=self._now_ms)
        self._end(operation.hold, HoldState.RELEASED)
        return self._answer(operation, Outcome.RELEASED, int(hold is not None))

    def _judge(self, operation: Operation) -> Outcome:
        admitted = all(
            self._counter(name, rule).admits(rule, operation.amounts[slot])
            for (name, slot), rule in zip(operation.parts, operation.rules, strict=True)
        )
        return Outcome.ALLOWED if admitted else Outcome.DENIED

    def _answer(
        self, operation: Operation, outcome: Outcome, detail: int = 0, hold: str = ""
    ) -> Answer:
        figures: list[int] = []
        for (name, slot), rule in zip(operation.parts, operation.rules, strict=True):
            counter, amount = self._counter(name, rule), operation.amounts[slot]
            figures += counter.figures(self._now_ms)
            if outcome is Outcome.DENIED:
                figures.append(counter.wait_ms(rule, amount, self._now_ms, self._last_expiry_ms))
        return Answer(outcome, self._now_ms, detail, hold, tuple(figures))

    def _counter(self, name: str, rule: Rule) -> Counter:
        known = self._counters.get(name)
        return known.under(rule, self._now_ms) if known else Counter.fresh(rule, self._now_ms)

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


def _whole(parts: int, scale: int) -> int:
    """Divide, rounding up."""
    return -(-parts // scale)
