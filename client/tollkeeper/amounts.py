"""Amounts as people write them, and as the gate counts them.

The gate counts integer quanta: one for every unit that counts things, one millionth for `seconds`
and for currencies. Floats are refused, because a float is not the amount it was written as.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal

from tollkeeper.api.quota.v1.quota_pb2 import Amount

Number = int | Decimal

MILLIONTHS = 1_000_000


def quanta_per_unit(unit: str) -> int:
    """Return how many quanta make one of the unit: 1, or 1,000,000 for time and money."""
    is_currency = len(unit) == len("USD") and unit.isalpha() and unit.isupper()
    return MILLIONTHS if unit == "seconds" or is_currency else 1


def to_quanta(unit: str, value: Number) -> int:
    """Return the amount in quanta.

    Raises:
        TypeError: the amount is neither an int nor a Decimal.
        ValueError: the amount is negative, not finite, or finer than one quantum.
    """
    if type(value) is int:
        if value < 0:
            raise ValueError(f"{unit} is {value}, but an amount is never negative")
        return value * quanta_per_unit(unit)
    if not isinstance(value, Decimal):
        kind = type(value).__name__
        raise TypeError(f"{unit} is a {kind}, but an amount is an int or a Decimal")
    if not value.is_finite() or value < 0:
        raise ValueError(f"{unit} is {value}, but an amount is finite and never negative")
    quanta = value * quanta_per_unit(unit)
    if quanta != quanta.to_integral_value():
        step = Decimal(1) / quanta_per_unit(unit)
        raise ValueError(f"{unit} is {value}, but the smallest step of this unit is {step}")
    return int(quanta)


def from_quanta(unit: str, quanta: int) -> Number:
    """Return quanta as an amount of the unit: an int where the unit counts things."""
    per_unit = quanta_per_unit(unit)
    return quanta if per_unit == 1 else Decimal(quanta) / per_unit


def render_amounts(amounts: Mapping[str, Number]) -> list[Amount]:
    """Return the amounts as messages."""
    return [Amount(unit=unit, quantity=to_quanta(unit, value)) for unit, value in amounts.items()]


def parse_amounts(amounts: Iterable[Amount]) -> dict[str, Number]:
    """Return amounts of an answer by their units."""
    return {amount.unit: from_quanta(amount.unit, amount.quantity) for amount in amounts}


def decimal_text(name: str, value: Number) -> str:
    """Return a quantity of a usage event as plain decimal text.

    Raises:
        TypeError: the quantity is neither an int nor a Decimal.
    """
    if type(value) is int:
        return str(value)
    if not isinstance(value, Decimal):
        kind = type(value).__name__
        raise TypeError(f"{name} is a {kind}, but a quantity is an int or a Decimal")
    return format(value, "f")
