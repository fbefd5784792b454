"""The gate's answers, read back as messages, also when their forms are filled in again."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from services.quota.convert.answers import (
    WrittenMessage,
    render_balances,
    render_check,
    render_commit,
    render_mark_dispatched,
    render_record,
    render_release,
    render_reserve,
    render_session_answer,
    render_session_error,
)
from services.quota.counters import Answer
from services.quota.coverage import Coverage
from services.quota.model import (
    Call,
    CheckCall,
    CommitCall,
    Enforcement,
    ExtendCall,
    HoldId,
    Kind,
    MarkDispatchedCall,
    Outcome,
    RecordCall,
    ReleaseCall,
    ReserveCall,
)
from tests.quota_builders import a_limit, a_subject, covering, unix_ms
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

NOW_MS = unix_ms("2026-03-01T12:30") + 250
MOST = 10**15


def a_coverage() -> Coverage:
    """Cover acme by the limits `day` and `hour`, of 100 and 90 tokens."""
    return covering(a_limit("day"), a_limit("hour", units=("tokens", "requests"), capacity=90))


def an_answer(
    outcome: Outcome,
    *figures: int,
    detail: int = 0,
    hold: str = "",
    coverage: Coverage | None = None,
) -> Answer:
    """Make an answer about the limits of `a_coverage`."""
    kind = Kind.COMMIT if outcome is Outcome.COMMITTED else Kind.RESERVE
    return Answer(kind, outcome, NOW_MS, detail, hold, coverage or a_coverage(), figures)


def a_call(amounts: dict[str, int], least: dict[str, int] | None = None) -> ReserveCall:
    """Ask to hold amounts, or at least some of them."""
    return ReserveCall("r", b"", a_subject(), (), amounts, 1, least or {})


def statuses(*figures: tuple[int, int, int]) -> list[quota_pb2.LimitStatus]:
    """Write what `an_answer` shows with the generated code: used, reserved, remaining."""
    day, hour = (
        quota_pb2.LimitStatus(scope="acme", used=used, reserved=reserved, remaining=remaining)
        for used, reserved, remaining in figures
    )
    hard = quota_pb2.ENFORCEMENT_HARD
    day.MergeFrom(
        quota_pb2.LimitStatus(limit_id="day", units=["tokens"], capacity=100, enforcement=hard)
    )
    hour.MergeFrom(
        quota_pb2.LimitStatus(
            limit_id="hour", units=["tokens", "requests"], capacity=90, enforcement=hard
        )
    )
    day.reset_time.FromMilliseconds(NOW_MS + 5_750)
    return [day, hour]


SHOWN = statuses((20, 30, 50), (200, 0, 0))
BOOKED = statuses((20, 30, 50), (200, 0, 0))
BOOKED[1].exceeded = True
FIGURES = (20, 30, 5_750, 200, 0, -1)


def test_an_allowed_reserve_is_written() -> None:
    """The hold carries its customer; the amounts are granted; the limits are shown."""
    answer = an_answer(Outcome.ALLOWED, *FIGURES, detail=NOW_MS + 60_000, hold="hold-1")
    asked = {"tokens": 5, "USD": 0, "requests": MOST}
    expected = wire.ReserveResponse(
        decision=quota_pb2.DECISION_ALLOW,
        reservation_id="hold-1.acme",
        granted=[quota_pb2.Amount(unit=unit, quantity=each) for unit, each in asked.items()],
        limits=SHOWN,
    )
    expected.expire_time.FromMilliseconds(NOW_MS + 60_000)

    assert wire.ReserveResponse.FromString(render_reserve(answer, a_call(asked))) == expected


def test_a_denied_reserve_is_written() -> None:
    """Nothing is granted; each limit that refused says so, and when to come back if ever."""
    answer = an_answer(Outcome.DENIED, 20, 30, 5_750, 1_500, 200, 0, -1, 0)
    shown = statuses((20, 30, 50), (200, 0, 0))
    shown[0].MergeFrom(
        quota_pb2.LimitStatus(
            decided=True, exceeded=True, retry_after=Duration(seconds=1, nanos=500_000_000)
        )
    )
    shown[1].decided = shown[1].exceeded = True

    assert wire.ReserveResponse.FromString(render_reserve(answer, a_call({"tokens": 5}))) == (
        wire.ReserveResponse(decision=quota_pb2.DECISION_DENY, limits=shown)
    )


def test_an_answer_shows_nothing_of_the_one_before() -> None:
    """Forms are filled in again: other units, other figures, other refusals, other times."""
    coverage = a_coverage()
    figures = [
        (Outcome.ALLOWED, (20, 30, 5_750, 200, 0, -1)),
        (Outcome.DENIED, (1, 2, 7, 1_500, 3, 4, -1, 0)),
        (Outcome.ALLOWED, (5, 6, -1, 7, 8, 9)),
        (Outcome.DENIED, (9, 9, -1, -1, 9, 9, 10, 20)),
        (Outcome.EXCEEDING, (5, 6, -1, 0, 7, 8, 9, -1)),
        (Outcome.EXCEEDING, (5, 6, -1, -1, 7, 8, 9, 0)),
        (Outcome.ALLOWED, (20, 30, 5_750, 200, 0, -1)),
    ]
    asked: list[dict[str, int]] = [
        {"tokens": 5, "USD": 7},
        {},
        {"requests": 1},
        {},
        {"USD": 1},
        {"USD": 2},
        {"USD": 1, "tokens": 2},
    ]

    shared = [
        render_reserve(an_answer(outcome, *shown, coverage=coverage), a_call(amounts))
        for (outcome, shown), amounts in zip(figures, asked, strict=True)
    ]
    alone = [
        render_reserve(an_answer(outcome, *shown), a_call(amounts))
        for (outcome, shown), amounts in zip(figures, asked, strict=True)
    ]

    assert shared == alone
    assert len(set(shared)) == len(shared)


def test_a_limit_that_did_not_refuse_does_not_say_so() -> None:
    """Only who decided is marked."""
    answer = an_answer(Outcome.DENIED, 20, 30, 5_750, -1, 200, 0, -1, 0)
    response = wire.CheckResponse.FromString(render_check(answer))

    assert [status.decided for status in response.limits] == [False, True]


def test_a_part_that_is_granted_is_written() -> None:
    """Behind the figures stands how much of each flexible unit was granted beyond the least."""
    answer = an_answer(Outcome.PARTIAL, 20, 80, 5_750, 0, 20, 30, -1, -1, 7, hold="hold-1")
    call = a_call({"tokens": 50, "requests": 1}, {"tokens": 10, "requests": 1})
    response = wire.ReserveResponse.FromString(render_reserve(answer, call))

    assert response.decision == quota_pb2.DECISION_ALLOW_PARTIAL
    assert {each.unit: each.quantity for each in response.granted} == {"tokens": 17, "requests": 1}
    assert [status.exceeded for status in response.limits] == [True, False]
    assert not any(status.decided for status in response.limits)


def test_what_does_not_refuse_says_what_it_would_have_done() -> None:
    """A soft limit that a call exceeds is marked, and did not decide, also beside one that did."""
    coverage = covering(a_limit("hard"), a_limit("soft", enforcement=Enforcement.SOFT, capacity=10))
    figures = (0, 100, 5, 3, 0, 20, 5, 3)
    passed = an_answer(Outcome.EXCEEDING, *figures[:3], -1, *figures[4:], coverage=coverage)
    refused = an_answer(Outcome.DENIED, *figures, coverage=coverage)
    responses = [
        wire.ReserveResponse.FromString(render_reserve(each, a_call({"tokens": 5})))
        for each in (passed, refused)
    ]

    assert [each.decision for each in responses] == [
        quota_pb2.DECISION_ALLOW,
        quota_pb2.DECISION_DENY,
    ]
    assert [[(s.decided, s.exceeded) for s in each.limits] for each in responses] == [
        [(False, False), (False, True)],
        [(True, True), (False, True)],
    ]


def test_the_other_answers_are_written() -> None:
    """A check, a commit, a release and balances, each as the generated code reads it."""
    allowed = an_answer(Outcome.ALLOWED, *FIGURES)
    booked = an_answer(Outcome.COMMITTED, *FIGURES, detail=1)
    late = an_answer(Outcome.COMMITTED, *FIGURES)
    allow = quota_pb2.DECISION_ALLOW

    assert wire.CheckResponse.FromString(render_check(allowed)) == wire.CheckResponse(
        decision=allow, limits=SHOWN
    )
    assert wire.CommitResponse.FromString(render_commit(booked)) == wire.CommitResponse(
        limits=BOOKED, hold_settled=True
    )
    assert wire.CommitResponse.FromString(render_commit(late)) == wire.CommitResponse(limits=BOOKED)
    assert wire.ReleaseResponse.FromString(render_release(booked)) == wire.ReleaseResponse(
        hold_settled=True
    )
    assert wire.ReleaseResponse.FromString(render_release(late)) == wire.ReleaseResponse()
    assert wire.RecordResponse.FromString(render_record(late)) == wire.RecordResponse(limits=BOOKED)
    assert wire.MarkDispatchedResponse.FromString(render_mark_dispatched(booked)) == (
        wire.MarkDispatchedResponse(hold_open=True)
    )
    assert wire.GetBalancesResponse.FromString(render_balances(allowed)) == (
        wire.GetBalancesResponse(limits=SHOWN)
    )


A_HOLD = HoldId("hold-1", "acme")
CALLS: list[tuple[Call, Outcome, str]] = [
    (CheckCall(a_subject(), (), {}), Outcome.ALLOWED, "check"),
    (ReserveCall("r", b"", a_subject(), (), {"tokens": 5}, 1), Outcome.ALLOWED, "reserve"),
    (CommitCall("r", b"", None, a_subject(), (), {}), Outcome.COMMITTED, "commit"),
    (ReleaseCall("r", b"", A_HOLD), Outcome.RELEASED, "release"),
    (ExtendCall("r", b"", A_HOLD, None, (), {"tokens": 5}, 1), Outcome.ALLOWED, "extend"),
    (MarkDispatchedCall("r", b"", A_HOLD), Outcome.DISPATCHED, "mark_dispatched"),
    (RecordCall("r", b"", a_subject(), (), {"tokens": 5}, 0), Outcome.COMMITTED, "record"),
]


@pytest.mark.parametrize(("call", "outcome", "kind"), CALLS, ids=[kind for _, _, kind in CALLS])
def test_an_answer_of_a_session_names_its_call(call: Call, outcome: Outcome, kind: str) -> None:
    """Answers are gathered by joining their bytes, whatever the number of the call."""
    answer = an_answer(outcome, *FIGURES, detail=1, hold="hold-1")
    written = [render_session_answer(call_id, call, answer) for call_id in (0, 300, 2**64 - 1)]
    response = wire.SessionResponse.FromString(b"".join(written))

    assert [(each.call_id, each.WhichOneof("answer")) for each in response.answers] == [
        (0, kind),
        (300, kind),
        (2**64 - 1, kind),
    ]


def test_an_error_of_a_session_carries_its_status() -> None:
    """As the unary method would have failed."""
    status = Status(code=5, message="no hold with this id is known")
    response = wire.SessionResponse.FromString(render_session_error(9, status))

    assert response == wire.SessionResponse(answers=[wire.SessionAnswer(call_id=9, error=status)])


def test_a_written_message_is_asked_for_its_bytes() -> None:
    """The server treats it as any message."""
    assert WrittenMessage(b"abc").SerializeToString() == b"abc"
