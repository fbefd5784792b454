"""A server of the echo contract for tests, and how to read what it answers."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock
from kit.redis_pool import RedisPool
from kit.rpc.auth import TokenIssuer, TokenVerifier, load_jwk
from kit.rpc.channel import open_channel
from kit.rpc.revocations import Revocations
from kit.rpc.server import RpcServer
from tests.echo_contract import (
    DESCRIPTOR,
    SCOPE,
    Echo,
    EchoMessage,
    EchoServicer,
    EchoStub,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Served:
    """A server of the echo contract, what its tokens are made of, and a channel to it."""

    def __init__(self, keys: SigningKeys, redis_url: str, options: Mapping[str, Any]) -> None:
        self.clock = ManualClock(NOON)
        self.issuer = TokenIssuer(keys.issuer_key(), self.clock)
        self.redis = RedisPool(redis_url)
        self.revocations = Revocations(self.redis, self.clock, refresh_s=3600)
        verifier = TokenVerifier(load_jwk(keys.public_file), self.revocations, self.clock)
        self.server = RpcServer("echo", "127.0.0.1:0", verifier, **options)
        self.address = ""
        self.channel: grpc.aio.Channel

    @property
    def stub(self) -> EchoStub:
        """The echo contract at this server."""
        return EchoStub(self.channel)

    def token(self, tenant: str = "acme", scope: str = SCOPE, key_id: str = "key-1") -> Metadata:
        """Make the metadata of a caller whose token holds for an hour."""
        token = self.issuer.issue(tenant, [scope], key_id, self.clock.now() + HOUR)
        return (("authorization", f"Bearer {token}"),)


Serving: TypeAlias = Callable[..., AbstractAsyncContextManager[Served]]


@asynccontextmanager
async def serve(
    keys: SigningKeys, redis_url: str, servicer: object, options: Mapping[str, Any]
) -> AsyncIterator[Served]:
    """Serve an echo servicer until the block ends."""
    served = Served(keys, redis_url, options)
    served.server.add(servicer or EchoServicer(), DESCRIPTOR)
    served.address = await served.server.start()
    served.channel = open_channel(served.address)
    try:
        await served.server.set_serving()
        yield served
    finally:
        await served.channel.close()
        await served.server.stop(0)
        await served.revocations.close()
        await served.redis.close()


def details_of(error: grpc.aio.AioRpcError) -> tuple[Any, ...]:
    """Read everything an error tells: its code, its message, and the details by type."""
    metadata = dict(tuple(error.trailing_metadata() or ()))
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return error.code(), error.details(), [_unpacked(detail) for detail in status.details]


def _unpacked(detail: any_pb2.Any) -> Message:
    kind = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])
    unpacked: Message = kind.FromString(detail.value)
    return unpacked


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    """Make the detail every error carries."""
    return error_details_pb2.ErrorInfo(reason=reason, domain="tollkeeper.echo", metadata=metadata)


async def stream_of(*texts: str) -> AsyncIterator[EchoMessage]:
    """Send requests one after the other."""
    for text in texts:
        yield Echo(text=text)


async def first_answer(stub: EchoStub, method: str, metadata: Metadata) -> EchoMessage:
    """Call a method of any kind with one request, and answer the first message."""
    asks_many, answers_many = method in {"ask_many", "session"}, method in {"watch", "session"}
    request = stream_of("hello") if asks_many else Echo(text="hello")
    call = getattr(stub, method)(request, metadata=metadata)
    return await (anext(aiter(call)) if answers_many else call)
