"""What one unit costs under each kind of price, and what may make it cheaper."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from services.rating.prices import (
    CostPlusPrice,
    DynamicPrice,
    GraduatedPercentagePrice,
    PercentagePrice,
    PercentageTier,
    PriceModel,
    QuantityConversion,
    Stair,
    StairstepPrice,
    TimeOfUsePrice,
    TimeWindow,
    VirtualCurrency,
    VolumePrice,
)
from services.rating.rate_card import RateCardEntry, rate_card_of
from tests.rating_builders import (
    a_graduated_price,
    a_package_price,
    a_plan,
    a_price,
    a_standard_price,
)

TIERS = a_graduated_price(("10", "2", "0"), (None, "3", "5"))
ZERO = Decimal(0)


def a_percentage(free_events: int | None) -> PercentagePrice:
    """Make a percentage with a fixed amount."""
    return PercentagePrice(Decimal("2.9"), Decimal("0.3"), free_events, None, None, None)


@pytest.mark.parametrize(
    ("model", "meter_id", "unit", "event", "is_exact"),
    [
        (a_standard_price("5", per="1000"), "tokens", "0.005", "0", True),
        (TIERS, "tokens", "3", "0", False),
        (VolumePrice(TIERS.tiers), "tokens", "3", "0", False),
        (a_package_price("25", size="10"), "tokens", "2.5", "0", False),
        (
            GraduatedPercentagePrice((PercentageTier(None, Decimal(5), ZERO),)),
            "tokens",
            "0.05",
            "0",
            False,
        ),
        (
            StairstepPrice((Stair(Decimal(5), Decimal(10)), Stair(None, Decimal(20)))),
            "tokens",
            "4",
            "0",
            False,
        ),
        (StairstepPrice((Stair(None, Decimal(20)),)), "tokens", "20", "0", False),
        (a_percentage(None), "tokens", "0.029", "0.3", True),
        (a_percentage(3), "tokens", "0.029", "0.3", False),
        (DynamicPrice("amounts"), "amounts", "1", "0", True),
        (CostPlusPrice("costs", Decimal(20)), "costs", "1.2", "0", True),
        (
            TimeOfUsePrice(
                ZoneInfo("UTC"),
                (TimeWindow(frozenset({0}), 0, 6, Decimal(7)),),
                Decimal(2),
                Decimal(10),
            ),
            "tokens",
            "0.7",
            "0",
            False,
        ),
    ],
    ids=[
        "standard",
        "graduated",
        "volume",
        "package",
        "graduated percentage",
        "stairs",
        "one stair",
        "percentage",
        "percentage with free events",
        "dynamic",
        "cost plus",
        "time of use",
    ],
)
def test_a_unit_costs_what_the_dearest_does(
    model: PriceModel, meter_id: str, unit: str, event: str, *, is_exact: bool
) -> None:
    """Of tiers and hours the dearest; of packages and stairs the share of a full one."""
    (entry,) = rate_card_of(a_plan(a_price(model)))

    assert entry == RateCardEntry(
        "tokens", meter_id, (), Decimal(unit), is_exact, event_amount=Decimal(event)
    )


def test_a_unit_is_what_the_meter_counts_in_the_plans_currency() -> None:
    """Conversions of the quantity and of credits are undone; an allowance makes it a bound."""
    price = replace(
        a_price(a_standard_price("5"), included="1"),
        conversion=QuantityConversion(Decimal(1000), None, 0),
        virtual_currency=VirtualCurrency("CRD", Decimal("0.5"), None),
    )

    assert rate_card_of(a_plan(price)) == (
        RateCardEntry("tokens", "tokens", (), Decimal("0.0025"), is_exact=False),
    )
