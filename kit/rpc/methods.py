"""Wraps each method of a servicer once, at registration: everything around the call itself.

In order: verify the token, check the scope the contract asks for, read the request, apply the
default deadline, call, write the answer; and render whatever goes wrong. Refuses a method whose
contract names no scope. One function per kind of method, instead of a chain of interceptors,
since a unary call has a budget of microseconds.
"""

import asyncio
import inspect
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status

from kit import telemetry
from kit.errors import DomainError, InvalidInput, Unavailable
from kit.rpc.auth import Admission, Caller, TokenVerifier, set_caller
from kit.rpc.status import (
    DETAILS_KEY,
    DeadlineExceeded,
    code_of,
    internal_status,
    read_error,
    render_status,
)
from tollkeeper.api.auth.v1.required_scope_pb2 import required_scope

Context = grpc.aio.ServicerContext[Any, Any]
UnaryHandler = Callable[[Any, Context], Awaitable[bytes]]
StreamHandler = Callable[[Any, Context], AsyncGenerator[bytes, None]]

_log = telemetry.get_logger()


@dataclass(frozen=True, slots=True)
class _Method:
    """One method of a servicer, and what its contract says of it."""

    name: str
    scope: str
    request_type: type[Message]
    call: Callable[[Any, Context], Any]


class MethodGuard:
    """Wraps the methods of one server; refuses every call until `is_open`, as start-up is first.

    A call without a token is refused, unless it is to be taken as made by `nameless`.
    """

    def __init__(
        self,
        service: str,
        verifier: TokenVerifier,
        default_deadline_s: float,
        nameless: Caller | None = None,
    ) -> None:
        self.is_open = False
        self._nameless = None if nameless is None else Admission(nameless)
        self._domain = f"tollkeeper.{service}"
        self._verifier = verifier
        self._default_deadline_s = default_deadline_s

    def wrap(
        self,
        servicer: object,
        descriptor: MethodDescriptor,
        scope: str = "",
        request_type: type[Message] | None = None,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        """Make the handler of one method of a servicer; `scope` is for contracts of others.

        Requests are read as the type of the contract, or as another one with the same numbers.

        Raises:
            TypeError: the servicer lacks the method, or has it in another form than the contract.
            ValueError: the contract names no scope for it.
        """
        method = _method(servicer, descriptor, scope, request_type)
        if descriptor.server_streaming:
            answers = self._answering_many(method)
            stream = _observed_stream(method.name, answers) if telemetry.is_on() else answers
            if descriptor.client_streaming:
                return grpc.stream_stream_rpc_method_handler(cast("Any", stream))
            return grpc.unary_stream_rpc_method_handler(cast("Any", stream))
        if descriptor.client_streaming:
            answer = self._collecting(method)
        else:
            answer = self._answering_one(method)
        unary = _observed_unary(method.name, answer) if telemetry.is_on() else answer
        if descriptor.client_streaming:
            return grpc.stream_unary_rpc_method_handler(cast("Any", unary))
        return grpc.unary_unary_rpc_method_handler(cast("Any", unary))

    def _answering_one(self, method: _Method) -> UnaryHandler:
        async def handle(data: bytes, context: Context) -> bytes:
            try:
                self._admit(context, method.scope)
                request = read_request(method.request_type, data)
                answering = method.call(request, context)
                if context.time_remaining() is None:
                    answering = self._within_default_deadline(answering)
                return _written(await answering)
            except Exception as error:  # noqa: BLE001 - rendered; logged where unexpected.
                await self._fail(context, method.name, error)

        return handle

    def _collecting(self, method: _Method) -> UnaryHandler:
        async def handle(data: AsyncIterator[bytes], context: Context) -> bytes:
            try:
                admission = self._admit(context, method.scope)
                requests = _Requests(data, method.request_type, self._verifier, admission)
                answer = await method.call(requests, context)
                requests.raise_if_refused()
                return _written(answer)
            except Exception as error:  # noqa: BLE001 - as above.
                await self._fail(context, method.name, error)

        return handle

    def _answering_many(self, method: _Method) -> StreamHandler:
        async def handle(
            data: AsyncIterator[bytes] | bytes, context: Context
        ) -> AsyncGenerator[bytes, None]:
            try:
                admission = self._admit(context, method.scope)
                requests = self._requests(method, data, admission)
                async with aclosing(method.call(requests, context)) as answers:
                    async for answer in answers:
                        self._verifier.check(admission)
                        yield _written(answer)
                if isinstance(requests, _Requests):
                    requests.raise_if_refused()
            except Exception as error:  # noqa: BLE001 - as above.
                await self._fail(context, method.name, error)

        return handle

    def _requests(
        self, method: _Method, data: AsyncIterator[bytes] | bytes, admission: Admission
    ) -> "Message | _Requests":
        if isinstance(data, bytes):
            return read_request(method.request_type, data)
        return _Requests(data, method.request_type, self._verifier, admission)

    def _admit(self, context: Context, scope: str) -> Admission:
        if not self.is_open:
            raise Unavailable("UNAVAILABLE", "the service is starting or stopping")
        admission = self._verifier.admit_call(_authorization(context), scope, self._nameless)
        set_caller(admission.caller)
        return admission

    async def _within_default_deadline(self, answering: Awaitable[Message]) -> Message:
        try:
            async with asyncio.timeout(self._default_deadline_s) as deadline:
                return await answering
        except TimeoutError as error:
            if deadline.expired():
                raise DeadlineExceeded from error
            raise

    async def _fail(self, context: Context, method: str, error: Exception) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, grpc.aio.AioRpcError):
            error = read_error(error)
        if isinstance(error, DomainError):
            await _abort(context, code_of(error), render_status(error, self._domain))
        trace_id = telemetry.trace_id() or secrets.token_hex(16)
        _log.error("call.failed", method=method, trace_id=trace_id, exc_info=error)
        status = internal_status(trace_id, self._domain)
        await _abort(context, grpc.StatusCode.INTERNAL, status)


def read_request(request_type: type[Message], data: bytes) -> Message:
    """Read a request.

    Raises:
        InvalidInput: INVALID_FIELD, the bytes are no message of this type.
    """
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise InvalidInput("INVALID_FIELD", "the request is no message of its type") from error


class _Requests:
    """The requests of a stream; each is read only while the caller's token still holds."""

    def __init__(
        self,
        data: AsyncIterator[bytes],
        request_type: type[Message],
        verifier: TokenVerifier,
        admission: Admission,
    ) -> None:
        self._data = data
        self._request_type = request_type
        self._verifier = verifier
        self._admission = admission
        self._refusal: DomainError | None = None

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> Message:
        data = await anext(self._data)
        try:
            self._verifier.check(self._admission)
            return read_request(self._request_type, data)
        except DomainError as error:
            self._refusal = error
            raise

    def raise_if_refused(self) -> None:
        """Raise why reading stopped, in case the servicer read in a task and kept it to itself."""
        if self._refusal is not None:
            raise self._refusal


def _method(
    servicer: object,
    descriptor: MethodDescriptor,
    scope: str,
    request_type: type[Message] | None,
) -> _Method:
    scope = scope or descriptor.GetOptions().Extensions[required_scope]
    if not scope:
        raise ValueError(f"{descriptor.full_name} names no required_scope")
    call = getattr(servicer, descriptor.name, None)
    # The generated base class has every method, which only says that it is not implemented.
    if call is None or call.__module__.endswith("_pb2_grpc"):
        raise TypeError(f"{type(servicer).__name__} lacks {descriptor.full_name}")
    wrong = (
        inspect.iscoroutinefunction if descriptor.server_streaming else inspect.isasyncgenfunction
    )
    if wrong(call):
        kind = "an async generator" if descriptor.server_streaming else "a coroutine function"
        raise TypeError(f"{descriptor.full_name} must be {kind}")
    name = f"{descriptor.containing_service.full_name}/{descriptor.name}"
    return _Method(name, scope, request_type or GetMessageClass(descriptor.input_type), call)


def _observed_unary(name: str, handle: UnaryHandler) -> UnaryHandler:
    async def observed(data: object, context: Context) -> bytes:
        with telemetry.server_call(name, context):
            return await handle(data, context)

    return observed


def _observed_stream(name: str, handle: StreamHandler) -> StreamHandler:
    async def observed(data: object, context: Context) -> AsyncGenerator[bytes, None]:
        with telemetry.server_call(name, context):
            async with aclosing(handle(data, context)) as answers:
                async for answer in answers:
                    yield answer

    return observed


def _authorization(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return str(value)
    return None


def _written(answer: Message) -> bytes:
    data: bytes = answer.SerializeToString()
    return data


async def _abort(context: Context, code: grpc.StatusCode, status: Status) -> NoReturn:
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, status.message, trailing_metadata=trailers)
