"""What callers are told when a method refuses or fails, for every kind of method."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2

from kit.errors import Exhausted, InvalidInput
from tests.echo_contract import (
    SERVICE,
    Context,
    Echo,
    EchoMessage,
    EchoServicer,
)
from tests.echo_server import (
    HOUR,
    NOON,
    Metadata,
    Serving,
    details_of,
    first_answer,
    info,
)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        pytest.param((), "the metadata authorization is missing", id="missing"),
        pytest.param(
            (("authorization", "Basic YTpi"),),
            "authorization must read: Bearer <token>",
            id="another scheme",
        ),
        pytest.param(
            (("authorization", "Bearer nonsense"),), "the token is malformed", id="malformed"
        ),
    ],
)
@pytest.mark.parametrize("method", ["ask", "ask_many", "watch", "session"])
async def test_a_caller_without_a_token_is_refused_by_every_kind_of_method(
    serving: Serving, method: str, metadata: Metadata, message: str
) -> None:
    """A missing, foreign or malformed credential is UNAUTHENTICATED, and says what is wrong."""
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await first_answer(served.stub, method, metadata)

    assert details_of(refused.value) == (
        grpc.StatusCode.UNAUTHENTICATED,
        message,
        [info("UNAUTHENTICATED")],
    )


@pytest.mark.parametrize("method", ["ask", "ask_many", "watch", "session"])
async def test_a_token_without_the_scope_is_denied_and_told_which(
    serving: Serving, method: str
) -> None:
    """The scope that the contract asks for is named in the message and in the metadata."""
    async with serving() as served:
        token = served.token(scope="echo.read")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await first_answer(served.stub, method, token)

    assert details_of(refused.value) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "the token lacks the scope echo.call",
        [info("PERMISSION_DENIED", required_scope="echo.call")],
    )


async def test_revoking_a_key_ends_its_running_streams(serving: Serving) -> None:
    """A stream that began with a good key is refused at the first message after revocation."""
    async with serving() as served:
        session = served.stub.session(metadata=served.token(key_id="revoked-midway"))
        await session.write(Echo(text="before"))
        before = await session.read()

        await served.revocations.revoke("revoked-midway", NOON + HOUR)
        await session.write(Echo(text="after"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await session.read()

    assert before.text == "acme: before"
    assert details_of(refused.value) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "the key of the token was revoked",
        [info("UNAUTHENTICATED")],
    )


async def test_a_stream_does_not_outlive_its_token(serving: Serving) -> None:
    """When the token expires, the stream's next message is refused."""
    async with serving() as served:
        session = served.stub.session(metadata=served.token())
        await session.write(Echo(text="before"))
        before = await session.read()

        served.clock.advance(HOUR)
        await session.write(Echo(text="after"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await session.read()

    assert before.text == "acme: before"
    assert refused.value.details() == "the token has expired"


class PushingServicer(EchoServicer):
    """Pushes a word whenever the test says so, as a watch over usage does."""

    def __init__(self) -> None:
        self.push = asyncio.Semaphore(1)

    async def Watch(  # noqa: N802
        self, request: EchoMessage, _: Context
    ) -> AsyncIterator[EchoMessage]:
        """Push until the caller leaves."""
        while True:
            await self.push.acquire()
            yield Echo(text=request.text)


async def test_a_watch_does_not_outlive_its_token(serving: Serving) -> None:
    """What the server pushes stops when the token expires, though the caller sends nothing."""
    servicer = PushingServicer()
    async with serving(servicer) as served:
        watch = served.stub.watch(Echo(text="tick"), metadata=served.token())
        first = await watch.read()

        served.clock.advance(HOUR)
        servicer.push.release()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch.read()

    assert first.text == "tick"
    assert refused.value.details() == "the token has expired"


class QuietServicer(EchoServicer):
    """Reads in a task of its own and keeps to itself why reading ended."""

    async def Session(  # noqa: N802
        self, requests: AsyncIterator[EchoMessage], _: Context
    ) -> AsyncIterator[EchoMessage]:
        """Echo until reading ends, however it ends."""
        try:
            async for request in requests:
                yield request
        except Exception:  # noqa: BLE001 - the fault under test.
            return


async def test_a_servicer_cannot_hide_that_its_caller_was_refused(serving: Serving) -> None:
    """The refusal reaches the caller even when the servicer swallows it."""
    async with serving(QuietServicer()) as served:
        session = served.stub.session(metadata=served.token())
        await session.write(Echo(text="before"))
        await session.read()

        served.clock.advance(HOUR)
        await session.write(Echo(text="after"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await session.read()

    assert refused.value.details() == "the token has expired"


class FailingServicer(EchoServicer):
    """Raises whatever it is given."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def Ask(self, _: EchoMessage, __: Context) -> EchoMessage:  # noqa: N802
        """Fail."""
        raise self._error

    async def AskMany(  # noqa: N802
        self, requests: AsyncIterator[EchoMessage], _: Context
    ) -> EchoMessage:
        """Fail after reading."""
        async for _ in requests:
            raise self._error

    async def Watch(  # noqa: N802
        self, request: EchoMessage, _: Context
    ) -> AsyncIterator[EchoMessage]:
        """Answer once, then fail."""
        raise self._error
        yield request

    async def Session(  # noqa: N802
        self, requests: AsyncIterator[EchoMessage], _: Context
    ) -> AsyncIterator[EchoMessage]:
        """Read once, then fail."""
        async for request in requests:
            raise self._error
            yield request


@pytest.mark.parametrize("method", ["ask", "ask_many", "watch", "session"])
async def test_a_domain_error_carries_its_details_in_every_kind_of_method(
    serving: Serving, method: str
) -> None:
    """Reason, domain, bad fields and retry delay reach the caller of unary and streamed methods."""
    error = Exhausted("OUT", "used up", metadata={"limit": "l1"}, retry_after=timedelta(seconds=3))
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromSeconds(3)
    async with serving(FailingServicer(error)) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await first_answer(served.stub, method, served.token())

    assert details_of(failed.value) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "used up",
        [info("OUT", limit="l1"), retry],
    )


@pytest.mark.parametrize("method", ["ask", "ask_many", "watch", "session"])
async def test_an_unexpected_error_shows_a_trace_id_and_nothing_else(
    serving: Serving, method: str
) -> None:
    """The caller sees INTERNAL and an id; the server's log has the id and the traceback."""
    error = RuntimeError("secret: hunter2")
    with structlog.testing.capture_logs() as logs:
        async with serving(FailingServicer(error)) as served:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await first_answer(served.stub, method, served.token())

    trace_id = logs[0]["trace_id"]
    assert details_of(failed.value) == (
        grpc.StatusCode.INTERNAL,
        f"internal error {trace_id}",
        [info("INTERNAL", trace_id=trace_id)],
    )
    assert logs == [
        {
            "event": "call.failed",
            "log_level": "error",
            "method": f"{SERVICE}/{''.join(word.title() for word in method.split('_'))}",
            "trace_id": trace_id,
            "exc_info": error,
        }
    ]


async def test_a_hundred_bad_fields_do_not_overflow_the_trailers(serving: Serving) -> None:
    """An error with more violations than gRPC carries arrives with the first of them."""
    found = InvalidInput.of("f", "bad").violations * 1000
    error = InvalidInput("INVALID_FIELD", "1000 fields are invalid", violations=found)
    async with serving(FailingServicer(error)) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await first_answer(served.stub, "ask", served.token())

    code, message, (_, bad_request) = details_of(failed.value)
    assert (code, message) == (grpc.StatusCode.INVALID_ARGUMENT, "1000 fields are invalid")
    assert len(bad_request.field_violations) == 250


async def test_bytes_that_are_no_message_are_an_invalid_argument(serving: Serving) -> None:
    """A request that cannot be read is the caller's fault, and says so."""
    async with serving() as served:
        call: Any = served.channel.unary_unary(f"/{SERVICE}/Ask")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(b"\xff\xff\xff", metadata=served.token())

    assert details_of(failed.value) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "the request is no message of its type",
        [info("INVALID_FIELD")],
    )
