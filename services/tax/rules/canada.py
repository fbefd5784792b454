"""GST and HST of Canada, and the sales taxes of four provinces: PST, RST and QST.

The place of supply is the buyer's province. QST is not compounded on GST since 2013.
"""

from services.tax.model import Registration, RegistrationScheme, Ruling, Treatment
from services.tax.rulebook import CATEGORY, REGION, REGISTRATIONS, Outcome, Rate, undetermined
from services.tax.rules.case import Case, small_business, taxed

_FEDERAL = "GST"
_HARMONISED = "HST"
_SCHEMES = (RegistrationScheme.DOMESTIC, RegistrationScheme.SIMPLIFIED)


def rule(case: Case) -> tuple[Ruling, ...]:
    """Rule on a service to somebody in Canada: one entry for each tax of the province."""
    province = case.buyer_place.region
    if not province:
        raise undetermined("CA", "the region of the buyer's address", REGION)
    rates = case.book.rates_on(f"CA-{province}", case.day)
    harmonised = next((rate for rate in rates if rate.name == _HARMONISED), None)
    federal = harmonised or case.book.rate_on("CA", _FEDERAL, case.day)
    provincial = (rate for rate in rates if rate.name != _HARMONISED)
    return (_federal(case, federal), *(_provincial(case, rate) for rate in provincial))


def _federal(case: Case, rate: Rate) -> Ruling:
    country = case.buyer_place.country
    small = case.registration("CA", RegistrationScheme.SMALL_BUSINESS)
    registration = case.registration("CA", *_SCHEMES, region="")
    if registration is None and case.is_domestic and small is not None:
        return small_business(case, case.buyer_place, small, "ca", "Excise Tax Act s. 148")
    if registration is None and case.is_domestic:
        raise undetermined("CA", "a registration of the seller in CA without region", REGISTRATIONS)
    if registration is None:
        return _not_registered(rate, country.consumer_source, country.registration_threshold)
    if _is_spared(case, registration):
        return _to_registered_business(case, rate, country.business_source)
    remark = _remark(case, registration)
    reason = f"The buyer is in CA-{case.buyer_place.region}: {rate.name} applies.{remark}"
    return taxed(rate, registration, f"ca.{rate.name.lower()}", reason, country.domestic_source)


def _provincial(case: Case, rate: Rate) -> Ruling:
    province = case.buyer_place.region
    registration = case.registration("CA", *_SCHEMES, region=province)
    verdict = case.book.taxability_on(rate.jurisdiction, case.category, case.buyer.kind, case.day)
    if registration is None:
        return _not_registered(rate, rate.source, f"the province's own rules for {rate.name}")
    if _is_spared(case, registration):
        return _to_registered_business(case, rate, rate.source)
    if verdict is None:
        raise undetermined(
            "CA", f"whether {rate.name} taxes {case.service} in CA-{province}", CATEGORY
        )
    if verdict.outcome is Outcome.NOT_TAXABLE:
        return Ruling(
            jurisdiction=rate.jurisdiction,
            name=rate.name,
            treatment=Treatment.NOT_TAXABLE,
            rule_id=f"ca.{rate.name.lower()}.not_taxable",
            reason=f"{rate.name} of CA-{province} does not tax {case.service}.",
            source=verdict.source,
            seller_tax_id=registration.number,
        )
    remark = _remark(case, registration)
    reason = f"The buyer is in CA-{province}, where {rate.name} taxes {case.service}.{remark}"
    return taxed(rate, registration, f"ca.{rate.name.lower()}", reason, verdict.source)


def _is_spared(case: Case, registration: Registration) -> bool:
    return registration.scheme is RegistrationScheme.SIMPLIFIED and case.is_to_business


def _remark(case: Case, registration: Registration) -> str:
    return case.remark if registration.scheme is RegistrationScheme.SIMPLIFIED else ""


def _to_registered_business(case: Case, rate: Rate, source: str) -> Ruling:
    return Ruling(
        jurisdiction=rate.jurisdiction,
        name=rate.name,
        treatment=Treatment.OUT_OF_SCOPE,
        rule_id=f"ca.{rate.name.lower()}.registered_business",
        reason=f"A simplified registration does not charge {rate.name} to a registered business.",
        source=source,
        invoice_note=case.note("business.out_of_scope", rate.name),
    )


def _not_registered(rate: Rate, source: str, threshold: str) -> Ruling:
    return Ruling(
        jurisdiction=rate.jurisdiction,
        name=rate.name,
        treatment=Treatment.NOT_REGISTERED,
        rule_id=f"ca.{rate.name.lower()}.not_registered",
        reason=(
            f"The seller is not registered for {rate.name} in {rate.jurisdiction}; registration is"
            f" due from {threshold}."
        ),
        source=source,
    )
