"""Discounts and bounds: what is taken off the price of usage, and what is added to it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from kit.interval import Interval
from services.rating.model import Discounts, LineKind, Price, Proration, RatedLine, UsageReference
from services.rating.prices import MatrixPrice, MatrixRow
from tests.rating_builders import (
    JANUARY,
    a_given_usage,
    a_graduated_price,
    a_plan,
    a_price,
    a_standard_price,
    rated,
    rated_given,
)
from tests.unit.rating.test_pricing import written

ONE_EACH = a_price(a_standard_price("1"))
HALF_OF_A_MONTH = Proration(17, 31)


def off(quantity: str = "0", percent: str = "0", amount: str = "0") -> Discounts:
    """Make discounts."""
    return Discounts(Decimal(quantity), Decimal(percent), Decimal(amount))


def steps_of(price: Price, quantity: str, proration: Proration | None = None) -> list[str]:
    """Rate a quantity, and write the steps of the line."""
    (line, *_) = rated(a_plan(price), quantity, proration=proration).lines
    return [written(step) for step in line.steps]


def summary(line: RatedLine) -> tuple[LineKind, str, int]:
    """Tell what a line is for and what it comes to."""
    return line.kind, line.description, line.amount.minor_units


@pytest.mark.parametrize(
    ("discounts", "quantity", "steps"),
    [
        pytest.param(
            off(quantity="3"),
            "12",
            [
                "tier 1: up to 10: 10 x 2 = 20",
                "tier 2: above 10: 2 x 5 = 10",
                "discount: up to 3: 3 x -4 = -12",
            ],
            id="the last units are free, those of the highest tier",
        ),
        pytest.param(
            off(quantity="3"),
            "2",
            ["tier 1: up to 10: 2 x 2 = 4", "discount: up to 3: 2 x -2 = -4"],
            id="no more units are free than were used",
        ),
        pytest.param(
            off(percent="25", amount="3"),
            "10",
            [
                "tier 1: up to 10: 10 x 2 = 20",
                "discount of 25%: 20 x -0.25 = -5",
                "discount: 1 x -3 = -3",
            ],
            id="the percentage comes before the amount",
        ),
        pytest.param(
            off(quantity="1", percent="50", amount="99"),
            "3",
            [
                "tier 1: up to 10: 3 x 2 = 6",
                "discount: up to 1: 1 x -2 = -2",
                "discount of 50%: 4 x -0.5 = -2",
                "discount: 1 x -2 = -2",
            ],
            id="a discount ends at nothing",
        ),
    ],
)
def test_discounts_are_taken_off_in_their_order(
    discounts: Discounts, quantity: str, steps: list[str]
) -> None:
    """Usage, then a percentage, then an amount; each is a step of its own."""
    price = a_price(a_graduated_price(("10", "2", "0"), (None, "5", "0")))

    assert steps_of(replace(price, discounts=discounts), quantity) == steps


def test_usage_is_taken_off_the_parts_in_proportion() -> None:
    """Of what chooses its own amount, a quarter of the units takes a quarter of the amount."""
    rows = (MatrixRow((("model", "large"),), Decimal(8)), MatrixRow((), Decimal(2)))
    price = replace(a_price(MatrixPrice(rows, Decimal(1))), discounts=off(quantity="1"))

    (line,) = rated_given(
        a_plan(price), a_given_usage("2", model="large"), a_given_usage("2")
    ).lines

    assert line.unrounded_amount == 15


def test_a_fixed_discount_and_a_maximum_span_the_groups_of_a_price() -> None:
    """They are used up in the order of the groups, and count what each line was rounded to."""
    price = replace(
        ONE_EACH,
        group_by=("project",),
        discounts=off(amount="5"),
        maximum_amount=Decimal(4),
    )

    rating = rated_given(
        a_plan(price),
        a_given_usage("3", project="a"),
        a_given_usage("5.004", project="b"),
        a_given_usage("9", project="c"),
    )

    assert [[written(step) for step in line.steps] for line in rating.lines] == [
        ["each: 3 x 1 = 3", "discount: 1 x -3 = -3"],
        ["each: 5.004 x 1 = 5.004", "discount: 1 x -2 = -2"],
        ["each: 9 x 1 = 9", "maximum of 4: 1 x -8 = -8"],
    ]
    assert [line.amount.minor_units for line in rating.lines] == [0, 300, 100]


@pytest.mark.parametrize(
    ("used", "proration", "lines"),
    [
        ("7", None, [(LineKind.USAGE, "Tokens", 700), (LineKind.TRUE_UP, "Tokens: minimum", 300)]),
        ("10", None, [(LineKind.USAGE, "Tokens", 1000)]),
        ("99", None, [(LineKind.USAGE, "Tokens", 2000)]),
        (
            "5",
            HALF_OF_A_MONTH,
            [(LineKind.USAGE, "Tokens", 500), (LineKind.TRUE_UP, "Tokens: minimum", 48)],
        ),
        ("99", HALF_OF_A_MONTH, [(LineKind.USAGE, "Tokens", 1097)]),
    ],
)
def test_a_price_stays_within_its_bounds(
    used: str, proration: Proration | None, lines: list[tuple[LineKind, str, int]]
) -> None:
    """What is missing to the minimum has its own line; the bounds are prorated by days."""
    price = replace(ONE_EACH, minimum_amount=Decimal(10), maximum_amount=Decimal(20))

    rating = rated(a_plan(price), used, proration=proration)

    assert [summary(line) for line in rating.lines] == lines
    assert rating.total.minor_units == sum(amount for _, _, amount in lines)


def test_what_is_missing_explains_itself() -> None:
    """The minimum for the days, less what was billed as it was rounded."""
    price = replace(ONE_EACH, minimum_amount=Decimal(200))

    (_, missing) = rated(a_plan(price), "60.004", proration=HALF_OF_A_MONTH).lines

    assert [written(step) for step in missing.steps] == [
        ("minimum: 17 of 31 days: 0.548387096774193548387096 x 200 = 109.677419354838709677419354"),
        "billed: 1 x -60 = -60",
    ]
    assert (missing.price_id, missing.usage, missing.amount.minor_units) == ("tokens", None, 4968)


def test_an_open_period_is_not_brought_to_its_minimum() -> None:
    """As of an instant, usage from then on is not counted, and no minimum is due yet."""
    price = replace(ONE_EACH, minimum_amount=Decimal(200))
    noon = JANUARY.start.replace(hour=12)

    (line,) = rated_given(
        a_plan(price),
        a_given_usage("3", time=JANUARY.start),
        a_given_usage("4", time=noon),
        as_of=noon,
    ).lines

    assert line.quantity == Decimal(3)
    assert line.usage == UsageReference("tokens", "acme", Interval(JANUARY.start, noon), ())
