"""LiteLLM's prices, read as costs of providers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from cli.errors import CommandError
from cli.litellm_prices import LiteLLMPrices, read_litellm_prices

PUBLISHED = (
    Path(__file__).resolve().parents[4] / "shared/data/litellm-model-prices/model_prices.json"
)


def read(folder: Path, text: str, *providers: str) -> LiteLLMPrices:
    """Read a file of this text."""
    file = folder / "prices.json"
    file.write_text(text, encoding="utf-8")
    return read_litellm_prices(file, None, providers)


def rates(prices: LiteLLMPrices) -> set[tuple[str, str, str, str, str]]:
    """Tell the rates of the only model."""
    (cost,) = prices.costs
    return {
        (
            rate.quantity,
            rate.part_of,
            rate.service_tier,
            rate.context_above.value,
            rate.unit_amount.value,
        )
        for rate in cost.rates
    }


@dataclass(frozen=True, slots=True)
class Case:
    """Prices of a model as JSON, and the rates that they are."""

    id: str
    fields: str
    expected: set[tuple[str, str, str, str, str]]


CASES = [
    Case(
        "every digit of the finest price",
        '"input_cost_per_token": 0.000000000000000000000001',
        {("input_tokens", "", "", "", "0.000000000000000000000001")},
    ),
    Case(
        "the noise of a float, as it is written",
        '"input_cost_per_token": 0.0000029999900000000002',
        {("input_tokens", "", "", "", "0.0000029999900000000002")},
    ),
    Case(
        "cache reads and both kinds of writes are parts of the input",
        '"cache_read_input_token_cost": 3e-07, "cache_creation_input_token_cost": 3.75e-06,'
        ' "cache_creation_input_token_cost_above_1hr": 6e-06,'
        ' "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 1.2e-05',
        {
            ("cached_input_tokens", "input_tokens", "", "", "0.0000003"),
            ("cache_write_input_tokens", "input_tokens", "", "", "0.00000375"),
            ("cache_write_1h_input_tokens", "input_tokens", "", "", "0.000006"),
            ("cache_write_1h_input_tokens", "input_tokens", "", "200000", "0.000012"),
        },
    ),
    Case(
        "context and service tier together",
        '"output_cost_per_token_above_272k_tokens_batches": 9e-06,'
        ' "output_cost_per_token_flex": 6e-06, "output_cost_per_reasoning_token": 0',
        {
            ("output_tokens", "", "batch", "272000", "0.000009"),
            ("output_tokens", "", "flex", "", "0.000006"),
            ("reasoning_tokens", "output_tokens", "", "", "0"),
        },
    ),
    Case(
        "tiers by range begin where the range does",
        '"tiered_pricing": [{"input_cost_per_token": 5e-08, "range": [0, 256000.0]},'
        ' {"input_cost_per_token": 2.5e-07, "range": [256000.0, 1000000.0]}]',
        {
            ("input_tokens", "", "", "", "0.00000005"),
            ("input_tokens", "", "", "256000", "0.00000025"),
        },
    ),
    Case(
        "searches by their context, videos by their resolution",
        '"search_context_cost_per_query": {"search_context_size_low": 0.01},'
        ' "output_cost_per_second_1080p": 0.22, "output_cost_per_image_0.5K": 0.06',
        {
            ("searches_low", "", "", "", "0.01"),
            ("output_seconds_1080p", "", "", "", "0.22"),
            ("output_images_0_5k", "", "", "", "0.06"),
        },
    ),
    Case(
        "another name for a cache read gives way to the usual one",
        '"input_cost_per_token_cache_hit": 7e-08, "cache_read_input_token_cost": 6e-08',
        {("cached_input_tokens", "input_tokens", "", "", "0.00000006")},
    ),
    Case(
        "another name for a cache read",
        '"input_cost_per_token_cache_hit": 7e-08',
        {("cached_input_tokens", "input_tokens", "", "", "0.00000007")},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_price_is_the_rate_of_a_quantity(case: Case, tmp_path: Path) -> None:
    """Each of LiteLLM's names is a quantity, what includes it, a tier and a context."""
    prices = read(tmp_path, f'{{"m": {{"litellm_provider": "p", {case.fields}}}}}')

    assert rates(prices) == case.expected
    assert not prices.skipped


def test_what_has_no_counterpart_is_told(tmp_path: Path) -> None:
    """Prices in a provider's own units are counted by their names."""
    model = '{"litellm_provider": "p", "input_dbu_cost_per_token": 1, "input_cost_per_token": 2}'

    prices = read(tmp_path, f'{{"m": {model}}}')

    assert rates(prices) == {("input_tokens", "", "", "", "2")}
    assert prices.skipped == {"input_dbu_cost_per_token": 1}


def test_the_name_with_its_provider_wins(tmp_path: Path) -> None:
    """A model that is listed with and without its provider has the price of the former."""
    prices = read(
        tmp_path,
        '{"m": {"litellm_provider": "p", "input_cost_per_token": 1},'
        ' "p/m": {"litellm_provider": "p", "input_cost_per_token": 2}}',
    )

    assert rates(prices) == {("input_tokens", "", "", "", "2")}
    assert prices.warnings == ["m is left out: p/m is the same model"]


def test_some_providers_alone_can_be_read(tmp_path: Path) -> None:
    """Others are left out."""
    prices = read(
        tmp_path,
        '{"a": {"litellm_provider": "p", "input_cost_per_token": 1},'
        ' "b": {"litellm_provider": "q", "input_cost_per_token": 2}}',
        "q",
    )

    assert [(cost.provider, cost.model) for cost in prices.costs] == [("q", "b")]


def test_a_model_that_the_service_would_refuse_is_told(tmp_path: Path) -> None:
    """A negative price leaves its model out, and no other."""
    prices = read(
        tmp_path,
        '{"a": {"litellm_provider": "p", "input_cost_per_token": -1},'
        ' "b": {"litellm_provider": "p", "input_cost_per_token": 2}}',
    )

    assert [cost.model for cost in prices.costs] == ["b"]
    assert [warning.partition(":")[0] for warning in prices.warnings] == ["a is left out"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("[]", "is not an object of models", id="a list"),
        pytest.param("{", "is not JSON", id="cut"),
        pytest.param('{"m": {"input_cost_per_token": NaN}}', "NaN is no number", id="NaN"),
        pytest.param('{"m": 3}', "says nothing of the model 'm'", id="a model that is none"),
        pytest.param("[" * 100_000, "is not JSON", id="nested without end"),
    ],
)
def test_what_is_no_such_file_is_refused(text: str, words: str, tmp_path: Path) -> None:
    """A file that is something else is one sentence."""
    with pytest.raises(CommandError) as refused:
        read(tmp_path, text)

    assert words in str(refused.value)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="needs LiteLLM's prices beside the repository")
def test_every_published_price_is_a_rate_or_told() -> None:
    """All that LiteLLM publishes is read with its digits, or counted as left out."""
    published: dict[str, dict[str, Any]] = json.loads(
        PUBLISHED.read_text(encoding="utf-8"), parse_float=Decimal, parse_int=Decimal
    )

    prices = read_litellm_prices(PUBLISHED, None)

    by_model = {(cost.provider, cost.model): cost for cost in prices.costs}
    read_inputs = {
        name: Decimal(rate.unit_amount.value)
        for name, content in published.items()
        if (provider := content.get("litellm_provider", "")) + "/" in name
        for rate in getattr(
            by_model.get((provider, name.removeprefix(f"{provider}/"))), "rates", ()
        )
        if (rate.quantity, rate.service_tier, rate.context_above.value) == ("input_tokens", "", "")
    }
    expected = {
        name: content["input_cost_per_token"]
        for name, content in published.items()
        if name in read_inputs and "input_cost_per_token" in content
    }
    assert {name: read_inputs[name] for name in expected} == expected
    assert len(expected) > 2000
    assert sum(len(cost.rates) for cost in prices.costs) > 16_000
    assert sum(prices.skipped.values()) < 150
