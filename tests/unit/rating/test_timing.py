"""Levels, charges in advance, tiers over a contract, and allowances that are kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from kit.errors import InvalidInput, Precondition
from kit.interval import Interval
from services.rating.model import Price, Proration, Trial
from services.rating.prices import (
    GraduatedPercentagePrice,
    PercentagePrice,
    PercentageTier,
    PriceModel,
    Recurrence,
    Rollover,
    TierSpan,
    VolumePrice,
)
from tests.rating_builders import (
    JANUARY,
    a_contract,
    a_given_usage,
    a_graduated_price,
    a_plan,
    a_price,
    a_standard_price,
    rated_given,
)
from tests.unit.rating.test_pricing import written

ONE_EACH = a_standard_price("1")
TWO_TIERS = a_graduated_price(("10", "2", "7"), (None, "1", "5"))
REMOVED = (("operation", "remove"),)


def on(day: int, hour: int = 0, *, month: int = 1, year: int = 2026) -> datetime:
    """Name a time, by default of January 2026."""
    return datetime(year, month, day, hour, tzinfo=UTC)


def a_level(model: PriceModel, *, prorated: bool = False, in_advance: bool = False) -> Price:
    """Make a price of seats that stay."""
    recurrence = Recurrence(prorated, REMOVED)
    return replace(a_price(model), recurrence=recurrence, in_advance=in_advance)


SEATS = (
    a_given_usage("5", time=on(1, month=3, year=2024)),
    a_given_usage("2", time=on(2, month=3, year=2024), operation="remove"),
    a_given_usage("4", time=on(17)),
    a_given_usage("1", time=on(30, 23), operation="remove"),
)


@pytest.mark.parametrize(
    ("price", "quantity", "steps"),
    [
        (a_level(ONE_EACH), "6", ["each: 6 x 1 = 6"]),
        (
            a_level(a_standard_price("31"), prorated=True),
            "4.903225806451612903225806",
            ["31 per 1, by days: 4.903225806451612903225806 x 31 = 152"],
        ),
        (
            a_level(a_graduated_price(("5", "31", "0"), (None, "62", "9")), prorated=True),
            "4.903225806451612903225806",
            [
                "tier 1, by days: up to 5: 3.967741935483870967741936 x 31 = 123",
                "tier 2, by days: above 5: 0.935483870967741935483871 x 62 = 58",
                "tier 2: flat: 1 x 9 = 9",
            ],
        ),
        (
            a_level(
                VolumePrice(a_graduated_price(("5", "31", "0"), (None, "62", "9")).tiers),
                prorated=True,
            ),
            "4.903225806451612903225806",
            [
                "all in tier 2, by days: above 5: 4.903225806451612903225806 x 62 = 304",
                "tier 2: flat: 1 x 9 = 9",
            ],
        ),
    ],
    ids=["its end", "by days", "tiers by days", "volume by days"],
)
def test_a_level_stays_until_it_changes(price: Price, quantity: str, steps: list[str]) -> None:
    """Three seats stay, four come on the 17th, and one goes on the 30th, which still counts.

    3 x 31 + 4 x 15 - 1 x 1 are 152 days of seats.
    """
    (line,) = rated_given(a_plan(price), *SEATS).lines

    assert line.quantity == Decimal(quantity)
    assert [written(step) for step in line.steps] == steps
    assert line.usage
    assert line.usage.interval == Interval(on(1, year=2000), JANUARY.end)


def test_days_are_those_of_the_customers_calendar() -> None:
    """At 23:00 UTC it is the next day in Tokyo, with a day less to bill."""
    price = a_level(a_standard_price("31"), prorated=True)
    period = Interval(on(31, 15, month=12, year=2025), on(31, 15))

    rating = rated_given(
        a_plan(price),
        a_given_usage("1", time=on(30, 23)),
        period=period,
        contract=a_contract(None, "Asia/Tokyo"),
    )

    assert rating.total.minor_units == 100


def test_a_level_of_half_a_period_is_billed_for_its_days() -> None:
    """Seats that were there on the 15th are billed for 17 of 31 days."""
    price = a_level(a_standard_price("31"), prorated=True)
    half = Interval(on(15), on(1, month=2))

    rating = rated_given(
        a_plan(price),
        a_given_usage("5", time=on(1)),
        period=half,
        proration=Proration(17, 31),
    )

    assert rating.total.minor_units == 8500


def test_a_level_that_grew_within_a_trial_is_billed_from_its_end() -> None:
    """Seats taken on the 5th of a trial to the 15th are billed for the 16 days that are left."""
    plan = replace(
        a_plan(a_level(a_standard_price("31"), prorated=True)), trial=Trial(15, includes_usage=True)
    )

    rating = rated_given(
        plan,
        a_given_usage("2", time=on(5)),
        a_given_usage("1", time=on(31)),
        contract=a_contract(on(1)),
    )

    assert rating.total.minor_units == (2 * 16 + 1) * 100


def test_a_level_needs_the_time_of_its_changes() -> None:
    """Given usage without a time cannot be billed by days."""
    with pytest.raises(InvalidInput, match="must have a time"):
        rated_given(a_plan(a_level(ONE_EACH)), a_given_usage("1"))


def test_in_advance_only_increases_above_the_former_highest_level_are_charged() -> None:
    """Seats that went and came back are not charged again."""
    price = a_level(a_standard_price("3"), in_advance=True)

    (line,) = rated_given(
        a_plan(price),
        a_given_usage("2", time=on(1, year=2025)),
        a_given_usage("3", time=on(5)),
        a_given_usage("4", time=on(6), operation="remove"),
        a_given_usage("5", time=on(7)),
    ).lines

    assert [written(step) for step in line.steps] == [
        "event 1: 3 x 3 = 9",
        "event 2: 0 x 0 = 0",
        "event 3: 1 x 3 = 3",
    ]


@pytest.mark.parametrize(
    ("price", "amounts"),
    [
        (replace(a_price(TWO_TIERS), in_advance=True), ["19", "21", "0"]),
        (replace(a_price(ONE_EACH, included="8"), in_advance=True), ["0", "10", "0"]),
        (replace(a_price(a_standard_price("0.001")), in_advance=True), ["0.01", "0.01", "0"]),
        (
            replace(
                a_price(GraduatedPercentagePrice((PercentageTier(None, Decimal(50), Decimal(0)),))),
                in_advance=True,
            ),
            ["3", "6", "0"],
        ),
        (
            replace(
                a_price(PercentagePrice(Decimal(10), Decimal(1), 1, None, None, Decimal(2))),
                in_advance=True,
            ),
            ["0", "2", "1"],
        ),
    ],
    ids=["tiers", "an allowance", "each rounded", "percentage tiers", "a percentage"],
)
def test_each_event_is_charged_what_it_adds(price: Price, amounts: list[str]) -> None:
    """The price with the event less the price without it, rounded by itself."""
    usage = [a_given_usage(quantity) for quantity in ("6", "12", "0")]

    (line,) = rated_given(a_plan(price), *usage).lines

    assert [step.amount for step in line.steps] == [Decimal(amount) for amount in amounts]
    assert line.unrounded_amount == sum(map(Decimal, amounts))


def spanning(span: TierSpan, model: PriceModel = TWO_TIERS) -> Price:
    """Make a price whose tiers fill over more than the period."""
    return replace(a_price(model), tier_span=span)


OLD_USAGE = (
    a_given_usage("100", time=on(30, month=11, year=2025)),
    a_given_usage("8", time=on(1, month=12, year=2025)),
    a_given_usage("5", time=on(1)),
)


@pytest.mark.parametrize(
    ("price", "begun", "steps"),
    [
        pytest.param(
            spanning(TierSpan.CONTRACT),
            on(1, month=12, year=2025),
            [
                "tier 1: up to 10: 2 x 2 = 4",
                "tier 2: above 10: 3 x 1 = 3",
                "tier 2: flat: 1 x 5 = 5",
            ],
            id="what the contract used fills the tiers",
        ),
        pytest.param(
            spanning(TierSpan.LIFETIME),
            on(1, month=12, year=2025),
            ["tier 2: above 10: 5 x 1 = 5"],
            id="all that was ever used fills the tiers",
        ),
        pytest.param(
            spanning(TierSpan.CONTRACT),
            on(1),
            ["tier 1: up to 10: 5 x 2 = 10", "tier 1: flat: 1 x 7 = 7"],
            id="the first period charges the first flat",
        ),
        pytest.param(
            spanning(TierSpan.CONTRACT, VolumePrice(TWO_TIERS.tiers)),
            on(1, month=12, year=2025),
            ["all in tier 2: above 10: 5 x 1 = 5", "tier 2: flat: 1 x 5 = 5"],
            id="volume chooses the tier by all, and prices the period",
        ),
    ],
)
def test_tiers_fill_over_more_than_a_period(
    price: Price, begun: datetime, steps: list[str]
) -> None:
    """Flat amounts are due once, when their tier is reached."""
    (line,) = rated_given(a_plan(price), *OLD_USAGE, contract=a_contract(begun)).lines

    assert line.quantity == Decimal(5)
    assert [written(step) for step in line.steps] == steps


def test_a_contract_of_unknown_start_fills_no_tiers() -> None:
    """Nobody guesses what a contract has used."""
    with pytest.raises(Precondition, match="contract_start"):
        rated_given(a_plan(spanning(TierSpan.CONTRACT)))


def months(*numbers: int) -> tuple[Interval, ...]:
    """Name months of 2025."""
    return tuple(
        Interval(on(1, month=n, year=2025), on(1, month=n % 12 + 1, year=2025 + n // 12))
        for n in numbers
    )


@pytest.mark.parametrize(
    ("rollover", "previous", "steps"),
    [
        pytest.param(
            Rollover(1, None),
            months(10, 11, 12),
            ["kept from earlier periods: up to 10: 10 x 0 = 0", "included: up to 10: 10 x 0 = 0"],
            id="for one period",
        ),
        pytest.param(
            Rollover(2, None),
            months(10, 11, 12),
            ["kept from earlier periods: up to 16: 16 x 0 = 0", "included: up to 10: 10 x 0 = 0"],
            id="for two periods, the oldest used first",
        ),
        pytest.param(
            Rollover(2, Decimal(7)),
            months(10, 11, 12),
            ["kept from earlier periods: up to 7: 7 x 0 = 0", "included: up to 10: 10 x 0 = 0"],
            id="up to a maximum",
        ),
        pytest.param(
            Rollover(2, None), (), ["included: up to 10: 10 x 0 = 0"], id="nothing before"
        ),
    ],
)
def test_what_was_included_and_not_used_is_kept(
    rollover: Rollover, previous: tuple[Interval, ...], steps: list[str]
) -> None:
    """Ten each month, of which October uses 7, November 2, December 5, the oldest first.

    Kept for one period, 3 of October serve November, whose own 10 serve December, whose own 10 are
    left. Kept for two, December uses 1 of October and 4 of November, and leaves 6 and its own 10.
    """
    price = replace(a_price(ONE_EACH, included="10"), rollover=rollover)

    (line,) = rated_given(
        a_plan(price),
        a_given_usage("7", time=on(1, month=10, year=2025)),
        a_given_usage("2", time=on(1, month=11, year=2025)),
        a_given_usage("5", time=on(1, month=12, year=2025)),
        a_given_usage("100", time=on(1)),
        previous=previous,
    ).lines

    assert [written(step) for step in line.steps][:-1] == steps
