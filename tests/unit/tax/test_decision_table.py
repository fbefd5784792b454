"""The decision tables together: how many cases, that each cites its law, and who is in them."""

from services.tax.places import parse_region
from services.tax.tax_ids import MEMBER_STATES
from tests.tax_builders import Case
from tests.unit.tax import (
    test_canada as canada,
)
from tests.unit.tax import (
    test_european_union as union,
)
from tests.unit.tax import (
    test_goods as goods,
)
from tests.unit.tax import (
    test_other_countries as others,
)
from tests.unit.tax import (
    test_united_states as states,
)

CASES_MIN = 150
PROVINCES = ["AB", "BC", "MB", "NB", "NL", "NS", "NT", "NU", "ON", "PE", "QC", "SK", "YT"]
EUROPEAN: list[Case] = [
    *union.CONSUMERS,
    *union.BUSINESSES,
    *union.RATE_CHANGES,
    *union.WITHIN_THE_EU,
    *union.OUT_OF_THE_ORDINARY_BUYERS,
    *union.WORK_FOR_CONSUMERS,
]
CANADIAN = [
    *canada.GST_ONLY,
    *canada.HARMONISED,
    *canada.PROVINCIAL,
    *canada.CHANGES,
    *canada.REGISTRATIONS,
]
AMERICAN = [
    *states.TAXING,
    *states.NOT_TAXING,
    *states.BY_KIND_OF_BUYER,
    *states.WITHOUT_SALES_TAX,
    *states.CHANGES,
    *states.PROFESSIONAL,
]
ELSEWHERE = [*others.ABROAD, *others.AT_HOME, *others.INDIA, *others.TERRITORIES, *goods.CASES]
ALL = [*EUROPEAN, *CANADIAN, *AMERICAN, *ELSEWHERE]


def test_there_are_many_cases_and_each_cites_its_law() -> None:
    """A case without a source would be an opinion."""
    assert len(ALL) >= CASES_MIN
    assert [case.id for case in ALL if not case.law.strip()] == []


def test_every_member_state_is_tried_by_businesses_and_consumers() -> None:
    """All 27, each as a consumer and as a business with a VAT id."""
    consumers = {case.buyer.address.country for case in union.CONSUMERS}
    businesses = {case.buyer.address.country for case in union.BUSINESSES}

    assert consumers == businesses == set(MEMBER_STATES)


def test_every_province_and_territory_of_canada_is_tried() -> None:
    """All 13."""
    assert {case.buyer.address.region for case in CANADIAN} == set(PROVINCES)
    assert all(parse_region(province, "CA", "region") for province in PROVINCES)


def test_every_state_of_the_usa_is_tried() -> None:
    """All 50 and DC: those that tax, those that do not, and those that have not decided."""
    tried = {case.buyer.address.region for case in AMERICAN} | set(states.UNDECIDED)

    assert len(tried) == 51
