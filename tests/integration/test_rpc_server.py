"""The rpc server over real connections: start, calls of every kind, limits, health and stop."""

import asyncio
import socket
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cli.signing_keys import SigningKeys
from kit.errors import CannotStart
from kit.redis_pool import RedisPool
from kit.rpc.auth import TokenVerifier, load_jwk
from kit.rpc.revocations import Revocations
from kit.rpc.server import RpcServer
from tests.echo_contract import (
    DESCRIPTOR,
    DESCRIPTOR_WITHOUT_SCOPES,
    SERVICE,
    Context,
    Echo,
    EchoMessage,
    EchoServicer,
    EchoStub,
)
from tests.echo_server import (
    Served,
    Serving,
    details_of,
    info,
    stream_of,
)

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_each_kind_of_method_answers_its_caller(serving: Serving) -> None:
    """Unary and streamed requests and answers all reach the servicer, which knows the tenant."""
    async with serving() as served:
        token = served.token(tenant="globex")

        asked = await served.stub.ask(Echo(text="one"), metadata=token)
        asked_many = await served.stub.ask_many(stream_of("a", "b"), metadata=token)
        watched = [each.text async for each in served.stub.watch(Echo(text="x y"), metadata=token)]
        session = served.stub.session(stream_of("p", "q"), metadata=token)
        answered = [each.text async for each in session]

    assert (asked.text, asked_many.text) == ("globex: one", "globex: a+b")
    assert (watched, answered) == (["globex: x", "globex: y"], ["globex: p", "globex: q"])


class SlowServicer(EchoServicer):
    """Answers when told to, and notes whether it was cancelled."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.answer = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def Ask(self, request: EchoMessage, _: Context) -> EchoMessage:  # noqa: N802
        """Wait, then echo."""
        self.started.set()
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return request


async def test_a_call_without_a_deadline_gets_the_default_one(serving: Serving) -> None:
    """A unary call whose caller waits for ever ends with DEADLINE_EXCEEDED, its work cancelled."""
    servicer = SlowServicer()
    async with serving(servicer, default_deadline_s=0.05) as served:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await served.stub.ask(Echo(text="slow"), metadata=served.token())

    assert servicer.cancelled.is_set()
    assert details_of(failed.value) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "the call did not end within the default deadline",
        [info("DEADLINE_EXCEEDED")],
    )


async def test_a_callers_own_deadline_wins_over_the_default(serving: Serving) -> None:
    """A caller that names a deadline may wait longer than the default."""
    servicer = SlowServicer()
    async with serving(servicer, default_deadline_s=0.01) as served:
        asking = asyncio.ensure_future(
            served.stub.ask(Echo(text="slow"), metadata=served.token(), timeout=30)
        )
        await servicer.started.wait()
        await asyncio.sleep(0.05)
        servicer.answer.set()
        answer = await asking

    assert answer.text == "slow"


async def test_a_call_that_its_caller_gives_up_is_cancelled(serving: Serving) -> None:
    """The work of a cancelled call ends, and is not taken for an error."""
    servicer = SlowServicer()
    with structlog.testing.capture_logs() as logs:
        async with serving(servicer) as served:
            asking = served.stub.ask(Echo(text="slow"), metadata=served.token())
            await servicer.started.wait()
            asking.cancel()
            async with asyncio.timeout(10):
                await servicer.cancelled.wait()

    assert logs == []


async def test_a_message_that_is_too_large_is_refused(serving: Serving) -> None:
    """A request above the server's maximum is RESOURCE_EXHAUSTED, unary and streamed."""
    async with serving(message_bytes_max=100_000) as served:
        large = Echo(text="x" * 100_001)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await served.stub.ask(large, metadata=served.token())
        session = served.stub.session(metadata=served.token())
        await session.write(large)
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            await session.read()
        after = await served.stub.ask(Echo(text="x" * 1000), metadata=served.token())

    codes = [unary.value.code(), streamed.value.code()]
    assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert after.text == "acme: " + "x" * 1000


async def test_health_follows_the_service(keys: SigningKeys, redis_url: str) -> None:
    """Health says NOT_SERVING until the service is ready, then SERVING; no call passes before."""
    served = Served(keys, redis_url, {})
    served.server.add(EchoServicer(), DESCRIPTOR)
    address = await served.server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        requests = [health_pb2.HealthCheckRequest(service=name) for name in ("", SERVICE)]
        before = [(await health.Check(request)).status for request in requests]
        with pytest.raises(grpc.aio.AioRpcError) as early:
            await EchoStub(channel).ask(Echo(), metadata=served.token())

        await served.server.set_serving()
        after = [(await health.Check(request)).status for request in requests]
    await served.server.stop(0)
    await served.redis.close()

    assert before == [NOT_SERVING, NOT_SERVING]
    assert after == [SERVING, SERVING]
    assert early.value.code() is grpc.StatusCode.UNAVAILABLE
    assert early.value.details() == "the service is starting or stopping"


async def test_stopping_reports_it_and_lets_running_calls_end(serving: Serving) -> None:
    """While a call still runs health already says NOT_SERVING, and the call gets its answer."""
    servicer = SlowServicer()
    async with serving(servicer) as served:
        watching = health_pb2_grpc.HealthStub(served.channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE)
        )
        statuses = [(await watching.read()).status]
        asking = asyncio.ensure_future(served.stub.ask(Echo(text="x"), metadata=served.token()))
        await servicer.started.wait()

        stopping = asyncio.create_task(served.server.stop(30))
        statuses.append((await watching.read()).status)
        watching.cancel()
        servicer.answer.set()
        answer = await asking
        await stopping

    assert statuses == [SERVING, NOT_SERVING]
    assert answer.text == "x"


class DrainingServicer(EchoServicer):
    """Keeps a stream open for ever, unless it is told to end it."""

    def __init__(self) -> None:
        self._draining = asyncio.Event()

    async def Watch(  # noqa: N802
        self, request: EchoMessage, _: Context
    ) -> AsyncIterator[EchoMessage]:
        """Answer at once, and once more when draining."""
        yield request
        await self._draining.wait()
        yield request

    def drain(self) -> None:
        """End every stream after its last answer."""
        self._draining.set()


async def test_stopping_tells_streams_that_would_never_end(serving: Serving) -> None:
    """A stream that ends when it is told to holds no stop back, and loses no answer."""
    servicer = DrainingServicer()
    async with serving(servicer) as served:
        served.server.before_stop(servicer.drain)
        watch = served.stub.watch(Echo(text="tick"), metadata=served.token())
        first = await watch.read()
        async with asyncio.timeout(30):
            await served.server.stop(3600)
        last, after = await watch.read(), await watch.read()

    assert [first, last, after] == [Echo(text="tick"), Echo(text="tick"), grpc.aio.EOF]


async def test_reflection_lists_every_contract(serving: Serving) -> None:
    """A tool without the protos can ask which services are there."""
    async with serving() as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        await call.done_writing()

    assert [service.name for service in answer.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        SERVICE,
    ]


async def test_a_busy_port_is_one_clear_error(keys: SigningKeys, redis_url: str) -> None:
    """The error names the port and the host, and nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        redis = RedisPool(redis_url)
        verifier = TokenVerifier(load_jwk(keys.public_file), Revocations(redis))
        server = RpcServer("echo", f"127.0.0.1:{port}", verifier)
        with pytest.raises(CannotStart) as refused:
            await server.start()
        await server.stop(0)
        await redis.close()

    assert str(refused.value) == f"port {port} on 127.0.0.1 is in use by another process"


async def test_a_method_without_a_scope_is_not_served(keys: SigningKeys, redis_url: str) -> None:
    """A contract that forgot its scopes fails at registration, and not by being open to all."""
    verifier = TokenVerifier(load_jwk(keys.public_file), Revocations(RedisPool(redis_url)))
    server = RpcServer("echo", "127.0.0.1:0", verifier)

    with pytest.raises(ValueError, match=r"OpenService\.Ask names no required_scope"):
        server.add(EchoServicer(), DESCRIPTOR_WITHOUT_SCOPES)


class IncompleteServicer:
    """Implements one method of four."""

    async def Ask(self, request: EchoMessage, _: Context) -> EchoMessage:  # noqa: N802
        """Echo."""
        return request


class MisshapenServicer(EchoServicer):
    """Answers a stream as if it were a single message."""

    async def Watch(self, request: EchoMessage, _: Context) -> EchoMessage:  # type: ignore[override]  # noqa: N802
        """Echo."""
        return request


@pytest.mark.parametrize(
    ("servicer", "message"),
    [
        pytest.param(
            IncompleteServicer(), "IncompleteServicer lacks .*EchoService.AskMany", id="incomplete"
        ),
        pytest.param(
            MisshapenServicer(), "EchoService.Watch must be an async generator", id="misshapen"
        ),
    ],
)
async def test_a_servicer_that_does_not_fit_its_contract_is_not_served(
    keys: SigningKeys, redis_url: str, servicer: object, message: str
) -> None:
    """A method that is missing or of another form is found when the service starts."""
    verifier = TokenVerifier(load_jwk(keys.public_file), Revocations(RedisPool(redis_url)))
    server = RpcServer("echo", "127.0.0.1:0", verifier)

    with pytest.raises(TypeError, match=message):
        server.add(servicer, DESCRIPTOR)
