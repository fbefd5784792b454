"""VAT and GST of single countries, on services: home, to a business from abroad, to a consumer.

Each country's articles and choices are in `rates/countries.csv`. A professional service to a
consumer across the border is not covered and is an error.
"""

from services.tax.model import ProductCategory, Registration, RegistrationScheme, Ruling, Treatment
from services.tax.rulebook import CATEGORY, REGISTRATIONS, BusinessFromAbroad, undetermined
from services.tax.rules.case import Case, small_business, taxed

_HOME_SCHEMES = (RegistrationScheme.DOMESTIC, RegistrationScheme.SMALL_BUSINESS)
_ABROAD_SCHEMES = (RegistrationScheme.DOMESTIC, RegistrationScheme.SIMPLIFIED)
_COUNTRIES_WITH_OWN_NOTE = frozenset({"CH", "GB", "JP"})


def rule(case: Case) -> tuple[Ruling, ...]:
    """Rule on a service to somebody in a country with a VAT or GST of its own."""
    if case.is_domestic:
        return (_at_home(case),)
    return (from_abroad(case),)


def from_abroad(case: Case) -> Ruling:
    """Rule on a service from abroad."""
    country = case.buyer_place.country
    if case.is_to_business:
        if case.category not in country.business_services:
            raise undetermined(country.code, f"rules for {case.service} from abroad", CATEGORY)
        return _to_business(case)
    if case.category is not ProductCategory.ELECTRONIC_SERVICE:
        raise undetermined(
            country.code,
            f"rules for {case.service} to consumers from abroad.{case.remark}",
            CATEGORY,
        )
    return _to_consumer(case)


def home_registration(case: Case) -> Registration:
    """Find the registration under which the seller sells at home.

    Raises:
        Precondition: TAX_UNDETERMINED, it has none.
    """
    code = case.buyer_place.country.code
    registration = case.registration(code, *_HOME_SCHEMES)
    if registration is None:
        raise undetermined(code, f"a registration of the seller in {code}", REGISTRATIONS)
    return registration


def _at_home(case: Case) -> Ruling:
    place, country = case.buyer_place, case.buyer_place.country
    prefix = country.code.lower()
    registration = home_registration(case)
    if registration.scheme is RegistrationScheme.SMALL_BUSINESS:
        return small_business(case, place, registration, prefix, country.domestic_source)
    return taxed(
        case.book.rate_on(country.code, country.tax_name, case.day),
        registration,
        f"{prefix}.domestic",
        f"Seller and buyer are in {country.name}: its rate applies.",
        country.domestic_source,
    )


def _to_business(case: Case) -> Ruling:
    country = case.buyer_place.country
    choice = country.business_from_abroad
    prefix = country.code.lower()
    registration = case.registration(country.code, RegistrationScheme.DOMESTIC)
    if choice is BusinessFromAbroad.REVERSE_CHARGE_UNLESS_REGISTERED and registration is not None:
        return taxed(
            case.book.rate_on(country.code, country.tax_name, case.day),
            registration,
            f"{prefix}.b2b.registered",
            f"The seller is registered in {country.name} and charges its rate.",
            country.business_source,
        )
    if choice is BusinessFromAbroad.OUT_OF_SCOPE:
        treatment, rule, key = Treatment.OUT_OF_SCOPE, "out_of_scope", "business.out_of_scope"
        effect = f"no {country.tax_name} is charged"
    else:
        own = country.code in _COUNTRIES_WITH_OWN_NOTE
        key = f"reverse_charge.{prefix if own else 'other'}"
        treatment, rule = Treatment.REVERSE_CHARGE, "reverse_charge"
        effect = f"it owes the {country.tax_name} itself"
    proof = f" with the tax id {case.proof.canonical}" if case.proof else ""
    return Ruling(
        jurisdiction=country.code,
        name=country.tax_name,
        treatment=treatment,
        rule_id=f"{prefix}.b2b.{rule}",
        reason=f"A business in {case.buyer_place.name}{proof} buys from abroad: {effect}.",
        source=country.business_source,
        invoice_note=case.note(key, country.tax_name),
    )


def _to_consumer(case: Case) -> Ruling:
    place, country = case.buyer_place, case.buyer_place.country
    prefix = country.code.lower()
    registration = case.registration(country.code, *_ABROAD_SCHEMES)
    if registration is not None:
        return taxed(
            case.book.rate_on(country.code, country.tax_name, case.day),
            registration,
            f"{prefix}.b2c.registered",
            f"A consumer in {place.name} buys an electronic service from abroad, and the seller is"
            f" registered there.{case.remark}",
            country.consumer_source,
        )
    if not country.registration_threshold:
        raise undetermined(
            country.code,
            f"a registration of the seller in {country.code}; there is no threshold.{case.remark}",
            REGISTRATIONS,
        )
    return Ruling(
        jurisdiction=country.code,
        name=country.tax_name,
        treatment=Treatment.NOT_REGISTERED,
        rule_id=f"{prefix}.b2c.not_registered",
        reason=(
            f"The seller is not registered in {country.name}; registration is due from"
            f" {country.registration_threshold}.{case.remark}"
        ),
        source=country.consumer_source,
    )
