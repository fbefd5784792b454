"""Compares every figure of the services with the one computed a second time.

A difference is never explained away: each is kept with both figures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date
from fractions import Fraction

from google.type.money_pb2 import Money

from cli.demo.recompute import (
    DEALS,
    ExpectedInvoice,
    ExpectedLine,
    Used,
    add_up,
    recompute_invoice,
)
from tollkeeper.api.invoicing.v1.invoice_pb2 import Invoice, InvoiceLine
from tollkeeper.api.tax.v1.tax_pb2 import Tax, TaxTreatment

Usage = Mapping[tuple[str, str], Fraction]

_NANOS_PER_UNIT = 10**9
_MINOR_UNITS_PER_UNIT = {"USD": 100, "JPY": 1}


@dataclass(slots=True)
class Reconciliation:
    """What was compared so far, and what differs."""

    figure_count: int = 0
    event_count: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing differs."""
        return not self.differences

    def figure(self, name: str, expected: Fraction | int, actual: Fraction | int) -> None:
        """Compare a number."""
        self.figure_count += 1
        if expected != actual:
            self.differences.append(f"{name}: {actual} instead of {expected}")

    def fact(self, name: str, expected: object, actual: object) -> None:
        """Compare what is no number."""
        if expected != actual:
            self.differences.append(f"{name}: {actual!r} instead of {expected!r}")


def compare_events(result: Reconciliation, sent: Iterable[Used], listed: Iterable[Used]) -> None:
    """Compare the events that were sent with those that the meter lists, field by field."""
    by_identity = {(event.source, event.event_id): event for event in sent}
    for event in listed:
        result.event_count += 1
        name = f"event {event.event_id} of {event.source}"
        result.fact(name, by_identity.pop((event.source, event.event_id), None), event)
    for source, event_id in by_identity:
        result.differences.append(f"event {event_id} of {source} is not in the meter")


def compare_usage(
    result: Reconciliation,
    events: Sequence[Used],
    month: date,
    quantities: Mapping[str, str],
    metered: Usage,
) -> None:
    """Compare what each meter answers for each customer's month.

    Args:
        result: Receives the comparison.
        events: What was sent.
        month: The month that was closed.
        quantities: What each meter adds up, by its id.
        metered: What they answered, by customer and meter.
    """
    for customer_id in DEALS:
        expected = recompute_invoice(events, customer_id, month)
        usage = add_up(events, customer_id, expected.start, expected.end)
        for meter_id, quantity in quantities.items():
            result.figure(
                f"usage of {customer_id} on {meter_id}",
                usage.get(quantity, Fraction(0)),
                metered.get((customer_id, meter_id), Fraction(0)),
            )


def compare_invoices(
    result: Reconciliation, events: Sequence[Used], month: date, invoices: Sequence[Invoice]
) -> None:
    """Compare every figure of every invoice; each customer must have exactly one."""
    found = sorted(invoice.customer.customer_id for invoice in invoices)
    result.fact("customers with an invoice", sorted(DEALS), found)
    for invoice in invoices:
        customer_id = invoice.customer.customer_id
        if customer_id in DEALS:
            _compare_invoice(result, recompute_invoice(events, customer_id, month), invoice)


def _compare_invoice(result: Reconciliation, expected: ExpectedInvoice, invoice: Invoice) -> None:
    name = f"invoice {invoice.number}"
    bounds = (invoice.period.start_time, invoice.period.end_time)
    result.fact(
        f"{name}, period",
        (expected.start, expected.end),
        tuple(bound.ToDatetime(UTC) for bound in bounds),
    )
    result.fact(f"{name}, currency", expected.currency, invoice.currency)
    lines = {line.rated.price_id: line for line in invoice.lines}
    result.fact(f"{name}, prices", list(expected.lines), [*lines])
    for price_id, line in lines.items():
        if price_id in expected.lines:
            _compare_line(result, f"{name}, line {line.position}", expected, line)
    if invoice.HasField("exchange_rate"):
        rate = Fraction(invoice.exchange_rate.rate.value)
        result.figure(f"{name}, exchange rate", expected.exchange_rate, rate)
    else:
        result.fact(f"{name}, exchange rate", expected.exchange_rate, Fraction(1))
    result.figure(f"{name}, subtotal", expected.subtotal_minor, minor_units(invoice.subtotal))
    result.figure(f"{name}, tax total", expected.tax_minor, minor_units(invoice.tax_total))
    total_minor = expected.subtotal_minor + expected.tax_minor
    result.figure(f"{name}, total", total_minor, minor_units(invoice.total))
    result.figure(f"{name}, taxes", 1, len(invoice.taxes))
    for tax in invoice.taxes:
        amounts = (expected.subtotal_minor, expected.tax_minor)
        _compare_tax(result, f"{name}, tax", expected, amounts, tax)


def _compare_line(
    result: Reconciliation, name: str, invoice: ExpectedInvoice, line: InvoiceLine
) -> None:
    rated = line.rated
    expected: ExpectedLine = invoice.lines[rated.price_id]
    steps = [
        (
            Fraction(step.quantity.value),
            Fraction(step.unit_amount.value),
            Fraction(step.amount.value),
        )
        for step in rated.steps
    ]
    result.figure(f"{name}, quantity", expected.quantity, Fraction(rated.quantity.value))
    unrounded = Fraction(rated.unrounded_amount.value)
    result.figure(f"{name}, unrounded", expected.unrounded, unrounded)
    for number, (quantity, unit_amount, amount) in enumerate(steps, start=1):
        result.figure(f"{name}, step {number}", quantity * unit_amount, amount)
    step_sum = sum((amount for _, _, amount in steps), Fraction(0))
    result.figure(f"{name}, sum of steps", expected.unrounded, step_sum)
    result.figure(f"{name}, rated amount", expected.cents, minor_units(rated.amount))
    result.figure(f"{name}, amount", expected.amount_minor, minor_units(line.amount))
    result.figure(f"{name}, taxes", 1, len(line.taxes))
    for tax in line.taxes:
        amounts = (expected.amount_minor, expected.tax_minor)
        _compare_tax(result, f"{name}, tax", invoice, amounts, tax)


def _compare_tax(
    result: Reconciliation,
    name: str,
    expected: ExpectedInvoice,
    amounts_minor: tuple[int, int],
    tax: Tax,
) -> None:
    treatment = TaxTreatment.Name(tax.treatment).removeprefix("TAX_TREATMENT_")
    result.fact(f"{name}, treatment", expected.treatment, treatment)
    result.figure(f"{name}, rate", expected.tax_percent, Fraction(tax.rate_percent.value))
    taxable_minor, tax_minor = amounts_minor
    result.figure(f"{name}, taxable", taxable_minor, minor_units(tax.taxable_amount))
    result.figure(f"{name}, amount", tax_minor, minor_units(tax.tax_amount))


def minor_units(money: Money) -> Fraction:
    """Read settled money in minor units; anything finer shows as a fraction."""
    value = money.units + Fraction(money.nanos, _NANOS_PER_UNIT)
    return value * _MINOR_UNITS_PER_UNIT[money.currency_code]
