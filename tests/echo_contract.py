"""A contract for tests of the rpc server: one method of each kind, one message, one servicer.

Built from descriptors instead of a file, so that it is no part of the published contracts.
"""

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message_factory import GetMessageClass

from kit.rpc.auth import caller
from tollkeeper.api.auth.v1 import required_scope_pb2

SERVICE = "tollkeeper.test.v1.EchoService"
SCOPE = "echo.call"


def _file() -> FileDescriptorProto:
    file = FileDescriptorProto(
        name="tollkeeper/test/v1/echo.proto",
        package="tollkeeper.test.v1",
        syntax="proto3",
        dependency=[required_scope_pb2.DESCRIPTOR.name],
    )
    file.message_type.add(
        name="Echo",
        field=[
            FieldDescriptorProto(
                name=name,
                number=number,
                type=FieldDescriptorProto.TYPE_STRING,
                label=FieldDescriptorProto.LABEL_OPTIONAL,
            )
            for number, name in enumerate(("text", "request_id"), start=1)
        ],
    )
    for service, scope in (("EchoService", SCOPE), ("OpenService", "")):
        described = file.service.add(name=service)
        for name, asks_many, answers_many in (
            ("Ask", False, False),
            ("AskMany", True, False),
            ("Watch", False, True),
            ("Session", True, True),
        ):
            options = descriptor_pb2.MethodOptions()
            options.Extensions[required_scope_pb2.required_scope] = scope
            described.method.add(
                name=name,
                input_type=".tollkeeper.test.v1.Echo",
                output_type=".tollkeeper.test.v1.Echo",
                client_streaming=asks_many,
                server_streaming=answers_many,
                options=options,
            )
    return file


_DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(_file().SerializeToString())

DESCRIPTOR: ServiceDescriptor = _DESCRIPTOR.services_by_name["EchoService"]
DESCRIPTOR_WITHOUT_SCOPES: ServiceDescriptor = _DESCRIPTOR.services_by_name["OpenService"]
EchoMessage: TypeAlias = Any
"""The type of the message; made at run time, so that no type checker knows it."""
Echo: EchoMessage = GetMessageClass(_DESCRIPTOR.message_types_by_name["Echo"])
"""The message: `Echo(text="…", request_id="…")`."""
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class EchoServicer:
    """Answers each request with its text, behind the caller's tenant."""

    async def Ask(self, request: EchoMessage, context: Context) -> EchoMessage:  # noqa: N802
        """Echo one."""
        return _echo(request.text, context)

    async def AskMany(  # noqa: N802
        self, requests: AsyncIterator[EchoMessage], context: Context
    ) -> EchoMessage:
        """Echo all at once."""
        return _echo("+".join([request.text async for request in requests]), context)

    async def Watch(  # noqa: N802
        self, request: EchoMessage, context: Context
    ) -> AsyncIterator[EchoMessage]:
        """Echo word by word."""
        for word in request.text.split():
            yield _echo(word, context)

    async def Session(  # noqa: N802
        self, requests: AsyncIterator[EchoMessage], context: Context
    ) -> AsyncIterator[EchoMessage]:
        """Echo each."""
        async for request in requests:
            yield _echo(request.text, context)


class EchoStub:
    """Calls the contract over a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        read, write = Echo.FromString, Echo.SerializeToString
        self.ask: Any = channel.unary_unary(f"/{SERVICE}/Ask", write, read)
        self.ask_many: Any = channel.stream_unary(f"/{SERVICE}/AskMany", write, read)
        self.watch: Any = channel.unary_stream(f"/{SERVICE}/Watch", write, read)
        self.session: Any = channel.stream_stream(f"/{SERVICE}/Session", write, read)


def _echo(text: str, context: Context) -> EchoMessage:
    return Echo(text=f"{caller(context).tenant}: {text}")
