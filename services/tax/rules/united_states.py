"""Sales taxes of the states of the USA, where the seller is registered.

It charges what is levied everywhere in a state. What is local, by cities, counties and districts,
is charged only where the seller has uploaded the rates, and the reason says so. A registration
stands for nexus.
"""

from collections.abc import Iterator
from dataclasses import replace

from services.tax.model import (
    HUNDRED,
    BuyerKind,
    Registration,
    RegistrationScheme,
    Ruling,
    Treatment,
)
from services.tax.rulebook import (
    CATEGORY,
    POSTAL_CODE,
    REGION,
    Outcome,
    Rate,
    Taxability,
    undetermined,
)
from services.tax.rules.case import Case, taxed

_GENERIC_NAME = "Sales tax"


def rule(case: Case) -> tuple[Ruling, ...]:
    """Rule on a service to somebody in one of the states."""
    state = case.buyer_place.region
    if not state:
        raise undetermined("US", "the region of the buyer's address", REGION)
    jurisdiction = f"US-{state}"
    verdict = case.book.taxability_on(jurisdiction, case.category, case.buyer.kind, case.day)
    registration = case.registration("US", RegistrationScheme.DOMESTIC, region=state)
    rate = next(iter(case.book.rates_on(jurisdiction, case.day)), None)
    if verdict is not None and verdict.outcome is Outcome.NO_TAX:
        reason = f"{jurisdiction} levies no general sales tax."
        return (_nothing(rate, jurisdiction, Treatment.OUT_OF_SCOPE, reason, verdict.source),)
    if registration is None:
        reason = f"The seller is not registered in {jurisdiction}."
        source = case.buyer_place.country.consumer_source
        return (_nothing(rate, jurisdiction, Treatment.NOT_REGISTERED, reason, source),)
    if verdict is not None and rate is not None and rate.is_uploaded:
        verdict = _decided_by_seller(verdict, rate)
    if verdict is None or verdict.outcome is Outcome.UNDECIDED or rate is None:
        raise undetermined(
            "US", f"whether {jurisdiction} taxes {case.service} on {case.day}", CATEGORY
        )
    if verdict.outcome is Outcome.NOT_TAXABLE:
        reason = f"{jurisdiction} does not tax {_supply(case)}. Local taxes are not covered."
        return (_nothing(rate, jurisdiction, Treatment.NOT_TAXABLE, reason, verdict.source),)
    ruling = taxed(
        rate,
        registration,
        f"us.{state.lower()}.taxed",
        _reason(case, jurisdiction, verdict),
        verdict.source,
        rate_percent=verdict.rate_percent,
        taxable_percent=verdict.taxable_percent,
    )
    return (ruling, *_local(case, jurisdiction, registration, verdict))


def _decided_by_seller(verdict: Taxability, rate: Rate) -> Taxability:
    """Take an uploaded rate for the decision that the state has not made; 0 frees of the tax."""
    source = f"{verdict.source}; the seller's decision"
    if not rate.rate_percent:
        return replace(verdict, outcome=Outcome.NOT_TAXABLE, source=source)
    if verdict.outcome is not Outcome.UNDECIDED:
        return verdict
    return replace(verdict, outcome=Outcome.TAXABLE, source=source)


def _local(
    case: Case, jurisdiction: str, registration: Registration, verdict: Taxability
) -> Iterator[Ruling]:
    """Charge the local rates that the seller uploaded, on what the state taxes."""
    if not case.book.local_rates.get(jurisdiction):
        return
    postal_code = case.buyer.address.postal_code
    if not postal_code:
        raise undetermined(
            "US", "the postal code of the buyer's address, for local rates", POSTAL_CODE
        )
    for rate in case.book.local_rates_on(jurisdiction, postal_code, case.day):
        yield taxed(
            rate,
            registration,
            f"us.{jurisdiction[3:].lower()}.local",
            f"The seller uploaded {rate.name} for the postal code {postal_code}.",
            verdict.source,
            taxable_percent=verdict.taxable_percent,
        )


def _reason(case: Case, jurisdiction: str, verdict: Taxability) -> str:
    percent = verdict.taxable_percent
    share = "" if percent == HUNDRED else f" on {percent} % of the price"
    uploaded = case.book.local_rates.get(jurisdiction)
    local = "those that the seller uploaded" if uploaded else "not covered"
    return f"{jurisdiction} taxes {_supply(case)}{share}. Local taxes are {local}."


def _supply(case: Case) -> str:
    buyers = "businesses" if case.buyer.kind is BuyerKind.BUSINESS else "consumers"
    return f"{case.service} to {buyers}"


def _nothing(
    rate: Rate | None, jurisdiction: str, treatment: Treatment, reason: str, source: str
) -> Ruling:
    return Ruling(
        jurisdiction=jurisdiction,
        name=_GENERIC_NAME if rate is None else rate.name,
        treatment=treatment,
        rule_id=f"us.{jurisdiction[3:].lower()}.{treatment.lower()}",
        reason=reason,
        source=source,
    )
