"""Each kind of price, as a table: what a quantity costs, and the steps that say why."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest

from kit.decimals import exactly, plain
from kit.money import Rounding, settle
from services.rating.model import (
    FormulaStep,
)
from services.rating.prices import (
    GraduatedPercentagePrice,
    PercentageTier,
    QuantityModel,
    Stair,
    StairstepPrice,
    VolumePrice,
)
from services.rating.pricing import divide, price_quantity
from tests.rating_builders import a_graduated_price, a_package_price, a_standard_price


@dataclass(frozen=True, slots=True)
class Case:
    """A quantity under a price, and every step as `description: quantity x unit = amount`."""

    id: str
    model: QuantityModel
    quantity: str
    steps: tuple[str, ...]


def written(step: FormulaStep) -> str:
    """Write a step as a reader would."""
    figures = f"{plain(step.quantity)} x {plain(step.unit_amount)} = {plain(step.amount)}"
    return f"{step.description}: {figures}"


THREE_TIERS = a_graduated_price(("10", "10", "2"), ("20", "5", "3"), (None, "5", "3"))
FRACTIONAL_TIERS = a_graduated_price(("0.1", "0", "0"), ("1", "5", "0"), (None, "4", "0"))
PER_HOUR = a_standard_price("2.5", per="3600")
A_VOLUME = VolumePrice(
    a_graduated_price(("100", "2", "10"), ("200", "1", "0"), (None, "0.5", "50")).tiers
)
A_STAIRCASE = StairstepPrice((Stair(Decimal(5), Decimal(10)), Stair(None, Decimal(15))))
A_PERCENTAGE_OF_TIERS = GraduatedPercentagePrice(
    (
        PercentageTier(Decimal(10), Decimal(1), Decimal(200)),
        PercentageTier(None, Decimal(2), Decimal(300)),
    )
)

STANDARD = [
    Case("nothing costs nothing", a_standard_price("0.02"), "0", ("each: 0 x 0.02 = 0",)),
    Case("every digit", a_standard_price("5.12345"), "10", ("each: 10 x 5.12345 = 51.2345",)),
    Case(
        "per thousand, a part of it",
        a_standard_price("0.02", per="1000"),
        "1",
        ("0.02 per 1000: 1 x 0.00002 = 0.00002",),
    ),
    Case(
        "24 decimals",
        a_standard_price("0.000000000000000000000001"),
        "3.000000000000000001",
        (
            (
                "each: 3.000000000000000001 x 0.000000000000000000000001"
                " = 0.000000000000000000000003000000000000000001"
            ),
        ),
    ),
    Case(
        "a whole hour out of seconds is exact",
        PER_HOUR,
        "3600",
        ("2.5 per 3600: 3600 x 0.000694444444444444444444 = 2.5",),
    ),
    Case(
        "a division that does not end is cut, never to a 5 or 0",
        PER_HOUR,
        "1000",
        ("2.5 per 3600: 1000 x 0.000694444444444444444444 = 0.694444444444444444444444",),
    ),
]

GRADUATED = [
    Case(
        "zero bills the first flat",
        THREE_TIERS,
        "0",
        ("tier 1: up to 10: 0 x 10 = 0", "tier 1: flat: 1 x 2 = 2"),
    ),
    Case(
        "an upper bound belongs to its tier",
        THREE_TIERS,
        "10",
        ("tier 1: up to 10: 10 x 10 = 100", "tier 1: flat: 1 x 2 = 2"),
    ),
    Case(
        "the least above it reaches the next",
        THREE_TIERS,
        "10.001",
        (
            "tier 1: up to 10: 10 x 10 = 100",
            "tier 1: flat: 1 x 2 = 2",
            "tier 2: above 10 up to 20: 0.001 x 5 = 0.005",
            "tier 2: flat: 1 x 3 = 3",
        ),
    ),
    Case(
        "the last tier has no end",
        THREE_TIERS,
        "1000020",
        (
            "tier 1: up to 10: 10 x 10 = 100",
            "tier 1: flat: 1 x 2 = 2",
            "tier 2: above 10 up to 20: 10 x 5 = 50",
            "tier 2: flat: 1 x 3 = 3",
            "tier 3: above 20: 1000000 x 5 = 5000000",
            "tier 3: flat: 1 x 3 = 3",
        ),
    ),
    Case(
        "bounds may be fractions, and no flat is no step",
        FRACTIONAL_TIERS,
        "1.5",
        (
            "tier 1: up to 0.1: 0.1 x 0 = 0",
            "tier 2: above 0.1 up to 1: 0.9 x 5 = 4.5",
            "tier 3: above 1: 0.5 x 4 = 2",
        ),
    ),
    Case("a single tier", a_graduated_price((None, "2", "0")), "3", ("tier 1: 3 x 2 = 6",)),
]

PACKAGES = [
    Case("nothing needs no package", a_package_price(), "0", ("packages of 10: 0 x 25 = 0",)),
    Case("a part costs the whole", a_package_price(), "0.001", ("packages of 10: 1 x 25 = 25",)),
    Case("a full package", a_package_price(), "10", ("packages of 10: 1 x 25 = 25",)),
    Case("just above", a_package_price(), "10.0001", ("packages of 10: 2 x 25 = 50",)),
    Case(
        "where binary fractions would err",
        a_package_price("1", size="0.1"),
        "0.3",
        ("packages of 0.1: 3 x 1 = 3",),
    ),
    Case(
        "quantities beyond 2 to the 53rd",
        a_package_price("1", size="10"),
        "90071992547409930",
        ("packages of 10: 9007199254740993 x 1 = 9007199254740993",),
    ),
]

VOLUMES = [
    Case(
        "zero volume bills the first flat",
        A_VOLUME,
        "0",
        ("all in tier 1: up to 100: 0 x 2 = 0", "tier 1: flat: 1 x 10 = 10"),
    ),
    Case(
        "an upper bound of a volume belongs to its tier",
        A_VOLUME,
        "100",
        ("all in tier 1: up to 100: 100 x 2 = 200", "tier 1: flat: 1 x 10 = 10"),
    ),
    Case(
        "the least above it prices all at the next",
        A_VOLUME,
        "100.5",
        ("all in tier 2: above 100 up to 200: 100.5 x 1 = 100.5",),
    ),
    Case(
        "the last tier of a volume has no end",
        A_VOLUME,
        "300",
        ("all in tier 3: above 200: 300 x 0.5 = 150", "tier 3: flat: 1 x 50 = 50"),
    ),
]

STAIRS = [
    Case("zero stands on the first stair", A_STAIRCASE, "0", ("stair 1: up to 5: 1 x 10 = 10",)),
    Case("a bound belongs to its stair", A_STAIRCASE, "5", ("stair 1: up to 5: 1 x 10 = 10",)),
    Case("the next stair for all", A_STAIRCASE, "5.1", ("stair 2: above 5: 1 x 15 = 15",)),
]

PERCENTAGES = [
    Case(
        "zero of money bills the first flat",
        A_PERCENTAGE_OF_TIERS,
        "0",
        ("tier 1: 1%: up to 10: 0 x 0.01 = 0", "tier 1: flat: 1 x 200 = 200"),
    ),
    Case(
        "each tier takes its percentage",
        A_PERCENTAGE_OF_TIERS,
        "11",
        (
            "tier 1: 1%: up to 10: 10 x 0.01 = 0.1",
            "tier 1: flat: 1 x 200 = 200",
            "tier 2: 2%: above 10: 1 x 0.02 = 0.02",
            "tier 2: flat: 1 x 300 = 300",
        ),
    ),
]


@pytest.mark.parametrize(
    "case",
    STANDARD + GRADUATED + PACKAGES + VOLUMES + STAIRS + PERCENTAGES,
    ids=lambda case: case.id,
)
def test_a_price_explains_what_a_quantity_costs(case: Case) -> None:
    """Every step names its quantity, its unit amount and its exact amount."""
    with exactly():
        steps = price_quantity(case.model, Decimal(case.quantity))

    assert tuple(map(written, steps)) == case.steps


@pytest.mark.parametrize(
    ("dividend", "divisor", "quotient"),
    [
        ("1", "1000", "0.001"),
        ("1", "1099511627776", "0.0000000000009094947017729282379150390625"),
        ("1", "3", "0.333333333333333333333333"),
        ("2", "3", "0.666666666666666666666666"),
        ("1", "18", "0.055555555555555555555556"),
        ("1", "999999999999999999999999", "0.000000000000000000000001"),
        ("0", "7", "0"),
    ],
)
def test_a_division_is_exact_or_cut_at_the_24th_decimal(
    dividend: str, divisor: str, quotient: str
) -> None:
    """What ends is kept whole; what does not is cut, away from an ending in 0 or 5."""
    assert plain(divide(Decimal(dividend), Decimal(divisor))) == quotient


@pytest.mark.parametrize(
    ("rounding", "cents"), [(Rounding.HALF_EVEN, 1), (Rounding.HALF_UP, 1), (Rounding.UP, 1)]
)
def test_a_cut_quotient_is_settled_as_the_true_one(rounding: Rounding, cents: int) -> None:
    """Just above half a cent is more than half a cent, though the excess lies beyond the cut.

    Cutting plainly would give the tie 0.005, which half-even settles to nothing.
    """
    just_above_half_a_cent = divide(Decimal("0.005") * 10**26 + 1, Decimal(10**26 + 1))

    assert settle(just_above_half_a_cent, "USD", rounding).minor_units == cents
