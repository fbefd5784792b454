"""Laws of invoices, for any figures that rating and tax may give."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st

from kit.decimals import plain
from kit.money import MINOR_UNITS_MAX, Money, minor_digits
from services.invoicing.assembly import finalize, settle_lines
from services.invoicing.glyphs import replace_unshown, unshown
from services.invoicing.model import BillingAnchor, ExchangeRate, Rating
from services.invoicing.periods import period_containing, periods_until, start_of_day
from services.invoicing.snapshot import read_snapshot, write_snapshot
from tests.invoicing_builders import (
    a_customer,
    a_determination,
    a_draft,
    a_line,
    a_rating,
    a_step,
    a_subscription,
)

# Currencies with 0, 2 and 3 decimals.
CURRENCIES = ("JPY", "EUR", "USD", "KWD")
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Pacific/Kiritimati",
)

currencies = st.sampled_from(CURRENCIES)
zones = st.sampled_from(ZONES)
days = st.dates(date(2000, 1, 1), date(2060, 12, 31))
amounts = st.builds(
    lambda units, places: plain(Decimal(f"{units}E-{places}")),
    st.integers(0, 10**14),
    st.integers(0, 24),
)
rates = st.builds(
    lambda units, places: Decimal(f"{units}E-{places}"), st.integers(1, 10**9), st.integers(0, 9)
)


@st.composite
def ratings(draw: st.DrawFn, currency: str | None = None) -> Rating:
    """Draw a rating of one to eight lines."""
    currency = currency or draw(currencies)
    lines = draw(st.lists(amounts, min_size=1, max_size=8))
    return a_rating(
        *(a_line(a_step("each", "1", amount), currency=currency) for amount in lines),
        currency=currency,
    )


def half_up(exact: Fraction, currency: str) -> int:
    """Round to minor units the way schools teach it, with integers alone."""
    scaled = exact * 10 ** minor_digits(currency)
    units: int = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return units


@given(rating=ratings(), percent=st.integers(0, 30), sequence=st.integers(1, 10**7))
def test_totals_follow_from_lines_and_taxes_in_every_currency(
    rating: Rating, percent: int, sequence: int
) -> None:
    """Whatever the decimals of the currency: lines, taxes and total add up, draft and issued."""
    settled = tuple(line.amount for line in settle_lines(rating, rating.currency, None))
    draft = a_draft(
        rating,
        customer=a_customer(currency=rating.currency),
        determination=a_determination(settled, rate_percent=str(percent)),
    )
    invoice = finalize(
        draft,
        sequence=sequence,
        issue_date=date(2026, 2, 1),
        finalize_time=datetime(2026, 2, 1, tzinfo=UTC),
    )

    of_lines = sum(line.amount.minor_units for line in invoice.lines)
    of_taxes = sum(tax.tax_amount.minor_units for line in invoice.lines for tax in line.taxes)
    assert invoice.subtotal == Money(rating.currency, of_lines)
    assert invoice.tax_total == Money(rating.currency, of_taxes)
    assert invoice.total == Money(rating.currency, of_lines + of_taxes)


@given(rating=ratings(), quote=currencies, rate=rates)
def test_conversion_is_the_exact_product_rounded_once(
    rating: Rating, quote: str, rate: Decimal
) -> None:
    """Each line is what fractions say, to the last minor unit."""
    exchange_rate = ExchangeRate(rating.currency, quote, rate, date(2026, 1, 30), "ECB")
    exact = [
        half_up(Fraction(line.unrounded_amount) * Fraction(rate), quote) for line in rating.lines
    ]
    # More than a 64-bit integer of minor units is no amount; it is refused.
    assume(max(map(abs, exact)) <= MINOR_UNITS_MAX)

    settled = settle_lines(rating, quote, exchange_rate)

    assert [line.amount.minor_units for line in settled] == exact


@given(rating=ratings())
def test_what_is_stored_is_read_back(rating: Rating) -> None:
    """A snapshot loses no digit of an invoice, and equal invoices give equal bytes."""
    settled = tuple(line.amount for line in settle_lines(rating, rating.currency, None))
    invoice = a_draft(
        rating,
        customer=a_customer(currency=rating.currency),
        determination=a_determination(settled),
    )

    content = write_snapshot(invoice)

    assert read_snapshot(content) == invoice
    assert write_snapshot(read_snapshot(content)) == content


@given(
    start_day=days,
    length_days=st.integers(1, 800),
    anchor=st.sampled_from(BillingAnchor),
    zone=zones,
)
def test_periods_cover_a_subscription_without_gap_or_overlap(
    start_day: date, length_days: int, anchor: BillingAnchor, zone: str
) -> None:
    """From the start to the end, each period begins where the one before ended."""
    end_day = start_day + timedelta(days=length_days)
    subscription = a_subscription(
        start_time=start_of_day(start_day, zone),
        end_time=start_of_day(end_day, zone),
        anchor=anchor,
        time_zone=zone,
    )

    periods = periods_until(subscription, datetime(2100, 1, 1, tzinfo=UTC))

    starts = [period.interval.start for period in periods]
    ends = [period.interval.end for period in periods]
    assert [*starts, subscription.end_time] == [subscription.start_time, *ends]
    assert sum(period.billed_days for period in periods) == length_days
    assert all(0 < period.billed_days <= period.period_days <= 31 for period in periods)
    assert all(period.is_whole for period in periods[1:-1])


@given(
    start_day=days,
    anchor=st.sampled_from(BillingAnchor),
    zone=zones,
    after=st.timedeltas(timedelta(0), timedelta(days=2000)),
)
def test_every_instant_of_a_subscription_falls_into_one_period(
    start_day: date, anchor: BillingAnchor, zone: str, after: timedelta
) -> None:
    """The period of an instant is one of those counted up to it, or the one that follows."""
    subscription = a_subscription(
        start_time=start_of_day(start_day, zone), anchor=anchor, time_zone=zone
    )
    instant = subscription.start_time + after

    period = period_containing(subscription, instant)

    assert period is not None
    assert period.interval.contains(instant)
    closed = periods_until(subscription, instant)
    assert period not in closed
    assert periods_until(subscription, period.interval.end) == (*closed, period)


@given(st.text())
def test_whatever_is_written_can_be_shown_afterwards(text: str) -> None:
    """After the replacement nothing is left that no font can show."""
    assert unshown(replace_unshown(text)) == ""
