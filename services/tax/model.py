"""The values of tax: who sells to whom, what is ruled on a supply, and what it comes to.

Everything here is frozen and pure. Rates are percentages, as the law writes them; an amount is
`Money` before and after. It refuses ranges that end before they start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from kit.money import Money

ZERO = Decimal(0)
HUNDRED = Decimal(100)


class BuyerKind(StrEnum):
    """Whether a buyer acts as a business."""

    CONSUMER = "CONSUMER"
    BUSINESS = "BUSINESS"


class ProductCategory(StrEnum):
    """What is sold, as far as tax law tells it apart."""

    ELECTRONIC_SERVICE = "ELECTRONIC_SERVICE"
    PROFESSIONAL_SERVICE = "PROFESSIONAL_SERVICE"
    GOODS = "GOODS"
    EXEMPT = "EXEMPT"


class RegistrationScheme(StrEnum):
    """Under which scheme a seller is registered; the contract describes each."""

    DOMESTIC = "DOMESTIC"
    UNION_OSS = "UNION_OSS"
    NON_UNION_OSS = "NON_UNION_OSS"
    SIMPLIFIED = "SIMPLIFIED"
    SMALL_BUSINESS = "SMALL_BUSINESS"
    EU_BELOW_THRESHOLD = "EU_BELOW_THRESHOLD"


class Treatment(StrEnum):
    """How a supply is treated by one tax."""

    TAXED = "TAXED"
    REVERSE_CHARGE = "REVERSE_CHARGE"
    NOT_TAXABLE = "NOT_TAXABLE"
    NOT_REGISTERED = "NOT_REGISTERED"
    OUT_OF_SCOPE = "OUT_OF_SCOPE"


class TaxIdStatus(StrEnum):
    """What is known of a tax id."""

    INVALID = "INVALID"
    FORMAT_VALID = "FORMAT_VALID"
    NOT_CHECKED = "NOT_CHECKED"
    CONFIRMED = "CONFIRMED"


class TaxRounding(StrEnum):
    """Where tax is rounded: once for each rate, or on each line."""

    PER_RATE = "PER_RATE"
    PER_LINE = "PER_LINE"


class PriceKind(StrEnum):
    """Whether the amounts of lines include tax."""

    TAX_EXCLUSIVE = "TAX_EXCLUSIVE"
    TAX_INCLUSIVE = "TAX_INCLUSIVE"


class EvidenceKind(StrEnum):
    """What kind of thing shows where a buyer is; the contract describes each."""

    BILLING_ADDRESS = "BILLING_ADDRESS"
    IP_ADDRESS = "IP_ADDRESS"
    BANK = "BANK"
    SIM_CARD = "SIM_CARD"
    LANDLINE = "LANDLINE"
    OTHER = "OTHER"


class EvidenceStatus(StrEnum):
    """Whether what is known of a buyer's place meets what the law asks."""

    NOT_REQUIRED = "NOT_REQUIRED"
    SUFFICIENT = "SUFFICIENT"
    INSUFFICIENT = "INSUFFICIENT"


@dataclass(frozen=True, slots=True)
class DateRange:
    """Days from `start` up to, but not with, `end`; without an end it goes on."""

    start: date
    end: date | None = None

    def __post_init__(self) -> None:
        if self.end is not None and self.end <= self.start:
            raise ValueError("a range of days must end after it starts")

    def __contains__(self, day: date) -> bool:
        return self.start <= day and (self.end is None or day < self.end)

    def overlaps(self, other: "DateRange") -> bool:
        """Tell whether some day lies in both."""
        starts_before_end = other.end is None or self.start < other.end
        return starts_before_end and (self.end is None or other.start < self.end)


@dataclass(frozen=True, slots=True)
class Address:
    """Where somebody is: country by ISO 3166-1, region by ISO 3166-2 without the country."""

    country: str
    region: str = ""
    postal_code: str = ""


@dataclass(frozen=True, slots=True)
class TaxId:
    """A tax id as it was given: the country that issued it and the number."""

    country: str
    number: str


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a register of the authorities said of a tax id."""

    register: str
    is_valid: bool
    name: str
    consultation_number: str
    check_time: datetime


@dataclass(frozen=True, slots=True)
class CheckedTaxId:
    """A tax id and what is known of it.

    `canonical` is its one spelling, empty unless the format is valid; `problem` says what is
    wrong with it, empty unless something is.
    """

    country: str
    status: TaxIdStatus
    canonical: str = ""
    problem: str = ""
    confirmation: Confirmation | None = None

    @property
    def standing(self) -> str:
        """Say what is known of a good id, in words."""
        found = self.confirmation
        if found is None:
            return "format and checksum are right"
        proof = f", consultation {found.consultation_number}" if found.consultation_number else ""
        return f"confirmed by {found.register} on {found.check_time:%Y-%m-%d}{proof}"


@dataclass(frozen=True, slots=True)
class Registration:
    """A registration of the seller with a tax authority, in force on the days of `valid`."""

    registration_id: str
    country: str
    region: str
    scheme: RegistrationScheme
    number: str
    established: bool
    valid: DateRange


@dataclass(frozen=True, slots=True)
class SellerSettings:
    """What the seller has decided on; without it, these defaults hold."""

    exchange_rate_source: str = "ECB"
    maximum_rate_age_days: int = 7
    refuses_unconfirmed_tax_ids: bool = False
    uses_engine: bool = False
    falls_back: bool = False


@dataclass(frozen=True, slots=True)
class Seller:
    """The seller as its registrations describe it."""

    registrations: tuple[Registration, ...]

    def on(self, day: date) -> Iterator[Registration]:
        """Go through the registrations in force on a day."""
        return (registration for registration in self.registrations if day in registration.valid)


@dataclass(frozen=True, slots=True)
class ExemptionCertificate:
    """A certificate by which a buyer pays no tax in a state or province, on the days of `valid`."""

    country: str
    region: str
    number: str
    valid: DateRange


@dataclass(frozen=True, slots=True)
class LocationEvidence:
    """One thing that shows in which country a buyer is."""

    kind: EvidenceKind
    country: str


@dataclass(frozen=True, slots=True)
class Buyer:
    """Who buys, with the tax ids already checked."""

    kind: BuyerKind
    address: Address
    tax_ids: tuple[CheckedTaxId, ...] = ()
    certificates: tuple[ExemptionCertificate, ...] = ()
    evidence: tuple[LocationEvidence, ...] = ()


@dataclass(frozen=True, slots=True)
class TaxableLine:
    """A line whose tax is asked for; the amount is negative for a credit."""

    line_id: str
    amount: Money
    category: ProductCategory = ProductCategory.ELECTRONIC_SERVICE


@dataclass(frozen=True, slots=True)
class Supply:
    """What is sold to one buyer on one day, and how its tax is to be rounded and worded.

    There is at least one line; `language` is a code of ISO 639-1. `prices` says whether the
    amounts of the lines include tax.
    """

    buyer: Buyer
    lines: tuple[TaxableLine, ...]
    day: date
    rounding: TaxRounding = TaxRounding.PER_RATE
    language: str = "en"
    prices: PriceKind = PriceKind.TAX_EXCLUSIVE


@dataclass(frozen=True, slots=True)
class Ruling:
    """What one tax says about a supply, before any amount.

    `taxable_percent` of the price is taxed at `rate_percent`, which holds on the days of
    `rate_valid`; where nothing is charged, the rate is 0 and the treatment says why. `reason` is
    for the seller, `explanation` for the buyer, in its language. `declared_in` is the country of
    the registration under which the tax is declared.
    """

    jurisdiction: str
    name: str
    treatment: Treatment
    rule_id: str
    reason: str
    source: str
    rate_percent: Decimal = ZERO
    taxable_percent: Decimal = HUNDRED
    invoice_note: str = ""
    seller_tax_id: str = ""
    explanation: str = ""
    rate_valid: DateRange | None = None
    declared_in: str = ""


@dataclass(frozen=True, slots=True)
class Tax:
    """A ruling and what it comes to, on a line or over lines."""

    ruling: Ruling
    taxable_amount: Money
    tax_amount: Money


@dataclass(frozen=True, slots=True)
class LineTax:
    """The taxes of one line, at least one, and its amount without them."""

    line_id: str
    taxes: tuple[Tax, ...]
    net_amount: Money


@dataclass(frozen=True, slots=True)
class WithholdingNote:
    """A word to the seller that a business there may keep income tax back from the payment."""

    country: str
    note: str
    source: str


@dataclass(frozen=True, slots=True)
class Determination:
    """What was determined for one invoice.

    `totals` has one entry for each jurisdiction, tax, rate and treatment. `buyer_tax_id` is the
    id by which the buyer is a business; without one, the status is that of the first given.
    """

    lines: tuple[LineTax, ...]
    totals: tuple[Tax, ...]
    tax_total: Money
    net_total: Money
    buyer_tax_id: CheckedTaxId | None = None
    buyer_tax_id_status: TaxIdStatus | None = None
    evidence: tuple[LocationEvidence, ...] = ()
    evidence_status: EvidenceStatus = EvidenceStatus.NOT_REQUIRED
    withholding_notes: tuple[WithholdingNote, ...] = ()
