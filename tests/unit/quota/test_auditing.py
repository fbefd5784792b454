"""An audit: the sums of open holds by their records, and counters that differ."""

from services.quota.auditing import Audit, Drift, HoldRecord, audit
from services.quota.model import HoldPhase

OPEN, DISPATCHED, LATE = HoldPhase.OPEN, HoldPhase.DISPATCHED, HoldPhase.LATE


def test_counters_that_agree_are_only_counted() -> None:
    """Two holds on one counter, and one of them on another too."""
    holds = [
        HoldRecord(OPEN, [("month|customer", 10), ("day|key/k1", 10)]),
        HoldRecord(DISPATCHED, [("month|customer", 5)]),
    ]

    found = audit("acme", {"month|customer": 15, "day|key/k1": 10, "idle|customer": 0}, holds)

    assert found == Audit(2, 3, ())


def test_counters_that_differ_are_named() -> None:
    """Too much, too little, and one that is not there at all; a gauge like any other."""
    holds = [HoldRecord(OPEN, [("month|customer", 10), ("flying#key/k1", 1), ("gone|run/r1", 3)])]

    found = audit("acme", {"month|customer": 12, "flying#key/k1": 0, "stale|customer": 7}, holds)

    assert found.drifts == (
        Drift("flying", "acme/k1", 0, 1),
        Drift("gone", "acme/r1", 0, 3),
        Drift("month", "acme", 12, 10),
        Drift("stale", "acme", 7, 0),
    )


def test_what_waits_for_its_late_commit_holds_nothing() -> None:
    """It has been booked."""
    found = audit("acme", {"month|customer": 0}, [HoldRecord(LATE, [("month|customer", 10)])])

    assert found == Audit(0, 1, ())


def test_audits_are_joined() -> None:
    """Of several customers."""
    drift = Drift("month", "acme", 1, 0)

    assert Audit(1, 2, (drift,)).joined(Audit(3, 4, ())) == Audit(4, 6, (drift,))
