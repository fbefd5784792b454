"""Decimals: what is read, what is refused, and the canonical text."""

import decimal
from decimal import Decimal

import pytest

from kit.decimals import exactly, parse_decimal, plain
from kit.errors import InvalidInput, Violation

MALFORMED = "must be a decimal number such as 12.5"
TOO_LONG = "must have at most 38 digits"
TOO_FINE = "must have at most 24 digits after the point"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("0", "0", id="zero"),
        pytest.param("-0", "0", id="zero has no sign"),
        pytest.param("-0.00", "0", id="nor decimals"),
        pytest.param("0e99", "0", id="nor size"),
        pytest.param("12.5", "12.5", id="a fraction"),
        pytest.param("-12.50", "-12.5", id="a trailing zero"),
        pytest.param("+.5", "0.5", id="a sign and no integer part"),
        pytest.param("5.", "5", id="no fraction"),
        pytest.param("00012", "12", id="leading zeros"),
        pytest.param("2.5E-7", "0.00000025", id="an exponent"),
        pytest.param("1e30", "1" + "0" * 30, id="a large exponent"),
        pytest.param("1e-24", "0." + "0" * 23 + "1", id="the finest"),
        pytest.param("9" * 38, "9" * 38, id="the longest integer"),
        pytest.param("9" * 14 + "." + "9" * 24, "9" * 14 + "." + "9" * 24, id="the longest"),
        pytest.param("0" * 50 + "1." + "0" * 50, "1", id="zeros that change nothing"),
    ],
)
def test_a_decimal_is_read_exactly(text: str, value: str) -> None:
    """Whatever the grammar of google.type.Decimal allows means the same number."""
    assert plain(parse_decimal(text, "quantity")) == value


@pytest.mark.parametrize(
    ("text", "description"),
    [
        pytest.param("", "a decimal number is required", id="empty"),
        pytest.param("NaN", MALFORMED, id="not a number"),
        pytest.param("sNaN", MALFORMED, id="signalling"),
        pytest.param("Infinity", MALFORMED, id="infinity"),
        pytest.param("-inf", MALFORMED, id="short infinity"),
        pytest.param("1,5", MALFORMED, id="a comma"),
        pytest.param("1_000", MALFORMED, id="python's underscore"),
        pytest.param("1 000", MALFORMED, id="a space"),
        pytest.param(" 1", MALFORMED, id="a space before"),
        pytest.param("1\n", MALFORMED, id="a line end"),
        pytest.param("\u0661", MALFORMED, id="a digit of another script"),
        pytest.param("0x10", MALFORMED, id="hexadecimal"),
        pytest.param(".", MALFORMED, id="a lone point"),
        pytest.param("1e", MALFORMED, id="a lone exponent"),
        pytest.param("1e99999999999", MALFORMED, id="an exponent beyond measure"),
        pytest.param("1" * 200, MALFORMED, id="a text beyond measure"),
        pytest.param("1" * 40, TOO_LONG, id="forty digits"),
        pytest.param("1e38", TOO_LONG, id="39 digits by exponent"),
        pytest.param("1e9999", TOO_LONG, id="ten thousand digits by exponent"),
        pytest.param("1" * 15 + "." + "1" * 24, TOO_LONG, id="39 digits in all"),
        pytest.param("0." + "1" * 25, TOO_FINE, id="25 decimals"),
        pytest.param("1e-25", TOO_FINE, id="25 decimals by exponent"),
    ],
)
def test_what_is_no_bounded_decimal_is_refused(text: str, description: str) -> None:
    """The error names the field and never repeats the text."""
    with pytest.raises(InvalidInput) as refused:
        parse_decimal(text, "quantity")

    assert refused.value.violations == (Violation("quantity", description),)


def test_a_minimum_includes_itself() -> None:
    """The minimum passes, and the next finer number below does not."""
    assert parse_decimal("1.5", "quantity", minimum=Decimal("1.5")) == Decimal("1.5")
    with pytest.raises(InvalidInput) as refused:
        parse_decimal("1.4999", "quantity", minimum=Decimal("1.5"))

    assert refused.value.violations == (Violation("quantity", "must be at least 1.5"),)


@pytest.mark.parametrize("text", ["123456", "12345.6", "1e5"])
def test_fewer_digits_may_be_asked_for(text: str) -> None:
    """A field with a smaller bound refuses what others take, in every spelling."""
    with pytest.raises(InvalidInput, match="must have at most 5 digits"):
        parse_decimal(text, "quantity", max_digits=5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param("1E+3", "1000", id="no exponent"),
        pytest.param("1E-7", "0.0000001", id="no small exponent"),
        pytest.param("1.50", "1.5", id="no trailing zeros"),
        pytest.param("100", "100", id="zeros of an integer stay"),
        pytest.param("-0.0", "0", id="no sign on zero"),
    ],
)
def test_the_plain_text_is_canonical(value: str, text: str) -> None:
    """Equal numbers have one text."""
    assert plain(Decimal(value)) == text


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_only_finite_numbers_have_a_plain_text(value: str) -> None:
    """NaN and infinities are mistakes of the core."""
    with pytest.raises(ValueError, match="only finite"):
        plain(Decimal(value))


def test_the_exact_context_keeps_what_the_default_one_rounds_away() -> None:
    """28 digits are not enough for a quantity times a price; 100 are."""
    large, small = Decimal(123456789012345678901234), Decimal("0.000000000000000000000001")

    rounded = large + small
    with exactly():
        exact = large + small

    assert plain(rounded) == "123456789012345678901234"
    assert plain(exact) == "123456789012345678901234.000000000000000000000001"


@pytest.mark.parametrize(
    ("compute", "signal"),
    [
        pytest.param(lambda: Decimal(1) / 3, decimal.Inexact, id="a third"),
        pytest.param(lambda: Decimal(1) / 0, decimal.DivisionByZero, id="by zero"),
        pytest.param(lambda: Decimal("NaN") > 0, decimal.InvalidOperation, id="not a number"),
        pytest.param(lambda: Decimal(0.5), decimal.FloatOperation, id="a float"),  # noqa: RUF032 - refused
        pytest.param(lambda: Decimal(1) < 1.5, decimal.FloatOperation, id="compared with one"),
    ],
)
def test_the_exact_context_refuses_what_cannot_be_exact(
    compute: object, signal: type[Exception]
) -> None:
    """Rounding, dividing by zero and binary floats raise instead of answering."""
    assert callable(compute)
    with exactly(), pytest.raises(signal):
        compute()
