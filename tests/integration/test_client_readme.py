"""The examples of the client's README run as they are written, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.integration.test_client import Place, running_place
from tests.quota_world import Standing, a_limit

README = Path(__file__).resolve().parents[2] / "client" / "README.md"
LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]
CAPACITY = 1_000_000


@pytest.fixture
async def place(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Place]:
    """A gate that counts output tokens, and a meter; the environment names both."""
    async with running_place(settings_for, keys, tenant) as place:
        await place.gate.put(a_limit(units=["output_tokens"], capacity=str(CAPACITY)))
        monkeypatch.setenv("TOLLKEEPER_TOKEN", place.token)
        monkeypatch.setenv("TOLLKEEPER_QUOTA_ADDRESS", place.gate.address)
        monkeypatch.setenv("TOLLKEEPER_METER_ADDRESS", place.meter)
        yield place


def example(holding: str) -> str:
    """Return the one example that holds a text."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (found,) = (block for block in blocks if holding in block)
    return str(found)


async def call_the_model(prompt: str) -> AsyncIterator[str]:
    """Stream an answer of 40 tokens."""
    for number in range(40):
        yield f"{prompt} {number}"


async def run(place: Place, loop: Callable[[], asyncio.AbstractEventLoop], text: str) -> Any:  # noqa: ANN401 - whatever it answers.
    """Run an example in a thread with a loop of its own: a program, or a function of a client."""
    names: dict[str, Any] = {"call_the_model": call_the_model}
    program = text.replace("asyncio.run(main())", "")

    async def in_a_client(name: str, *arguments: object) -> None:
        async with place.client() as toll:
            await names[name](toll, *arguments)

    def work() -> None:
        exec(compile(program, str(README), "exec"), names)  # noqa: S102 - text of our own.
        with asyncio.Runner(loop_factory=loop) as runner:
            if "main" in names:
                runner.run(names["main"]())
            elif "stream" in names:
                runner.run(in_a_client("stream", "Why?", 64))
            else:
                runner.run(in_a_client("answer", ["Why?", "How?"]))

    await asyncio.to_thread(work)
    return await place.gate.balances()


def standing(used: int) -> list[Standing]:
    """Return how the limit stands when nothing is held."""
    return [Standing("tokens", "acme", used, 0, CAPACITY - used)]


@pytest.mark.parametrize("loop", LOOPS)
async def test_the_first_example_runs(
    place: Place, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """It books what it says."""
    assert await run(place, loop, example("asyncio.run(main())")) == standing(1012)


@pytest.mark.parametrize("loop", LOOPS)
async def test_the_example_that_streams_runs(
    place: Place, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """It books what was streamed."""
    assert await run(place, loop, example("async def stream")) == standing(40)


@pytest.mark.parametrize("loop", LOOPS)
async def test_the_example_of_a_lease_runs(
    place: Place, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """It books what its calls used."""
    assert await run(place, loop, example("toll.lease(")) == standing(2 * 312)
