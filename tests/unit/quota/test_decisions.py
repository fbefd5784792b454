"""The rule of the gate, as scenarios: one row for each operation, with the figures it answers.

A row says when (milliseconds), what, and then the outcome, what is used, reserved and left, and how
long a refused amount has to wait; `-` where nothing is refused. Each hold is named by a letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from services.quota.admission import Demand
from services.quota.counting import TAKEN_MAX, Counter, Rule
from services.quota.decisions import Answer, Failure, Operation, SubjectState, decide
from services.quota.model import Kind, Outcome

SWEEP_MAX = 100
TTL_MS = 5_000
WINDOW_MS = 10_000

CALENDAR = Rule(room=100)
RATE = Rule(room=100 * 10, drain=1, scale=10)
"""A hundred at once, refilled by one in ten milliseconds."""
SLOW_RATE = Rule(room=100 * 100, drain=1, scale=100)
"""A hundred at once, refilled by one in a hundred milliseconds."""

OUTCOMES = {
    Outcome.ALLOWED: "allow",
    Outcome.DENIED: "deny",
    Outcome.COMMITTED: "booked",
    Outcome.RELEASED: "freed",
}


@dataclass(frozen=True)
class Scenario:
    """What happens to one counter of a limit of 100."""

    id: str
    rule: Rule
    rows: str


SCENARIOS = [
    Scenario(
        "a call is held, then booked with what it used",
        CALENDAR,
        """
            0  reserve a 60    allow     0  60  40  -
            1  commit a 45     booked   45   0  55  -
        """,
    ),
    Scenario(
        "exactly the capacity fits, and not one more",
        CALENDAR,
        """
            0  reserve a 100   allow     0 100   0  -
            1  check 1         deny      0 100   0  4999
            2  check 0         allow     0 100   0  -
        """,
    ),
    Scenario(
        "a refused call changes nothing",
        CALENDAR,
        """
            0  reserve a 60    allow     0  60  40  -
            1  reserve b 41    deny      0  60  40  4999
            2  reserve b 40    allow     0 100   0  -
        """,
    ),
    Scenario(
        "what never fits is refused without a time to wait",
        CALENDAR,
        """
            0  reserve a 101   deny      0   0 100  0
        """,
    ),
    Scenario(
        "where usage is in the way, a call waits for the next window",
        CALENDAR,
        """
            0  book 80         booked   80   0  20  -
         1000  reserve a 30    deny     80   0  20  9000
        10000  reserve a 30    allow     0  30  70  -
        """,
    ),
    Scenario(
        "where usage and holds are in the way, it waits for the earlier of both that suffices",
        CALENDAR,
        """
            0  book 50         booked   50   0  50  -
            0  reserve a 50    allow    50  50   0  -
            1  check 50        deny     50  50   0  4999
            1  check 51        deny     50  50   0  9999
        """,
    ),
    Scenario(
        "an expired hold gives everything back at its expiry",
        CALENDAR,
        """
            0  reserve a 60    allow     0  60  40  -
         4999  check 41        deny      0  60  40  1
         5000  check 41        allow     0   0 100  -
        """,
    ),
    Scenario(
        "a released hold gives everything back at once",
        CALENDAR,
        """
            0  reserve a 60    allow     0  60  40  -
            1  release a       freed
            1  check 100       allow     0   0 100  -
        """,
    ),
    Scenario(
        "a commit larger than its hold is booked in full",
        CALENDAR,
        """
            0  reserve a 60    allow     0  60  40  -
            1  commit a 130    booked  130   0   0  -
            2  check 1         deny    130   0   0  9998
        """,
    ),
    Scenario(
        "a commit after the expiry is booked in full",
        CALENDAR,
        """
            0  reserve a 60    allow     0  60  40  -
         6000  commit a 50     booked   50   0  50  -
        """,
    ),
    Scenario(
        "a commit without a hold is booked in full",
        CALENDAR,
        """
            0  book 130        booked  130   0   0  -
            1  book 5          booked  135   0   0  -
        """,
    ),
    Scenario(
        "a window that turns forgets what is used, not what is held",
        CALENDAR,
        """
            0  book 40         booked   40   0  60  -
         9000  reserve a 30    allow    40  30  30  -
        10000  check 71        deny      0  30  70  4000
        10001  commit a 25     booked   25   0  75  -
        """,
    ),
    Scenario(
        "a rate drains what was taken, be it held or settled",
        RATE,
        """
            0  reserve a 60    allow     0  60  40  -
          300  check 0         allow     0  30  70  -
          300  commit a 60     booked   30   0  70  -
          550  check 0         allow     5   0  95  -
          555  check 0         allow     5   0  95  -
          600  check 0         allow     0   0 100  -
        """,
    ),
    Scenario(
        "a rate says when what is missing has drained",
        RATE,
        """
            0  book 100        booked  100   0   0  -
            0  check 30        deny    100   0   0  300
          299  check 30        deny     71   0  29  1
          300  check 30        allow    70   0  30  -
        """,
    ),
    Scenario(
        "a lone hold of a rate gives back all that is left of it",
        RATE,
        """
            0  reserve a 100   allow     0 100   0  -
          500  release a       freed
          500  check 100       allow     0   0 100  -
        """,
    ),
    Scenario(
        "what drained from a hold is not given back a second time",
        RATE,
        """
            0  reserve a 100   allow     0 100   0  -
         1000  reserve b 100   allow     0 100   0  -
         1000  release a       freed
         1000  check 1         deny      0 100   0  10
        """,
    ),
    Scenario(
        "holds of a rate that end in any order leave nothing behind",
        RATE,
        """
            0  reserve a 40    allow     0  40  60  -
          100  reserve b 40    allow     0  70  30  -
          200  release a       freed
          200  check 0         allow     0  40  60  -
          200  release b       freed
          200  check 100       allow     0   0 100  -
        """,
    ),
    Scenario(
        "an expired hold of a rate is given back at its expiry, however late that is seen",
        SLOW_RATE,
        """
            0  reserve a 60    allow     0  60  40  -
         4000  reserve b 30    allow     0  50  50  -
         5600  check 0         allow     0  24  76  -
        """,
    ),
    Scenario(
        "a rate keeps usage beyond its burst as debt",
        RATE,
        """
            0  reserve a 10    allow     0  10  90  -
            0  commit a 150    booked  150   0   0  -
          600  check 10        allow    90   0  10  -
        """,
    ),
    Scenario(
        "a limit of nothing refuses everything, for ever",
        Rule(room=0),
        """
            0  reserve a 1     deny      0   0   0  0
            0  reserve b 0     allow     0   0   0  -
            0  book 7          booked    7   0   0  -
        """,
    ),
]


def steps(rows: str) -> Iterator[tuple[int, str, list[str], list[str]]]:
    """Split rows into when, what, with what, and what is expected."""
    for row in rows.strip().splitlines():
        when, kind, *rest = row.split()
        place = next(i for i, word in enumerate(rest) if word in OUTCOMES.values())
        yield int(when), kind, rest[:place], rest[place:]


def asked(kind: str, words: list[str], rule: Rule, number: int) -> Operation:
    """Make the operation of a row."""
    kinds = {"check": Kind.CHECK, "reserve": Kind.RESERVE, "release": Kind.RELEASE}
    is_held = kind in {"reserve", "commit", "release"}
    amount = 0 if kind == "release" else int(words[-1])
    return Operation(
        kind=kinds.get(kind, Kind.COMMIT),
        parts=() if kind == "release" else (("tokens", 0),),
        rules=() if kind == "release" else (rule,),
        demand=Demand((amount,)),
        request=f"request-{number}",
        hold=words[0] if is_held else "",
        ttl_ms=TTL_MS,
    )


def told(answer: Answer | Failure, room: int) -> list[str]:
    """Write an answer as the end of a row."""
    if isinstance(answer, Failure):
        return [answer.reason]
    outcome = OUTCOMES[answer.outcome]
    if not answer.figures:
        return [outcome]
    used, reserved, _, *wait = answer.figures
    left = max(room - used - reserved, 0)
    return [outcome, *map(str, (used, reserved, left)), *(map(str, wait) if wait else "-")]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
def test_the_gate_answers_as_the_scenario_says(scenario: Scenario) -> None:
    """Every row has the outcome and the figures that are written beside it."""
    state, found, expected = SubjectState(), [], []
    for number, (now_ms, kind, words, answer) in enumerate(steps(scenario.rows)):
        end_ms = 0 if scenario.rule.drain or not scenario.rule.room else window_end(now_ms)
        rule = replace(scenario.rule, window_end_ms=end_ms)
        state, (decided,) = decide(state, [asked(kind, words, rule, number)], now_ms, SWEEP_MAX)
        found.append(told(decided, rule.room // rule.scale))
        expected.append(answer)

    assert found == expected


def window_end(now_ms: int) -> int:
    """Answer when the window of ten seconds ends that contains an instant."""
    return (now_ms // WINDOW_MS + 1) * WINDOW_MS


def reserve(
    name: str, amount: int, *limits: str, request: str = "", fingerprint: bytes = b""
) -> Operation:
    """Ask for a hold of an amount under several limits of 100."""
    return Operation(
        kind=Kind.RESERVE,
        parts=tuple((limit, 0) for limit in limits),
        rules=(replace(CALENDAR, window_end_ms=WINDOW_MS),) * len(limits),
        demand=Demand((amount,)),
        request=request or f"reserve {name}",
        fingerprint=fingerprint,
        hold=name,
        ttl_ms=TTL_MS,
    )


def commit(name: str, amount: int, *limits: str, request: str = "") -> Operation:
    """Book an amount under several limits."""
    operation = reserve(name, amount, *limits, request=request or f"commit {name} {amount}")
    return replace(operation, kind=Kind.COMMIT)


def release(name: str, *, request: str = "") -> Operation:
    """Give a hold back."""
    operation = reserve(name, 0, request=request or f"release {name}")
    return replace(operation, kind=Kind.RELEASE)


def decide_all(
    *operations: Operation, state: SubjectState | None = None, now_ms: int = 0
) -> tuple[SubjectState, list[object]]:
    """Decide operations that arrive together; answer what was used and reserved, or the failure."""
    state, answers = decide(state or SubjectState(), operations, now_ms, SWEEP_MAX)
    return state, [
        answer.reason if isinstance(answer, Failure) else (OUTCOMES[answer.outcome], answer.figures)
        for answer in answers
    ]


def test_a_call_passes_on_all_limits_or_on_none() -> None:
    """One limit without room refuses the call, and the other one is not charged."""
    _, answers = decide_all(
        reserve("a", 60, "wide"), reserve("b", 50, "narrow", "wide"), reserve("c", 40, "wide")
    )

    assert answers == [
        ("allow", (0, 100, 10_000)),
        ("deny", (0, 0, 10_000, -1, 0, 60, 10_000, 5_000)),
        ("allow", (0, 100, 10_000)),
    ]


def test_a_repeated_request_gets_its_first_answer_and_changes_nothing() -> None:
    """Also when the state has changed meanwhile, and also when it was refused."""
    state, first = decide_all(reserve("a", 60, "x"), reserve("b", 50, "x"), commit("a", 10, "x"))
    _, second = decide_all(
        reserve("other", 60, "x", request="reserve a"),
        reserve("other", 50, "x", request="reserve b"),
        commit("a", 10, "x"),
        reserve("c", 90, "x"),
        state=state,
        now_ms=1,
    )

    assert second[:3] == first
    assert second[3] == ("allow", (10, 90, 9_999))


def test_a_request_id_with_other_content_is_refused() -> None:
    """The fingerprint tells, and nothing happens."""
    state, _ = decide_all(reserve("a", 60, "x", fingerprint=b"one"))
    _, answers = decide_all(
        reserve("b", 40, "x", request="reserve a", fingerprint=b"other"),
        reserve("c", 40, "x"),
        state=state,
    )

    assert answers == ["REQUEST_ID_REUSED", ("allow", (0, 100, 10_000))]


def test_a_request_is_remembered_for_a_period_at_least_and_two_at_most() -> None:
    """Ten minutes after it was answered it still is; twenty minutes after it is new."""
    state, first = decide_all(reserve("a", 60, "x"), now_ms=599_999)
    later, remembered = decide_all(
        reserve("b", 1, "x", request="reserve a"), state=state, now_ms=1_199_999
    )
    _, forgotten = decide_all(
        reserve("b", 1, "x", request="reserve a"), state=later, now_ms=1_200_000
    )

    assert remembered == first
    assert forgotten != first


@pytest.mark.parametrize(
    ("ending", "again", "answer"),
    [
        pytest.param(
            commit("a", 1, "x"), commit("a", 2, "x"), "RESERVATION_ENDED", id="commit, commit"
        ),
        pytest.param(commit("a", 1, "x"), release("a"), "RESERVATION_ENDED", id="commit, release"),
        pytest.param(release("a"), commit("a", 1, "x"), "RESERVATION_ENDED", id="release, commit"),
        pytest.param(
            release("a"),
            release("a", request="again"),
            "RESERVATION_ENDED",
            id="release, release",
        ),
    ],
)
def test_a_hold_ends_once(ending: Operation, again: Operation, answer: str) -> None:
    """Whoever ends it second is told that it has ended."""
    state, _ = decide_all(reserve("a", 60, "x"), ending)
    _, answers = decide_all(again, state=state)

    assert answers == [answer]


def test_an_expired_hold_can_be_released_and_that_is_the_end_of_it() -> None:
    """Releasing what has expired succeeds once; then nobody commits it."""
    state, _ = decide_all(reserve("a", 60, "x"))
    _, answers = decide_all(release("a"), commit("a", 60, "x"), state=state, now_ms=TTL_MS)

    assert answers == [("freed", ()), "RESERVATION_ENDED"]


def test_an_unknown_hold_is_not_found_unless_its_amounts_can_be_booked() -> None:
    """A release needs the hold; a commit needs the hold or the subject."""
    unknown = replace(commit("a", 30, "x"), is_subject_known=False)
    _, answers = decide_all(release("a"), unknown, commit("a", 30, "x"))

    assert answers == [
        "RESERVATION_NOT_FOUND",
        "RESERVATION_NOT_FOUND",
        ("booked", (30, 0, 10_000)),
    ]


def test_a_commit_elsewhere_frees_the_hold_where_it_was() -> None:
    """A call that is booked on other limits than it was held on leaves nothing reserved."""
    state, _ = decide_all(reserve("a", 60, "x", "y"), commit("a", 20, "y", "z"))
    _, answers = decide_all(reserve("b", 0, "x", "y", "z"), state=state)

    assert answers == [("allow", (0, 0, 10_000, 20, 0, 10_000, 20, 0, 10_000))]


def test_a_limit_that_changes_keeps_what_is_used() -> None:
    """From a window to a rate and back, in whole quanta; open holds stay open."""
    window = replace(CALENDAR, window_end_ms=WINDOW_MS)
    rate = Rule(room=400, drain=1, scale=3)
    counter = Counter.fresh(window, 0).settling(held=0, actual=40).taking(20)

    as_rate = counter.under(rate, 1)
    as_window = as_rate.at(4).under(window, 5)

    assert as_rate == Counter(1, taken=180, settled=120, held=20, drain=1, scale=3)
    assert as_window == Counter(WINDOW_MS, taken=59, settled=39, held=20, drain=0, scale=1)


def test_a_counter_stays_at_its_maximum() -> None:
    """What cannot be counted exactly any more is not counted beyond, and does not wrap."""
    counter = Counter.fresh(CALENDAR, 0)
    full = counter.settling(held=0, actual=TAKEN_MAX - 1).settling(held=0, actual=2)

    assert full == replace(counter, taken=TAKEN_MAX, settled=TAKEN_MAX)


def test_only_so_many_holds_expire_at_once() -> None:
    """The earliest are ended first, and the rest with the next operations."""
    holds = [reserve(f"hold-{number}", 10, "x") for number in range(3)]
    state, _ = decide_all(*holds)
    after_two, _ = decide(state, (), TTL_MS, 2)
    after_all, _ = decide(after_two, (), TTL_MS, 2)

    assert [sorted(state.holds) for state in (state, after_two, after_all)] == [
        ["hold-0", "hold-1", "hold-2"],
        ["hold-2"],
        [],
    ]
    assert after_all.counters["x"].held == 0
