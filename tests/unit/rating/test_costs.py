"""What one event costs by the rates of its provider."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from services.rating.costs import (
    CostRate,
    ProviderCost,
    RateTable,
    StoredCost,
    amount_of,
    in_effect,
)

JANUARY, FEBRUARY, MARCH = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))


def a_rate(
    quantity: str, amount: str, part_of: str = "", tier: str = "", above: str = "0"
) -> CostRate:
    """Make a rate."""
    return CostRate(quantity, part_of, tier, Decimal(above), Decimal(amount))


RATES = (
    a_rate("input_tokens", "3"),
    a_rate("input_tokens", "6", above="200"),
    a_rate("cached_input_tokens", "0.3", "input_tokens"),
    a_rate("output_tokens", "15"),
    a_rate("output_tokens", "22.5", above="200"),
    a_rate("reasoning_tokens", "20", "output_tokens"),
    a_rate("input_tokens", "1.5", tier="batch"),
    a_rate("output_tokens", "7.5", tier="batch"),
    a_rate("searches_low", "0.01"),
)


def a_cost(*rates: CostRate, since: datetime | None = None) -> ProviderCost:
    """Make what a provider charges for a model."""
    return ProviderCost("openai", "gpt-5", "USD", since, rates or RATES)


def stored(cost: ProviderCost, revision: int = 1) -> StoredCost:
    """Make a cost as it was put."""
    return StoredCost(cost, revision, MARCH)


@dataclass(frozen=True, slots=True)
class Case:
    """An event and what it costs."""

    id: str
    quantities: dict[str, str]
    amount: str
    tier: str = ""
    steps: dict[str, str] = field(default_factory=dict)


CASES = [
    Case("nothing known", {"pages": "3"}, "0"),
    Case("plain", {"input_tokens": "10", "output_tokens": "2"}, "60"),
    Case(
        "cached tokens are part of the input",
        {"input_tokens": "10", "cached_input_tokens": "4", "output_tokens": "2"},
        "49.2",
        steps={"input_tokens": "6", "cached_input_tokens": "4", "output_tokens": "2"},
    ),
    Case(
        "reasoning is part of the output",
        {"output_tokens": "10", "reasoning_tokens": "10"},
        "200",
        steps={"output_tokens": "0", "reasoning_tokens": "10"},
    ),
    Case(
        "more parts than the whole cost no less than the parts",
        {"input_tokens": "1", "cached_input_tokens": "10"},
        "3",
        steps={"input_tokens": "0", "cached_input_tokens": "10"},
    ),
    Case("parts without their whole", {"cached_input_tokens": "10"}, "3"),
    Case("at the bound of the context", {"input_tokens": "200"}, "600"),
    Case(
        "above it the whole call costs more, but for what has no rate there",
        {"input_tokens": "201", "cached_input_tokens": "1", "output_tokens": "2"},
        "1245.3",
    ),
    Case(
        "a tier of its own, and standard rates where it has none",
        {"input_tokens": "10", "cached_input_tokens": "4", "searches_low": "2"},
        "10.22",
        tier="batch",
    ),
    Case("a tier without rates is the standard one", {"input_tokens": "1"}, "3", tier="auto"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_event_costs_what_its_rates_say(case: Case) -> None:
    """Parts are taken off their whole, and tier and context choose the rates."""
    quantities = {name: Decimal(text) for name, text in case.quantities.items()}

    steps = RateTable(a_cost()).steps_of(quantities, case.tier)

    assert amount_of(steps) == Decimal(case.amount)
    found = {step.rate.quantity: str(step.quantity) for step in steps}
    assert {name: found[name] for name in case.steps} == case.steps


def test_every_digit_of_a_rate_counts() -> None:
    """A price with the noise of a float is taken as it is written."""
    table = RateTable(a_cost(a_rate("input_tokens", "0.0000029999900000000002")))

    steps = table.steps_of({"input_tokens": Decimal(1_000_003)}, "")

    assert amount_of(steps) == Decimal("2.9999989999700002000006")


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        pytest.param(JANUARY, 4, id="since ever, as it was corrected"),
        pytest.param(FEBRUARY, 3, id="the last revision for a time"),
        pytest.param(MARCH, 3, id="a correction of what was before does not count later"),
    ],
)
def test_the_last_time_that_has_come_counts(instant: datetime, expected: int) -> None:
    """Of the costs that are in effect the latest counts, of those for one time the last put."""
    history = (
        stored(a_cost(), 1),
        stored(a_cost(since=FEBRUARY), 2),
        stored(a_cost(since=FEBRUARY), 3),
        stored(a_cost(since=None), 4),
    )

    found = in_effect(history, instant)

    assert found is not None
    assert found.revision == expected


def test_nothing_is_in_effect_before_its_time() -> None:
    """A cost that counts from February says nothing of January."""
    assert in_effect((stored(a_cost(since=FEBRUARY)),), JANUARY) is None
