"""One supply as the rules see it, and the rulings that several laws have in common."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from services.tax.model import (
    HUNDRED,
    Buyer,
    BuyerKind,
    CheckedTaxId,
    ProductCategory,
    Registration,
    RegistrationScheme,
    Ruling,
    Seller,
    Treatment,
)
from services.tax.places import Place
from services.tax.rulebook import BusinessProof, Rate, Regime, Rulebook


@dataclass(frozen=True, slots=True)
class Case:
    """One supply: who sells what to whom, when, and under which book of rules.

    `proof` is the valid tax id by which the buyer is a business.
    """

    book: Rulebook
    seller: Seller
    seller_place: Place
    buyer: Buyer
    buyer_place: Place
    proof: CheckedTaxId | None
    category: ProductCategory
    day: date
    language: str

    @property
    def is_domestic(self) -> bool:
        """Tell whether the seller is established where the buyer is."""
        at_home = self.seller_place.country.code == self.buyer_place.country.code
        return at_home and self.seller_place.outside is None

    @property
    def is_to_business(self) -> bool:
        """Tell whether the buyer is a business for the law of its country."""
        if self.buyer.kind is BuyerKind.CONSUMER:
            return False
        needs_tax_id = self.buyer_place.country.business_proof is BusinessProof.TAX_ID
        return self.proof is not None or not needs_tax_id

    @property
    def remark(self) -> str:
        """Say why a buyer that calls itself a business is taxed as a consumer; else nothing."""
        if self.buyer.kind is BuyerKind.CONSUMER or self.is_to_business:
            return ""
        fault = self.buyer.tax_ids[0].problem if self.buyer.tax_ids else "none was given"
        fault = fault or f"it was not given by {self.buyer_place.country.name}"
        return (
            " The buyer calls itself a business, but is taxed as a consumer for want of a valid"
            f" tax id of {self.buyer_place.country.name}: {fault}."
        )

    def registration(
        self, country: str, *schemes: RegistrationScheme, region: str | None = None
    ) -> Registration | None:
        """Find the seller's registration in a country under one of some schemes, on the day.

        `region` None finds it in any region; without schemes, any scheme will do.
        """
        for registration in self.seller.on(self.day):
            in_place = registration.country == country and region in (None, registration.region)
            if in_place and (not schemes or registration.scheme in schemes):
                return registration
        return None

    @property
    def service(self) -> str:
        """Name what is sold, in words."""
        if self.category is ProductCategory.GOODS:
            return "goods"
        return f"{self.category.replace('_', ' ').lower()}s"

    @property
    def sold(self) -> str:
        """Name one of what is sold, in words."""
        if self.category is ProductCategory.GOODS:
            return "goods"
        article = "an" if self.category is ProductCategory.ELECTRONIC_SERVICE else "a"
        return f"{article} {self.category.replace('_', ' ').lower()}"

    def note(self, key: str, tax_name: str) -> str:
        """Answer the wording for the invoice in the language asked for."""
        return self.book.note(key, self.language, tax_name)


def taxed(
    rate: Rate,
    registration: Registration,
    rule_id: str,
    reason: str,
    source: str,
    *,
    rate_percent: Decimal | None = None,
    taxable_percent: Decimal = HUNDRED,
    jurisdiction: str = "",
) -> Ruling:
    """Rule that a tax is charged at a rate and declared under a registration."""
    return Ruling(
        jurisdiction=jurisdiction or rate.jurisdiction,
        name=rate.name,
        treatment=Treatment.TAXED,
        rule_id=rule_id,
        reason=reason,
        source=f"{source}; {rate.source}",
        rate_percent=rate.rate_percent if rate_percent is None else rate_percent,
        taxable_percent=taxable_percent,
        seller_tax_id=registration.number,
        rate_valid=rate.valid,
        declared_in=registration.country,
    )


def exempt(case: Case) -> Ruling:
    """Rule on what the law of the place exempts, as the seller has made sure."""
    place = case.buyer_place
    return Ruling(
        jurisdiction=place.jurisdiction,
        name=place.country.tax_name,
        treatment=Treatment.NOT_TAXABLE,
        rule_id="product.exempt",
        reason=f"The seller states that the law of {place.name} exempts what is sold.",
        source="the category that the seller gave the product",
    )


def small_business(
    case: Case, place: Place, registration: Registration, prefix: str, source: str
) -> Ruling:
    """Rule that a small business charges nothing at home."""
    tax_name = place.country.tax_name
    return Ruling(
        jurisdiction=place.jurisdiction,
        name=tax_name,
        treatment=Treatment.NOT_TAXABLE,
        rule_id=f"{prefix}.small_business",
        reason=f"The seller is a small business in {place.country.name} and charges no {tax_name}.",
        source=source,
        invoice_note=case.note("small_business", tax_name),
        seller_tax_id=registration.number,
    )


def outside(case: Case) -> tuple[Ruling, ...]:
    """Rule on a territory where the tax of its country is not levied."""
    territory = case.buyer_place.outside
    assert territory is not None, "the place lies outside"
    country = case.buyer_place.country
    in_union = country.regime is Regime.EU_VAT
    note = case.note("eu.outside_area", country.tax_name) if in_union else ""
    own_tax = f" The seller is not registered for {territory.own_tax}." if territory.own_tax else ""
    return (
        Ruling(
            jurisdiction=territory.code,
            name=territory.own_tax or country.tax_name,
            treatment=Treatment.NOT_REGISTERED if territory.own_tax else Treatment.OUT_OF_SCOPE,
            rule_id="territory.outside",
            reason=f"{country.name} does not levy {country.tax_name} in {territory.name}.{own_tax}",
            source=territory.source,
            invoice_note=note,
        ),
    )
