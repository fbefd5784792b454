"""The wire of meters and of questions about usage: every bad field is named by its path."""

from __future__ import annotations

from datetime import timedelta

import pytest
from google.protobuf.text_format import Merge

from services.meter.convert.meters import parse_put_meter, render_meter
from services.meter.convert.reading import parse_event_query, parse_usage_query
from services.meter.model import MeterState
from tests.meter_world import NOON, a_meter, an_interval
from tests.refusals import Bad, refusal_of
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

KEY = "must have a name of 1 to 63 characters, no control ones"
VALUE = "must have at most 128 characters, no control ones"
SUBJECT = "must have at most 64 letters, digits and _ . : @ -"
AGGREGATION = (
    "meter.aggregation: must be one of SUM, COUNT, MIN, MAX, AVERAGE, UNIQUE_COUNT, LATEST,"
    " WEIGHTED_SUM, PERCENTILE"
)
PERCENTILE = "must be over 0 and at most 100, with at most 6 digits after the point"
TYPE = "must have 1 to 63 lower-case letters, digits and _ . -"
ID = "must be 1 to 63 characters of a-z, 0-9, '_', '.' and '-', starting with a letter or digit"


def entries(field: str, count: int) -> str:
    """Write a map of so many entries."""
    return " ".join(f'{field} {{ key: "k{n}" value: "1" }}' for n in range(count))


BAD_METERS = [
    Bad("no id", 'meter_id: ""', ("meter.meter_id: is required",)),
    Bad("a bad id", 'meter_id: "All Tokens"', (f"meter.meter_id: {ID}",)),
    Bad("no type", 'event_type: ""', ("meter.event_type: is required",)),
    Bad("a bad type", 'event_type: "A"', (f"meter.event_type: {TYPE}",)),
    Bad(
        "no aggregation",
        "aggregation: AGGREGATION_UNSPECIFIED",
        (AGGREGATION,),
    ),
    Bad(
        "an aggregation of the future",
        'aggregation: 99 quantity: ""',
        (AGGREGATION,),
    ),
    Bad("a sum of nothing", 'quantity: ""', (f"meter.quantity: {KEY}",)),
    Bad(
        "a count of a quantity",
        "aggregation: AGGREGATION_COUNT",
        ("meter.quantity: must be empty for COUNT",),
    ),
    Bad(
        "a count of an expression",
        'aggregation: AGGREGATION_COUNT quantity: "" expression: "1"',
        ("meter.expression: must be empty for COUNT",),
    ),
    Bad(
        "two sources",
        'expression: "quantities.tokens"',
        ("meter.quantity: must be empty beside an expression",),
    ),
    Bad(
        "no expression of CEL",
        'quantity: "" expression: "1 +"',
        ("meter.expression: is not an expression of CEL",),
    ),
    Bad(
        "a fraction in an expression",
        'quantity: "" expression: "mul(quantities.tokens, 1.5)"',
        ("meter.expression: must write fractions as texts, such as decimal('1.5')",),
    ),
    Bad(
        "an expression that loops",
        'quantity: "" expression: "[1, 2].map(x, x)"',
        ("meter.expression: may not use _+_, x",),
    ),
    Bad(
        "nothing to tell apart",
        'aggregation: AGGREGATION_UNIQUE_COUNT quantity: ""',
        (f"meter.unique_by: {KEY}",),
    ),
    Bad(
        "a sum of what is told apart",
        'unique_by: "model"',
        ("meter.unique_by: must be empty for SUM",),
    ),
    Bad(
        "no percentile",
        "aggregation: AGGREGATION_PERCENTILE",
        ("meter.percentile: a decimal number is required",),
    ),
    Bad(
        "a percentile over all",
        'aggregation: AGGREGATION_PERCENTILE percentile { value: "100.1" }',
        (f"meter.percentile: {PERCENTILE}",),
    ),
    Bad(
        "a percentile of a sum",
        'percentile { value: "50" }',
        ("meter.percentile: must be absent unless for PERCENTILE",),
    ),
    Bad(
        "bad rounding",
        "rounding { mode: 9 precision: 19 }",
        (
            "meter.rounding.mode: must be ROUND, CEIL or FLOOR",
            "meter.rounding.precision: must be between -12 and 18",
        ),
    ),
    Bad(
        "a unit of time of a sum",
        "time_unit: TIME_UNIT_HOUR",
        ("meter.time_unit: must be absent unless for WEIGHTED_SUM",),
    ),
    Bad(
        "a unit of time of the future",
        "aggregation: AGGREGATION_WEIGHTED_SUM time_unit: 99",
        ("meter.time_unit: must be SECOND, MINUTE, HOUR or DAY",),
    ),
    Bad(
        "what the service sets",
        "effective_time { seconds: 1 } backfill { complete: true } version: 2",
        (
            "meter.effective_time: must be absent",
            "meter.backfill: must be absent",
            "meter.version: must be absent",
        ),
    ),
    Bad("a time", "create_time { seconds: 1 }", ("meter.create_time: must be absent",)),
    Bad(
        "a long name",
        f'display_name: "{"x" * 201}"',
        ("meter.display_name: must have at most 200 characters, no control ones",),
    ),
    Bad(
        "a NUL in the unit",
        'unit: "\\0"',
        ("meter.unit: must have at most 63 characters, no control ones",),
    ),
    Bad(
        "a filter without values",
        'filters { key: "model" value {} }',
        ('meter.filters["model"]: must have 1 to 64 values',),
    ),
    Bad(
        "a filter with a bad name and a bad value",
        'filters { key: "" value { values: "a" values: "\\n" } }',
        (f'meter.filters[""]: {KEY}', f'meter.filters[""].values[1]: {VALUE}'),
    ),
    Bad(
        "17 filters",
        " ".join(f'filters {{ key: "k{n}" value {{ values: "a" }} }}' for n in range(17)),
        ("meter.filters: must have at most 16 dimensions",),
    ),
    Bad(
        "9 groups",
        " ".join(f'group_by: "k{n}"' for n in range(8)),
        ("meter.group_by: must have at most 8 dimensions",),
    ),
    Bad(
        "a repeated and an empty group",
        'group_by: "model" group_by: ""',
        ("meter.group_by[1]: must not repeat another dimension", f"meter.group_by[2]: {KEY}"),
    ),
]


@pytest.mark.parametrize("bad", BAD_METERS, ids=lambda bad: bad.id)
def test_a_bad_meter_is_refused_with_every_bad_field(bad: Bad) -> None:
    """Each bad field is named by its path."""
    request = messages.PutMeterRequest(request_id="r", meter=Merge(bad.written, a_meter()))

    assert refusal_of(parse_put_meter, request, NOON) == list(bad.named)


def test_a_put_without_a_meter_is_refused() -> None:
    """The meter is required."""
    request = messages.PutMeterRequest(request_id="r")

    assert refusal_of(parse_put_meter, request, NOON) == ["meter: is required"]


def test_a_meter_comes_back_in_order() -> None:
    """Groups and values are sorted and values are not repeated; nothing else changes."""
    meter = a_meter(
        group_by=("region", "model"), filters={"model": ("small", "large", "small"), "a": ("",)}
    )
    meter.display_name = "Tokens"
    meter.unit = "token"

    parsed = parse_put_meter(messages.PutMeterRequest(request_id="r", meter=meter), NOON)
    rendered = render_meter(MeterState(parsed, 100))

    expected = a_meter(
        group_by=("model", "region"), filters={"model": ("large", "small"), "a": ("",)}
    )
    expected.display_name = "Tokens"
    expected.unit = "token"
    expected.create_time.FromDatetime(NOON)
    expected.version = 1
    expected.backfill.complete = True
    assert rendered == expected


A_QUERY = messages.QueryUsageRequest(
    meter_id="tokens", interval=an_interval(NOON, NOON + timedelta(hours=1))
)

BAD_QUERIES = [
    Bad("no meter", 'meter_id: ""', ("meter_id: is required",)),
    Bad("a bad customer", 'customer_id: "a b"', (f"customer_id: {SUBJECT}",)),
    Bad(
        "bad customers",
        'customer_ids: "acme" customer_ids: "a b" customer_ids: ""',
        (f"customer_ids[1]: {SUBJECT}", "customer_ids[2]: is required"),
    ),
    Bad(
        "one customer and several",
        'customer_id: "acme" customer_ids: "zeta"',
        ("customer_ids: must be absent where there is a customer_id",),
    ),
    Bad(
        "too many customers",
        'customer_ids: "acme" ' * 1_001,
        ("customer_ids: must have at most 1,000 customers",),
    ),
    Bad(
        "an interval that ends before it starts",
        "interval { end_time { seconds: 1 } }",
        ("interval: must start before it ends",),
    ),
    Bad(
        "an interval before time began",
        "interval { start_time { seconds: 900000000 } }",
        ("interval: must be between the years 2000 and 3000",),
    ),
    Bad(
        "more than five years",
        "interval { end_time { seconds: 1930219201 } }",
        ("interval: must be at most 5 years",),
    ),
    Bad(
        "a window of the future",
        "window: 99",
        ("window: must be MINUTE, HOUR, DAY, WEEK, MONTH or left out",),
    ),
    Bad(
        "no zone of this world",
        'time_zone: "Mars/Olympus"',
        ("time_zone: must be an IANA time zone such as Europe/Berlin",),
    ),
    Bad(
        "a filter with a bad name and value",
        'filters { key: "" value: "\\0" }',
        (f'filters[""]: {KEY}', f'filters[""]: {VALUE}'),
    ),
    Bad("9 filters", entries("filters", 9), ("filters: must have at most 8 dimensions",)),
    Bad(
        "a repeated group",
        'group_by: "a" group_by: "a"',
        ("group_by[1]: must not repeat another dimension",),
    ),
]


@pytest.mark.parametrize("bad", BAD_QUERIES, ids=lambda bad: bad.id)
def test_a_bad_query_is_refused_with_every_bad_field(bad: Bad) -> None:
    """Each bad field is named by its path."""
    query = messages.QueryUsageRequest()
    query.CopyFrom(A_QUERY)

    assert refusal_of(parse_usage_query, Merge(bad.written, query)) == list(bad.named)


def test_a_query_needs_both_bounds() -> None:
    """An interval without bounds is not the whole of time."""
    query = messages.QueryUsageRequest(meter_id="tokens")

    assert refusal_of(parse_usage_query, query) == [
        "interval.start_time: is required",
        "interval.end_time: is required",
    ]


def test_a_bad_listing_is_refused_with_every_bad_field() -> None:
    """What restricts a listing is checked; what is left out restricts nothing."""
    listing = messages.ListEventsRequest(customer_id="a b", type="A", meter_id="A")
    listing.interval.start_time.seconds = 1

    assert refusal_of(parse_event_query, listing) == [
        f"customer_id: {SUBJECT}",
        f"type: {TYPE}",
        "interval.end_time: is required",
        f"meter_id: {ID}",
    ]
    assert refusal_of(parse_event_query, messages.ListEventsRequest()) == []
