"""Determines the taxes of an invoice: where each line is supplied, what the law rules, the sums.

A total function: the same seller, buyer, lines and day always give the same answer or the same
error. It never guesses; what no rule covers raises, and no tax is ever 0 for want of a rule.
"""

from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import date

from kit.decimals import exactly
from kit.errors import InvalidInput, Precondition, Violation
from kit.money import Money
from services.tax.assessment import assess
from services.tax.model import (
    Address,
    Buyer,
    BuyerKind,
    CheckedTaxId,
    Determination,
    EvidenceStatus,
    ProductCategory,
    Registration,
    Ruling,
    Seller,
    Supply,
    TaxIdStatus,
    WithholdingNote,
)
from services.tax.places import locate
from services.tax.rulebook import REGISTRATIONS, Regime, Rulebook
from services.tax.rules import canada, european_union, goods, india, national, united_states
from services.tax.rules.case import Case, exempt, outside
from services.tax.rules.certificates import apply_certificate
from services.tax.rules.evidence import weigh_evidence

_RULES = {
    Regime.EU_VAT: european_union.rule,
    Regime.NATIONAL: national.rule,
    Regime.INDIA: india.rule,
    Regime.CANADA: canada.rule,
    Regime.UNITED_STATES: united_states.rule,
}
_NOT_SERVICES = frozenset({ProductCategory.GOODS, ProductCategory.EXEMPT})
_GOOD = (TaxIdStatus.FORMAT_VALID, TaxIdStatus.CONFIRMED)
_REGIMES_OF_THE_DESTINATION = (Regime.CANADA, Regime.UNITED_STATES)


def determine(seller: Seller, supply: Supply, book: Rulebook) -> Determination:
    """Determine the taxes on one supply.

    An error that a registration could have spared names those that do not hold on the day.

    Raises:
        InvalidInput: the lines have several currencies, or their sum has over 18 digits.
        Precondition: SELLER_NOT_ESTABLISHED or TAX_UNDETERMINED.
    """
    if len({line.amount.currency for line in supply.lines}) > 1:
        raise InvalidInput.of("lines", "must all have one currency")
    try:
        return _determine(seller, supply, book)
    except Precondition as error:
        raise _with_lapsed(error, seller, supply.day) from None


def _determine(seller: Seller, supply: Supply, book: Rulebook) -> Determination:
    home = _establishment(seller, supply.day)
    buyer_place = locate(supply.buyer.address, supply.day, book)
    proof = _proof(supply.buyer, buyer_place.country.code)
    case = Case(
        book=book,
        seller=seller,
        seller_place=locate(Address(home.country, home.region), supply.day, book),
        buyer=supply.buyer,
        buyer_place=buyer_place,
        proof=proof,
        category=supply.lines[0].category,
        day=supply.day,
        language=supply.language,
    )
    categories = {line.category for line in supply.lines}
    needs_evidence = ProductCategory.ELECTRONIC_SERVICE in categories
    evidence_status = weigh_evidence(case) if needs_evidence else EvidenceStatus.NOT_REQUIRED
    rulings = {category: _rulings(replace(case, category=category)) for category in categories}
    with exactly():
        lines, totals = assess(supply.lines, rulings, supply.rounding, supply.prices)
    zero = Money.zero(supply.lines[0].amount.currency)
    return Determination(
        lines=lines,
        totals=totals,
        tax_total=sum((tax.tax_amount for tax in totals), zero),
        net_total=sum((line.net_amount for line in lines), zero),
        buyer_tax_id=proof,
        buyer_tax_id_status=_status(supply.buyer, proof),
        evidence=supply.buyer.evidence,
        evidence_status=evidence_status,
        withholding_notes=_withholding(case, categories),
    )


def _withholding(
    case: Case, categories: AbstractSet[ProductCategory]
) -> tuple[WithholdingNote, ...]:
    """Note what a business may withhold on services."""
    if case.buyer.kind is BuyerKind.CONSUMER or categories <= _NOT_SERVICES:
        return ()
    country = case.buyer_place.country.code
    return case.book.withholding_on(country, case.day, from_abroad=not case.is_domestic)


def _rulings(case: Case) -> tuple[Ruling, ...]:
    rulings = (apply_certificate(case, ruling) for ruling in _rule(case))
    return tuple(
        replace(
            ruling,
            explanation=case.book.explain(
                ruling.rule_id, ruling.treatment, case.language, ruling.name
            ),
        )
        for ruling in rulings
    )


def _rule(case: Case) -> tuple[Ruling, ...]:
    regime = case.buyer_place.country.regime
    if case.category is ProductCategory.EXEMPT:
        return (exempt(case),)
    if case.category is ProductCategory.GOODS and goods.crosses_a_border(case):
        return goods.rule(case)
    if case.buyer_place.outside is not None:
        return outside(case)
    is_work_for_consumer = (
        case.category is ProductCategory.PROFESSIONAL_SERVICE
        and not case.is_to_business
        and not case.is_domestic
        and regime not in _REGIMES_OF_THE_DESTINATION
    )
    if is_work_for_consumer and (case.seller_place.in_eu or case.buyer_place.in_eu):
        return european_union.rule_on_work_for_consumer(case)
    return _RULES[regime](case)


def _establishment(seller: Seller, day: date) -> Registration:
    homes = [registration for registration in seller.on(day) if registration.established]
    if len(homes) == 1:
        return homes[0]
    problem = "says nowhere" if not homes else "says in more than one registration"
    message = f"the seller {problem} that it is established there on {day}"
    raise Precondition(
        "SELLER_NOT_ESTABLISHED", message, violations=(Violation(REGISTRATIONS, message),)
    )


def _with_lapsed(error: Precondition, seller: Seller, day: date) -> Precondition:
    """Add which registrations have ended or have not begun, where one was missing."""
    if not any(violation.field == REGISTRATIONS for violation in error.violations):
        return error
    lapsed = [
        Violation(f"{REGISTRATIONS}.{each.registration_id}", f"does not hold on {day}")
        for each in seller.registrations
        if day not in each.valid
    ]
    if not lapsed:
        return error
    names = ", ".join(violation.field.partition(".")[2] for violation in lapsed)
    return Precondition(
        error.reason,
        f"{error.message} (not in force on {day}: {names})",
        metadata=error.metadata,
        violations=(*error.violations, *lapsed),
    )


def _proof(buyer: Buyer, country: str) -> CheckedTaxId | None:
    if buyer.kind is BuyerKind.CONSUMER:
        return None
    for tax_id in buyer.tax_ids:
        if tax_id.country == country and tax_id.status in _GOOD:
            return tax_id
    return None


def _status(buyer: Buyer, proof: CheckedTaxId | None) -> TaxIdStatus | None:
    if proof is not None:
        return proof.status
    if buyer.kind is BuyerKind.CONSUMER or not buyer.tax_ids:
        return None
    return buyer.tax_ids[0].status
