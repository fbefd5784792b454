"""Computes the invoices of the demo a second time, from the usage events alone.

Plain fractions and whole minor units; nothing of the services is imported, and what was agreed with
each customer is written down here once more. Only the published exchange rates are read from the
same table.

Rules, as docs/money.md states them: a line is settled once, half up, after conversion; tax is
rounded once for each invoice and rate, half up, and split over the lines by largest remainder.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from importlib.resources import files
from math import floor
from zoneinfo import ZoneInfo

from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

Quantities = Mapping[str, Fraction]

_HALF = Fraction(1, 2)
_CROSS_RATE_DIGITS = 15
_MINOR_UNITS_PER_UNIT = {"USD": 100, "JPY": 1}
_DECIMAL = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Used:
    """A usage event as plain values."""

    event_id: str
    source: str
    customer_id: str
    project_id: str
    key_id: str
    event_type: str
    time: datetime
    dimensions: tuple[tuple[str, str], ...]
    quantities: tuple[tuple[str, Fraction], ...]

    @classmethod
    def of(cls, event: UsageEvent) -> "Used":
        """Read an event of the wire."""
        assert all(map(_DECIMAL.fullmatch, event.quantities.values())), "quantities are decimals"
        return cls(
            event_id=event.event_id,
            source=event.source,
            customer_id=event.subject.customer_id,
            project_id=event.subject.project_id,
            key_id=event.subject.key_id,
            event_type=event.type,
            time=event.time.ToDatetime(UTC),
            dimensions=tuple(sorted(event.dimensions.items())),
            quantities=tuple(
                sorted((name, Fraction(text)) for name, text in event.quantities.items())
            ),
        )


@dataclass(frozen=True, slots=True)
class TaxDeal:
    """The tax that a customer bears, and from when on."""

    start: date
    percent: Fraction
    treatment: str


@dataclass(frozen=True, slots=True)
class Deal:
    """What was agreed with a customer, and what the law adds to it.

    Args:
        time_zone: Where its months begin and end.
        currency: Of its invoices; what was agreed is in dollars.
        base_fee: For a month.
        included_tokens: In the base fee.
        token_price: For one token beyond.
        gpu_pack_price: For each begun pack of 10 GPU hours; None sells none.
        taxes: In ascending order of their starts; the last one that has started counts.
    """

    time_zone: str
    currency: str
    base_fee: Fraction
    included_tokens: int
    token_price: Fraction
    gpu_pack_price: Fraction | None
    taxes: tuple[TaxDeal, ...]


_GPU_PACK_HOURS = 10
_PRO = (Fraction(100), 1_000_000, Fraction("0.02") / 1000, None)
_STARTER = (Fraction(50), 500_000, Fraction("0.01") / 1000, Fraction(25))
_SINCE_EVER = date.min
DEALS: Mapping[str, Deal] = {
    # California taxes software that is reached from afar from 2027 on: S.B. 122 of 2026.
    "golden-gate": Deal(
        "America/Los_Angeles",
        "USD",
        *_PRO,
        (
            TaxDeal(_SINCE_EVER, Fraction(0), "NOT_TAXABLE"),
            TaxDeal(date(2027, 1, 1), Fraction("7.25"), "TAXED"),
        ),
    ),
    # Directive 2006/112/EC, Articles 44 and 196: the business in Germany owes the tax.
    "isar": Deal(
        "Europe/Berlin",
        "USD",
        *_STARTER,
        (TaxDeal(_SINCE_EVER, Fraction(0), "REVERSE_CHARGE"),),
    ),
    # Directive 2006/112/EC, Article 58: the rate where the consumer is.
    "manon": Deal("Europe/Paris", "USD", *_STARTER, (TaxDeal(_SINCE_EVER, Fraction(20), "TAXED"),)),
    # Consumption Tax Act of Japan, Article 4(3)(iii), with the local tax.
    "hanako": Deal("Asia/Tokyo", "JPY", *_PRO, (TaxDeal(_SINCE_EVER, Fraction(10), "TAXED"),)),
}


@dataclass(frozen=True, slots=True)
class ExpectedLine:
    """A line as it must be.

    Args:
        quantity: The usage, or 1 for the base fee.
        unrounded: In dollars.
        cents: In dollars, settled.
        amount_minor: In the invoice's currency, settled.
        tax_minor: Its part of the tax.
    """

    quantity: Fraction
    unrounded: Fraction
    cents: int
    amount_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class ExpectedInvoice:
    """An invoice as it must be; lines by price id, that of the base fee empty."""

    start: datetime
    end: datetime
    currency: str
    exchange_rate: Fraction
    tax_percent: Fraction
    treatment: str
    lines: Mapping[str, ExpectedLine]

    @property
    def subtotal_minor(self) -> int:
        """The sum of the lines."""
        return sum(line.amount_minor for line in self.lines.values())

    @property
    def tax_minor(self) -> int:
        """The tax on all lines."""
        return sum(line.tax_minor for line in self.lines.values())


def month_bounds(month: date, time_zone: str) -> tuple[datetime, datetime]:
    """Give the first instant of a month and of the next one, in UTC."""
    first = month.replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    zone = ZoneInfo(time_zone)
    start, end = (datetime(day.year, day.month, 1, tzinfo=zone) for day in (first, following))
    return start.astimezone(UTC), end.astimezone(UTC)


def add_up(events: Iterable[Used], customer_id: str, start: datetime, end: datetime) -> Quantities:
    """Add up what a customer used within a half-open interval; `calls` counts the AI calls."""
    sums: dict[str, Fraction] = {}
    for event in events:
        if event.customer_id == customer_id and start <= event.time < end:
            if event.event_type == "llm.call":
                sums["calls"] = sums.get("calls", Fraction(0)) + 1
            for name, quantity in event.quantities:
                sums[name] = sums.get(name, Fraction(0)) + quantity
    return sums


def recompute_invoice(events: Iterable[Used], customer_id: str, month: date) -> ExpectedInvoice:
    """Compute the invoice of one customer for one month."""
    deal = DEALS[customer_id]
    start, end = month_bounds(month, deal.time_zone)
    usage = add_up(events, customer_id, start, end)
    last_day = (month.replace(day=1) + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    tax = [each for each in deal.taxes if each.start <= last_day][-1]
    rate = Fraction(1) if deal.currency == "USD" else cross_rate("USD", deal.currency, last_day)
    charges = _charges(deal, usage)
    amounts = [
        half_up(unrounded * rate * _MINOR_UNITS_PER_UNIT[deal.currency])
        for _, unrounded in charges.values()
    ]
    taxes = split_tax(amounts, tax.percent)
    return ExpectedInvoice(
        start=start,
        end=end,
        currency=deal.currency,
        exchange_rate=rate,
        tax_percent=tax.percent,
        treatment=tax.treatment,
        lines={
            price_id: ExpectedLine(quantity, unrounded, half_up(unrounded * 100), amount, tax_part)
            for (price_id, (quantity, unrounded)), amount, tax_part in zip(
                charges.items(), amounts, taxes, strict=True
            )
        },
    )


def _charges(deal: Deal, usage: Quantities) -> dict[str, tuple[Fraction, Fraction]]:
    """Give quantity and exact dollars of each line."""
    tokens = usage.get("input_tokens", Fraction(0)) + usage.get("output_tokens", Fraction(0))
    billable_tokens = max(tokens - deal.included_tokens, Fraction(0))
    charges = {
        "": (Fraction(1), deal.base_fee),
        "tokens": (tokens, billable_tokens * deal.token_price),
    }
    if deal.gpu_pack_price is not None:
        hours = usage.get("gpu_hours", Fraction(0))
        packs = -floor(-hours / _GPU_PACK_HOURS)
        charges["gpu_packs"] = (hours, packs * deal.gpu_pack_price)
    return charges


def half_up(amount: Fraction) -> int:
    """Round an amount that is not negative to a whole number, halves up."""
    return floor(amount + _HALF)


def split_tax(amounts: Sequence[int], percent: Fraction) -> list[int]:
    """Round the tax on all lines once, and split it by largest remainder, the first line first."""
    exact = [amount * percent / 100 for amount in amounts]
    parts = [floor(each) for each in exact]
    left = half_up(sum(exact, Fraction(0))) - sum(parts)
    for index in sorted(range(len(exact)), key=lambda at: parts[at] - exact[at])[:left]:
        parts[index] += 1
    return parts


def cross_rate(base: str, quote: str, day: date) -> Fraction:
    """Divide the euro rates of the last day with both, not after `day`; 15 significant digits."""
    table = files("services.tax") / "rates" / "ecb_reference_rates.csv"
    with table.open(encoding="utf-8") as lines:
        known = [
            (row["Date"], Fraction(row[quote]) / Fraction(row[base]))
            for row in csv.DictReader(lines)
            if row["Date"] <= day.isoformat() and _is_rate(row[quote]) and _is_rate(row[base])
        ]
    _, exact = max(known)
    return to_significant_digits(exact, _CROSS_RATE_DIGITS)


def to_significant_digits(value: Fraction, digits: int) -> Fraction:
    """Round a positive number to so many significant digits, halves to even."""
    scale = Fraction(1)
    while value * scale >= 10**digits:
        scale /= 10
    while value * scale < 10 ** (digits - 1):
        scale *= 10
    # `round` of a fraction goes to even at a half.
    return round(value * scale) / scale


def _is_rate(text: str) -> bool:
    return _DECIMAL.fullmatch(text) is not None
