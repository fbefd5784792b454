"""Periods rated by what a real meter service has counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from google.protobuf.text_format import Parse

from cli.signing_keys import SigningKeys
from kit.errors import Precondition
from kit.settings import ServiceSettings
from tests.rating_world import (
    World,
    a_meter_message,
    a_plan_message,
    a_rate_request,
    an_event,
    metered_world,
    rating_world,
)
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import (
    ImportUsageRequest,
    IngestEventsRequest,
    QueryUsageRequest,
)
from tollkeeper.api.rating.v1 import plan_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 2, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

BY_MODEL = """
    plan_id: "models" currency: "USD"
    prices {
      price_id: "large" meter_id: "tokens" dimensions { key: "model" value: "large" }
      standard { amount { value: "0.01" } }
    }
    prices {
      price_id: "small" meter_id: "tokens" dimensions { key: "model" value: "small" }
      standard { amount { value: "0.001" } }
    }
"""


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating and a meter service, with a meter of tokens kept apart by model."""
    async with metered_world(settings_for, keys, tenant) as running:
        await running.put_meter(a_meter_message("tokens", "model"))
        yield running


async def ingest(world: World, *events: meter_pb2.UsageEvent) -> None:
    """Store events, each of which must be new."""
    answer = await world.ask("meter.IngestEvents", IngestEventsRequest(events=events))
    assert set(answer.outcomes) == {1}


async def test_usage_comes_from_the_meter(world: World) -> None:
    """The quantity and its unit are the meter's, from the first instant to before the last."""
    await world.put_plan()
    await ingest(
        world,
        an_event("before", "7000000", START - MICROSECOND),
        an_event("first", "1000000.5", START),
        an_event("last", "1234.5", END - MICROSECOND),
        an_event("after", "9000000", END),
    )

    rating = await world.rate()

    line = rating.lines[1]
    assert (line.quantity.value, line.unit) == ("1001235", "token")
    assert (line.unrounded_amount.value, line.amount.nanos) == ("0.0247", 20_000_000)


async def test_the_line_names_the_query_that_reproduces_its_quantity(world: World) -> None:
    """Asking the meter what the line refers to gives the quantity on the line."""
    await world.put_plan(Parse(BY_MODEL, plan_pb2.Plan()))
    await ingest(
        world,
        an_event("1", "100", START, model="large"),
        an_event("2", "23", START, model="small"),
    )

    (large, _) = (await world.rate('plan_id: "models"')).lines

    answer = await world.ask(
        "meter.QueryUsage",
        QueryUsageRequest(
            meter_id=large.usage.meter_id,
            customer_id=large.usage.customer_id,
            interval=large.usage.interval,
            filters=dict(large.usage.dimensions),
        ),
    )
    assert [row.quantity.value for row in answer.rows] == [large.quantity.value] == ["100"]


async def test_each_price_counts_the_usage_that_it_names(world: World) -> None:
    """Usage goes to the price of its model; that of another customer or model to none."""
    await world.put_plan(Parse(BY_MODEL, plan_pb2.Plan()))
    foreign = an_event("5", "5000", START, model="large")
    foreign.subject.customer_id = "other"
    await ingest(
        world,
        an_event("1", "100", START, model="large"),
        an_event("2", "20", START, model="large"),
        an_event("3", "3000", START, model="small"),
        an_event("4", "40000", START, model="huge"),
        foreign,
    )

    rating = await world.rate('plan_id: "models"')

    assert [(line.price_id, line.quantity.value) for line in rating.lines] == [
        ("large", "120"),
        ("small", "3000"),
    ]
    assert (rating.total.units, rating.total.nanos) == (4, 200_000_000)


async def test_no_usage_is_a_line_of_nothing(world: World) -> None:
    """A customer of whom the meter knows nothing has used nothing."""
    await world.put_plan()

    rating = await world.rate()

    assert [line.quantity.value for line in rating.lines] == ["1", "0"]
    assert rating.total.units == 100


async def test_a_batch_rates_many_customers(world: World) -> None:
    """Fifty customers at once come to what each used."""
    await world.put_plan()
    events = [an_event(str(n), str(1_000_000 + 1000 * n), START) for n in range(50)]
    for number, event in enumerate(events):
        event.subject.customer_id = f"customer-{number}"
    await ingest(world, *events)
    requests = [a_rate_request(f'customer_id: "customer-{n}"') for n in range(50)]

    call = world.method("BatchRate")(
        messages.BatchRateRequest(requests=requests), metadata=world.token()
    )
    lines = [answer.rating.lines[1] async for answer in call]

    assert [line.usage.customer_id for line in lines] == [f"customer-{n}" for n in range(50)]
    assert [line.amount.nanos for line in lines] == [n * 20_000_000 for n in range(50)]


async def test_a_plan_of_unknown_meters_and_dimensions_is_refused(world: World) -> None:
    """Every price with a meter that is not there, or a dimension it lacks, is named at once."""
    plan = a_plan_message(
        """
        prices { price_id: "seats" meter_id: "seats" standard { amount { value: "1" } } }
        prices { price_id: "eu" meter_id: "tokens" standard { amount { value: "1" } }
                 dimensions { key: "region" value: "eu" } dimensions { key: "model" value: "a" } }
        """
    )
    plan.prices[0].dimensions["model"] = "b"

    refusal = await world.refusal("PutPlan", messages.PutPlanRequest(request_id="1", plan=plan))

    assert (type(refusal), refusal.reason, refusal.metadata) == (
        Precondition,
        "METER_NOT_FOUND",
        {"meter_id": "seats", "price_id": "seats"},
    )
    assert [violation.field for violation in refusal.violations] == [
        "plan.prices[1].meter_id",
        "plan.prices[2].dimensions.region",
    ]
    assert not (await world.ask("ListPlans", messages.ListPlansRequest())).plans


async def test_a_plan_of_an_unknown_dimension_is_refused(world: World) -> None:
    """A filter that the meter cannot tell apart would bill nothing, so it is no plan."""
    plan = a_plan_message()
    plan.prices[0].dimensions["region"] = "eu"

    refusal = await world.refusal("PutPlan", messages.PutPlanRequest(request_id="1", plan=plan))

    assert (refusal.reason, refusal.metadata) == (
        "UNKNOWN_DIMENSION",
        {"meter_id": "tokens", "price_id": "tokens", "dimension": "region"},
    )


async def test_a_maximum_is_priced_as_a_whole_and_never_by_its_parts(world: World) -> None:
    """What does not add up is refused where a price would add it; by itself it is the figure."""
    peak = a_meter_message("peak", "model")
    peak.aggregation, peak.quantity = meter_pb2.AGGREGATION_MAX, "tokens"
    await world.put_meter(peak)
    await ingest(world, an_event("1", "7", START), an_event("2", "5", START))
    plan = Parse(
        """
        plan_id: "peak" currency: "USD"
        prices { price_id: "a" meter_id: "peak" standard { amount { value: "2" } } }
        """,
        plan_pb2.Plan(),
    )
    parts = plan_pb2.Plan()
    parts.CopyFrom(plan)
    parts.prices[0].recurrence.prorated = True

    refusal = await world.refusal("PutPlan", messages.PutPlanRequest(request_id="1", plan=parts))
    await world.put_plan(plan)
    (line,) = (await world.rate('plan_id: "peak"')).lines

    assert (type(refusal), refusal.reason) == (Precondition, "METER_NOT_ADDITIVE")
    assert (line.quantity.value, line.amount.units) == ("7", 14)


async def test_a_plan_taken_while_the_meter_was_silent_is_checked_when_it_rates(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> None:
    """What could not be checked when the plan was put is told when it is to rate."""
    async with rating_world(settings_for, keys, tenant) as without_meter:
        await without_meter.put_plan()

    async with metered_world(settings_for, keys, tenant) as world:
        refusal = await world.refusal("Rate", a_rate_request())

    assert (type(refusal), refusal.reason, refusal.metadata) == (
        Precondition,
        "METER_NOT_FOUND",
        {"meter_id": "tokens", "price_id": "tokens"},
    )


async def test_a_count_without_a_unit_counts_events(world: World) -> None:
    """A meter that names no unit counts events, or what its quantity is called."""
    calls = a_meter_message("calls")
    calls.aggregation = meter_pb2.AGGREGATION_COUNT
    calls.ClearField("quantity")
    calls.ClearField("unit")
    await world.put_meter(calls)
    unnamed = a_meter_message("unnamed")
    unnamed.quantity = "tokens"
    unnamed.ClearField("unit")
    await world.put_meter(unnamed)
    await ingest(world, an_event("1", "100", START), an_event("2", "100", START))
    await world.put_plan(
        Parse(
            """
            plan_id: "calls" currency: "USD"
            prices { price_id: "a" meter_id: "calls" standard { amount { value: "1" } } }
            prices { price_id: "b" meter_id: "unnamed" standard { amount { value: "1" } } }
            """,
            plan_pb2.Plan(),
        )
    )

    rating = await world.rate('plan_id: "calls"')

    assert [(line.quantity.value, line.unit) for line in rating.lines] == [
        ("2", "event"),
        ("200", "tokens"),
    ]


BY_EVENTS = """
    plan_id: "calls" currency: "USD"
    prices {
      price_id: "size" meter_id: "fresh" dimensions { key: "model" value: "large" }
      context_tiers {
        context_quantity: "tokens"
        tiers { up_to { value: "100" } amount { value: "1" } } tiers { amount { value: "2" } }
      }
    }
    prices {
      price_id: "share" meter_id: "fresh"
      percentage { rate_percent { value: "10" } minimum_amount { value: "5" } }
    }
"""


async def test_events_are_priced_by_the_quantity_that_their_meter_derives(world: World) -> None:
    """Single events come to what the meter says in total; one for which it fails is none."""
    fresh = a_meter_message("fresh", "model")
    fresh.quantity, fresh.expression = "", "sub(quantities.tokens, decimal(dimensions.cached))"
    await world.put_meter(fresh)
    await world.put_plan(Parse(BY_EVENTS, plan_pb2.Plan()))
    await ingest(
        world,
        an_event("small", "100", START, model="large", cached="60"),
        an_event("large", "101", START, model="large", cached="1"),
        an_event("fails", "500", START, model="large"),
        an_event("other", "80", START, model="tiny", cached="10"),
    )

    rating = await world.rate('plan_id: "calls"')
    usage = await world.ask(
        "meter.QueryUsage",
        QueryUsageRequest(meter_id="fresh", interval=a_rate_request().period, group_by=["model"]),
    )

    lines = {line.price_id: (line.quantity.value, line.amount.units) for line in rating.lines}
    assert lines == {"size": ("140", 40 + 200), "share": ("70", 7)}
    assert [row.quantity.value for row in usage.rows] == ["140", "70"]


async def test_a_period_whose_events_are_gone_is_not_billed_event_by_event(
    world: World, settings_for: Callable[..., ServiceSettings]
) -> None:
    """Rather than with what is left of them, it is refused; totals are rated as ever."""
    await world.put_meter(a_meter_message("fresh", "model"))
    await world.put_plan(Parse(BY_EVENTS, plan_pb2.Plan()))
    await world.put_plan(request_id="whole")
    await ingest(world, an_event("1", "1000", START, model="large"))
    before = (await world.rate()).lines
    connection = await asyncpg.connect(settings_for("meter").database_url)
    await connection.execute("SELECT meter.move_horizon($1)", END)
    await connection.close()

    request = a_rate_request('plan_id: "calls"')
    refusal = await world.refusal("Rate", request)

    assert (type(refusal), refusal.reason, refusal.metadata) == (
        Precondition,
        "EVENTS_EXPIRED",
        {"kept_from": END.isoformat()},
    )
    assert (await world.rate()).lines == before


async def test_history_that_was_billed_elsewhere_is_not_billed_event_by_event(
    world: World,
) -> None:
    """As in totals, only what came in by itself counts."""
    plan = Parse(BY_EVENTS.replace('"fresh"', '"tokens"'), plan_pb2.Plan())
    await world.put_plan(plan)
    await ingest(world, an_event("new", "50", START, model="large"))
    imported = an_event("old", "70", START, model="large")
    await world.ask("meter.ImportUsage", ImportUsageRequest(events=[imported]))

    rating = await world.rate('plan_id: "calls"')

    assert [(line.quantity.value, line.amount.units) for line in rating.lines] == [
        ("50", 50),
        ("0", 0),
    ]


async def test_what_a_meter_tells_apart_is_not_priced_event_by_event(world: World) -> None:
    """A unique count is no sum of events; the plan is refused, and the price named."""
    users = a_meter_message("users", "model")
    users.aggregation, users.quantity = meter_pb2.AGGREGATION_UNIQUE_COUNT, ""
    users.unique_by = "subject.user_id"
    await world.put_meter(users)
    plan = Parse(BY_EVENTS.replace('"fresh"', '"users"'), plan_pb2.Plan())

    refusal = await world.refusal("PutPlan", messages.PutPlanRequest(request_id="1", plan=plan))

    assert (type(refusal), refusal.reason) == (Precondition, "METER_NOT_ADDITIVE")
    assert [violation.field for violation in refusal.violations] == [
        "plan.prices[0].meter_id",
        "plan.prices[1].meter_id",
    ]
