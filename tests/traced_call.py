"""Makes one traced call in a process of its own, and prints the spans and metrics it left.

OpenTelemetry's providers are set once for a whole process, so that a test must not set them in
its own. Run as `python -m tests.traced_call DATABASE_URL REDIS_URL KEYS_FOLDER [fault]`.
"""

import asyncio
import json
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text

from cli.signing_keys import SigningKeys
from kit import telemetry
from kit.clock import SystemClock
from kit.postgres import Database
from kit.redis_pool import RedisPool
from kit.rpc.auth import TokenIssuer, TokenVerifier, load_jwk
from kit.rpc.channel import open_channel
from kit.rpc.revocations import Revocations
from kit.rpc.server import RpcServer
from tests.echo_contract import (
    DESCRIPTOR,
    SCOPE,
    Context,
    Echo,
    EchoMessage,
    EchoServicer,
    EchoStub,
)


class TracedServicer(EchoServicer):
    """Asks PostgreSQL and Redis for what it answers."""

    def __init__(self, database_url: str, redis_url: str, fault: str) -> None:
        self.database = Database(database_url, "echo")
        self.redis = RedisPool(redis_url)
        self._fault = fault

    async def Ask(self, request: EchoMessage, context: Context) -> EchoMessage:  # noqa: N802
        """Answer through a use case."""
        await self.use_case(request.text)
        return await super().Ask(request, context)

    @telemetry.traced("echo.ask")
    async def use_case(self, word: str) -> None:
        """Do what a use case does: a statement and a command; log; fail if told so."""
        async with self.database.engine.connect() as connection:
            await connection.execute(text("SELECT :word"), {"word": word})
        await self.redis.client.echo(word)
        telemetry.get_logger().info("asked")
        if self._fault:
            raise RuntimeError(self._fault)


async def call(database_url: str, redis_url: str, keys: SigningKeys, fault: str) -> None:
    """Serve the contract and ask it once, within a span of the caller's own."""
    servicer = TracedServicer(database_url, redis_url, fault)
    verifier = TokenVerifier(load_jwk(keys.public_file), Revocations(servicer.redis))
    server = RpcServer("echo", "127.0.0.1:0", verifier)
    server.add(servicer, DESCRIPTOR)
    channel = open_channel(await server.start())
    await server.set_serving()
    expires = SystemClock().now() + timedelta(hours=1)
    token = TokenIssuer(keys.issuer_key()).issue("acme", [SCOPE], "key-1", expires)
    with trace.get_tracer("test").start_as_current_span("caller"), suppress(grpc.RpcError):
        await EchoStub(channel).ask(
            Echo(text="hunter2"), metadata=(("authorization", f"Bearer {token}"),)
        )
    await channel.close()
    await server.stop(1)
    await servicer.redis.close()
    await servicer.database.close()


def described(span: ReadableSpan) -> dict[str, Any]:
    """Describe a span by everything it says."""
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": f"{context.trace_id:032x}",
        "span": context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "status": span.status.status_code.name,
        "everything": span.to_json(),
    }


def main() -> None:
    """Make the call and print what telemetry saw."""
    database_url, redis_url, keys_folder, fault = (*sys.argv[1:], "")[:4]
    spans, metrics = InMemorySpanExporter(), InMemoryMetricReader()
    telemetry.configure_logs("info")
    telemetry.start("echo", spans, metrics)
    keys = SigningKeys.load_or_make(Path(keys_folder))
    asyncio.run(call(database_url, redis_url, keys, fault))
    measured = metrics.get_metrics_data()
    telemetry.shutdown()
    finished = [described(span) for span in spans.get_finished_spans()]
    sys.stdout.write(json.dumps({"spans": finished, "metrics": measured and measured.to_json()}))


if __name__ == "__main__":
    main()
