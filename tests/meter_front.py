"""A real meter that takes HTTP."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from cli.embedded.loopback import HOST, choose_ports
from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.http_caller import Answered, post
from tests.meter_world import World, meter_world


@dataclass(frozen=True)
class Front:
    """The HTTP front of a meter."""

    world: World
    address: str

    async def send(
        self,
        body: object,
        content_type: str = "application/cloudevents+json",
        headers: Mapping[str, str] | None = None,
        **options: Any,  # noqa: ANN401 - as `post`.
    ) -> Answered:
        """Post a body, JSON unless it is bytes, with the token of this test's tenant."""
        ((_, token),) = self.world.token("meter.ingest")
        written = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"authorization": token, "content-type": content_type, **(headers or {})}
        return await post(self.address, options.pop("path", "/v1/events"), written, sent, **options)


@asynccontextmanager
async def meter_front(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Front]:
    """Run a meter at noon that takes HTTP."""
    (port,) = choose_ports(1)
    address = f"{HOST}:{port}"
    monkeypatch.setenv("TOLLKEEPER_METER_HTTP_LISTEN", address)
    async with meter_world(settings_for, keys, tenant) as world:
        yield Front(world, address)
