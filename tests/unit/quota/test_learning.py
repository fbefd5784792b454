"""How much calls alike will probably use, learned from what they used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.quota.learning import (
    WEIGHT_MAX,
    Tally,
    bucket_of,
    estimate,
    estimated_in,
    hold_name,
    series_in,
    series_of,
)
from services.quota.model import Estimate


def having_seen(*quantities: int) -> Tally:
    """Make the tally of some observations."""
    tally = Tally()
    for quantity in quantities:
        tally = tally.seeing(quantity)
    return tally


def test_the_estimate_is_the_95th_percentile_within_its_bound() -> None:
    """One call in twenty may use more; the largest amount of its bucket is taken, not the bound."""
    tally = having_seen(*[300] * 95, *[4000] * 5)

    assert estimate(tally, "output_tokens", 4096) == 300
    assert estimate(tally.seeing(4000), "output_tokens", 4096) == 4000
    assert estimate(tally, "output_tokens", 100) == 100
    assert estimate(tally, "output_tokens", 0) == 300


@pytest.mark.parametrize(
    ("unit", "quantity_max", "expected"),
    [
        ("output_tokens", 4096, 256),
        ("output_tokens", 100, 100),
        ("output_tokens", 0, 256),
        ("seconds", 0, 10_000_000),
        ("USD", 0, 10_000),
    ],
)
def test_little_is_held_while_little_is_known(unit: str, quantity_max: int, expected: int) -> None:
    """It can be extended; nineteen calls are little."""
    assert estimate(None, unit, quantity_max) == expected
    assert estimate(having_seen(*[9000] * 19), unit, quantity_max) == expected


def test_what_is_long_ago_fades() -> None:
    """After some thousand other calls nothing of it is left."""
    before = having_seen(*[100_000] * 1000)
    tally = before
    for _ in range(10_000):
        tally = tally.seeing(10)

    assert before.percentile() == 100_000
    assert tally.percentile() == 10


@given(quantity=st.integers(0, 10**15), more=st.integers(0, 10**14))
def test_buckets_ascend_and_are_an_eighth_wide(quantity: int, more: int) -> None:
    """Amounts of one bucket differ by less than an eighth."""
    assert bucket_of(quantity) <= bucket_of(quantity + more)
    if bucket_of(quantity) == bucket_of(quantity + more):
        assert more * 8 <= quantity


tallies = st.lists(st.integers(0, 10**6), max_size=60).map(lambda drawn: having_seen(*drawn))


@given(first=tallies, second=tallies)
def test_it_does_not_matter_who_saw_what(first: Tally, second: Tally) -> None:
    """Replicas that tell each other know the same, in either order."""
    assert first.joined(second) == second.joined(first)
    assert first.joined(Tally()) == first
    assert first.joined(second).weight <= WEIGHT_MAX


def test_a_hold_carries_what_was_estimated_for_it() -> None:
    """So that its answer can be repeated, and its commit learned from, wherever that arrives."""
    estimates = (Estimate("output_tokens", 0, "chat"), Estimate("seconds", 0, "chat"))
    series = series_of((("model", "large"), ("region", "eu")), "chat")
    name = hold_name("0123abcd-1f", [(series, 300), (series, 10**15)])

    assert series_in(name) == {series}
    assert estimated_in(name, estimates) == {"output_tokens": 300, "seconds": 10**15}
    assert len(name) < 240
    assert series_in("0123abcd-1f") == frozenset()
    assert series != series_of((("model", "large"),), "other")
    assert series != series_of((("model", "small"),), "chat")
    assert series == series_of((("model", "large"),), "chat")
