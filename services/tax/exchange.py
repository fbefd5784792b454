"""What a currency was worth in another on a day, by published rates against the euro.

A day without a publication takes the last one before. It refuses a rate that is too old, and
currencies that had ended: an ended currency has a last rate, but no later value.
"""

import decimal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from kit.decimals import exactly
from kit.errors import NotFound, Precondition
from kit.money import Money, Rounding, settle

EURO = "EUR"
AGE_MAX_DAYS = 7
CROSS_RATE_DIGITS = 15
_CROSS_RATE = decimal.Context(prec=CROSS_RATE_DIGITS, rounding=decimal.ROUND_HALF_EVEN)
_IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class PublishedRate:
    """What one euro cost on a day, in units of a currency, as published."""

    source: str
    currency: str
    rate_date: date
    units_per_euro: Decimal


@dataclass(frozen=True, slots=True)
class EndedCurrency:
    """A currency without a rate from `end_date` on; `units_per_euro` is the fixed conversion."""

    currency: str
    end_date: date
    units_per_euro: Decimal | None
    reason: str


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """One unit of the base costs `rate` units of the quote."""

    base: str
    quote: str
    rate: Decimal
    rate_date: date
    source: str


@dataclass(frozen=True, slots=True)
class Conversion:
    """An exact amount in the base, to be converted at the rate of a day."""

    amount: Decimal
    base: str
    quote: str
    day: date
    rounding: Rounding


@dataclass(frozen=True, slots=True)
class DifferenceQuestion:
    """An amount in a foreign currency, and the days of its invoice and of its payment."""

    amount: Money
    book_currency: str
    invoice_date: date
    payment_date: date


@dataclass(frozen=True, slots=True)
class Difference:
    """What an amount was worth when invoiced and when paid; a loss is negative."""

    invoiced: Money
    paid: Money
    difference: Money
    invoice_rate: ExchangeRate
    payment_rate: ExchangeRate


def legs(base: str, quote: str) -> tuple[str, ...]:
    """Answer the currencies whose published rates a pair needs: none, one or two."""
    return () if base == quote else tuple(sorted({base, quote} - {EURO}))


def exchange_rate(
    base: str,
    quote: str,
    day: date,
    newest: Sequence[PublishedRate],
    ended: Mapping[str, EndedCurrency],
    *,
    age_max_days: int = AGE_MAX_DAYS,
) -> ExchangeRate:
    """Answer the rate of a day.

    `newest` holds the rates of the last day, not after `day`, for which all legs of the pair
    were published; empty when there is none. A rate against the euro is as published; any other
    is the quotient of two, rounded half even to 15 significant digits.

    Raises:
        NotFound: EXCHANGE_RATE_NOT_FOUND, none was published or a currency had ended.
        Precondition: EXCHANGE_RATE_STALE, the last publication is over `age_max_days` before.
    """
    for currency in (base, quote):
        end = ended.get(currency)
        if end is not None and day >= end.end_date:
            raise _not_found(base, quote, day, _ending(end))
    if base == quote:
        return ExchangeRate(base, quote, Decimal(1), day, _IDENTITY)
    if not newest:
        raise _not_found(base, quote, day, f"no rate of {base} in {quote} is known on {day}")
    rate_date = newest[0].rate_date
    if (day - rate_date).days > age_max_days:
        raise Precondition(
            "EXCHANGE_RATE_STALE",
            f"the newest rate of {base} in {quote} before {day} is of {rate_date}, more than"
            f" {age_max_days} days before",
            metadata={
                "newest_date": rate_date.isoformat(),
                "maximum_age_days": str(age_max_days),
            },
        )
    units = {EURO: Decimal(1), **{each.currency: each.units_per_euro for each in newest}}
    rate = units[quote] if base == EURO else _CROSS_RATE.divide(units[quote], units[base])
    return ExchangeRate(base, quote, rate, rate_date, newest[0].source)


def convert(amount: Decimal, rate: ExchangeRate, rounding: Rounding) -> tuple[Decimal, Money]:
    """Convert an amount in the base: exactly, and settled in the quote.

    Raises:
        InvalidInput: the result exceeds what money can hold.
    """
    with exactly():
        exact = amount * rate.rate
    return exact, settle(exact, rate.quote, rounding)


def exchange_difference(
    amount: Money, invoice_rate: ExchangeRate, payment_rate: ExchangeRate
) -> Difference:
    """Compute what was paid less what was invoiced, each settled half up by itself.

    IAS 21.28: the difference between the rates of recognition and of settlement is a gain or loss.

    Raises:
        InvalidInput: a result exceeds what money can hold.
    """
    _, invoiced = convert(amount.to_decimal(), invoice_rate, Rounding.HALF_UP)
    _, paid = convert(amount.to_decimal(), payment_rate, Rounding.HALF_UP)
    return Difference(invoiced, paid, paid - invoiced, invoice_rate, payment_rate)


def _not_found(base: str, quote: str, day: date, message: str) -> NotFound:
    metadata = {"base": base, "quote": quote, "date": day.isoformat()}
    return NotFound("EXCHANGE_RATE_NOT_FOUND", message, metadata=metadata)


def _ending(end: EndedCurrency) -> str:
    fixed = f", at {end.units_per_euro} for one euro" if end.units_per_euro else ""
    return f"{end.currency} has no rate since {end.end_date}: {end.reason}{fixed}"
