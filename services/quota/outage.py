"""What limits say of a call while their counters cannot be reached, each by its outage policy.

Nothing is known then of what was used or is held. An open limit lets every call pass, a closed one
none, a leased one as much as its allowance, which each replica has once in an outage for each
counter. Limits that never refuse do not refuse here, and nothing always fits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.quota.model import Enforcement, Limit, OutagePolicy


@dataclass(frozen=True, slots=True)
class Demand:
    """What a call asks of one limit: an amount of the counter in a field."""

    limit: Limit
    field: str
    amount: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was said.

    Args:
        refusals: Of each demand whether its limit refuses.
        spent: What of the allowances is spent now, by field.
    """

    refusals: tuple[bool, ...]
    spent: Mapping[str, int]

    @property
    def passes(self) -> bool:
        """Tell whether no limit refuses."""
        return not any(self.refusals)


def judge(demands: Sequence[Demand], spent: Mapping[str, int], *, is_shadow: bool) -> Verdict:
    """Judge a call; a refused one spends nothing. In shadow no limit refuses."""
    refusals = tuple([not is_shadow and _refuses(demand, spent) for demand in demands])
    if any(refusals):
        return Verdict(refusals, spent)
    leased = {
        demand.field: spent.get(demand.field, 0) + demand.amount
        for demand in demands
        if demand.limit.outage_policy is OutagePolicy.LEASED
    }
    return Verdict(refusals, {**spent, **leased})


def _refuses(demand: Demand, spent: Mapping[str, int]) -> bool:
    limit = demand.limit
    if limit.enforcement is not Enforcement.HARD or demand.amount == 0:
        return False
    if limit.outage_policy is OutagePolicy.LEASED:
        return spent.get(demand.field, 0) + demand.amount > limit.outage_allowance
    return limit.outage_policy is OutagePolicy.CLOSED
