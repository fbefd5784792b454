"""Evidence of where a consumer is: Implementing Regulation (EU) 282/2011 Articles 24b, 24d and 24f.

The address of the buyer is one piece. Two pieces that agree suffice; one does for small sellers,
so one alone is said and not refused. It refuses to choose between an address and two pieces that
agree on another country.
"""

from collections import Counter

from services.tax.model import EvidenceKind, EvidenceStatus
from services.tax.rulebook import undetermined
from services.tax.rules.case import Case

_PIECES_MIN = 2


def weigh_evidence(case: Case) -> EvidenceStatus:
    """Tell whether the evidence is enough for an electronic service.

    Raises:
        Precondition: TAX_UNDETERMINED, two pieces agree on another country than the address's.
    """
    is_asked_for = case.buyer_place.in_eu and not case.is_to_business and not case.is_domestic
    if not is_asked_for:
        return EvidenceStatus.NOT_REQUIRED
    address = case.buyer.address.country
    here = {address, case.buyer_place.country.code}
    beside = {each for each in case.buyer.evidence if each.kind is not EvidenceKind.BILLING_ADDRESS}
    others = Counter(each.country for each in beside if each.country not in here)
    agreeing = 1 + sum(1 for each in beside if each.country in here)
    country, count = max(others.items(), key=lambda item: item[1], default=(address, 0))
    if count >= _PIECES_MIN and count >= agreeing:
        raise undetermined(
            address,
            f"the buyer's country: the address says {address}, {count} pieces of evidence say"
            f" {country}",
            "buyer.location_evidence",
        )
    return EvidenceStatus.SUFFICIENT if agreeing >= _PIECES_MIN else EvidenceStatus.INSUFFICIENT
