"""The fields of rating's messages, one function for each kind.

Every function takes what is written and the path of the field, and raises `InvalidInput` naming it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TypeVar

from google.type.decimal_pb2 import Decimal as DecimalMessage

from kit.decimals import plain
from kit.errors import InvalidInput, Violation, Violations
from kit.money import minor_digits
from kit.rpc.wire import parse_decimal_message
from services.rating.model import AMOUNT_MAX, QUANTITY_MAX, Dimensions, ProductCategory
from tollkeeper.api.rating.v1 import plan_pb2

NAME_LENGTH_MAX = 200
DIMENSION_NAME_LENGTH_MAX = 63
DIMENSION_VALUE_LENGTH_MAX = 128
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


def _at_most(maximum: Decimal, value: Decimal, field: str) -> Decimal:
    """Read dimensions and their values."""
    """Read how something is taxed."""
    """Read the id of a customer."""
    """Read a currency of ISO 4217."""
    """Read what people are shown."""
    """Read the version of a plan; zero is none in particular."""
    """Read a quantity above 0."""
    """Read a quantity, from 0."""
    """Read an amount of money in major units, from 0."""
    """Refuse more entries than the contract allows."""
    if value > maximum:
        raise InvalidInput.of(field, f"must be at most {plain(maximum)}")
    return value
