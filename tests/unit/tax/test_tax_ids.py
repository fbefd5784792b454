"""Tax ids as a table: what is valid, in which spelling, and what is wrong with the rest."""

import pytest

from services.tax.model import CheckedTaxId, TaxId, TaxIdStatus
from services.tax.tax_ids import check_tax_id


@pytest.mark.parametrize(
    ("country", "number", "canonical"),
    [
        ("AT", "U13585627", "ATU13585627"),
        ("BE", "0428.759.497", "BE0428759497"),
        ("DE", "DE 136-695-976", "DE136695976"),
        ("DE", "136695976", "DE136695976"),
        ("DE", "de136695976", "DE136695976"),
        ("ES", "B58378431", "ESB58378431"),
        ("FR", "40 303 265 045", "FR40303265045"),
        ("GR", "094259216", "EL094259216"),
        ("GR", "EL094259216", "EL094259216"),
        ("GR", "GR094259216", "EL094259216"),
        ("IE", "6433435F", "IE6433435F"),
        ("NL", "NL004495445B01", "NL004495445B01"),
        ("GB", "980 7806 84", "GB980780684"),
        ("GB", "XI980780684", "GB980780684"),
        ("CH", "CHE-107.787.577 MWST", "CHE107787577MWST"),
        ("NO", "NO 995 525 828 MVA", "NO995525828MVA"),
        ("AU", "51 824 753 556", "51824753556"),
        ("NZ", "49-091-850", "49091850"),
        ("IN", "27AAPFU0939F1ZV", "27AAPFU0939F1ZV"),
        ("JP", "T5835678256246", "T5835678256246"),
        ("JP", "5835678256246", "T5835678256246"),
        ("CA", "12302 6635 RT 0001", "123026635RT0001"),
        ("CA", "123026635", "123026635"),
        ("SG", "00192200M", "00192200M"),
    ],
)
def test_a_valid_id_has_one_spelling(country: str, number: str, canonical: str) -> None:
    """Blanks, dots, hyphens, case and prefix do not matter."""
    assert check_tax_id(TaxId(country, number)) == CheckedTaxId(
        country, TaxIdStatus.FORMAT_VALID, canonical
    )


@pytest.mark.parametrize(
    ("country", "number", "problem"),
    [
        ("DE", "DE136695970", "the checksum is wrong"),
        ("DE", "13669597", "the length is wrong"),
        ("DE", "DE13669597X", "the format is wrong"),
        ("DE", "DE", "the format is wrong"),
        ("DE", "FR40303265045", "the format is wrong"),
        ("FR", "\x00", "the format is wrong"),
        ("FR", "\uff26\uff3240303265045", "the format is wrong"),
        ("GB", "GB980780685", "the checksum is wrong"),
        ("CH", "CHE107787577", "the length is wrong"),
        ("NO", "995525828", "the format is wrong"),
        ("AU", "51824753557", "the checksum is wrong"),
        ("NZ", "49091851", "the checksum is wrong"),
        ("IN", "27AAPFU0939F1ZO", "the checksum is wrong"),
        ("JP", "T5835678256247", "the checksum is wrong"),
        ("CA", "123026636", "the checksum is wrong"),
        ("SG", "00192200X", "the checksum is wrong"),
    ],
)
def test_an_invalid_id_says_what_is_wrong(country: str, number: str, problem: str) -> None:
    """Nothing of it is kept."""
    assert check_tax_id(TaxId(country, number)) == CheckedTaxId(
        country, TaxIdStatus.INVALID, problem=problem
    )


@pytest.mark.parametrize("country", ["US", "BR", "MC"])
def test_a_country_without_a_known_format_is_not_checked(country: str) -> None:
    """It is neither valid nor invalid, and nothing is decided by it."""
    assert check_tax_id(TaxId(country, "12-3456789")) == CheckedTaxId(
        country, TaxIdStatus.NOT_CHECKED
    )
