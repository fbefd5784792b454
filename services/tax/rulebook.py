"""The dated tables of the law: rates, countries, territories, taxability and wording.

A rulebook is read once at start by `rulebook_files` and never changes. It answers what was in
force on a day, and refuses to guess: what no row covers is an error.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Protocol, TypeVar

from kit.errors import Precondition, Violation
from services.tax.model import BuyerKind, DateRange, ProductCategory, Treatment, WithholdingNote

DEFAULT_LANGUAGE = "en"
SUPPLY_DATE = "supply_date"
REGISTRATIONS = "registrations"
CATEGORY = "lines.category"
REGION = "buyer.address.region"
POSTAL_CODE = "buyer.address.postal_code"


class Regime(StrEnum):
    """Which set of rules decides on a supply to a country."""

    EU_VAT = "EU_VAT"
    NATIONAL = "NATIONAL"
    INDIA = "INDIA"
    CANADA = "CANADA"
    UNITED_STATES = "UNITED_STATES"


class BusinessProof(StrEnum):
    """What makes a buyer a business for the country: a valid tax id, or its own word."""

    TAX_ID = "TAX_ID"
    DECLARED = "DECLARED"


class BusinessFromAbroad(StrEnum):
    """How the country treats what a business there buys from abroad."""

    REVERSE_CHARGE = "REVERSE_CHARGE"
    REVERSE_CHARGE_UNLESS_REGISTERED = "REVERSE_CHARGE_UNLESS_REGISTERED"
    OUT_OF_SCOPE = "OUT_OF_SCOPE"


class MatchOn(StrEnum):
    """By which part of an address a territory is recognised."""

    COUNTRY = "COUNTRY"
    REGION = "REGION"
    POSTAL_CODE = "POSTAL_CODE"


class Effect(StrEnum):
    """What a territory changes: its rate, its country, its being inside; or nobody knows.

    DECLARED_APART is a territory where the country's tax is levied, at the rates that `applies`
    names, but outside the EU's area, so that no One Stop Shop declares it.
    """

    OWN_RATE = "OWN_RATE"
    DECLARED_APART = "DECLARED_APART"
    SAME_AS = "SAME_AS"
    OUTSIDE = "OUTSIDE"
    NOT_COVERED = "NOT_COVERED"


class Outcome(StrEnum):
    """Whether a state or province taxes a kind of product."""

    TAXABLE = "TAXABLE"
    NOT_TAXABLE = "NOT_TAXABLE"
    NO_TAX = "NO_TAX"
    UNDECIDED = "UNDECIDED"


class Dated(Protocol):
    """A row that is in force on some days."""

    @property
    def valid(self) -> DateRange:
        """The days on which the row is in force."""
        ...


Row = TypeVar("Row", bound=Dated)


@dataclass(frozen=True, slots=True)
class Rate:
    """What one tax takes in one jurisdiction, in percent; `is_uploaded` by the seller."""

    jurisdiction: str
    name: str
    rate_percent: Decimal
    valid: DateRange
    source: str
    is_uploaded: bool = False


@dataclass(frozen=True, slots=True)
class Country:
    """How a country taxes what is supplied to it.

    `registration_threshold` says below which turnover a seller from abroad need not register,
    in words; empty means that there is no such threshold.
    """

    code: str
    name: str
    regime: Regime
    tax_name: str
    business_proof: BusinessProof
    business_from_abroad: BusinessFromAbroad
    business_services: frozenset[ProductCategory]
    registration_threshold: str
    valid: DateRange
    domestic_source: str
    business_source: str
    consumer_source: str


@dataclass(frozen=True, slots=True)
class Territory:
    """A part of a country with tax rules of its own.

    It is recognised by `match_values`: for a region or postal code within `match_country`, and
    the longest postal code wins. `applies` is the jurisdiction or the country whose rules hold.
    """

    code: str
    name: str
    match_on: MatchOn
    match_country: str
    match_values: tuple[str, ...]
    effect: Effect
    applies: str
    own_tax: str
    valid: DateRange
    source: str


@dataclass(frozen=True, slots=True)
class Taxability:
    """Whether a state or province taxes a product; a rate of its own replaces the state's."""

    jurisdiction: str
    category: ProductCategory
    buyer: BuyerKind | None
    outcome: Outcome
    taxable_percent: Decimal
    rate_percent: Decimal | None
    valid: DateRange
    source: str


@dataclass(frozen=True, slots=True)
class Export:
    """The law by which goods that leave a country are free of its tax."""

    country: str
    tax_name: str
    valid: DateRange
    source: str


@dataclass(frozen=True, slots=True)
class ReportingCurrency:
    """The currency in which a country wants its tax on an invoice, whatever the invoice's."""

    country: str
    currency: str
    valid: DateRange
    source: str


@dataclass(frozen=True, slots=True)
class Withholding:
    """That businesses in a country may withhold income tax on services, and by which law.

    `from_abroad` says whether it is on what is bought abroad or at home.
    """

    country: str
    from_abroad: bool
    note: str
    valid: DateRange
    source: str


@dataclass(frozen=True, slots=True)
class Rulebook:
    """Every table, by the key that it is asked with.

    `local_rates` are those that a seller uploaded, with the beginnings of the postal codes where
    they apply.
    """

    rates: Mapping[str, tuple[Rate, ...]]
    countries: Mapping[str, tuple[Country, ...]]
    territories: Mapping[str, tuple[Territory, ...]]
    taxability: Mapping[tuple[str, ProductCategory], tuple[Taxability, ...]]
    wording: Mapping[tuple[str, str], str]
    exports: Mapping[str, tuple[Export, ...]]
    reporting_currencies: Mapping[str, tuple[ReportingCurrency, ...]]
    withholding: Mapping[tuple[str, bool], tuple[Withholding, ...]]
    local_rates: Mapping[str, tuple[tuple[tuple[str, ...], Rate], ...]] = field(
        default_factory=dict
    )

    def country_on(self, code: str, day: date) -> Country:
        """Answer how a country taxes on a day.

        Raises:
            Precondition: TAX_UNDETERMINED, no rule covers the country or the day.
        """
        rows = self.countries.get(code, ())
        found = _on(rows, day)
        if found:
            return found[0]
        if rows:
            raise undetermined(
                code, f"rules on {day}; they begin on {rows[0].valid.start}", SUPPLY_DATE
            )
        raise undetermined(code, "rules for this country")

    def rates_on(self, jurisdiction: str, day: date) -> tuple[Rate, ...]:
        """Answer every tax in force in a jurisdiction on a day; none is an empty answer."""
        return _on(self.rates.get(jurisdiction, ()), day)

    def rates_of(self, country: str, day: date | None) -> tuple[Rate, ...]:
        """Answer the rates of a country and its regions, or of all, on a day or ever, in order."""
        found = (
            rate
            for jurisdiction, rates in sorted(self.rates.items())
            if not country or jurisdiction[:2] == country
            for rate in sorted(rates, key=lambda rate: (rate.name, rate.valid.start))
            if day is None or day in rate.valid
        )
        return tuple(found)

    def rate_on(self, jurisdiction: str, name: str, day: date) -> Rate:
        """Answer what one tax takes on a day.

        Raises:
            Precondition: TAX_UNDETERMINED, no row covers the day.
        """
        for rate in self.rates_on(jurisdiction, day):
            if rate.name == name:
                return rate
        raise undetermined(
            jurisdiction[:2], f"the rate of {name} in {jurisdiction} on {day}", SUPPLY_DATE
        )

    def local_rates_on(self, jurisdiction: str, postal_code: str, day: date) -> tuple[Rate, ...]:
        """Answer the local rates that a seller uploaded for an address, on a day."""
        code = normalize_postal_code(postal_code)
        return tuple(
            rate
            for prefixes, rate in self.local_rates.get(jurisdiction, ())
            if day in rate.valid and code.startswith(prefixes)
        )

    def taxability_on(
        self, jurisdiction: str, category: ProductCategory, kind: BuyerKind, day: date
    ) -> Taxability | None:
        """Answer whether a state or province taxes a product on a day, where a row says so."""
        for row in _on(self.taxability.get((jurisdiction, category), ()), day):
            if row.buyer in (None, kind):
                return row
        return None

    def export_on(self, country: str, day: date) -> Export:
        """Answer by which law exports of goods are free of tax.

        Raises:
            Precondition: TAX_UNDETERMINED, no row covers the country or the day.
        """
        for row in _on(self.exports.get(country, ()), day):
            return row
        raise undetermined(country, f"rules for exports from {country} on {day}", SUPPLY_DATE)

    def withholding_on(
        self, country: str, day: date, *, from_abroad: bool
    ) -> tuple[WithholdingNote, ...]:
        """Answer what businesses in a country may withhold on services, on a day."""
        rows = _on(self.withholding.get((country, from_abroad), ()), day)
        return tuple(WithholdingNote(row.country, row.note, row.source) for row in rows)

    def reporting_currency_on(self, country: str, day: date) -> ReportingCurrency | None:
        """Answer in which currency a country wants its tax, where it wants one."""
        return next(iter(_on(self.reporting_currencies.get(country, ()), day)), None)

    def explain(self, rule_id: str, treatment: Treatment, language: str, tax_name: str) -> str:
        """Say to the buyer why a tax is charged or not: by the rule, its kind, or the treatment."""
        keys = (f"why.{rule_id}", f"why.{rule_id.rpartition('.')[2]}")
        found = (key for key in keys if (key, DEFAULT_LANGUAGE) in self.wording)
        return self.note(next(found, f"why.{treatment.lower()}"), language, tax_name)

    def note(self, key: str, language: str, tax_name: str) -> str:
        """Answer the wording for an invoice, in English where it is not translated."""
        text = self.wording.get((key, language)) or self.wording[key, DEFAULT_LANGUAGE]
        return text.replace("{tax}", self.wording.get((f"tax.{tax_name}", language), tax_name))


def normalize_postal_code(text: str) -> str:
    """Write a postal code in capitals and without blanks and hyphens."""
    return text.upper().replace(" ", "").replace("-", "")


def undetermined(country: str, missing: str, field: str = "buyer.address.country") -> Precondition:
    """Make the error of a tax that cannot be determined.

    `missing` says what is missing, and `field` which part of the request it depends on.
    """
    return Precondition(
        "TAX_UNDETERMINED",
        f"the tax on a supply to {country} cannot be determined: missing {missing}",
        metadata={"country": country, "missing": missing},
        violations=(Violation(field, f"missing {missing}"),),
    )


def _on(rows: Iterable[Row], day: date) -> tuple[Row, ...]:
    return tuple(row for row in rows if day in row.valid)
