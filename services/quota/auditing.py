"""What open holds have taken, derived anew from their records, and where counters differ.

A counter carries the sum of what open holds took from it. The sum is kept by adding and taking
away, so a mistake anywhere would stay in it for ever; the records say what it must be. Refuses to
mend: what differs has a cause, which is to be found first.
"""

from collections import Counter as Sums
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.quota.holdings import counted_by
from services.quota.model import HoldPhase


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """What is kept of a hold: where it is, and how much it took from the counter of each field."""

    phase: HoldPhase
    taken: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Drift:
    """A counter that does not agree with the open holds."""

    limit_id: str
    scope: str
    counted: int
    derived: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found."""

    holds_count: int
    counters_count: int
    drifts: tuple[Drift, ...]

    def joined(self, other: "Audit") -> "Audit":
        """Add what another audit found."""
        return Audit(
            self.holds_count + other.holds_count,
            self.counters_count + other.counters_count,
            self.drifts + other.drifts,
        )


NOTHING_AUDITED = Audit(0, 0, ())


def audit(customer: str, held: Mapping[str, int], holds: Sequence[HoldRecord]) -> Audit:
    """Compare what each counter says is held with the records of the holds.

    What expired and was booked until its late commit holds nothing any more.
    """
    open_holds = [hold for hold in holds if hold.phase is not HoldPhase.LATE]
    derived: Sums[str] = Sums()
    for hold in open_holds:
        for field, amount in hold.taken:
            derived[field] += amount
    fields = sorted({*held, *derived})
    drifts = [
        Drift(*counted_by(customer, field), held.get(field, 0), derived[field])
        for field in fields
        if held.get(field, 0) != derived[field]
    ]
    return Audit(len(open_holds), len(held), tuple(drifts))
