"""Money: currencies of ISO 4217, settling in each mode, and splitting without loss."""

from decimal import Decimal

import pytest

from kit.decimals import exactly
from kit.errors import InvalidInput, Violation
from kit.money import Money, Rounding, minor_digits, settle

BIGINT_MAX = 2**63 - 1


@pytest.mark.parametrize(
    ("currency", "digits"),
    [
        pytest.param("EUR", 2, id="most currencies have cents"),
        pytest.param("JPY", 0, id="yen has none"),
        pytest.param("KRW", 0, id="won has none"),
        pytest.param("VND", 0, id="dong has none"),
        pytest.param("KWD", 3, id="dinar has thousandths"),
        pytest.param("JOD", 3, id="jordanian dinar has thousandths"),
        pytest.param("CLF", 4, id="unidad de fomento"),
        pytest.param("UYW", 4, id="unidad previsional"),
        pytest.param("ISK", 0, id="krona lost its aurar in ISO 4217 too"),
        pytest.param("HUF", 2, id="forint: ISO has filler, nobody has coins"),
        pytest.param("IDR", 2, id="rupiah: ISO has sen, nobody has coins"),
        pytest.param("COP", 2, id="colombian peso: ISO has centavos"),
        pytest.param("IQD", 3, id="iraqi dinar: CLDR says 0, ISO 3"),
        pytest.param("LBP", 2, id="lebanese pound: CLDR says 0, ISO 2"),
        pytest.param("UGX", 0, id="ugandan shilling: none since 2013"),
        pytest.param("MRU", 2, id="ouguiya: fifths, which ISO writes as 2"),
        pytest.param("BGN", 2, id="withdrawn, but old documents name it"),
    ],
)
def test_minor_digits_are_those_of_iso_4217(currency: str, digits: int) -> None:
    """Where CLDR, which counts coins, differs from ISO, ISO wins."""
    assert minor_digits(currency) == digits


@pytest.mark.parametrize("code", ["", "eur", "EURO", "XXX", "XAU", "XDR", "ABC", "E R"])
def test_what_is_no_currency_is_refused(code: str) -> None:
    """Unknown codes, other spellings, and units that are no money, such as gold, are refused."""
    with pytest.raises(InvalidInput) as refused:
        minor_digits(code)

    assert refused.value.violations == (
        Violation("currency", "must be a currency of ISO 4217, such as EUR"),
    )


@pytest.mark.parametrize(
    ("rounding", "settled"),
    [
        pytest.param(Rounding.HALF_UP, [101, -101, 102, 100, 101], id="half up"),
        pytest.param(Rounding.HALF_EVEN, [100, -100, 102, 100, 101], id="half even"),
        pytest.param(Rounding.UP, [101, -101, 102, 101, 101], id="away from zero"),
        pytest.param(Rounding.DOWN, [100, -100, 101, 100, 100], id="towards zero"),
        pytest.param(Rounding.CEILING, [101, -100, 102, 101, 101], id="ceiling"),
        pytest.param(Rounding.FLOOR, [100, -101, 101, 100, 100], id="floor"),
    ],
)
def test_settling_follows_the_named_mode(rounding: Rounding, settled: list[int]) -> None:
    """Ties, both signs, and neighbours of a tie, in each mode."""
    amounts = ["1.005", "-1.005", "1.015", "1.0049999999999999999999999", "1.0050000000000001"]

    assert [settle(Decimal(amount), "EUR", rounding) for amount in amounts] == [
        Money("EUR", units) for units in settled
    ]


@pytest.mark.parametrize(
    ("amount", "currency", "minor_units"),
    [
        pytest.param("1234.5", "JPY", 1235, id="no decimals"),
        pytest.param("1.2345", "KWD", 1235, id="three decimals"),
        pytest.param("1.23445", "CLF", 12345, id="four decimals"),
        pytest.param("0", "EUR", 0, id="nothing"),
        pytest.param("0E+400", "EUR", 0, id="nothing, written large"),
        pytest.param("1E-400", "EUR", 0, id="next to nothing"),
        pytest.param("92233720368547758.07", "EUR", BIGINT_MAX, id="the largest"),
        pytest.param("-92233720368547758.07", "EUR", -BIGINT_MAX, id="the smallest"),
    ],
)
def test_settling_knows_the_digits_of_the_currency(
    amount: str, currency: str, minor_units: int
) -> None:
    """An amount in major units becomes whole minor units of its currency."""
    assert settle(Decimal(amount), currency, Rounding.HALF_UP) == Money(currency, minor_units)


def test_settling_is_the_same_inside_the_exact_context() -> None:
    """The one function that rounds rounds where everything else refuses to."""
    with exactly():
        assert settle(Decimal("0.005"), "EUR", Rounding.HALF_UP) == Money("EUR", 1)


@pytest.mark.parametrize("amount", ["92233720368547758.08", "-92233720368547758.08", "1E+400"])
def test_an_amount_beyond_64_bits_is_refused(amount: str) -> None:
    """What neither the database nor the wire can hold never becomes money."""
    with pytest.raises(InvalidInput) as refused:
        settle(Decimal(amount), "EUR", Rounding.HALF_UP)

    assert refused.value.violations == (Violation("amount", "is too large for EUR"),)


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_never_settled(amount: str) -> None:
    """NaN and infinities are mistakes of the core, not input."""
    with pytest.raises(ValueError, match="only finite amounts"):
        settle(Decimal(amount), "EUR", Rounding.HALF_UP)


@pytest.mark.parametrize("minor_units", [True, 1.0, Decimal(1), "1"])
def test_minor_units_are_integers(minor_units: object) -> None:
    """Nothing that merely looks like an integer becomes money."""
    with pytest.raises(TypeError, match="whole numbers"):
        Money("EUR", minor_units)  # type: ignore[arg-type]


def test_money_of_one_currency_adds_up() -> None:
    """Sum, difference, opposite and nothing behave as those of integers."""
    price, discount = Money("EUR", 1999), Money("EUR", 500)

    assert [price + discount, price - discount, -price, price + Money.zero("EUR")] == [
        Money("EUR", 2499),
        Money("EUR", 1499),
        Money("EUR", -1999),
        price,
    ]


def test_money_of_two_currencies_never_mixes() -> None:
    """Adding or subtracting across currencies is refused, even of nothing."""
    with pytest.raises(InvalidInput, match="USD cannot be combined with EUR"):
        Money("EUR", 1) + Money.zero("USD")
    with pytest.raises(InvalidInput, match="EUR cannot be combined with USD"):
        Money("USD", 1) - Money("EUR", 1)


@pytest.mark.parametrize(
    ("money", "amount"),
    [
        pytest.param(Money("EUR", 1999), "19.99", id="cents"),
        pytest.param(Money("EUR", -5), "-0.05", id="negative, less than one"),
        pytest.param(Money("JPY", 1999), "1999", id="no decimals"),
        pytest.param(Money("KWD", 1), "0.001", id="three decimals"),
        pytest.param(Money("EUR", 100), "1.00", id="keeps the currency's decimals"),
    ],
)
def test_money_is_shown_in_major_units(money: Money, amount: str) -> None:
    """The decimal has exactly the decimals of the currency."""
    assert str(money.to_decimal()) == amount


@pytest.mark.parametrize(
    ("minor_units", "weights", "parts"),
    [
        pytest.param(100, [1, 1, 1], [34, 33, 33], id="a tie goes to the first"),
        pytest.param(-100, [1, 1, 1], [-34, -33, -33], id="a refund splits as the charge"),
        pytest.param(100, [50, 30, 20], [50, 30, 20], id="exact shares stay exact"),
        pytest.param(10, [1, 2, 4], [1, 3, 6], id="the largest remainders get the rest"),
        pytest.param(5, [0, 1, 0, 1], [0, 3, 0, 2], id="no weight, no money"),
        pytest.param(2, [1, 1, 1], [1, 1, 0], id="fewer units than parts"),
        pytest.param(
            100, [Decimal("0.1"), Decimal("0.2")], [33, 67], id="decimal weights are exact"
        ),
        pytest.param(7, [Decimal("1E-24"), 10**18], [0, 7], id="weights far apart"),
        pytest.param(0, [0, 0], [0, 0], id="nothing over nothing"),
        pytest.param(0, [], [], id="nothing over nobody"),
        pytest.param(BIGINT_MAX, [1, 1], [BIGINT_MAX // 2 + 1, BIGINT_MAX // 2], id="the largest"),
    ],
)
def test_allocation_follows_the_largest_remainder(
    minor_units: int, weights: list[int | Decimal], parts: list[int]
) -> None:
    """Each part is the whole of its exact share, and the units left go to the largest rests."""
    allocated = Money("EUR", minor_units).allocate(weights)

    assert allocated == tuple(Money("EUR", part) for part in parts)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param([1, -1], "never negative", id="a negative weight"),
        pytest.param([0, 0], "over nothing", id="no weight at all"),
        pytest.param([], "over nothing", id="no part at all"),
    ],
)
def test_an_amount_is_never_allocated_over_nothing(weights: list[int], message: str) -> None:
    """Money that no part can take is a mistake of the core."""
    with pytest.raises(ValueError, match=message):
        Money("EUR", 100).allocate(weights)
