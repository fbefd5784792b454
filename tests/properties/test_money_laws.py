"""Laws of money and decimals, tried on numbers nobody would think of."""

import decimal
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.decimals import exactly, parse_decimal, plain
from kit.money import MINOR_UNITS_MAX, Money, Rounding, minor_digits, settle

CURRENCIES = st.sampled_from(["EUR", "USD", "JPY", "KWD", "CLF"])
MINOR_UNITS = st.integers(-MINOR_UNITS_MAX, MINOR_UNITS_MAX)
DECIMALS = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent, exactly_wide()),
    st.integers(-(10**14) + 1, 10**14 - 1),
    st.integers(-24, 0),
)
WEIGHTS = st.lists(
    st.one_of(st.integers(0, 10**12), DECIMALS.map(abs)), min_size=1, max_size=12
).filter(any)


def exactly_wide() -> decimal.Context:
    """Make a context in which moving the point of a test figure never rounds."""
    return decimal.Context(prec=200)


def half_up(scaled: Fraction) -> int:
    """Round a half away from zero."""
    whole = floor(abs(scaled) + Fraction(1, 2))
    return whole if scaled >= 0 else -whole


def away(scaled: Fraction) -> int:
    """Round away from zero."""
    return ceil(scaled) if scaled >= 0 else floor(scaled)


EXACTLY_ROUNDED: dict[Rounding, Callable[[Fraction], int]] = {
    Rounding.HALF_UP: half_up,
    Rounding.HALF_EVEN: round,
    Rounding.UP: away,
    Rounding.DOWN: int,
    Rounding.CEILING: ceil,
    Rounding.FLOOR: floor,
}


@given(CURRENCIES, MINOR_UNITS, WEIGHTS)
def test_allocation_loses_no_unit_and_is_fair(
    currency: str, minor_units: int, weights: list[int | Decimal]
) -> None:
    """The parts sum to the whole, and each is within one unit of its exact share."""
    parts = [part.minor_units for part in Money(currency, minor_units).allocate(weights)]

    total = sum(map(Fraction, weights))
    shares = [minor_units * Fraction(weight) / total for weight in weights]
    assert sum(parts) == minor_units
    assert all(abs(part - share) < 1 for part, share in zip(parts, shares, strict=True))


@given(CURRENCIES, MINOR_UNITS, WEIGHTS)
def test_a_greater_weight_never_gets_less(
    currency: str, minor_units: int, weights: list[int | Decimal]
) -> None:
    """Parts are ordered as their weights are."""
    parts = [abs(part.minor_units) for part in Money(currency, minor_units).allocate(weights)]

    weighed = list(zip(weights, parts, strict=True))
    assert all(
        less <= more
        for (lighter, less), (heavier, more) in product(weighed, repeat=2)
        if lighter < heavier
    )


@given(CURRENCIES, MINOR_UNITS, WEIGHTS)
def test_a_refund_splits_as_its_charge(
    currency: str, minor_units: int, weights: list[int | Decimal]
) -> None:
    """Splitting the opposite gives the opposite parts."""
    charge, refund = Money(currency, minor_units), Money(currency, -minor_units)

    assert refund.allocate(weights) == tuple(-part for part in charge.allocate(weights))


@pytest.mark.parametrize("rounding", Rounding)
@given(amount=DECIMALS, currency=CURRENCIES)
def test_settling_equals_rounding_the_fraction(
    rounding: Rounding, amount: Decimal, currency: str
) -> None:
    """Each mode agrees with the same rule written on exact fractions."""
    scaled = Fraction(amount) * 10 ** minor_digits(currency)

    expected = Money(currency, EXACTLY_ROUNDED[rounding](scaled))
    assert settle(amount, currency, rounding) == expected


@pytest.mark.parametrize("rounding", Rounding)
@given(units=st.integers(-(10**15), 10**15), currency=CURRENCIES)
def test_ties_settle_as_the_mode_says(rounding: Rounding, units: int, currency: str) -> None:
    """Exactly half a unit between two neighbours follows the rule on fractions too."""
    tie = Decimal(units * 10 + 5).scaleb(-minor_digits(currency) - 1)

    expected = EXACTLY_ROUNDED[rounding](Fraction(units * 10 + 5, 10))
    assert settle(tie, currency, rounding) == Money(currency, expected)


@given(CURRENCIES, MINOR_UNITS)
def test_settled_money_settles_to_itself(currency: str, minor_units: int) -> None:
    """Money to decimal and back changes nothing, in every mode."""
    money = Money(currency, minor_units)

    assert {settle(money.to_decimal(), currency, rounding) for rounding in Rounding} == {money}


@given(DECIMALS)
def test_the_plain_text_reads_back_as_the_same_number(value: Decimal) -> None:
    """Text and number lose nothing to each other, and the text is canonical."""
    text = plain(value)

    assert parse_decimal(text, "quantity") == value
    assert plain(parse_decimal(text, "quantity")) == text


@given(DECIMALS, DECIMALS, DECIMALS)
def test_the_exact_context_never_rounds(a: Decimal, b: Decimal, c: Decimal) -> None:
    """Sums and products of inputs of full length are those of fractions."""
    with exactly():
        computed = a * b + c - b

    assert Fraction(computed) == Fraction(a) * Fraction(b) + Fraction(c) - Fraction(b)
