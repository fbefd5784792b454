"""What a buyer shows: exemption certificates, and evidence of where it is."""

from dataclasses import replace
from datetime import date

import pytest

from kit.errors import Precondition
from services.tax.model import (
    Buyer,
    DateRange,
    EvidenceKind,
    EvidenceStatus,
    ExemptionCertificate,
    LocationEvidence,
    ProductCategory,
)
from tests.tax_builders import CALIFORNIAN, a_buyer, a_registration, a_seller, determined, lines_of

TEXAN = a_seller("US-NV", a_registration("US", "TX"))
CANADIAN = a_seller("CA", a_registration("CA", "BC"))
RESALE = ExemptionCertificate("US", "TX", "01-339", DateRange(date(2020, 1, 1)))
TEXAS = (
    "US-TX taxes electronic services to consumers on 80 % of the price."
    " Local taxes are not covered."
)
IP = EvidenceKind.IP_ADDRESS
BANK = EvidenceKind.BANK


def holding(buyer: Buyer, *certificates: ExemptionCertificate) -> Buyer:
    """Give a buyer certificates."""
    return replace(buyer, certificates=certificates)


def shown(buyer: Buyer, *evidence: tuple[EvidenceKind, str]) -> Buyer:
    """Give a buyer evidence of where it is."""
    return replace(buyer, evidence=tuple(LocationEvidence(*each) for each in evidence))


def test_a_certificate_of_the_state_frees_the_buyer() -> None:
    """No tax, a note for the invoice, and a reason that names the certificate."""
    (tax,) = determined(holding(a_buyer("US-TX"), RESALE), TEXAN).totals

    ruling = tax.ruling
    assert (
        ruling.treatment,
        ruling.rule_id,
        ruling.reason,
        ruling.invoice_note,
        ruling.explanation,
        tax.tax_amount.minor_units,
    ) == (
        "NOT_TAXABLE",
        "us.exemption_certificate",
        "The buyer holds the certificate 01-339 for US-TX.",
        "No Sales tax charged: exemption certificate 01-339",
        "The customer holds an exemption certificate for Sales tax.",
        0,
    )


@pytest.mark.parametrize(
    ("certificate", "remark"),
    [
        (
            replace(RESALE, valid=DateRange(date(2020, 1, 1), date(2021, 1, 1))),
            " The certificate 01-339 does not hold on 2026-10-31.",
        ),
        (replace(RESALE, region="NY"), ""),
    ],
    ids=["expired", "of another state"],
)
def test_a_certificate_that_does_not_hold_changes_nothing_but_the_reason(
    certificate: ExemptionCertificate, remark: str
) -> None:
    """The tax is charged, and the reason says what was wrong."""
    (tax,) = determined(holding(a_buyer("US-TX"), certificate), TEXAN).totals

    assert (tax.ruling.treatment, tax.ruling.reason) == (
        "TAXED",
        f"{TEXAS}{remark}",
    )


@pytest.mark.parametrize(
    ("region", "treatments"),
    [("BC", ["TAXED", "NOT_TAXABLE"]), ("", ["NOT_TAXABLE", "TAXED"])],
)
def test_a_certificate_in_canada_is_for_the_country_or_for_a_province(
    region: str, treatments: list[str]
) -> None:
    """GST and PST are freed apart."""
    certificate = ExemptionCertificate("CA", region, "PST-1000-0001", DateRange(date(2020, 1, 1)))

    found = determined(holding(a_buyer("CA-BC"), certificate), CANADIAN)

    assert [tax.ruling.treatment for tax in found.totals] == treatments


@pytest.mark.parametrize(
    ("buyer", "status"),
    [
        (a_buyer("FR"), EvidenceStatus.INSUFFICIENT),
        (shown(a_buyer("FR"), (EvidenceKind.BILLING_ADDRESS, "FR")), EvidenceStatus.INSUFFICIENT),
        (shown(a_buyer("FR"), (IP, "DE")), EvidenceStatus.INSUFFICIENT),
        (shown(a_buyer("FR"), (IP, "FR")), EvidenceStatus.SUFFICIENT),
        (shown(a_buyer("MC"), (IP, "FR")), EvidenceStatus.SUFFICIENT),
        (shown(a_buyer("FR"), (IP, "DE"), (BANK, "FR")), EvidenceStatus.SUFFICIENT),
        (a_buyer("FR", "FR40303265045"), EvidenceStatus.NOT_REQUIRED),
        (a_buyer("CH"), EvidenceStatus.NOT_REQUIRED),
    ],
)
def test_two_pieces_of_evidence_show_where_a_consumer_in_the_eu_is(
    buyer: Buyer, status: EvidenceStatus
) -> None:
    """Regulation (EU) 282/2011 Art. 24b(d): the address is one, and another must agree."""
    found = determined(buyer)

    assert (found.evidence_status, found.evidence) == (status, buyer.evidence)


def test_evidence_is_not_asked_for_professional_services() -> None:
    """Only telecommunications, broadcasting and electronic services need it."""
    lines = lines_of(10_000, category=ProductCategory.PROFESSIONAL_SERVICE)

    assert determined(a_buyer("FR"), CALIFORNIAN, lines).evidence_status == "NOT_REQUIRED"


def test_evidence_that_agrees_on_another_country_is_an_error() -> None:
    """Nothing is guessed: the address says one country, two pieces say another."""
    buyer = shown(a_buyer("FR"), (IP, "DE"), (BANK, "DE"))

    with pytest.raises(Precondition) as caught:
        determined(buyer)

    assert (caught.value.reason, caught.value.metadata["missing"]) == (
        "TAX_UNDETERMINED",
        "the buyer's country: the address says FR, 2 pieces of evidence say DE",
    )
