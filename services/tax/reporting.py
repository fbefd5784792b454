"""Charged taxes in the currency in which the law wants them on an invoice.

Where a country wants its tax in a currency of its own, taxable amount and tax of each total are
converted at the reference rate of the supply date and rounded half up. What is declared under a
One Stop Shop follows the country of that registration. It refuses nothing: a rate that is missing
is the caller's error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from kit.money import Money, Rounding
from services.tax.exchange import ExchangeRate, convert
from services.tax.model import Determination, Tax, Treatment
from services.tax.rulebook import ReportingCurrency, Rulebook

CurrencyPair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ReportedTax:
    """A total in the currency that `source` asks for."""

    tax: Tax
    taxable_amount: Money
    tax_amount: Money
    exchange_rate: ExchangeRate
    source: str


@dataclass(frozen=True, slots=True)
class Determined:
    """What was determined, and the totals that must also stand in another currency.

    `engine` is who determined it, empty for the tables; `fallback_reason` says why the tables
    did, where an engine was to.
    """

    determination: Determination
    reported: tuple[ReportedTax, ...] = ()
    engine: str = ""
    fallback_reason: str = ""


def currency_pairs(determination: Determination, day: date, book: Rulebook) -> set[CurrencyPair]:
    """Name the exchange rates that reporting needs: the invoice's currency and another."""
    return {
        (tax.tax_amount.currency, asked.currency)
        for tax, asked in _asked_for(determination, day, book)
    }


def report(
    determination: Determination,
    day: date,
    book: Rulebook,
    rates: Mapping[CurrencyPair, ExchangeRate],
) -> Determined:
    """Convert what must also stand in another currency; `rates` has every pair that it needs."""
    reported = []
    for tax, asked in _asked_for(determination, day, book):
        rate = rates[tax.tax_amount.currency, asked.currency]
        _, taxable = convert(tax.taxable_amount.to_decimal(), rate, Rounding.HALF_UP)
        _, amount = convert(tax.tax_amount.to_decimal(), rate, Rounding.HALF_UP)
        reported.append(ReportedTax(tax, taxable, amount, rate, asked.source))
    return Determined(determination, tuple(reported))


def _asked_for(
    determination: Determination, day: date, book: Rulebook
) -> list[tuple[Tax, ReportingCurrency]]:
    found = []
    for tax in determination.totals:
        if tax.ruling.treatment is not Treatment.TAXED:
            continue
        asked = book.reporting_currency_on(tax.ruling.declared_in, day)
        if asked is not None and asked.currency != tax.tax_amount.currency:
            found.append((tax, asked))
    return found
