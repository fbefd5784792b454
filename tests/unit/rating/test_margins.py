"""Whose revenue is whose: lines shared among models, and margins added up."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.decimals import exactly
from services.rating.margins import (
    EventCost,
    Margin,
    MarginScope,
    MarginTally,
    by_model,
    revenue_by_model,
)
from services.rating.model import Meter, Plan, Usage, UsageEntry
from services.rating.pipeline import Terms, rate_period
from services.rating.selection import readings_of
from tests.rating_builders import (
    JANUARY,
    a_graduated_price,
    a_plan,
    a_price,
    a_standard_price,
    a_version,
)

TERMS = Terms("acme", JANUARY)


def shared(plan: Plan, **quantities: str) -> dict[str, Decimal]:
    """Share what a plan of one price comes to among models and what each used."""
    entries = tuple(
        UsageEntry(Decimal(text), {"model": model} if model != "none" else {})
        for model, text in quantities.items()
    )
    usages = [Usage(entries, "token")]
    version = a_version(plan)
    rating = rate_period(version, TERMS, usages)
    shares = dict(revenue_by_model(version, TERMS, usages, rating))
    with exactly():
        assert sum(shares.values(), Decimal(0)) == rating.total.to_decimal()
    return shares


def test_a_line_belongs_to_models_by_what_their_usage_comes_to() -> None:
    """Fees belong to no model; an allowance is everybody's in proportion."""
    plan = a_plan(a_price(a_standard_price("0.5"), included="100"), base_fee="30")

    assert shared(plan, large="300", small="100") == {
        "large": Decimal("112.5"),
        "small": Decimal("37.5"),
        "": Decimal(30),
    }


def test_the_usage_of_one_model_is_all_its_own() -> None:
    """Nothing is shared where nobody else used anything."""
    plan = a_plan(a_price(a_graduated_price(("10", "1", "5"), (None, "0.5", "0"))))

    assert shared(plan, large="20") == {"large": Decimal(20)}


def test_what_has_no_model_and_what_is_due_without_usage_has_no_name() -> None:
    """Usage of other events is kept apart, and so is a first tier's flat amount."""
    plan = a_plan(a_price(a_graduated_price((None, "1", "5"))))

    assert shared(plan) == {"": Decimal(5)}
    assert shared(plan, none="3", large="3") == {"": Decimal("5.5"), "large": Decimal("5.5")}


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=6))
def test_no_cent_is_lost_in_sharing(quantities: list[int]) -> None:
    """Whatever was used, the shares add up to the rating (which `shared` asserts)."""
    plan = a_plan(a_price(a_graduated_price(("1000", "0.07", "3"), (None, "0.03", "1"))))

    shares = shared(plan, **{f"m{n}": str(quantity) for n, quantity in enumerate(quantities)})

    assert all(amount > 0 for amount in shares.values())


@pytest.mark.parametrize(
    ("meter", "keys"),
    [
        pytest.param(Meter("m", "token", frozenset({"model"}), "m"), ("model",), id="a sum"),
        pytest.param(Meter("m", "token", frozenset(), "m"), (), id="models are not kept"),
        pytest.param(
            Meter("m", "user", frozenset({"model"}), "m", adds_up=False), (), id="a unique count"
        ),
    ],
)
def test_usage_is_read_by_model_only_where_that_adds_up(
    meter: Meter, keys: tuple[str, ...]
) -> None:
    """The users of two models are not the users of both, and the rating must stay the same."""
    (reading,) = readings_of(a_plan(a_price()))

    assert by_model(reading, [meter]).keys == keys


def test_margins_are_added_up_in_every_scope() -> None:
    """Each scope adds up to the total."""
    tally = MarginTally({"a": "pro", "b": "pro", "c": "free"})
    tally.add_revenue("a", {"large": Decimal(10), "": Decimal(5)})
    tally.add_revenue("b", {"large": Decimal(2)})
    tally.add_costs([EventCost("a", "large", Decimal(4)), EventCost("c", "small", Decimal(1))])

    assert [
        (each.scope.name, each.name, int(each.revenue), int(each.cost)) for each in tally.margins()
    ] == [
        ("TOTAL", "", 17, 5),
        ("CUSTOMER", "a", 15, 4),
        ("CUSTOMER", "b", 2, 0),
        ("CUSTOMER", "c", 0, 1),
        ("MODEL", "", 5, 0),
        ("MODEL", "large", 12, 4),
        ("MODEL", "small", 0, 1),
        ("PLAN", "free", 0, 1),
        ("PLAN", "pro", 17, 4),
    ]


@pytest.mark.parametrize(
    ("revenue", "cost", "percent", "is_below"),
    [
        pytest.param("10", "8", "20", False, id="at the threshold"),
        pytest.param("10", "8.001", "19.99", True, id="below it"),
        pytest.param("0", "1", None, True, id="cost without revenue"),
        pytest.param("0", "0", None, False, id="nothing at all"),
        pytest.param("3", "2", "33.333333333333333333333333", False, id="cut"),
        pytest.param("1", "3", "-200", True, id="a loss"),
    ],
)
def test_a_margin_knows_when_it_is_too_thin(
    revenue: str,
    cost: str,
    percent: str | None,
    is_below: bool,  # noqa: FBT001 - a column of the table.
) -> None:
    """The threshold itself is enough; cost without revenue never is."""
    margin = Margin(MarginScope.TOTAL, "", Decimal(revenue), Decimal(cost))

    assert margin.percent == (None if percent is None else Decimal(percent))
    assert margin.is_below(Decimal(20)) is is_below
