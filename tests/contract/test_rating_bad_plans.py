"""Plans that are refused: every bad field is named by its path, all at once."""

from __future__ import annotations

import pytest
from google.protobuf.text_format import Merge, Parse

from services.rating.convert.plans import parse_plan, parse_put_plan
from tests.refusals import Bad, refusal_of
from tollkeeper.api.rating.v1 import plan_pb2, rating_service_pb2

GOOD_PLAN = """
    plan_id: "pro" currency: "USD"
    prices { price_id: "a" meter_id: "a" standard { amount { value: "1" } } }
"""
A_SECOND_PRICE = 'price_id: "b" meter_id: "b" standard { amount { value: "1" } }'
DECIMAL = "must be a decimal number such as 12.5"
ID = "must be 1 to 63 characters of a-z, 0-9, '_', '.' and '-', starting with a letter or digit"
NO_KIND = (
    "plan.prices[1].model: one of standard, graduated, package, volume, stairstep,"
    " graduated_percentage, percentage, dynamic, cost_plus, matrix, context_tiers, time_of_use"
    " is required"
)

BAD_PLANS = [
    Bad("no id", 'plan_id: ""', ("plan.plan_id: is required",)),
    Bad("a bad id", 'plan_id: "Pro plan"', (f"plan.plan_id: {ID}",)),
    Bad("a version", "version: 2", ("plan.version: must be absent: the service sets it",)),
    Bad(
        "a create time",
        "create_time { seconds: 1 }",
        ("plan.create_time: must be absent: the service sets it",),
    ),
    Bad(
        "a long name",
        f'display_name: "{"x" * 201}"',
        ("plan.display_name: must have at most 200 characters",),
    ),
    Bad(
        "a name with a line break",
        'display_name: "a\\nb"',
        ("plan.display_name: must have printable characters only",),
    ),
    Bad(
        "an unknown currency",
        'currency: "usd"',
        ("plan.currency: must be a currency of ISO 4217, such as EUR",),
    ),
    Bad("a negative fee", 'base_fee { value: "-1" }', ("plan.base_fee: must be at least 0",)),
    Bad("a fee that is no number", 'base_fee { value: "NaN" }', (f"plan.base_fee: {DECIMAL}",)),
    Bad("an endless fee", 'base_fee { value: "Infinity" }', (f"plan.base_fee: {DECIMAL}",)),
    Bad("an empty fee", "base_fee {}", ("plan.base_fee: a decimal number is required",)),
    Bad(
        "a fee of 40 digits",
        f'base_fee {{ value: "{"9" * 40}" }}',
        ("plan.base_fee: must have at most 38 digits",),
    ),
    Bad(
        "a fee of 25 decimals",
        'base_fee { value: "0.0000000000000000000000001" }',
        ("plan.base_fee: must have at most 24 digits after the point",),
    ),
    Bad(
        "a fee above the bound",
        'base_fee { value: "1000000000000.01" }',
        ("plan.base_fee: must be at most 1000000000000",),
    ),
    Bad(
        "a category of the future",
        "category: 9",
        ("plan.category: must be a category of the contract",),
    ),
    Bad(
        "a time without end",
        "effective_time { seconds: 999999999999 }",
        ("plan.effective_time: must be between the years 1 and 9999",),
    ),
    Bad(
        "no model of price",
        'prices { price_id: "b" meter_id: "b" }',
        (NO_KIND,),
    ),
    Bad(
        "a price of nothing at all",
        "prices {}",
        (
            "plan.prices[1].price_id: is required",
            "plan.prices[1].meter_id: is required",
            NO_KIND,
        ),
    ),
    Bad(
        "the id of another price",
        'prices { price_id: "a" meter_id: "b" standard { amount { value: "1" } } }',
        ("plan.prices[1].price_id: is the id of plan.prices[0] as well",),
    ),
    Bad(
        "negative and zero parts of prices",
        """
        prices { price_id: "b" meter_id: "b" included_quantity { value: "-1" }
                 standard { amount { value: "-0.1" } per_quantity { value: "0" } } }
        prices { price_id: "c" meter_id: "c" package { package_size { value: "-3" } } }
        """,
        (
            "plan.prices[1].included_quantity: must be at least 0",
            "plan.prices[1].standard.per_quantity: must be above 0",
            "plan.prices[1].standard.amount: must be at least 0",
            "plan.prices[2].package.amount: a decimal number is required",
            "plan.prices[2].package.package_size: must be at least 0",
        ),
    ),
    Bad(
        "a quantity above the bound",
        'prices { price_id: "b" meter_id: "b" included_quantity { value: "100000000000000000001" }'
        ' standard { amount { value: "1" } } }',
        ("plan.prices[1].included_quantity: must be at most 100000000000000000000",),
    ),
    Bad(
        "no tiers",
        'prices { price_id: "b" meter_id: "b" graduated {} }',
        ("plan.prices[1].graduated.tiers: at least one tier is required",),
    ),
    Bad(
        "too many tiers",
        f'prices {{ price_id: "b" meter_id: "b" graduated {{ {"tiers {} " * 101} }} }}',
        ("plan.prices[1].graduated.tiers: must have at most 100 entries",),
    ),
    Bad(
        "tiers that do not ascend",
        """
        prices { price_id: "b" meter_id: "b" graduated {
          tiers { up_to { value: "10" } } tiers { up_to { value: "10" } }
          tiers { up_to { value: "5" } } tiers { up_to { value: "11" } } tiers {} } }
        """,
        (
            "plan.prices[1].graduated.tiers[1].up_to: must be above 10, where the tier before ends",
            "plan.prices[1].graduated.tiers[2].up_to: must be above 10, where the tier before ends",
        ),
    ),
    Bad(
        "an end where there is none, and none where there is one",
        """
        prices { price_id: "b" meter_id: "b" graduated {
          tiers { flat_amount { value: "x" } } tiers { up_to { value: "5" } } } }
        """,
        (
            f"plan.prices[1].graduated.tiers[0].flat_amount: {DECIMAL}",
            "plan.prices[1].graduated.tiers[0].up_to: is required: only the last tier has no end",
            "plan.prices[1].graduated.tiers[1].up_to: must be absent: the last tier has no end",
        ),
    ),
    Bad(
        "dimensions without names and values",
        'prices { price_id: "b" meter_id: "b" standard { amount { value: "1" } }'
        ' dimensions { key: "" value: "x" } dimensions { key: "model" value: "" } }',
        (
            "plan.prices[1].dimensions: names must have 1 to 63 characters",
            "plan.prices[1].dimensions.model: must have 1 to 128 characters",
        ),
    ),
    Bad(
        "too many dimensions",
        'prices { price_id: "b" meter_id: "b" standard { amount { value: "1" } }'
        + "".join(f' dimensions {{ key: "{key}" value: "x" }}' for key in "abcdefghi")
        + "}",
        ("plan.prices[1].dimensions: must have at most 8 entries",),
    ),
    Bad(
        "too many prices",
        "prices {} " * 200,
        ("plan.prices: must have at most 200 entries",),
    ),
    Bad(
        "tables, calls and hours that leave something open",
        """
        prices { price_id: "b" meter_id: "b" matrix {
          rows { dimensions { key: "m" value: "x" } amount { value: "1" } }
          rows { dimensions { key: "m" value: "x" } amount { value: "-1" } } } }
        prices { price_id: "c" meter_id: "c" context_tiers {
          tiers { up_to { value: "5" } amount { value: "1" } } } }
        prices { price_id: "d" meter_id: "d" time_of_use {
          windows { weekdays: 9 start_hour: 24 end_hour: 25 amount { value: "1" } }
          time_zone: "Mars/Olympus" } }
        prices { price_id: "e" meter_id: "e" matrix {} }
        prices { price_id: "f" meter_id: "f" time_of_use {} }
        """,
        (
            (
                "plan.prices[1].matrix.rows[1].dimensions: are those of"
                " plan.prices[1].matrix.rows[0] as well"
            ),
            (
                "plan.prices[1].matrix.rows: one row without dimensions is required,"
                " for what no other row prices"
            ),
            "plan.prices[1].matrix.rows[1].amount: must be at least 0",
            "plan.prices[2].context_tiers.context_quantity: must have 1 to 63 characters",
            (
                "plan.prices[2].context_tiers.tiers[0].up_to:"
                " must be absent: the last tier has no end"
            ),
            (
                "plan.prices[3].time_of_use.time_zone:"
                " must be an IANA time zone such as Europe/Berlin"
            ),
            ("plan.prices[3].time_of_use.windows[0].weekdays[0]: must be a day of the week"),
            "plan.prices[3].time_of_use.windows[0].start_hour: must be from 0 to 23",
            "plan.prices[3].time_of_use.windows[0].end_hour: must be from 0 to 24",
            "plan.prices[3].time_of_use.other_amount: a decimal number is required",
            "plan.prices[4].matrix.rows: at least one row is required",
            "plan.prices[5].time_of_use.windows: at least one window is required",
        ),
    ),
    Bad(
        "percentages and stairs out of bounds",
        """
        prices { price_id: "b" meter_id: "b" percentage {
          rate_percent { value: "1000001" } free_events: -1 free_quantity { value: "0" }
          minimum_amount { value: "2" } maximum_amount { value: "1" } }
          included_quantity { value: "1" } conversion {} discounts { quantity { value: "1" } } }
        prices { price_id: "c" meter_id: "c" stairstep { stairs { amount { value: "x" } } } }
        prices { price_id: "d" meter_id: "d" cost_plus { cost_meter_id: "!" } }
        prices { price_id: "e" meter_id: "e" graduated_percentage {
          tiers { rate_percent { value: "0.0000000000001" } } } }
        """,
        (
            "plan.prices[1].percentage.free_events: must be from 0 to 1000000",
            "plan.prices[1].percentage.free_quantity: must be above 0",
            "plan.prices[1].percentage.rate_percent: must be at most 1000000",
            "plan.prices[1].percentage.maximum_amount: must not be below minimum_amount",
            "plan.prices[1].included_quantity: must be absent for the kind percentage",
            "plan.prices[1].discounts.quantity: must be absent for the kind percentage",
            "plan.prices[1].conversion: must be absent for the kind percentage",
            f"plan.prices[2].stairstep.stairs[0].amount: {DECIMAL}",
            f"plan.prices[3].cost_plus.cost_meter_id: {ID}",
            "plan.prices[3].cost_plus.markup_percent: a decimal number is required",
            (
                "plan.prices[4].graduated_percentage.tiers[0].rate_percent:"
                " must have at most 12 digits after the point"
            ),
        ),
    ),
    Bad(
        "conversions, credits, groups and bounds that cannot be",
        """
        prices { price_id: "b" meter_id: "b" standard { amount { value: "1" } }
          dimensions { key: "model" value: "x" } group_by: ["model", "a", "a"]
          conversion { divisor { value: "0.5" } rounding: 9 decimals: 13 }
          virtual_currency { code: "crd" rate { value: "10001" } decimals: -1 }
          minimum_amount { value: "2" } maximum_amount { value: "1" }
          discounts { percent { value: "101" } amount { value: "-1" } } }
        """,
        (
            "plan.prices[1].discounts.amount: must be at least 0",
            "plan.prices[1].discounts.percent: must be at most 100",
            "plan.prices[1].conversion.divisor: must be at least 1",
            "plan.prices[1].conversion.rounding: must be a rounding of the contract",
            "plan.prices[1].conversion.decimals: must be absent where nothing is rounded",
            "plan.prices[1].conversion.decimals: must be from -12 to 12",
            "plan.prices[1].virtual_currency.code: must be 1 to 12 upper-case letters",
            "plan.prices[1].virtual_currency.decimals: must be from 0 to 12",
            "plan.prices[1].virtual_currency.rate: must be at most 10000",
            "plan.prices[1].group_by[0]: has one value only: dimensions name it",
            "plan.prices[1].group_by[2]: is given twice",
            "plan.prices[1].maximum_amount: must not be below minimum_amount",
        ),
    ),
    Bad(
        "timings that cannot stand together",
        """
        prices { price_id: "b" meter_id: "b" volume { tiers {} } billing_timing: 2
          minimum_amount { value: "1" } }
        prices { price_id: "c" meter_id: "c" package { amount { value: "1" }
          package_size { value: "1" } } recurrence { prorated: true } rollover { periods: 61 } }
        prices { price_id: "d" meter_id: "d" graduated { tiers {} } tier_span: 2
          included_quantity { value: "1" } conversion {} }
        prices { price_id: "e" meter_id: "e" dynamic { amount_meter_id: "f" }
          recurrence { removal { key: "" value: "x" } } billing_timing: 9 tier_span: 9 }
        prices { price_id: "g" meter_id: "g" percentage { rate_percent { value: "1" } }
          billing_timing: 2 virtual_currency { code: "A" rate { value: "1" } decimals: 2 } }
        prices { price_id: "f" meter_id: "f" graduated { tiers {} } billing_timing: 2 tier_span: 3
          recurrence { prorated: true } included_quantity { value: "1" } }
        prices { price_id: "h" meter_id: "h" standard { amount { value: "1" } }
          recurrence { sets_level: true identity: "x" removal { key: "a" value: "b" } }
          free_without_usage: true }
        prices { price_id: "i" meter_id: "i" volume { tiers {} } free_without_usage: true
          recurrence { prorated: true } }
        """,
        (
            (
                "plan.prices[1].billing_timing: is for graduated, graduated_percentage, package,"
                " percentage, standard only, not for volume"
            ),
            "plan.prices[1].minimum_amount: must be absent where usage is charged in advance",
            "plan.prices[2].rollover.periods: must be from 1 to 60",
            "plan.prices[2].rollover: must be absent of a recurring price",
            (
                "plan.prices[2].recurrence.prorated:"
                " is for graduated, standard, volume only, not for package"
            ),
            (
                "plan.prices[3].included_quantity:"
                " must be absent where tiers span more than the period"
            ),
            "plan.prices[3].conversion: must be absent where tiers span more than the period",
            "plan.prices[4].recurrence.removal: names must have 1 to 63 characters",
            "plan.prices[4].billing_timing: must be a timing of the contract",
            "plan.prices[4].tier_span: must be a span of the contract",
            (
                "plan.prices[4].recurrence: is for graduated, graduated_percentage, package,"
                " stairstep, standard, volume only, not for dynamic"
            ),
            ("plan.prices[5].virtual_currency.decimals: must be absent of a percentage in advance"),
            "plan.prices[6].included_quantity: must be absent where a level is prorated",
            "plan.prices[6].recurrence.prorated: in advance must be of a standard price",
            "plan.prices[6].tier_span: must be the period of a recurring price",
            "plan.prices[6].tier_span: must be the period where usage is charged in advance",
            "plan.prices[7].recurrence.removal: must be absent where events set the level",
            "plan.prices[7].recurrence.identity: must be absent where events set the level",
            (
                "plan.prices[7].free_without_usage: is for graduated, graduated_percentage,"
                " stairstep, volume only, not for standard"
            ),
            "plan.prices[8].free_without_usage: must be absent where a level is prorated",
        ),
    ),
    Bad(
        "limits that the gate would refuse",
        """
        limits { limit_id: "a" units: "tokens" capacity: -1 calendar_period: 9 level: 9 }
        limits { limit_id: "a" units: "EUR" overdraft: 1 enforcement: 9
                 rolling { period { nanos: 1 } burst: -1 } }
        limits { units: "Tokens" units: "seconds" units: "tokens" units: "tokens" }
        limits { limit_id: "an-id-of-more-than-thirty-one-letters" units: "requests"
                 concurrency {} }
        """,
        (
            "plan.limits[1].limit_id: is the id of plan.limits[0] as well",
            "plan.limits[1].units[0]: must be the plan's currency, USD",
            "plan.limits[0].level: must be a level of the contract",
            "plan.limits[0].capacity: must be from 0 to 1000000000000000",
            "plan.limits[0].calendar_period: must be a period of the contract",
            "plan.limits[1].enforcement: must be an enforcement of the contract",
            "plan.limits[1].overdraft: must be 0 for a rolling rate",
            "plan.limits[1].rolling.burst: must be from 0 to 1000000000000000",
            (
                "plan.limits[1].rolling.period:"
                " must be from 1 second to 366 days, in whole milliseconds"
            ),
            "plan.limits[2].limit_id: is required",
            "plan.limits[2].units[0]: must be a unit such as output_tokens or USD",
            "plan.limits[2].units[1]: has a quantum of its own and must stand alone",
            "plan.limits[2].units[3]: is given twice",
            (
                "plan.limits[2].window: one of calendar_period, rolling, billing_period, lifetime,"
                " concurrency is required"
            ),
            "plan.limits[3].limit_id: must have at most 31 characters",
            "plan.limits[3].units: must be holds where holds are counted",
        ),
    ),
    Bad(
        "terms that cannot be",
        """
        base_fees { fee_id: "a" unit_amount { value: "1" } }
        base_fees { fee_id: "b" quantity { value: "0" } }
        commitment { term_months: 121 steps { after_months: 1 amount { value: "1" } }
                     steps { after_months: 1 } }
        trial {}
        """,
        (
            "plan.commitment.term_months: must be from 0 to 120",
            (
                "plan.commitment.steps[0].after_months:"
                " must be 0: the first step begins the contract"
            ),
            "plan.commitment.steps[1].after_months: must be above 1, up to 1200",
            "plan.commitment.steps[1].amount: a decimal number is required",
            "plan.trial.days: must be from 1 to 1000",
            "plan.base_fees[0].fee_id: is the id of a price or a fee as well",
            "plan.base_fees[1].unit_amount: a decimal number is required",
            "plan.base_fees[1].quantity: must be above 0",
        ),
    ),
    Bad(
        "everything at once",
        'plan_id: "!" currency: "X" base_fee { value: "-1" } prices { meter_id: "b" }',
        (
            f"plan.plan_id: {ID}",
            "plan.currency: must be a currency of ISO 4217, such as EUR",
            "plan.base_fee: must be at least 0",
            "plan.prices[1].price_id: is required",
            NO_KIND,
        ),
    ),
]


@pytest.mark.parametrize("bad", BAD_PLANS, ids=lambda bad: bad.id)
def test_a_bad_plan_is_refused_with_every_bad_field(bad: Bad) -> None:
    """Each bad field is named by its path, once, with what is wrong with it."""
    message = Merge(bad.written, Parse(GOOD_PLAN, plan_pb2.Plan()))

    assert refusal_of(parse_plan, message, "plan") == list(bad.named)


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ("", "", True),
        ("", "model=large", False),
        ("model=large", "model=large", True),
        ("model=large", "region=eu", True),
        ("model=large region=eu", "model=large", False),
        ("model=large region=eu", "model=large kind=input", True),
        ("model=large", "model=small", False),
        ("model=large region=eu", "model=small region=eu", False),
        ("model=large region=eu", "region=us", False),
    ],
)
def test_prices_that_could_bill_the_same_usage_are_refused(
    first: str, second: str, *, overlap: bool
) -> None:
    """Two prices of one meter that name as many dimensions need another value of one of them."""
    plan = plan_pb2.Plan(plan_id="pro", currency="USD")
    for price_id, dimensions in (("a", first), ("b", second)):
        price = plan.prices.add(price_id=price_id, meter_id="tokens")
        price.standard.amount.value = "1"
        price.dimensions.update(dict(pair.split("=") for pair in dimensions.split()))

    assert refusal_of(parse_plan, plan, "plan") == overlap * [
        (
            "plan.prices[1].dimensions: may match usage that plan.prices[0] bills as well: name"
            " more dimensions, or give both another value of the same one"
        )
    ]


def test_prices_of_other_meters_never_overlap() -> None:
    """Two meters count apart, whatever the filters."""
    plan = Merge(f"prices {{ {A_SECOND_PRICE} }}", Parse(GOOD_PLAN, plan_pb2.Plan()))

    assert [price.price_id for price in parse_plan(plan, "plan").prices] == ["a", "b"]


def test_a_put_names_the_request_id_with_the_plan() -> None:
    """A missing request id is told together with what is wrong with the plan."""
    request = rating_service_pb2.PutPlanRequest(plan=plan_pb2.Plan(plan_id="pro"))

    assert refusal_of(parse_put_plan, request) == [
        "request_id: is required",
        "plan.currency: must be a currency of ISO 4217, such as EUR",
    ]
