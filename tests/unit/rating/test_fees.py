"""Fees, trials and commitments: what is due for a period whatever was used."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from kit.errors import Precondition
from kit.interval import Interval
from services.rating.days import add_months, whole_months
from services.rating.model import (
    BaseFee,
    Commitment,
    CommitmentStep,
    Plan,
    ProductCategory,
    Proration,
    Trial,
)
from tests.rating_builders import (
    JANUARY,
    a_contract,
    a_given_usage,
    a_plan,
    a_price,
    a_standard_price,
    rated,
    rated_given,
)
from tests.unit.rating.test_pricing import written


def a_fee(amount: str, quantity: str = "1", *, whole: bool = False) -> BaseFee:
    """Make a fee."""
    category = ProductCategory.PROFESSIONAL_SERVICE
    return BaseFee("support", "Support", Decimal(amount), Decimal(quantity), category, whole)


def a_commitment(*amounts: tuple[int, str], term_months: int = 0) -> Commitment:
    """Make a commitment; a step is `(after months, amount)`."""
    return Commitment(tuple(CommitmentStep(n, Decimal(each)) for n, each in amounts), term_months)


def on(year: int, month: int, day: int = 1) -> datetime:
    """Name the first instant of a day in UTC."""
    return datetime(year, month, day, tzinfo=UTC)


def a_month(year: int, month: int) -> Interval:
    """Name a month of UTC."""
    return Interval(on(year, month), on(year + month // 12, month % 12 + 1))


@pytest.mark.parametrize(
    ("fee", "step", "cents"),
    [
        (a_fee("1", "10"), "fee: 13 of 31 days: 4.193548387096774193548387 x 1", 419),
        (a_fee("3", "5"), "fee: 13 of 31 days: 2.096774193548387096774193 x 3", 629),
        (a_fee("3", "5", whole=True), "fee: 5 x 3", 1500),
    ],
)
def test_fees_are_prorated_by_days_unless_they_are_whole(
    fee: BaseFee, step: str, cents: int
) -> None:
    """A number of them is charged, each for its days, taxed in its own way."""
    plan = replace(a_plan(), base_fees=(fee,))

    (line,) = rated(plan, proration=Proration(13, 31)).lines

    assert written(line.steps[0]).startswith(step)
    assert (line.price_id, line.description, line.amount.minor_units, line.category) == (
        "support",
        "Support",
        cents,
        ProductCategory.PROFESSIONAL_SERVICE,
    )


@pytest.mark.parametrize(
    ("start", "zone", "proration", "days"),
    [
        pytest.param(on(2026, 1, 1), "UTC", None, "16 of 31", id="from the first"),
        pytest.param(on(2025, 12, 20), "UTC", None, "28 of 31", id="begun in the month before"),
        pytest.param(on(2026, 1, 10), "UTC", Proration(22, 31), "7 of 31", id="begun within"),
        pytest.param(on(2026, 1, 28), "UTC", Proration(4, 31), "0 of 31", id="all of it"),
        pytest.param(
            on(2025, 12, 19).replace(hour=23), "Asia/Tokyo", None, "29 of 32", id="its zone's days"
        ),
    ],
)
def test_the_days_of_a_trial_are_not_billed(
    start: datetime, zone: str, proration: Proration | None, days: str
) -> None:
    """Fifteen days from the day the contract began are free of the base fee."""
    plan = replace(a_plan(base_fee="31"), trial=Trial(15, includes_usage=False))

    (line,) = rated_given(plan, proration=proration, contract=a_contract(start, zone)).lines

    assert line.steps[0].description == f"base fee: {days} days"


def test_a_trial_that_is_over_is_not_noticed() -> None:
    """The base fee is whole again, and so is a fee that is charged whole within a trial."""
    plan = replace(
        a_plan(base_fee="31"),
        base_fees=(a_fee("5", whole=True),),
        trial=Trial(15, includes_usage=False),
    )

    over = rated_given(plan, contract=a_contract(on(2025, 12, 17)))
    within = rated_given(plan, contract=a_contract(on(2026, 1, 20)), proration=Proration(12, 31))

    assert [line.amount.minor_units for line in over.lines] == [3100, 500]
    assert [line.amount.minor_units for line in within.lines] == [0, 500]


@pytest.mark.parametrize(
    ("start", "counted"),
    [(on(2026, 1, 1), "110"), (on(2025, 12, 17), "111"), (on(2026, 1, 25), "0")],
)
def test_a_trial_may_include_usage(start: datetime, counted: str) -> None:
    """Usage before the end of the trial is not counted."""
    plan = replace(a_plan(a_price(a_standard_price("1"))), trial=Trial(15, includes_usage=True))

    (line,) = rated_given(
        plan,
        a_given_usage("1", time=on(2026, 1, 15)),
        a_given_usage("10", time=on(2026, 1, 16)),
        a_given_usage("100", time=on(2026, 1, 31)),
        contract=a_contract(start),
    ).lines

    assert line.quantity == Decimal(counted)


@pytest.mark.parametrize(
    ("fee", "committed", "part", "missing"),
    [
        ("1000", "10000", Proration(5, 7), [642857]),
        ("1000", "10000", Proration(28, 28), [900000]),
        ("1000", "10000", Proration(334, 365), [823561]),
        ("1000", "0.01", Proration(1, 1), []),
        ("1000", "1000", Proration(1, 3), []),
    ],
)
def test_what_is_missing_to_a_commitment_is_billed(
    fee: str, committed: str, part: Proration, missing: list[int]
) -> None:
    """The commitment for the days, less the lines as rounded; nothing where they are enough."""
    plan = replace(a_plan(base_fee=fee), commitment=a_commitment((0, committed)))

    rating = rated(plan, proration=part)

    assert [line.amount.minor_units for line in rating.lines[1:]] == missing
    assert rating.total.minor_units == sum(line.amount.minor_units for line in rating.lines)


@pytest.mark.parametrize(
    ("period", "committed"),
    [
        (a_month(2026, 1), 100),
        (a_month(2026, 3), 100),
        (a_month(2026, 4), 500),
        (a_month(2026, 12), 500),
        (a_month(2027, 1), 900),
    ],
)
def test_a_commitment_grows_with_the_contract(period: Interval, committed: int) -> None:
    """The step that counts is that of the whole months since the contract began."""
    steps = a_commitment((0, "1"), (3, "5"), (12, "9"))
    plan = replace(a_plan(), commitment=steps)

    rating = rated_given(plan, period=period, contract=a_contract(on(2026, 1)))

    assert rating.total.minor_units == committed


@pytest.mark.parametrize(
    ("period", "before", "missing"),
    [
        (a_month(2026, 1), "0", 0),
        (a_month(2026, 11), "700", 0),
        (a_month(2026, 12), "700", 20000),
        (a_month(2026, 12), "999", 0),
        (a_month(2027, 1), "0", 0),
        (a_month(2027, 12), "1100", 80000),
        (Interval(on(2026, 1), on(2027, 1)), "0", 90000),
    ],
)
def test_a_commitment_over_a_term_is_settled_when_the_term_ends(
    period: Interval, before: str, missing: int
) -> None:
    """A year's commitment is due with its last month, less what the year was billed before."""
    plan = replace(
        a_plan(base_fee="100"), commitment=a_commitment((0, "1000"), (12, "2000"), term_months=12)
    )

    rating = rated_given(plan, period=period, contract=a_contract(on(2026, 1), "UTC", before))

    assert sum(line.amount.minor_units for line in rating.lines[1:]) == missing


@pytest.mark.parametrize(
    "plan",
    [
        replace(a_plan(), trial=Trial(1, includes_usage=False)),
        replace(a_plan(), commitment=a_commitment((0, "1"), (1, "2"))),
        replace(a_plan(), commitment=a_commitment((0, "1"), term_months=12)),
    ],
    ids=["a trial", "a commitment that grows", "a commitment over a term"],
)
def test_a_plan_that_depends_on_the_contract_needs_its_start(plan: Plan) -> None:
    """Nobody guesses when a trial began."""
    with pytest.raises(Precondition) as refusal:
        rated(plan)

    assert (refusal.value.reason, refusal.value.metadata) == (
        "CONTRACT_START_REQUIRED",
        {"plan_id": "pro", "version": "1"},
    )


def test_an_open_period_is_not_brought_to_its_commitment() -> None:
    """What may still be used is not billed as missing."""
    plan = replace(a_plan(base_fee="1"), commitment=a_commitment((0, "10")))

    rating = rated_given(plan, as_of=JANUARY.end)

    assert rating.total.minor_units == 100


@pytest.mark.parametrize(
    ("day", "months", "later"),
    [
        (date(2026, 1, 31), 1, date(2026, 2, 28)),
        (date(2026, 1, 31), 2, date(2026, 3, 31)),
        (date(2025, 11, 30), 3, date(2026, 2, 28)),
        (date(2024, 2, 29), 12, date(2025, 2, 28)),
        (date(2026, 12, 15), 0, date(2026, 12, 15)),
    ],
)
def test_a_month_that_lacks_the_day_ends_on_its_last(day: date, months: int, later: date) -> None:
    """A contract of the 31st turns a month old on the last of February, and counts back so."""
    assert add_months(day, months) == later
    assert whole_months(day, later) == months
