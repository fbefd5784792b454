"""Prices that look at the parts of usage: rows of a table, calls, hours, events, other meters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from kit.decimals import plain
from kit.errors import InvalidInput
from kit.money import Money
from services.rating.model import FormulaStep, GivenUsage, Price
from services.rating.prices import (
    ContextTier,
    ContextTierPrice,
    CostPlusPrice,
    DynamicPrice,
    MatrixPrice,
    MatrixRow,
    PercentagePrice,
    PriceModel,
    QuantityConversion,
    QuantityRounding,
    TimeOfUsePrice,
    TimeWindow,
    VirtualCurrency,
)
from tests.rating_builders import (
    a_given_usage,
    a_graduated_price,
    a_plan,
    a_price,
    a_standard_price,
    rated_given,
)
from tests.unit.rating.test_pricing import written

MILLION = Decimal(1_000_000)
EVERY_DAY = frozenset(range(7))


def a_matrix() -> MatrixPrice:
    """Make a table by model and kind of token."""
    rows = [
        ((), "1"),
        ((("kind", "output"),), "4"),
        ((("model", "large"),), "8"),
        ((("kind", "output"), ("model", "large")), "20"),
    ]
    return MatrixPrice(
        tuple(MatrixRow(dimensions, Decimal(amount)) for dimensions, amount in rows), MILLION
    )


def context_tiers() -> ContextTierPrice:
    """Make a price that doubles for calls above 200,000 tokens."""
    tiers = (ContextTier(Decimal(200_000), Decimal("1.25")), ContextTier(None, Decimal("2.5")))
    return ContextTierPrice("input_tokens", tiers, MILLION)


def a_percentage(
    rate: str = "1.3",
    fixed: str = "2",
    *,
    free_events: int | None = None,
    free_quantity: str | None = None,
    minimum: str | None = None,
    maximum: str | None = None,
) -> PercentagePrice:
    """Make a percentage of each event."""
    return PercentagePrice(
        Decimal(rate),
        Decimal(fixed),
        free_events,
        None if free_quantity is None else Decimal(free_quantity),
        None if minimum is None else Decimal(minimum),
        None if maximum is None else Decimal(maximum),
    )


def by_night() -> TimeOfUsePrice:
    """Make a price by the hour: nights that begin on a working day in Kathmandu are cheap."""
    window = TimeWindow(frozenset(range(5)), 22, 6, Decimal(1))
    return TimeOfUsePrice(ZoneInfo("Asia/Kathmandu"), (window,), Decimal(3), Decimal(1))


def at(hour: int, minute: int = 0, day: int = 5) -> datetime:
    """Name a time of January 2026, whose fifth is a Monday."""
    return datetime(2026, 1, day, hour, minute, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Case:
    """Events under a price, and every step as `description: quantity x unit = amount`."""

    id: str
    model: PriceModel
    usage: tuple[GivenUsage, ...]
    steps: tuple[str, ...]


CASES = [
    Case(
        "the row that names most dimensions wins, each row once",
        a_matrix(),
        (
            a_given_usage("1000000", model="large", kind="output"),
            a_given_usage("500000", model="large", kind="output", region="eu"),
            a_given_usage("1000000", model="large", kind="input"),
            a_given_usage("1000000", model="small", kind="output"),
            a_given_usage("250000", model="small"),
        ),
        (
            "other: 250000 x 0.000001 = 0.25",
            "kind output: 1000000 x 0.000004 = 4",
            "model large: 1000000 x 0.000008 = 8",
            "kind output, model large: 1500000 x 0.00002 = 30",
        ),
    ),
    Case("a table without usage has no step", a_matrix(), (), ()),
    Case(
        "the whole call changes price, its bound inclusive",
        context_tiers(),
        (
            a_given_usage("200000", quantities={"input_tokens": "200000"}),
            a_given_usage("200001", quantities={"input_tokens": "200001"}),
            a_given_usage("50", quantities={"input_tokens": "300000"}),
            a_given_usage("7"),
        ),
        (
            "calls of input_tokens up to 200000: 200007 x 0.00000125 = 0.25000875",
            "calls of input_tokens above 200000: 200051 x 0.0000025 = 0.5001275",
        ),
    ),
    Case(
        "hours are those of the zone's clock, and a night belongs to the day it starts",
        by_night(),
        (
            a_given_usage("1", time=at(16, 14)),
            a_given_usage("10", time=at(16, 15)),
            a_given_usage("100", time=at(0, 14, day=6)),
            a_given_usage("1000", time=at(0, 15, day=6)),
            a_given_usage("10000", time=at(20, day=9)),
            a_given_usage("100000", time=at(20, day=10)),
            a_given_usage("1000000", time=at(20, day=4)),
        ),
        (
            "window 1: 22:00 to 06:00: 10110 x 1 = 10110",
            "other hours: 1101001 x 3 = 3303003",
        ),
    ),
    Case(
        "a percentage of each event and a fixed amount",
        a_percentage(),
        tuple(a_given_usage(value) for value in ("50", "100", "250", "400")),
        ("1.3%: 800 x 0.013 = 10.4", "fixed for each event: 4 x 2 = 8"),
    ),
    Case(
        "the first allowance that is used up ends both: the quantity",
        a_percentage(free_events=3, free_quantity="250"),
        tuple(a_given_usage(value) for value in ("50", "100", "250", "400")),
        (
            "free: 2 whole events: 250 x 0 = 0",
            "1.3%: 550 x 0.013 = 7.15",
            "fixed for each event: 2 x 2 = 4",
        ),
    ),
    Case(
        "the first allowance that is used up ends both: the events",
        a_percentage(free_events=1, free_quantity="250"),
        (a_given_usage("50"), a_given_usage("100")),
        (
            "free: 1 whole events: 50 x 0 = 0",
            "1.3%: 100 x 0.013 = 1.3",
            "fixed for each event: 1 x 2 = 2",
        ),
    ),
    Case(
        "an event that ends exactly at the allowance is free as a whole",
        a_percentage(free_quantity="50"),
        (a_given_usage("50"), a_given_usage("0")),
        (
            "free: 1 whole events: 50 x 0 = 0",
            "1.3%: 0 x 0.013 = 0",
            "fixed for each event: 1 x 2 = 2",
        ),
    ),
    Case(
        "bounds hold for each event, its fixed amount included",
        a_percentage("2.99", minimum="2.5", maximum="12"),
        tuple(a_given_usage(value) for value in ("10", "80", "10000")),
        (
            "2.99%: 10090 x 0.0299 = 301.691",
            "fixed for each event: 3 x 2 = 6",
            "raised to 2.5 for each event: 1 x 0.201 = 0.201",
            "lowered to 12 for each event: 1 x -289 = -289",
        ),
    ),
    Case(
        "free events are the first by time, however they are given",
        a_percentage(fixed="0", free_events=1),
        (a_given_usage("100", time=at(12)), a_given_usage("7", time=at(11))),
        ("free: 1 whole events: 7 x 0 = 0", "1.3%: 100 x 0.013 = 1.3"),
    ),
    Case(
        "the events say what they cost",
        DynamicPrice("amounts"),
        (a_given_usage("20"), a_given_usage("0.402", meter_id="amounts")),
        ("amounts of the events: 20 x 0.0201 = 0.402",),
    ),
    Case(
        "nothing used costs no amount",
        DynamicPrice("amounts"),
        (),
        ("amounts of the events: 0 x 0 = 0",),
    ),
    Case(
        "the cost and a markup on it",
        CostPlusPrice("costs", Decimal("12.5")),
        (a_given_usage("1000"), a_given_usage("0.8", meter_id="costs")),
        ("cost: 1000 x 0.0008 = 0.8", "markup of 12.5%: 0.8 x 0.125 = 0.1"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_price_explains_what_parts_of_usage_cost(case: Case) -> None:
    """Every step names its quantity, its unit amount and its exact amount."""
    (line,) = rated_given(a_plan(a_price(case.model)), *case.usage).lines

    assert tuple(map(written, line.steps)) == case.steps


def test_what_is_included_is_taken_off_the_parts_in_proportion() -> None:
    """A quarter of the usage is included, so that a quarter of each row's amount is."""
    plan = a_plan(a_price(a_matrix(), included="500000"))

    (line,) = rated_given(
        plan, a_given_usage("1000000", model="large"), a_given_usage("1000000", model="small")
    ).lines

    assert [written(step) for step in line.steps] == [
        "other: 1000000 x 0.000001 = 1",
        "model large: 1000000 x 0.000008 = 8",
        "included: up to 500000: 500000 x -0.0000045 = -2.25",
    ]
    assert line.amount == Money("USD", 675)


def test_usage_without_a_time_has_no_price_by_the_hour() -> None:
    """A price by the hour refuses given usage of which the hour is unknown."""
    with pytest.raises(InvalidInput, match="must have a time"):
        rated_given(a_plan(a_price(by_night())), a_given_usage("1"))


def test_a_price_that_groups_has_a_line_for_each_group() -> None:
    """Each value is priced by itself: both begin in the first tier; the filter names the group."""
    model = a_graduated_price(("10", "2", "0"), (None, "1", "0"))
    price = replace(a_price(model, region="eu"), group_by=("project",))

    rating = rated_given(
        a_plan(price),
        a_given_usage("8", region="eu", project="b"),
        a_given_usage("8", region="eu", project="b"),
        a_given_usage("10", region="eu", project="a"),
        a_given_usage("1", region="eu"),
        a_given_usage("1", region="us", project="a"),
    )

    assert [
        (line.description, plain(line.unrounded_amount), line.usage and line.usage.dimensions)
        for line in rating.lines
    ] == [
        ("Tokens: other", "2", (("project", ""), ("region", "eu"))),
        ("Tokens: a", "20", (("project", "a"), ("region", "eu"))),
        ("Tokens: b", "26", (("project", "b"), ("region", "eu"))),
    ]


def converted(conversion: QuantityConversion, quantity: str) -> FormulaStep:
    """Tell how a quantity is converted."""
    price: Price = replace(a_price(a_standard_price("1")), conversion=conversion)
    (line,) = rated_given(a_plan(price), a_given_usage(quantity)).lines
    return line.steps[0]


@pytest.mark.parametrize(
    ("divisor", "rounding", "decimals", "quantity", "expected"),
    [
        ("1", QuantityRounding.HALF_UP, 2, "123.456", "123.46"),
        ("1", QuantityRounding.UP, 2, "123.451", "123.46"),
        ("1", QuantityRounding.DOWN, 2, "123.459", "123.45"),
        ("1", QuantityRounding.HALF_UP, 0, "0.5", "1"),
        ("1", QuantityRounding.UP, -2, "1201", "1300"),
        ("1024", None, 0, "1536", "1.5"),
        ("3600", None, 0, "1000", "0.277777777777777777777777"),
        ("3600", QuantityRounding.UP, 0, "3601", "2"),
    ],
)
def test_a_quantity_is_converted_before_it_is_priced(
    divisor: str, rounding: QuantityRounding | None, decimals: int, quantity: str, expected: str
) -> None:
    """It is divided, and rounded where the price says so."""
    conversion = QuantityConversion(Decimal(divisor), rounding, decimals)

    assert converted(conversion, quantity).quantity == Decimal(expected)


def test_an_allowance_counts_converted_units() -> None:
    """Of three gigabytes one is included, and the two others fall into the tiers."""
    price = replace(
        a_price(a_graduated_price(("1", "5", "0"), (None, "3", "0")), included="1"),
        conversion=QuantityConversion(Decimal(1024**3), None, 0),
    )

    (line,) = rated_given(a_plan(price), a_given_usage(str(3 * 1024**3))).lines

    assert [written(step) for step in line.steps] == [
        "divided by 1073741824: 3 x 0 = 0",
        "included: up to 1: 1 x 0 = 0",
        "tier 1: up to 1: 1 x 5 = 5",
        "tier 2: above 1: 1 x 3 = 3",
    ]
    assert line.quantity == 3 * 1024**3


@pytest.mark.parametrize(
    ("decimals", "steps", "cents"),
    [
        (None, ["each (1.665 CRD): 3 x 0.2775 = 0.8325"], 83),
        (
            2,
            [
                "each (1.665 CRD): 3 x 0.2775 = 0.8325",
                "rounded to 1.67 CRD: 0.005 x 0.5 = 0.0025",
            ],
            84,
        ),
    ],
)
def test_credits_are_converted_once_they_are_priced(
    decimals: int | None, steps: list[str], cents: int
) -> None:
    """A price in credits names them; they are rounded only where the price says so."""
    price = replace(
        a_price(a_standard_price("0.555")),
        virtual_currency=VirtualCurrency("CRD", Decimal("0.5"), decimals),
    )

    (line,) = rated_given(a_plan(price), a_given_usage("3")).lines

    assert [written(step) for step in line.steps] == steps
    assert line.amount == Money("USD", cents)


def test_what_has_more_digits_than_can_be_exact_is_refused() -> None:
    """Nothing is rounded on the way: a figure beyond a hundred digits is an error of the input."""
    long = "0.123456789012345678901234"
    row = MatrixRow((), Decimal(f"999999999999{long[1:]}"))
    plan = a_plan(a_price(MatrixPrice((row,), Decimal(1)), included=f"99999{long[1:]}"))

    with pytest.raises(InvalidInput, match="more than 100 digits"):
        rated_given(plan, *[a_given_usage(f"99999999999999{long[1:]}")] * 3)
