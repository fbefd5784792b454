"""An invoice and its parts as messages: what is stored, what is sent, and what other services say.

One form for all three, so that a stored invoice can be read as long as the contract can. Rated
lines and taxes are kept as they were given, with fields that this version does not know. Reading
trusts its source, which is our own store or one of our own services: callers' requests are parsed
in `convert`. Refuses to lose a digit.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal as DecimalMessage

from kit.decimals import EXACT
from kit.rpc.wire import (
    parse_interval,
    parse_money,
    parse_time,
    render_decimal,
    render_interval,
    render_money,
    render_time,
)
from services.invoicing.model import (
    BuyerKind,
    Customer,
    ExchangeRate,
    FormulaStep,
    Invoice,
    InvoiceLine,
    InvoiceState,
    Language,
    PostalAddress,
    ProductCategory,
    RatedLine,
    ReportedTax,
    Seller,
    Tax,
    TaxId,
    TaxTreatment,
)
from tollkeeper.api.invoicing.v1 import customer_pb2, invoice_pb2
from tollkeeper.api.rating.v1 import rating_pb2
from tollkeeper.api.tax.v1 import tax_pb2

BUYER_KINDS: Mapping[BuyerKind, tax_pb2.BuyerKind.ValueType] = {
    BuyerKind.CONSUMER: tax_pb2.BUYER_KIND_CONSUMER,
    BuyerKind.BUSINESS: tax_pb2.BUYER_KIND_BUSINESS,
}
INVOICE_STATES: Mapping[InvoiceState, invoice_pb2.InvoiceState.ValueType] = {
    InvoiceState.DRAFT: invoice_pb2.INVOICE_STATE_DRAFT,
    InvoiceState.FINALIZED: invoice_pb2.INVOICE_STATE_FINALIZED,
    InvoiceState.VOIDED: invoice_pb2.INVOICE_STATE_VOIDED,
}
_TREATMENTS: Mapping[int, TaxTreatment] = {
    tax_pb2.TAX_TREATMENT_TAXED: TaxTreatment.TAXED,
    tax_pb2.TAX_TREATMENT_REVERSE_CHARGE: TaxTreatment.REVERSE_CHARGE,
    tax_pb2.TAX_TREATMENT_NOT_TAXABLE: TaxTreatment.NOT_TAXABLE,
    tax_pb2.TAX_TREATMENT_NOT_REGISTERED: TaxTreatment.NOT_REGISTERED,
    tax_pb2.TAX_TREATMENT_OUT_OF_SCOPE: TaxTreatment.OUT_OF_SCOPE,
}
_BUYER_KINDS_BY_NUMBER = {number: kind for kind, number in BUYER_KINDS.items()}
_INVOICE_STATES_BY_NUMBER = {number: state for state, number in INVOICE_STATES.items()}


def write_snapshot(invoice: Invoice) -> bytes:
    """Write an invoice as bytes; equal invoices give equal bytes."""
    return render_invoice(invoice).SerializeToString(deterministic=True)


def read_snapshot(content: bytes) -> Invoice:
    """Read an invoice as it was written."""
    return read_invoice(invoice_pb2.Invoice.FromString(content))


def write_json(invoice: Invoice) -> bytes:
    """Write every field of an invoice as JSON, in the protobuf mapping; fields keep their order."""
    text = MessageToJson(render_invoice(invoice), indent=2, ensure_ascii=False)
    return f"{text}\n".encode()


def render_invoice(invoice: Invoice) -> invoice_pb2.Invoice:
    """Write an invoice as a message."""
    rate, finalized, voided = invoice.exchange_rate, invoice.finalize_time, invoice.void_time
    return invoice_pb2.Invoice(
        invoice_id=invoice.invoice_id,
        number=invoice.number,
        state=INVOICE_STATES[invoice.state],
        seller=render_seller(invoice.seller),
        customer=render_customer(invoice.customer),
        subscription_id=invoice.subscription_id,
        plan_id=invoice.plan_id,
        plan_version=invoice.plan_version,
        period=render_interval(invoice.period),
        currency=invoice.currency,
        lines=map(_render_line, invoice.lines),
        subtotal=render_money(invoice.subtotal),
        taxes=[tax_pb2.Tax.FromString(tax.as_given) for tax in invoice.taxes],
        tax_total=render_money(invoice.tax_total),
        total=render_money(invoice.total),
        exchange_rate=None if rate is None else render_exchange_rate(rate),
        buyer_tax_id=invoice.buyer_tax_id,
        issue_date=None if invoice.issue_date is None else render_date(invoice.issue_date),
        due_date=None if invoice.due_date is None else render_date(invoice.due_date),
        create_time=render_time(invoice.create_time),
        finalize_time=None if finalized is None else render_time(finalized),
        void_time=None if voided is None else render_time(voided),
        void_reason=invoice.void_reason,
        reported_taxes=[
            tax_pb2.ReportedTax.FromString(tax.as_given) for tax in invoice.reported_taxes
        ],
    )


def read_invoice(message: invoice_pb2.Invoice) -> Invoice:
    """Read an invoice from a message that `render_invoice` wrote."""
    has = message.HasField
    return Invoice(
        invoice_id=message.invoice_id,
        number=message.number,
        state=_INVOICE_STATES_BY_NUMBER[message.state],
        seller=_read_seller(message.seller),
        customer=_read_customer(message.customer),
        subscription_id=message.subscription_id,
        plan_id=message.plan_id,
        plan_version=message.plan_version,
        period=parse_interval(message.period, "period"),
        currency=message.currency,
        lines=tuple(map(_read_line, message.lines)),
        subtotal=parse_money(message.subtotal, "subtotal"),
        taxes=tuple(map(read_tax, message.taxes)),
        tax_total=parse_money(message.tax_total, "tax_total"),
        total=parse_money(message.total, "total"),
        exchange_rate=(read_exchange_rate(message.exchange_rate) if has("exchange_rate") else None),
        buyer_tax_id=message.buyer_tax_id,
        issue_date=_read_date(message.issue_date) if has("issue_date") else None,
        due_date=_read_date(message.due_date) if has("due_date") else None,
        create_time=parse_time(message.create_time, "create_time"),
        finalize_time=(
            parse_time(message.finalize_time, "finalize_time") if has("finalize_time") else None
        ),
        void_time=parse_time(message.void_time, "void_time") if has("void_time") else None,
        void_reason=message.void_reason,
        reported_taxes=tuple(map(read_reported_tax, message.reported_taxes)),
    )


def render_seller(seller: Seller) -> customer_pb2.Seller:
    """Write the seller."""
    return customer_pb2.Seller(
        legal_name=seller.legal_name,
        address=_render_address(seller.address),
        email=seller.email,
        payment_instructions=seller.payment_instructions,
        number_prefix=seller.number_prefix,
        payment_term_days=seller.payment_term_days,
    )


def render_customer(customer: Customer) -> customer_pb2.Customer:
    """Write a customer."""
    return customer_pb2.Customer(
        customer_id=customer.customer_id,
        legal_name=customer.legal_name,
        email=customer.email,
        address=_render_address(customer.address),
        kind=BUYER_KINDS[customer.kind],
        tax_ids=map(render_tax_id, customer.tax_ids),
        currency=customer.currency,
        time_zone=customer.time_zone,
        language=customer.language.value,
        exemption_certificates=map(
            tax_pb2.ExemptionCertificate.FromString, customer.exemption_certificates
        ),
        location_evidence=map(tax_pb2.LocationEvidence.FromString, customer.location_evidence),
        create_time=render_time(customer.create_time),
    )


def render_tax_id(tax_id: TaxId) -> tax_pb2.TaxId:
    """Write a tax id."""
    return tax_pb2.TaxId(country=tax_id.country, number=tax_id.number)


def render_date(day: date) -> Date:
    """Write a day."""
    return Date(year=day.year, month=day.month, day=day.day)


def render_exchange_rate(rate: ExchangeRate) -> tax_pb2.ExchangeRate:
    """Write an exchange rate."""
    return tax_pb2.ExchangeRate(
        base_currency=rate.base_currency,
        quote_currency=rate.quote_currency,
        rate=render_decimal(rate.rate),
        rate_date=render_date(rate.rate_date),
        source=rate.source,
    )


def written_each(messages: Iterable[Message]) -> tuple[bytes, ...]:
    """Write each message as bytes; equal messages give equal bytes."""
    return tuple(message.SerializeToString(deterministic=True) for message in messages)


def read_exchange_rate(message: tax_pb2.ExchangeRate) -> ExchangeRate:
    """Read an exchange rate."""
    return ExchangeRate(
        base_currency=message.base_currency,
        quote_currency=message.quote_currency,
        rate=_read_decimal(message.rate),
        rate_date=_read_date(message.rate_date),
        source=message.source,
    )


def read_rated_line(message: rating_pb2.RatedLine) -> RatedLine:
    """Read a rated line."""
    return RatedLine(
        is_base_fee=message.kind == rating_pb2.LINE_KIND_BASE_FEE,
        description=message.description,
        quantity=_read_decimal(message.quantity),
        unit=message.unit,
        unrounded_amount=_read_decimal(message.unrounded_amount),
        amount=parse_money(message.amount, "amount"),
        steps=tuple(map(_read_step, message.steps)),
        category=ProductCategory(message.category),
        as_given=message.SerializeToString(deterministic=True),
    )


def read_tax(message: tax_pb2.Tax) -> Tax:
    """Read a tax."""
    return Tax(
        jurisdiction=message.jurisdiction,
        name=message.name,
        rate_percent=_read_decimal(message.rate_percent),
        taxable_amount=parse_money(message.taxable_amount, "taxable_amount"),
        tax_amount=parse_money(message.tax_amount, "tax_amount"),
        treatment=_TREATMENTS[message.treatment],
        invoice_note=message.invoice_note,
        explanation=message.explanation,
        seller_tax_id=message.seller_tax_id,
        as_given=message.SerializeToString(deterministic=True),
    )


def read_reported_tax(message: tax_pb2.ReportedTax) -> ReportedTax:
    """Read a tax in the currency in which its country wants it."""
    return ReportedTax(
        jurisdiction=message.jurisdiction,
        name=message.name,
        rate_percent=_read_decimal(message.rate_percent),
        taxable_amount=parse_money(message.taxable_amount, "taxable_amount"),
        tax_amount=parse_money(message.tax_amount, "tax_amount"),
        exchange_rate=read_exchange_rate(message.exchange_rate),
        as_given=message.SerializeToString(deterministic=True),
    )


def _render_address(address: PostalAddress) -> customer_pb2.PostalAddress:
    return customer_pb2.PostalAddress(
        lines=address.lines,
        city=address.city,
        region=address.region,
        postal_code=address.postal_code,
        country=address.country,
    )


def _render_line(line: InvoiceLine) -> invoice_pb2.InvoiceLine:
    return invoice_pb2.InvoiceLine(
        position=line.position,
        rated=rating_pb2.RatedLine.FromString(line.rated.as_given),
        amount=render_money(line.amount),
        taxes=[tax_pb2.Tax.FromString(tax.as_given) for tax in line.taxes],
    )


def _read_decimal(message: DecimalMessage) -> Decimal:
    """Read a number that may be longer than what callers may write: a product of two such."""
    return EXACT.create_decimal(message.value)


def _read_date(message: Date) -> date:
    return date(message.year, message.month, message.day)


def _read_step(message: rating_pb2.FormulaStep) -> FormulaStep:
    return FormulaStep(
        description=message.description,
        quantity=_read_decimal(message.quantity),
        unit_amount=_read_decimal(message.unit_amount),
        amount=_read_decimal(message.amount),
    )


def _read_line(message: invoice_pb2.InvoiceLine) -> InvoiceLine:
    return InvoiceLine(
        position=message.position,
        rated=read_rated_line(message.rated),
        amount=parse_money(message.amount, "amount"),
        taxes=tuple(map(read_tax, message.taxes)),
    )


def _read_seller(message: customer_pb2.Seller) -> Seller:
    return Seller(
        legal_name=message.legal_name,
        address=_read_address(message.address),
        email=message.email,
        payment_instructions=message.payment_instructions,
        number_prefix=message.number_prefix,
        payment_term_days=message.payment_term_days,
    )


def _read_customer(message: customer_pb2.Customer) -> Customer:
    return Customer(
        customer_id=message.customer_id,
        legal_name=message.legal_name,
        email=message.email,
        address=_read_address(message.address),
        kind=_BUYER_KINDS_BY_NUMBER[message.kind],
        tax_ids=tuple(TaxId(tax_id.country, tax_id.number) for tax_id in message.tax_ids),
        currency=message.currency,
        time_zone=message.time_zone,
        language=Language(message.language),
        create_time=parse_time(message.create_time, "create_time"),
        exemption_certificates=written_each(message.exemption_certificates),
        location_evidence=written_each(message.location_evidence),
    )


def _read_address(message: customer_pb2.PostalAddress) -> PostalAddress:
    return PostalAddress(
        lines=tuple(message.lines),
        city=message.city,
        region=message.region,
        postal_code=message.postal_code,
        country=message.country,
    )
