"""Codes of places: what is read, and what is no place at all."""

import pytest

from kit.errors import InvalidInput
from services.tax.places import parse_country, parse_region


@pytest.mark.parametrize(
    ("text", "code"),
    [("DE", "DE"), ("de", "DE"), ("EL", "GR"), ("UK", "GB"), ("XI", "GB"), ("IC", "IC")],
)
def test_a_country_has_one_code(text: str, code: str) -> None:
    """VAT's own codes are read as those of ISO 3166."""
    assert parse_country(text, "country") == code


@pytest.mark.parametrize("text", ["", "XX", "DEU", "Germany", "EU", "D\x00", "\uff24\uff25"])
def test_what_is_no_country_is_refused(text: str) -> None:
    """The error names the field and the reason UNKNOWN_COUNTRY."""
    with pytest.raises(InvalidInput) as caught:
        parse_country(text, "buyer.address.country")

    assert (caught.value.reason, caught.value.metadata, caught.value.violations[0].field) == (
        "UNKNOWN_COUNTRY",
        {"country": text},
        "buyer.address.country",
    )


@pytest.mark.parametrize(
    ("text", "country", "code"),
    [
        ("CA", "US", "CA"),
        ("us-ca", "US", "CA"),
        ("QC", "CA", "QC"),
        ("KA", "IN", "KA"),
        ("TF", "ES", "TF"),
        ("", "US", ""),
    ],
)
def test_a_region_is_read_without_its_country(text: str, country: str, code: str) -> None:
    """The part of ISO 3166-2 after the hyphen."""
    assert parse_region(text, country, "region") == code


@pytest.mark.parametrize(
    ("text", "country"),
    [("XX", "US"), ("California", "US"), ("CA", "CA"), ("ZZ", "IN"), ("LONG", "ES"), ("é", "FR")],
)
def test_what_is_no_region_is_refused(text: str, country: str) -> None:
    """An impossible state is an error that names it."""
    with pytest.raises(InvalidInput) as caught:
        parse_region(text, country, "region")

    assert (caught.value.reason, caught.value.metadata) == (
        "UNKNOWN_COUNTRY",
        {"country": f"{country}-{text}"},
    )
