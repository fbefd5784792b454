"""The order in which a period is rated, and what a line says of itself."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from kit.errors import InvalidInput
from kit.money import Money
from services.rating.model import (
    FormulaStep,
    LineKind,
    ProductCategory,
    Proration,
    RatedLine,
    Rating,
    Stage,
    UsageReference,
)
from tests.rating_builders import (
    JANUARY,
    a_given_usage,
    a_graduated_price,
    a_package_price,
    a_plan,
    a_price,
    a_standard_price,
    quantities_of,
    rated,
    rated_given,
    rated_price,
)

PER_THOUSAND = a_standard_price("0.02", per="1000")


def test_a_line_says_everything_about_itself() -> None:
    """A line carries its formula, the query behind its quantity, its category and its period."""
    plan = a_plan(a_price(PER_THOUSAND, included="1000000", model="large", region="eu"))

    rating = rated(plan, "1234567")

    assert rating == Rating(
        plan_id="pro",
        plan_version=1,
        currency="USD",
        lines=(
            RatedLine(
                kind=LineKind.USAGE,
                price_id="tokens",
                description="Tokens",
                quantity=Decimal(1234567),
                unit="unit",
                unrounded_amount=Decimal("4.69134"),
                amount=Money("USD", 469),
                steps=(
                    FormulaStep(
                        "included: up to 1000000",
                        Decimal(1000000),
                        Decimal(0),
                        Decimal(0),
                        Stage.INCLUDED,
                    ),
                    FormulaStep(
                        "0.02 per 1000", Decimal(234567), Decimal("0.00002"), Decimal("4.69134")
                    ),
                ),
                usage=UsageReference(
                    "tokens", "acme", JANUARY, (("model", "large"), ("region", "eu"))
                ),
                category=ProductCategory.ELECTRONIC_SERVICE,
                period=JANUARY,
            ),
        ),
        total=Money("USD", 469),
    )


def test_the_base_fee_comes_first_and_the_prices_follow_in_order() -> None:
    """The lines stand in the order of the plan, and the total is their sum."""
    plan = a_plan(
        a_price(a_standard_price("0.005"), price_id="b"),
        a_price(a_standard_price("0.005"), price_id="a"),
        base_fee="100",
    )

    rating = rated(plan, "1", "1")

    assert [(line.kind, line.price_id, line.amount.minor_units) for line in rating.lines] == [
        (LineKind.BASE_FEE, "", 10000),
        (LineKind.USAGE, "b", 1),
        (LineKind.USAGE, "a", 1),
    ]
    assert rating.total == Money("USD", 10002)


def test_a_plan_without_a_base_fee_has_no_line_for_it() -> None:
    """A base fee of nothing is no line, and a plan of nothing comes to nothing."""
    assert rated(a_plan()) == Rating("pro", 1, "USD", (), Money("USD", 0))


def test_a_price_without_usage_has_a_line() -> None:
    """What was not used is said to be nothing, so that a reader need not wonder."""
    rating = rated_price(PER_THOUSAND, "0")

    assert [line.amount for line in rating.lines] == [Money("USD", 0)]


@pytest.mark.parametrize(
    ("billed_days", "period_days", "quantity", "unrounded", "cents"),
    [
        (31, 31, "1", "100", 10000),
        (14, 28, "0.5", "50", 5000),
        (17, 31, "0.548387096774193548387096", "54.838709677419354838709677", 5484),
        (1, 3, "0.333333333333333333333333", "33.333333333333333333333333", 3333),
        (2, 3, "0.666666666666666666666666", "66.666666666666666666666666", 6667),
    ],
)
def test_a_shorter_period_bills_its_days_of_the_base_fee(
    billed_days: int, period_days: int, quantity: str, unrounded: str, cents: int
) -> None:
    """Base fee x billed days / period days, multiplied before it is divided, and rounded once."""
    rating = rated(a_plan(base_fee="100"), proration=Proration(billed_days, period_days))

    (line,) = rating.lines
    assert (line.quantity, line.unit) == (Decimal(quantity), "period")
    assert (line.unrounded_amount, line.amount) == (Decimal(unrounded), Money("USD", cents))


def test_proration_leaves_usage_alone() -> None:
    """Usage of a short period is as large as it is; neither it nor its allowance is cut."""
    plan = a_plan(a_price(PER_THOUSAND, included="1000"))

    assert rated(plan, "2000", proration=Proration(1, 31)) == rated(plan, "2000")


@pytest.mark.parametrize(
    ("usage", "steps"),
    [
        ("0", [("included: up to 10", "0"), ("each", "0")]),
        ("10", [("included: up to 10", "10"), ("each", "0")]),
        ("10.5", [("included: up to 10", "10"), ("each", "0.5")]),
    ],
)
def test_what_is_included_is_taken_off_first(usage: str, steps: list[tuple[str, str]]) -> None:
    """The price sees only the usage beyond its allowance."""
    (line,) = rated_price(a_standard_price("1"), usage, included="10").lines

    assert [(step.description, str(step.quantity)) for step in line.steps] == steps


def test_tiers_begin_behind_what_is_included() -> None:
    """The first unit beyond the allowance is the first unit of the first tier."""
    price = a_graduated_price(("10", "1", "0"), (None, "0.5", "0"))

    (line,) = rated_price(price, "112", included="100").lines

    assert line.unrounded_amount == Decimal(11)


def test_a_first_flat_is_due_even_when_all_usage_is_included() -> None:
    """The flat of the first tier does not depend on usage."""
    (line,) = rated_price(a_graduated_price((None, "1", "7")), "5", included="100").lines

    assert line.amount == Money("USD", 700)


@pytest.mark.parametrize(
    ("currency", "usage", "minor_units"),
    [
        ("USD", "0.005", 1),
        ("USD", "0.004999999999999999", 0),
        ("USD", "2.675", 268),
        ("JPY", "0.5", 1),
        ("JPY", "1.4999", 1),
        ("KWD", "0.0005", 1),
        ("KWD", "1.2344", 1234),
    ],
)
def test_each_line_is_rounded_half_up_once(currency: str, usage: str, minor_units: int) -> None:
    """A line is rounded to its currency's own decimals, and never before that."""
    rating = rated(a_plan(a_price(a_standard_price("1")), currency=currency), usage)

    assert rating.total == Money(currency, minor_units)


def test_lines_are_rounded_each_and_then_added() -> None:
    """Two lines of half a cent come to two cents, as they stand on the invoice."""
    plan = a_plan(
        a_price(a_standard_price("0.005"), price_id="input", kind="input"),
        a_price(a_standard_price("0.005"), price_id="output", kind="output"),
    )

    assert rated(plan, "1", "1").total == Money("USD", 2)


@pytest.mark.parametrize(
    ("dimensions", "counted"),
    [
        ({}, "1111"),
        ({"model": "large"}, "1100"),
        ({"model": "large", "region": "eu"}, "100"),
        ({"region": "eu"}, "100"),
        ({"model": "other"}, "0"),
    ],
)
def test_a_price_counts_given_usage_that_holds_its_values(
    dimensions: dict[str, str], counted: str
) -> None:
    """Usage counts when it has every value that the price names; more dimensions do no harm."""
    given = [
        a_given_usage("1000", model="large", region="us"),
        a_given_usage("100", model="large", region="eu"),
        a_given_usage("10", model="small"),
        a_given_usage("1"),
        a_given_usage("99", meter_id="seats", model="large"),
    ]

    assert quantities_of(a_plan(a_price(**dimensions)), given) == [Decimal(counted)]


def test_given_usage_is_added_exactly() -> None:
    """The least digit of the smallest quantity survives beside the largest."""
    given = [
        a_given_usage("100000000000000000000"),
        a_given_usage("0.000000000000000000000001"),
    ]

    assert quantities_of(a_plan(a_price()), given) == [
        Decimal("100000000000000000000.000000000000000000000001")
    ]


def test_usage_is_billed_by_the_price_that_names_most_of_its_dimensions() -> None:
    """The most specific filter wins; what no other filter matches falls to the price without."""
    plan = a_plan(
        a_price(price_id="any"),
        a_price(price_id="large", model="large"),
        a_price(price_id="large-eu", model="large", region="eu"),
    )
    given = [
        a_given_usage("1000", model="large", region="us"),
        a_given_usage("100", model="large", region="eu"),
        a_given_usage("10", model="small", region="eu"),
        a_given_usage("1"),
    ]

    assert quantities_of(plan, given) == [Decimal(11), Decimal(1000), Decimal(100)]


def test_usage_outside_of_the_period_is_not_counted() -> None:
    """The period is half open: its start counts, its end does not."""
    given = [
        a_given_usage("1", time=JANUARY.start - timedelta(microseconds=1)),
        a_given_usage("10", time=JANUARY.start),
        a_given_usage("100", time=JANUARY.end),
    ]

    assert quantities_of(a_plan(a_price()), given) == [Decimal(10)]


def test_a_line_names_the_filters_whose_usage_is_left_out() -> None:
    """The query of a general price says what more specific prices count instead."""
    plan = a_plan(a_price(price_id="any"), a_price(price_id="large", model="large"))

    general, specific = rated_given(plan, a_given_usage("1")).lines

    assert [general.usage, specific.usage] == [
        UsageReference("tokens", "acme", JANUARY, (), ((("model", "large"),),)),
        UsageReference("tokens", "acme", JANUARY, (("model", "large"),)),
    ]


def test_the_largest_usage_at_the_finest_price_is_exact() -> None:
    """The bounds of plans and usage leave room for every digit of their products."""
    price = a_graduated_price(
        ("0.000000000000000001", "999999999999.999999999999999999999999", "0"),
        (None, "0.000000000000000000000001", "0.000000000000000000000003"),
    )

    (line,) = rated_price(price, "99999999999999999999.000000000000000001").lines

    assert line.unrounded_amount == Decimal("0.000101000000000000000001999999999999999999")


@pytest.mark.parametrize(
    ("usage", "field"), [("1000000000000000000000001", "quantity"), ("1E+22", "amount")]
)
def test_what_no_invoice_can_carry_is_refused(usage: str, field: str) -> None:
    """Usage above the bound, and an amount above 64 bits of cents, are named as bad fields."""
    with pytest.raises(InvalidInput) as caught:
        rated_price(a_package_price(), usage)

    assert [violation.field for violation in caught.value.violations] == [field]
