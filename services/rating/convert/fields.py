"""The fields of rating's messages, one function for each kind.

Every function takes what is written and the path of the field, and raises `InvalidInput` naming it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from itertools import pairwise
from typing import TypeVar
from zoneinfo import ZoneInfo, available_timezones

from google.protobuf.message import Message
from google.type.decimal_pb2 import Decimal as DecimalMessage

from kit.decimals import plain
from kit.errors import InvalidInput, Violation, Violations
from kit.interval import Interval
from kit.money import minor_digits
from kit.rpc.wire import parse_decimal_message, render_decimal
from services.rating.model import AMOUNT_MAX, DIMENSIONS_MAX, QUANTITY_MAX, ProductCategory
from services.rating.prices import Dimensions
from tollkeeper.api.rating.v1 import plan_pb2

NAME_LENGTH_MAX = 200
DIMENSION_NAME_LENGTH_MAX = 63
DIMENSION_VALUE_LENGTH_MAX = 128
PERCENT_MAX = Decimal(1_000_000)
CREDIT_RATE_MAX = Decimal(10_000)
RATE_DECIMALS_MAX = 12
PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"

Written = TypeVar("Written")
Parsed = TypeVar("Parsed")

_ZERO = Decimal(0)
_CUSTOMER_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")
_CATEGORIES: Mapping[int, ProductCategory] = {
    plan_pb2.PRODUCT_CATEGORY_UNSPECIFIED: ProductCategory.ELECTRONIC_SERVICE,
    plan_pb2.PRODUCT_CATEGORY_ELECTRONIC_SERVICE: ProductCategory.ELECTRONIC_SERVICE,
    plan_pb2.PRODUCT_CATEGORY_PROFESSIONAL_SERVICE: ProductCategory.PROFESSIONAL_SERVICE,
}
_CATEGORY_NUMBERS = {
    ProductCategory.ELECTRONIC_SERVICE: plan_pb2.PRODUCT_CATEGORY_ELECTRONIC_SERVICE,
    ProductCategory.PROFESSIONAL_SERVICE: plan_pb2.PRODUCT_CATEGORY_PROFESSIONAL_SERVICE,
}


def take(
    violations: Violations, field: str, parse: Callable[[Written, str], Parsed], written: Written
) -> Parsed:
    """Parse one field; see `Violations.take` for what is answered when it is bad."""
    return violations.take(field, lambda: parse(written, field))


def take_each(
    messages: Sequence[Written], field: str, parse: Callable[[Written, str], Parsed]
) -> tuple[Parsed, ...]:
    """Parse every message of a list, and name each bad field of any.

    Raises:
        InvalidInput: some are bad.
    """
    violations = Violations()
    parsed = tuple(
        take(violations, f"{field}[{index}]", parse, message)
        for index, message in enumerate(messages)
    )
    violations.raise_if_any()
    return parsed


def check_ascending(
    violations: Violations, intervals: Iterable[Interval], named: Callable[[int], str]
) -> None:
    """Note intervals that begin before the one before them ends, by their place in the list."""
    for index, (earlier, later) in enumerate(pairwise(intervals), 1):
        if earlier.end > later.start:
            violations.add(named(index), "must not begin before the one before ends")


def check_length(
    items: Sequence[object], field: str, maximum: int, reason: str = PAYLOAD_TOO_LARGE
) -> None:
    """Refuse more entries than the contract allows."""
    if len(items) > maximum:
        violation = Violation(field, f"must have at most {maximum} entries")
        raise InvalidInput(
            reason,
            f"{field} {violation.description}",
            metadata={"maximum": str(maximum)},
            violations=(violation,),
        )


def parse_amount(message: DecimalMessage, field: str) -> Decimal:
    """Read an amount of money in major units, from 0."""
    return _at_most(AMOUNT_MAX, parse_decimal_message(message, field, minimum=_ZERO), field)


def parse_quantity(message: DecimalMessage, field: str) -> Decimal:
    """Read a quantity, from 0."""
    return _at_most(QUANTITY_MAX, parse_decimal_message(message, field, minimum=_ZERO), field)


def parse_positive_quantity(message: DecimalMessage, field: str) -> Decimal:
    """Read a quantity above 0."""
    quantity = parse_quantity(message, field)
    if not quantity:
        raise InvalidInput.of(field, "must be above 0")
    return quantity


def parse_version(version: int, field: str) -> int | None:
    """Read the version of a plan; zero is none in particular."""
    if version < 0:
        raise InvalidInput.of(field, "must not be negative")
    return version or None


def parse_name(text: str, field: str) -> str:
    """Read what people are shown."""
    if len(text) > NAME_LENGTH_MAX:
        raise InvalidInput.of(field, f"must have at most {NAME_LENGTH_MAX} characters")
    if not text.isprintable():
        raise InvalidInput.of(field, "must have printable characters only")
    return text


def parse_currency(code: str, field: str) -> str:
    """Read a currency of ISO 4217."""
    try:
        minor_digits(code)
    except InvalidInput as error:
        raise InvalidInput.of(field, error.violations[0].description) from error
    return code


def parse_customer_id(text: str, field: str) -> str:
    """Read the id of a customer."""
    if not text:
        raise InvalidInput.of(field, "is required")
    if not _CUSTOMER_ID.fullmatch(text):
        raise InvalidInput.of(
            field, "must be 1 to 64 characters out of letters, digits and '_', '.', ':', '@', '-'"
        )
    return text


def parse_category(number: int, field: str) -> ProductCategory:
    """Read how something is taxed."""
    category = _CATEGORIES.get(number)
    if category is None:
        raise InvalidInput.of(field, "must be a category of the contract")
    return category


def parse_dimensions(values: Mapping[str, str], field: str, length_max: int) -> Dimensions:
    """Read dimensions and their values."""
    if len(values) > length_max:
        raise InvalidInput.of(field, f"must have at most {length_max} entries")
    violations = Violations()
    for name, value in sorted(values.items()):
        if not 0 < len(name) <= DIMENSION_NAME_LENGTH_MAX:
            violations.add(field, f"names must have 1 to {DIMENSION_NAME_LENGTH_MAX} characters")
        elif not 0 < len(value) <= DIMENSION_VALUE_LENGTH_MAX:
            violations.add(
                f"{field}.{name}", f"must have 1 to {DIMENSION_VALUE_LENGTH_MAX} characters"
            )
    violations.raise_if_any()
    return tuple(sorted(values.items()))


def render_category(category: ProductCategory) -> plan_pb2.ProductCategory.ValueType:
    """Write how something is taxed."""
    return _CATEGORY_NUMBERS[category]


def parse_percent(message: DecimalMessage, field: str) -> Decimal:
    """Read a percentage, from 0."""
    percent = parse_decimal_message(message, field, minimum=_ZERO)
    return _with_decimals(RATE_DECIMALS_MAX, _at_most(PERCENT_MAX, percent, field), field)


def parse_credit_rate(message: DecimalMessage, field: str) -> Decimal:
    """Read what a credit is worth, above 0."""
    rate = parse_decimal_message(message, field, minimum=_ZERO)
    if not rate:
        raise InvalidInput.of(field, "must be above 0")
    return _with_decimals(RATE_DECIMALS_MAX, _at_most(CREDIT_RATE_MAX, rate, field), field)


def parse_price_dimensions(values: Mapping[str, str], field: str) -> Dimensions:
    """Read the filter of a price or of a row."""
    return parse_dimensions(values, field, DIMENSIONS_MAX)


def parse_quantity_name(text: str, field: str) -> str:
    """Read the name of a quantity of usage events."""
    if not 0 < len(text) <= DIMENSION_NAME_LENGTH_MAX:
        raise InvalidInput.of(field, f"must have 1 to {DIMENSION_NAME_LENGTH_MAX} characters")
    return text


def parse_time_zone(name: str, field: str) -> ZoneInfo:
    """Read the name of an IANA time zone; an empty one is UTC."""
    if name and name not in _time_zones():
        raise InvalidInput.of(field, "must be an IANA time zone such as Europe/Berlin")
    return ZoneInfo(name or "UTC")


def amount_or_zero(violations: Violations, field: str, message: Message) -> Decimal:
    """Read an amount that may be absent; the last part of the path is its name."""
    return decimal_or(_ZERO, violations, field, message, parse_amount)


def decimal_or(
    absent: Parsed,
    violations: Violations,
    field: str,
    message: Message,
    parse: Callable[[DecimalMessage, str], Parsed],
) -> Parsed:
    """Read a number, or answer what its absence means; the last part of the path is its name."""
    name = field.rpartition(".")[2]
    if not message.HasField(name):
        return absent
    return take(violations, field, parse, getattr(message, name))


def render_optional(value: Decimal | None) -> DecimalMessage | None:
    """Write a number that may be absent."""
    return None if value is None else render_decimal(value)


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _with_decimals(maximum: int, value: Decimal, field: str) -> Decimal:
    exponent = value.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > maximum:
        raise InvalidInput.of(field, f"must have at most {maximum} digits after the point")
    return value


def _at_most(maximum: Decimal, value: Decimal, field: str) -> Decimal:
    if value > maximum:
        raise InvalidInput.of(field, f"must be at most {plain(maximum)}")
    return value
