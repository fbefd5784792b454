"""A budget counts what rating will bill: never less, and more by at most a millionth a unit."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from services.quota.weights import CardEntry, RateCard, tariff_of
from services.rating.model import Plan
from services.rating.prices import (
    ContextTier,
    ContextTierPrice,
    MatrixPrice,
    MatrixRow,
    PercentagePrice,
    PriceModel,
    StandardPrice,
)
from services.rating.rate_card import rate_card_of
from tests.rating_builders import a_given_usage, a_plan, a_price, rated_given

MODELS = ("large", "small")
PER = (Decimal(1), Decimal(1000), Decimal(1_000_000))
UNITS = ("input_tokens", "output_tokens")

prices = st.integers(0, 10**8).map(lambda value: Decimal(f"{value}E-6"))
models: st.SearchStrategy[PriceModel] = st.one_of(
    st.builds(StandardPrice, prices, st.sampled_from(PER)),
    st.builds(
        MatrixPrice,
        st.tuples(prices, prices).map(
            lambda drawn: (
                MatrixRow((("model", "large"),), drawn[0]),
                MatrixRow((), drawn[1]),
            )
        ),
        st.sampled_from(PER),
    ),
    st.builds(
        ContextTierPrice,
        st.just("input_tokens"),
        st.tuples(prices, prices).map(
            lambda drawn: (ContextTier(Decimal(500), drawn[0]), ContextTier(None, drawn[1]))
        ),
        st.sampled_from(PER),
    ),
    st.builds(
        PercentagePrice,
        st.integers(0, 100).map(Decimal),
        prices,
        *[st.none()] * 4,
    ),
)
calls = st.tuples(st.sampled_from(MODELS), st.integers(0, 1000), st.integers(0, 1000))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan that prices both units, and perhaps one model otherwise."""
    drawn = [a_price(draw(models), price_id=unit, meter_id=unit) for unit in UNITS]
    if draw(st.booleans()):
        own = draw(st.builds(StandardPrice, prices, st.sampled_from(PER)))
        drawn.append(a_price(own, price_id="own", meter_id="output_tokens", model="small"))
    return a_plan(*drawn)


def card_of(plan: Plan) -> RateCard:
    """Make the gate's card out of rating's; each meter counts the unit of its name."""
    return RateCard(
        plan.plan_id,
        1,
        plan.currency,
        tuple(
            CardEntry(
                entry.price_id,
                entry.meter_id,
                entry.meter_id,
                entry.dimensions,
                (),
                entry.unit_amount,
                entry.event_amount,
                entry.context_quantity,
                entry.context_above or Decimal(0),
            )
            for entry in rate_card_of(plan)
        ),
    )


@given(plan=plans(), made=st.lists(calls, min_size=1, max_size=8))
def test_a_budget_counts_what_is_billed(plan: Plan, made: list[tuple[str, int, int]]) -> None:
    """Where every unit costs just what the card says: at most a millionth a call and unit more."""
    card = card_of(plan)
    counted, usage = 0, []
    for model, *quantities in made:
        amounts = dict(zip(UNITS, quantities, strict=True))
        counted += tariff_of(card, (("model", model),)).amount_of(amounts)
        named = {unit: str(quantity) for unit, quantity in amounts.items()}
        usage += [
            a_given_usage(named[unit], meter_id=unit, quantities=named, model=model)
            for unit in UNITS
            if amounts[unit]
        ]

    billed = sum(
        (Fraction(line.unrounded_amount) for line in rated_given(plan, *usage).lines), Fraction(0)
    )

    assert 0 <= Fraction(counted, 1_000_000) - billed < Fraction(2 * len(made), 1_000_000)
