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
    HoldId,
    Outcome,
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
    return Answer(outcome, NOW_MS, detail, hold, coverage or a_coverage(), figures)


def statuses(*figures: tuple[int, int, int]) -> list[quota_pb2.LimitStatus]:
    """Write what `an_answer` shows with the generated code: used, reserved, remaining."""
    day, hour = (
        quota_pb2.LimitStatus(scope="acme", used=used, reserved=reserved, remaining=remaining)
        for used, reserved, remaining in figures
    )
    day.MergeFrom(quota_pb2.LimitStatus(limit_id="day", units=["tokens"], capacity=100))
    hour.MergeFrom(
        quota_pb2.LimitStatus(limit_id="hour", units=["tokens", "requests"], capacity=90)
    )
    day.reset_time.FromMilliseconds(NOW_MS + 5_750)
    return [day, hour]


SHOWN = statuses((20, 30, 50), (200, 0, 0))
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

    assert wire.ReserveResponse.FromString(render_reserve(answer, asked)) == expected


def test_a_denied_reserve_is_written() -> None:
    """Nothing is granted; each limit that refused says so, and when to come back if ever."""
    answer = an_answer(Outcome.DENIED, 20, 30, 5_750, 1_500, 200, 0, -1, 0)
    shown = statuses((20, 30, 50), (200, 0, 0))
    shown[0].MergeFrom(
        quota_pb2.LimitStatus(decided=True, retry_after=Duration(seconds=1, nanos=500_000_000))
    )
    shown[1].decided = True

    assert wire.ReserveResponse.FromString(render_reserve(answer, {"tokens": 5})) == (
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
        (Outcome.ALLOWED, (20, 30, 5_750, 200, 0, -1)),
    ]
    asked = [{"tokens": 5, "USD": 7}, {}, {"requests": 1}, {}, {"USD": 1, "tokens": 2}]

    shared = [
        render_reserve(an_answer(outcome, *shown, coverage=coverage), amounts)
        for (outcome, shown), amounts in zip(figures, asked, strict=True)
    ]
    alone = [
        render_reserve(an_answer(outcome, *shown), amounts)
        for (outcome, shown), amounts in zip(figures, asked, strict=True)
    ]

    assert shared == alone
    assert len(set(shared)) == len(shared)


def test_a_limit_that_did_not_refuse_does_not_say_so() -> None:
    """Only who decided is marked."""
    answer = an_answer(Outcome.DENIED, 20, 30, 5_750, -1, 200, 0, -1, 0)
    response = wire.CheckResponse.FromString(render_check(answer))

    assert [status.decided for status in response.limits] == [False, True]


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
        limits=SHOWN, hold_settled=True
    )
    assert wire.CommitResponse.FromString(render_commit(late)) == wire.CommitResponse(limits=SHOWN)
    assert wire.ReleaseResponse.FromString(render_release(booked)) == wire.ReleaseResponse(
        hold_settled=True
    )
    assert wire.ReleaseResponse.FromString(render_release(late)) == wire.ReleaseResponse()
    assert wire.GetBalancesResponse.FromString(render_balances(allowed)) == (
        wire.GetBalancesResponse(limits=SHOWN)
    )


CALLS: list[tuple[Call, Outcome, str]] = [
    (CheckCall(a_subject(), (), {}), Outcome.ALLOWED, "check"),
    (ReserveCall("r", b"", a_subject(), (), {"tokens": 5}, 1), Outcome.ALLOWED, "reserve"),
    (CommitCall("r", b"", None, a_subject(), (), {}), Outcome.COMMITTED, "commit"),
    (ReleaseCall("r", b"", HoldId("hold-1", "acme")), Outcome.RELEASED, "release"),
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
