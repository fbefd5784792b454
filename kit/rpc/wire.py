"""The values all services share on the wire: numbers, money and time of `google.type`.

Parsing is validation: what comes out cannot be wrong. Nothing is rounded, and time is kept to
the microsecond, finer digits being dropped. Refuses absent values; an optional one is asked for
with `HasField` first.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.interval_pb2 import Interval as IntervalMessage
from google.type.money_pb2 import Money as MoneyMessage

from kit.decimals import parse_decimal, plain
from kit.errors import InvalidInput, Violations
from kit.interval import Interval
from kit.money import Money, minor_digits

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NANOS_PER_MICROSECOND = 1000
_NANOS_PER_UNIT = 10**9
_NANO_DIGITS = 9


def parse_decimal_message(
    message: DecimalMessage, field: str, *, minimum: Decimal | None = None
) -> Decimal:
    """Read a decimal as `kit.decimals.parse_decimal` does."""
    return parse_decimal(message.value, field, minimum=minimum)


def render_decimal(value: Decimal) -> DecimalMessage:
    """Write a decimal in its canonical text."""
    return DecimalMessage(value=plain(value))


def parse_time(message: Timestamp, field: str) -> datetime:
    """Read an instant; the epoch itself stands for a time that is absent.

    Raises:
        InvalidInput: it is absent, or not between the years 1 and 9999.
    """
    seconds, nanos = message.seconds, message.nanos
    if not seconds and not nanos:
        raise InvalidInput.of(field, "is required")
    if not 0 <= nanos < _NANOS_PER_UNIT:
        raise InvalidInput.of(field, "must have nanos between 0 and 999,999,999")
    try:
        return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // _NANOS_PER_MICROSECOND)
    except OverflowError as error:
        raise InvalidInput.of(field, "must be between the years 1 and 9999") from error


def render_time(instant: datetime) -> Timestamp:
    """Write an instant."""
    elapsed = instant - _EPOCH
    return Timestamp(
        seconds=elapsed.days * 86_400 + elapsed.seconds,
        nanos=elapsed.microseconds * _NANOS_PER_MICROSECOND,
    )


def parse_interval(message: IntervalMessage, field: str) -> Interval:
    """Read a half-open interval; both ends are required.

    Raises:
        InvalidInput: naming each end that is bad, or the field when it does not start before it
            ends.
    """
    violations = Violations()
    start_field, end_field = f"{field}.start_time", f"{field}.end_time"
    start = violations.take(start_field, lambda: parse_time(message.start_time, start_field))
    end = violations.take(end_field, lambda: parse_time(message.end_time, end_field))
    violations.raise_if_any()
    if start >= end:
        raise InvalidInput.of(field, "must start before it ends")
    return Interval(start, end)


def render_interval(interval: Interval) -> IntervalMessage:
    """Write an interval."""
    return IntervalMessage(
        start_time=render_time(interval.start), end_time=render_time(interval.end)
    )


def parse_money(message: MoneyMessage, field: str) -> Money:
    """Read settled money.

    Raises:
        InvalidInput: the currency is unknown, or the amount has finer parts than it.
    """
    currency, units, nanos = message.currency_code, message.units, message.nanos
    try:
        digits = minor_digits(currency)
    except InvalidInput as error:
        description = error.violations[0].description
        raise InvalidInput.of(f"{field}.currency_code", description) from error
    if abs(nanos) >= _NANOS_PER_UNIT or units * nanos < 0:
        raise InvalidInput.of(field, "must have nanos of the same sign as units and below a unit")
    minor_units, finer = divmod(units * _NANOS_PER_UNIT + nanos, 10 ** (_NANO_DIGITS - digits))
    if finer:
        raise InvalidInput.of(field, f"must be whole minor units of {currency}: {digits} decimals")
    try:
        return Money(currency, minor_units)
    except InvalidInput as error:
        raise InvalidInput.of(field, error.violations[0].description) from error


def render_money(money: Money) -> MoneyMessage:
    """Write settled money."""
    scale = 10 ** minor_digits(money.currency)
    units, rest = divmod(abs(money.minor_units), scale)
    sign = -1 if money.minor_units < 0 else 1
    return MoneyMessage(
        currency_code=money.currency,
        units=sign * units,
        nanos=sign * rest * (_NANOS_PER_UNIT // scale),
    )
