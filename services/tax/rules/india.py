"""GST of India: IGST between states and from abroad, CGST with SGST or UTGST within one."""

from services.tax.model import RegistrationScheme, Ruling
from services.tax.rulebook import REGION, undetermined
from services.tax.rules import national
from services.tax.rules.case import Case, small_business, taxed

# Union territories without a legislature levy UTGST instead of SGST: Union Territory Goods and
# Services Tax Act 2017 s. 1(2) and s. 2(8), as amended for Ladakh.
_UNION_TERRITORIES = frozenset({"AN", "CH", "DH", "LA", "LD"})


def rule(case: Case) -> tuple[Ruling, ...]:
    """Rule on a service to somebody in India."""
    if case.is_domestic:
        return _at_home(case)
    return (national.from_abroad(case),)


def _at_home(case: Case) -> tuple[Ruling, ...]:
    country, state = case.buyer_place.country, case.buyer_place.region
    registration = national.home_registration(case)
    source = country.domestic_source
    if registration.scheme is RegistrationScheme.SMALL_BUSINESS:
        return (small_business(case, case.buyer_place, registration, "in", source),)
    if not state:
        raise undetermined("IN", "the region of the buyer's address", REGION)
    local = case.registration("IN", RegistrationScheme.DOMESTIC, region=state)
    if local is None:
        reason = (
            f"The buyer is in IN-{state}, the seller registered in another state: IGST applies."
        )
        rate = case.book.rate_on("IN", "IGST", case.day)
        return (taxed(rate, registration, "in.domestic.inter_state", reason, source),)
    other = "UTGST" if state in _UNION_TERRITORIES else "SGST"
    reason = f"Seller and buyer are in IN-{state}: CGST and {other} apply."
    rule_id = "in.domestic.intra_state"
    central = case.book.rate_on("IN", "CGST", case.day)
    of_state = case.book.rate_on("IN", other, case.day)
    return (
        taxed(central, local, rule_id, reason, source),
        taxed(of_state, local, rule_id, reason, source, jurisdiction=f"IN-{state}"),
    )
