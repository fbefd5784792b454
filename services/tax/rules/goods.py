"""Goods that cross a border: exports, supplies between member states, and sales to consumers there.

The goods leave from the country where the seller is established. Goods that stay in a country are
ruled on like services there. Import taxes are the buyer's and not determined; where a country
makes sellers from abroad charge consumers (low values, IOSS), that is not covered and is an error.
"""

from services.tax.model import RegistrationScheme, Ruling, Treatment
from services.tax.rulebook import CATEGORY, REGISTRATIONS, Regime, undetermined
from services.tax.rules import european_union, united_states
from services.tax.rules.case import Case, small_business

# Countries where sellers abroad charge consumers for goods of low value: Value Added Tax Act 1994
# s. 7AA, GST Act 1999 s. 84-75 (Australia), GST Act 1985 s. 10B (New Zealand),
# Merverdiavgiftsloven § 3-1a (Norway), GST Act 1993 Seventh Schedule (Singapore),
# Mehrwertsteuergesetz Art. 7(3)(b) (Switzerland).
_LOW_VALUE_REGIMES = frozenset({"AU", "CH", "GB", "NO", "NZ", "SG"})
_NORTHERN_IRELAND = "BT"


def rule(case: Case) -> tuple[Ruling, ...]:
    """Rule on goods sent from one country, or area of VAT, to another.

    Raises:
        Precondition: TAX_UNDETERMINED, the case is not covered.
    """
    seller, buyer = case.seller_place, case.buyer_place
    code = buyer.country.code
    postal_code = case.buyer.address.postal_code.upper()
    if code == "GB" and postal_code.startswith(_NORTHERN_IRELAND):
        raise undetermined(code, "rules for goods to Northern Ireland from abroad", CATEGORY)
    if seller.apart is not None or buyer.apart is not None:
        raise undetermined(code, f"rules for goods to {buyer.name} from abroad", CATEGORY)
    within_eu = seller.in_eu and buyer.in_eu
    if within_eu and case.is_to_business:
        return (_intra_community(case),)
    if within_eu:
        return (european_union.to_consumer_abroad(case),)
    charged_there = buyer.in_eu or (code in _LOW_VALUE_REGIMES and buyer.outside is None)
    if charged_there and not case.is_to_business:
        raise undetermined(
            code, f"rules for goods to consumers from abroad.{case.remark}", CATEGORY
        )
    if buyer.country.regime is Regime.UNITED_STATES:
        return (_export(case), *united_states.rule(case))
    if buyer.outside is None and case.registration(code):
        raise undetermined(
            code, "who imports the goods: the seller is registered there", REGISTRATIONS
        )
    return (_export(case),)


def crosses_a_border(case: Case) -> bool:
    """Tell whether the goods leave the country, or the area of VAT, that they come from."""
    seller, buyer = case.seller_place, case.buyer_place
    if seller.country.code != buyer.country.code:
        return True
    return (seller.outside or seller.apart) != (buyer.outside or buyer.apart)


def _intra_community(case: Case) -> Ruling:
    assert case.proof is not None, "a business in the EU has a valid VAT id"
    place = case.seller_place
    at_home = european_union.home_registration(case, place.country.code)
    if at_home.scheme is RegistrationScheme.SMALL_BUSINESS:
        return small_business(case, place, at_home, "eu", f"{european_union.DIRECTIVE}139(1)")
    return Ruling(
        jurisdiction=place.jurisdiction,
        name="VAT",
        treatment=Treatment.NOT_TAXABLE,
        rule_id="eu.goods.intra_community",
        reason=(
            f"Goods go from {place.name} to a business in {case.buyer_place.name} with the VAT id"
            f" {case.proof.canonical} ({case.proof.standing}), which taxes its acquisition."
        ),
        source=f"{european_union.DIRECTIVE}138 and 139(1)",
        invoice_note=case.note("eu.goods.intra_community", "VAT"),
        seller_tax_id=at_home.number,
    )


def _export(case: Case) -> Ruling:
    place = case.seller_place
    law = case.book.export_on(place.country.code, case.day)
    is_us = place.country.regime is Regime.UNITED_STATES
    return Ruling(
        jurisdiction=place.jurisdiction,
        name=law.tax_name,
        treatment=Treatment.OUT_OF_SCOPE if is_us else Treatment.NOT_TAXABLE,
        rule_id="goods.export",
        reason=(
            f"Goods go from {place.country.name} to {case.buyer_place.name}: no {law.tax_name} is"
            f" charged. Proof of export must be kept; taxes on import are the buyer's.{case.remark}"
        ),
        source=law.source,
        invoice_note=case.note("goods.export", law.tax_name),
    )
