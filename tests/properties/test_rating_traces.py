"""Recorded traffic under the plan of six models equals fractions, to the last digit.

The independent computation reads the published prices of the models, not the plan, and the traces
themselves; it shares no code with rating.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from cli.plan_files import read_plan_file
from services.rating.convert.plans import parse_plan
from services.rating.model import GivenUsage
from tests.rating_builders import a_given_usage, rated_given

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared/data"
PRICES = SHARED / "litellm-model-prices/model_prices.json"
PLAN = ROOT / "docs/examples/plans/six-models.yaml"
LONG = "gemini-2.5-pro"
MODELS = ("claude-sonnet-4-5", "gemini-2.5-flash", "gpt-4o-mini", "gpt-5", "o3", LONG)
BLOCK_TOKENS = 512
LONG_CONTEXT_TOKENS = 200_000
METERS = {
    "input": "uncached_input_tokens",
    "cached": "cached_input_tokens",
    "output": "visible_output_tokens",
    "reasoning": "reasoning_tokens",
}
PRICE_NAMES = {
    "input": "input_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "output": "output_cost_per_token",
    "reasoning": "output_cost_per_reasoning_token",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A recorded call, and how many of its tokens are of which kind."""

    model: str
    context: int
    tokens: dict[str, int]


def a_call(model: str, context: int, cached: int, generated: int) -> Call:
    """Make a call; a quarter of what is generated is reasoning.

    No trace has contexts above 200,000 tokens, so those of the model with long ones are doubled.
    """
    reasoning = generated // 4
    tokens = {
        "input": context - cached,
        "cached": cached,
        "output": generated - reasoning,
        "reasoning": reasoning,
    }
    return Call(model, context * 2 if model == LONG else context, tokens)


def azure_calls(name: str) -> Iterator[Call]:
    """Read a trace of Azure, which knows no cached tokens."""
    with (SHARED / f"azure-llm-trace-2023/{name}.csv").open(encoding="utf-8") as file:
        for model, row in zip(cycle(MODELS), csv.DictReader(file)):
            yield a_call(model, int(row["ContextTokens"]), 0, int(row["GeneratedTokens"]))


def mooncake_calls() -> Iterator[Call]:
    """Read the trace of Mooncake; leading blocks that an earlier prompt had are cached."""
    seen = set[int]()
    path = SHARED / "mooncake-conversation-trace/conversation_trace.jsonl"
    with path.open(encoding="utf-8") as file:
        for model, line in zip(cycle(MODELS), file):
            row = json.loads(line)
            hits = next(
                (index for index, block in enumerate(row["hash_ids"]) if block not in seen),
                len(row["hash_ids"]),
            )
            seen.update(row["hash_ids"])
            context = row["input_length"]
            cached = min(hits * BLOCK_TOKENS, context)
            yield a_call(model, context, cached, row["output_length"])


TRACES = {
    "azure code": lambda: azure_calls("code"),
    "azure conversation": lambda: azure_calls("conv"),
    "mooncake": mooncake_calls,
}


def published_prices() -> dict[str, Any]:
    """Read the list prices; every digit is kept."""
    prices: dict[str, Any] = json.loads(
        PRICES.read_text(encoding="utf-8"), parse_float=Fraction, parse_int=Fraction
    )
    return prices


def price_of(prices: dict[str, Any], model: str, kind: str, context: int) -> Fraction:
    """Find what a token costs; a model without a price of reasoning charges it as output."""
    listed = prices[model]
    name = PRICE_NAMES[kind]
    if kind == "reasoning" and name not in listed:
        name = PRICE_NAMES["output"]
    is_long = model == LONG and context > LONG_CONTEXT_TOKENS
    return Fraction(listed[f"{name}_above_200k_tokens" if is_long else name])


def usage_of(call: Call) -> Iterator[GivenUsage]:
    """Give a call as each meter counts it."""
    for kind, tokens in call.tokens.items():
        yield a_given_usage(
            str(tokens),
            meter_id=METERS[kind],
            model=call.model,
            quantities={"input_tokens": str(call.context)},
        )


@pytest.mark.skipif(not PRICES.exists(), reason="../shared is not there")
@pytest.mark.parametrize("trace", TRACES)
def test_a_trace_under_six_models_equals_the_fractions(trace: str) -> None:
    """Each line is the exact sum of tokens times published prices, and so is their total."""
    calls = list(TRACES[trace]())
    prices = published_prices()
    expected = defaultdict[str, Fraction](Fraction)
    for call in calls:
        for kind, tokens in call.tokens.items():
            line = f"{kind}_{LONG}" if call.model == LONG else kind
            expected[line] += tokens * price_of(prices, call.model, kind, call.context)

    plan = parse_plan(read_plan_file(PLAN).plan, "plan")
    rating = rated_given(plan, *(usage for call in calls for usage in usage_of(call)))

    assert {line.price_id: Fraction(line.unrounded_amount) for line in rating.lines} == expected
    assert rating.total.to_decimal() == sum(
        (Decimal(int(amount * 100 + Fraction(1, 2))) / 100 for amount in expected.values()),
        Decimal(0),
    )


@pytest.mark.skipif(not PRICES.exists(), reason="../shared is not there")
def test_the_traces_reach_every_price() -> None:
    """Long and short contexts, cached tokens and each model occur, so that nothing is vacuous."""
    calls = list(mooncake_calls())

    assert {call.model for call in calls} == set(MODELS)
    assert {call.context > LONG_CONTEXT_TOKENS for call in calls if call.model == LONG} == {
        True,
        False,
    }
    assert all(any(call.tokens[kind] for call in calls) for kind in METERS)
