"""The fields of invoicing's messages, one function for each kind.

Every function takes what is written and the path of the field, and raises `InvalidInput` naming it.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TypeVar
from zoneinfo import available_timezones

from babel import Locale
from google.protobuf.timestamp_pb2 import Timestamp

from kit.errors import InvalidInput, Violations
from kit.money import minor_digits
from kit.rpc.wire import parse_time
from services.invoicing.glyphs import unshown
from services.invoicing.model import DEFAULT_TIME_ZONE, Language

Written = TypeVar("Written")
Parsed = TypeVar("Parsed")

EMAIL_LENGTH_MAX = 254
INSTANT_MIN = datetime(2000, 1, 1, tzinfo=UTC)
INSTANT_END = datetime(2200, 1, 1, tzinfo=UTC)

_CUSTOMER_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+")
_COUNTRY = re.compile(r"[A-Z]{2}")
_SHOWN_OF_UNSHOWN_MAX = 10


def take(
    violations: Violations, field: str, parse: Callable[[Written, str], Parsed], written: Written
) -> Parsed:
    """Parse one field; see `Violations.take` for what is answered when it is bad."""
    return violations.take(field, lambda: parse(written, field))


def parse_customer_id(text: str, field: str) -> str:
    """Read the id of a customer."""
    if not text:
        raise InvalidInput.of(field, "is required")
    if not _CUSTOMER_ID.fullmatch(text):
        raise InvalidInput.of(
            field, "must be 1 to 64 characters out of letters, digits and '_', '.', ':', '@', '-'"
        )
    return text


def parse_text(
    text: str, field: str, *, length_max: int, required: bool = False, lines: bool = False
) -> str:
    """Read text that stands on documents; `lines` admits more than one."""
    if required and not text.strip():
        raise InvalidInput.of(field, "is required")
    if len(text) > length_max:
        raise InvalidInput.of(field, f"must have at most {length_max:,} characters")
    content = text.replace("\n", "") if lines else text
    if not content.replace("\u3000", " ").isprintable():
        raise InvalidInput.of(field, "must have printable characters only")
    hidden = unshown(content)
    if hidden:
        raise InvalidInput.of(
            field, f"has characters that documents cannot show: {hidden[:_SHOWN_OF_UNSHOWN_MAX]}"
        )
    return text


def parse_email(text: str, field: str) -> str:
    """Read an address of electronic mail, or nothing."""
    if text and not _EMAIL.fullmatch(text):
        raise InvalidInput.of(field, "must be an e-mail address")
    return parse_text(text, field, length_max=EMAIL_LENGTH_MAX)


def parse_country(code: str, field: str) -> str:
    """Read a country of ISO 3166-1."""
    if not code:
        raise InvalidInput.of(field, "is required")
    if not _COUNTRY.fullmatch(code) or code not in _countries():
        raise InvalidInput.of(field, "must be a country of ISO 3166-1 alpha-2, such as DE")
    return code


def parse_currency(code: str, field: str) -> str:
    """Read a currency of ISO 4217."""
    try:
        minor_digits(code)
    except InvalidInput as error:
        raise InvalidInput.of(field, error.violations[0].description) from error
    return code


def parse_time_zone(key: str, field: str) -> str:
    """Read a time zone of the IANA database; nothing means UTC."""
    if key and key not in _time_zones():
        raise InvalidInput.of(field, "must be an IANA time zone, such as Europe/Berlin")
    return key or DEFAULT_TIME_ZONE


def parse_language(code: str, field: str) -> Language:
    """Read the language of documents; nothing means English."""
    try:
        return Language(code or Language.ENGLISH)
    except ValueError as error:
        known = ", ".join(language.value for language in Language)
        raise InvalidInput.of(field, f"must be one of {known}") from error


def parse_instant(message: Timestamp, field: str) -> datetime:
    """Read an instant from the year 2000 to 2199: billing periods are counted one by one."""
    instant = parse_time(message, field)
    if not INSTANT_MIN <= instant < INSTANT_END:
        raise InvalidInput.of(field, "must be between the years 2000 and 2199")
    return instant


@cache
def _countries() -> frozenset[str]:
    return frozenset(filter(_COUNTRY.fullmatch, map(str, Locale("en").territories)))


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())
