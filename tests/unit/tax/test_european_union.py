"""VAT of the European Union as a decision table: seller x buyer x product x day."""

from datetime import date
from decimal import Decimal

import pytest

from services.tax.model import Buyer, ProductCategory, RegistrationScheme
from tests.tax_builders import (
    CALIFORNIAN,
    NON_UNION_OSS,
    TODAY,
    Case,
    a_buyer,
    a_registration,
    a_seller,
    determined,
    ruled,
)

UNION_OSS = a_registration("DE", scheme=RegistrationScheme.UNION_OSS)
BERLINER = a_seller("DE", UNION_OSS)
BELOW_THRESHOLD = a_seller("DE", a_registration("DE", scheme=RegistrationScheme.EU_BELOW_THRESHOLD))
SMALL = a_seller("FR", scheme=RegistrationScheme.SMALL_BUSINESS)
WORK = ProductCategory.PROFESSIONAL_SERVICE
IN_ENGLISH = (
    "Reverse charge: VAT to be accounted for by the recipient (Art. 196 of Directive 2006/112/EC)"
)

# A valid VAT id of each member state, from the examples of the national tax offices and
# python-stdnum, and its standard rate in October 2026 by TEDB of the European Commission.
MEMBER_STATES = [
    ("AT", "ATU13585627", "20"),
    ("BE", "BE0428759497", "21"),
    ("BG", "BG175074752", "20"),
    ("CY", "CY10259033P", "19"),
    ("CZ", "CZ25123891", "21"),
    ("DE", "DE136695976", "19"),
    ("DK", "DK13585628", "25"),
    ("EE", "EE100931558", "24"),
    ("ES", "ESB58378431", "21"),
    ("FI", "FI20774740", "25.5"),
    ("FR", "FR40303265045", "20"),
    ("GR", "EL094259216", "24"),
    ("HR", "HR33392005961", "25"),
    ("HU", "HU12892312", "27"),
    ("IE", "IE6433435F", "23"),
    ("IT", "IT00743110157", "22"),
    ("LT", "LT119511515", "21"),
    ("LU", "LU15027442", "17"),
    ("LV", "LV40003521600", "21"),
    ("MT", "MT11679112", "18"),
    ("NL", "NL004495445B01", "21"),
    ("PL", "PL8567346215", "23"),
    ("PT", "PT501964843", "23"),
    ("RO", "RO18547290", "21"),
    ("SE", "SE123456789701", "25"),
    ("SI", "SI50223054", "22"),
    ("SK", "SK2022749619", "23"),
]


def consumer(country: str, rate: str, day: date, law: str) -> Case:
    """Make the case of a consumer who buys from a seller outside the EU, at a rate."""
    tax = f"{country} VAT {rate} TAXED eu.b2c.non_union_oss = "
    return Case(
        id=f"{country} {day}",
        law=f"Directive 2006/112/EC Art. 58; {law}",
        buyer=a_buyer(country),
        expected=(tax + f"{Decimal(rate):.2f}",),
        day=day,
    )


CONSUMERS = [consumer(country, rate, TODAY, "TEDB") for country, _, rate in MEMBER_STATES]
BUSINESSES = [
    Case(
        id=country,
        law="Directive 2006/112/EC Art. 44 and 196",
        buyer=a_buyer(country, vat_id.replace("EL", "GR")),
        expected=(f"{country} VAT 0 REVERSE_CHARGE eu.b2b.reverse_charge = 0.00",),
    )
    for country, vat_id, _ in MEMBER_STATES
]
RATE_CHANGES = [
    consumer("DE", "19", date(2020, 6, 30), "UStG § 12(1)"),
    consumer("DE", "16", date(2020, 7, 1), "UStG § 28(1)"),
    consumer("DE", "16", date(2020, 12, 31), "UStG § 28(1)"),
    consumer("DE", "19", date(2021, 1, 1), "UStG § 12(1)"),
    consumer("IE", "23", date(2020, 8, 31), "VATCA 2010 s. 46(1)(a)"),
    consumer("IE", "21", date(2020, 9, 1), "Financial Provisions (Covid-19) (No. 2) Act 2020"),
    consumer("IE", "21", date(2021, 2, 28), "Financial Provisions (Covid-19) (No. 2) Act 2020"),
    consumer("IE", "23", date(2021, 3, 1), "VATCA 2010 s. 46(1)(a)"),
    consumer("LU", "17", date(2022, 12, 31), "Loi TVA Art. 39"),
    consumer("LU", "16", date(2023, 1, 1), "Loi du 26 octobre 2022"),
    consumer("LU", "17", date(2024, 1, 1), "Loi TVA Art. 39"),
    consumer("EE", "20", date(2023, 12, 31), "KMS § 15(1)"),
    consumer("EE", "22", date(2024, 1, 1), "KMS § 15(1)"),
    consumer("EE", "22", date(2025, 6, 30), "KMS § 15(1)"),
    consumer("EE", "24", date(2025, 7, 1), "KMS § 15(1)"),
    consumer("FI", "24", date(2024, 8, 31), "AVL § 84"),
    consumer("FI", "25.5", date(2024, 9, 1), "AVL § 84"),
    consumer("SK", "20", date(2024, 12, 31), "Act 222/2004 § 27"),
    consumer("SK", "23", date(2025, 1, 1), "Act 222/2004 § 27"),
    consumer("RO", "19", date(2025, 7, 31), "Codul fiscal Art. 291"),
    consumer("RO", "21", date(2025, 8, 1), "Legea 141/2025"),
    consumer("GB", "20", date(2020, 12, 31), "Withdrawal Agreement Art. 127"),
]
WITHIN_THE_EU = [
    Case(
        "home, to a consumer",
        "Directive 2006/112/EC Art. 45; UStG § 12(1)",
        a_buyer("DE"),
        ("DE VAT 19 TAXED eu.domestic = 19.00",),
        BERLINER,
    ),
    Case(
        "home, to a business",
        "Directive 2006/112/EC Art. 44; UStG § 12(1)",
        a_buyer("DE", "DE136695976"),
        ("DE VAT 19 TAXED eu.domestic = 19.00",),
        BERLINER,
    ),
    Case(
        "abroad, to a business",
        "Directive 2006/112/EC Art. 44 and 196",
        a_buyer("FR", "FR40303265045"),
        ("FR VAT 0 REVERSE_CHARGE eu.b2b.reverse_charge = 0.00",),
        BERLINER,
    ),
    Case(
        "abroad, to a business, with a local registration",
        "Directive 2006/112/EC Art. 196: the seller is not established there",
        a_buyer("FR", "FR40303265045"),
        ("FR VAT 0 REVERSE_CHARGE eu.b2b.reverse_charge = 0.00",),
        a_seller("DE", a_registration("FR")),
    ),
    Case(
        "abroad, to a consumer, by the One Stop Shop",
        "Directive 2006/112/EC Art. 58 and 369a",
        a_buyer("FR"),
        ("FR VAT 20 TAXED eu.b2c.union_oss = 20.00",),
        BERLINER,
    ),
    Case(
        "abroad, to a consumer, by a local registration",
        "Directive 2006/112/EC Art. 58",
        a_buyer("FR"),
        ("FR VAT 20 TAXED eu.b2c.registered = 20.00",),
        a_seller("DE", a_registration("FR")),
    ),
    Case(
        "abroad, to a consumer, below 10,000 euro",
        "Directive 2006/112/EC Art. 59c",
        a_buyer("FR"),
        ("DE VAT 19 TAXED eu.b2c.below_threshold = 19.00",),
        BELOW_THRESHOLD,
    ),
    Case(
        "a small business at home",
        "Directive 2006/112/EC Art. 284",
        a_buyer("FR"),
        ("FR VAT 0 NOT_TAXABLE eu.small_business = 0.00",),
        SMALL,
    ),
    Case(
        "a small business, to a business abroad",
        "Directive 2006/112/EC Art. 44 and 196",
        a_buyer("DE", "DE136695976"),
        ("DE VAT 0 REVERSE_CHARGE eu.b2b.reverse_charge = 0.00",),
        SMALL,
    ),
]
OUT_OF_THE_ORDINARY_BUYERS = [
    Case(
        "a business with a wrong VAT id is a consumer",
        "Implementing Regulation (EU) 282/2011 Art. 18(2)",
        a_buyer("DE", "DE136695970"),
        ("DE VAT 19 TAXED eu.b2c.non_union_oss = 19.00",),
    ),
    Case(
        "a business without a VAT id is a consumer",
        "Implementing Regulation (EU) 282/2011 Art. 18(2)",
        a_buyer("DE", business=True),
        ("DE VAT 19 TAXED eu.b2c.non_union_oss = 19.00",),
    ),
    Case(
        "a business with the VAT id of another country is a consumer",
        "Directive 2006/112/EC Art. 44: the id must show where it is established",
        a_buyer("DE", "FR40303265045"),
        ("DE VAT 19 TAXED eu.b2c.non_union_oss = 19.00",),
    ),
    Case(
        "the first valid VAT id counts",
        "Directive 2006/112/EC Art. 44",
        a_buyer("DE", "FR40303265045", "DE136695970", "DE136695976"),
        ("DE VAT 0 REVERSE_CHARGE eu.b2b.reverse_charge = 0.00",),
    ),
]
WORK_FOR_CONSUMERS = [
    Case(
        "in another member state is taxed at home",
        "Directive 2006/112/EC Art. 45",
        a_buyer("FR"),
        ("DE VAT 19 TAXED eu.b2c.professional = 19.00",),
        BERLINER,
        category=WORK,
    ),
    Case(
        "outside the EU is not taxed",
        "Directive 2006/112/EC Art. 59",
        a_buyer("CH"),
        ("DE VAT 0 OUT_OF_SCOPE eu.outside_buyer = 0.00",),
        BERLINER,
        category=WORK,
    ),
    Case(
        "from outside the EU is not taxed",
        "Directive 2006/112/EC Art. 45",
        a_buyer("FR"),
        ("FR VAT 0 OUT_OF_SCOPE eu.outside_seller = 0.00",),
        category=WORK,
    ),
    Case(
        "at home is taxed",
        "Directive 2006/112/EC Art. 45",
        a_buyer("DE"),
        ("DE VAT 19 TAXED eu.domestic = 19.00",),
        BERLINER,
        category=WORK,
    ),
    Case(
        "and for a business abroad, the buyer owes the tax",
        "Directive 2006/112/EC Art. 44 and 196",
        a_buyer("FR", "FR40303265045"),
        ("FR VAT 0 REVERSE_CHARGE eu.b2b.reverse_charge = 0.00",),
        BERLINER,
        category=WORK,
    ),
]


@pytest.mark.parametrize("case", CONSUMERS, ids=lambda case: case.id)
def test_a_consumer_pays_the_rate_of_its_country(case: Case) -> None:
    """An electronic service from outside the EU is taxed where the consumer is."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", BUSINESSES, ids=lambda case: case.id)
def test_a_business_with_a_checked_vat_id_owes_the_tax_itself(case: Case) -> None:
    """No VAT is charged to a business abroad whose VAT id has the right format and checksum."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", RATE_CHANGES, ids=lambda case: case.id)
def test_a_rate_changes_on_its_day(case: Case) -> None:
    """The last day has the old rate and the next one the new."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", WITHIN_THE_EU, ids=lambda case: case.id)
def test_a_seller_in_the_eu_charges_by_its_registrations(case: Case) -> None:
    """Home, reverse charge, One Stop Shop, threshold and small business each have their rule."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", OUT_OF_THE_ORDINARY_BUYERS, ids=lambda case: case.id)
def test_only_a_valid_vat_id_of_the_buyers_country_makes_a_business(case: Case) -> None:
    """A buyer that cannot show its VAT id is taxed as a consumer."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", WORK_FOR_CONSUMERS, ids=lambda case: case.id)
def test_a_professional_service_to_a_consumer_is_supplied_where_the_seller_is(case: Case) -> None:
    """The exceptions are consumers outside the EU, and businesses."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize(
    ("buyer", "fault"),
    [
        (a_buyer("DE", business=True), "none was given"),
        (a_buyer("DE", "DE136695970"), "the checksum is wrong"),
        (a_buyer("DE", "FR40303265045"), "it was not given by Germany"),
    ],
)
def test_the_reason_says_why_a_business_is_taxed_as_a_consumer(buyer: Buyer, fault: str) -> None:
    """Nothing is decided silently: the reason names the fault of the VAT id."""
    reason = determined(buyer).totals[0].ruling.reason

    assert reason.endswith(
        "The buyer calls itself a business, but is taxed as a consumer for want of a valid tax id"
        f" of Germany: {fault}."
    )


@pytest.mark.parametrize(
    ("language", "note"),
    [
        (
            "de",
            "Steuerschuldnerschaft des Leistungsempfängers (Art. 196 der Richtlinie 2006/112/EG)",
        ),
        ("fr", "Autoliquidation (article 196 de la directive 2006/112/CE)"),
        ("en", IN_ENGLISH),
        ("xx", IN_ENGLISH),
    ],
)
def test_the_note_of_reverse_charge_is_in_the_language_asked_for(language: str, note: str) -> None:
    """Directive 2006/112/EC Art. 226(11a) demands the words; without a translation, in English."""
    found = determined(a_buyer("DE", "DE136695976"), language=language)

    assert found.totals[0].ruling.invoice_note == note


def test_the_number_under_which_tax_is_declared_stands_on_it() -> None:
    """OSS sales carry the OSS number; a reverse charge from within the EU the seller's VAT id."""
    by_oss = determined(a_buyer("FR"), CALIFORNIAN).totals[0].ruling.seller_tax_id
    from_berlin = determined(a_buyer("FR", "FR40303265045"), BERLINER)
    from_california = determined(a_buyer("FR", "FR40303265045"), CALIFORNIAN)

    assert by_oss == NON_UNION_OSS.number
    assert from_berlin.totals[0].ruling.seller_tax_id == "DE DOMESTIC"
    assert from_california.totals[0].ruling.seller_tax_id == ""
