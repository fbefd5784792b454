"""A real LiteLLM proxy with the gate inside, between a fake provider and a real gate and meter."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from cli.embedded.loopback import choose_ports
from tests.fake_provider import FakeProvider, fake_provider
from tests.quota_world import QuotaWorld, Standing
from tollkeeper.api.meter.v1 import meter_service_pb2 as meter

if TYPE_CHECKING:
    # The generated stubs name this for type checkers only.
    from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceAsyncStub

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "litellm"
CALLERS = ROOT / "tests" / "integration" / "litellm" / "callers.py"
ENVIRONMENT = ROOT / ".venv" / "litellm"
STARTED_WITHIN_S = 120.0
EVENTUALLY_S = 60.0
FIRST_BYTES = 200
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

Value = TypeVar("Value")


def make_environment() -> None:
    """Install the pinned proxy where it is not installed already."""
    subprocess.run([ROOT / "tools" / "setup.sh", "litellm"], check=True)


def proxy_variables(token: str, gate: str, meter: str, **more: str) -> dict[str, str]:
    """Return the environment of a proxy; the databases of the tests are none of its business."""
    hidden = {"DATABASE_URL", "REDIS_URL"}
    return {
        **{name: value for name, value in os.environ.items() if name not in hidden},
        "LITELLM_MASTER_KEY": "sk-the-master-of-this-proxy-1234567890",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "PYTHONPATH": str(ROOT / "client"),
        "TOLLKEEPER_TOKEN": token,
        "TOLLKEEPER_QUOTA_ADDRESS": gate,
        "TOLLKEEPER_METER_ADDRESS": meter,
        **more,
    }


def write_configuration(folder: Path, provider: str) -> Path:
    """Write the example's configuration, with the models of a provider and callers of our own."""
    shutil.copy(EXAMPLE / "hooks.py", folder)
    shutil.copy(CALLERS, folder)
    configuration = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    configuration["model_list"] += [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_key": "none",
                "api_base": provider,
                "max_retries": 0,
            },
        }
        for name, model in (
            ("counting", "counting"),
            ("failing", "failing"),
            ("failing-over", "failing"),
            ("interrupted", "interrupted"),
        )
    ]
    configuration["litellm_settings"] |= {
        "cache": True,
        "cache_params": {"type": "local", "mode": "default_off"},
    }
    configuration["router_settings"] = {
        "fallbacks": [{"failing-over": ["counting"]}],
        "num_retries": 1,
        "disable_cooldowns": True,
    }
    configuration["general_settings"]["custom_auth"] = "callers.authenticate"
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(configuration))
    return path


@dataclass(frozen=True, slots=True)
class Answer:
    """What the proxy answered."""

    status: int
    headers: dict[str, str]
    body: str

    def __str__(self) -> str:
        return f"{self.status} {self.body}"


@dataclass(frozen=True, slots=True)
class Usage:
    """A usage event, without its identity and time."""

    user: str
    key: str
    dimensions: dict[str, str]
    quantities: dict[str, str]


@dataclass(slots=True)
class ProxyWorld:
    """A running proxy, the gate and the meter behind it, and the provider it asks."""

    port: int
    provider: FakeProvider
    gate: QuotaWorld
    meter: MeterServiceAsyncStub
    variables: dict[str, str]

    async def ask(self, team: str, model: str, **fields: Any) -> Answer:  # noqa: ANN401 - as JSON.
        """Ask a model as a team, and read the whole answer."""
        return await asyncio.to_thread(self._ask, team, {"model": model, **fields})

    async def ask_with_call_id(self, team: str, model: str, call_id: str) -> Answer:
        """Ask a model, with a call id of the caller's choice."""
        headers = {"x-litellm-call-id": call_id}
        return await asyncio.to_thread(self._ask, team, {"model": model}, None, headers)

    async def hang_up(self, team: str, model: str) -> Answer:
        """Ask for a stream and leave after its first words."""
        return await asyncio.to_thread(self._ask, team, {"model": model, "stream": True}, _leave)

    async def ask_until_it_breaks(self, team: str, model: str) -> Answer:
        """Ask for a stream that breaks after its first words have come."""
        loop = asyncio.get_running_loop()

        def interrupt(answer: http.client.HTTPResponse) -> bytes:
            loop.call_soon_threadsafe(self.provider.interruption.set)
            return answer.read()

        return await asyncio.to_thread(self._ask, team, {"model": model, "stream": True}, interrupt)

    def _ask(
        self,
        team: str,
        fields: Mapping[str, Any],
        after_first_words: Callable[[http.client.HTTPResponse], bytes] | None = None,
        more_headers: Mapping[str, str] = NO_HEADERS,
    ) -> Answer:
        body = {"messages": [{"role": "user", "content": "hi there"}], "max_tokens": 60, **fields}
        headers = {
            "authorization": f"Bearer sk-{team}",
            "content-type": "application/json",
            **more_headers,
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=EVENTUALLY_S)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            if after_first_words is None:
                text = answer.read()
            else:
                text = answer.read(FIRST_BYTES) + after_first_words(answer)
            return Answer(answer.status, names, text.decode())
        finally:
            connection.close()

    async def standings(self, team: str) -> list[Standing]:
        """Return how the limits of a team stand once none of its calls is held."""

        async def look() -> list[Standing]:
            return await self.gate.balances(customer=team)

        return await eventually(look, lambda limits: not any(each.reserved for each in limits))

    async def usage(self, team: str, count: int = 1) -> list[Usage]:
        """Return the usage events of a team once there are as many as expected."""

        async def look() -> Sequence[Any]:
            request = meter.ListEventsRequest(customer_id=team)
            answer = await self.meter.ListEvents(request, metadata=self.gate.token("meter.read"))
            return [each.event for each in answer.events]

        events = await eventually(look, lambda events: len(events) >= count)
        return [
            Usage(
                event.subject.user_id,
                event.subject.key_id,
                dict(event.dimensions),
                dict(event.quantities),
            )
            for event in events
        ]


async def eventually(
    look: Callable[[], Awaitable[Value]], is_there: Callable[[Value], bool]
) -> Value:
    """Look until what is expected is there, or give what there is when the time is over."""
    deadline = asyncio.get_running_loop().time() + EVENTUALLY_S
    while True:
        seen = await look()
        if is_there(seen) or asyncio.get_running_loop().time() > deadline:
            return seen
        await asyncio.sleep(0.05)


@asynccontextmanager
async def proxy_world(
    folder: Path, gate: QuotaWorld, meter: MeterServiceAsyncStub, variables: dict[str, str]
) -> AsyncIterator[ProxyWorld]:
    """Run a proxy of one worker process, with the example's configuration."""
    (port,) = choose_ports(1)
    async with fake_provider() as (provider, base_url):
        arguments = ["--config", str(write_configuration(folder, base_url))]
        arguments += ["--host", "127.0.0.1", "--port", str(port)]
        with (folder / "proxy.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - it is only started here.
                [ENVIRONMENT / "bin" / "litellm", *arguments],
                cwd=folder,
                env=variables,
                stdout=log,
                stderr=log,
            )
        try:
            await asyncio.to_thread(_wait_until_alive, process, port, folder / "proxy.log")
            yield ProxyWorld(port, provider, gate, meter, variables)
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(_wait_until_gone, process)


def _leave(_answer: http.client.HTTPResponse) -> bytes:
    return b""


def _wait_until_alive(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health/liveliness")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.1)
        else:
            return
        finally:
            connection.close()
    raise AssertionError(f"the proxy did not start:\n{log.read_text()[-4000:]}")


def _wait_until_gone(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
