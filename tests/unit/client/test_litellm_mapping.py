"""What LiteLLM says about callers and usage, in Tollkeeper's words; without LiteLLM."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from tollkeeper.integrations.litellm_mapping import (
    Identity,
    SubjectPath,
    dimensions_of,
    facts_of_key,
    facts_of_log,
    is_of_a_caller,
    output_tokens_bound,
    prompt_text,
    quantities_of,
)
from tollkeeper.subject_ids import subject_id


@dataclass(frozen=True)
class Counted:
    """A usage as LiteLLM reports it, and the quantities it stands for."""

    name: str
    usage: Any
    quantities: dict[str, int]


COUNTED = [
    Counted("no usage", None, {"requests": 1}),
    Counted(
        "plain",
        {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30},
        {"requests": 1, "input_tokens": 10, "output_tokens": 20},
    ),
    Counted(
        "parts are not added to the whole",
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": None},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        {
            "requests": 1,
            "input_tokens": 100,
            "cached_input_tokens": 40,
            "output_tokens": 50,
            "reasoning_tokens": 20,
        },
    ),
    Counted(
        "objects as LiteLLM has them",
        SimpleNamespace(
            prompt_tokens=7,
            completion_tokens=3,
            prompt_tokens_details=SimpleNamespace(cached_tokens=2),
            completion_tokens_details=None,
        ),
        {"requests": 1, "input_tokens": 7, "cached_input_tokens": 2, "output_tokens": 3},
    ),
    Counted(
        "Anthropic's name of the cached part",
        {"prompt_tokens": 9, "cache_read_input_tokens": 4, "prompt_tokens_details": None},
        {"requests": 1, "input_tokens": 9, "cached_input_tokens": 4},
    ),
    Counted(
        "a part larger than its whole was used",
        {
            "prompt_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 5},
            "completion_tokens": 2,
            "completion_tokens_details": {"reasoning_tokens": 6},
        },
        {
            "requests": 1,
            "input_tokens": 5,
            "cached_input_tokens": 5,
            "output_tokens": 6,
            "reasoning_tokens": 6,
        },
    ),
    Counted(
        "what is no count",
        {"prompt_tokens": -3, "completion_tokens": "many", "prompt_tokens_details": [1]},
        {"requests": 1},
    ),
]


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: case.name)
def test_usage_becomes_quantities(case: Counted) -> None:
    """Zeros are left out; one call is one request."""
    assert quantities_of(case.usage) == case.quantities


FACTS = {
    "organization_id": "acme",
    "team_id": "search",
    "project_id": "web",
    "user_id": "bob",
    "end_user_id": "jane",
    "key_hash": "5f1d",
    "metadata.cost_centre": "cc-7",
}


@dataclass(frozen=True)
class Named:
    """Facts about a caller, how they are mapped, and the path that results."""

    name: str
    facts: dict[str, str]
    path: SubjectPath
    identity: Identity = Identity()  # noqa: RUF009 - it is frozen.


NAMED = [
    Named("all there", FACTS, SubjectPath("acme", "web", "jane", "5f1d")),
    Named(
        "the team is the project of an organization",
        {"organization_id": "acme", "team_id": "search"},
        SubjectPath("acme", "search"),
    ),
    Named(
        "a team that pays is not its own project",
        {"team_id": "search", "user_id": "bob"},
        SubjectPath("search", "", "bob"),
    ),
    Named(
        "a user that pays is not the end user",
        {"user_id": "bob", "key_hash": "5f1d"},
        SubjectPath("bob", key="5f1d"),
    ),
    Named("a key of nobody", {"key_hash": "5f1d"}, SubjectPath("unassigned", key="5f1d")),
    Named(
        "a mapping of one's own",
        FACTS,
        SubjectPath("cc-7", "search", "bob", "", "jane"),
        Identity(
            customer=("metadata.cost_centre",),
            project=("team_id",),
            user=("user_id",),
            key=("key_alias",),
            run=("end_user_id",),
        ),
    ),
]


@pytest.mark.parametrize("case", NAMED, ids=lambda case: case.name)
def test_facts_become_a_path(case: Named) -> None:
    """A level takes the first fact there is, and no fact stands at two levels."""
    assert case.identity.path(case.facts) == case.path


def test_an_id_that_the_gate_takes_stays_as_it_is() -> None:
    """E-mail addresses, UUIDs and hashes of keys are ids already."""
    ids = ["jane@example.com", "1f0c-9", "a" * 64]

    assert [subject_id(each) for each in ids] == ids


def test_other_ids_are_replaced_and_stay_apart() -> None:
    """What is replaced or cut off is told apart by the digest of the whole."""
    ids = {subject_id(each) for each in ("jane doe", "jane+doe", "jane_doe", "x" * 65, "x" * 66)}

    assert len(ids) == 5
    assert "jane_doe-0037fe506057b0f1" in ids
    assert all(len(each) <= 64 for each in ids)


def test_a_key_and_its_log_tell_the_same_facts() -> None:
    """A call is booked on the same path whether or not it was held."""
    key = SimpleNamespace(
        org_id=None,
        team_id="search",
        user_id="bob",
        end_user_id="",
        api_key="5f1d",
        key_alias="ci",
        metadata={"cost_centre": "cc-7", "tags": ["a"]},
    )
    log = {
        "user_api_key_org_id": None,
        "user_api_key_team_id": "search",
        "user_api_key_user_id": "bob",
        "user_api_key_alias": "ci",
        "user_api_key_hash": "5f1d",
        "user_api_key_auth_metadata": {"cost_centre": "cc-7"},
    }
    facts = {
        "team_id": "search",
        "user_id": "bob",
        "key_alias": "ci",
        "key_hash": "5f1d",
        "metadata.cost_centre": "cc-7",
    }

    assert facts_of_key(key) == facts
    assert facts_of_log(log) == facts


def test_calls_that_litellm_makes_itself_are_nobodys() -> None:
    """Health checks carry a service account, and internal calls no key at all."""
    assert is_of_a_caller({"key_hash": "5f1d"})
    assert not is_of_a_caller({"key_hash": "litellm-internal-health-check"})
    assert not is_of_a_caller({"team_id": "search"})


def test_dimensions_fit_the_gate() -> None:
    """A caller may write anything as the name of a model."""
    assert dimensions_of("m" * 200, None) == {"model": "m" * 128}
    assert dimensions_of("", "openai") == {"provider": "openai"}


@dataclass(frozen=True)
class Bounded:
    """A request, and the bound on the tokens of its answer."""

    name: str
    request: dict[str, Any]
    bound: int
    call_type: str = "acompletion"


BOUNDED = [
    Bounded("no bound", {}, 1000),
    Bounded("the newer name wins", {"max_tokens": 9, "max_completion_tokens": 7}, 7),
    Bounded("responses", {"max_output_tokens": 5}, 5, "aresponses"),
    Bounded("several answers", {"max_tokens": 9, "n": 3}, 27),
    Bounded("nonsense", {"max_tokens": -1, "n": "two"}, 1000),
    Bounded("embeddings answer without tokens", {"max_tokens": 9}, 0, "aembedding"),
]


@pytest.mark.parametrize("case", BOUNDED, ids=lambda case: case.name)
def test_the_answer_is_bounded(case: Bounded) -> None:
    """By the caller where it says so, else by the default of 1,000."""
    assert output_tokens_bound(case.call_type, case.request, 1000) == case.bound


def test_the_words_of_a_request_are_found_wherever_they_stand() -> None:
    """Chat messages are counted by LiteLLM itself, and pictures are not words."""
    request = {
        "instructions": "be brief",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
            [1, 2, 3],
        ],
        "messages": [{"role": "user", "content": "not here"}],
    }

    assert prompt_text(request) == "be brief\nhello"
