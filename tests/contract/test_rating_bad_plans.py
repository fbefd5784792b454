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
