"""An OpenAI-compatible streaming gateway that asks the gate, with a model of its own invention.

    TOLLKEEPER_TOKEN=... python examples/gateway.py --port 8080

serves `POST /v1/chat/completions`; the bearer token of a request names the customer. A call holds
little at first, is marked when it leaves for the model, takes more while its answer streams, and is
booked with what it used: also when its caller hangs up, or the limit ends the answer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tollkeeper import (
    Hold,
    QuotaDenied,
    QuotaUnavailable,
    Tollkeeper,
    denial_headers,
    rate_limit_headers,
)

ANSWER_TOKENS_MAX = 4_096
ANSWER_TOKENS_FIRST = 16
WORDS = ("The", "gate", "was", "asked", "before", "this", "was", "said.")


async def model(max_tokens: int) -> AsyncIterator[str]:
    """Stream an answer, a token for each word."""
    for number in range(min(max_tokens, 5 * len(WORDS))):
        yield WORDS[number % len(WORDS)]


async def complete(request: Request) -> Response:
    """Hold what the call needs to begin, then stream; or say why not."""
    toll: Tollkeeper = request.app.state.toll
    body = await request.json()
    most = body.get("max_tokens", ANSWER_TOKENS_MAX)
    call = AsyncExitStack()
    try:
        hold = await call.enter_async_context(
            toll.reserve(
                request.headers["authorization"].removeprefix("Bearer "),
                dimensions={"model": body["model"]},
                requests=1,
                input_tokens=sum(len(each["content"].split()) for each in body["messages"]),
                output_tokens=min(most, ANSWER_TOKENS_FIRST),
                max_amounts={"output_tokens": most},
            )
        )
        await hold.mark_dispatched()
    except QuotaDenied as denied:
        return refusal(429, denied, denial_headers(denied, datetime.now(UTC)))
    except QuotaUnavailable as unavailable:
        return refusal(503, unavailable, {"Retry-After": "1"})
    headers = rate_limit_headers(hold.limits, datetime.now(UTC))
    return StreamingResponse(stream(call, hold, most), 200, headers, "text/event-stream")


async def stream(call: AsyncExitStack, hold: Hold, most: int) -> AsyncIterator[str]:
    """Pass the answer on token by token, for as long as the hold covers it."""
    used, reason = 0, "stop"
    async with call:
        try:
            async for word in model(most):
                if not await hold.covers(output_tokens=used + 1):
                    reason = "length"
                    break
                used += 1
                yield chunk({"content": f"{word} "}, None)
            yield chunk({}, reason)
            yield "data: [DONE]\n\n"
        finally:
            input_tokens = hold.granted["input_tokens"]
            hold.commit(requests=1, input_tokens=input_tokens, output_tokens=used)


def chunk(delta: dict[str, str], reason: str | None) -> str:
    """Render a part of an answer as OpenAI's clients expect it."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


def refusal(status: int, reason: Exception, headers: dict[str, str]) -> Response:
    """Render an error likewise."""
    error = {"message": str(reason), "type": "rate_limit_error"}
    return JSONResponse({"error": error}, status, headers)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Connect for as long as the gateway runs, and deliver the last usage events after it."""
    async with Tollkeeper.from_environment(source="example-gateway") as app.state.toll:
        yield


app = Starlette(
    routes=[Route("/v1/chat/completions", complete, methods=["POST"])], lifespan=lifespan
)

if __name__ == "__main__":
    options = argparse.ArgumentParser(description="A gateway that asks Tollkeeper.")
    options.add_argument("--port", type=int, default=8080)
    uvicorn.run(app, host="127.0.0.1", port=options.parse_args().port, log_level="warning")
