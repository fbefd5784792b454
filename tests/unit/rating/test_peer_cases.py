"""Cases of another billing system's public test suite, as facts: what we price must agree.

The cases lie outside of the repository. Of them, those are tried that concern the kinds of price
there are; the others wait for theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from services.rating.model import (
    Proration,
)
from services.rating.prices import (
    GraduatedPrice,
    PackagePrice,
    PriceModel,
    StandardPrice,
)
from tests.rating_builders import (
    a_graduated_price,
    a_package_price,
    a_plan,
    a_standard_price,
    rated,
    rated_price,
)

FILE = Path(__file__).resolve().parents[4] / "shared/data/peer-cases/rating_cases.json"
Case = dict[str, Any]


def cases(wanted: Callable[[Case], bool]) -> list[Any]:
    """Load the cases that are wanted, or one that is skipped with the reason."""
    if not FILE.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason="../shared is not there"))]
    found = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
    return [pytest.param(case, id=case["id"]) for case in found if wanted(case)]


def is_priced(case: Case) -> bool:
    """Tell the cases that price units in a way there is."""
    kinds = {"charge_model", "current_usage"}
    return case["kind"] in kinds and case["model"] in {"standard", "graduated", "package"}


def is_tier(case: Case) -> bool:
    """Tell the cases of a single tier, given all units."""
    return bool(case["kind"] == "charge_model_tier")


def is_prorated_plan(case: Case) -> bool:
    """Tell the cases that bill a plan's fee for some days of its period."""
    return bool(case["kind"] == "subscription_fee_proration")


def model_of(case: Case) -> tuple[PriceModel, str]:
    """Read the price of a case, and what it includes.

    A peer's integer tier 11 to 20 begins right above 10, as its upper bounds are inclusive.
    """
    properties = case["properties"]
    match case["model"]:
        case "standard":
            return a_standard_price(properties["amount"]), "0"
        case "package":
            price = a_package_price(properties["amount"], properties["package_size"])
            return price, properties["free_units"]
        case _:
            tiers = [
                (tier["to_value"], tier["per_unit_amount"], tier["flat_amount"])
                for tier in properties["ranges"]
            ]
            return a_graduated_price(*tiers), "0"


def expected_amount(case: Case) -> Decimal:
    """Read what a case comes to, unrounded where it says so."""
    expected = case["expected"]
    if "amount" in expected:
        return Decimal(expected["amount"])
    return Decimal(expected["amount_cents"]) / 100


@pytest.mark.parametrize("case", cases(is_priced))
def test_units_come_to_the_peers_amount(case: Case) -> None:
    """Standard, graduated and package prices agree, free units and flats at zero included."""
    model, included = model_of(case)

    (line,) = rated_price(model, case["units"], included).lines

    assert line.unrounded_amount == expected_amount(case)


@pytest.mark.parametrize("case", cases(is_tier))
def test_a_tier_holds_the_peers_units(case: Case) -> None:
    """A tier prices the units from where the one before ended up to its bound, inclusive."""
    tier = case["properties"]["tier"]
    before = [(tier["from_value"], "0", "0")] if Decimal(tier["from_value"]) else []
    price = a_graduated_price(
        *before, (tier["to_value"], tier["per_unit_amount"], tier["flat_amount"]), (None, "0", "0")
    )

    (line,) = rated_price(price, case["units"]).lines

    step = line.steps[len(before)]
    expected = case["expected"]
    assert (step.quantity, step.amount) == (
        Decimal(expected["tier_units"]),
        Decimal(expected["per_unit_total"]),
    )


@pytest.mark.parametrize("case", cases(is_prorated_plan))
def test_days_of_a_plan_come_to_the_peers_amount(case: Case) -> None:
    """Billed days over the days of the period, rounded half up to the cent."""
    properties = case["properties"]
    plan = a_plan(base_fee=str(Decimal(properties["plan_amount_cents"]) / 100))

    rating = rated(
        plan, proration=Proration(properties["billable_days"], properties["period_days"])
    )

    assert rating.total.minor_units == case["expected"]["amount_cents"]
    precise = Decimal(case["expected"]["precise_amount_cents"])
    assert abs(rating.lines[0].unrounded_amount * 100 - precise) < Decimal("1E-9")


@pytest.mark.skipif(not FILE.exists(), reason="../shared is not there")
def test_the_cases_cover_every_kind_of_price_there_is() -> None:
    """No kind of price is left without a fact from outside."""
    models = {type(model_of(each.values[0])[0]) for each in cases(is_priced)}

    assert models == {StandardPrice, GraduatedPrice, PackagePrice}
