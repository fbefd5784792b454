"""The cases of envoyproxy/ratelimit's own tests, answered by the facade on a real Redis."""

import json
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import ParseDict

from cli.signing_keys import SigningKeys
from services.quota.envoy import counters
from services.quota.envoy.configuration import read_rules
from services.quota.envoy.convert import parse_request
from services.quota.envoy.fields import File
from services.quota.envoy.messages import RateLimitRequest, RateLimitResponse
from services.quota.envoy.rules import Rules
from services.quota.envoy.verdict import Counted, Hit, Tally, tally
from tests.envoy_world import (
    EnvoyWorld,
    Said,
    asking,
    envoy_world,
    put_counter,
    said,
    stopped_clock,
)

CASES_FILE = Path(__file__).parents[3] / "shared/data/peer-cases/envoy_rls_cases.json"
CASES = json.loads(CASES_FILE.read_text())["cases"] if CASES_FILE.exists() else []
UNLIMITED = Said("OK", None, 2**32 - 1)
NOTHING = Said("OK", None, 0)

SETTINGS = {
    "near_limit_ratio": "near_ratio",
    "local_cache": "local_cache_size",
    "stop_cache_key_increment_when_overlimit": "stops",
    "merge_domain_configurations": "merges_domains",
    "limit_response_headers_enabled": "has_headers",
    "limit_header": "limit_header",
    "remaining_header": "remaining_header",
    "reset_header": "reset_header",
    "global_shadow_mode": "is_shadow",
    "global_quota_mode": "is_quota",
}


@pytest.fixture
def stopped(tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tenant whose windows turn only when the test says so."""
    monkeypatch.setattr(counters, "SCRIPT", stopped_clock(tmp_path, tenant))
    return tenant


def cases(kind: str) -> list[Any]:
    """Answer the cases of a kind, or one that says why there are none."""
    if not CASES:
        reason = "../shared/data/peer-cases is not on this machine"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason), id="absent")]
    return [pytest.param(case, id=case["id"]) for case in CASES if case["kind"] == kind]


def settings_of(case: Mapping[str, Any]) -> dict[str, Any]:
    """Write the settings of a case as ours."""
    given = {SETTINGS[name]: value for name, value in case.get("settings", {}).items()}
    if given.get("local_cache_size") is True:
        given["local_cache_size"] = 1000
    return given


def rules_of(case: Mapping[str, Any]) -> Rules:
    """Read the rules of a case."""
    files = [File(f"{n}.yaml", yaml.safe_dump(each)) for n, each in enumerate(case["config"])]
    return read_rules(files, merges_domains=True)


def request_of(step: Mapping[str, Any]) -> Any:  # noqa: ANN401 - made at run time.
    """Write the request of a step."""
    return ParseDict(step["request"], RateLimitRequest())


def expected(status: Mapping[str, Any]) -> Said:
    """Write an expected status as the tests do."""
    limit = status["current_limit"]
    written = None if limit is None else f"{limit['requests_per_unit']} {limit['unit']}"
    return Said(status["code"], written, status["limit_remaining"])


async def put_counters(
    world: EnvoyWorld, rules: Rules, step: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Let the counters of a step stand where it wants them."""
    request = request_of(step)
    stops = bool(settings.get("stops"))
    for descriptor, count in zip(
        parse_request(request), step.get("counters_before", ()), strict=False
    ):
        match = rules.find(request.domain, descriptor.entries, descriptor.override)
        if match is not None:
            await put_counter(world, request.domain, match, step["now"], count, stops=stops)


@pytest.mark.parametrize("case", cases("decide"))
async def test_a_case_is_decided_as_the_original_decides_it(
    case: dict[str, Any],
    redis_url: str,
    keys: SigningKeys,
    stopped: str,
    tmp_path: Path,
) -> None:
    """Every step has the code, the statuses, the times and the headers of the original."""
    settings, rules = settings_of(case), rules_of(case)
    async with envoy_world(redis_url, keys, stopped, tmp_path, case["config"], **settings) as world:
        for step in case["steps"]:
            await world.set_clock(step["now"])
            await put_counters(world, rules, step, settings)
            answer = await world.ask(request_of(step))

            wanted = step["expect"]
            assert RateLimitResponse.Code.Name(answer.overall_code) == wanted["overall_code"]
            assert said(answer) == [expected(status) for status in wanted["statuses"]]
            for status, of in zip(answer.statuses, wanted["statuses"], strict=True):
                if "duration_until_reset_s" in of:
                    assert status.duration_until_reset.seconds == of["duration_until_reset_s"]
            headers = {each.key: each.value for each in answer.response_headers_to_add}
            assert headers == wanted.get("headers", {})


@pytest.mark.parametrize("case", cases("match"))
async def test_a_descriptor_meets_the_rule_it_meets_in_the_original(
    case: dict[str, Any], redis_url: str, keys: SigningKeys, tenant: str, tmp_path: Path
) -> None:
    """Each lookup answers the limit of the rule, that there is none, or that it is unlimited."""
    async with envoy_world(
        redis_url, keys, tenant, tmp_path, case["config"], **settings_of(case)
    ) as world:
        for lookup in case["lookups"]:
            request = asking(lookup["domain"], {})
            for entry in lookup["entries"]:
                request.descriptors[0].entries.add(**entry)
            (status,) = said(await world.ask(request))

            match lookup["expect"]:
                case None:
                    assert status == NOTHING, lookup
                case {"unlimited": True}:
                    assert status == UNLIMITED, lookup
                case limit:
                    wanted = f"{limit['requests_per_unit']} {limit['unit']}"
                    assert status.limit == wanted, lookup


@pytest.mark.parametrize("case", cases("decide"))
def test_the_statistics_of_a_case_move_as_in_the_original(case: dict[str, Any]) -> None:
    """Hits are total, near, within and over in the same numbers."""
    names = {field.name for field in fields(Tally)}
    ratio = Decimal(str(case.get("settings", {}).get("near_limit_ratio", "0.8")))
    for step in case["steps"]:
        for place, wanted in enumerate(step["expect"].get("stats_delta", ())):
            request = request_of(step)
            descriptor = parse_request(request)[place]
            hit = Hit(rules_of(case).find(request.domain, descriptor.entries), descriptor.addend)
            before = step.get("counters_before", [0])[place] or 0
            is_known = bool(wanted.get("over_limit_with_local_cache"))
            moved = tally(hit, Counted(before + descriptor.addend, 0, is_known), ratio)
            found = {name: getattr(moved, name) for name in names & wanted.keys()}
            assert found == {name: wanted[name] for name in found}


def test_no_case_is_left_out() -> None:
    """Every kind of case in the file is one that is tried here."""
    assert {case["kind"] for case in CASES} <= {"decide", "match"}
