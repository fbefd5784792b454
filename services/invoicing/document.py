"""What stands on the page of an issued invoice: every text in place, every figure written.

The template only lays it out. Refuses to compute money: it shows what the invoice holds.
"""

import re
from datetime import timedelta
from decimal import Decimal

from kit.decimals import DECIMALS_MAX, exactly
from kit.money import minor_digits
from services.invoicing.figures import Figures, figures_of
from services.invoicing.glyphs import replace_unshown
from services.invoicing.labels import LABELS, Labels, translate_step
from services.invoicing.model import (
    Customer,
    ExchangeRate,
    FormulaStep,
    Invoice,
    InvoiceLine,
    Language,
    PostalAddress,
    RatedLine,
    ReportedTax,
    Tax,
    TaxTreatment,
)
from services.invoicing.periods import day_of

Page = dict[str, object]

_CITY_BEFORE_POSTAL_CODE = frozenset({"AU", "CA", "GB", "IE", "IN", "NZ", "SG", "US"})
_LETTER_PAPER = frozenset({"CA", "MX", "US"})
_INSTANT = timedelta(microseconds=1)
_EACH = "each"
_BASE_FEE_SUFFIX = ": base fee"
_RATE_PER_UNITS = re.compile(r"(\d+(?:\.\d+)?) per (\d+(?:\.\d+)?)")
_READABLE_UNIT_AMOUNT_MIN = Decimal("0.01")
_UNITS_SHOWN = (Decimal(1), Decimal(1_000), Decimal(1_000_000))


def describe_page(invoice: Invoice, time_zone: str) -> Page:
    """Answer what stands on the page of an issued invoice, in the customer's language.

    `time_zone` is that of the subscription, in which the days of the period are named.
    """
    assert invoice.issue_date is not None, "only an issued invoice has a page"
    assert invoice.due_date is not None, "only an issued invoice has a page"
    customer = invoice.customer
    labels = LABELS[customer.language]
    figures = figures_of(customer.language, customer.address.country)
    with exactly():
        page: Page = {
            "language": customer.language.value,
            "paper": "us-letter" if customer.address.country in _LETTER_PAPER else "a4",
            "title": f"{labels.invoice} {invoice.number}",
            "number": invoice.number,
            "heading": labels.invoice,
            "issued": [
                invoice.issue_date.year,
                invoice.issue_date.month,
                invoice.issue_date.day,
            ],
            "seller": _describe_seller(invoice, labels, figures),
            "buyer": _describe_buyer(invoice, labels, figures),
            "facts": [
                [labels.number, invoice.number],
                [labels.issue_date, figures.day(invoice.issue_date)],
                [labels.due_date, figures.day(invoice.due_date)],
                [labels.period, _describe_period(invoice, time_zone, figures)],
                [labels.customer_id, customer.customer_id],
            ],
            "columns": _describe_columns(invoice, labels),
            "lines": [_describe_line(line, customer, labels, figures) for line in invoice.lines],
            "totals": _describe_totals(invoice, labels, figures),
            "total": [labels.total_due, figures.money(invoice.total)],
            "notes": _describe_notes(invoice, labels, figures),
            "notes_label": labels.notes,
            "payment": invoice.seller.payment_instructions.strip().splitlines(),
            "payment_label": labels.payment,
            "page": labels.page.split("{}"),
        }
    return {name: _show(part) for name, part in page.items()}


def describe_address(address: PostalAddress, figures: Figures) -> list[str]:
    """Write an address as it is written in its country."""
    if address.country in _CITY_BEFORE_POSTAL_CODE:
        place = ", ".join(filter(None, (address.city, address.region)))
        town = " ".join(filter(None, (place, address.postal_code)))
    else:
        place = " ".join(filter(None, (address.postal_code, address.city)))
        town = ", ".join(filter(None, (place, address.region)))
    return [*address.lines, town, figures.country(address.country)]


def describe_unit_amount(amount: Decimal, currency: str, figures: Figures) -> str:
    """Write what one unit costs; below a hundredth, what a thousand or a million of them do."""
    shown = next(
        (units for units in _UNITS_SHOWN if amount * units >= _READABLE_UNIT_AMOUNT_MIN),
        _UNITS_SHOWN[0],
    )
    text = figures.number(amount * shown, decimals_min=minor_digits(currency))
    return text if shown == 1 else f"{text} / {figures.number(shown)}"


def _show(part: object) -> object:
    """Write every text of a page with characters that the fonts can show."""
    match part:
        case str():
            return replace_unshown(part)
        case list():
            return [_show(each) for each in part]
        case dict():
            return {name: _show(each) for name, each in part.items()}
        case _:
            return part


def _describe_seller(invoice: Invoice, labels: Labels, figures: Figures) -> Page:
    numbers = [
        f"{_name_tax_number(tax, labels)} {tax.seller_tax_id}"
        for tax in invoice.taxes
        if tax.seller_tax_id
    ]
    return {
        "name": invoice.seller.legal_name,
        "address": describe_address(invoice.seller.address, figures),
        "more": [*filter(None, [invoice.seller.email]), *dict.fromkeys(numbers)],
    }


def _describe_buyer(invoice: Invoice, labels: Labels, figures: Figures) -> Page:
    numbers = [
        f"{_name_tax_number(tax, labels)} {invoice.buyer_tax_id}"
        for tax in invoice.taxes
        if invoice.buyer_tax_id
    ]
    return {
        "label": labels.bill_to,
        "name": invoice.customer.legal_name,
        "address": describe_address(invoice.customer.address, figures),
        "more": [*filter(None, [invoice.customer.email]), *numbers[:1]],
    }


def _name_tax_number(tax: Tax, labels: Labels) -> str:
    name = labels.names.get(tax.name, tax.name)
    return labels.tax_numbers.get(tax.name) or labels.tax_number.format(name)


def _describe_period(invoice: Invoice, time_zone: str, figures: Figures) -> str:
    first = day_of(invoice.period.start, time_zone)
    last = day_of(invoice.period.end - _INSTANT, time_zone)
    return LABELS[invoice.customer.language].days.format(figures.day(first), figures.day(last))


def _describe_columns(invoice: Invoice, labels: Labels) -> list[str]:
    rate = invoice.exchange_rate
    plan_currency = invoice.currency if rate is None else rate.base_currency
    return [
        labels.description,
        labels.quantity,
        f"{labels.unit_price} ({plan_currency})",
        f"{labels.calculation} ({plan_currency})",
        f"{labels.amount} ({invoice.currency})",
    ]


def _describe_line(
    line: InvoiceLine, customer: Customer, labels: Labels, figures: Figures
) -> dict[str, object]:
    rated = line.rated
    currency = rated.amount.currency
    steps = [_describe_step(step, currency, customer.language, figures) for step in rated.steps]
    described: dict[str, object] = {
        "description": rated.description,
        "quantity": f"{figures.number(rated.quantity)} {rated.unit}".rstrip(),
        "unit_amount": "",
        "calculation": figures.number(rated.unrounded_amount, decimals_min=minor_digits(currency)),
        "amount": figures.amount(line.amount),
        "steps": steps,
    }
    if len(steps) == 1 and _says_nothing_more(rated):
        described |= {"unit_amount": steps[0]["unit_amount"], "steps": []}
    if rated.is_base_fee:
        name = rated.description.removesuffix(_BASE_FEE_SUFFIX)
        share = " + ".join(step["description"] for step in steps if step["quantity"] != "1")
        described |= {"description": labels.base_fee.format(name), "quantity": share or "1"}
    return described


def _says_nothing_more(rated: RatedLine) -> bool:
    """Tell whether the first step only repeats the quantity of the line and names its price."""
    words = rated.steps[0].description
    is_plain = rated.is_base_fee or words == _EACH or _RATE_PER_UNITS.fullmatch(words) is not None
    return is_plain and rated.steps[0].quantity == rated.quantity


def _describe_step(
    step: FormulaStep, currency: str, language: Language, figures: Figures
) -> dict[str, str]:
    rate = _RATE_PER_UNITS.fullmatch(step.description)
    if rate is None:
        unit_amount = describe_unit_amount(step.unit_amount, currency, figures)
    else:
        amount, units = map(Decimal, rate.groups())
        price = figures.number(amount, decimals_min=minor_digits(currency))
        unit_amount = f"{price} / {figures.number(units)}"
    return {
        "description": translate_step(
            step.description, language, lambda text: figures.number(Decimal(text))
        ),
        "quantity": figures.number(step.quantity),
        "unit_amount": unit_amount,
        "calculation": figures.number(step.amount, decimals_min=minor_digits(currency)),
    }


def _describe_totals(invoice: Invoice, labels: Labels, figures: Figures) -> list[list[str]]:
    """Write the subtotal and a row for each tax that is charged, or that the buyer owes."""
    rows = [[labels.subtotal, figures.amount(invoice.subtotal)]]
    rows.extend(
        [_describe_tax(tax, labels, figures), figures.amount(tax.tax_amount)]
        for tax in invoice.taxes
        if tax.treatment is TaxTreatment.TAXED or tax.treatment in labels.treatments
    )
    return rows


def _describe_tax(tax: Tax, labels: Labels, figures: Figures) -> str:
    name = f"{labels.names.get(tax.name, tax.name)} {tax.jurisdiction}"
    taxable = figures.amount(tax.taxable_amount)
    if tax.treatment is TaxTreatment.TAXED:
        return labels.tax_on.format(name, figures.percent(tax.rate_percent), taxable)
    return labels.tax_without_charge.format(name, labels.treatments[tax.treatment], taxable)


def _describe_notes(invoice: Invoice, labels: Labels, figures: Figures) -> list[str]:
    """Write why each tax is charged or not, what the law wants said, and the rates taken."""
    notes = [text for tax in invoice.taxes for text in (tax.invoice_note, tax.explanation) if text]
    for reported in invoice.reported_taxes:
        notes.append(_describe_reported_tax(reported, labels, figures))
        notes.append(_describe_exchange_rate(reported.exchange_rate, labels, figures))
    if invoice.exchange_rate is not None:
        notes.append(_describe_exchange_rate(invoice.exchange_rate, labels, figures))
    return list(dict.fromkeys(notes))


def _describe_reported_tax(tax: ReportedTax, labels: Labels, figures: Figures) -> str:
    return labels.reported_tax.format(
        f"{labels.names.get(tax.name, tax.name)} {tax.jurisdiction}",
        figures.percent(tax.rate_percent),
        tax.tax_amount.currency,
        figures.amount(tax.tax_amount),
        figures.amount(tax.taxable_amount),
    )


def _describe_exchange_rate(rate: ExchangeRate, labels: Labels, figures: Figures) -> str:
    return labels.exchange_rate.format(
        rate.base_currency,
        figures.number(rate.rate, decimals_max=DECIMALS_MAX),
        rate.quote_currency,
        labels.names.get(rate.source, rate.source),
        figures.day(rate.rate_date),
    )
