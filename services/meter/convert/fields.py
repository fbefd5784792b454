"""The kinds of text in the meter's messages: each checked by one function, which names no field.

A check answers the text or raises `Bad`. Events call the checks by themselves, since they are read
by the hundred thousand; other messages through `take`.
"""

import json
import re
from collections.abc import Callable
from typing import TypeVar

from kit.errors import InvalidInput, Violations

Written = TypeVar("Written")
Checked = TypeVar("Checked")

KEY_LENGTH_MAX = 63

_is_name = re.compile(r"[^\x00-\x1f\x7f]{1,128}").fullmatch
_is_key = re.compile(r"[^\x00-\x1f\x7f]{1,63}").fullmatch
_is_value = re.compile(r"[^\x00-\x1f\x7f]{0,128}").fullmatch
_find_control = re.compile(r"[\x00-\x1f\x7f]").search
_is_type = re.compile(r"[a-z0-9_.-]{1,63}").fullmatch
_SUBJECT_ID = r"[A-Za-z0-9_.:@-]{1,64}"
_is_subject_id = re.compile(_SUBJECT_ID).fullmatch
_is_subject = re.compile(rf"{_SUBJECT_ID}(?:\t(?:{_SUBJECT_ID})?){{4}}").fullmatch


class Bad(ValueError):
    """What is wrong with one field."""


def take(
    violations: Violations, field: str, check: Callable[[Written], Checked], written: Written
) -> Checked:
    """Check one field; see `Violations.take` for what is answered when it is bad."""

    def parse() -> Checked:
        try:
            return check(written)
        except Bad as error:
            raise InvalidInput.of(field, str(error)) from error

    return violations.take(field, parse)


def check_name(text: str) -> str:
    """Check what names an event or its source."""
    if not _is_name(text):
        raise Bad("must have 1 to 128 characters, no control ones" if text else "is required")
    return text


def check_type(text: str) -> str:
    """Check the type of an event."""
    if not _is_type(text):
        raise Bad(
            "must have 1 to 63 lower-case letters, digits and _ . -" if text else "is required"
        )
    return text


def check_subject_id(text: str) -> str:
    """Check the id of a level of the subject, which may be left out."""
    if text and not _is_subject_id(text):
        raise Bad("must have at most 64 letters, digits and _ . : @ -")
    return text


def check_customer_id(text: str) -> str:
    """Check the id of a customer."""
    if not text:
        raise Bad("is required")
    return check_subject_id(text)


def check_subject(ids: tuple[str, str, str, str, str]) -> str:
    """Check the ids of all levels, the customer's first, and join them by tabs."""
    text = "\t".join(ids)
    if not _is_subject(text):
        raise Bad("must have good ids, the customer's at least")
    return text


def check_key(text: str) -> str:
    """Check the name of a dimension or a quantity."""
    if not _is_key(text):
        raise Bad("must have a name of 1 to 63 characters, no control ones")
    return text


def check_value(text: str) -> str:
    """Check the value of a dimension."""
    if not _is_value(text):
        raise Bad("must have at most 128 characters, no control ones")
    return text


def has_control_characters(text: str) -> bool:
    """Tell whether a text holds what cannot be shown, and in part not be stored."""
    return _find_control(text) is not None


def entry_path(field: str, key: str) -> str:
    """Name an entry of a map, such as `dimensions["model"]`, whatever its key holds."""
    return f"{field}[{json.dumps(key[:KEY_LENGTH_MAX], ensure_ascii=False)}]"
