"""Derives a quantity from an event by an expression of CEL, exactly.

Numbers in an expression are decimals wrapped so that CEL's own arithmetic and comparisons, which
know 64-bit integers and binary fractions, refuse them; functions of this module compute instead.
An expression sees the quantities, the dimensions and the type of one event and nothing else; it
cannot loop, so its work is bounded by its length. Refuses whatever else CEL could do.
"""

import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from typing import Final

import cel

from kit.decimals import EXACT, exactly, parse_decimal, plain
from kit.errors import InvalidInput
from services.meter.model import Amount

DECIMALS_MAX: Final = 18
LENGTH_MAX: Final = 1_000
DIGITS_MAX: Final = 60

Wrapped = dict[str, str]

_WRAPPED = "decimal"
_VARIABLES: Final = frozenset({"quantities", "dimensions", "type"})
# Without `+` and the strictness of `all` there are no comprehensions, and so no loops.
_OPERATORS: Final = frozenset(
    {"_?_:_", "_&&_", "_||_", "!_", "_==_", "_!=_", "@in", "_[_]"}
    | {"startsWith", "endsWith", "contains"}
)
_TEXT = re.compile(r"""r?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""")
_FRACTION = re.compile(r"\d\.\d|(?<![\w)\]])\.\d|\b\d+[eE]")
_QUANTUM = Decimal(1).scaleb(-DECIMALS_MAX)
_DIVIDING = Context(prec=100, rounding=ROUND_HALF_EVEN)


class Expression:
    """A compiled expression; `derive` answers the quantity of one event, or nothing.

    Raises:
        InvalidInput: it is no CEL, or uses what is not allowed; names `field`.
    """

    def __init__(self, source: str, field: str = "expression") -> None:
        if len(source) > LENGTH_MAX:
            raise InvalidInput.of(field, f"must have at most {LENGTH_MAX:,} characters")
        if _FRACTION.search(_TEXT.sub("''", source)):
            raise InvalidInput.of(field, "must write fractions as texts, such as decimal('1.5')")
        try:
            self._program = cel.compile(source)
        except ValueError as error:
            raise InvalidInput.of(field, "is not an expression of CEL") from error
        self._context = cel.Context(
            functions={name: _or_null(function) for name, function in _FUNCTIONS.items()}
        )
        unknown = set(self._program.variables()) - _VARIABLES
        unknown |= set(self._program.functions()) - _OPERATORS - _FUNCTIONS.keys()
        if unknown:
            names = ", ".join(sorted(unknown))
            raise InvalidInput.of(field, f"may not use {names}")

    def derive(
        self, quantities: Mapping[str, Amount], dimensions: Mapping[str, str], event_type: str
    ) -> Amount | None:
        """Answer what the expression makes of an event: nothing where it fails or is negative."""
        self._context.add_variable(
            "quantities", {name: _wrap(Decimal(amount)) for name, amount in quantities.items()}
        )
        self._context.add_variable("dimensions", dict(dimensions))
        self._context.add_variable("type", event_type)
        try:
            value = _unwrap(self._program.execute(self._context))
        except (TypeError, KeyError, ValueError, RuntimeError, OverflowError):
            return None
        return _bounded(value)


def _bounded(value: Decimal) -> Amount | None:
    """Bring a result to the digits that a quantity may have."""
    if value < 0:
        return None
    rounded = value.quantize(_QUANTUM, ROUND_HALF_EVEN, _DIVIDING)
    written = plain(rounded)
    if len(written.replace(".", "")) > DIGITS_MAX:
        return None
    return Decimal(written) if "." in written else int(written)


def _wrap(value: Decimal) -> Wrapped:
    return {_WRAPPED: plain(value)}


def _unwrap(value: object) -> Decimal:
    if isinstance(value, dict) and isinstance(value.get(_WRAPPED), str):
        return Decimal(value[_WRAPPED])
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    raise TypeError("a number is a quantity, a whole number or decimal('…')")


def _or_null(function: Callable[..., object]) -> Callable[..., object]:
    """Let a function answer null where it cannot compute; nothing takes null for a number.

    What a function raises, the library would also write into the log: for every such event.
    """

    def answer(*arguments: object) -> object:
        try:
            return function(*arguments)
        except (ArithmeticError, TypeError, ValueError):
            return None

    return answer


def _decimal(text: object) -> Wrapped:
    if not isinstance(text, str):
        raise TypeError("decimal() takes a text")
    try:
        return _wrap(parse_decimal(text, "decimal"))
    except InvalidInput as error:
        raise ValueError(error.message) from error


def _or_zero(quantities: object, name: object) -> object:
    if not isinstance(quantities, dict):
        raise TypeError("or_zero() takes the quantities and a name")
    return quantities.get(name, _wrap(Decimal(0)))


def _computing(compute: Callable[[Decimal, Decimal], Decimal]) -> Callable[..., Wrapped]:
    def function(left: object, right: object) -> Wrapped:
        with exactly():
            return _wrap(compute(_unwrap(left), _unwrap(right)))

    return function


def _comparing(compare: Callable[[Decimal, Decimal], bool]) -> Callable[..., bool]:
    return lambda left, right: compare(_unwrap(left), _unwrap(right))


def _rounding(mode: str) -> Callable[..., Wrapped]:
    def function(value: object, digits: object) -> Wrapped:
        places = int(_unwrap(digits))
        if abs(places) > DECIMALS_MAX:
            raise ValueError("at most 18 digits")
        rounded = _unwrap(value).quantize(Decimal(1).scaleb(-places), mode, _DIVIDING)
        return _wrap(rounded)

    return function


def _divide(left: object, right: object) -> Wrapped:
    quotient = _DIVIDING.divide(_unwrap(left), _unwrap(right))
    return _wrap(quotient.quantize(_QUANTUM, ROUND_HALF_EVEN, _DIVIDING))


_FUNCTIONS: Final[Mapping[str, Callable[..., object]]] = {
    "add": _computing(EXACT.add),
    "sub": _computing(EXACT.subtract),
    "mul": _computing(EXACT.multiply),
    "div": _divide,
    "least": _computing(min),
    "greatest": _computing(max),
    "more": _comparing(lambda left, right: left > right),
    "less": _comparing(lambda left, right: left < right),
    "same": _comparing(lambda left, right: left == right),
    "round": _rounding(ROUND_HALF_UP),
    "ceil": _rounding(ROUND_CEILING),
    "floor": _rounding(ROUND_FLOOR),
    "decimal": _decimal,
    "or_zero": _or_zero,
}
