"""Laws that every price obeys, for any figures a plan and a meter may hold.

The independent model computes with `fractions.Fraction`, so it shares neither the arithmetic nor
the code of the prices.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.decimals import exactly
from kit.money import minor_digits
from services.rating.model import (
    AMOUNT_MAX,
    QUANTITY_MAX,
    USAGE_MAX,
    Proration,
    RatedLine,
)
from services.rating.prices import (
    GraduatedPrice,
    PackagePrice,
    QuantityModel,
    StandardPrice,
    Tier,
    VolumePrice,
)
from services.rating.pricing import price_quantity
from tests.rating_builders import a_plan, a_price, rated, rated_price

LAST_DECIMAL = Fraction(1, 10**24)


def decimals(maximum: Decimal, places: int, *, minimum: str = "0") -> st.SearchStrategy[Decimal]:
    """Draw decimals of at most `places` decimals, exactly."""
    least = int(Decimal(minimum).scaleb(places))
    units = st.integers(least, int(maximum) * 10**places)
    return units.map(lambda value: Decimal(f"{value}E-{places}"))


amounts = st.one_of(decimals(Decimal(10), 4), decimals(Decimal(1), 24))
quantities = st.one_of(st.integers(0, 50).map(Decimal), decimals(Decimal(100_000), 18))
ending_divisors = st.builds(
    lambda twos, fives: Decimal(2**twos * 5**fives), st.integers(0, 20), st.integers(0, 12)
)


@st.composite
def graduated(
    draw: st.DrawFn,
    *,
    amount: st.SearchStrategy[Decimal] = amounts,
    flat: st.SearchStrategy[Decimal] = amounts,
    bound: st.SearchStrategy[Decimal] = quantities,
) -> GraduatedPrice:
    """Draw a graduated price of up to six tiers."""
    bounds = sorted(draw(st.sets(bound.filter(bool), max_size=5)))
    return GraduatedPrice(tuple(Tier(up_to, draw(amount), draw(flat)) for up_to in [*bounds, None]))


sizes = decimals(Decimal(100_000), 18, minimum="0.01")
standard = st.builds(StandardPrice, amounts, sizes)
package = st.builds(PackagePrice, amounts, sizes)
volume = st.builds(lambda price: VolumePrice(price.tiers), graduated())
models = st.one_of(standard, graduated(), package)


def fraction_of(model: QuantityModel, quantity: Fraction) -> Fraction:
    """Price a quantity the way the contract describes it, with fractions."""
    match model:
        case StandardPrice(amount, per_quantity):
            return Fraction(amount) * quantity / Fraction(per_quantity)
        case PackagePrice(amount, package_size):
            return Fraction(amount) * ceil(quantity / Fraction(package_size))
        case GraduatedPrice(tiers):
            bounds = [Fraction(0), *(Fraction(tier.up_to) for tier in tiers if tier.up_to)]
            total = Fraction(0)
            for tier, start in zip(tiers, bounds, strict=True):
                end = quantity if tier.up_to is None else min(quantity, Fraction(tier.up_to))
                reached = quantity > start or tier is tiers[0]
                total += Fraction(tier.unit_amount) * max(end - start, Fraction(0))
                total += Fraction(tier.flat_amount) * reached
            return total
        case VolumePrice(tiers):
            tier = next(t for t in tiers if t.up_to is None or quantity <= Fraction(t.up_to))
            return Fraction(tier.unit_amount) * quantity + Fraction(tier.flat_amount)
        case _:
            raise AssertionError(f"no model of {model}")


def half_up(amount: Fraction, currency: str) -> int:
    """Round to minor units, halves away from zero."""
    return int(amount * 10 ** minor_digits(currency) + Fraction(1, 2))


def the_line(model: QuantityModel, quantity: Decimal, included: Decimal = Decimal(0)) -> RatedLine:
    """Rate January by nothing but this price."""
    (line,) = rated_price(model, quantity, str(included)).lines
    return line


def unrounded(model: QuantityModel, quantity: Decimal) -> Decimal:
    """Tell what a quantity comes to before rounding."""
    return the_line(model, quantity).unrounded_amount


@given(model=st.one_of(graduated(), package, volume), quantity=quantities)
def test_tiers_and_packages_equal_the_fractions(model: QuantityModel, quantity: Decimal) -> None:
    """Nothing is lost to any digit where nothing is divided."""
    assert Fraction(unrounded(model, quantity)) == fraction_of(model, Fraction(quantity))


@given(amount=amounts, per_quantity=ending_divisors, quantity=quantities)
def test_a_price_per_quantity_equals_the_fraction_where_the_division_ends(
    amount: Decimal, per_quantity: Decimal, quantity: Decimal
) -> None:
    """A price per 1,000, or per any product of twos and fives, is exact to the last digit."""
    price = StandardPrice(amount, per_quantity)

    assert Fraction(unrounded(price, quantity)) == fraction_of(price, Fraction(quantity))


@given(price=standard, quantity=quantities, currency=st.sampled_from(["JPY", "USD", "KWD"]))
def test_a_cut_division_is_settled_as_the_fraction_is(
    price: StandardPrice, quantity: Decimal, currency: str
) -> None:
    """A cut stays within the 24th decimal, and moves no minor unit."""
    plan = a_plan(a_price(price), currency=currency)

    (line,) = rated(plan, quantity).lines

    exact = fraction_of(price, Fraction(quantity))
    assert abs(Fraction(line.unrounded_amount) - exact) < LAST_DECIMAL
    assert line.amount.minor_units == half_up(exact, currency)


@given(
    base_fee=decimals(AMOUNT_MAX, 4),
    billed_days=st.integers(1, 366),
    unbilled_days=st.integers(0, 366),
    currency=st.sampled_from(["JPY", "USD", "KWD"]),
)
def test_a_prorated_base_fee_is_settled_as_the_fraction_is(
    base_fee: Decimal, billed_days: int, unbilled_days: int, currency: str
) -> None:
    """Base fee x billed days / period days, rounded once."""
    period_days = billed_days + unbilled_days
    plan = a_plan(currency=currency, base_fee=str(base_fee))

    rating = rated(plan, proration=Proration(billed_days, period_days))

    exact = Fraction(base_fee) * billed_days / period_days
    assert rating.total.minor_units == half_up(exact, currency)


@given(amount=amounts, per_quantity=ending_divisors, pieces=st.lists(quantities))
def test_pieces_of_a_period_come_to_the_whole(
    amount: Decimal, per_quantity: Decimal, pieces: list[Decimal]
) -> None:
    """A standard price of the pieces, before rounding, adds up to that of their sum."""
    price = StandardPrice(amount, per_quantity)

    with exactly():
        whole = unrounded(price, sum(pieces, Decimal(0)))
        parts = sum((unrounded(price, piece) for piece in pieces), Decimal(0))

    assert parts == whole


@given(model=models, less=quantities, more=quantities)
def test_using_more_never_costs_less(model: QuantityModel, less: Decimal, more: Decimal) -> None:
    """Every price is monotone."""
    less, more = sorted([less, more])

    assert unrounded(model, less) <= unrounded(model, more)


@given(
    price=graduated(flat=st.just(Decimal(0))),
    quantity=quantities,
    shift=decimals(Decimal(1), 18, minimum="0.000000000000000001"),
)
def test_a_graduated_price_without_flats_is_continuous(
    price: GraduatedPrice, quantity: Decimal, shift: Decimal
) -> None:
    """A little more usage costs at most that little at the dearest tier: no jump at a bound."""
    dearest = max(tier.unit_amount for tier in price.tiers)

    with exactly():
        rise = unrounded(price, quantity + shift) - unrounded(price, quantity)

        assert 0 <= rise <= dearest * shift


@given(
    bounds=st.sets(st.integers(1, 30), max_size=4),
    unit_amounts=st.lists(amounts, min_size=5, max_size=5),
    quantity=st.integers(0, 40),
)
def test_a_graduated_price_is_the_sum_of_its_units(
    bounds: set[int], unit_amounts: list[Decimal], quantity: int
) -> None:
    """Each unit costs what the tier says in which it lies, upper bounds inclusive."""
    ends = [*map(Decimal, sorted(bounds)), None]
    tiers = tuple(
        Tier(end, unit, Decimal(0)) for end, unit in zip(ends, unit_amounts, strict=False)
    )

    def tier_of(unit: int) -> Tier:
        return next(tier for tier in tiers if tier.up_to is None or unit <= tier.up_to)

    with exactly():
        by_units = sum((tier_of(unit).unit_amount for unit in range(1, quantity + 1)), Decimal(0))

    assert unrounded(GraduatedPrice(tiers), Decimal(quantity)) == by_units


@given(model=st.one_of(models, volume), quantity=quantities, included=quantities)
def test_the_steps_add_up_to_the_line(
    model: QuantityModel, quantity: Decimal, included: Decimal
) -> None:
    """The explanation is the figure: steps sum to the line, and the line to the total."""
    line = the_line(model, quantity, included)

    assert sum(Fraction(step.amount) for step in line.steps) == Fraction(line.unrounded_amount)
    assert line.amount.minor_units == half_up(Fraction(line.unrounded_amount), "USD")


@given(model=models, quantity=quantities, included=quantities)
def test_what_is_included_costs_nothing_and_the_rest_its_price(
    model: QuantityModel, quantity: Decimal, included: Decimal
) -> None:
    """An allowance is the same as that much less usage."""
    with exactly():
        beyond = max(quantity - included, Decimal(0))

    assert the_line(model, quantity, included).unrounded_amount == unrounded(model, beyond)


@pytest.mark.parametrize("currency", ["JPY", "USD", "KWD"])
@given(models=st.lists(models, max_size=4), quantity=quantities)
def test_lines_sum_to_the_total(
    currency: str, models: list[QuantityModel], quantity: Decimal
) -> None:
    """The total is the sum of what stands on the lines, to the minor unit of any currency."""
    prices = [a_price(model, price_id=f"price-{index}") for index, model in enumerate(models)]

    rating = rated(a_plan(*prices, currency=currency, base_fee="9.995"), *[quantity] * len(models))

    assert rating.total.minor_units == sum(line.amount.minor_units for line in rating.lines)
    assert len(rating.lines) == len(models) + 1


extreme_amounts = decimals(AMOUNT_MAX, 24)
extreme_quantities = decimals(QUANTITY_MAX, 24, minimum="0.000000000000000000000001")


@given(
    model=st.one_of(
        st.builds(StandardPrice, extreme_amounts, extreme_quantities),
        st.builds(PackagePrice, extreme_amounts, extreme_quantities),
        graduated(amount=extreme_amounts, flat=extreme_amounts, bound=extreme_quantities),
    ),
    quantity=decimals(USAGE_MAX, 24),
)
def test_no_plan_and_usage_within_their_bounds_run_out_of_digits(
    model: QuantityModel, quantity: Decimal
) -> None:
    """The bounds of the contract keep every product and sum exact."""
    with exactly():
        steps = price_quantity(model, quantity)

    exact = fraction_of(model, Fraction(quantity))
    assert abs(sum(Fraction(step.amount) for step in steps) - exact) < LAST_DECIMAL
