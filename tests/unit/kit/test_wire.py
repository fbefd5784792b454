"""Wire values: each reads back as it was written, and what is malformed is refused by field."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.decimal_pb2 import Decimal as DecimalMessage
from google.type.interval_pb2 import Interval as IntervalMessage
from google.type.money_pb2 import Money as MoneyMessage
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import InvalidInput, Violation
from kit.interval import Interval
from kit.money import MINOR_UNITS_MAX, Money
from kit.rpc.wire import (
    parse_decimal_message,
    parse_interval,
    parse_money,
    parse_time,
    render_decimal,
    render_interval,
    render_money,
    render_time,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_1 = -62_135_596_800
YEAR_10_000 = 253_402_300_800
INSTANTS = st.datetimes(timezones=st.just(UTC)).filter(lambda instant: instant != EPOCH)


@given(INSTANTS)
def test_an_instant_reads_back_as_it_was_written(instant: datetime) -> None:
    """Every instant but the epoch, from year 1 to 9999, to the microsecond."""
    assert parse_time(render_time(instant), "time") == instant


def test_nanoseconds_are_dropped() -> None:
    """Time is kept to the microsecond, and never rounded up into the next."""
    message = Timestamp(seconds=1, nanos=999_999_999)

    assert parse_time(message, "time") == EPOCH + timedelta(seconds=1, microseconds=999_999)


@pytest.mark.parametrize(
    ("message", "description"),
    [
        pytest.param(Timestamp(), "is required", id="absent"),
        pytest.param(
            Timestamp(seconds=1, nanos=-1), "must have nanos between 0 and 999,999,999", id="nanos"
        ),
        pytest.param(
            Timestamp(seconds=1, nanos=10**9),
            "must have nanos between 0 and 999,999,999",
            id="a second of nanos",
        ),
        pytest.param(
            Timestamp(seconds=YEAR_1 - 1), "must be between the years 1 and 9999", id="too early"
        ),
        pytest.param(
            Timestamp(seconds=YEAR_10_000), "must be between the years 1 and 9999", id="too late"
        ),
        pytest.param(
            Timestamp(seconds=2**63 - 1), "must be between the years 1 and 9999", id="never"
        ),
    ],
)
def test_a_malformed_instant_is_refused(message: Timestamp, description: str) -> None:
    """Absent and impossible times name their field."""
    with pytest.raises(InvalidInput) as refused:
        parse_time(message, "event_time")

    assert refused.value.violations == (Violation("event_time", description),)


@given(INSTANTS, INSTANTS)
def test_an_interval_reads_back_as_it_was_written(a: datetime, b: datetime) -> None:
    """Both ends, whatever they are."""
    interval = Interval(min(a, b), max(a, b) + timedelta(microseconds=a == b))

    assert parse_interval(render_interval(interval), "period") == interval


@pytest.mark.parametrize(
    ("message", "violations"),
    [
        pytest.param(
            IntervalMessage(),
            (
                Violation("period.start_time", "is required"),
                Violation("period.end_time", "is required"),
            ),
            id="both ends absent",
        ),
        pytest.param(
            IntervalMessage(start_time=render_time(NOON)),
            (Violation("period.end_time", "is required"),),
            id="no end",
        ),
        pytest.param(
            IntervalMessage(start_time=render_time(NOON), end_time=render_time(NOON)),
            (Violation("period", "must start before it ends"),),
            id="empty",
        ),
    ],
)
def test_a_malformed_interval_is_refused(
    message: IntervalMessage, violations: tuple[Violation, ...]
) -> None:
    """Every bad end is named, and an empty interval as a whole."""
    with pytest.raises(InvalidInput) as refused:
        parse_interval(message, "period")

    assert refused.value.violations == violations


@given(
    st.sampled_from(["EUR", "JPY", "KWD", "CLF"]), st.integers(-MINOR_UNITS_MAX, MINOR_UNITS_MAX)
)
def test_money_reads_back_as_it_was_written(currency: str, minor_units: int) -> None:
    """Every amount of every number of decimals, down to the smallest and up to the largest."""
    money = Money(currency, minor_units)

    assert parse_money(render_money(money), "total") == money


@pytest.mark.parametrize(
    ("money", "message"),
    [
        pytest.param(Money("EUR", 1999), ("EUR", 19, 990_000_000), id="cents"),
        pytest.param(Money("EUR", -5), ("EUR", 0, -50_000_000), id="negative, less than one"),
        pytest.param(Money("EUR", -1999), ("EUR", -19, -990_000_000), id="negative"),
        pytest.param(Money("JPY", 5), ("JPY", 5, 0), id="no decimals"),
    ],
)
def test_money_is_written_as_google_type_money_defines_it(
    money: Money, message: tuple[str, int, int]
) -> None:
    """Units and nanos have the same sign."""
    currency_code, units, nanos = message

    assert render_money(money) == MoneyMessage(
        currency_code=currency_code, units=units, nanos=nanos
    )


@pytest.mark.parametrize(
    ("message", "violation"),
    [
        pytest.param(
            MoneyMessage(units=1),
            Violation("total.currency_code", "must be a currency of ISO 4217, such as EUR"),
            id="no currency",
        ),
        pytest.param(
            MoneyMessage(currency_code="EUR", units=1, nanos=-1),
            Violation("total", "must have nanos of the same sign as units and below a unit"),
            id="two signs",
        ),
        pytest.param(
            MoneyMessage(currency_code="EUR", nanos=10**9),
            Violation("total", "must have nanos of the same sign as units and below a unit"),
            id="a unit of nanos",
        ),
        pytest.param(
            MoneyMessage(currency_code="EUR", nanos=5_000_000),
            Violation("total", "must be whole minor units of EUR: 2 decimals"),
            id="half a cent",
        ),
        pytest.param(
            MoneyMessage(currency_code="JPY", nanos=500_000_000),
            Violation("total", "must be whole minor units of JPY: 0 decimals"),
            id="half a yen",
        ),
        pytest.param(
            MoneyMessage(currency_code="EUR", units=2**62),
            Violation("total", "is too large for EUR"),
            id="beyond 64 bits of cents",
        ),
    ],
)
def test_malformed_money_is_refused_and_never_rounded(
    message: MoneyMessage, violation: Violation
) -> None:
    """The field is named, and its part where a part is wrong."""
    with pytest.raises(InvalidInput) as refused:
        parse_money(message, "total")

    assert refused.value.violations == (violation,)


def test_a_decimal_reads_back_in_canonical_text() -> None:
    """What is written has no exponent and no trailing zeros."""
    value = parse_decimal_message(DecimalMessage(value="1.50E-7"), "price")

    assert render_decimal(value) == DecimalMessage(value="0.00000015")


def test_a_decimal_message_is_checked_as_its_text_is() -> None:
    """An absent value, and one below the minimum, name the field."""
    with pytest.raises(InvalidInput) as absent:
        parse_decimal_message(DecimalMessage(), "price")
    with pytest.raises(InvalidInput) as negative:
        parse_decimal_message(DecimalMessage(value="-1"), "price", minimum=Decimal(0))

    assert absent.value.violations == (Violation("price", "a decimal number is required"),)
    assert negative.value.violations == (Violation("price", "must be at least 0"),)
