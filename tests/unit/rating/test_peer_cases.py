"""Cases of another billing system's public test suite, as facts: what we price must agree.

The cases lie outside of the repository. Every one of them is tried by its kind, or its kind stands
below with the reason why it is not ours. Where the peer's convention is not our default, the price
of a case chooses it, as anyone's may.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from kit.decimals import exactly
from kit.interval import Interval
from services.rating.model import (
    BaseFee,
    Commitment,
    CommitmentStep,
    GivenUsage,
    Price,
    ProductCategory,
    Proration,
    Rating,
)
from services.rating.prices import (
    DynamicPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    PercentagePrice,
    PercentageTier,
    PriceModel,
    QuantityConversion,
    QuantityRounding,
    Recurrence,
    VirtualCurrency,
    VolumePrice,
)
from services.rating.recurrence import Change, Level, price_days
from tests.rating_builders import (
    a_given_usage,
    a_graduated_price,
    a_package_price,
    a_plan,
    a_price,
    a_standard_price,
    rated,
    rated_given,
)

FILE = Path(__file__).resolve().parents[4] / "shared/data/peer-cases/rating_cases.json"
Case = dict[str, Any]

OTHERS = {
    "aggregation": "the meter service adds usage up",
    "invoice_fee": "the meter service weighs usage by time",
    "coupon_amount": "coupons are the invoicing service's",
    "invoice_coupons_taxes": "coupons are the invoicing service's",
    "credit_note_rounding": "credit notes are the invoicing service's",
    "credit_note_termination": "credit notes are the invoicing service's",
    "upgrade_credit_note": "credit notes are the invoicing service's",
    "termination_invoice": "credit notes are the invoicing service's",
    "progressive_billing": "when an invoice is due is the invoicing service's",
    "wallet_threshold_rule": "credits are the invoicing service's",
    "wallet_topup": "credits are the invoicing service's",
    "fee_taxes": "taxes are the tax service's",
    "invoice_taxes": "taxes are the tax service's",
    "tax_hierarchy": "taxes are the tax service's",
}
# Our default bills days exactly; the peer rounds units of days up to five digits.
ROUNDED_UP_TO_FIVE = QuantityConversion(Decimal(1), QuantityRounding.UP, 5)


def money_of(cents: int | str) -> str:
    """Write cents as an amount."""
    return str(Decimal(cents) / 100)


def tiers_of(properties: Mapping[str, Any]) -> GraduatedPrice:
    """Read tiers; the peer's 11 to 20 begins right above 10, as its upper bounds are inclusive."""
    return a_graduated_price(
        *[
            (tier["to_value"], tier["per_unit_amount"], tier["flat_amount"])
            for tier in properties["ranges"]
        ]
    )


def percentage_of(properties: Mapping[str, Any]) -> PercentagePrice:
    """Read a percentage of each event."""

    def amount(name: str) -> Decimal | None:
        text = properties.get(name)
        return None if text is None else Decimal(text)

    return PercentagePrice(
        rate_percent=Decimal(properties["rate"]),
        fixed_amount=amount("fixed_amount") or Decimal(0),
        free_events=properties.get("free_units_per_events"),
        free_quantity=amount("free_units_per_total_aggregation"),
        minimum_amount=amount("per_transaction_min_amount"),
        maximum_amount=amount("per_transaction_max_amount"),
    )


def percentage_tiers_of(properties: Mapping[str, Any]) -> GraduatedPercentagePrice:
    """Read tiers of percentages."""
    return GraduatedPercentagePrice(
        tuple(
            PercentageTier(
                tier["to_value"] and Decimal(tier["to_value"]),
                Decimal(tier["rate"]),
                Decimal(tier["flat_amount"]),
            )
            for tier in properties["ranges"]
        )
    )


MODELS: Mapping[str, Callable[[Mapping[str, Any]], PriceModel]] = {
    "standard": lambda properties: a_standard_price(properties["amount"]),
    "package": lambda properties: a_package_price(properties["amount"], properties["package_size"]),
    "graduated": tiers_of,
    "volume": lambda properties: VolumePrice(tiers_of(properties).tiers),
    "graduated_percentage": percentage_tiers_of,
    "percentage": percentage_of,
    "dynamic": lambda _: DynamicPrice("amounts"),
}


def model_of(case: Case) -> PriceModel:
    """Read the price of a case."""
    return MODELS[case["model"]](case["properties"])


def price_of(case: Case) -> Price:
    """Read a price with its allowance."""
    return a_price(model_of(case), included=case["properties"].get("free_units", "0"))


def usage_of(case: Case) -> list[GivenUsage]:
    """Read the events of a case, or its units as one event."""
    usage = [a_given_usage(event["value"]) for event in case.get("events", [])]
    cents = case["properties"].get("precise_total_amount_cents")
    amounts = [a_given_usage(money_of(cents), meter_id="amounts")] if cents else []
    return (usage or [a_given_usage(case["units"])]) + amounts


def check_amount(case: Case) -> None:
    """Units come to the peer's amount, unrounded where it says so."""
    (line,) = rated_given(a_plan(price_of(case)), *usage_of(case)).lines

    expected = case["expected"]
    exact = expected.get("amount") or money_of(expected["amount_cents"])
    assert line.unrounded_amount == Decimal(exact)


def check_prorated_tiers(case: Case) -> None:
    """Tiers are filled by full units, and each event pays for its prorated part."""
    properties = case["properties"]
    days = 10**9
    pairs = zip(
        properties["full_units_per_event"], properties["prorated_units_per_event"], strict=True
    )
    changes = tuple(
        Change(Decimal(full), round(Decimal(part) * days / Decimal(full))) for full, part in pairs
    )

    with exactly():
        steps = price_days(tiers_of(properties), Level(changes, days))

    amount = sum(step.amount for step in steps)
    assert round(amount, 2) == Decimal(case["expected"]["amount"])


def check_charge_model(case: Case) -> None:
    """Every kind of price, of which one is prorated."""
    check = check_prorated_tiers if case["model"] == "prorated_graduated" else check_amount
    check(case)


def check_tier(case: Case) -> None:
    """A tier prices the units from where the one before ended up to its bound, inclusive."""
    tier = case["properties"]["tier"]
    before = [(tier["from_value"], "0", "0")] if Decimal(tier["from_value"]) else []
    price = a_graduated_price(
        *before, (tier["to_value"], tier["per_unit_amount"], tier["flat_amount"]), (None, "0", "0")
    )

    (line,) = rated(a_plan(a_price(price)), case["units"]).lines

    step = line.steps[len(before)]
    expected = case["expected"]
    assert (step.quantity, step.amount) == (
        Decimal(expected["tier_units"]),
        Decimal(expected["per_unit_total"]),
    )


def check_sequence(case: Case) -> None:
    """What events come to after each of them."""
    usage = usage_of(case)

    totals = [
        rated_given(a_plan(price_of(case)), *usage[:count]).total.minor_units
        for count in range(1, len(usage) + 1)
    ]

    assert totals == case["expected"]["cumulative_amount_cents"]


def check_rounded_units(case: Case) -> None:
    """Units are rounded before they are priced."""
    name = case["properties"]["rounding_function"]
    roundings = {
        "round": QuantityRounding.HALF_UP,
        "ceil": QuantityRounding.UP,
        "floor": QuantityRounding.DOWN,
    }
    places = case["properties"]["rounding_precision"] if name else 0
    conversion = QuantityConversion(Decimal(1), roundings.get(name), places or 0)
    price = replace(a_price(a_standard_price("1")), conversion=conversion)

    (line,) = rated(a_plan(price), case["units"]).lines

    assert line.unrounded_amount == Decimal(case["expected"]["units"])


def days_of(case: Case) -> Proration | None:
    """Read the days that are billed."""
    properties = case["properties"]
    billed = properties.get("billable_days", properties.get("billed_days"))
    return None if billed is None else Proration(billed, properties["period_days"])


def check_fee(case: Case) -> None:
    """Billed days over the days of the period, rounded half up to the cent."""
    plan = a_plan(base_fee=money_of(case["properties"]["plan_amount_cents"]))

    rating = rated(plan, proration=days_of(case))

    expected = case["expected"]
    cents = expected.get("amount_cents", expected.get("fees_amount_cents"))
    precise = Decimal(expected.get("precise_amount_cents", cents))
    assert rating.total.minor_units == cents
    assert abs(rating.lines[0].unrounded_amount * 100 - precise) < Decimal("1E-9")


def check_fees(case: Case) -> None:
    """Fees of a number of units for some days."""
    fees = tuple(
        BaseFee(
            f"fee-{index}",
            "",
            Decimal(line["amount"]),
            Decimal(line["units"]),
            ProductCategory.ELECTRONIC_SERVICE,
            whole=False,
        )
        for index, line in enumerate(case["properties"]["lines"])
    )

    rating = rated(replace(a_plan(), base_fees=fees), proration=days_of(case))

    amounts = [line.amount.minor_units for line in rating.lines]
    assert amounts == case["expected"]["fee_amount_cents"]


def instant(text: str) -> datetime:
    """Read a time; the last second of a day stands for the midnight after it."""
    time = datetime.fromisoformat(text).astimezone(UTC)
    return time + timedelta(seconds=1) if text.endswith("23:59:59Z") else time


def level_rating(case: Case, *, in_advance: bool = False) -> Rating:
    """Rate a level by its days; what was there before came the day before."""
    properties = case["properties"]
    period = Interval(instant(properties["from"]), instant(properties["to"]))
    whole = properties["period_days"]
    usage = [
        a_given_usage(
            event.get("value", "1"),
            time=datetime.fromisoformat(event["timestamp"])
            if "timestamp" in event
            else period.start - timedelta(days=1),
            operation=event.get("op", "add"),
            id=event.get("id", ""),
        )
        for event in case["events"]
    ]
    identity = "id" if case["model"] == "unique_count" else ""
    price = replace(
        a_price(a_standard_price("1")),
        recurrence=Recurrence(prorated=True, removal=(("operation", "remove"),), identity=identity),
        conversion=ROUNDED_UP_TO_FIVE,
        in_advance=in_advance,
    )
    part = Proration((period.end - period.start).days, whole)
    return rated_given(a_plan(price), *usage, period=period, proration=part)


def check_level(case: Case) -> None:
    """Each change counts for its days; rounded up to five digits where the price says so."""
    (line,) = level_rating(case).lines

    assert line.unrounded_amount == Decimal(case["expected"]["units"])


def check_units_of_a_fee(case: Case) -> None:
    """Units that are set count from that day on, until they are set again."""
    days = case["properties"]["period_days"]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    usage = [
        a_given_usage(event["units"], time=start + timedelta(days=event["effective_on_day"] - 1))
        for event in case["events"]
    ]
    recurrence = Recurrence(prorated=True, removal=(), sets_level=True)
    price = replace(a_price(a_standard_price("1")), recurrence=recurrence)

    (line,) = rated_given(
        a_plan(price), *usage, period=Interval(start, start + timedelta(days=days))
    ).lines

    assert line.quantity == Decimal(case["expected"]["units"])


def check_minimum(case: Case) -> None:
    """What is missing to the least that a price comes to."""
    properties, expected = case["properties"], case["expected"]
    minimum = Decimal(money_of(properties["min_amount_cents"]))
    price = replace(a_price(a_standard_price("1")), minimum_amount=minimum)

    used = money_of(properties["used_amount_cents"])
    (_, missing) = rated(a_plan(price), used, proration=days_of(case)).lines

    assert missing.amount.minor_units == expected["true_up_amount_cents"]
    assert abs(missing.unrounded_amount * 100 - Decimal(expected["precise"])) < Decimal("1E-9")


def check_commitment(case: Case) -> None:
    """What is missing to the least that a plan comes to."""
    properties = case["properties"]
    step = CommitmentStep(0, Decimal(money_of(properties["commitment_amount_cents"])))
    plan = replace(
        a_plan(base_fee=money_of(properties["plan_amount_cents"])),
        commitment=Commitment((step,), term_months=0),
    )

    rating = rated(plan, proration=days_of(case))

    missing = sum(line.amount.minor_units for line in rating.lines[1:])
    assert missing == case["expected"]["commitment_true_up_cents"]


def check_events_in_advance(case: Case) -> None:
    """Each event is charged the price with it less the price without it, rounded by itself."""
    price = replace(price_of(case), in_advance=True)

    (line,) = rated_given(a_plan(price, currency="EUR"), *usage_of(case)).lines

    assert [step.amount * 100 for step in line.steps] == case["expected"]["fee_amount_cents"]
    units = case["expected"].get("fee_units", [step.quantity for step in line.steps])
    assert [step.quantity for step in line.steps] == [Decimal(each) for each in units]


def check_days_in_advance(case: Case) -> None:
    """What is added is charged for the days that are left."""
    (line,) = level_rating(case, in_advance=True).lines

    assert line.steps[-1].quantity == Decimal(case["expected"]["fee_units"])


def check_credits(case: Case) -> None:
    """A price in credits, converted."""
    properties = case["properties"]
    currency = VirtualCurrency("CRD", Decimal(properties["conversion_rate"]), 2)
    price = replace(price_of(case), virtual_currency=currency)

    rating = rated(a_plan(price, currency="EUR"), case["units"])

    credits_written = f"({case['expected']['pricing_unit_amount_cents'] // 100} CRD)"
    assert rating.total.minor_units == case["expected"]["amount_cents"]
    assert credits_written in rating.lines[0].steps[0].description


CHECKS: Mapping[str, Callable[[Case], None]] = {
    "charge_model": check_charge_model,
    "charge_model_tier": check_tier,
    "current_usage": check_amount,
    "current_usage_sequence": check_sequence,
    "estimate_instant_single_event": check_amount,
    "aggregation_rounding": check_rounded_units,
    "subscription_fee_proration": check_fee,
    "invoice_total_proration": check_fee,
    "fixed_charge_proration": check_fees,
    "fixed_charge_units": check_units_of_a_fee,
    "prorated_aggregation": check_level,
    "prorated_pay_in_advance": check_days_in_advance,
    "charge_spending_minimum": check_minimum,
    "minimum_commitment": check_commitment,
    "pay_in_advance_sequence": check_events_in_advance,
    "pricing_unit": check_credits,
}


def cases() -> list[Any]:
    """Load the cases of our kinds, or one that is skipped with the reason."""
    if not FILE.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason="../shared is not there"))]
    found = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]
    return [pytest.param(case, id=case["id"]) for case in found if case["kind"] not in OTHERS]


@pytest.mark.parametrize("case", cases())
def test_a_case_comes_to_the_peers_figure(case: Case) -> None:
    """Prices, proration, minimums, commitments, charges in advance, credits and estimates agree."""
    CHECKS[case["kind"]](case)


@pytest.mark.skipif(not FILE.exists(), reason="../shared is not there")
def test_no_kind_of_case_is_left_out_without_a_reason() -> None:
    """Each kind is tried here or is another service's."""
    found = json.loads(FILE.read_text(encoding="utf-8"))["vectors"]

    assert {case["kind"] for case in found} == CHECKS.keys() | OTHERS.keys()
