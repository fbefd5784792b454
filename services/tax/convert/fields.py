"""What every request has: dates, addresses, currencies, tax ids, and how much is allowed."""

from datetime import date

from google.type.date_pb2 import Date as DateMessage

from kit.errors import InvalidInput, Violation, Violations
from kit.money import minor_digits
from services.tax.model import Address, TaxId
from services.tax.places import parse_country, parse_region
from tollkeeper.api.tax.v1 import tax_pb2

BATCH_MAX = 1000
DOMAIN = "tollkeeper.tax"
NUMBER_LENGTH_MAX = 64
POSTAL_CODE_LENGTH_MAX = 16


def parse_date(message: DateMessage, field: str) -> date:
    """Read a whole date.

    Raises:
        InvalidInput: it is absent, or no day of the calendar.
    """
    if not (message.year or message.month or message.day):
        raise InvalidInput.of(field, "is required")
    try:
        return date(message.year, message.month, message.day)
    except ValueError:
        raise InvalidInput.of(field, "must be a day of the calendar") from None


def render_date(day: date) -> DateMessage:
    """Write a date."""
    return DateMessage(year=day.year, month=day.month, day=day.day)


def parse_tax_id(message: tax_pb2.TaxId, field: str) -> TaxId:
    """Read a tax id, without judging it."""
    v = Violations()
    country = v.take(f"{field}.country", lambda: parse_country(message.country, f"{field}.country"))
    if not message.number.strip():
        v.add(f"{field}.number", "is required")
    check_length(v, message.number, NUMBER_LENGTH_MAX, f"{field}.number")
    v.raise_if_any()
    return TaxId(country, message.number)


def parse_currency(text: str, field: str) -> str:
    """Read a currency's code."""
    try:
        minor_digits(text)
    except InvalidInput as error:
        raise InvalidInput.of(field, error.violations[0].description) from error
    return text


def parse_address(message: tax_pb2.TaxAddress, field: str) -> Address:
    """Read where somebody is."""
    country = parse_country(message.country, f"{field}.country")
    v = Violations()
    region = v.take(
        f"{field}.region", lambda: parse_region(message.region, country, f"{field}.region")
    )
    check_length(v, message.postal_code, POSTAL_CODE_LENGTH_MAX, f"{field}.postal_code")
    v.raise_if_any()
    return Address(country, region, message.postal_code)


def check_length(v: Violations, text: str, maximum: int, field: str) -> None:
    """Note a text that is too long."""
    if len(text) > maximum:
        v.add(field, f"must have at most {maximum} characters")


def check_count(count: int, maximum: int, field: str) -> None:
    """Refuse a list that is empty or too long.

    Raises:
        InvalidInput: there is nothing in it; PAYLOAD_TOO_LARGE, there is too much.
    """
    if not count:
        raise InvalidInput.of(field, "must hold at least one")
    check_at_most(count, maximum, field)


def check_at_most(count: int, maximum: int, field: str) -> None:
    """Refuse a list that is too long.

    Raises:
        InvalidInput: PAYLOAD_TOO_LARGE.
    """
    if count > maximum:
        raise InvalidInput(
            "PAYLOAD_TOO_LARGE",
            f"{field}: must hold at most {maximum}, and holds {count}",
            metadata={"maximum": str(maximum)},
            violations=(Violation(field, f"must hold at most {maximum}"),),
        )
