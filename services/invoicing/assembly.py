"""Rated lines, an exchange rate and taxes become an invoice whose totals are proven.

Everything is computed exactly and settled half up, once for each line. Refuses to determine a tax
or a rate, and to repair figures that do not add up: those raise `AssertionError`.
"""

from collections import defaultdict
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Context, Decimal, FloatOperation, Inexact, InvalidOperation

from kit.decimals import EXACT
from kit.errors import Precondition
from kit.money import Money, Rounding, settle
from services.invoicing.lifecycle import Move, decide_state
from services.invoicing.model import (
    CurrencyConversion,
    Customer,
    Determination,
    ExchangeRate,
    Invoice,
    InvoiceLine,
    InvoiceState,
    Rating,
    Seller,
    Subscription,
    Tax,
    TaxableLine,
)
from services.invoicing.periods import BillingPeriod

_ONE = Decimal(1)
_NUMBER_DIGITS_MIN = 6
# An exact amount times a rate: twice the digits are room for every product.
_CONVERTING = Context(prec=2 * EXACT.prec, traps=[FloatOperation, Inexact, InvalidOperation])
_TaxKey = tuple[str, str, object, str]


def check_currency(plan_currency: str, customer: Customer, conversion: CurrencyConversion) -> None:
    """Check that a plan can be invoiced to a customer.

    Raises:
        Precondition: CURRENCY_MISMATCH, the currencies differ and no conversion is allowed.
    """
    if plan_currency == customer.currency or conversion is not CurrencyConversion.REFUSED:
        return
    raise Precondition(
        "CURRENCY_MISMATCH",
        f"the plan is in {plan_currency} and the customer is invoiced in {customer.currency};"
        " the subscription allows no conversion",
        metadata={"plan_currency": plan_currency, "customer_currency": customer.currency},
    )


def settle_lines(
    rating: Rating, currency: str, rate: ExchangeRate | None
) -> tuple[TaxableLine, ...]:
    """Answer what each line comes to in the invoice's currency.

    A line is settled once: unrounded amount x rate, half up. Converting the settled amount would
    round twice.
    """
    pair = (rating.currency, currency)
    if rate is None:
        assert rating.currency == currency, "lines in another currency need a rate"
    else:
        assert pair == (rate.base_currency, rate.quote_currency), "the rate is for the two"
    factor = _ONE if rate is None else rate.rate
    return tuple(
        TaxableLine(
            line_id=str(position),
            amount=settle(
                _CONVERTING.multiply(line.unrounded_amount, factor), currency, Rounding.HALF_UP
            ),
            category=line.category,
        )
        for position, line in enumerate(rating.lines, 1)
    )


def assemble(
    *,
    invoice_id: str,
    seller: Seller,
    customer: Customer,
    subscription: Subscription,
    period: BillingPeriod,
    rating: Rating,
    exchange_rate: ExchangeRate | None,
    determination: Determination,
    create_time: datetime,
) -> Invoice:
    """Make the draft of an invoice."""
    currency = customer.currency
    settled = settle_lines(rating, currency, exchange_rate)
    lines = tuple(
        InvoiceLine(position, rated, line.amount, taxes)
        for position, (rated, line, taxes) in enumerate(
            zip(rating.lines, settled, determination.lines, strict=True), 1
        )
    )
    subtotal = sum((line.amount for line in lines), Money.zero(currency))
    invoice = Invoice(
        invoice_id=invoice_id,
        number="",
        state=InvoiceState.DRAFT,
        seller=seller,
        customer=customer,
        subscription_id=subscription.subscription_id,
        plan_id=rating.plan_id,
        plan_version=rating.plan_version,
        period=period.interval,
        currency=currency,
        lines=lines,
        subtotal=subtotal,
        taxes=determination.totals,
        tax_total=determination.tax_total,
        total=subtotal + determination.tax_total,
        exchange_rate=exchange_rate,
        buyer_tax_id=determination.buyer_tax_id,
        reported_taxes=determination.reported_taxes,
        issue_date=None,
        due_date=None,
        create_time=create_time,
        finalize_time=None,
        void_time=None,
        void_reason="",
    )
    prove_totals(invoice)
    return invoice


def series_of(seller: Seller, issue_date: date) -> str:
    """Name the series that an invoice of this day takes its number from."""
    return f"{seller.number_prefix}-{issue_date.year}"


def finalize(
    invoice: Invoice, *, sequence: int, issue_date: date, finalize_time: datetime
) -> Invoice:
    """Issue a draft under the number `sequence` of its series.

    Raises:
        Precondition: INVOICE_STATE, it is no draft.
    """
    state = decide_state(invoice.invoice_id, invoice.state, Move.FINALIZE)
    prove_totals(invoice)
    series = series_of(invoice.seller, issue_date)
    return replace(
        invoice,
        state=state,
        number=f"{series}-{sequence:0{_NUMBER_DIGITS_MIN}}",
        issue_date=issue_date,
        due_date=issue_date + timedelta(days=invoice.seller.payment_term_days),
        finalize_time=finalize_time,
    )


def void(invoice: Invoice, *, void_time: datetime, reason: str) -> Invoice:
    """Take an issued invoice back; everything else stays.

    Raises:
        Precondition: INVOICE_STATE, it is a draft or void already.
    """
    state = decide_state(invoice.invoice_id, invoice.state, Move.VOID)
    return replace(invoice, state=state, void_time=void_time, void_reason=reason)


def as_issued(invoice: Invoice) -> Invoice:
    """Answer an issued invoice as it was on the day of its issue: what its documents show.

    Raises:
        Precondition: INVOICE_STATE, it is a draft.
    """
    decide_state(invoice.invoice_id, invoice.state, Move.RENDER)
    return replace(invoice, state=InvoiceState.FINALIZED, void_time=None, void_reason="")


def prove_totals(invoice: Invoice) -> None:
    """Assert that lines sum to the subtotal, taxes to their totals, and both to the total."""
    nothing = Money.zero(invoice.currency)
    assert sum((line.amount for line in invoice.lines), nothing) == invoice.subtotal, (
        "the lines sum to the subtotal"
    )
    assert sum((tax.tax_amount for tax in invoice.taxes), nothing) == invoice.tax_total, (
        "the taxes sum to the tax total"
    )
    assert invoice.subtotal + invoice.tax_total == invoice.total, (
        "subtotal and taxes sum to the total"
    )
    of_lines = [tax for line in invoice.lines for tax in line.taxes]
    assert _sum_by_tax(of_lines, nothing) == _sum_by_tax(invoice.taxes, nothing), (
        "the taxes of the lines sum to those of the invoice"
    )


def _sum_by_tax(
    taxes: list[Tax] | tuple[Tax, ...], nothing: Money
) -> dict[_TaxKey, tuple[Money, Money]]:
    sums: defaultdict[_TaxKey, tuple[Money, Money]] = defaultdict(lambda: (nothing, nothing))
    for tax in taxes:
        key = (tax.jurisdiction, tax.name, tax.rate_percent, tax.treatment)
        taxable, amount = sums[key]
        sums[key] = (taxable + tax.taxable_amount, amount + tax.tax_amount)
    return dict(sums)
