"""One request over HTTP within a time limit, and its answer as JSON; all else is no answer."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_ANSWER_BYTES_MAX = 4 * 2**20


class NoAnswer(Exception):
    """Nothing that could be read came back in time; the message says why."""


async def send(
    url: str, *, timeout_s: float, headers: Mapping[str, str], body: bytes | None = None
) -> tuple[int, dict[str, Any]]:
    """Send a request, a POST where there is a body; answer the status and the JSON object.

    Raises:
        NoAnswer: nothing came back in time, or no JSON.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers))  # noqa: S310 - settings admit http and https alone.
    try:
        async with asyncio.timeout(timeout_s):
            status, content = await asyncio.to_thread(_fetch, request, timeout_s)
        answer = json.loads(content, parse_float=Decimal)
    except TimeoutError:
        raise NoAnswer(f"no answer within {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        raise NoAnswer(f"no answer: {error}") from error
    return status, answer if isinstance(answer, dict) else {}


def _fetch(request: urllib.request.Request, timeout_s: float) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:  # noqa: S310 - as above.
            return response.status, response.read(_ANSWER_BYTES_MAX)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(_ANSWER_BYTES_MAX)
