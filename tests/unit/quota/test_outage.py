"""Outage policies: what passes while nothing is known of what was used."""

from dataclasses import replace

import pytest

from services.quota.model import Enforcement, OutagePolicy
from services.quota.outage import Demand, Verdict, judge
from tests.quota_builders import a_limit

CLOSED, OPEN, LEASED = OutagePolicy.CLOSED, OutagePolicy.OPEN, OutagePolicy.LEASED


def a_demand(
    policy: OutagePolicy,
    amount: int = 10,
    *,
    allowance: int = 0,
    field: str = "x",
    enforcement: Enforcement = Enforcement.HARD,
) -> Demand:
    """Make the demand of a call on a limit with a policy."""
    limit = replace(
        a_limit("x"), outage_policy=policy, outage_allowance=allowance, enforcement=enforcement
    )
    return Demand(limit, field, amount)


@pytest.mark.parametrize(
    ("policies", "refusals"),
    [
        ([], ()),
        ([OPEN], (False,)),
        ([CLOSED], (True,)),
        ([OPEN, CLOSED, OPEN], (False, True, False)),
    ],
)
def test_one_closed_limit_refuses(policies: list[OutagePolicy], refusals: tuple[bool, ...]) -> None:
    """A call that nothing covers passes."""
    verdict = judge([a_demand(policy) for policy in policies], {}, is_shadow=False)

    assert verdict == Verdict(refusals, {})
    assert verdict.passes is (CLOSED not in policies)


def test_an_allowance_is_spent_to_the_last_and_not_beyond() -> None:
    """Of three calls of ten within an allowance of 25, two pass and spend."""
    demand = a_demand(LEASED, allowance=25)
    first = judge([demand], {}, is_shadow=False)
    second = judge([demand], first.spent, is_shadow=False)
    third = judge([demand], second.spent, is_shadow=False)
    last = judge([a_demand(LEASED, 5, allowance=25)], third.spent, is_shadow=False)

    assert [each.passes for each in (first, second, third, last)] == [True, True, False, True]
    assert last.spent == {"x": 25}


def test_each_counter_has_its_own_allowance() -> None:
    """What one key spends another still has."""
    spent = judge([a_demand(LEASED, allowance=10, field="k1")], {}, is_shadow=False).spent

    assert judge([a_demand(LEASED, allowance=10, field="k2")], spent, is_shadow=False).passes


def test_a_refused_call_spends_nothing() -> None:
    """Whichever limit refuses."""
    verdict = judge([a_demand(LEASED, allowance=10), a_demand(CLOSED)], {}, is_shadow=False)

    assert verdict == Verdict((False, True), {})


@pytest.mark.parametrize("enforcement", [Enforcement.SOFT, Enforcement.SHADOW])
@pytest.mark.parametrize("policy", [CLOSED, LEASED])
def test_what_never_refuses_does_not_refuse_now(
    policy: OutagePolicy, enforcement: Enforcement
) -> None:
    """A limit that is only tried stops nobody because Redis is away."""
    assert judge([a_demand(policy, enforcement=enforcement)], {}, is_shadow=False).passes


def test_in_shadow_nothing_refuses() -> None:
    """As the caller asked."""
    assert judge([a_demand(CLOSED)], {}, is_shadow=True).passes


def test_nothing_always_fits() -> None:
    """A limit whose units the call does not have lets it pass, as ever."""
    assert judge([a_demand(CLOSED, 0), a_demand(LEASED, 0)], {}, is_shadow=False).passes
