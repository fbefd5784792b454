"""An OpenAI-compatible streaming gateway that asks the gate, with a model of its own invention.

    python examples/gateway.py --demo

runs everything on this machine, gives the customer `acme` 100 output tokens, and asks until they
are used up. With TOLLKEEPER_TOKEN (and _QUOTA_ADDRESS, _METER_ADDRESS) in the environment it uses
the services named there instead. Without --demo it serves `POST /v1/chat/completions` on the port
given by --port until it is interrupted; the bearer token of a request names the customer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from cli.supervisor import Supervisor, SupervisorOptions
from tollkeeper import Hold, QuotaDenied, QuotaUnavailable, Tollkeeper, denial_headers
from tollkeeper.api.quota.v1 import quota_pb2 as quota
from tollkeeper.api.quota.v1.quota_service_pb2 import PutLimitRequest
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

ANSWER_TOKENS_DEFAULT = 48
WORDS = ("The", "gate", "was", "asked", "before", "this", "was", "said.")
URL = "http://127.0.0.1:{port}/v1/chat/completions"


async def model(max_tokens: int) -> AsyncIterator[str]:
    """Stream an answer, a token for each word."""
    for number in range(min(max_tokens, 5 * len(WORDS))):
        await asyncio.sleep(0.001)
        yield WORDS[number % len(WORDS)]


async def serve(
    toll: Tollkeeper, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request: hold, stream, commit."""
    customer, request = await read_request(reader)
    tokens_in = sum(len(each["content"].split()) for each in request["messages"])
    tokens_out = request.get("max_tokens", ANSWER_TOKENS_DEFAULT)
    try:
        async with toll.reserve(
            customer,
            dimensions={"model": request["model"]},
            input_tokens=tokens_in,
            output_tokens=tokens_out,
        ) as hold:
            await stream(writer, hold, tokens_in, tokens_out)
    except QuotaDenied as denied:
        refuse(writer, "429 Too Many Requests", denied, denial_headers(denied, datetime.now(UTC)))
    except QuotaUnavailable as unavailable:
        refuse(writer, "503 Service Unavailable", unavailable, {"Retry-After": "1"})
    with suppress(ConnectionError):
        await writer.drain()
    writer.close()


async def stream(writer: asyncio.StreamWriter, hold: Hold, tokens_in: int, tokens_out: int) -> None:
    """Pass the answer on token by token; a caller that hangs up has used what was streamed."""
    used = 0
    try:
        writer.write(head("200 OK", {"Content-Type": "text/event-stream"}))
        async for word in model(tokens_out):
            used += 1
            choice = {"index": 0, "delta": {"content": f"{word} "}}
            chunk = {"object": "chat.completion.chunk", "choices": [choice]}
            writer.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await writer.drain()
        writer.write(b"data: [DONE]\n\n")
    except ConnectionError:
        print("the caller hung up")
    finally:
        hold.commit(input_tokens=tokens_in, output_tokens=used)


def refuse(
    writer: asyncio.StreamWriter, status: str, reason: Exception, headers: dict[str, str]
) -> None:
    """Answer with an error as OpenAI's clients expect it."""
    body = json.dumps({"error": {"message": str(reason), "type": "rate_limit_error"}})
    writer.write(head(status, {"Content-Type": "application/json", **headers}) + body.encode())


def head(status: str, headers: dict[str, str]) -> bytes:
    """Render the head of a response whose body ends with the connection."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
    """Read a request: the customer that its bearer token names, and its body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:]
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return headers["authorization"].removeprefix("Bearer "), json.loads(body)


def ask(port: int) -> str:
    """Ask the gateway as acme, and say how it answered."""
    body = {"model": "inventor", "messages": [{"role": "user", "content": "Who was asked?"}]}
    headers = {"Authorization": "Bearer acme", "Content-Type": "application/json"}
    request = urllib.request.Request(URL.format(port=port), json.dumps(body).encode(), headers)  # noqa: S310 - a URL of this file.
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above.
            return f"{answer.status}: {answer.read().count(b'content')} tokens"
    except urllib.error.HTTPError as refusal:
        message = json.load(refusal)["error"]["message"]
        return f"{refusal.code}: {message}; RateLimit: {refusal.headers['RateLimit']}"


async def run(port: int, *, demo: bool) -> None:
    """Serve; in a demo, ask three times and stop."""
    async with Tollkeeper.from_environment(source="example-gateway") as toll:
        server = await asyncio.start_server(partial(serve, toll), "127.0.0.1", port)
        async with server:
            port = server.sockets[0].getsockname()[1]
            print(f"serving on {URL.format(port=port)}")
            if not demo:
                await server.serve_forever()
            for _ in range(3):
                print(await asyncio.to_thread(ask, port))
        await toll.flush()
        print(f"{toll.usage.created} usage events are with the meter")


def put_limit(address: str, token: str) -> None:
    """Give every customer 100 output tokens a year."""
    limit = quota.Limit(
        limit_id="answers",
        level=quota.LEVEL_CUSTOMER,
        units=["output_tokens"],
        capacity=100,
        calendar=quota.CalendarWindow(period=quota.CALENDAR_PERIOD_YEAR),
    )
    with grpc.insecure_channel(address) as channel:
        QuotaServiceStub(channel).PutLimit(
            PutLimitRequest(request_id="put-answers", limit=limit),
            metadata=(("authorization", f"Bearer {token}"),),
        )


def main() -> None:
    """Run the gateway, and the services behind it unless the environment names them."""
    options = argparse.ArgumentParser(description="A gateway that asks Tollkeeper.")
    options.add_argument("--demo", action="store_true", help="ask three times and stop")
    options.add_argument("--port", type=int, default=0, help="by default a free one")
    chosen = options.parse_args()
    if "TOLLKEEPER_TOKEN" in os.environ:
        asyncio.run(run(chosen.port, demo=chosen.demo))
        return
    with tempfile.TemporaryDirectory() as folder:
        # The embedded servers may run as another account, which has to reach the folder.
        Path(folder).chmod(0o711)
        suite = SupervisorOptions(data_dir=Path(folder) / "data", port_base=0, report=print)
        with Supervisor(suite) as running:
            os.environ["TOLLKEEPER_TOKEN"] = running.admin_token
            os.environ["TOLLKEEPER_QUOTA_ADDRESS"] = running.addresses["quota"]
            os.environ["TOLLKEEPER_METER_ADDRESS"] = running.addresses["meter"]
            put_limit(running.addresses["quota"], running.admin_token)
            asyncio.run(run(chosen.port, demo=chosen.demo))


if __name__ == "__main__":
    main()
