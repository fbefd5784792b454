"""The examples run as the documents say, each in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.scopes import all_scopes
from cli.signing_keys import SigningKeys
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.quota_world import Standing, a_limit, quota_world
from tollkeeper.api.meter.v1.meter_service_pb2 import ListEventsRequest
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = ROOT / "examples" / "gateway_demo.py"
DEMO = [
    "200: 40 tokens, then stop",
    "200: 40 tokens, then stop",
    "200: 20 tokens, then length",
    "429: refused by limit answers of acme: 0 of 100 output_tokens left",
]


def test_the_documents_quote_the_example_as_it_is() -> None:
    """What a reader copies for LiteLLM is what runs in the tests of its integration."""
    text = (ROOT / "client" / "README.md").read_text()
    hooks = (ROOT / "examples" / "litellm" / "hooks.py").read_text().partition('"""\n\n')[2]
    configuration = (ROOT / "examples" / "litellm" / "config.yaml").read_text()

    assert f"```python\n{hooks}```" in text
    assert f"```yaml\n{configuration}```" in text


async def run_demo(variables: Mapping[str, str]) -> list[str]:
    """Run the gateway's demo, and give what it said of its answers, without times."""
    inherited = {name: text for name, text in os.environ.items() if "TOLLKEEPER" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        GATEWAY,
        env={**inherited, **variables},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    lines = re.sub(r", retry in .*", "", said.decode()).splitlines()
    return lines[-len(DEMO) :]


async def test_the_gateway_asks_the_services_of_its_environment(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> None:
    """It streams while there is room, refuses after that, and reports what was streamed."""
    async with (
        quota_world(settings_for, keys, tenant) as gate,
        hosted("meter", settings_for("meter")) as meter,
    ):
        await gate.put(a_limit("answers", units=["output_tokens"]))
        token = TokenIssuer(keys.issuer_key()).issue(
            tenant, all_scopes(), "key", datetime.now(UTC) + timedelta(hours=1)
        )
        said = await run_demo(
            {
                "TOLLKEEPER_TOKEN": token,
                "TOLLKEEPER_QUOTA_ADDRESS": gate.address,
                "TOLLKEEPER_METER_ADDRESS": meter,
            }
        )
        standings = await gate.balances()
        async with open_channel(meter) as channel:
            metered = await MeterServiceStub(channel).ListEvents(
                ListEventsRequest(customer_id="acme"),
                metadata=(("authorization", f"Bearer {token}"),),
            )

    assert said == DEMO
    assert standings == [Standing("answers", "acme", 100, 0, 0)]
    assert [each.event.quantities["output_tokens"] for each in metered.events] == ["40", "40", "20"]


@pytest.mark.slow
async def test_the_gateway_brings_its_services_along() -> None:
    """Without an environment it starts everything, and leaves nothing behind."""
    assert await run_demo({}) == DEMO
