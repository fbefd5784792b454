"""Terms of plans that a real rating service has stored: fees, commitments, trials, contracts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from google.protobuf.text_format import Parse

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.rating_world import World, a_plan_message, a_rate_request, given_tokens, rating_world
from tollkeeper.api.rating.v1 import plan_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

TERMS = """
    plan_id: "pro" currency: "USD" base_fee { value: "31" }
    base_fees { fee_id: "support" unit_amount { value: "2.5" } quantity { value: "4" } whole: true }
    trial { days: 15 includes_usage: true }
    commitment { steps { amount { value: "1" } }
                 steps { after_months: 1 amount { value: "100" } } }
    prices {
      price_id: "tokens" meter_id: "tokens" standard { amount { value: "1" } }
      minimum_amount { value: "2" } maximum_amount { value: "50" }
      discounts { quantity { value: "1" } percent { value: "50" } amount { value: "0.25" } }
    }
"""
APRIL = "start_time { seconds: 1775001600 } end_time { seconds: 1777593600 }"


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating service whose meter does not answer, since usage is given."""
    async with rating_world(settings_for, keys, tenant) as running:
        yield running


async def test_terms_are_stored_and_rate(world: World) -> None:
    """A plan comes back with its terms, and bills by them."""
    stored = await world.put_plan(Parse(TERMS, plan_pb2.Plan()))
    read = await world.ask("GetPlan", messages.GetPlanRequest(plan_id="pro"))

    rating = await world.rate(f"{given_tokens('6')} contract_start {{ seconds: 1764547200 }}")

    assert read.plan == stored
    assert [(line.kind, line.price_id, line.unrounded_amount.value) for line in rating.lines] == [
        (1, "", "31"),
        (4, "support", "10"),
        (2, "tokens", "2.25"),
        (3, "", "56.75"),
    ]
    assert rating.total.units == 100


async def test_a_plan_that_needs_the_contracts_start_says_so(world: World) -> None:
    """The refusal names the plan and its version."""
    await world.put_plan(Parse(TERMS, plan_pb2.Plan()))

    refusal = await world.refusal("Rate", a_rate_request(given_tokens("1")))

    assert (refusal.reason, refusal.metadata) == (
        "CONTRACT_START_REQUIRED",
        {"plan_id": "pro", "version": "1"},
    )


@pytest.mark.parametrize(
    ("contract_start", "version"),
    [
        ("contract_start { seconds: 1772323199 }", 1),
        ("contract_start { seconds: 1772323200 }", 2),
        ("", 2),
    ],
    ids=["begun before", "begun with it", "unknown"],
)
async def test_a_version_that_keeps_contracts_rates_only_later_ones(
    world: World, contract_start: str, version: int
) -> None:
    """Contracts that began before the first of March keep the version they had."""
    march = "effective_time { seconds: 1772323200 } keeps_contracts: true"
    await world.put_plan()
    await world.put_plan(a_plan_message(march), request_id="put-2")

    rating = await world.rate(f"{given_tokens('1')} period {{ {APRIL} }} {contract_start}")

    assert rating.plan_version == version


async def test_an_open_period_is_rated_as_of_an_instant(world: World) -> None:
    """Live cost: what was used until then, without what is missing to the minimum."""
    plan = a_plan_message()
    plan.prices[0].minimum_amount.value = "500"
    await world.put_plan(plan)

    rating = await world.rate(f"{given_tokens('1234567')} as_of {{ seconds: 1767312000 }}")

    assert [line.amount.units for line in rating.lines] == [100, 4]
    assert rating.lines[1].usage.interval.end_time.seconds == 1767312000


@pytest.mark.parametrize(
    ("written", "fields"),
    [
        ("as_of { seconds: 1767225599 }", ["as_of"]),
        ("as_of { seconds: 1769904001 }", ["as_of"]),
        ("contract_start { seconds: 1769904001 }", ["contract_start"]),
        ('time_zone: "Mars/Olympus"', ["time_zone"]),
        ('billed_before { value: "-1" }', ["billed_before"]),
    ],
)
async def test_terms_that_cannot_be_are_refused(
    world: World, written: str, fields: list[str]
) -> None:
    """Each field is named."""
    refusal = await world.refusal("Rate", a_rate_request(written))

    assert [violation.field for violation in refusal.violations] == fields


A_TERM = """
    plan_id: "term" currency: "USD" base_fee { value: "31" }
    commitment { steps { amount { value: "1000" } } term_months: 3 }
    prices {
      price_id: "tokens" meter_id: "tokens" included_quantity { value: "100" }
      rollover { periods: 2 } standard { amount { value: "1" } }
    }
"""


def used(month: int, quantity: int) -> str:
    """Write usage of the second of a month."""
    seconds = int(datetime(2026, month, 2, tzinfo=UTC).timestamp())
    return (
        f'quantities {{ meter_id: "tokens" quantity {{ value: "{quantity}" }}'
        f" time {{ seconds: {seconds} }} }}"
    )


def a_month(number: int, day: int = 1) -> str:
    """Write the interval from a day of a month to the first of the next."""
    start, end = datetime(2026, number, day, tzinfo=UTC), datetime(2026, number + 1, 1, tzinfo=UTC)
    return (
        f"start_time {{ seconds: {int(start.timestamp())} }}"
        f" end_time {{ seconds: {int(end.timestamp())} }}"
    )


async def test_a_term_that_ends_bills_what_is_missing_after_its_earlier_periods(
    world: World,
) -> None:
    """They are rated again: with their part of the fees and what was kept of allowances then."""
    await world.put_plan(Parse(A_TERM, plan_pb2.Plan()))
    mid_january = int(datetime(2026, 1, 17, tzinfo=UTC).timestamp())
    request = f"""
        plan_id: "term" contract_start {{ seconds: {mid_january} }} period {{ {a_month(4)} }}
        given_usage {{ {used(2, 300)} {used(3, 90)} {used(4, 115)} }}
    """
    earlier = f"""
        earlier_periods {{ period {{ {a_month(1, 17)} }}
                           proration {{ billed_days: 15 period_days: 31 }} }}
        earlier_periods {{ period {{ {a_month(2)} }} }}
        earlier_periods {{ period {{ {a_month(3)} }} }}
    """

    told = await world.rate(request + earlier)
    untold = await world.rate(request)

    # January: 15. February: 31 + 300 - 200 kept and new. March: 31. April: 31 and 115 - 110.
    assert [line.unrounded_amount.value for line in told.lines] == [
        "31",
        "5",
        str(1000 - 15 - (31 + 100) - 31 - 31 - 5),
    ]
    assert [line.unrounded_amount.value for line in untold.lines] == ["31", "15", "954"]
    assert (told.needs_earlier_periods, untold.needs_earlier_periods) == (False, True)


@pytest.mark.parametrize(
    ("plan", "contract_start", "needed"),
    [
        (A_TERM, "2026-01-01", False),
        (A_TERM, "2025-12-31", True),
        (A_TERM.replace("rollover { periods: 2 }", ""), "2025-12-31", False),
        (A_TERM.replace("rollover { periods: 2 }", ""), "2025-10-20", True),
        (A_TERM.replace("term_months: 3", ""), "2025-10-20", True),
    ],
    ids=["first period", "allowance", "within a term", "end of a term", "allowance alone"],
)
async def test_a_rating_says_that_it_depends_on_earlier_periods(
    world: World, plan: str, contract_start: str, *, needed: bool
) -> None:
    """Only where something is kept or a term ends, and the contract is older than the period."""
    await world.put_plan(Parse(plan, plan_pb2.Plan()))
    seconds = int(datetime.fromisoformat(f"{contract_start}T00:00:00+00:00").timestamp())
    written = f'plan_id: "term" contract_start {{ seconds: {seconds} }} {given_tokens("1")}'

    rating = await world.rate(written)

    assert rating.needs_earlier_periods == needed


SAID_TWICE = """
    billed_before { value: "1" }
    previous_periods { start_time { seconds: 1764547200 } end_time { seconds: 1767225600 } }
"""
BAD_ONES = """
    earlier_periods {}
    earlier_periods {
      proration { billed_days: 2 period_days: 1 }
      period { start_time { seconds: 2 } end_time { seconds: 1 } }
    }
"""


@pytest.mark.parametrize(
    ("written", "fields"),
    [
        (f"earlier_periods {{ period {{ {a_month(1)} }} }}", ["earlier_periods"]),
        (
            SAID_TWICE,
            ["previous_periods", "billed_before"],
        ),
        (
            BAD_ONES,
            [
                "earlier_periods[1].period.end_time",
                "earlier_periods[1].period.start_time",
                "earlier_periods[2].period",
                "earlier_periods[2].proration.period_days",
            ],
        ),
    ],
    ids=["not before", "said twice", "bad ones"],
)
async def test_earlier_periods_that_cannot_be_are_refused(
    world: World, written: str, fields: list[str]
) -> None:
    """Each field is named."""
    december = "period { start_time { seconds: 1764547200 } end_time { seconds: 1767225600 } }"

    refusal = await world.refusal(
        "Rate", a_rate_request(f"earlier_periods {{ {december} }} {written}")
    )

    assert sorted(violation.field for violation in refusal.violations) == sorted(fields)
