"""VAT and GST outside the EU, and territories with rules of their own, as decision tables."""

from datetime import date

import pytest

from services.tax.model import (
    Address,
    Buyer,
    BuyerKind,
    ProductCategory,
    RegistrationScheme,
    TaxId,
)
from services.tax.tax_ids import check_tax_id
from tests.tax_builders import (
    CALIFORNIAN,
    Case,
    a_buyer,
    a_registration,
    a_seller,
    ruled,
)

WORK = ProductCategory.PROFESSIONAL_SERVICE
SIMPLIFIED = RegistrationScheme.SIMPLIFIED
GSTIN = "IN27AAPFU0939F1ZV"


ABROAD = [
    Case(
        "GB business",
        "Value Added Tax Act 1994 ss. 7A and 8",
        a_buyer("GB", "GB980780684"),
        ("GB VAT 0 REVERSE_CHARGE gb.b2b.reverse_charge = 0.00",),
    ),
    Case(
        "GB business in Northern Ireland",
        "Windsor Framework: for services Northern Ireland is the United Kingdom",
        a_buyer("GB-NIR", "GB980780684", postal_code="BT1 5GS"),
        ("GB VAT 0 REVERSE_CHARGE gb.b2b.reverse_charge = 0.00",),
    ),
    Case(
        "GB consumer, registered",
        "Value Added Tax Act 1994 Schedule 4A para. 15",
        a_buyer("GB"),
        ("GB VAT 20 TAXED gb.b2c.registered = 20.00",),
        a_seller("US-CA", a_registration("GB")),
    ),
    Case(
        "GB consumer on the first day outside the EU's VAT",
        "Withdrawal Agreement Art. 126",
        a_buyer("GB"),
        ("GB VAT 20 TAXED gb.b2c.registered = 20.00",),
        a_seller("US-CA", a_registration("GB")),
        date(2021, 1, 1),
    ),
    Case(
        "CH business, seller not registered",
        "Mehrwertsteuergesetz Art. 45",
        a_buyer("CH", business=True),
        ("CH VAT 0 REVERSE_CHARGE ch.b2b.reverse_charge = 0.00",),
    ),
    Case(
        "CH business, seller registered",
        "Mehrwertsteuergesetz Art. 45(1)(a): only from sellers who are not registered",
        a_buyer("CH", business=True),
        ("CH VAT 8.1 TAXED ch.b2b.registered = 8.10",),
        a_seller("US-CA", a_registration("CH")),
    ),
    Case(
        "CH consumer, seller not registered",
        "Mehrwertsteuergesetz Art. 10",
        a_buyer("CH"),
        ("CH VAT 0 NOT_REGISTERED ch.b2c.not_registered = 0.00",),
    ),
    Case(
        "CH consumer on the last day of 7.7 %",
        "Mehrwertsteuergesetz Art. 25(1)",
        a_buyer("CH"),
        ("CH VAT 7.7 TAXED ch.b2c.registered = 7.70",),
        a_seller("US-CA", a_registration("CH")),
        date(2023, 12, 31),
    ),
    Case(
        "CH consumer on the first day of 8.1 %",
        "Mehrwertsteuergesetz Art. 25(1)",
        a_buyer("CH"),
        ("CH VAT 8.1 TAXED ch.b2c.registered = 8.10",),
        a_seller("US-CA", a_registration("CH")),
        date(2024, 1, 1),
    ),
    Case(
        "NO business",
        "Merverdiavgiftsloven § 11-3",
        a_buyer("NO", "NO995525828MVA"),
        ("NO VAT 0 REVERSE_CHARGE no.b2b.reverse_charge = 0.00",),
    ),
    Case(
        "NO consumer, registered",
        "Merverdiavgiftsloven §§ 3-30 and 14-4",
        a_buyer("NO"),
        ("NO VAT 25 TAXED no.b2c.registered = 25.00",),
        a_seller("US-CA", a_registration("NO", scheme=SIMPLIFIED)),
    ),
    Case(
        "JP business",
        "Consumption Tax Act Art. 5(1)",
        a_buyer("JP", business=True),
        ("JP JCT 0 REVERSE_CHARGE jp.b2b.reverse_charge = 0.00",),
    ),
    Case(
        "JP consumer, seller not registered",
        "Consumption Tax Act Art. 9",
        a_buyer("JP"),
        ("JP JCT 0 NOT_REGISTERED jp.b2c.not_registered = 0.00",),
    ),
    Case(
        "JP consumer, registered",
        "Consumption Tax Act Art. 29: 7.8 % and 2.2 % local",
        a_buyer("JP"),
        ("JP JCT 10 TAXED jp.b2c.registered = 10.00",),
        a_seller("US-CA", a_registration("JP")),
    ),
    Case(
        "JP consumer on the last day of 8 %",
        "Consumption Tax Act Art. 29",
        a_buyer("JP"),
        ("JP JCT 8 TAXED jp.b2c.registered = 8.00",),
        a_seller("US-CA", a_registration("JP")),
        date(2019, 9, 30),
    ),
    Case(
        "AU business",
        "GST Act 1999 s. 9-26",
        a_buyer("AU", "AU51824753556"),
        ("AU GST 0 OUT_OF_SCOPE au.b2b.out_of_scope = 0.00",),
    ),
    Case(
        "AU consumer, registered",
        "GST Act 1999 s. 9-25(5)(d)",
        a_buyer("AU"),
        ("AU GST 10 TAXED au.b2c.registered = 10.00",),
        a_seller("US-CA", a_registration("AU", scheme=SIMPLIFIED)),
    ),
    Case(
        "NZ business",
        "GST Act 1985 s. 8(4D)",
        a_buyer("NZ", "NZ49091850"),
        ("NZ GST 0 OUT_OF_SCOPE nz.b2b.out_of_scope = 0.00",),
    ),
    Case(
        "NZ consumer, registered",
        "GST Act 1985 s. 8(3)(c)",
        a_buyer("NZ"),
        ("NZ GST 15 TAXED nz.b2c.registered = 15.00",),
        a_seller("US-CA", a_registration("NZ")),
    ),
    Case(
        "SG business",
        "GST Act 1993 s. 14",
        a_buyer("SG", "SG00192200M"),
        ("SG GST 0 REVERSE_CHARGE sg.b2b.reverse_charge = 0.00",),
    ),
    Case(
        "SG consumer on the last day of 8 %",
        "GST Act 1993 s. 16",
        a_buyer("SG"),
        ("SG GST 8 TAXED sg.b2c.registered = 8.00",),
        a_seller("US-CA", a_registration("SG", scheme=SIMPLIFIED)),
        date(2023, 12, 31),
    ),
    Case(
        "SG consumer on the first day of 9 %",
        "GST Act 1993 s. 16",
        a_buyer("SG"),
        ("SG GST 9 TAXED sg.b2c.registered = 9.00",),
        a_seller("US-CA", a_registration("SG", scheme=SIMPLIFIED)),
        date(2024, 1, 1),
    ),
    Case(
        "IN business",
        "Notification 10/2017-Integrated Tax (Rate)",
        a_buyer("IN", GSTIN),
        ("IN IGST 0 REVERSE_CHARGE in.b2b.reverse_charge = 0.00",),
    ),
    Case(
        "IN consumer, registered",
        "IGST Act 2017 s. 14",
        a_buyer("IN"),
        ("IN IGST 18 TAXED in.b2c.registered = 18.00",),
        a_seller("US-CA", a_registration("IN", scheme=SIMPLIFIED)),
    ),
    Case(
        "GB business, for a professional service",
        "Value Added Tax Act 1994 ss. 7A and 8",
        a_buyer("GB", "GB980780684"),
        ("GB VAT 0 REVERSE_CHARGE gb.b2b.reverse_charge = 0.00",),
        category=WORK,
    ),
]
AT_HOME = [
    Case(
        f"{place}",
        law,
        a_buyer(place),
        (f"{place} {tax} TAXED {place.lower()}.domestic = {amount}",),
        a_seller(place),
    )
    for place, law, tax, amount in (
        ("GB", "Value Added Tax Act 1994 s. 4", "VAT 20", "20.00"),
        ("CH", "Mehrwertsteuergesetz Art. 18", "VAT 8.1", "8.10"),
        ("NO", "Merverdiavgiftsloven § 3-1", "VAT 25", "25.00"),
        ("JP", "Consumption Tax Act Art. 4(1)", "JCT 10", "10.00"),
        ("AU", "GST Act 1999 s. 9-5", "GST 10", "10.00"),
        ("NZ", "GST Act 1985 s. 8(1)", "GST 15", "15.00"),
        ("SG", "GST Act 1993 s. 8", "GST 9", "9.00"),
    )
]
INDIA = [
    Case(
        "within a state",
        "IGST Act 2017 s. 8; CGST Act 2017 s. 9",
        a_buyer("IN-KA"),
        (
            "IN CGST 9 TAXED in.domestic.intra_state = 9.00",
            "IN-KA SGST 9 TAXED in.domestic.intra_state = 9.00",
        ),
        a_seller("IN-KA"),
    ),
    Case(
        "within a union territory",
        "UTGST Act 2017 s. 7",
        a_buyer("IN-CH"),
        (
            "IN CGST 9 TAXED in.domestic.intra_state = 9.00",
            "IN-CH UTGST 9 TAXED in.domestic.intra_state = 9.00",
        ),
        a_seller("IN-CH"),
    ),
    Case(
        "between states",
        "IGST Act 2017 s. 7",
        a_buyer("IN-MH"),
        ("IN IGST 18 TAXED in.domestic.inter_state = 18.00",),
        a_seller("IN-KA"),
    ),
    Case(
        "a small business",
        "CGST Act 2017 s. 22",
        a_buyer("IN-KA"),
        ("IN IGST 0 NOT_TAXABLE in.small_business = 0.00",),
        a_seller("IN-KA", scheme=RegistrationScheme.SMALL_BUSINESS),
    ),
]
GERMAN = a_seller("DE", a_registration("DE", scheme=RegistrationScheme.UNION_OSS))
FRENCH_REGISTERED = a_seller("DE", a_registration("FR"))
TERRITORIES = [
    Case(
        "Monaco is France",
        "Directive 2006/112/EC Art. 7(1)",
        a_buyer("MC"),
        ("FR VAT 20 TAXED eu.b2c.union_oss = 20.00",),
        GERMAN,
    ),
    Case(
        "the Isle of Man is the United Kingdom",
        "Isle of Man Act 1979 s. 6",
        a_buyer("IM"),
        ("GB VAT 20 TAXED gb.b2c.registered = 20.00",),
        a_seller("DE", a_registration("GB")),
    ),
    Case(
        "the Canary Islands by postal code",
        "Directive 2006/112/EC Art. 6(1)(b)",
        a_buyer("ES", postal_code="35001"),
        ("ES-CN IGIC 0 NOT_REGISTERED territory.outside = 0.00",),
        GERMAN,
    ),
    Case(
        "the Canary Islands by region, from Spain",
        "Directive 2006/112/EC Art. 6(1)(b)",
        a_buyer("ES-TF"),
        ("ES-CN IGIC 0 NOT_REGISTERED territory.outside = 0.00",),
        a_seller("ES"),
    ),
    Case(
        "Madrid is not the Canary Islands",
        "Ley 37/1992 Art. 3",
        a_buyer("ES", postal_code="28013"),
        ("ES VAT 21 TAXED eu.b2c.union_oss = 21.00",),
        GERMAN,
    ),
    Case(
        "Ceuta",
        "Directive 2006/112/EC Art. 6(2)(c)",
        a_buyer("ES", postal_code="51001"),
        ("ES-CE IPSI 0 NOT_REGISTERED territory.outside = 0.00",),
        GERMAN,
    ),
    Case(
        "Melilla",
        "Directive 2006/112/EC Art. 6(2)(d)",
        a_buyer("ES", postal_code="52001"),
        ("ES-ML IPSI 0 NOT_REGISTERED territory.outside = 0.00",),
        GERMAN,
    ),
    Case(
        "Livigno",
        "Directive 2006/112/EC Art. 6(2)(e)",
        a_buyer("IT", postal_code="23041"),
        ("IT-23041 VAT 0 OUT_OF_SCOPE territory.outside = 0.00",),
        GERMAN,
    ),
    Case(
        "Campione d'Italia",
        "Directive (EU) 2019/475",
        a_buyer("IT", postal_code="22061"),
        ("IT-22061 ILCCI 0 NOT_REGISTERED territory.outside = 0.00",),
        GERMAN,
    ),
    Case(
        "Heligoland",
        "Directive 2006/112/EC Art. 6(2)(a)",
        a_buyer("DE", postal_code="27498"),
        ("DE-27498 VAT 0 OUT_OF_SCOPE territory.outside = 0.00",),
        GERMAN,
    ),
    Case(
        "Büsingen is Switzerland",
        "Mehrwertsteuergesetz Art. 3",
        a_buyer("DE", postal_code="78266"),
        ("CH VAT 8.1 TAXED ch.b2c.registered = 8.10",),
        a_seller("DE", a_registration("CH")),
    ),
    Case(
        "Mount Athos",
        "Directive 2006/112/EC Art. 6(1)(a)",
        a_buyer("GR-69"),
        ("GR-69 VAT 0 OUT_OF_SCOPE territory.outside = 0.00",),
        GERMAN,
    ),
    Case(
        "French Guiana",
        "Code général des impôts Art. 294",
        a_buyer("FR", postal_code="97300"),
        ("FR-973 VAT 0 OUT_OF_SCOPE territory.outside = 0.00",),
        GERMAN,
    ),
    Case(
        "Mayotte",
        "Code général des impôts Art. 294",
        a_buyer("YT"),
        ("FR-976 VAT 0 OUT_OF_SCOPE territory.outside = 0.00",),
        GERMAN,
    ),
    *(
        Case(
            f"{name}, to a consumer, with a French registration",
            "Code général des impôts Art. 296(1)(b): 8.5 %",
            buyer,
            (f"{jurisdiction} VAT 8.5 TAXED eu.b2c.registered = 8.50",),
            FRENCH_REGISTERED,
        )
        for name, buyer, jurisdiction in (
            ("Guadeloupe", a_buyer("FR", postal_code="97110"), "FR-971"),
            ("Martinique", a_buyer("MQ"), "FR-972"),
            ("Réunion", a_buyer("FR", postal_code="97400"), "FR-974"),
        )
    ),
    Case(
        "Réunion from Paris, to a business",
        "BOFiP BOI-TVA-GEO-20-40 § 30: no reverse charge within France",
        a_buyer("RE", "FR40303265045"),
        ("FR-974 VAT 8.5 TAXED eu.domestic = 8.50",),
        a_seller("FR"),
    ),
    Case(
        "Réunion from Berlin, to a business",
        "Code général des impôts Art. 283(2)",
        Buyer(BuyerKind.BUSINESS, Address("RE"), (check_tax_id(TaxId("FR", "FR40303265045")),)),
        ("FR-974 VAT 0 REVERSE_CHARGE eu.b2b.reverse_charge = 0.00",),
        GERMAN,
    ),
    Case(
        "Åland, to a consumer, with a Finnish registration",
        "Act 1266/1996: the Finnish VAT Act applies; Arvonlisäverolaki § 84",
        a_buyer("AX"),
        ("FI VAT 25.5 TAXED eu.b2c.registered = 25.50",),
        a_seller("DE", a_registration("FI")),
    ),
    Case(
        "Åland on the last day of 24 %",
        "Arvonlisäverolaki § 84",
        a_buyer("FI", postal_code="22100"),
        ("FI VAT 24 TAXED eu.b2c.registered = 24.00",),
        a_seller("DE", a_registration("FI")),
        date(2024, 8, 31),
    ),
    Case(
        "the Azores",
        "Código do IVA Art. 18(3)",
        a_buyer("PT", postal_code="9500-119"),
        ("PT-20 VAT 16 TAXED eu.b2c.union_oss = 16.00",),
        GERMAN,
    ),
    Case(
        "the Azores on the last day of 18 %",
        "Decreto Legislativo Regional 15-A/2021/A",
        a_buyer("PT-20"),
        ("PT-20 VAT 18 TAXED eu.b2c.union_oss = 18.00",),
        GERMAN,
        date(2021, 6, 30),
    ),
    Case(
        "Madeira",
        "Código do IVA Art. 18(3)",
        a_buyer("PT", postal_code="9000-017"),
        ("PT-30 VAT 22 TAXED eu.b2c.union_oss = 22.00",),
        GERMAN,
    ),
    Case(
        "Jungholz",
        "Umsatzsteuergesetz 1994 § 10(4)",
        a_buyer("AT", postal_code="6691"),
        ("AT-6691 VAT 19 TAXED eu.b2c.union_oss = 19.00",),
        GERMAN,
    ),
    Case(
        "Svalbard",
        "Merverdiavgiftsloven § 1-2",
        a_buyer("SJ"),
        ("NO-21 VAT 0 OUT_OF_SCOPE territory.outside = 0.00",),
        CALIFORNIAN,
    ),
]


@pytest.mark.parametrize("case", ABROAD, ids=lambda case: case.id)
def test_each_country_rules_on_services_from_abroad(case: Case) -> None:
    """Businesses and consumers, with and without a registration of the seller."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", AT_HOME, ids=lambda case: case.id)
def test_a_seller_charges_the_rate_of_its_country_at_home(case: Case) -> None:
    """Seller and buyer in one country: its standard rate."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", INDIA, ids=lambda case: case.id)
def test_india_splits_its_tax_by_place_of_supply(case: Case) -> None:
    """Two taxes stand on one line within a state, one between states."""
    assert ruled(case) == case.expected


@pytest.mark.parametrize("case", TERRITORIES, ids=lambda case: case.id)
def test_territories_have_rules_of_their_own(case: Case) -> None:
    """A territory is another country, has its own rate, or lies outside."""
    assert ruled(case) == case.expected
