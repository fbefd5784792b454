"""What events add to which meter, and how events and meters are told apart."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from kit.errors import InvalidInput, Precondition, Violation
from services.meter.aggregation import (
    REMEMBERED_MAX,
    MeterSet,
    changes_what_counts,
    check_dimensions,
    differences,
    roll_up,
    with_names,
)
from services.meter.model import Aggregation, Meter, Series, TimeUnit, UsageQuery, Window
from services.meter.windows import parse_time_zone
from tests.meter_builders import a_rollup, a_stored_meter, an_incoming_event, redefined
from tests.meter_world import NOON, TODAY

ACME = Series("tokens", "acme", ())


def test_events_are_added_up_by_customer_and_quarter_of_an_hour() -> None:
    """Each customer and each quarter has its own figure, its first instant included."""
    last_instant = NOON + timedelta(minutes=14, seconds=59, microseconds=999_999)
    events = [
        an_incoming_event("a", time=NOON),
        an_incoming_event("b", time=last_instant),
        an_incoming_event("c", time=NOON + timedelta(minutes=15)),
        an_incoming_event("d", time=NOON, customer_id="zeta"),
    ]

    rollups = roll_up(events, MeterSet([a_stored_meter()]))

    assert rollups == [
        a_rollup(ACME, NOON, 20, 2),
        a_rollup(ACME, NOON + timedelta(minutes=15), 10, 1),
        a_rollup(Series("tokens", "zeta", ()), NOON, 10, 1),
    ]


def test_sums_are_exact_beyond_every_default() -> None:
    """A sum of 38-digit numbers keeps every digit, where Python's default context has 28."""
    events = [
        an_incoming_event("a", quantities={"tokens": "9" * 38}),
        an_incoming_event("b", quantities={"tokens": "0.000000000000000001"}),
    ]

    (rollup,) = roll_up(events, MeterSet([a_stored_meter()]))

    assert str(rollup.tally.quantity) == "9" * 38 + ".000000000000000001"


def test_an_event_without_the_quantity_is_not_counted() -> None:
    """A sum counts the events that have its quantity, also those that have none of it."""
    events = [
        an_incoming_event("a", quantities={"seconds": "5"}),
        an_incoming_event("b", quantities={"tokens": "0"}),
    ]

    assert roll_up(events, MeterSet([a_stored_meter()])) == [a_rollup(ACME, NOON, 0, 1)]


def test_a_count_counts_every_event_of_its_type() -> None:
    """A count needs no quantity, and leaves other types alone."""
    events = [
        an_incoming_event("a", quantities={}),
        an_incoming_event("b"),
        an_incoming_event("c", type="image.call"),
    ]

    rollups = roll_up(events, MeterSet([a_stored_meter("calls", quantity="")]))

    assert rollups == [a_rollup(Series("calls", "acme", ()), NOON, 2, 2)]


def test_every_meter_of_the_type_counts() -> None:
    """One event adds to each meter that covers it."""
    meters = MeterSet([a_stored_meter(), a_stored_meter("calls", quantity="")])

    rollups = roll_up([an_incoming_event()], meters)

    assert rollups == [
        a_rollup(ACME, NOON, 10, 1),
        a_rollup(Series("calls", "acme", ()), NOON, 1, 1),
    ]


def test_filters_take_the_listed_values_only() -> None:
    """Every filter must match; an absent dimension is an empty one."""
    meter = a_stored_meter(filters={"model": ("large", "small"), "region": ("", "eu")})
    events = [
        an_incoming_event("a", model="small"),
        an_incoming_event("b", model="large", region="eu"),
        an_incoming_event("c", model="large", region="us"),
        an_incoming_event("d", model="tiny"),
        an_incoming_event("e"),
    ]

    assert roll_up(events, MeterSet([meter])) == [a_rollup(ACME, NOON, 20, 2)]


def test_groups_are_kept_apart_and_absence_is_one_of_them() -> None:
    """A group is the values of the dimensions that the meter keeps; others do not matter."""
    meter = a_stored_meter(group_by=("model", "region"))
    events = [
        an_incoming_event("a", model="small", provider="x"),
        an_incoming_event("b", model="small", region="", provider="y"),
        an_incoming_event("c", region="eu"),
    ]

    assert roll_up(events, MeterSet([meter])) == [
        a_rollup(Series("tokens", "acme", ("small", "")), NOON, 20, 2),
        a_rollup(Series("tokens", "acme", ("", "eu")), NOON, 10, 1),
    ]


def test_what_is_remembered_of_dimensions_is_bounded_and_changes_nothing() -> None:
    """Dimensions that never recur are forgotten, and usage stays one figure for each group."""
    meters = MeterSet([a_stored_meter(group_by=("model",))])
    surplus = range(REMEMBERED_MAX + 1)
    events = [an_incoming_event(str(run), model="small", run=str(run)) for run in surplus]

    first = roll_up(events, meters)
    second = roll_up(events[:2], meters)

    small = Series("tokens", "acme", ("small",))
    assert first == [a_rollup(small, NOON, 10 * len(events), len(events))]
    assert second == [a_rollup(small, NOON, 20, 2)]
    assert len(meters._found) == 2


def test_each_differing_field_is_named() -> None:
    """A conflict names every field, and what is stored in it."""
    stored = an_incoming_event(model="small", region="eu", quantities={"a": "1", "b": "2"}).event()
    sent = an_incoming_event(
        time=NOON + timedelta(microseconds=1),
        customer_id="zeta",
        type="image.call",
        quantities={"a": "1", "b": "3"},
        model="small",
        provider="x",
    ).event()

    assert differences(sent, stored) == (
        Violation("subject.customer_id", 'is "zeta", and "acme" is stored'),
        Violation("type", 'is "image.call", and "llm.call" is stored'),
        Violation(
            "time",
            'is "2026-03-01T12:00:00.000001+00:00", and "2026-03-01T12:00:00+00:00" is stored',
        ),
        Violation('dimensions["provider"]', 'is "x", and nothing is stored'),
        Violation('dimensions["region"]', 'is absent, and "eu" is stored'),
        Violation('quantities["b"]', 'is "3", and "2" is stored'),
    )


STORED = a_stored_meter()


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("aggregation", redefined(STORED, aggregation=Aggregation.COUNT, quantity="")),
        ("percentile", redefined(STORED, percentile=Decimal(99))),
        ("time_unit", redefined(STORED, time_unit=TimeUnit.HOUR)),
    ],
)
def test_a_meter_cannot_aggregate_otherwise(field: str, changed: Meter) -> None:
    """Its history and what follows could not be one figure; the refusal says which field."""
    with pytest.raises(Precondition) as refused:
        changes_what_counts(STORED, changed)

    assert (refused.value.reason, refused.value.metadata) == (
        "METER_IMMUTABLE",
        {"meter_id": "tokens", "field": field},
    )


def test_what_counts_otherwise_is_a_new_version_and_names_are_not() -> None:
    """The display name and the unit are for people; everything else is counted by."""
    assert not changes_what_counts(STORED, replace(STORED, display_name="All tokens", unit="t"))
    assert changes_what_counts(STORED, redefined(STORED, event_type="image.call"))
    assert changes_what_counts(STORED, redefined(STORED, quantity="seconds"))
    assert changes_what_counts(STORED, redefined(STORED, filters=(("model", ("small",)),)))
    assert changes_what_counts(STORED, redefined(STORED, group_by=("model",)))


@pytest.mark.parametrize(
    ("quantity", "unit", "expected"),
    [("tokens", "", "tokens"), ("", "", "event"), ("tokens", "token", "token")],
)
def test_names_left_out_are_filled_in(quantity: str, unit: str, expected: str) -> None:
    """A meter without a name is called by its id, and its unit by what it adds up."""
    meter = a_stored_meter("usage", quantity=quantity, display_name="", unit=unit)

    named = with_names(meter)

    assert (named.display_name, named.unit) == ("usage", expected)


@pytest.mark.parametrize(
    ("filters", "group_by", "field"),
    [
        ((("region", "eu"),), (), 'filters["region"]'),
        ((("model", "small"),), ("model", "region"), "group_by[1]"),
    ],
)
def test_a_query_knows_only_what_the_meter_keeps_apart(
    filters: tuple[tuple[str, str], ...], group_by: tuple[str, ...], field: str
) -> None:
    """A dimension that the meter does not keep is refused by name."""
    query = UsageQuery(
        meter_id="tokens",
        customer_ids=(),
        interval=TODAY,
        filters=filters,
        group_by=group_by,
        window=Window.WHOLE,
        time_zone=parse_time_zone("", "time_zone"),
    )

    with pytest.raises(InvalidInput) as refused:
        check_dimensions(query, a_stored_meter(group_by=("model",)))

    assert refused.value.reason == "UNKNOWN_DIMENSION"
    assert refused.value.metadata == {"meter_id": "tokens", "dimension": "region"}
    assert [each.field for each in refused.value.violations] == [field]


def test_whole_quantities_stay_whole_numbers() -> None:
    """Whole quantities are added as int, others as Decimal; both are exact."""
    whole = an_incoming_event(quantities={"tokens": "12.0"})
    part = an_incoming_event(quantities={"tokens": "0.5"})

    assert (whole.amounts, part.amounts) == ({"tokens": 12}, {"tokens": Decimal("0.5")})
