"""What providers charge, at a real rating service: put, corrected, listed, and explained."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from google.protobuf.text_format import Merge, Parse
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from cli.signing_keys import SigningKeys
from kit.errors import Conflict, InvalidInput, NotFound
from kit.postgres import Database
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.rating_world import NOON, World, rating_world
from tollkeeper.api.rating.v1 import provider_cost_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)

A_COST = """
    provider: "openai" model: "gpt-5" currency: "USD" source: "price list"
    rates { quantity: "cached_input_tokens" part_of: "input_tokens"
            unit_amount { value: "0.000000125" } }
    rates { quantity: "input_tokens" unit_amount { value: "0.00000125" } }
    rates { quantity: "input_tokens" context_above { value: "200000" }
            unit_amount { value: "0.0000025" } }
    rates { quantity: "input_tokens" service_tier: "batch"
            unit_amount { value: "0.000000625" } }
"""


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating service; costs need no other."""
    async with rating_world(settings_for, keys, tenant) as running:
        yield running


def a_cost(written: str = "") -> provider_cost_pb2.ProviderCost:
    """Make what OpenAI charges; what is written is merged over it."""
    return Merge(written, Parse(A_COST, provider_cost_pb2.ProviderCost()))


def stored(
    cost: provider_cost_pb2.ProviderCost, revision: int = 1
) -> provider_cost_pb2.ProviderCost:
    """Tell how a cost comes back."""
    answer = provider_cost_pb2.ProviderCost()
    answer.CopyFrom(cost)
    answer.revision = revision
    answer.context_quantity = cost.context_quantity or "input_tokens"
    answer.create_time.CopyFrom(render_time(NOON))
    return answer


async def put(
    world: World, *costs: provider_cost_pb2.ProviderCost, request_id: str = "put-1"
) -> tuple[int, int]:
    """Put costs, and tell how many are new and how many were there."""
    request = messages.PutProviderCostsRequest(request_id=request_id, costs=costs)
    answer = await world.ask("PutProviderCosts", request)
    return answer.created_count, answer.unchanged_count


async def listed(world: World, written: str = "") -> list[provider_cost_pb2.ProviderCost]:
    """List every revision, two to a page."""
    request = Parse(f"page_size: 2 {written}", messages.ListProviderCostsRequest())
    found: list[provider_cost_pb2.ProviderCost] = []
    while True:
        page = await world.ask("ListProviderCosts", request)
        found += page.costs
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_costs_are_put_once_and_keep_every_digit(world: World) -> None:
    """The same content stays as it is; other content for the same time is a new revision."""
    other = a_cost('source: "corrected"')
    later = a_cost()
    later.effective_time.CopyFrom(render_time(FEBRUARY))

    assert await put(world, a_cost()) == (1, 0)
    assert await put(world, a_cost(), request_id="put-2") == (0, 1)
    assert await put(world, other, later, request_id="put-3") == (2, 0)
    assert await put(world, a_cost(), request_id="put-4") == (1, 0)

    assert await listed(world) == [
        stored(a_cost()),
        stored(other, 2),
        stored(later, 3),
        stored(a_cost(), 4),
    ]


async def test_what_counts_at_a_time_is_answered(world: World) -> None:
    """The latest effective time that has come counts, and of its revisions the last."""
    later = a_cost('source: "February"')
    later.effective_time.CopyFrom(render_time(FEBRUARY))
    await put(world, a_cost(), later)

    now = messages.GetProviderCostRequest(provider="openai", model="gpt-5")
    before = messages.GetProviderCostRequest(model="gpt-5")
    before.time.CopyFrom(render_time(datetime(2026, 1, 31, 23, tzinfo=UTC)))

    assert (await world.ask("GetProviderCost", now)).cost == stored(later, 2)
    assert (await world.ask("GetProviderCost", before)).cost == stored(a_cost())


async def test_a_model_of_two_providers_needs_its_provider(world: World) -> None:
    """Without a provider nobody guesses which of two is meant."""
    await put(world, a_cost(), a_cost('provider: "azure"'))

    refusal = await world.refusal("GetProviderCost", messages.GetProviderCostRequest(model="gpt-5"))

    assert isinstance(refusal, NotFound)
    assert (refusal.reason, refusal.metadata["model"]) == ("PROVIDER_COST_NOT_FOUND", "gpt-5")
    assert [cost.provider for cost in await listed(world, 'provider: "azure"')] == ["azure"]
    assert [cost.provider for cost in await listed(world, 'model: "gpt-5"')] == [
        "azure",
        "openai",
    ]


async def test_an_event_is_explained(world: World) -> None:
    """Every rate that was used is told, with its units and what they come to."""
    await put(world, a_cost())

    answer = await world.ask(
        "ExplainEventCost",
        messages.ExplainEventCostRequest(
            provider="openai",
            model="gpt-5",
            quantities={
                "input_tokens": "200001",
                "cached_input_tokens": "1",
                "output_tokens": "5",
            },
        ),
    )

    assert answer.amount.value == "0.500000125"
    assert [(step.quantity.value, step.amount.value) for step in answer.steps] == [
        ("1", "0.000000125"),
        ("200000", "0.5"),
    ]


async def test_a_repeated_request_is_answered_once(world: World) -> None:
    """The first answer comes back; the same id with other content is refused."""
    assert await put(world, a_cost()) == (1, 0)
    assert await put(world, a_cost()) == (1, 0)

    other = messages.PutProviderCostsRequest(
        request_id="put-1", costs=[a_cost('provider: "azure"')]
    )

    assert isinstance(await world.refusal("PutProviderCosts", other), Conflict)


async def test_every_fault_is_told_at_once(world: World) -> None:
    """Each bad field is named, and nothing is stored."""
    bad = Parse(
        """
        request_id: "r"
        costs { provider: "p" model: "m" currency: "USD" rates { quantity: "a" } }
        costs { model: "m" currency: "US" revision: 3
                rates { quantity: "a" part_of: "a" unit_amount { value: "-1" } } }
        costs { provider: "p" currency: "USD" }
        """,
        messages.PutProviderCostsRequest(),
    )

    refusal = await world.refusal("PutProviderCosts", bad)

    assert isinstance(refusal, InvalidInput)
    assert [violation.field for violation in refusal.violations] == [
        "costs[0].rates[0].unit_amount",
        "costs[1].revision",
        "costs[1].currency",
        "costs[1].rates[0].part_of",
        "costs[1].rates[0].unit_amount",
        "costs[2].model",
        "costs[2].rates",
    ]
    assert await listed(world) == []


@pytest.mark.parametrize(
    ("second", "field"),
    [
        pytest.param("", "costs[1]", id="the same provider, model and time"),
        pytest.param(
            'model: "other" rates { quantity: "input_tokens" unit_amount { value: "1" } }',
            "costs[1].rates[4]",
            id="the same rate",
        ),
    ],
)
async def test_nothing_is_said_twice(world: World, second: str, field: str) -> None:
    """What is named twice is refused, for nobody could tell which counts."""
    request = messages.PutProviderCostsRequest(request_id="r", costs=[a_cost(), a_cost(second)])

    refusal = await world.refusal("PutProviderCosts", request)

    assert isinstance(refusal, InvalidInput)
    assert [violation.field for violation in refusal.violations] == [field]


async def test_tenants_do_not_see_each_others_costs(world: World) -> None:
    """Another tenant has other costs."""
    await put(world, a_cost())
    request = messages.GetProviderCostRequest(provider="openai", model="gpt-5")

    refusal = await world.refusal("GetProviderCost", request, tenant="another")

    assert isinstance(refusal, NotFound)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE rating.provider_costs SET source = ''", "DELETE FROM rating.provider_costs"],
)
async def test_what_was_put_never_changes(
    world: World, database_url: str, tenant: str, statement: str
) -> None:
    """The service's own role may neither change nor remove a revision."""
    await put(world, a_cost())
    database = Database(database_url, "rating")
    await database.connect()
    try:
        with pytest.raises(ProgrammingError, match="permission denied"):
            async with database.transaction(tenant) as transaction:
                await transaction.execute(text(statement))
    finally:
        await database.close()
