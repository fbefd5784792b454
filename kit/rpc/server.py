"""The gRPC server of a service: health, reflection, and a start and stop that lose no call.

It listens at once and reports NOT_SERVING until told otherwise, so that an orchestrator sees a
live process that is not ready. Refuses to share its port with another process.
"""

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from kit.errors import CannotStart
from kit.rpc.auth import Caller, TokenVerifier
from kit.rpc.methods import MethodGuard

MESSAGE_BYTES_MAX = 16 * 2**20
DEFAULT_DEADLINE_S = 30.0

_AS_IN_CONTRACT: Mapping[str, type[Message]] = MappingProxyType({})
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVING = health_pb2.HealthCheckResponse.SERVING


class RpcServer:
    """Serves the contracts of one service at `listen`, such as "127.0.0.1:7301"; port 0 is any.

    A unary call whose caller names no deadline gets `default_deadline_s`; streams have none. A call
    without a token is refused, unless it is to be taken as made by `nameless`.
    """

    def __init__(
        self,
        service: str,
        listen: str,
        verifier: TokenVerifier,
        *,
        default_deadline_s: float = DEFAULT_DEADLINE_S,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        nameless: Caller | None = None,
    ) -> None:
        self._listen = listen
        self._message_bytes_max = message_bytes_max
        self._guard = MethodGuard(service, verifier, default_deadline_s, nameless)
        self._handlers: dict[str, grpc.GenericRpcHandler] = {}
        self._stopping: list[Callable[[], None]] = []
        self._health = health_aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    def add(
        self,
        servicer: object,
        descriptor: ServiceDescriptor,
        scope: str = "",
        request_types: Mapping[str, type[Message]] = _AS_IN_CONTRACT,
    ) -> None:
        """Serve a contract: `file_pb2.DESCRIPTOR.services_by_name["MeterService"]`.

        A contract of others names no scopes; `scope` is then what all of its methods ask for. The
        requests of a method may be read as another type, with the same numbers.
        """
        methods = {
            method.name: self._guard.wrap(servicer, method, scope, request_types.get(method.name))
            for method in descriptor.methods
        }
        handler = grpc.method_handlers_generic_handler(descriptor.full_name, methods)
        self._handlers[descriptor.full_name] = handler

    def before_stop(self, callback: Callable[[], None]) -> None:
        """Call back when stopping begins: a stream that would not end by itself has to then."""
        self._stopping.append(callback)

    async def start(self) -> str:
        """Listen, not serving yet, and answer the address.

        Raises:
            CannotStart: the address cannot be listened on.
        """
        server = self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", self._message_bytes_max),
                ("grpc.max_send_message_length", -1),
                # Clients ping idle connections each 30 s; by default that is taken for abuse.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
            )
        )
        for name in ("", *self._handlers):
            await self._health.set(name, _NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers(tuple(self._handlers.values()))
        names = (*self._handlers, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        address = self._bind(server)
        await server.start()
        return address

    async def set_serving(self) -> None:
        """Accept calls, and report so."""
        self._guard.is_open = True
        for name in ("", *self._handlers):
            await self._health.set(name, _SERVING)

    async def stop(self, grace_s: float) -> None:
        """Report NOT_SERVING, take no new calls, and give those that run `grace_s` to end."""
        await self._health.enter_graceful_shutdown()
        for callback in self._stopping:
            callback()
        if self._server is not None:
            await self._server.stop(grace_s)

    def _bind(self, server: grpc.aio.Server) -> str:
        host, _, port = self._listen.rpartition(":")
        _check_free(host.strip("[]"), int(port))
        try:
            bound = server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise CannotStart(f"cannot listen on {self._listen}") from error
        return f"{host}:{bound}"


class Resource(Protocol):
    """What a service opens before it serves and closes after: a pool, a background task."""

    async def connect(self) -> None:
        """Open it; raise `CannotStart` when a person must mend something first."""
        ...

    async def close(self) -> None:
        """Close it; harmless when it was never opened."""
        ...


class Hosted:
    """A composed service: its server, and what it opens, in order, before it serves."""

    def __init__(
        self,
        server: RpcServer,
        *,
        resources: Sequence[Resource] = (),
        channels: Sequence[grpc.aio.Channel] = (),
    ) -> None:
        self._server = server
        self._resources = resources
        self._channels = channels
        self._opened: list[Resource] = []

    async def start(self) -> str:
        """Listen, open every resource, then serve; answer the address.

        Raises:
            CannotStart: whatever was opened is closed again.
        """
        try:
            address = await self._server.start()
            for resource in self._resources:
                self._opened.append(resource)
                await resource.connect()
            await self._server.set_serving()
        except BaseException:
            await self.stop(0)
            raise
        return address

    async def stop(self, grace_s: float) -> None:
        """Drain the server, then close everything in reverse order."""
        await self._server.stop(grace_s)
        while self._opened:
            await self._opened.pop().close()
        for channel in self._channels:
            await channel.close()


def _check_free(host: str, port: int) -> None:
    """Say what is wrong with an address in words, before gRPC says it in its own."""
    if not port:
        return
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotStart(f"port {port} on {host} is in use by another process") from error
        raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror}") from error
