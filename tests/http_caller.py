"""Plain HTTP calls to loopback, as any library would make them."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Answered:
    """How a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever it holds.
        """Read the body."""
        return json.loads(self.body)


async def post(
    address: str, path: str, body: bytes, headers: Mapping[str, str], method: str = "POST"
) -> Answered:
    """Make one call, beside the event loop."""

    def call() -> Answered:
        connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answered(answer.status, named, answer.read())
        finally:
            connection.close()

    return await asyncio.to_thread(call)
