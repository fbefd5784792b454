"""The fields that calls and limits share: subjects, dimensions, units, quantities and holds.

What was read once is remembered, because a gateway sends the same few subjects and units again
and again. Only what is valid is remembered.
"""

import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from functools import lru_cache

from google.protobuf.message import DecodeError

from kit.errors import InvalidInput, Violations
from kit.money import minor_digits
from services.quota.model import (
    HOLDS,
    QUANTITY_MAX,
    Amounts,
    Dimensions,
    HoldId,
    Subject,
)
from tollkeeper.api.quota.v1 import quota_pb2, quota_service_pb2
from tollkeeper.api.type.v1 import subject_pb2

UNITS_MAX = 16
UNIT_RULE = "must be 1 to 63 characters of a-z, 0-9 and '_', or a currency such as USD"
CALL_DIMENSIONS_MAX = 16

_REMEMBERED_MAX = 65_536
_DIMENSION_LENGTH_MAX = 128
_SUBJECT_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")
_UNIT = re.compile(r"[a-z0-9_]{1,63}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_HOLD_NAME = re.compile(r"[a-z0-9-]{1,240}")
_SUBJECT_FIELDS = ("customer_id", "project_id", "user_id", "key_id", "run_id")


def parse_subject(message: subject_pb2.Subject, field: str) -> Subject:
    """Read the path of a call; the customer is required."""
    try:
        return read_subject(message.SerializeToString())
    except InvalidInput:
        violations = Violations()
        violations.take(field, lambda: parse_path(message))
        if not message.customer_id:
            violations.add(f"{field}.customer_id", "is required")
        violations.raise_if_any()
        raise


def parse_path(message: subject_pb2.Subject) -> Subject:
    """Read a path of which any id may be left out."""
    violations = Violations()
    ids = [getattr(message, name) for name in _SUBJECT_FIELDS]
    for name, value in zip(_SUBJECT_FIELDS, ids, strict=True):
        if value and not _SUBJECT_ID.fullmatch(value):
            violations.add(name, "must be 1 to 64 letters, digits and '_', '.', ':', '@', '-'")
    violations.raise_if_any()
    return Subject(*ids)


def parse_customer_id(customer_id: str) -> str:
    """Read a customer who must be named."""
    if not customer_id:
        raise InvalidInput.of("customer_id", "is required")
    return parse_path(subject_pb2.Subject(customer_id=customer_id)).customer


def render_subject(subject: Subject) -> subject_pb2.Subject:
    """Write a path."""
    return subject_pb2.Subject(**dict(zip(_SUBJECT_FIELDS, subject, strict=True)))


def parse_dimensions(given: Mapping[str, str], field: str, *, count_max: int) -> Dimensions:
    """Read dimensions, in the order of their names."""
    if not given:
        return ()
    dimensions = tuple(sorted(given.items()))
    if len(dimensions) > count_max:
        raise InvalidInput.of(field, f"must have at most {count_max} entries")
    if not _are_dimensions(dimensions):
        raise InvalidInput.of(
            field, f"names must not be empty, names and values at most {_DIMENSION_LENGTH_MAX} long"
        )
    return dimensions


def parse_amounts(given: Sequence[quota_pb2.Amount], field: str) -> Amounts:
    """Read amounts, each unit once."""
    amounts = {amount.unit: amount.quantity for amount in given}
    if not amounts:
        return amounts
    quantities = amounts.values()
    if (
        len(amounts) != len(given)
        or min(quantities) < 0
        or max(quantities) > QUANTITY_MAX
        or not _are_units(tuple(amounts))
    ):
        _refuse_amounts(given, field)
    if len(amounts) > UNITS_MAX:
        raise InvalidInput.of(field, f"must have at most {UNITS_MAX} units")
    return amounts


def parse_some_amounts(given: Sequence[quota_pb2.Amount], field: str) -> Amounts:
    """Read amounts, of which there must be one."""
    amounts = parse_amounts(given, field)
    if not amounts:
        raise InvalidInput.of(field, "is required")
    return amounts


def parse_hold(reservation_id: str, field: str) -> HoldId:
    """Read the id of a hold: its name, a dot, and the customer, so that his counters are found."""
    name, _, customer = reservation_id.partition(".")
    if _HOLD_NAME.fullmatch(name) and _SUBJECT_ID.fullmatch(customer):
        return HoldId(name, customer)
    name, is_degraded, call = name.partition("~")
    if is_degraded and _HOLD_NAME.fullmatch(name) and _SUBJECT_ID.fullmatch(customer):
        return HoldId(name, customer, _read_call(call, customer, field))
    if not reservation_id:
        raise InvalidInput.of(field, "is required")
    raise InvalidInput.of(field, "must be the reservation_id of a ReserveResponse")


def parse_quantity(quantity: int, field: str) -> int:
    """Read a number of quanta."""
    if not 0 <= quantity <= QUANTITY_MAX:
        raise InvalidInput.of(field, f"must be from 0 to {QUANTITY_MAX:,}")
    return quantity


def render_degraded_hold(name: str, subject: Subject, dimensions: Dimensions) -> str:
    """Write the id of a hold that no counter may know of: it says itself whose call it is for."""
    message = quota_service_pb2.CheckRequest(
        subject=render_subject(subject), dimensions=dict(dimensions)
    )
    message.subject.ClearField("customer_id")
    call = urlsafe_b64encode(message.SerializeToString(deterministic=True)).decode()
    return f"{name}~{call}.{subject.customer}"


def _read_call(text: str, customer: str, field: str) -> tuple[Subject, Dimensions]:
    """Read whose call a hold was made for out of its id, by the rules for what callers write."""
    try:
        message = quota_service_pb2.CheckRequest.FromString(b64decode(text, b"-_", validate=True))
        message.subject.customer_id = customer
        return (
            parse_subject(message.subject, field),
            parse_dimensions(message.dimensions, field, count_max=CALL_DIMENSIONS_MAX),
        )
    except (InvalidInput, DecodeError, ValueError):
        raise InvalidInput.of(field, "must be the reservation_id of a ReserveResponse") from None


@lru_cache(maxsize=_REMEMBERED_MAX)
def _are_units(units: tuple[str, ...]) -> bool:
    return HOLDS not in units and all(map(is_unit, units))


def is_unit(unit: str) -> bool:
    """Tell whether this may be a unit: a lower-case name, or a currency of ISO 4217."""
    return bool(_UNIT.fullmatch(unit)) or is_currency(unit)


def is_currency(unit: str) -> bool:
    """Tell whether this is a currency of ISO 4217."""
    if not _CURRENCY.fullmatch(unit):
        return False
    try:
        minor_digits(unit)
    except InvalidInput:
        return False
    return True


def _refuse_amounts(given: Sequence[quota_pb2.Amount], field: str) -> None:
    violations = Violations()
    seen: set[str] = set()
    for place, amount in enumerate(given):
        where = f"{field}[{place}]"
        if amount.unit == HOLDS:
            violations.add(f"{where}.unit", "holds are counted by themselves: one each reserve")
        elif not is_unit(amount.unit):
            violations.add(
                f"{where}.unit",
                UNIT_RULE,
            )
        elif amount.unit in seen:
            violations.add(f"{where}.unit", f"{amount.unit} is there already")
        seen.add(amount.unit)
        if not 0 <= amount.quantity <= QUANTITY_MAX:
            violations.add(f"{where}.quantity", f"must be from 0 to {QUANTITY_MAX:,}")
    violations.raise_if_any()


@lru_cache(maxsize=_REMEMBERED_MAX)
def read_subject(data: bytes) -> Subject:
    """Read the path of a call from the bytes of its message."""
    subject = parse_path(subject_pb2.Subject.FromString(data))
    if not subject.customer:
        raise InvalidInput.of("customer_id", "is required")
    return subject


@lru_cache(maxsize=_REMEMBERED_MAX)
def _are_dimensions(dimensions: Dimensions) -> bool:
    return all(
        name and len(name) <= _DIMENSION_LENGTH_MAX and len(value) <= _DIMENSION_LENGTH_MAX
        for name, value in dimensions
    )
