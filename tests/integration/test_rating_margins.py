"""Margins over a real meter: revenue is what `Rate` says, cost what LiteLLM's prices come to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.text_format import Merge, Parse

from cli.litellm_prices import read_litellm_prices
from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput
from kit.rpc.wire import render_time
from kit.settings import ServiceSettings
from tests.rating_world import World, a_meter_message, metered_world
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1.meter_service_pb2 import ImportUsageRequest, IngestEventsRequest
from tollkeeper.api.rating.v1 import plan_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages
from tollkeeper.api.rating.v1.margin_pb2 import MarginScope

PUBLISHED = (
    Path(__file__).resolve().parents[3] / "shared/data/litellm-model-prices/model_prices.json"
)
JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
LONG = "gemini-2.5-pro"
MODELS = {
    "gpt-5": ("openai", "gpt-5"),
    "claude-sonnet-4-5": ("anthropic", "claude-sonnet-4-5"),
    LONG: ("gemini", f"gemini/{LONG}"),
}
"""By model: its provider, and how LiteLLM names it."""
UNKNOWN = "home-grown"
CUSTOMERS = ("acme", "bolt", "cora")

PLAN = """
    plan_id: "pro" currency: "USD" base_fee { value: "30" }
    prices {
      price_id: "input" meter_id: "input_tokens"
      matrix {
        per_quantity { value: "1000000" }
        rows { dimensions { key: "model" value: "gpt-5" } amount { value: "2" } }
        rows { amount { value: "4" } }
      }
    }
    prices {
      price_id: "output" meter_id: "output_tokens" included_quantity { value: "1000" }
      graduated {
        tiers { up_to { value: "50000" } unit_amount { value: "0.00002" } }
        tiers { unit_amount { value: "0.000015" } }
      }
    }
"""
A_COST = """
    request_id: "costs"
    costs {
      provider: "p" model: "m" currency: "EUR"
      rates { quantity: "input_tokens" unit_amount { value: "0.001" } }
    }
"""


def an_event(number: int, customer: str, model: str, **quantities: str) -> meter_pb2.UsageEvent:
    """Make a call in January."""
    event = meter_pb2.UsageEvent(
        event_id=f"e{number}",
        source="test",
        type="llm.call",
        time=render_time(JANUARY + timedelta(hours=number)),
        dimensions={"model": model, "provider": MODELS.get(model, ("p", ""))[0]},
        quantities=quantities,
    )
    event.subject.customer_id = customer
    return event


def events() -> list[meter_pb2.UsageEvent]:
    """Make what three customers used of three models and one that nobody knows."""
    made = []
    for number in range(150):
        model = [*MODELS, UNKNOWN][number % 4]
        size = 211_003 + number if model == LONG and number % 3 else 1_777 + 13 * number
        event = an_event(
            number,
            CUSTOMERS[number * number % 3],
            model,
            input_tokens=str(size),
            cached_input_tokens=str(size // 3),
            output_tokens=str(301 + number),
            reasoning_tokens=str(number),
        )
        if number % 5 == 0:
            event.dimensions["service_tier"] = "batch"
        made.append(event)
    return made


def published_cost(event: meter_pb2.UsageEvent, prices: dict[str, Any]) -> Fraction:
    """Compute what an event cost from LiteLLM's file itself."""
    fields = prices[MODELS[event.dimensions["model"]][1]]
    used = {name: Fraction(text) for name, text in event.quantities.items()}
    is_batch = event.dimensions["service_tier"] == "batch"

    def price(name: str) -> Fraction:
        is_long = used["input_tokens"] > 200_000 and f"{name}_above_200k_tokens" in fields
        above = f"{name}_above_200k_tokens" if is_long else name
        if is_batch:
            batches = [each for each in (f"{above}_batches", f"{name}_batches") if each in fields]
            above = (batches if is_long else batches[-1:] or [above])[0] if batches else above
        return Fraction(fields[above])

    reasoning = (
        price("output_cost_per_reasoning_token")
        if "output_cost_per_reasoning_token" in fields
        else price("output_cost_per_token")
    )
    return (
        (used["input_tokens"] - used["cached_input_tokens"]) * price("input_cost_per_token")
        + used["cached_input_tokens"] * price("cache_read_input_token_cost")
        + (used["output_tokens"] - used["reasoning_tokens"]) * price("output_cost_per_token")
        + used["reasoning_tokens"] * reasoning
    )


def a_request(*customers: str) -> messages.GetMarginsRequest:
    """Ask for the margins of January."""
    request = messages.GetMarginsRequest(currency="USD")
    period = request.periods.add().period
    period.start_time.CopyFrom(render_time(JANUARY))
    period.end_time.CopyFrom(render_time(FEBRUARY))
    for customer in customers or CUSTOMERS:
        request.customers.add(customer_id=customer, plan_id="pro")
    return request


def margins_of(answer: Any, scope: str) -> dict[str, tuple[Fraction, Fraction]]:  # noqa: ANN401 - an answer.
    """Find revenue and cost by name."""
    return {
        each.name: (Fraction(each.revenue.value), Fraction(each.cost.value))
        for each in answer.margins
        if each.scope == MarginScope.Value(f"MARGIN_SCOPE_{scope}")
    }


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating and a meter service, a plan, and what three customers used."""
    async with metered_world(settings_for, keys, tenant) as running:
        for meter_id in ("input_tokens", "output_tokens"):
            await running.put_meter(a_meter_message(meter_id, "model"))
        await running.ask("meter.IngestEvents", IngestEventsRequest(events=events()))
        await running.put_plan(Parse(PLAN, plan_pb2.Plan()))
        yield running


async def rated(world: World, customer: str) -> Fraction:
    """Rate January of a customer."""
    request = messages.RateRequest(
        customer_id=customer, plan_id="pro", period=a_request().periods[0].period
    )
    total = (await world.ask("Rate", request)).rating.total
    return Fraction(total.units) + Fraction(total.nanos, 10**9)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs LiteLLM's prices beside the repository")
async def test_margins_equal_fractions_over_the_published_prices(world: World) -> None:
    """Cost by customer, model and plan to the last digit; revenue as `Rate` says, shared whole."""
    costs = read_litellm_prices(PUBLISHED, None, [provider for provider, _ in MODELS.values()])
    put = messages.PutProviderCostsRequest(request_id="costs", costs=costs.costs)
    await world.ask("PutProviderCosts", put)

    answer = await world.ask("GetMargins", a_request())

    prices = json.loads(PUBLISHED.read_text(), parse_float=Decimal, parse_int=Decimal)
    spent: defaultdict[str, Fraction] = defaultdict(Fraction)
    for event in events():
        if event.dimensions["model"] != UNKNOWN:
            cost = published_cost(event, prices)
            spent[event.subject.customer_id] += cost
            spent[event.dimensions["model"]] += cost
            spent["all"] += cost
    billed = {customer: await rated(world, customer) for customer in CUSTOMERS}
    total = sum(billed.values(), Fraction())
    assert margins_of(answer, "CUSTOMER") == {
        customer: (billed[customer], spent[customer]) for customer in CUSTOMERS
    }
    assert margins_of(answer, "TOTAL") == {"": (total, spent["all"])}
    assert margins_of(answer, "PLAN") == {"pro": (total, spent["all"])}
    models = margins_of(answer, "MODEL")
    assert {name: cost for name, (_, cost) in models.items()} == {
        name: spent[name] for name in ("", UNKNOWN, *MODELS)
    }
    assert sum((revenue for revenue, _ in models.values()), Fraction()) == total
    assert models[""][0] == 30 * len(CUSTOMERS)
    assert [(each.provider, each.model, each.event_count) for each in answer.uncosted] == [
        ("p", UNKNOWN, sum(event.dimensions["model"] == UNKNOWN for event in events()))
    ]


async def test_thin_margins_are_reported_once(world: World) -> None:
    """Every margin below the threshold is an alert, and the same one is no alert again."""
    put = Merge(
        'costs { provider: "p" model: "home-grown" currency: "USD"'
        ' rates { quantity: "output_tokens" unit_amount { value: "100" } } }',
        messages.PutProviderCostsRequest(request_id="costs"),
    )
    await world.ask("PutProviderCosts", put)
    report = messages.ReportMarginsRequest(request_id="r1", margins=a_request("acme"))
    report.minimum_percent.value = "20"

    first = await world.ask("ReportMargins", report)
    repeated = await world.ask("ReportMargins", report)
    report.request_id = "r2"
    second = await world.ask("ReportMargins", report)
    listed = await world.ask("ListMarginAlerts", messages.ListMarginAlertsRequest(page_size=2))
    rest = await world.ask(
        "ListMarginAlerts", messages.ListMarginAlertsRequest(page_token=listed.next_page_token)
    )

    assert [(alert.margin.scope, alert.margin.name) for alert in first.alerts] == [
        (1, ""),
        (2, "acme"),
        (3, UNKNOWN),
        (4, "pro"),
    ]
    assert repeated == first
    assert list(second.alerts) == []
    assert [*listed.alerts, *rest.alerts] == list(first.alerts)
    assert first.alerts[0].minimum_percent.value == "20"


async def test_other_currencies_need_a_rate(world: World) -> None:
    """What is charged in euros is converted by the rate that is given, and by no other."""
    await world.ask("PutProviderCosts", Parse(A_COST, messages.PutProviderCostsRequest()))
    event = an_event(700, "acme", "m", input_tokens="1000")
    await world.ask("meter.IngestEvents", IngestEventsRequest(events=[event]))
    request = a_request("acme")

    refusal = await world.refusal("GetMargins", request)
    request.exchange_rates["EUR"] = "1.08"
    answer = await world.ask("GetMargins", request)

    assert isinstance(refusal, InvalidInput)
    assert [violation.field for violation in refusal.violations] == ["exchange_rates.EUR"]
    assert margins_of(answer, "MODEL")["m"][1] == Fraction("1.08")


async def test_margins_know_what_was_agreed_and_what_was_billed_elsewhere(world: World) -> None:
    """Another base fee is other revenue; imported history is neither revenue nor cost."""
    await world.ask("PutProviderCosts", Parse(A_COST, messages.PutProviderCostsRequest()))
    event = an_event(700, "acme", "m", input_tokens="1000")
    await world.ask("meter.ImportUsage", ImportUsageRequest(events=[event]))
    request = a_request(*CUSTOMERS[:2])
    listed = margins_of(await world.ask("GetMargins", request), "CUSTOMER")
    agreed = request.overrides.add(customer_id="acme")
    agreed.overrides.base_fee.value = "12"

    answer = margins_of(await world.ask("GetMargins", request), "CUSTOMER")

    assert answer == {**listed, "acme": (listed["acme"][0] - 30 + 12, Fraction())}
    assert listed["acme"][0] == await rated(world, "acme")


@pytest.mark.parametrize(
    ("written", "fields"),
    [
        pytest.param("", ["customers"], id="nobody"),
        pytest.param(
            'customers { customer_id: "a" } customers { customer_id: "b c" plan_id: "p" }'
            ' currency: "X" exchange_rates { key: "EUR" value: "-1" }',
            ["periods", "customers[1].customer_id", "currency", "exchange_rates.EUR"],
            id="every fault at once",
        ),
    ],
)
async def test_bad_questions_are_refused(world: World, written: str, fields: list[str]) -> None:
    """Each bad field is named."""
    refusal = await world.refusal("GetMargins", Parse(written, messages.GetMarginsRequest()))

    assert isinstance(refusal, InvalidInput)
    assert [violation.field for violation in refusal.violations] == fields
