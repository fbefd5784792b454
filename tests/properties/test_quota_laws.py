"""Laws of the gate that hold for every history of calls, of the pure rule.

Histories are made of reserves, commits, releases and checks at times that go on; what the laws say
of them is computed from the history alone, with integers and fractions, and shares no code with the
rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.quota.admission import Demand, Flexible
from services.quota.counting import Counter, Rule
from services.quota.decisions import Answer, Failure, Hold, Operation, SubjectState, decide
from services.quota.model import HoldPhase, Kind, Outcome

SWEEP_MAX = 1_000
CAPACITY = 50
NEVER_MS = 10**12
WITHOUT_AMOUNT = (Kind.RELEASE, Kind.MARK_DISPATCHED)
CALENDAR = Rule(room=CAPACITY, window_end_ms=NEVER_MS)
RATES = st.builds(
    lambda drain, scale: Rule(room=CAPACITY * scale, drain=drain, scale=scale),
    st.integers(1, 9),
    st.integers(1, 400),
)
RULES = st.one_of(st.just(CALENDAR), RATES)


@dataclass(frozen=True)
class Step:
    """Something a caller does some time after the last; `hold` counts back among the holds."""

    wait_ms: int
    kind: Kind
    amount: int
    hold: int
    ttl_ms: int


def histories(*kinds: Kind) -> st.SearchStrategy[list[Step]]:
    """Draw histories of some kinds of operations."""
    step = st.builds(
        Step,
        wait_ms=st.one_of(st.integers(0, 40), st.integers(0, 3_000)),
        kind=st.sampled_from(kinds),
        amount=st.one_of(st.integers(0, 12), st.sampled_from([25, CAPACITY]), st.integers(0, 70)),
        hold=st.integers(0, 3),
        ttl_ms=st.sampled_from([100, 1_000, 60_000]),
    )
    return st.lists(step, min_size=1, max_size=40)


ANY = histories(*Kind)
BUSY = st.lists(
    st.builds(
        Step,
        wait_ms=st.sampled_from([0, 0, 100, 500, 1_000]),
        kind=st.sampled_from([Kind.RESERVE, Kind.RESERVE, Kind.COMMIT, Kind.RELEASE]),
        amount=st.sampled_from([10, 25, CAPACITY]),
        hold=st.integers(0, 3),
        ttl_ms=st.sampled_from([1_000, 60_000]),
    ),
    min_size=10,
    max_size=16,
)
"""Histories of few and large amounts, at a rate that drains them while others are open."""
SLOW_RATES = st.sampled_from([Rule(CAPACITY * scale, 1, scale) for scale in (5, 10, 40)])


@dataclass
class Taken:
    """A reserve that passed: when, how much, and how much of it was really used."""

    at_ms: int
    amount: int
    expire_ms: int
    used: int | None = None
    is_dispatched: bool = False


class History:
    """Plays steps against one counter, and notes what a caller would note."""

    def __init__(self, rule: Rule, *, is_bounded: bool = False) -> None:
        self.rule = rule
        self.is_bounded = is_bounded
        self.now_ms = 0
        self.state = SubjectState()
        self.taken: dict[str, Taken] = {}
        self.booked = 0
        self.answers: list[Answer | Failure] = []

    def play(self, steps: list[Step]) -> History:
        """Play steps in their order."""
        for step in steps:
            self.step(step)
        return self

    def step(self, step: Step) -> None:
        """Play one step."""
        self.now_ms += step.wait_ms
        number = len(self.answers)
        hold = self._hold(step, number)
        operation = Operation(
            kind=step.kind,
            parts=() if step.kind in WITHOUT_AMOUNT else (("tokens", 0),),
            rules=() if step.kind in WITHOUT_AMOUNT else (self.rule,),
            demand=Demand((self._amount(step, hold),)),
            request=f"request-{number}",
            hold=hold,
            ttl_ms=step.ttl_ms,
        )
        answer = self.ask(operation)
        self.answers.append(answer)
        self._note(operation, answer)

    def ask(self, operation: Operation) -> Answer | Failure:
        """Ask one thing at the present."""
        self.state, (answer,) = decide(self.state, [operation], self.now_ms, SWEEP_MAX)
        return answer

    def open_holds(self) -> list[Taken]:
        """Answer the holds that have not ended, by the caller's notes."""
        return [
            taken
            for taken in self.taken.values()
            if taken.used is None and taken.expire_ms > self.now_ms
        ]

    def booked_late(self) -> int:
        """Answer what is booked of calls that had left when their holds expired."""
        return sum(
            taken.amount
            for taken in self.taken.values()
            if taken.is_dispatched and taken.used is None and taken.expire_ms <= self.now_ms
        )

    def _hold(self, step: Step, number: int) -> str:
        if step.kind is Kind.RESERVE:
            return f"hold-{number}"
        if step.kind in (Kind.CHECK, Kind.RECORD):
            return ""
        known = list(self.taken)
        return known[-1 - step.hold] if step.hold < len(known) else ""

    def _amount(self, step: Step, hold: str) -> int:
        is_commit_of_hold = step.kind is Kind.COMMIT and hold
        if self.is_bounded and is_commit_of_hold:
            taken = self.taken[hold]
            is_open = taken.expire_ms > self.now_ms
            return min(step.amount, taken.amount) if is_open else 0
        return 0 if self.is_bounded and step.kind is Kind.COMMIT else step.amount

    def _note(self, operation: Operation, answer: Answer | Failure) -> None:
        if isinstance(answer, Failure):
            return
        if answer.outcome is Outcome.ALLOWED and operation.kind is Kind.RESERVE:
            self.taken[operation.hold] = Taken(
                self.now_ms, operation.demand.amounts[0], answer.detail
            )
        if answer.outcome is Outcome.ALLOWED and operation.kind is Kind.EXTEND:
            self.taken[operation.hold].amount += operation.demand.amounts[0]
            self.taken[operation.hold].expire_ms = answer.detail
        if operation.kind is Kind.MARK_DISPATCHED and answer.detail:
            self.taken[operation.hold].is_dispatched = True
        if answer.outcome is Outcome.COMMITTED:
            self.booked += operation.demand.amounts[0]
        if operation.kind in (Kind.COMMIT, Kind.RELEASE) and operation.hold:
            is_commit = operation.kind is Kind.COMMIT
            self.taken[operation.hold].used = operation.demand.amounts[0] if is_commit else 0


@given(rule=RULES, steps=ANY)
def test_what_passes_fits(rule: Rule, steps: list[Step]) -> None:
    """After every call that passed, used and reserved are within the capacity."""
    history = History(rule).play(steps)

    sums = [
        answer.figures[0] + answer.figures[1]
        for step, answer in zip(steps, history.answers, strict=True)
        if step.kind is Kind.RESERVE
        and step.amount
        and isinstance(answer, Answer)
        and answer.outcome is Outcome.ALLOWED
    ]
    assert max(sums, default=0) <= CAPACITY


@given(rule=RULES, callers=st.integers(0, 120), amount=st.integers(1, 9))
def test_of_many_callers_exactly_those_that_fit_pass(rule: Rule, callers: int, amount: int) -> None:
    """N callers who race for the last M units: as many pass as M holds, in whatever order."""
    history = History(rule).play([Step(0, Kind.RESERVE, amount, 0, 60_000)] * callers)

    assert len(history.taken) == min(callers, CAPACITY // amount)


@given(rule=RULES, steps=ANY)
def test_a_refused_call_charges_nothing(rule: Rule, steps: list[Step]) -> None:
    """A call that is refused leaves counters and holds as they were."""
    history = History(rule).play(steps)
    before = standing(history)
    history.step(Step(0, Kind.RESERVE, CAPACITY + 1, 0, 60_000))

    assert isinstance(history.answers[-1], Answer)
    assert history.answers[-1].outcome is Outcome.DENIED
    assert standing(history) == before


def figures(history: History) -> tuple[int, ...]:
    """Answer what is used and what is reserved at the present of a history."""
    counter = history.state.counters.get("tokens", Counter.fresh(history.rule, 0))
    return counter.under(history.rule, history.now_ms).figures(0)[:2]


def standing(history: History) -> tuple[dict[str, Hold], tuple[int, ...]]:
    """Answer the open holds and the figures."""
    return dict(history.state.holds), figures(history)


@given(steps=ANY)
def test_usage_that_happened_is_booked_in_full(steps: list[Step]) -> None:
    """Whatever was held, late or lost: what is used is the sum of all commits and records.

    Calls that had left when their holds expired count at what they held until they commit.
    """
    history = History(CALENDAR).play(steps)
    history.step(Step(0, Kind.CHECK, 0, 0, 60_000))

    assert figures(history)[0] == history.booked + history.booked_late()


@given(rule=RULES, steps=ANY)
def test_what_is_held_can_be_derived_from_the_open_holds(rule: Rule, steps: list[Step]) -> None:
    """No hold leaks and none is given back twice."""
    history = History(rule).play(steps)
    unsettled = [hold for hold in history.state.holds.values() if hold.phase is not HoldPhase.LATE]
    held = [hold.amounts[0] for hold in unsettled]
    noted = [taken.amount for taken in history.open_holds()]
    counter = history.state.counters.get("tokens")

    assert sorted(held) == sorted(noted)
    assert (counter.held if counter else 0) == sum(held)


@given(rule=RULES, steps=histories(Kind.RESERVE, Kind.RELEASE, Kind.CHECK))
def test_calls_that_never_ran_leave_nothing_behind(rule: Rule, steps: list[Step]) -> None:
    """Once all holds were released or have expired, everything is there again."""
    history = History(rule).play(steps)
    history.step(Step(60_000, Kind.CHECK, 0, 0, 60_000))

    assert figures(history) == (0, 0)


@settings(max_examples=800)
@given(rate=SLOW_RATES, steps=BUSY)
def test_a_rate_is_never_exceeded_over_any_stretch_of_time(rate: Rule, steps: list[Step]) -> None:
    """Between any two instants no more is used than the burst and what drains between them."""
    history = History(rate, is_bounded=True).play(steps)
    used = [
        (taken.at_ms, used_in_the_end(taken, history.now_ms)) for taken in history.taken.values()
    ]
    excess = max(
        (
            excess_of(rate, used[first:last])
            for first, last in combinations(range(len(used) + 1), 2)
        ),
        default=Fraction(-CAPACITY),
    )

    assert excess <= 0


def excess_of(rate: Rule, stretch: list[tuple[int, int]]) -> Fraction:
    """Answer by how much a stretch of time used more than it may."""
    elapsed_ms = stretch[-1][0] - stretch[0][0]
    drained = Fraction(rate.drain * elapsed_ms, rate.scale)
    return sum(amount for _, amount in stretch) - CAPACITY - drained


def used_in_the_end(taken: Taken, now_ms: int) -> int:
    """Answer how much of a reserve was used, as far as it can be known by now."""
    if taken.used is not None:
        return taken.used
    return taken.amount if taken.expire_ms > now_ms else 0


@settings(max_examples=500)
@given(rule=RULES, steps=ANY, looks=st.lists(st.integers(0, 300), max_size=10))
def test_it_matters_not_when_somebody_looks(
    rule: Rule, steps: list[Step], looks: list[int]
) -> None:
    """Holds expire at their own instant, also if nobody was there to see it."""
    unseen, seen = History(rule).play(steps), History(rule).play(steps)
    for wait_ms in looks:
        seen.step(Step(wait_ms, Kind.CHECK, 0, 0, 60_000))
    unseen.now_ms = seen.now_ms
    look = Step(0, Kind.CHECK, 20, 0, 60_000)
    unseen.step(look)
    seen.step(look)

    assert unseen.answers[-1] == seen.answers[-1]


@given(rule=RULES, steps=ANY)
def test_every_call_can_be_repeated(rule: Rule, steps: list[Step]) -> None:
    """A repeat gets the first answer, and the state stays as it is."""
    history = History(rule).play(steps)
    answered = remembered_requests(history, steps)
    before = standing(history)
    repeat = Operation(Kind.RESERVE, (("tokens", 0),), (rule,), Demand((1,)), hold="again")
    again = [history.ask(replace(repeat, request=f"request-{number}")) for number in answered]

    assert again == [history.answers[number] for number in answered]
    assert standing(history) == before


@given(rule=RULES, steps=ANY)
def test_other_content_under_a_request_id_does_nothing(rule: Rule, steps: list[Step]) -> None:
    """The request id of a call that was answered cannot be used for another one."""
    history = History(rule).play(steps)
    answered = remembered_requests(history, steps)
    before = standing(history)
    other = Operation(
        Kind.RESERVE, (("tokens", 0),), (rule,), Demand((1,)), fingerprint=b"other", hold="other"
    )
    failures = [history.ask(replace(other, request=f"request-{number}")) for number in answered]

    assert failures == [Failure("REQUEST_ID_REUSED")] * len(answered)
    assert standing(history) == before


def remembered_requests(history: History, steps: list[Step]) -> list[int]:
    """Number the steps whose answers are remembered: all but checks and failures."""
    return [
        number
        for number, (step, answer) in enumerate(zip(steps, history.answers, strict=True))
        if step.kind is not Kind.CHECK and isinstance(answer, Answer)
    ]


@settings(max_examples=300)
@given(
    rule=RULES,
    steps=ANY,
    asked=st.integers(0, 80),
    least=st.integers(0, 80),
)
def test_a_part_is_the_largest_that_fits(
    rule: Rule, steps: list[Step], asked: int, least: int
) -> None:
    """What is granted fits, one more would not, and less than the least is never granted."""
    history = History(rule).play(steps)
    history.step(Step(0, Kind.CHECK, 0, 0, 60_000))
    least = min(least, asked)
    counter = history.state.counters["tokens"].under(rule, history.now_ms)
    room = max(counter.room_left(rule), 0)
    demand = Demand((asked,), (least,), (Flexible(asked - least, ((0, 1, 1),)),))
    answer = history.ask(
        Operation(Kind.RESERVE, (("tokens", 0),), (rule,), demand, request="part", hold="part")
    )

    assert isinstance(answer, Answer)
    held = history.state.holds.get("part")
    fitting = min(asked, room)
    granted = fitting if fitting >= least or not asked else None
    assert (held.amounts[0] if held else None) == granted


@given(rule=RULES, steps=ANY)
def test_in_shadow_nothing_is_refused(rule: Rule, steps: list[Step]) -> None:
    """The call passes and is held, and the answer says whether it fitted."""
    history = History(rule).play(steps)
    demand = Demand((CAPACITY + 1,))
    answer = history.ask(
        Operation(
            Kind.RESERVE,
            (("tokens", 0),),
            (rule,),
            demand,
            request="shadow",
            hold="shadow",
            is_shadow=True,
        )
    )

    assert isinstance(answer, Answer)
    assert answer.outcome is Outcome.EXCEEDING
    assert history.state.holds["shadow"].amounts == (CAPACITY + 1,)
