"""Amounts as people write them, and as the gate counts them."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import pytest

from tollkeeper.amounts import Number, decimal_text, from_quanta, to_quanta


@dataclass(frozen=True)
class Case:
    """An amount in its unit, and the quanta that the gate counts."""

    id: str
    unit: str
    amount: Number
    quanta: int


CASES = [
    Case("tokens count whole", "input_tokens", 1200, 1200),
    Case("a whole decimal is a count", "requests", Decimal("3.0"), 3),
    Case("seconds count millionths", "seconds", Decimal("2.5"), 2_500_000),
    Case("whole seconds too", "seconds", 2, 2_000_000),
    Case("a currency counts millionths", "USD", Decimal("0.000001"), 1),
    Case("three small letters are no currency", "gpu", 7, 7),
    Case("nothing is nothing", "output_tokens", 0, 0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_amount_becomes_quanta_and_comes_back(case: Case) -> None:
    """Quanta are exact in both directions."""
    assert to_quanta(case.unit, case.amount) == case.quanta
    assert from_quanta(case.unit, case.quanta) == case.amount


@dataclass(frozen=True)
class BadCase:
    """An amount that is refused, and what the error must say."""

    id: str
    unit: str
    amount: object
    error: type[Exception]
    says: str


BAD_CASES = [
    BadCase("a float", "seconds", 2.5, TypeError, "seconds is a float"),
    BadCase("a text", "requests", "1", TypeError, "requests is a str"),
    BadCase("a truth value", "requests", amount=True, error=TypeError, says="requests is a bool"),
    BadCase("below zero", "requests", -1, ValueError, "never negative"),
    BadCase("not a number", "seconds", Decimal("NaN"), ValueError, "finite"),
    BadCase("too fine for a count", "requests", Decimal("0.5"), ValueError, "smallest step"),
    BadCase("too fine for money", "EUR", Decimal("0.0000001"), ValueError, "smallest step"),
]


@pytest.mark.parametrize("case", BAD_CASES, ids=lambda case: case.id)
def test_what_is_no_amount_is_refused_by_name(case: BadCase) -> None:
    """The error names the unit and the reason, before anything is sent."""
    with pytest.raises(case.error, match=case.says) as caught:
        to_quanta(case.unit, case.amount)  # type: ignore[arg-type]  # the point of the case
    assert case.unit in str(caught.value)


def test_a_quantity_keeps_every_digit() -> None:
    """Usage events carry plain decimal text, never an exponent."""
    assert decimal_text("gpu_hours", Decimal("1E-18")) == "0.000000000000000001"
    assert decimal_text("gpu_hours", Decimal("12E+3")) == "12000"


def test_a_float_quantity_is_refused() -> None:
    """A float is not the quantity it was written as."""
    with pytest.raises(TypeError, match="gpu_hours is a float"):
        decimal_text("gpu_hours", 0.1)  # type: ignore[arg-type]  # the point of the test
