"""Laws that the rating of any plan obeys: every kind of price, with every adjustment, at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from kit.errors import InvalidInput
from kit.interval import Interval
from kit.money import minor_digits
from services.rating.estimating import estimate
from services.rating.model import GivenUsage, LineKind, Plan, Price, Rating, Trial, UsageEntry
from services.rating.pipeline import KnownLines, Terms, rate_period, spans_of
from services.rating.prices import (
    CostPlusPrice,
    DynamicPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    PercentagePrice,
    TierSpan,
)
from services.rating.selection import count_given
from tests.rating_builders import (
    JANUARY,
    a_contract,
    a_given_usage,
    a_plan,
    a_price,
    a_version,
    rated_given,
)
from tests.rating_strategies import graduated_percentages, graduated_prices, plans

CONTRACT = a_contract(datetime(2025, 11, 20, tzinfo=UTC), "Asia/Tokyo", "5")
MONTH = timedelta(days=31)
PREVIOUS = (replace(JANUARY, start=JANUARY.start - MONTH, end=JANUARY.start),)
small_quantities = st.integers(0, 10**6).map(lambda value: Decimal(f"{value}E-3"))
times = st.integers(-30 * 24 * 60, 31 * 24 * 60 - 1).map(
    lambda minutes: JANUARY.start + timedelta(minutes=minutes)
)
LIMITS = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@st.composite
def usage_of(draw: st.DrawFn, price: Price) -> list[GivenUsage]:
    """Draw usage that a price counts, at times that all differ, and perhaps its amounts."""
    drawn = draw(st.lists(st.tuples(times, small_quantities), max_size=5, unique_by=lambda x: x[0]))
    projects = draw(st.sampled_from(["a", "b"]))
    used = [
        GivenUsage(
            meter_id,
            UsageEntry(quantity, {**dict(price.dimensions), "project": projects}, time=time),
        )
        for time, quantity in drawn
        for meter_id in meters_of(price)
    ]
    return draw(st.permutations(used))


def meters_of(price: Price) -> list[str]:
    """Name the meters of a price."""
    match price.model:
        case DynamicPrice(meter_id) | CostPlusPrice(meter_id):
            return [price.meter_id, meter_id]
        case _:
            return [price.meter_id]


@st.composite
def periods(draw: st.DrawFn) -> tuple[Plan, list[GivenUsage]]:
    """Draw a plan and usage under it."""
    plan = draw(plans())
    usage = [each for price in plan.prices for each in draw(usage_of(price))]
    return plan, usage


def rated(plan: Plan, usage: list[GivenUsage]) -> Rating:
    """Rate January; figures beyond what money can be are no examples."""
    terms = Terms("acme", JANUARY, None, CONTRACT, None, PREVIOUS)
    try:
        return rate_period(a_version(plan), terms, count_given(plan, usage, spans_of(plan, terms)))
    except InvalidInput:
        reject()


@LIMITS
@given(period=periods())
def test_every_explanation_sums_to_its_line_and_the_lines_to_the_total(
    period: tuple[Plan, list[GivenUsage]],
) -> None:
    """Steps sum to the unrounded amount, which is rounded half up; no line is below 0."""
    plan, usage = period

    rating = rated(plan, usage)

    exponent = minor_digits(plan.currency)
    sums = [sum(Fraction(step.amount) for step in line.steps) for line in rating.lines]
    assert sums == [Fraction(line.unrounded_amount) for line in rating.lines]
    assert [line.amount.minor_units for line in rating.lines] == [
        int(each * 10**exponent + Fraction(1, 2)) for each in sums
    ]
    assert all(each >= 0 for each in sums)
    assert rating.total.minor_units == sum(line.amount.minor_units for line in rating.lines)


@LIMITS
@given(period=periods(), data=st.data())
def test_the_order_in_which_usage_is_given_never_matters(
    period: tuple[Plan, list[GivenUsage]], data: st.DataObject
) -> None:
    """Where the order of events counts it is that of their time, not that of their arrival."""
    plan, usage = period

    assert rated(plan, usage) == rated(plan, data.draw(st.permutations(usage)))


@LIMITS
@given(
    period=periods(),
    currency=st.sampled_from(["USD", "JPY", "KWD"]),
    trial=st.sampled_from([None, *(Trial(45, includes_usage=each) for each in (True, False))]),
    billed_before=st.sampled_from(["0", "7"]),
)
def test_what_plans_have_in_common_may_be_rated_once(
    period: tuple[Plan, list[GivenUsage]], currency: str, trial: Trial | None, billed_before: str
) -> None:
    """Lines that are kept for the next plan are those that it would have by itself."""
    plan, usage = period
    other = replace(
        plan,
        plan_id="other",
        base_fee=Decimal(3),
        currency=currency,
        trial=trial,
        prices=plan.prices,
    )
    contract = replace(CONTRACT, billed_before=Decimal(billed_before))
    terms = Terms("acme", JANUARY, None, CONTRACT, None, PREVIOUS)
    later = replace(terms, contract=contract)
    usages = count_given(plan, usage, spans_of(plan, terms))
    known: KnownLines = {}
    try:
        together = [
            rate_period(a_version(each), asked, usages, known)
            for each, asked in ((plan, terms), (other, later), (plan, terms))
        ]
        alone = [
            rate_period(a_version(each), asked, usages)
            for each, asked in ((plan, terms), (other, later), (plan, terms))
        ]
    except InvalidInput:
        reject()

    assert together == alone


@LIMITS
@given(period=periods())
def test_bounds_hold_for_every_price(period: tuple[Plan, list[GivenUsage]]) -> None:
    """The lines of a price come to its minimum at least, and to its maximum at most."""
    plan, usage = period

    rating = rated(plan, usage)

    half_a_unit = Fraction(1, 2 * 10 ** minor_digits(plan.currency))
    for price in plan.prices:
        billed = sum(
            Fraction(line.amount.to_decimal())
            for line in rating.lines
            if line.price_id == price.price_id and line.kind is not LineKind.FEE
        )
        lines = [line for line in rating.lines if line.price_id == price.price_id]
        slack = half_a_unit * len(lines)
        if price.minimum_amount is not None:
            assert billed >= Fraction(price.minimum_amount) - slack
        if price.maximum_amount is not None:
            assert billed <= Fraction(price.maximum_amount) + slack


@LIMITS
@given(period=periods())
def test_an_estimate_is_the_difference_that_the_call_makes(
    period: tuple[Plan, list[GivenUsage]],
) -> None:
    """What was used and what a call adds come to the rating of both."""
    plan, usage = period
    assume(not any(price.in_advance for price in plan.prices))
    assume(not any(isinstance(price.model, PercentagePrice) for price in plan.prices))
    calls = [each for each in usage if each.entry.time and each.entry.time >= JANUARY.start][:1]
    others = [each for each in usage if each not in calls]
    version = a_version(plan)
    terms = Terms("acme", JANUARY, None, CONTRACT, JANUARY.end, PREVIOUS)
    spans = spans_of(plan, terms)
    try:
        both = rate_period(version, terms, count_given(plan, [*others, *calls], spans))
        answer = estimate(version, terms, count_given(plan, others, spans), calls)
        before = rate_period(version, terms, count_given(plan, others, spans))
    except InvalidInput:
        reject()

    def usage_amount(rating: Rating) -> Fraction:
        return sum(
            (
                Fraction(line.unrounded_amount)
                for line in rating.lines
                if line.kind is LineKind.USAGE
            ),
            Fraction(0),
        )

    assume(plan.trial is None or not plan.trial.includes_usage)
    assert Fraction(answer.amount) == usage_amount(both) - usage_amount(before)


@LIMITS
@given(
    model=st.one_of(graduated_prices, graduated_percentages),
    quantities=st.lists(small_quantities, min_size=2, max_size=6),
)
def test_months_of_a_contract_come_to_the_contract_at_once(
    model: GraduatedPrice | GraduatedPercentagePrice, quantities: list[Decimal]
) -> None:
    """Tiers over a contract, billed month by month, add up to all of it before rounding."""
    begun = datetime(2025, 1, 1, tzinfo=UTC)
    price = replace(a_price(model), tier_span=TierSpan.CONTRACT)
    starts = [datetime(2025, month, 1, tzinfo=UTC) for month in range(1, len(quantities) + 2)]
    months = [Interval(*each) for each in pairwise(starts)]
    usage = [
        a_given_usage(str(quantity), time=month.start)
        for quantity, month in zip(quantities, months, strict=True)
    ]

    def amount(period: Interval) -> Fraction:
        rating = rated_given(a_plan(price), *usage, period=period, contract=a_contract(begun))
        return Fraction(rating.lines[0].unrounded_amount)

    assert sum(map(amount, months)) == amount(Interval(begun, starts[-1]))
