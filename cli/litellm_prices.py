"""Reads the prices of models that LiteLLM publishes, as costs of providers.

The file is `model_prices_and_context_window.json` of LiteLLM: an object of models, each with its
prices in dollars for single units. Every digit is kept. What has no counterpart, such as prices in
units of a provider's own money, is counted and told; nothing is guessed.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from cli.errors import CommandError
from kit.decimals import plain
from kit.errors import InvalidInput
from kit.rpc.wire import render_decimal, render_time
from services.rating.convert.costs import parse_provider_cost
from tollkeeper.api.rating.v1.provider_cost_pb2 import CostRate, ProviderCost

FILE_BYTES_MAX = 64 * 2**20
SOURCE = "LiteLLM"
_CURRENCY = "USD"
_THOUSAND = 1000
_ZERO = Decimal(0)
_INPUT, _OUTPUT = "input_tokens", "output_tokens"
_QUANTITIES: Mapping[str, tuple[str, str]] = {
    "input_cost_per_token": (_INPUT, ""),
    "output_cost_per_token": (_OUTPUT, ""),
    "cache_read_input_token_cost": ("cached_input_tokens", _INPUT),
    "cache_creation_input_token_cost": ("cache_write_input_tokens", _INPUT),
    "cache_creation_input_token_cost_above_1hr": ("cache_write_1h_input_tokens", _INPUT),
    "cache_read_input_audio_token_cost": ("cached_input_audio_tokens", _INPUT),
    "cache_read_input_image_token_cost": ("cached_input_image_tokens", _INPUT),
    "cache_creation_input_audio_token_cost": ("cache_write_input_audio_tokens", _INPUT),
    "input_cost_per_audio_token": ("input_audio_tokens", _INPUT),
    "input_cost_per_image_token": ("input_image_tokens", _INPUT),
    "input_cost_per_video_token": ("input_video_tokens", _INPUT),
    "output_cost_per_reasoning_token": ("reasoning_tokens", _OUTPUT),
    "output_cost_per_audio_token": ("output_audio_tokens", _OUTPUT),
    "output_cost_per_image_token": ("output_image_tokens", _OUTPUT),
    "output_cost_per_video_token": ("output_video_tokens", _OUTPUT),
    "citation_cost_per_token": ("citation_tokens", ""),
    "input_cost_per_character": ("input_characters", ""),
    "output_cost_per_character": ("output_characters", ""),
    "input_cost_per_image": ("input_images", ""),
    "output_cost_per_image": ("output_images", ""),
    "input_cost_per_pixel": ("input_pixels", ""),
    "output_cost_per_pixel": ("output_pixels", ""),
    "cost_per_second": ("seconds", ""),
    "input_cost_per_second": ("input_seconds", ""),
    "output_cost_per_second": ("output_seconds", ""),
    "input_cost_per_audio_per_second": ("input_audio_seconds", ""),
    "input_cost_per_video_per_second": ("input_video_seconds", ""),
    "output_cost_per_video_per_second": ("output_video_seconds", ""),
    "input_cost_per_query": ("queries", ""),
    "input_cost_per_request": ("requests", ""),
    "input_cost_per_text_message": ("text_messages", ""),
    "ocr_cost_per_page": ("ocr_pages", ""),
    "ocr_cost_per_credit": ("ocr_credits", ""),
    "annotation_cost_per_page": ("annotated_pages", ""),
    "code_interpreter_cost_per_session": ("code_interpreter_sessions", ""),
    "google_maps_grounding_cost_per_query": ("google_maps_queries", ""),
}
"""By LiteLLM's name of a price: the quantity of usage events, and the one that includes it."""
_SAME = {"input_cost_per_token_cache_hit": "cache_read_input_token_cost"}
_TIERS = {"batches": "batch", "flex": "flex", "priority": "priority", "ultrafast": "ultrafast"} | {
    "balanced": "balanced",
    "decisions": "decisions",
}
_SUFFIXES = re.compile(rf"(?:_above_([0-9]+)k_tokens)?(?:_({'|'.join(_TIERS)}))?")
_RESOLUTION = re.compile(r"(output_cost_per_(?:second|image))_([0-9][0-9.]*[A-Za-z]{0,2})")
_RateKey = tuple[str, str, str, Decimal]


@dataclass(slots=True)
class LiteLLMPrices:
    """What a file holds: a cost for each model, and what was left out, by name."""

    costs: list[ProviderCost] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def read_litellm_prices(
    path: Path, effective_time: datetime | None, providers: Sequence[str] = ()
) -> LiteLLMPrices:
    """Read the costs of a file, of some providers or of all.

    Raises:
        CommandError: it cannot be read, or is not such a file.
    """
    models = _read(path)
    prices = LiteLLMPrices()
    named: dict[tuple[str, str], str] = {}
    # A name with its provider in front is more exact, and wins over one without.
    for name in sorted(models, key=lambda name: ("/" not in name, name)):
        content = models[name]
        if not isinstance(content, dict):
            raise CommandError(f"{path} says nothing of the model {name!r} that has prices")
        provider = str(content.get("litellm_provider", ""))
        if not provider or (providers and provider not in providers):
            continue
        model = name.removeprefix(f"{provider}/")
        rates = list(_Rates(prices.skipped).read(content))
        if not rates:
            continue
        cost = ProviderCost(
            provider=provider,
            model=model,
            currency=_CURRENCY,
            effective_time=None if effective_time is None else render_time(effective_time),
            rates=rates,
            source=SOURCE,
        )
        if (provider, model) in named:
            first = named[provider, model]
            prices.warnings.append(f"{name} is left out: {first} is the same model")
        elif _is_good(cost, name, prices.warnings):
            named[provider, model] = name
            prices.costs.append(cost)
    prices.costs.sort(key=lambda cost: (cost.provider, cost.model))
    return prices


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise CommandError(f"{path} is larger than {FILE_BYTES_MAX // 2**20} MB")
        models = json.loads(
            path.read_text(encoding="utf-8"),
            parse_float=Decimal,
            parse_int=Decimal,
            parse_constant=_refuse_constant,
        )
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not JSON: {error}") from None
    if not isinstance(models, dict):
        raise CommandError(f"{path} is not an object of models, as LiteLLM publishes it")
    return {name: content for name, content in models.items() if name != "sample_spec"}


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


class _Rates:
    """The rates of one model, as they are found."""

    def __init__(self, skipped: Counter[str]) -> None:
        self._amounts: dict[_RateKey, Decimal] = {}
        self._skipped = skipped

    def read(self, content: Mapping[str, Any]) -> Iterator[CostRate]:
        """Answer the rates of a model, and count what is left out."""
        for name, value in content.items():
            if "cost" in name or name == "tiered_pricing":
                self._read_price(name, value)
        for alias, name in _SAME.items():
            if isinstance(content.get(alias), Decimal):
                self._add(name, content[alias])
        for (quantity, part_of, tier, above), amount in sorted(self._amounts.items()):
            yield CostRate(
                quantity=quantity,
                part_of=part_of,
                service_tier=tier,
                context_above=render_decimal(above) if above else None,
                unit_amount=render_decimal(amount),
            )

    def _read_price(self, name: str, value: object) -> None:
        match name, value:
            case _, Decimal():
                if name not in _SAME and not self._add(name, value):
                    self._skipped[name] += 1
            case "search_context_cost_per_query", dict():
                for size, amount in value.items():
                    quantity = f"searches_{size.removeprefix('search_context_size_')}"
                    if isinstance(amount, Decimal):
                        self._amounts[quantity, "", "", _ZERO] = amount
            case "tiered_pricing", list():
                for tier in value:
                    self._read_tier(tier)
            case _:
                self._skipped[name] += 1

    def _read_tier(self, tier: object) -> None:
        """Add prices by the size of a call, each from where its range begins."""
        match tier:
            case {"range": [Decimal() as start, *_], **amounts}:
                for name, amount in amounts.items():
                    if not isinstance(amount, Decimal) or not self._add(str(name), amount, start):
                        self._skipped[f"tiered_pricing.{name}"] += 1
            case _:
                self._skipped["tiered_pricing without range"] += 1

    def _add(self, name: str, amount: Decimal, above: Decimal = _ZERO) -> bool:
        key = _key_of(name, above)
        if key is not None:
            self._amounts.setdefault(key, amount)
        return key is not None


def _key_of(name: str, above: Decimal) -> _RateKey | None:
    """Tell which rate a price is; nothing for one without counterpart."""
    resolution = _RESOLUTION.fullmatch(name)
    if resolution is not None:
        quantity, _ = _QUANTITIES[resolution[1]]
        return f"{quantity}_{resolution[2].lower().replace('.', '_')}", "", "", above
    for base in sorted(_QUANTITIES, key=len, reverse=True):
        if name.startswith(base):
            suffixes = _SUFFIXES.fullmatch(name, len(base))
            if suffixes is None:
                return None
            context, tier = suffixes.groups()
            if context is not None:
                above = Decimal(context) * _THOUSAND
            return *_QUANTITIES[base], _TIERS.get(tier or "", ""), above
    return None


def _is_good(cost: ProviderCost, name: str, warnings: list[str]) -> bool:
    """Tell whether the service would take a cost, and warn of what is wrong with it."""
    try:
        parse_provider_cost(cost, name)
    except InvalidInput as error:
        warnings.append(f"{name} is left out: {error.message}")
        return False
    return True


def rate_text(rate: CostRate) -> str:
    """Write a rate for people: `batch, above 200000: 0.00000125`."""
    conditions = [rate.service_tier] if rate.service_tier else []
    if rate.HasField("context_above"):
        conditions.append(f"above {plain(Decimal(rate.context_above.value))}")
    return ": ".join(filter(None, (", ".join(conditions), rate.unit_amount.value)))
