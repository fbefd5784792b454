"""What a simulation adds up to, from what each customer pays and would pay."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import InvalidInput, NotFound
from kit.interval import Interval
from kit.money import Money
from services.rating.model import Commitment, CommitmentStep, Plan
from services.rating.prices import Stair, StairstepPrice
from services.rating.simulation import (
    BUCKETS,
    CHANGES_MAX,
    Bucket,
    Change,
    Outcome,
    PlanOutcome,
    SimulatedCustomer,
    Tally,
    bucket_of,
    compare,
    contract_of,
    tiered_prices,
    tiers_of,
    version_in_effect,
)
from tests.rating_builders import (
    JANUARY,
    a_graduated_price,
    a_plan,
    a_price,
    a_version,
    rated,
)

FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)


def usd(minor_units: int) -> Money:
    """Make an amount of cents."""
    return Money("USD", minor_units)


def an_outcome(
    customer_id: str, now: int, then: int, segment: str = "", *tiers: tuple[str, int]
) -> Outcome:
    """Make what a customer pays now and would pay."""
    return Outcome(customer_id, segment, usd(now), (PlanOutcome(usd(then), tiers),))


def a_customer(start: datetime | None = None) -> SimulatedCustomer:
    """Make a customer on the plan `pro`."""
    return SimulatedCustomer("acme", "pro", "", start, ZoneInfo("UTC"))


def tally(*outcomes: Outcome, plan: Plan | None = None) -> Tally:
    """Count customers."""
    counted = Tally(plan or a_plan())
    counted.add_each(outcomes, 0)
    return counted


def test_winners_losers_and_segments_are_counted() -> None:
    """Who would pay less wins; a customer that failed counts nowhere."""
    failed = Outcome("x", "eu", error=NotFound("PLAN_NOT_FOUND", "there is no plan"))

    counted = tally(
        an_outcome("a", 100, 50, "eu"),
        an_outcome("b", 100, 130, "us"),
        an_outcome("c", 0, 20, "us"),
        an_outcome("d", 70, 70, "us"),
        failed,
    )

    assert (counted.winners, counted.losers, counted.unchanged) == (1, 2, 1)
    assert (counted.total.current, counted.total.simulated) == (usd(270), usd(270))
    assert [
        (each.segment, each.customers, each.current, each.simulated) for each in counted.segments
    ] == [("eu", 1, usd(100), usd(50)), ("us", 3, usd(170), usd(220))]
    assert [each.customer_id for each in counted.largest_savings] == ["a"]
    assert [each.customer_id for each in counted.largest_increases] == ["b", "c"]


@pytest.mark.parametrize(
    ("now", "then", "expected"),
    [
        pytest.param(100, 50, Bucket(None, Decimal(-50)), id="a bound belongs below"),
        pytest.param(1000, 501, Bucket(Decimal(-50), Decimal(-25)), id="just above a bound"),
        pytest.param(100, 99, Bucket(Decimal(-5), Decimal(0)), id="a little less"),
        pytest.param(100, 100, Bucket(Decimal(0), Decimal(0)), id="nothing"),
        pytest.param(0, 0, Bucket(Decimal(0), Decimal(0)), id="nothing of nothing"),
        pytest.param(1000, 1001, Bucket(Decimal(0), Decimal(5)), id="a little more"),
        pytest.param(100, 200, Bucket(Decimal(50), Decimal(100)), id="twice"),
        pytest.param(100, 201, Bucket(Decimal(100), None), id="more than twice"),
        pytest.param(0, 1, Bucket(from_nothing=True), id="something of nothing"),
        pytest.param(100, 0, Bucket(None, Decimal(-50)), id="all of it"),
    ],
)
def test_each_change_has_a_bucket(now: int, then: int, expected: Bucket) -> None:
    """Upper bounds belong to their bucket, and changes of nothing have their own."""
    assert bucket_of(Change("a", "", usd(now), usd(then))) == expected


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=60))
def test_every_customer_is_in_one_bucket(amounts: list[tuple[int, int]]) -> None:
    """The buckets add up to the customers, and the sums to the amounts."""
    counted = tally(*(an_outcome(str(n), now, then) for n, (now, then) in enumerate(amounts)))

    assert sum(count for _, count in counted.distribution) == len(amounts)
    assert [bucket for bucket, _ in counted.distribution] == list(BUCKETS)
    assert counted.total.current.minor_units == sum(now for now, _ in amounts)
    assert counted.total.simulated.minor_units == sum(then for _, then in amounts)
    assert counted.winners + counted.losers + counted.unchanged == len(amounts)


@given(st.permutations(range(50)))
def test_the_largest_changes_are_kept_in_any_order(order: list[int]) -> None:
    """However customers come, the same are told, the largest first, equals by name."""
    counted = tally(*(an_outcome(f"{n:02}", 1000, 1000 - n // 2) for n in order))

    expected = sorted(range(50), key=lambda n: (-(n // 2), f"{n:02}"))[:CHANGES_MAX]
    assert [each.customer_id for each in counted.largest_savings] == [f"{n:02}" for n in expected]


def test_tiers_are_told_in_the_order_of_the_plan() -> None:
    """Of each price the highest tier of any period counts; prices of one tier have none."""
    plan = a_plan(
        a_price(a_graduated_price(("10", "1", "0"), (None, "0.5", "0")), price_id="z"),
        a_price(
            StairstepPrice((Stair(Decimal(5), Decimal(1)), Stair(None, Decimal(9)))),
            price_id="a",
            meter_id="other",
        ),
        a_price(a_graduated_price((None, "1", "0")), price_id="flat", meter_id="flat"),
    )

    reached = tiers_of(
        tiered_prices(plan), [rated(plan, "10", "6", "1"), rated(plan, "11", "5", "1")]
    )

    assert reached == (("z", 2), ("a", 2))
    counted = tally(
        an_outcome("x", 0, 1, "", ("z", 2), ("a", 1)),
        an_outcome("y", 0, 1, "", ("a", 1)),
        plan=plan,
    )
    assert counted.tiers == (("z", 2, 1), ("a", 1, 2))


def test_currencies_are_not_compared() -> None:
    """A candidate in euros says nothing of what is paid in dollars."""
    with pytest.raises(InvalidInput, match="EUR cannot be compared with USD"):
        compare(a_customer(), usd(1), (PlanOutcome(Money("EUR", 1)),))


@pytest.mark.parametrize(
    ("instant", "contract_start", "expected"),
    [
        pytest.param(JANUARY.start, JANUARY.start, 1, id="since ever"),
        pytest.param(FEBRUARY, JANUARY.start, 2, id="the latest that has come"),
        pytest.param(MARCH, JANUARY.start, 2, id="one that keeps contracts spares older ones"),
        pytest.param(MARCH, MARCH, 3, id="and rates those that began since"),
    ],
)
def test_the_version_is_chosen_as_the_store_does(
    instant: datetime, contract_start: datetime, expected: int
) -> None:
    """The last effective time counts, for contracts that are not kept from it."""
    versions = [
        a_version(a_plan(), 1),
        a_version(a_plan(effective_time=FEBRUARY), 2),
        a_version(_keeping(a_plan(effective_time=MARCH)), 3),
    ]

    found = version_in_effect(versions, instant, contract_start)

    assert found is not None
    assert found.version == expected
    assert version_in_effect(versions[1:], JANUARY.start, JANUARY.start) is None


def _keeping(plan: Plan) -> Plan:
    return replace(plan, keeps_contracts=True)


def test_what_was_billed_in_the_term_is_what_was_simulated() -> None:
    """Periods before the term of the commitment began do not count for it."""
    plan = replace(a_plan(), commitment=Commitment((CommitmentStep(0, Decimal(1)),), 2))
    months = [datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3, 4, 5)]
    periods = [Interval(*each) for each in pairwise(months)]
    earlier = [(period, usd(100 * n)) for n, period in enumerate(periods[:3], 1)]

    contract = contract_of(a_customer(months[0]), plan, periods[3], earlier)
    unknown = contract_of(a_customer(), plan, periods[3], earlier)

    assert (contract.billed_before, unknown.billed_before) == (Decimal(3), Decimal(0))
