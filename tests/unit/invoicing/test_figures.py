"""How numbers, money and dates are written."""

from datetime import date
from decimal import Decimal

import pytest

from kit.money import Money
from services.invoicing.figures import figures_of
from services.invoicing.model import Language

ENGLISH, GERMAN, FRENCH, JAPANESE = Language
NARROW, WIDE = "\u202f", "\u00a0"


@pytest.mark.parametrize(
    ("language", "value", "text"),
    [
        (ENGLISH, "0", "0"),
        (ENGLISH, "12", "12"),
        (ENGLISH, "123", "123"),
        (ENGLISH, "1234.50", "1,234.5"),
        (ENGLISH, "-1234567", "-1,234,567"),
        (ENGLISH, "0.00000001", "0.00000001"),
        (ENGLISH, "0.123456789", "0.12345678…"),
        (
            ENGLISH,
            "12345678901234567890123456789012345.67",
            "12," + "345,678,901,234,567,890,123,456,789,012,345.67",
        ),
        (GERMAN, "1234.5", "1.234,5"),
        (FRENCH, "1234567.5", f"1{NARROW}234{NARROW}567,5"),
        (JAPANESE, "1234.5", "1,234.5"),
    ],
)
def test_a_number_keeps_its_digits(language: Language, value: str, text: str) -> None:
    """Long numbers are not rounded; what is left out shows as an ellipsis."""
    assert figures_of(language, "DE").number(Decimal(value)) == text


@pytest.mark.parametrize(
    ("language", "country", "money", "text"),
    [
        (ENGLISH, "US", Money("USD", 123456), "$1,234.56"),
        (ENGLISH, "DE", Money("USD", 123456), "US$1,234.56"),
        (ENGLISH, "US", Money("KWD", 1), f"KWD{WIDE}0.001"),
        (ENGLISH, "US", Money("USD", -5), "-$0.05"),
        (GERMAN, "DE", Money("EUR", 123456), f"1.234,56{WIDE}€"),
        (GERMAN, "CH", Money("CHF", 100), f"1,00{WIDE}CHF"),
        (FRENCH, "FR", Money("EUR", 123456), f"1{NARROW}234,56{WIDE}€"),
        (JAPANESE, "JP", Money("JPY", 479309), "¥479,309"),
        (JAPANESE, "JP", Money("USD", 100), "$1.00"),
    ],
)
def test_money_has_its_sign_where_the_language_puts_it(
    language: Language, country: str, money: Money, text: str
) -> None:
    """The decimals are those of ISO 4217, whatever coins are in use."""
    assert figures_of(language, country).money(money) == text


@pytest.mark.parametrize(
    ("language", "country", "text"),
    [
        (ENGLISH, "US", "January 31, 2026"),
        (ENGLISH, "IE", "31 January 2026"),
        (GERMAN, "DE", "31. Januar 2026"),
        (FRENCH, "FR", "31 janvier 2026"),
        (JAPANESE, "JP", "2026年1月31日"),
    ],
)
def test_a_day_is_written_out(language: Language, country: str, text: str) -> None:
    """A month by its name cannot be taken for a day."""
    assert figures_of(language, country).day(date(2026, 1, 31)) == text


@pytest.mark.parametrize(
    ("language", "text"),
    [
        (ENGLISH, "9.975%"),
        (GERMAN, f"9,975{WIDE}%"),
        (FRENCH, f"9,975{WIDE}%"),
        (JAPANESE, "9.975%"),
    ],
)
def test_a_rate_keeps_its_decimals(language: Language, text: str) -> None:
    """A percentage is not rounded."""
    assert figures_of(language, "CA").percent(Decimal("9.975")) == text


def test_a_country_is_named_in_the_language() -> None:
    """An unknown code stays a code."""
    german = figures_of(GERMAN, "DE")

    assert (german.country("FR"), german.country("JP"), german.country("ZZZ")) == (
        "Frankreich",
        "Japan",
        "ZZZ",
    )
