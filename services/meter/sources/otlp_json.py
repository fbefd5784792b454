"""OTLP's JSON: an export read into the message that its binary format would have been.

It is protobuf's own JSON but for the ids of traces and spans, which are hexadecimal
(opentelemetry.io/docs/specs/otlp, JSON Protobuf Encoding). Spans are read one by one, and of each
only what can make an event: one takes a tenth of a millisecond, in which nothing else is served.
"""

import asyncio
from typing import Any, TypeGuard

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from kit.errors import InvalidInput
from services.meter.sources.bodies import read_object

_SPANS_PER_TURN = 50
_READ_OF_SPANS = ("startTimeUnixNano", "endTimeUnixNano", "attributes", "status")
_ARE_OBJECTS = frozenset({"resource", "scope", "status"})
_REASON_LENGTH_MAX = 300

_Object = dict[str, Any]


async def read_export(body: bytes) -> ExportTraceServiceRequest:
    """Read an export, and let others be served meanwhile.

    Raises:
        InvalidInput: it is none, naming where and why.
    """
    export = ExportTraceServiceRequest()
    for path, each in _objects(read_object(body), "", "resourceSpans"):
        resource_spans = export.resource_spans.add()
        _read(each, ("resource",), resource_spans, path)
        for scope_path, scoped in _objects(each, path, "scopeSpans"):
            scope_spans = resource_spans.scope_spans.add()
            _read(scoped, ("scope",), scope_spans, scope_path)
            await _read_spans(scoped, scope_spans, scope_path)
    return export


def written_answer(answer: ExportTraceServiceResponse) -> _Object:
    """Write the answer to an export."""
    return MessageToDict(answer)


async def _read_spans(given: _Object, scope_spans: ScopeSpans, scope_path: str) -> None:
    for number, (path, each) in enumerate(_objects(given, scope_path, "spans"), 1):
        span = scope_spans.spans.add(
            trace_id=_id(each.get("traceId")), span_id=_id(each.get("spanId"))
        )
        _read(each, _READ_OF_SPANS, span, path)
        if number % _SPANS_PER_TURN == 0:
            await asyncio.sleep(0)


def _read(given: _Object, names: tuple[str, ...], message: Message, path: str) -> None:
    known = {name: given[name] for name in names if given.get(name) is not None}
    for name in known.keys() & _ARE_OBJECTS:
        # In the place of an object the library takes any text for an empty one.
        if not _is_object(known[name]):
            raise InvalidInput.of(f"{path}.{name}", "must be an object")
    try:
        ParseDict(known, message, ignore_unknown_fields=True)
    except ParseError as error:
        reason = str(error).removeprefix("Failed to parse ")[:_REASON_LENGTH_MAX]
        raise InvalidInput.of(path, reason) from error


def _objects(given: _Object, path: str, name: str) -> list[tuple[str, _Object]]:
    """Answer the objects in a list of an object, with where each stands."""
    listed = given.get(name)
    path = f"{path}.{name}".lstrip(".")
    if listed is None:
        return []
    if not isinstance(listed, list):
        raise InvalidInput.of(path, "must be a list")
    named = [(f"{path}[{index}]", each) for index, each in enumerate(listed)]
    for each_path, each in named:
        if not _is_object(each):
            raise InvalidInput.of(each_path, "must be an object")
    return named


def _is_object(value: object) -> TypeGuard[_Object]:
    return isinstance(value, dict)


def _id(text: object) -> bytes:
    """Read an id; one that is none is empty, and refused with its span."""
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""
