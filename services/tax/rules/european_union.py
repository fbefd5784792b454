"""VAT of the European Union, on services: Directive 2006/112/EC Articles 44, 45, 58, 59 and 196.

Fixed establishments are not modelled: a seller is established in one country. A buyer is a
business when it has a valid VAT id of the country where it is.
"""

from services.tax.model import (
    ProductCategory,
    Registration,
    RegistrationScheme,
    Ruling,
    Treatment,
)
from services.tax.places import Place
from services.tax.rulebook import CATEGORY, REGISTRATIONS, undetermined
from services.tax.rules.case import Case, small_business, taxed

DIRECTIVE = "Directive 2006/112/EC Art. "
GOODS = ProductCategory.GOODS
_HOME_SCHEMES = (RegistrationScheme.DOMESTIC, RegistrationScheme.SMALL_BUSINESS)


def rule(case: Case) -> tuple[Ruling, ...]:
    """Rule on an electronic service to anybody, or on any service to a business, in the EU."""
    if case.is_domestic:
        name = case.buyer_place.country.name
        reason = f"Seller and buyer are in {name}: its rate applies."
        source = case.buyer_place.country.domestic_source
        return (_at_home(case, case.buyer_place, "eu.domestic", reason, source),)
    if case.is_to_business:
        return (_reverse_charge(case),)
    return (to_consumer_abroad(case),)


def rule_on_work_for_consumer(case: Case) -> tuple[Ruling, ...]:
    """Rule on a professional service to a consumer abroad, where seller or buyer is in the EU."""
    seller = case.seller_place
    if case.buyer_place.apart is not None or seller.apart is not None:
        raise undetermined(
            case.buyer_place.country.code,
            f"rules for {case.service} to consumers across its border",
            CATEGORY,
        )
    if seller.in_eu and case.buyer_place.in_eu:
        reason = (
            "A professional service to a consumer is supplied where the seller is: the rate of"
            f" {seller.country.name} applies.{case.remark}"
        )
        return (_at_home(case, seller, "eu.b2c.professional", reason, f"{DIRECTIVE}45"),)
    if seller.in_eu:
        reason = (
            f"A professional service to a consumer outside the EU is supplied there.{case.remark}"
        )
        return (_out_of_scope(case, seller, "eu.outside_buyer", "59", reason),)
    reason = (
        "A professional service to a consumer is supplied where the seller is, outside the EU."
        f"{case.remark}"
    )
    return (_out_of_scope(case, case.buyer_place, "eu.outside_seller", "45", reason),)


def home_registration(case: Case, code: str) -> Registration:
    """Find the registration under which the seller sells in its own member state.

    Raises:
        Precondition: TAX_UNDETERMINED, it has none.
    """
    registration = case.registration(code, *_HOME_SCHEMES)
    if registration is None:
        raise undetermined(code, f"a registration of the seller in {code}", REGISTRATIONS)
    return registration


def _at_home(case: Case, place: Place, rule_id: str, reason: str, source: str) -> Ruling:
    registration = home_registration(case, place.country.code)
    if registration.scheme is RegistrationScheme.SMALL_BUSINESS:
        return small_business(case, place, registration, "eu", f"{DIRECTIVE}284")
    rate = case.book.rate_on(place.jurisdiction, "VAT", case.day)
    return taxed(rate, registration, rule_id, reason, source)


def _reverse_charge(case: Case) -> Ruling:
    assert case.proof is not None, "a business in the EU has a valid VAT id"
    place, seller = case.buyer_place, case.seller_place
    apart = place.apart
    at_home = case.registration(seller.country.code, RegistrationScheme.DOMESTIC)
    number = at_home.number if seller.in_eu and at_home is not None else ""
    return Ruling(
        jurisdiction=place.jurisdiction,
        name="VAT",
        treatment=Treatment.REVERSE_CHARGE,
        rule_id="eu.b2b.reverse_charge",
        reason=(
            f"A business in {place.name} with the VAT id {case.proof.canonical}"
            f" ({case.proof.standing}) buys from abroad and owes the VAT itself."
        ),
        source=place.country.business_source if apart is None else apart.source,
        invoice_note=case.note(
            "reverse_charge.eu" if apart is None else "reverse_charge.other", "VAT"
        ),
        seller_tax_id=number,
    )


def to_consumer_abroad(case: Case) -> Ruling:
    """Rule on an electronic service, or on goods from another member state, to a consumer.

    Raises:
        Precondition: TAX_UNDETERMINED, the seller has no registration by which to declare it.
    """
    place, seller = case.buyer_place, case.seller_place
    code = place.country.code
    local = case.registration(code, RegistrationScheme.DOMESTIC)
    if local is not None:
        return _at_destination(case, local, "eu.b2c.registered", f"the registration in {code}")
    if place.apart is not None:
        raise undetermined(
            code,
            f"a registration of the seller in {code}; no One Stop Shop covers {place.name}",
            REGISTRATIONS,
        )
    if seller.in_eu:
        scheme, rule_id = RegistrationScheme.UNION_OSS, "eu.b2c.union_oss"
    else:
        scheme, rule_id = RegistrationScheme.NON_UNION_OSS, "eu.b2c.non_union_oss"
    shop = next((each for each in case.seller.on(case.day) if each.scheme is scheme), None)
    if shop is not None:
        return _at_destination(case, shop, rule_id, f"the One Stop Shop in {shop.country}")
    if seller.in_eu and case.registration(
        seller.country.code, RegistrationScheme.EU_BELOW_THRESHOLD
    ):
        reason = (
            "The seller's sales to consumers in other member states stay within 10,000 euro: the"
            f" rate of {seller.country.name} applies.{case.remark}"
        )
        return _at_home(case, seller, "eu.b2c.below_threshold", reason, f"{DIRECTIVE}59c")
    raise undetermined(
        code, f"a {scheme} registration of the seller, or one in {code}", REGISTRATIONS
    )


def _at_destination(case: Case, registration: Registration, rule_id: str, declared: str) -> Ruling:
    place = case.buyer_place
    reason = (
        f"A consumer in {place.name} buys {case.sold} from abroad: the rate of"
        f" {place.name} applies, declared under {declared}.{case.remark}"
    )
    rate = case.book.rate_on(place.jurisdiction, "VAT", case.day)
    law = place.country.consumer_source if case.category is not GOODS else f"{DIRECTIVE}33(a)"
    source = law if place.apart is None else place.apart.source
    return taxed(rate, registration, rule_id, reason, source)


def _out_of_scope(case: Case, place: Place, key: str, article: str, reason: str) -> Ruling:
    return Ruling(
        jurisdiction=place.jurisdiction,
        name="VAT",
        treatment=Treatment.OUT_OF_SCOPE,
        rule_id=key,
        reason=reason,
        source=f"{DIRECTIVE}{article}",
        invoice_note=case.note(key, "VAT"),
    )
