"""How LiteLLM's words become Tollkeeper's: who calls, what a call may use, what it used.

Nothing here imports LiteLLM or asks anybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tollkeeper.subject_ids import subject_id

GENERATING_CALLS = frozenset(
    {"completion", "acompletion", "text_completion", "atext_completion"}
    | {"responses", "aresponses", "anthropic_messages", "aanthropic_messages"}
    | {"generate_content", "agenerate_content"}
    | {"generate_content_stream", "agenerate_content_stream"}
)
"""Kinds of calls that a model answers with tokens."""

STREAMED_CALLS = frozenset({"completion", "acompletion"})
"""Kinds of calls whose streams come token by token, so that a hold can grow with them."""

GATED_CALLS = GENERATING_CALLS | frozenset(
    {"embedding", "aembedding", "moderation", "amoderation", "rerank", "arerank"}
    | {"image_generation", "aimage_generation", "image_edit", "aimage_edit"}
    | {"transcription", "atranscription", "speech", "aspeech"}
)
"""Kinds of calls that are held before they run; files, batches and the like are not."""

DIMENSION_CHARACTERS_MAX = 128

# LiteLLM's own calls, such as health checks, carry service accounts of this name.
_INTERNAL_KEY_PREFIX = "litellm-internal-"
_TEXT_FIELDS = ("system", "instructions", "prompt", "input", "contents", "query", "documents")
_TEXT_KEYS = ("text", "content", "parts", "input", "output", "arguments")
_OUTPUT_BOUNDS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class SubjectPath:
    """The ids of a call by level; empty where it names nobody."""

    customer: str
    project: str = ""
    user: str = ""
    key: str = ""
    run: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """From which of LiteLLM's facts each level of the subject path is taken.

    A level takes the first fact that there is and that no level above has taken. The facts are
    `organization_id`, `team_id`, `project_id`, `user_id`, `end_user_id`, `key_alias`, `key_hash`,
    and `metadata.<name>` for an entry of the key's metadata.
    """

    customer: tuple[str, ...] = ("organization_id", "team_id", "user_id")
    project: tuple[str, ...] = ("project_id", "team_id")
    user: tuple[str, ...] = ("end_user_id", "user_id")
    key: tuple[str, ...] = ("key_hash",)
    run: tuple[str, ...] = ()
    fallback_customer: str = "unassigned"

    def path(self, facts: Mapping[str, str]) -> SubjectPath:
        """Return the path of a call; a level without a fact stays empty."""
        left = {name: text for name, text in facts.items() if text}

        def first(sources: tuple[str, ...]) -> str:
            source = next((each for each in sources if each in left), "")
            return subject_id(left.pop(source)) if source else ""

        return SubjectPath(
            customer=first(self.customer) or self.fallback_customer,
            project=first(self.project),
            user=first(self.user),
            key=first(self.key),
            run=first(self.run),
        )


def facts_of_key(key: object) -> dict[str, str]:
    """Return the facts about a caller from the key that the proxy has authenticated."""
    named = {
        "organization_id": getattr(key, "org_id", None),
        "team_id": getattr(key, "team_id", None),
        "project_id": getattr(key, "project_id", None),
        "user_id": getattr(key, "user_id", None),
        "end_user_id": getattr(key, "end_user_id", None),
        "key_alias": getattr(key, "key_alias", None),
        "key_hash": getattr(key, "api_key", None),
    }
    return _present(named, getattr(key, "metadata", None))


def facts_of_log(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts about a caller from the metadata of a logged call."""
    named = {
        "organization_id": metadata.get("user_api_key_org_id"),
        "team_id": metadata.get("user_api_key_team_id"),
        "project_id": metadata.get("user_api_key_project_id"),
        "user_id": metadata.get("user_api_key_user_id"),
        "end_user_id": metadata.get("user_api_key_end_user_id"),
        "key_alias": metadata.get("user_api_key_alias"),
        "key_hash": metadata.get("user_api_key_hash"),
    }
    return _present(named, metadata.get("user_api_key_auth_metadata"))


def is_of_a_caller(facts: Mapping[str, str]) -> bool:
    """Say whether somebody's key made the call, and not LiteLLM itself."""
    key = facts.get("key_hash", "")
    return bool(key) and not key.startswith(_INTERNAL_KEY_PREFIX)


def dimensions_of(model: object, provider: object = None) -> dict[str, str]:
    """Return the dimensions of a call, cut to what the gate takes; unknown ones are left out."""
    named = {"model": model, "provider": provider}
    return {name: str(value)[:DIMENSION_CHARACTERS_MAX] for name, value in named.items() if value}


def quantities_of(usage: object) -> dict[str, int]:
    """Return what one call used, by unit, out of LiteLLM's usage; zeros are left out.

    `input_tokens` includes the cached ones and `output_tokens` those of reasoning, as in LiteLLM's
    prompt and completion tokens, so the parts are never added to the whole. A provider that reports
    a part larger than its whole has used the part.
    """
    fields = _fields(usage)
    input_parts = _fields(fields.get("prompt_tokens_details"))
    output_parts = _fields(fields.get("completion_tokens_details"))
    cached = _count(input_parts.get("cached_tokens")) or _count(
        fields.get("cache_read_input_tokens")
    )
    reasoning = _count(output_parts.get("reasoning_tokens"))
    counts = {
        "requests": 1,
        "input_tokens": max(_count(fields.get("prompt_tokens")), cached),
        "cached_input_tokens": cached,
        "output_tokens": max(_count(fields.get("completion_tokens")), reasoning),
        "reasoning_tokens": reasoning,
    }
    return {unit: count for unit, count in counts.items() if count}


def output_tokens_bound(call_type: str, request: Mapping[str, Any], default: int) -> int:
    """Return how many tokens a model may answer at most: the caller's own bound or the default."""
    if call_type not in GENERATING_CALLS:
        return 0
    bounds = (_count(request.get(name)) for name in _OUTPUT_BOUNDS)
    bound = next((each for each in bounds if each), default)
    return bound * (_count(request.get("n")) or 1)


def prompt_text(request: Mapping[str, Any]) -> str:
    """Return the words of a request that are not chat messages, for their tokens to be counted."""
    return "\n".join(text for name in _TEXT_FIELDS for text in _texts(request.get(name)))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, dict):
        for key in _TEXT_KEYS:
            yield from _texts(value.get(key))


def _present(named: Mapping[str, object], metadata: object) -> dict[str, str]:
    entries = metadata if isinstance(metadata, Mapping) else {}
    facts = {**named, **{f"metadata.{name}": value for name, value in entries.items()}}
    return {name: value for name, value in facts.items() if isinstance(value, str) and value}


def _fields(value: object) -> Mapping[str, Any]:
    """Return the fields of a part of a usage: it comes as a mapping or as a pydantic model."""
    if isinstance(value, Mapping):
        return value
    return getattr(value, "__dict__", {})


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0
