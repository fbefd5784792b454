"""What a confirmation makes of a tax id, how long it holds, and what the seller asks for."""

from datetime import UTC, datetime, timedelta

import pytest

from services.tax.confirmations import confirm_buyer, numbers_to_look_up
from services.tax.model import Confirmation, SellerSettings
from tests.tax_builders import TODAY, a_buyer

NOON = datetime(2026, 10, 31, 12, tzinfo=UTC)
GERMAN = a_buyer("DE", "DE136695976")
SWISS = a_buyer("CH", "CHE-107.787.577 MWST")
ACCEPTING = SellerSettings()
REFUSING = SellerSettings(refuses_unconfirmed_tax_ids=True)


def confirmed(*, is_valid: bool = True, days_ago: int = 0) -> dict[str, Confirmation]:
    """Make the answer of VIES some days ago."""
    check_time = NOON - timedelta(days=days_ago)
    return {"DE136695976": Confirmation("VIES", is_valid, "", "WAPI", check_time)}


@pytest.mark.parametrize(
    ("known", "settings", "status"),
    [
        ({}, ACCEPTING, "FORMAT_VALID"),
        ({}, REFUSING, "INVALID"),
        (confirmed(), REFUSING, "CONFIRMED"),
        (confirmed(days_ago=30), REFUSING, "CONFIRMED"),
        (confirmed(days_ago=31), REFUSING, "INVALID"),
        (confirmed(days_ago=31), ACCEPTING, "FORMAT_VALID"),
        (confirmed(is_valid=False), ACCEPTING, "INVALID"),
        (confirmed(is_valid=False, days_ago=31), ACCEPTING, "FORMAT_VALID"),
    ],
)
def test_a_confirmation_of_the_last_30_days_counts(
    known: dict[str, Confirmation], settings: SellerSettings, status: str
) -> None:
    """Both a yes and a no; afterwards the seller's decision on unconfirmed ids holds."""
    (tax_id,) = confirm_buyer(GERMAN, known, settings, TODAY).tax_ids

    assert tax_id.status == status


def test_only_ids_of_countries_with_a_register_are_looked_up() -> None:
    """Elsewhere a valid format is the best there is, and the seller cannot refuse it."""
    assert numbers_to_look_up(GERMAN) == {"DE136695976"}
    assert numbers_to_look_up(SWISS) == set()
    assert confirm_buyer(SWISS, {}, REFUSING, TODAY) == SWISS
