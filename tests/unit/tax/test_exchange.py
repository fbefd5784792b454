"""Exchange rates as a table: which rate a day has, how cross rates round, what is refused."""

from datetime import date
from decimal import Decimal

import pytest

from kit.errors import InvalidInput, NotFound, Precondition
from kit.money import Money, Rounding
from services.tax.exchange import (
    Difference,
    ExchangeRate,
    PublishedRate,
    convert,
    exchange_difference,
    exchange_rate,
    legs,
)
from services.tax.rulebook_files import load_ended_currencies

FRIDAY = date(2026, 10, 30)
ENDED = load_ended_currencies()


def published(currency: str, units: str, day: date = FRIDAY) -> PublishedRate:
    """Make a published rate."""
    return PublishedRate("ECB", currency, day, Decimal(units))


USD = published("USD", "1.1172")
JPY = published("JPY", "175.68")


@pytest.mark.parametrize(
    ("base", "quote", "expected"),
    [
        ("EUR", "EUR", ()),
        ("USD", "USD", ()),
        ("EUR", "USD", ("USD",)),
        ("USD", "EUR", ("USD",)),
        ("USD", "JPY", ("JPY", "USD")),
    ],
)
def test_a_pair_needs_the_rates_of_its_currencies_except_the_euro(
    base: str, quote: str, expected: tuple[str, ...]
) -> None:
    """Everything is quoted against the euro."""
    assert legs(base, quote) == expected


@pytest.mark.parametrize(
    ("base", "quote", "newest", "rate"),
    [
        ("EUR", "USD", (USD,), "1.1172"),
        ("USD", "EUR", (USD,), "0.895094880057286"),
        ("USD", "JPY", (JPY, USD), "157.250268528464"),
        ("JPY", "USD", (JPY, USD), "0.00635928961748634"),
    ],
)
def test_a_rate_is_as_published_or_a_quotient_of_15_digits(
    base: str, quote: str, newest: tuple[PublishedRate, ...], rate: str
) -> None:
    """Against the euro nothing is rounded; across it, half even at the 15th digit."""
    found = exchange_rate(base, quote, FRIDAY, newest, ENDED)

    assert found == ExchangeRate(base, quote, Decimal(rate), FRIDAY, "ECB")


def test_one_currency_is_worth_itself() -> None:
    """No publication is needed."""
    assert exchange_rate("USD", "USD", FRIDAY, (), ENDED) == ExchangeRate(
        "USD", "USD", Decimal(1), FRIDAY, "identity"
    )


@pytest.mark.parametrize("day", [date(2026, 10, 31), date(2026, 11, 1), date(2026, 11, 6)])
def test_a_day_without_a_rate_takes_the_last_one_before(day: date) -> None:
    """At weekends and on holidays, up to 7 days back, and the day of the rate is named."""
    assert exchange_rate("EUR", "USD", day, (USD,), ENDED).rate_date == FRIDAY


def test_a_rate_older_than_7_days_is_refused() -> None:
    """The answer says how old the newest one is."""
    with pytest.raises(Precondition) as caught:
        exchange_rate("EUR", "USD", date(2026, 11, 7), (USD,), ENDED)

    assert (caught.value.reason, caught.value.metadata) == (
        "EXCHANGE_RATE_STALE",
        {"newest_date": "2026-10-30", "maximum_age_days": "7"},
    )


def test_a_pair_that_was_never_published_is_not_found() -> None:
    """The answer repeats what was asked for."""
    with pytest.raises(NotFound) as caught:
        exchange_rate("USD", "AED", FRIDAY, (), ENDED)

    assert (caught.value.reason, caught.value.metadata) == (
        "EXCHANGE_RATE_NOT_FOUND",
        {"base": "USD", "quote": "AED", "date": "2026-10-30"},
    )


@pytest.mark.parametrize(
    ("currency", "day", "message"),
    [
        (
            "HRK",
            date(2023, 1, 1),
            "HRK has no rate since 2023-01-01: replaced by the euro, at 7.53450 for one euro",
        ),
        (
            "BGN",
            date(2026, 1, 1),
            "BGN has no rate since 2026-01-01: replaced by the euro, at 1.95583 for one euro",
        ),
        ("RUB", date(2022, 3, 2), "RUB has no rate since 2022-03-02: no longer published"),
    ],
)
def test_a_currency_that_ended_has_no_rate_from_that_day_on(
    currency: str, day: date, message: str
) -> None:
    """Its last rate is not carried on, not even for a week."""
    last = published(currency, "7.5", date(day.year - 1, 12, 31))

    with pytest.raises(NotFound) as caught:
        exchange_rate("EUR", currency, day, (last,), ENDED)

    assert caught.value.message == message


def test_a_currency_that_ended_had_a_rate_until_then() -> None:
    """The last day is like any other."""
    last = published("HRK", "7.5365", date(2022, 12, 30))

    found = exchange_rate("EUR", "HRK", date(2022, 12, 31), (last,), ENDED)

    assert found.rate == Decimal("7.5365")


@pytest.mark.parametrize(
    ("amount", "rounding", "exact", "money"),
    [
        ("100", Rounding.HALF_UP, "17568", Money("JPY", 17568)),
        ("0.5", Rounding.HALF_UP, "87.84", Money("JPY", 88)),
        ("0.5", Rounding.DOWN, "87.84", Money("JPY", 87)),
        ("-0.5", Rounding.UP, "-87.84", Money("JPY", -88)),
        ("0.0000000000001", Rounding.HALF_EVEN, "1.756800E-11", Money("JPY", 0)),
    ],
)
def test_a_conversion_is_exact_and_settled_once(
    amount: str, rounding: Rounding, exact: str, money: Money
) -> None:
    """The amount times the rate, and that rounded in the named mode."""
    rate = exchange_rate("EUR", "JPY", FRIDAY, (JPY,), ENDED)

    assert convert(Decimal(amount), rate, rounding) == (Decimal(exact), money)


def test_a_conversion_beyond_what_money_holds_is_refused() -> None:
    """64 bits of minor units."""
    rate = ExchangeRate("EUR", "IDR", Decimal("20275.17"), FRIDAY, "ECB")

    with pytest.raises(InvalidInput, match="is too large for IDR"):
        convert(Decimal(10) ** 17, rate, Rounding.HALF_UP)


def test_how_old_a_rate_may_be_is_the_sellers_to_say() -> None:
    """A seller that allows one day has no rate on a Sunday."""
    sunday = date(2026, 11, 1)

    assert exchange_rate("EUR", "USD", sunday, (USD,), ENDED, age_max_days=2).rate_date == FRIDAY
    with pytest.raises(Precondition) as caught:
        exchange_rate("EUR", "USD", sunday, (USD,), ENDED, age_max_days=1)
    assert caught.value.metadata["maximum_age_days"] == "1"


@pytest.mark.parametrize(
    ("units", "paid_rate", "paid", "difference"),
    [(100_000, "0.91", 91_000, 1_000), (100_000, "0.89", 89_000, -1_000), (5, "0.91", 5, 0)],
)
def test_a_payment_gains_or_loses_by_the_rates_of_two_days(
    units: int, paid_rate: str, paid: int, difference: int
) -> None:
    """1,000.00 USD invoiced at 0.90 are 900.00 EUR; at 0.91 they come to 10.00 more."""
    invoiced_at = ExchangeRate("USD", "EUR", Decimal("0.90"), FRIDAY, "ECB")
    paid_at = ExchangeRate("USD", "EUR", Decimal(paid_rate), date(2026, 11, 30), "ECB")

    found = exchange_difference(Money("USD", units), invoiced_at, paid_at)

    assert found == Difference(
        invoiced=Money("EUR", paid - difference),
        paid=Money("EUR", paid),
        difference=Money("EUR", difference),
        invoice_rate=invoiced_at,
        payment_rate=paid_at,
    )
