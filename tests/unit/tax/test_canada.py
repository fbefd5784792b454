"""GST, HST, PST, RST and QST of Canada as a decision table: every province and territory."""

from datetime import date

import pytest

from services.tax.model import ProductCategory, RegistrationScheme
from tests.tax_builders import TODAY, Case, a_buyer, a_registration, a_seller, determined, ruled

SIMPLIFIED = RegistrationScheme.SIMPLIFIED
WORK = ProductCategory.PROFESSIONAL_SERVICE
PROVINCES_WITH_OWN_TAX = ("BC", "MB", "QC", "SK")
EVERYWHERE = a_seller(
    "US-CA",
    a_registration("CA"),
    *(a_registration("CA", province) for province in PROVINCES_WITH_OWN_TAX),
)
FEDERALLY = a_seller("US-CA", a_registration("CA"))
SIMPLY = a_seller(
    "US-CA",
    a_registration("CA", scheme=SIMPLIFIED),
    a_registration("CA", "QC", SIMPLIFIED),
)


def in_province(
    province: str,
    law: str,
    *expected: str,
    day: date = TODAY,
) -> Case:
    """Make the case of a consumer in a province."""
    buyer = a_buyer(f"CA-{province}")
    return Case(f"{province} {day}", law, buyer, expected, EVERYWHERE, day)


GST = "CA GST 5 TAXED ca.gst = 5.00"
QST = "CA-QC QST 9.975 TAXED ca.qst = 9.98"
GST_ONLY = [
    in_province(province, "Excise Tax Act s. 165(1)", GST) for province in ("AB", "NT", "NU", "YT")
]
HARMONISED = [
    in_province(
        province, "Excise Tax Act s. 165(2)", f"CA-{province} HST {rate} TAXED ca.hst = {tax}"
    )
    for province, rate, tax in (
        ("NB", "15", "15.00"),
        ("NL", "15", "15.00"),
        ("NS", "14", "14.00"),
        ("ON", "13", "13.00"),
        ("PE", "15", "15.00"),
    )
]
PROVINCIAL = [
    in_province("BC", "Bulletin PST 105", GST, "CA-BC PST 7 TAXED ca.pst = 7.00"),
    in_province("MB", "Bulletin RST 003", GST, "CA-MB RST 7 TAXED ca.rst = 7.00"),
    in_province("SK", "Bulletin PST-57", GST, "CA-SK PST 6 TAXED ca.pst = 6.00"),
    in_province("QC", "AQST s. 16: not compounded", GST, QST),
]
CHANGES = [
    in_province(
        "NS",
        "Nova Scotia HST Regulations",
        "CA-NS HST 15 TAXED ca.hst = 15.00",
        day=date(2025, 3, 31),
    ),
    in_province(
        "NS",
        "Nova Scotia HST Regulations",
        "CA-NS HST 14 TAXED ca.hst = 14.00",
        day=date(2025, 4, 1),
    ),
    in_province(
        "MB",
        "Budget 2025: cloud computing from 2026",
        GST,
        "CA-MB RST 0 NOT_TAXABLE ca.rst.not_taxable = 0.00",
        day=date(2025, 12, 31),
    ),
]
REGISTRATIONS = [
    Case(
        "not in Quebec",
        "AQST s. 407.2",
        a_buyer("CA-QC"),
        (GST, "CA-QC QST 0 NOT_REGISTERED ca.qst.not_registered = 0.00"),
        FEDERALLY,
    ),
    Case(
        "not at all",
        "Excise Tax Act s. 211.12",
        a_buyer("CA-ON"),
        ("CA-ON HST 0 NOT_REGISTERED ca.hst.not_registered = 0.00",),
    ),
    Case(
        "a consumer, simplified",
        "Excise Tax Act s. 211.1; AQST s. 477.2",
        a_buyer("CA-QC"),
        (GST, QST),
        SIMPLY,
    ),
    Case(
        "a registered business, simplified",
        "Excise Tax Act s. 211.1: specified recipients only",
        a_buyer("CA-QC", "CA123026635RT0001"),
        (
            "CA GST 0 OUT_OF_SCOPE ca.gst.registered_business = 0.00",
            "CA-QC QST 0 OUT_OF_SCOPE ca.qst.registered_business = 0.00",
        ),
        SIMPLY,
    ),
    Case(
        "a registered business, ordinary",
        "Excise Tax Act s. 165",
        a_buyer("CA-QC", "CA123026635RT0001"),
        (GST, QST),
        EVERYWHERE,
    ),
    Case(
        "a small supplier at home",
        "Excise Tax Act s. 148",
        a_buyer("CA-ON"),
        ("CA GST 0 NOT_TAXABLE ca.small_business = 0.00",),
        a_seller("CA", scheme=RegistrationScheme.SMALL_BUSINESS),
    ),
    Case(
        "a professional service",
        "AQST s. 16: all services",
        a_buyer("CA-QC"),
        (GST, QST),
        EVERYWHERE,
        category=WORK,
    ),
]


@pytest.mark.parametrize("case", GST_ONLY + HARMONISED + PROVINCIAL, ids=lambda case: case.id)
def test_each_province_has_its_taxes(case: Case) -> None:
    """GST, or HST instead of it, and where the province has one its own tax beside GST."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", CHANGES, ids=lambda case: case.id)
def test_a_province_changes_its_law_on_a_day(case: Case) -> None:
    """Rates and taxability hold from their first day."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", REGISTRATIONS, ids=lambda case: case.id)
def test_the_registration_decides_what_is_charged_to_whom(case: Case) -> None:
    """Ordinary registrations charge everybody, simplified ones consumers, none nobody."""
    assert ruled(case) == case.expected


def test_a_business_without_a_number_is_charged_under_a_simplified_registration() -> None:
    """The reason says what was missing."""
    found = determined(a_buyer("CA-ON", business=True), SIMPLY)

    assert found.totals[0].ruling.reason == (
        "The buyer is in CA-ON: HST applies. The buyer calls itself a business, but is taxed as a"
        " consumer for want of a valid tax id of Canada: none was given."
    )
