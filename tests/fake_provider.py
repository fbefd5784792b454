"""A provider of models that behave as their names say, speaking OpenAI's chat completions.

`counting` answers with a usage of known figures, `failing` refuses, and `interrupted` begins a
stream that breaks when it is told to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 40},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
WORDS = 10


class FakeProvider:
    """Answers requests, and remembers which models were asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.interruption = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        try:
            request = await _read_request(reader)
            if request:
                self.asked.append(request["model"])
                await self._answer(writer, request)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        model = request["model"]
        if model == "failing":
            body = json.dumps({"error": {"message": "no"}})
            _write(writer, "500 Broken", "application/json", body)
        elif request.get("stream"):
            _write(writer, "200 OK", "text/event-stream", "")
            await self._stream(writer, model)
        else:
            message = {"role": "assistant", "content": "hello"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            body = json.dumps(_completion(model, choice, USAGE))
            _write(writer, "200 OK", "application/json", body)
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter, model: str) -> None:
        for number in range(WORDS):
            delta = {"role": "assistant", "content": f"word{number} "}
            _event(writer, model, {"index": 0, "delta": delta, "finish_reason": None})
        if model == "interrupted":
            await writer.drain()
            await self.interruption.wait()
            writer.transport.abort()
            return
        _event(writer, model, {"index": 0, "delta": {}, "finish_reason": "stop"}, USAGE)
        writer.write(b"data: [DONE]\n\n")


@asynccontextmanager
async def fake_provider() -> AsyncIterator[tuple[FakeProvider, str]]:
    """Run a provider on loopback, and give it with the base of its URLs."""
    provider = FakeProvider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield provider, f"http://{host}:{port}/v1"
    finally:
        provider.interruption.set()
        server.close()


async def _read_request(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    body = await reader.readexactly(sum(lengths))
    request: dict[str, Any] = json.loads(body) if body else {}
    return request


def _event(writer: asyncio.StreamWriter, model: str, choice: object, usage: object = None) -> None:
    chunk = _completion(model, choice, usage) | {"object": "chat.completion.chunk"}
    writer.write(f"data: {json.dumps(chunk)}\n\n".encode())


def _completion(model: str, choice: object, usage: object) -> dict[str, object]:
    return {
        "id": "completion",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def _write(writer: asyncio.StreamWriter, status: str, content_type: str, body: str) -> None:
    # Without a length the end of the connection ends the body.
    length = f"content-length: {len(body)}\r\n" if body else ""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\nconnection: close\r\n{length}\r\n"
    writer.write(head.encode() + body.encode())
