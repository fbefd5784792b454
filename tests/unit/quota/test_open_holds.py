"""The open holds that a replica remembers: made, grown, dispatched and ended."""

from services.quota.model import HoldPhase, Kind, Outcome
from services.quota.open_holds import OpenHold, OpenHolds
from services.quota.operations import Operation
from tests.quota_builders import a_limit, covering

COVERAGE = covering(a_limit("year"))
HOLD = OpenHold(9_000, 1_000, COVERAGE, (10,))


def asked(kind: Kind, amount: int = 0, hold: str = "h1") -> Operation:
    """Ask something of a hold."""
    return Operation(kind, COVERAGE, "r1", b"8 bytes.", hold, 8_000, 0, (amount,))


def note(holds: OpenHolds, operation: Operation, outcome: Outcome, expire_ms: int = 9_000) -> None:
    """Note what was answered at instant 1,000."""
    answered = operation.hold if outcome is not Outcome.DENIED else ""
    holds.note("acme", operation, outcome=outcome, now_ms=1_000, expire_ms=expire_ms, hold=answered)


def holding() -> OpenHolds:
    """Remember one hold of ten."""
    holds = OpenHolds()
    note(holds, asked(Kind.RESERVE, 10), Outcome.ALLOWED)
    return holds


def test_a_hold_is_remembered_until_it_expires() -> None:
    """For its own customer."""
    holds = holding()

    assert holds.of("acme", 8_999) == [("h1", HOLD)]
    assert holds.of("acme", 9_000) == []
    assert holds.of("other", 1_000) == []


def test_a_refused_reserve_holds_nothing() -> None:
    """Nor does a repeated one whose first answer made another hold."""
    holds = OpenHolds()
    note(holds, asked(Kind.RESERVE, 10), Outcome.DENIED)
    holds.note(
        *("acme", asked(Kind.RESERVE, 10)),
        outcome=Outcome.ALLOWED,
        now_ms=1_000,
        expire_ms=9_000,
        hold="h0",
    )

    assert list(holds.customers(1_000)) == []


def test_a_hold_that_is_settled_is_forgotten() -> None:
    """By a commit, or by a release."""
    committed, released = holding(), holding()
    note(committed, asked(Kind.COMMIT, 5), Outcome.COMMITTED)
    note(released, asked(Kind.RELEASE), Outcome.RELEASED)

    assert [committed.of("acme", 0), released.of("acme", 0)] == [[], []]


def test_a_hold_grows_and_is_dispatched() -> None:
    """As its record in Redis does."""
    holds = holding()
    note(holds, asked(Kind.EXTEND, 7), Outcome.ALLOWED, expire_ms=20_000)
    note(holds, asked(Kind.MARK_DISPATCHED), Outcome.DISPATCHED)
    ((_, hold),) = holds.of("acme", 1_000)

    assert hold._replace(amounts=tuple(hold.amounts)) == OpenHold(
        20_000, 1_000, COVERAGE, (17,), HoldPhase.DISPATCHED
    )


def test_memory_is_bounded() -> None:
    """The oldest goes."""
    holds = OpenHolds(holds_max=2)
    for name in ("h1", "h2", "h3"):
        note(holds, asked(Kind.RESERVE, 1, name), Outcome.ALLOWED)

    assert [name for name, _ in holds.of("acme", 0)] == ["h2", "h3"]


def test_who_has_only_expired_holds_has_none() -> None:
    """Nothing of them is to be restored."""
    assert [holding().customers(instant) for instant in (8_999, 9_000)] == [["acme"], []]
