"""The integration against the real LiteLLM proxy, a real gate and a real meter.

The proxy runs once for the module; every test is a team of its own, and a team is a customer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cli.scopes import all_scopes
from cli.signing_keys import SigningKeys
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.litellm_world import (
    ENVIRONMENT,
    ROOT,
    ProxyWorld,
    Usage,
    make_environment,
    proxy_variables,
    proxy_world,
)
from tests.quota_world import Standing, a_limit, quota_world
from tests.servers import Servers, fresh_database
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

PYTHON = ENVIRONMENT / "bin" / "python"
WORKERS = ROOT / "tests" / "integration" / "litellm" / "two_workers.py"
TENANT = "tenant-of-the-proxy"
CALLS_MAX = 10
COUNTED = {
    "requests": "1",
    "input_tokens": "100",
    "cached_input_tokens": "40",
    "output_tokens": "50",
    "reasoning_tokens": "20",
}
SERVED = {"model": "counting", "provider": "openai"}


@pytest.fixture(scope="module")
def settings(servers: Servers, template: str, keys: SigningKeys) -> Any:  # noqa: ANN401 - a generator of makers.
    """Make the settings of services that live as long as the proxy."""
    with fresh_database(servers, template) as database_url:

        def make(service: str, **overrides: object) -> ServiceSettings:
            return ServiceSettings.model_validate(
                {
                    "service": service,
                    "listen": "127.0.0.1:0",
                    "database_url": database_url,
                    "redis_url": servers.redis_url,
                    "keys_file": keys.public_file,
                    "service_key_file": keys.service_file,
                    **overrides,
                }
            )

        yield make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    settings: Any,  # noqa: ANN401 - as above.
    keys: SigningKeys,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ProxyWorld]:
    """A proxy whose teams may make 10 calls and use 1,000 tokens in and 1,000 out."""
    make_environment()
    folder = tmp_path_factory.mktemp("litellm")
    token = TokenIssuer(keys.issuer_key()).issue(
        TENANT, all_scopes(), "key", datetime.now(UTC) + timedelta(hours=1)
    )
    async with (
        quota_world(settings, keys, TENANT) as gate,
        hosted("meter", settings("meter")) as meter,
        open_channel(meter) as channel,
    ):
        await gate.put(
            a_limit("calls", units=["requests"], capacity=str(CALLS_MAX)),
            a_limit("input", units=["input_tokens"], capacity="1000"),
            a_limit("output", units=["output_tokens"], capacity="1000"),
        )
        spool = str(folder / "spool")
        variables = proxy_variables(token, gate.address, meter, TOLLKEEPER_SPOOL=spool)
        async with proxy_world(folder, gate, MeterServiceStub(channel), variables) as world:
            yield world


def booked(team: str, calls: int, tokens_in: int, tokens_out: int) -> list[Standing]:
    """Return how the limits of a team stand after calls, none of which is held."""
    return [
        Standing("calls", team, calls, 0, CALLS_MAX - calls),
        Standing("input", team, tokens_in, 0, 1000 - tokens_in),
        Standing("output", team, tokens_out, 0, 1000 - tokens_out),
    ]


async def test_an_answer_is_booked_and_metered_as_the_provider_counted(world: ProxyWorld) -> None:
    """Cached and reasoning tokens are parts of input and output, and never added to them."""
    answer = await world.ask("answered", "counting", user="jane")

    assert answer.status == 200, answer
    assert answer.headers["ratelimit"].startswith('"calls";r=9')
    assert await world.usage("answered") == [Usage("jane", "key-of-answered", SERVED, COUNTED)]
    assert await world.standings("answered") == booked("answered", 1, 100, 50)


async def test_a_streamed_answer_counts_the_same(world: ProxyWorld) -> None:
    """The usage comes at the end of the stream, whether or not the caller asked for it."""
    answer = await world.ask("streamed", "counting", stream=True)

    assert answer.body.endswith("data: [DONE]\n\n"), answer
    assert [each.quantities for each in await world.usage("streamed")] == [COUNTED]
    assert await world.standings("streamed") == booked("streamed", 1, 100, 50)


async def test_a_stream_holds_little_of_what_it_may_answer(world: ProxyWorld) -> None:
    """Of 5,000 tokens it holds 256 at first; a call that does not stream holds all, or nothing."""
    streamed = await world.ask("little", "counting", stream=True, max_tokens=5_000)
    whole = await world.ask("little", "counting", max_tokens=5_000)

    assert (streamed.status, whole.status) == (200, 429)
    assert await world.standings("little") == booked("little", 1, 100, 50)


async def test_the_model_of_the_example_answers_without_a_provider(world: ProxyWorld) -> None:
    """The example runs as it is written; its figures are those that LiteLLM makes up."""
    answer = await world.ask("example", "small")
    usage = await world.usage("example")

    assert "An answer that needs no provider." in answer.body
    assert [each.quantities for each in usage] == [
        {"requests": "1", "input_tokens": "10", "output_tokens": "20"}
    ]


async def test_a_failed_call_gives_its_hold_back(world: ProxyWorld) -> None:
    """It was tried twice, and neither attempt used anything."""
    answer = await world.ask("failed", "failing")

    assert answer.status == 500, answer
    assert await world.standings("failed") == booked("failed", 0, 0, 0)
    assert await world.usage("failed", count=0) == []


async def test_a_call_that_fell_back_counts_once(world: ProxyWorld) -> None:
    """Of three attempts at two models one answered, and that is what the customer pays."""
    answer = await world.ask("fallen-back", "failing-over")

    assert answer.status == 200, answer
    assert await world.usage("fallen-back") == [
        Usage("an_employee-1754e307d9621508", "key-of-fallen-back", SERVED, COUNTED)
    ]
    assert await world.standings("fallen-back") == booked("fallen-back", 1, 100, 50)


async def test_calls_that_share_a_call_id_all_count(world: ProxyWorld) -> None:
    """A caller that chooses its call ids, and always the same, gains nothing by it."""
    await asyncio.gather(
        *(world.ask_with_call_id("sharing", "counting", "an id, chosen") for _ in range(2))
    )
    await world.ask_with_call_id("sharing", "counting", "an id, chosen")
    usage = await world.usage("sharing", count=3)

    assert [each.quantities for each in usage] == [COUNTED] * 3
    assert await world.standings("sharing") == booked("sharing", 3, 300, 150)


async def test_a_stream_that_breaks_is_booked_as_far_as_it_came(world: ProxyWorld) -> None:
    """What was delivered was used, as LiteLLM counts it."""
    answer = await world.ask_until_it_breaks("broken", "interrupted")
    (usage,) = await world.usage("broken")
    used_in, used_out = (int(usage.quantities[u]) for u in ("input_tokens", "output_tokens"))

    assert answer.body.startswith("data: "), answer
    assert used_out > 0
    assert await world.standings("broken") == booked("broken", 1, used_in, used_out)


async def test_a_caller_that_hangs_up_pays_for_what_was_streamed(world: ProxyWorld) -> None:
    """The rest of its hold is free at once."""
    await world.hang_up("gone", "interrupted")
    (usage,) = await world.usage("gone")
    used_in, used_out = (int(usage.quantities[u]) for u in ("input_tokens", "output_tokens"))

    assert 0 < used_out < 50
    assert await world.standings("gone") == booked("gone", 1, used_in, used_out)


async def test_a_denial_is_429_and_asks_no_provider(world: ProxyWorld) -> None:
    """The caller learns which limit refused it, how it stands and when to come back."""
    answer = await world.ask("denied", "never-asked", max_tokens=1001)

    assert answer.status == 429, answer
    assert "limit output of denied: 1000 of 1000 output_tokens left" in answer.body
    assert answer.headers["ratelimit-policy"] == '"output";q=1000'
    assert answer.headers["ratelimit"].startswith('"output";r=1000;t=')
    assert "retry-after" not in answer.headers
    assert "never-asked" not in world.provider.asked
    assert await world.standings("denied") == booked("denied", 0, 0, 0)


async def test_of_many_callers_exactly_those_pass_for_whom_there_is_room(
    world: ProxyWorld,
) -> None:
    """The others are told when the window turns."""
    answers = await asyncio.gather(
        *(world.ask("racing", "counting", max_tokens=60) for _ in range(25))
    )
    refused = [each for each in answers if each.status == 429]

    assert Counter(each.status for each in answers) == {200: CALLS_MAX, 429: 15}
    assert all(int(each.headers["retry-after"]) > 0 for each in refused)
    assert len(await world.usage("racing", CALLS_MAX)) == CALLS_MAX
    assert await world.standings("racing") == booked("racing", CALLS_MAX, 1000, 500)


async def test_an_answer_out_of_the_cache_of_the_proxy_is_a_request(world: ProxyWorld) -> None:
    """Its tokens were paid for the first time."""
    cached = {"cache": {"use-cache": True}, "messages": [{"role": "user", "content": "again"}]}
    for _ in range(2):
        await world.ask("caching", "counting", **cached)
    usage = await world.usage("caching", count=2)

    assert [each.quantities for each in usage] == [COUNTED, {"requests": "1"}]
    assert await world.standings("caching") == booked("caching", 2, 100, 50)


async def run_workers(world: ProxyWorld, team: str, spool: Path, policy: str) -> str:
    """Run two workers of a proxy whose gate is gone, until the meter has their events."""
    variables = world.variables | {
        "TOLLKEEPER_QUOTA_ADDRESS": "127.0.0.1:1",
        "TOLLKEEPER_SPOOL": str(spool),
        "TOLLKEEPER_WHEN_UNAVAILABLE": policy,
    }
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        WORKERS,
        team,
        env=variables,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    await world.usage(team, count=2 if policy == "open" else 0)
    said, _ = await process.communicate(b"")
    return said.decode()


async def test_calls_pass_an_open_gateway_when_the_gate_is_gone(
    world: ProxyWorld, tmp_path: Path
) -> None:
    """Their usage reaches the meter all the same; each worker has a spool of its own."""
    said = await run_workers(world, "ungated", tmp_path, "open")

    assert said.splitlines() == ["passed", "passed", "['worker-0', 'worker-1']"]
    assert [each.quantities for each in await world.usage("ungated", count=2)] == [
        {"requests": "1", "input_tokens": "1", "output_tokens": "2"}
    ] * 2


async def test_a_closed_gateway_refuses_when_the_gate_is_gone(
    world: ProxyWorld, tmp_path: Path
) -> None:
    """The caller hears 503 and may come back."""
    said = await run_workers(world, "shut-out", tmp_path, "closed")

    refusal = "503 the quota gate gave no answer {'Retry-After': '1'}"
    assert said.splitlines() == [refusal, refusal, "['worker-0', 'worker-1']"]
