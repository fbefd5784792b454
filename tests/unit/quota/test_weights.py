"""What calls cost under a rate card, counted in millionths of the currency."""

from decimal import Decimal
from fractions import Fraction

import msgpack
from hypothesis import example, given
from hypothesis import strategies as st

from services.quota.weights import (
    CardEntry,
    RateCard,
    Tariff,
    Tier,
    UnitPrice,
    bounded,
    read_tariff,
    tariff_of,
)

LARGE = (("model", "large"),)


def an_entry(
    unit: str = "input_tokens",
    amount: str = "0.000003",
    *,
    price: str = "",
    meter: str = "",
    dimensions: tuple[tuple[str, str], ...] = (),
    filters: tuple[tuple[str, frozenset[str]], ...] = (),
    event: str = "0",
    context: str = "",
    above: str = "0",
) -> CardEntry:
    """Make an entry at three dollars a million."""
    return CardEntry(
        price or unit,
        meter or unit,
        unit,
        dimensions,
        filters,
        Decimal(amount),
        Decimal(event),
        context,
        Decimal(above),
    )


def a_tariff(*entries: CardEntry, dimensions: tuple[tuple[str, str], ...] = ()) -> Tariff:
    """Make the tariff of calls with some dimensions."""
    return tariff_of(RateCard("pro", 1, "USD", entries), dimensions)


def test_amounts_cost_what_the_card_says_and_money_counts_beside_them() -> None:
    """Each unit is rounded up to a millionth by itself; what the plan does not price is free."""
    tariff = a_tariff(an_entry(), an_entry("output_tokens", "0.00000015"))

    assert tariff.amount_of({"input_tokens": 1000, "output_tokens": 7}) == 3000 + 2
    assert tariff.amount_of({"input_tokens": 1, "USD": 500, "EUR": 9, "seconds": 9}) == 3 + 500
    assert tariff.amount_of({}) == 0


def test_the_most_specific_price_of_a_meter_is_taken_and_of_equals_the_first() -> None:
    """Each meter is priced once; two meters of one unit add up."""
    card = (
        an_entry(amount="0.000001", price="all"),
        an_entry(amount="0.000002", price="large", dimensions=LARGE),
        an_entry(amount="0.000009", price="later", dimensions=LARGE),
        an_entry(amount="0.000100", price="surcharge", meter="other"),
    )

    assert a_tariff(*card).amount_of({"input_tokens": 1}) == 101
    assert a_tariff(*card, dimensions=LARGE).amount_of({"input_tokens": 1}) == 102
    assert a_tariff(*card).weight_of("input_tokens", {}) == (101, 1)


def test_a_price_of_nothing_wins_like_any_other() -> None:
    """A family of models may be free."""
    card = (an_entry(), an_entry(amount="0", price="free", dimensions=LARGE))

    assert a_tariff(*card, dimensions=LARGE) == Tariff("USD", ())
    assert a_tariff(*card, dimensions=LARGE).weight_of("input_tokens", {}) is None


def test_a_meter_counts_only_calls_that_pass_its_filters() -> None:
    """A dimension that the call lacks is empty."""
    entry = an_entry(filters=(("model", frozenset({"large", ""})),))

    assert [
        a_tariff(entry, dimensions=given).amount_of({"input_tokens": 1})
        for given in (LARGE, (), (("model", "small"),))
    ] == [3, 3, 0]


def test_the_size_of_a_call_chooses_its_tier() -> None:
    """A bound belongs to the tier below it."""
    tariff = a_tariff(
        an_entry(amount="0.000001", context="input_tokens"),
        an_entry(amount="0.000002", context="input_tokens", above="200"),
        an_entry("output_tokens", "0.000010", context="input_tokens"),
        an_entry("output_tokens", "0.000020", context="input_tokens", above="200"),
    )

    assert tariff.amount_of({"input_tokens": 200, "output_tokens": 1}) == 210
    assert tariff.amount_of({"input_tokens": 201, "output_tokens": 1}) == 422
    assert tariff.amount_of({"output_tokens": 1}) == 10
    assert tariff.weight_of("output_tokens", {"input_tokens": 201}) == (20, 1)


def test_more_of_a_call_whose_size_is_not_told_costs_the_dearest_tier() -> None:
    """A stream that grows has told its input before, and not again."""
    tariff = a_tariff(
        an_entry("output_tokens", "0.000020", context="input_tokens"),
        an_entry("output_tokens", "0.000010", context="input_tokens", above="200"),
    )

    assert tariff.amount_of({"output_tokens": 1}, is_more=True) == 20
    assert tariff.amount_of({"output_tokens": 1, "input_tokens": 300}, is_more=True) == 10
    assert tariff.weight_of("output_tokens", {}, is_more=True) == (20, 1)


def test_what_each_call_costs_is_counted_once() -> None:
    """It belongs to the unit; more of a call that has begun does not cost it again."""
    tariff = a_tariff(an_entry(event="0.05"))

    assert tariff.amount_of({"input_tokens": 1}) == 50_003
    assert tariff.amount_of({"input_tokens": 1}, is_more=True) == 3
    assert tariff.amount_of({"output_tokens": 1}) == 0


def test_time_is_priced_by_the_second() -> None:
    """The gate counts millionths of seconds, also where they choose the tier."""
    tariff = a_tariff(
        an_entry("seconds", "0.01", context="seconds"),
        an_entry("seconds", "0.02", context="seconds", above="60"),
    )

    assert tariff.amount_of({"seconds": 1_500_000}) == 15_000
    assert tariff.amount_of({"seconds": 60_000_001}) == 1_200_001


def test_one_call_counts_no_more_than_the_gate_can() -> None:
    """Ten to the fifteen tokens at a dollar each are as much as there is."""
    assert a_tariff(an_entry(amount="1")).amount_of({"input_tokens": 10**15}) == 2**52


def test_a_tariff_can_be_read_back() -> None:
    """It travels with holds."""
    tariff = Tariff("USD", (UnitPrice("a", "b", (Tier(5, 3, 2, 1), Tier(0, 1, 1, 0))),))

    assert read_tariff(msgpack.unpackb(msgpack.packb(tariff))) == tariff


@given(
    price=st.builds(
        Fraction, st.integers(1, 10**30), st.sampled_from([10**n for n in range(0, 31, 3)])
    )
)
@example(price=Fraction(1, 3))
@example(price=Fraction(10**30, 7))
def test_a_price_that_cannot_be_exact_is_rounded_up(price: Fraction) -> None:
    """Numerator times denominator stay below 2^53; common prices lose less than a ten-millionth."""
    num, den = bounded(price)

    assert den >= 1
    if den > 1:
        assert num * den < 2**53
    if num < 2**52:
        assert Fraction(num, den) >= price
    if Fraction(1, 10) <= price <= 10**9:
        assert Fraction(num, den) - price <= price / 10**7
