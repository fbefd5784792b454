"""The seller, its customers, their subscriptions and invoices, as values.

Amounts are `Money` once settled and exact `Decimal` before. Refuses to know how usage is priced
or taxed: rated lines and taxes arrive whole and are kept as they came.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType

from kit.interval import Interval
from kit.money import Money

ProductCategory = NewType("ProductCategory", int)
"""How a line is taxed: a number that the contracts of rating and tax share."""

DEFAULT_NUMBER_PREFIX = "INV"
DEFAULT_TIME_ZONE = "UTC"


class BuyerKind(StrEnum):
    """Whether the customer acts as a business."""

    CONSUMER = "CONSUMER"
    BUSINESS = "BUSINESS"


class Language(StrEnum):
    """The languages of documents, ISO 639-1."""

    ENGLISH = "en"
    GERMAN = "de"
    FRENCH = "fr"
    JAPANESE = "ja"


class BillingAnchor(StrEnum):
    """When billing periods begin."""

    CALENDAR = "CALENDAR"
    ANNIVERSARY = "ANNIVERSARY"


class CurrencyConversion(StrEnum):
    """What happens when the plan's currency is not the customer's."""

    REFUSED = "REFUSED"
    ECB_REFERENCE_RATE = "ECB_REFERENCE_RATE"


class InvoiceState(StrEnum):
    """The states of an invoice."""

    DRAFT = "DRAFT"
    FINALIZED = "FINALIZED"
    VOIDED = "VOIDED"


class DocumentFormat(StrEnum):
    """The formats of a document; each value is the ending of a file's name."""

    PDF = "pdf"
    JSON = "json"


class TaxTreatment(StrEnum):
    """How a line is treated."""

    TAXED = "TAXED"
    REVERSE_CHARGE = "REVERSE_CHARGE"
    NOT_TAXABLE = "NOT_TAXABLE"
    NOT_REGISTERED = "NOT_REGISTERED"
    OUT_OF_SCOPE = "OUT_OF_SCOPE"


@dataclass(frozen=True, slots=True)
class PostalAddress:
    """A postal address; `region` is the part of ISO 3166-2 after the hyphen."""

    lines: tuple[str, ...]
    city: str
    region: str
    postal_code: str
    country: str


@dataclass(frozen=True, slots=True)
class Seller:
    """The tenant as it stands on its invoices."""

    legal_name: str
    address: PostalAddress
    email: str
    payment_instructions: str
    number_prefix: str
    payment_term_days: int


@dataclass(frozen=True, slots=True)
class TaxId:
    """A tax id as the customer wrote it."""

    country: str
    number: str


@dataclass(frozen=True, slots=True)
class Customer:
    """Who buys and pays; `time_zone` is a key of the IANA database.

    Exemption certificates and evidence of the place are whole messages of tax, serialised.
    """

    customer_id: str
    legal_name: str
    email: str
    address: PostalAddress
    kind: BuyerKind
    tax_ids: tuple[TaxId, ...]
    currency: str
    time_zone: str
    language: Language
    create_time: datetime
    exemption_certificates: tuple[bytes, ...] = ()
    location_evidence: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class PricedUsage:
    """The usage that a price of a plan bills: that of a meter with these values of dimensions."""

    meter_id: str
    dimensions: tuple[tuple[str, str], ...]

    def meets(self, other: "PricedUsage") -> bool:
        """Tell whether some usage could be both; not where a dimension must have two values."""
        values = dict(self.dimensions)
        return self.meter_id == other.meter_id and all(
            values.get(name, value) == value for name, value in other.dimensions
        )


@dataclass(frozen=True, slots=True)
class SoldPlan:
    """What invoicing knows of a plan: its newest version, its currency, which usage it prices."""

    version: int
    currency: str
    usage: tuple[PricedUsage, ...] = ()

    def shared_meter(self, other: "SoldPlan") -> str | None:
        """Name a meter of which both plans would bill some usage, if there is one."""
        for ours in self.usage:
            for theirs in other.usage:
                if ours.meets(theirs):
                    return ours.meter_id
        return None


@dataclass(frozen=True, slots=True)
class Subscription:
    """A customer on a plan, from the start of a day to the start of a day in `time_zone`.

    The time zone is the customer's of the day the subscription was created, and stays: periods
    that shifted with a customer's move would bill hours twice or never. The overrides are the
    message that rating takes, serialised, and empty where nothing was agreed.
    """

    subscription_id: str
    customer_id: str
    plan_id: str
    start_time: datetime
    end_time: datetime | None
    anchor: BillingAnchor
    conversion: CurrencyConversion
    time_zone: str
    create_time: datetime
    overrides: bytes = b""


@dataclass(frozen=True, slots=True)
class FormulaStep:
    """One step of a line's formula, exact and in the plan's currency."""

    description: str
    quantity: Decimal
    unit_amount: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class RatedLine:
    """A priced line as the rating service gave it, in the plan's currency.

    The fields are what invoicing looks at. `as_given` is the whole message, serialised: it is what
    is stored and sent, so that nothing that rating says is lost.
    """

    is_base_fee: bool
    description: str
    quantity: Decimal
    unit: str
    unrounded_amount: Decimal
    amount: Money
    steps: tuple[FormulaStep, ...]
    category: ProductCategory
    as_given: bytes


@dataclass(frozen=True, slots=True)
class Rating:
    """Everything that a period of a plan comes to; it may need to be told of earlier periods."""

    plan_id: str
    plan_version: int
    currency: str
    lines: tuple[RatedLine, ...]
    needs_earlier_periods: bool = False


@dataclass(frozen=True, slots=True)
class Tax:
    """One tax on one line, or its sum over lines, as the tax service determined it.

    `as_given` is the whole message, serialised, as that of a rated line is.
    """

    jurisdiction: str
    name: str
    rate_percent: Decimal
    taxable_amount: Money
    tax_amount: Money
    treatment: TaxTreatment
    invoice_note: str
    explanation: str
    seller_tax_id: str
    as_given: bytes


@dataclass(frozen=True, slots=True)
class TaxableLine:
    """A line whose tax is asked for."""

    line_id: str
    amount: Money
    category: ProductCategory


@dataclass(frozen=True, slots=True)
class Determination:
    """The taxes of one invoice: of each line, in order, and summed; the buyer's id relied on."""

    lines: tuple[tuple[Tax, ...], ...]
    totals: tuple[Tax, ...]
    tax_total: Money
    buyer_tax_id: str
    reported_taxes: tuple["ReportedTax", ...] = ()


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """One unit of the base costs `rate` units of the quote, as published for `rate_date`."""

    base_currency: str
    quote_currency: str
    rate: Decimal
    rate_date: date
    source: str


@dataclass(frozen=True, slots=True)
class ReportedTax:
    """A charged tax in the currency in which its country wants it on the invoice."""

    jurisdiction: str
    name: str
    rate_percent: Decimal
    taxable_amount: Money
    tax_amount: Money
    exchange_rate: ExchangeRate
    as_given: bytes


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """A line of an invoice, counted from 1; the amount is in the invoice's currency."""

    position: int
    rated: RatedLine
    amount: Money
    taxes: tuple[Tax, ...]


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice. A draft has no number and no dates; an issued one never changes."""

    invoice_id: str
    number: str
    state: InvoiceState
    seller: Seller
    customer: Customer
    subscription_id: str
    plan_id: str
    plan_version: int
    period: Interval
    currency: str
    lines: tuple[InvoiceLine, ...]
    subtotal: Money
    taxes: tuple[Tax, ...]
    tax_total: Money
    total: Money
    exchange_rate: ExchangeRate | None
    buyer_tax_id: str
    issue_date: date | None
    due_date: date | None
    create_time: datetime
    finalize_time: datetime | None
    void_time: datetime | None
    void_reason: str
    reported_taxes: tuple[ReportedTax, ...] = ()


@dataclass(frozen=True, slots=True)
class InvoiceSummary:
    """What lists show of an invoice."""

    invoice_id: str
    number: str
    state: InvoiceState
    customer_id: str
    subscription_id: str
    period: Interval
    subtotal: Money
    tax_total: Money
    total: Money


def summarize(invoice: Invoice) -> InvoiceSummary:
    """Make the short view of an invoice."""
    return InvoiceSummary(
        invoice_id=invoice.invoice_id,
        number=invoice.number,
        state=invoice.state,
        customer_id=invoice.customer.customer_id,
        subscription_id=invoice.subscription_id,
        period=invoice.period,
        subtotal=invoice.subtotal,
        tax_total=invoice.tax_total,
        total=invoice.total,
    )
