"""Sales taxes of the states of the USA as a decision table: every state, business and consumer.

The seller is registered in the state of each case. Expected figures are transcribed from the
states' own pages and laws, not from the tables under test.
"""

from datetime import date

import pytest

from kit.errors import Precondition
from services.tax.model import ProductCategory
from tests.tax_builders import TODAY, Case, a_buyer, a_registration, a_seller, determined, ruled

WORK = ProductCategory.PROFESSIONAL_SERVICE


def taxed(state: str, rate: str, tax: str, name: str = "Sales tax") -> str:
    """Write the line of a state that taxes."""
    return f"US-{state} {name} {rate} TAXED us.{state.lower()}.taxed = {tax}"


def not_taxed(state: str, name: str = "Sales tax") -> str:
    """Write the line of a state that does not tax the service."""
    return f"US-{state} {name} 0 NOT_TAXABLE us.{state.lower()}.not_taxable = 0.00"


def in_state(
    state: str,
    law: str,
    expected: str,
    *,
    business: bool = False,
    day: date = TODAY,
    category: ProductCategory = ProductCategory.ELECTRONIC_SERVICE,
) -> Case:
    """Make the case of a seller that is registered in the buyer's state."""
    kind = "business" if business else "consumer"
    return Case(
        id=f"{state} {kind} {day}",
        law=law,
        buyer=a_buyer(f"US-{state}", business=business),
        expected=(expected,),
        seller=a_seller("US-NV", a_registration("US", state)),
        day=day,
        category=category,
    )


TAXING = [
    in_state("AZ", "A.R.S. § 42-5071", taxed("AZ", "5.6", "5.60", "Transaction privilege tax")),
    in_state("CT", "C.G.S. § 12-408(1), P.A. 19-117", taxed("CT", "6.35", "6.35")),
    in_state("CT", "C.G.S. § 12-408(1)(D)", taxed("CT", "1", "1.00"), business=True),
    in_state("DC", "D.C. Code § 47-2002", taxed("DC", "7", "7.00")),
    in_state("HI", "HRS § 237-13", taxed("HI", "4", "4.00", "General excise tax")),
    in_state("IA", "Iowa Code § 423.2(6)", taxed("IA", "6", "6.00")),
    in_state("KY", "KRS § 139.200(2)", taxed("KY", "6", "6.00")),
    in_state("LA", "Act 10 and 11 of 2024 3rd E.S.", taxed("LA", "5", "5.00")),
    in_state("MA", "830 CMR 64H.1.3(3)(a)", taxed("MA", "6.25", "6.25")),
    in_state("MD", "Tax-General § 11-104", taxed("MD", "6", "6.00")),
    in_state("MD", "chapter 604 of 2025", taxed("MD", "3", "3.00"), business=True),
    in_state("NM", "NMSA § 7-9-4", taxed("NM", "4.875", "4.88", "Gross receipts tax")),
    in_state("NY", "TSB-A-09(33)S", taxed("NY", "4", "4.00")),
    in_state("OH", "ORC § 5739.01(B)(3)(e)", taxed("OH", "5.75", "5.75"), business=True),
    in_state("PA", "SUT-12-001", taxed("PA", "6", "6.00")),
    in_state("RI", "RIGL § 44-18-7(15)", taxed("RI", "7", "7.00")),
    in_state("SC", "S.C. Code § 12-36-910(B)(3)", taxed("SC", "6", "6.00")),
    in_state("SD", "SDCL § 10-45-2", taxed("SD", "4.2", "4.20")),
    in_state("TN", "TCA § 67-6-231(a)(2)", taxed("TN", "7", "7.00")),
    in_state("TX", "Tax Code § 151.351: 80 % of 100.00", taxed("TX", "6.25", "5.00")),
    in_state("UT", "R865-19S-92", taxed("UT", "6.1", "6.10")),
    in_state("VT", "32 V.S.A. § 9701(7)", taxed("VT", "6", "6.00")),
    in_state("WA", "RCW 82.04.050(6)", taxed("WA", "6.5", "6.50")),
    in_state("WV", "W. Va. Code § 11-15-8", taxed("WV", "6", "6.00")),
]
NOT_TAXING = [
    in_state(state, law, not_taxed(state))
    for state, law in (
        ("AR", "Ark. Code § 26-52-301; Rule GR-25: delivery by electronic means only is not taxed"),
        ("CA", "18 CCR § 1502(f)(1)(D)"),
        ("CO", "C.R.S. § 39-26-102(15)(c)(I)(C); Special Rule 7"),
        ("FL", "F.A.C. 12A-1.032(4)"),
        ("GA", "Ga. Comp. R. & Regs. 560-12-2-.111"),
        ("ID", "Idaho Code § 63-3616(b)(ii)"),
        ("IL", "86 Ill. Adm. Code 130.1935"),
        ("IN", "Ind. Code § 6-2.5-4-16.7"),
        ("KS", "K.S.A. 79-3603; Opinion Letter O-2010-005"),
        ("ME", "36 M.R.S. § 1752(17)"),
        ("MI", "Auto-Owners Insurance Co. v. Department of Treasury (Mich. App. 2015)"),
        ("MN", "Minn. Stat. § 297A.61; Sales Tax Fact Sheet 134"),
        ("MO", "12 CSR 10-109.050"),
        ("NC", "N.C.G.S. § 105-164.4(a)(6b)"),
        ("ND", "N.D.C.C. § 57-39.2-02.1(1)(g)"),
        ("NE", "316 NAC 1-088"),
        ("NJ", "N.J.S.A. 54:32B-3; Technical Bulletin TB-72"),
        ("NV", "NRS 360B.485; NAC 372.880"),
        ("OK", "68 O.S. § 1354"),
        ("VA", "Code of Virginia § 58.1-609.5(1)"),
        ("WI", "Wis. Stat. § 77.52(1)(d)"),
        ("WY", "W.S. 39-15-103(a)(i)"),
    )
]
BY_KIND_OF_BUYER = [
    in_state("IA", "Iowa Code § 423.3(104)", not_taxed("IA"), business=True),
    in_state("OH", "ORC § 5739.01(B)(3)(e): business use only", not_taxed("OH")),
]
WITHOUT_SALES_TAX = [
    in_state(
        state,
        "the state levies no general sales tax",
        f"US-{state} Sales tax 0 OUT_OF_SCOPE us.{state.lower()}.out_of_scope = 0.00",
    )
    for state in ("AK", "DE", "MT", "NH", "OR")
]
CHANGES = [
    in_state("CA", "18 CCR § 1502", not_taxed("CA"), day=date(2026, 12, 31)),
    in_state("CA", "S.B. 122 of 2026", taxed("CA", "7.25", "7.25"), day=date(2027, 1, 1)),
    in_state("KY", "H.B. 8 of 2022", not_taxed("KY"), day=date(2022, 12, 31)),
    in_state("KY", "H.B. 8 of 2022", taxed("KY", "6", "6.00"), day=date(2023, 1, 1)),
    in_state("VT", "Act 183 of 2024", not_taxed("VT"), day=date(2024, 6, 30)),
    in_state("VT", "Act 183 of 2024", taxed("VT", "6", "6.00"), day=date(2024, 7, 1)),
    in_state("MD", "chapter 38 of 2021", not_taxed("MD"), day=date(2021, 3, 13)),
    in_state("MD", "chapter 38 of 2021", taxed("MD", "6", "6.00"), day=date(2021, 3, 14)),
    in_state("MD", "chapter 554 of 2022", not_taxed("MD"), business=True, day=date(2022, 7, 1)),
    in_state("SD", "H.B. 1137 of 2023", taxed("SD", "4.5", "4.50"), day=date(2023, 6, 30)),
    in_state("SD", "H.B. 1137 of 2023", taxed("SD", "4.2", "4.20"), day=date(2023, 7, 1)),
    in_state("DC", "FY 2026 Budget Support Act", taxed("DC", "6", "6.00"), day=date(2026, 9, 30)),
    in_state("DC", "FY 2026 Budget Support Act", taxed("DC", "7", "7.00"), day=date(2026, 10, 1)),
]
PROFESSIONAL = [
    in_state("CA", "R&TC § 6051: goods only", not_taxed("CA"), category=WORK),
    in_state(
        "HI", "HRS § 237-13(6)", taxed("HI", "4", "4.00", "General excise tax"), category=WORK
    ),
]
UNDECIDED = ["AL", "MS"]


@pytest.mark.parametrize(
    "case",
    TAXING + NOT_TAXING + BY_KIND_OF_BUYER + WITHOUT_SALES_TAX,
    ids=lambda case: case.id,
)
def test_each_state_taxes_software_as_a_service_by_its_own_law(case: Case) -> None:
    """Where the seller is registered, the state's law decides on service, buyer and rate."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.id)
def test_a_state_changes_its_law_on_a_day(case: Case) -> None:
    """Taxability and rates hold from their first day."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", PROFESSIONAL, ids=lambda case: case.id)
def test_professional_services_have_their_own_taxability(case: Case) -> None:
    """What people perform is taxed by few states."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("state", ["NY", "TX", "WA", "PR"])
def test_nothing_is_charged_where_the_seller_is_not_registered(state: str) -> None:
    """A registration stands for nexus; without one the outcome says so."""
    found = determined(a_buyer(f"US-{state}")).totals[0]

    assert (found.ruling.treatment, found.ruling.reason, found.tax_amount.minor_units) == (
        "NOT_REGISTERED",
        f"The seller is not registered in US-{state}.",
        0,
    )


def test_the_reason_says_that_local_taxes_are_not_covered() -> None:
    """Cities, counties and districts are not in the tables, and nobody may believe otherwise."""
    seller = a_seller("US-NV", a_registration("US", "TX"))

    assert determined(a_buyer("US-TX"), seller).totals[0].ruling.reason == (
        "US-TX taxes electronic services to consumers on 80 % of the price. Local taxes are not"
        " covered."
    )


@pytest.mark.parametrize("state", UNDECIDED)
def test_what_a_state_has_not_decided_is_an_error(state: str) -> None:
    """An undetermined tax is never 0."""
    seller = a_seller("US-NV", a_registration("US", state))

    with pytest.raises(Precondition) as caught:
        determined(a_buyer(f"US-{state}"), seller)

    assert (caught.value.reason, caught.value.metadata) == (
        "TAX_UNDETERMINED",
        {
            "country": "US",
            "missing": f"whether US-{state} taxes electronic services on 2026-10-31",
        },
    )
