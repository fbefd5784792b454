"""The rules behind a peer's cases, tried where those cases do not reach.

Each figure was worked out by hand; the remark beside it says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from services.rating.model import GivenUsage, Price
from services.rating.prices import (
    DynamicPrice,
    GraduatedPercentagePrice,
    PercentagePrice,
    PercentageTier,
    PriceModel,
    QuantityConversion,
    QuantityRounding,
    Recurrence,
    VirtualCurrency,
    VolumePrice,
)
from tests.rating_builders import (
    a_given_usage,
    a_graduated_price,
    a_package_price,
    a_plan,
    a_price,
    a_standard_price,
    rated_given,
)

REMOVED = (("operation", "remove"),)
BY_DAYS = Recurrence(prorated=True, removal=REMOVED)
THINGS = Recurrence(prorated=True, removal=REMOVED, identity="seat")
SET = Recurrence(prorated=True, removal=(), sets_level=True)
FIVE_DIGITS = QuantityConversion(Decimal(1), QuantityRounding.UP, 5)
TIERS = a_graduated_price(("5", "31", "100"), ("15", "15.5", "50"), (None, "6.2", "0"))


def on(day: int, hour: int = 0, *, month: int = 1) -> datetime:
    """Name a time of 2026; the month before is that of 2025."""
    return datetime(2026 if month else 2025, month or 12, day, hour, tzinfo=UTC)


def added(quantity: str, day: int, hour: int = 0, seat: str = "") -> GivenUsage:
    """Make an event that adds to a level."""
    return a_given_usage(quantity, time=on(day, hour), seat=seat)


def removed(quantity: str, day: int, hour: int = 0, seat: str = "") -> GivenUsage:
    """Make an event that takes away from a level."""
    return a_given_usage(quantity, time=on(day, hour), operation="remove", seat=seat)


def before(quantity: str, seat: str = "") -> GivenUsage:
    """Make an event of the month before."""
    return a_given_usage(quantity, time=on(9, month=0), seat=seat)


def a_percentage(free_events: int | None = None, **amounts: str) -> PercentagePrice:
    """Make a percentage, by default of 2 % without anything else."""
    plain = PercentagePrice(Decimal(2), Decimal(0), free_events, None, None, None)
    changes: dict[str, Any] = {name: Decimal(text) for name, text in amounts.items()}
    return replace(plain, **changes)


def percentage_tiers(*tiers: tuple[str | None, str, str]) -> GraduatedPercentagePrice:
    """Make tiers of percentages; a tier is `(up to, percent, flat amount)`."""
    return GraduatedPercentagePrice(
        tuple(
            PercentageTier(None if up_to is None else Decimal(up_to), Decimal(rate), Decimal(flat))
            for up_to, rate, flat in tiers
        )
    )


@dataclass(frozen=True, slots=True)
class Case:
    """Usage under one price, and the unrounded amounts of its lines."""

    id: str
    price: Price
    usage: Sequence[GivenUsage]
    amounts: tuple[str, ...]


def priced(model: PriceModel, *quantities: str, included: str = "0") -> dict[str, Any]:
    """Give a model, and events of January."""
    return {
        "price": a_price(model, included=included),
        "usage": [a_given_usage(each) for each in quantities],
    }


def level(
    model: PriceModel,
    recurrence: Recurrence,
    *usage: GivenUsage,
    conversion: QuantityConversion | None = None,
) -> dict[str, Any]:
    """Give a level, and its changes."""
    return {
        "price": replace(a_price(model), recurrence=recurrence, conversion=conversion),
        "usage": usage,
    }


DECIMAL_TIERS = a_graduated_price(("0.1", "10", "0"), ("1", "5", "0"), (None, "2", "0"))
VOLUME = VolumePrice(a_graduated_price(("10", "3", "4"), ("20", "2", "0"), (None, "1", "9")).tiers)
PERCENT_TIERS = percentage_tiers(("100", "5", "0"), (None, "2", "10"))

CASES = [
    Case("graduated: the bound of a tier", **priced(TIERS, "5"), amounts=("255",)),
    # 155 + 100, and 1 unit and the flat amount of the second.
    Case("graduated: a unit above it", **priced(TIERS, "6"), amounts=("320.5",)),
    Case("graduated: fractions of a tier", **priced(DECIMAL_TIERS, "0.5"), amounts=("3",)),
    Case("graduated: beyond all bounds", **priced(DECIMAL_TIERS, "2.5"), amounts=("8.5",)),
    Case("graduated: tiers behind an allowance", **priced(TIERS, "8", included="3"),
         amounts=("255",)),
    Case("percentage tiers: the bound", **priced(PERCENT_TIERS, "100"), amounts=("5",)),
    Case("percentage tiers: a fraction above", **priced(PERCENT_TIERS, "100.5"),
         amounts=("15.01",)),
    Case("volume: nothing pays the first flat amount", **priced(VOLUME, "0"), amounts=("4",)),
    Case("volume: the bound of a tier", **priced(VOLUME, "10"), amounts=("34",)),
    Case("volume: a fraction above", **priced(VOLUME, "10.01"), amounts=("20.02",)),
    Case("volume: the last bound", **priced(VOLUME, "20"), amounts=("40",)),
    Case("volume: beyond all bounds", **priced(VOLUME, "21"), amounts=("30",)),
    Case("volume: nothing pays nothing where the price says so",
         price=replace(a_price(VOLUME), free_without_usage=True), usage=[], amounts=("0",)),
    Case("graduated: so does what is included",
         price=replace(a_price(TIERS, included="9"), free_without_usage=True),
         usage=[a_given_usage("9")], amounts=("0",)),
    Case("graduated: a part of a unit pays the flat amount",
         price=replace(a_price(TIERS), free_without_usage=True),
         usage=[a_given_usage("0.1")], amounts=("103.1",)),
    Case("package: a full one", **priced(a_package_price("7", "10"), "20"), amounts=("14",)),
    Case("package: what was begun", **priced(a_package_price("7", "10"), "20.001"),
         amounts=("21",)),
    Case("package: behind an allowance", **priced(a_package_price("7", "10"), "25", included="10"),
         amounts=("14",)),
    Case("package: all of it free", **priced(a_package_price("7", "10"), "25", included="30"),
         amounts=("0",)),
    Case("package: a fraction of a unit", **priced(a_package_price("7", "0.5"), "1.2"),
         amounts=("21",)),
    Case("percentage: nothing but the fixed amount",
         **priced(a_percentage(rate_percent="0", fixed_amount="2"), "9", "9", "9"),
         amounts=("6",)),
    # 50 are free; of the second event 30 are left, which pay the fixed amount in full.
    Case("percentage: a free quantity ends within an event",
         **priced(a_percentage(free_quantity="70", fixed_amount="1"), "50", "50"),
         amounts=("1.6",)),
    Case("percentage: a free quantity ends with an event",
         **priced(a_percentage(free_quantity="50", fixed_amount="1"), "50", "50"),
         amounts=("2",)),
    Case("percentage: more free events than there are",
         **priced(a_percentage(free_events=9, fixed_amount="1"), "50", "50"),
         amounts=("0",)),
    Case("percentage: free events end before the free quantity does",
         **priced(a_percentage(free_events=1, free_quantity="999"), "50", "50"),
         amounts=("1",)),
    # 1 raised to 1.5, 2 as it is, 20 lowered to 12.
    Case("percentage: bounds of each event",
         **priced(a_percentage(minimum_amount="1.5", maximum_amount="12"),
                  "50", "100", "1000"), amounts=("15.5",)),
    Case("percentage: what is free knows no minimum",
         **priced(a_percentage(free_events=2, minimum_amount="1.5"), "5", "5", "5"),
         amounts=("1.5",)),
    Case("percentage: an event of nothing pays what is fixed",
         **priced(a_percentage(fixed_amount="2", minimum_amount="13"), "0"),
         amounts=("13",)),
    Case("dynamic: no usage, no amount", **priced(DynamicPrice("amounts")), amounts=("0",)),
    # 31 x (5 x 31 + 5 x 15.5 + 65 x 6.2) / 31 and both flat amounts.
    Case("prorated tiers: one event through all of them",
         **level(TIERS, BY_DAYS, added("80", 1)), amounts=("863",)),
    # 4 x 31 + 16 - 2 x 10 days of tier 1 and 16 - 10 of tier 2: what goes counts its own day.
    Case("prorated tiers: up and down again",
         **level(TIERS, BY_DAYS, before("4"), added("2", 16), removed("3", 21)),
         amounts=("273",)),
    Case("prorated tiers: nothing pays the first flat amount", **level(TIERS, BY_DAYS),
         amounts=("100",)),
    Case("prorated tiers: more was taken away than there was",
         **level(TIERS, BY_DAYS, added("5", 1), removed("100", 2)), amounts=("0",)),
    # 21 units choose the last tier; they are 11 + 10 x 15 / 31 units of days.
    Case("prorated volume: full units choose the tier",
         **level(VolumePrice(TIERS.tiers), BY_DAYS, before("11"), added("10", 17)),
         amounts=("98.2",)),
    Case("a level that is set: the last of a day counts",
         **level(a_standard_price("31"), SET, before("8"), before("10"), added("3", 20),
                 added("7", 20, 12)), amounts=("274",)),
    Case("a level that is set to nothing",
         **level(a_standard_price("31"), SET, before("10"), added("0", 11)), amounts=("100",)),
    Case("a level that is set fills tiers",
         **level(TIERS, SET, before("5"), added("7", 17)), amounts=("320",)),
    Case("things: one that went and came on a day costs it once",
         **level(a_standard_price("31"), THINGS,
                 *[event("1", 5, hour, seat="a") for hour, event in
                   enumerate((added, removed, added, removed))]), amounts=("1",)),
    Case("things: another one that came that day costs it too",
         **level(a_standard_price("31"), THINGS, before("1", seat="a"),
                 removed("1", 10, seat="a"), added("1", 10, seat="b")), amounts=("32",)),
    Case("things: added twice is there once, and removed once is gone",
         **level(a_standard_price("31"), THINGS, before("1", seat="a"), before("1", seat="a"),
                 added("9", 3, seat="a"), removed("1", 10, seat="a"), removed("1", 20, seat="a")),
         amounts=("10",)),
    Case("things: removed without being there",
         **level(a_standard_price("31"), THINGS, removed("1", 10, seat="a")), amounts=("0",)),
    # 17 / 31 = 0.548387..., to five digits.
    Case("units of days rounded up", **level(a_standard_price("1"), BY_DAYS, added("1", 15),
         conversion=FIVE_DIGITS), amounts=("0.54839",)),
    Case("groups: each has its tiers and its flat amount",
         price=replace(a_price(TIERS), group_by=("team",)),
         usage=[a_given_usage("5", team="a"), a_given_usage("1", team="b")],
         amounts=("255", "131")),
    Case("groups: each has its free events",
         price=replace(a_price(a_percentage(free_events=1)), group_by=("team",)),
         usage=[a_given_usage("50", team="a"), a_given_usage("50", team="b"),
                a_given_usage("50", team="b")], amounts=("0", "1")),
    # 3 x 0.333 = 0.999 credits, which are 1.00, at 0.5.
    Case("credits are rounded in credits first",
         price=replace(a_price(a_standard_price("0.333")),
                       virtual_currency=VirtualCurrency("CRD", Decimal("0.5"), 2)),
         usage=[a_given_usage("3")], amounts=("0.5",)),
    Case("credits of nothing",
         price=replace(a_price(a_standard_price("5")),
                       virtual_currency=VirtualCurrency("CRD", Decimal("0.5"), 2)),
         usage=[], amounts=("0",)),
    Case("units to hundreds, halves up",
         price=replace(a_price(a_standard_price("1")),
                       conversion=QuantityConversion(Decimal(1), QuantityRounding.HALF_UP, -2)),
         usage=[a_given_usage("150")], amounts=("200",)),
    Case("units to hundreds, down",
         price=replace(a_price(a_standard_price("1")),
                       conversion=QuantityConversion(Decimal(1), QuantityRounding.DOWN, -2)),
         usage=[a_given_usage("199.9")], amounts=("100",)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_price_comes_to_the_figure_of_its_rule(case: Case) -> None:
    """Bounds, fractions, allowances, days, groups and credits, each where two rules meet."""
    amounts = [line.unrounded_amount for line in rated_given(a_plan(case.price), *case.usage).lines]

    assert amounts == [Decimal(amount) for amount in case.amounts]


FLATS = a_graduated_price(("5", "0.02", "0.01"), (None, "0.01", "0.01"))
SEATS = Recurrence(prorated=False, removal=REMOVED)

IN_ADVANCE = [
    pytest.param(
        priced(a_package_price("100", "2"), "3", "1", "2", included="3"),
        ["3: 0", "1: 100", "2: 100"],
        id="a package is charged by the event that begins it",
    ),
    pytest.param(
        priced(FLATS, "3", "1", "2"),
        ["3: 0.07", "1: 0.02", "2: 0.04"],
        id="a flat amount is charged by the event that reaches its tier",
    ),
    pytest.param(
        priced(PERCENT_TIERS, "60", "60", "60"),
        ["60: 3", "60: 12.4", "60: 1.2"],
        id="percentage tiers",
    ),
    pytest.param(
        priced(
            a_percentage(fixed_amount="0.5", minimum_amount="1.75"), "10", "100"
        ),
        ["10: 1.75", "100: 2.5"],
        id="a percentage with its bounds",
    ),
    pytest.param(
        priced(a_percentage(fixed_amount="1"), "0", "50"),
        ["1: 1", "50: 2"],
        id="an event of nothing pays what is fixed",
    ),
    pytest.param(
        level(a_standard_price("1"), SEATS, added("10", 2), removed("4", 3), added("8", 4)),
        ["10: 10", "0: 0", "4: 4"],
        id="of a level only what lies above its former highest is charged",
    ),
    pytest.param(
        level(a_standard_price("12"), replace(THINGS, prorated=False),
              added("1", 2, seat="a"), removed("1", 3, seat="a"), added("1", 4, seat="a"),
              added("1", 5, seat="b"), added("1", 6, seat="b")),
        ["1: 12", "0: 0", "0: 0", "1: 12", "0: 0"],
        id="a thing that comes back, or is there, is charged nothing",
    ),
    pytest.param(
        level(a_standard_price("31"), BY_DAYS, added("10", 1), removed("6", 29), added("10", 30)),
        ["10: 310", "0: 0", "0.258064516129032258064516: 8"],
        id="days of what lies above the former highest",
    ),
    pytest.param(
        level(a_standard_price("1"), BY_DAYS, added("10", 1), removed("6", 29), added("10", 30),
              conversion=FIVE_DIGITS),
        ["10: 10", "0: 0", "0.25807: 0.26"],
        id="days rounded up to five digits",
    ),
    pytest.param(
        level(a_standard_price("31"), SET, before("2"), added("5", 17), added("4", 18)),
        ["1.451612903225806451612903: 45", "0: 0"],
        id="a level that is set",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "charges"), IN_ADVANCE)
def test_an_event_in_advance_is_charged_what_it_adds(
    given: dict[str, Any], charges: list[str]
) -> None:
    """The price with the event less the price without it, rounded to the cent, with its units."""
    price = replace(given["price"], in_advance=True)

    (line,) = rated_given(a_plan(price), *given["usage"]).lines

    written = [f"{step.quantity.normalize():f}: {step.amount.normalize():f}" for step in line.steps]
    assert written == charges
