"""What changes between versions of a plan, and what putting one would do."""

from __future__ import annotations

import pytest
from google.protobuf.text_format import Merge, Parse

from cli.plan_differences import Change, Comparison, Fate, changes_between, compare
from tollkeeper.api.rating.v1.plan_pb2 import Plan

BASE = """
    plan_id: "pro" currency: "USD" base_fee { value: "10" }
    prices { price_id: "a" meter_id: "a" standard { amount { value: "0.02" } } }
    prices { price_id: "b" meter_id: "b" dimensions { key: "model" value: "x" }
      graduated { tiers { up_to { value: "5" } unit_amount { value: "2" } } tiers {} } }
"""
IN_APRIL = "effective_time { seconds: 1775001600 }"


def a_plan(written: str = "", *, version: int = 0) -> Plan:
    """Make a plan; what is written is merged over it."""
    plan = Merge(written, Parse(BASE, Plan(version=version)))
    if version:
        plan.create_time.FromSeconds(1)
    return plan


def test_every_field_that_differs_is_named_by_ids() -> None:
    """Prices are found by their id wherever they stand; what comes or goes is named once."""
    after = Parse(
        """
        plan_id: "pro" display_name: "Pro" currency: "USD" base_fee { value: "12.50" }
        prices { price_id: "c" meter_id: "c" package { amount { value: "1" }
                 package_size { value: "9" } } }
        prices { price_id: "b" meter_id: "b" dimensions { key: "model" value: "y" }
          graduated { tiers { up_to { value: "7" } unit_amount { value: "2" } }
                      tiers { up_to { value: "9" } } tiers {} } }
        """,
        Plan(),
    )

    assert list(changes_between(a_plan(), after)) == [
        Change("base_fee", "10", "12.5"),
        Change("prices[a]", "", None),
        Change("prices[b].dimensions", "model=x", "model=y"),
        Change("prices[b].graduated.tiers[1].up_to", "5", "7"),
        Change("prices: order", "a, b", "c, b"),
        Change("display_name", None, "Pro"),
        Change("prices[c]", None, ""),
        Change("prices[b].graduated.tiers[2].up_to", None, "9"),
        Change("prices[b].graduated.tiers[3]", None, ""),
    ]


def test_a_default_that_is_written_out_is_no_change() -> None:
    """What the service fills in, and what it sets, are not what people changed."""
    stored = a_plan('category: PRODUCT_CATEGORY_ELECTRONIC_SERVICE base_fee { value: "10.0" }',
                    version=3)  # fmt: skip
    stored.prices[0].standard.per_quantity.value = "1"

    assert list(changes_between(stored, a_plan())) == []


FIRST, CHANGED = a_plan(version=1), a_plan('display_name: "Pro"')
NAMED = Change("display_name", None, "Pro")


@pytest.mark.parametrize(
    ("plan", "versions", "comparison"),
    [
        (a_plan(), [], Comparison(Fate.NEW_PLAN, None, ())),
        (a_plan(), [FIRST], Comparison(Fate.UNCHANGED, FIRST, ())),
        (CHANGED, [FIRST], Comparison(Fate.REFUSED, FIRST, (NAMED,))),
        (
            a_plan(IN_APRIL),
            [FIRST],
            Comparison(
                Fate.NEW_VERSION, FIRST, (Change("effective_time", None, "2026-04-01T00:00:00Z"),)
            ),
        ),
        (a_plan(), [FIRST, a_plan(IN_APRIL, version=2)], Comparison(Fate.UNCHANGED, FIRST, ())),
    ],
    ids=["no plan", "the same", "another for its time", "a later one", "one of several"],
)
def test_a_plan_is_compared_with_the_version_of_its_time(
    plan: Plan, versions: list[Plan], comparison: Comparison
) -> None:
    """The same content for the same time is there already; other content for it is refused."""
    assert compare(plan, versions) == comparison
