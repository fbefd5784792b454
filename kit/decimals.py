"""Exact decimal arithmetic and the canonical text of a number.

Refuses what cannot be exact: NaN, infinities, binary floats, and numbers longer than
PostgreSQL, the wire and a reader can carry. It never rounds; only `kit.money.settle` does.
"""

import decimal
import re
from contextlib import AbstractContextManager
from decimal import Decimal

from kit.errors import InvalidInput

DIGITS_MAX = 38
DECIMALS_MAX = 24

EXACT = decimal.Context(
    prec=100,
    traps=[
        decimal.DivisionByZero,
        decimal.FloatOperation,
        decimal.Inexact,
        decimal.InvalidOperation,
        decimal.Overflow,
    ],
)
"""The context of the core: an operation whose exact result needs over 100 digits raises."""

_TEXT_LENGTH_MAX = 128
_ZERO = Decimal(0)
_PLAIN_AND_SHORT = re.compile(r"-?[0-9]{1,14}(?:\.[0-9]{1,24})?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")


def exactly() -> AbstractContextManager[decimal.Context]:
    """Compute exactly inside the block; the default context would silently round at 28 digits."""
    return decimal.localcontext(EXACT)


def parse_decimal(
    text: str, field: str, *, minimum: Decimal | None = None, max_digits: int = DIGITS_MAX
) -> Decimal:
    """Read a decimal such as `-12.5` or `2.5E-7`: at most `max_digits` digits, 24 after the point.

    Zeros that change nothing, leading or trailing, do not count as digits.

    Raises:
        InvalidInput: naming `field`.
    """
    if _PLAIN_AND_SHORT.fullmatch(text):
        value = Decimal(text)
        if max_digits < DIGITS_MAX:
            _check_length(value, field, max_digits)
    else:
        value = _parse_unusual(text, field, max_digits)
    if minimum is not None and value < minimum:
        raise InvalidInput.of(field, f"must be at least {plain(minimum)}")
    return value or _ZERO


def plain(value: Decimal) -> str:
    """Write the canonical text: no exponent, no trailing zeros, no sign on zero."""
    if not value.is_finite():
        raise ValueError("only finite numbers have a plain text")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _parse_unusual(text: str, field: str, max_digits: int) -> Decimal:
    if not text:
        raise InvalidInput.of(field, "a decimal number is required")
    if len(text) > _TEXT_LENGTH_MAX or not _DECIMAL.fullmatch(text):
        raise InvalidInput.of(field, "must be a decimal number such as 12.5")
    value = Decimal(text)
    _check_length(value, field, max_digits)
    return Decimal(plain(value))


def _check_length(value: Decimal, field: str, max_digits: int) -> None:
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "the grammar admits finite numbers only"
    coefficient = "".join(map(str, digits)).rstrip("0")
    if not coefficient:
        return
    exponent += len(digits) - len(coefficient)
    decimals = max(-exponent, 0)
    if decimals > DECIMALS_MAX:
        raise InvalidInput.of(field, f"must have at most {DECIMALS_MAX} digits after the point")
    if max(len(coefficient) + max(exponent, 0), decimals) > max_digits:
        raise InvalidInput.of(field, f"must have at most {max_digits} digits")
