"""OTLP's JSON: what exporters write is read as the binary format is, or refused by its place."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from kit.errors import InvalidInput
from services.meter.sources.otlp_json import read_export, written_answer
from tests.unit.meter.test_otlp import NOON_NS, a_request

SPAN = "resourceSpans[0].scopeSpans[0].spans[0]"


def as_json(export: ExportTraceServiceRequest) -> dict[str, Any]:
    """Write an export as OTLP's JSON has it, with ids in hexadecimal."""
    written = MessageToDict(export, use_integers_for_enums=True)
    for resource_spans in written["resourceSpans"]:
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                for name in ("traceId", "spanId"):
                    span[name] = base64.b64decode(span.get(name, "")).hex()
    return written


async def read(given: object) -> ExportTraceServiceRequest:
    """Read what is given."""
    return await read_export(json.dumps(given).encode())


def around(span: object) -> dict[str, object]:
    """Put a span where spans stand."""
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


async def test_an_export_is_read_as_its_binary_format_is() -> None:
    """Attributes of every type, the resource, the scope and the status."""
    export = a_request(
        {
            "gen_ai.usage.input_tokens": 2**53 + 1,
            "gen_ai.usage.output_tokens": 5.5,
            "a": True,
            "b": ["x"],
        },
        resource={"service.name": "assistant"},
        status=Status.STATUS_CODE_ERROR,
    )

    assert await read(as_json(export)) == export


async def test_what_makes_no_event_is_not_looked_at() -> None:
    """Names, events and links may be anything, and what is not known; many spans are read."""
    export = a_request({})
    spans = export.resource_spans[0].scope_spans[0].spans
    for _ in range(120):
        spans.add().CopyFrom(spans[0])
    given = as_json(export)
    for span in given["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        span |= {"name": 5, "kind": "SPAN_KIND_OF_TOMORROW", "links": [{"traceId": "?"}]}
    given["resourceSpans"][0] |= {"schemaUrl": None, "news": {}}

    assert await read(given) == export


@pytest.mark.parametrize(
    ("written", "number"),
    [("7", 7), (8, 8), ("9223372036854775807", 2**63 - 1)],
)
async def test_whole_numbers_are_numbers_or_texts(written: object, number: int) -> None:
    """Both are written by exporters; neither passes through a float."""
    attribute = {"key": "n", "value": {"intValue": written}}

    export = await read(around({"attributes": [attribute], "endTimeUnixNano": str(NOON_NS)}))

    (span,) = export.resource_spans[0].scope_spans[0].spans
    assert span.attributes[0].value.int_value == number
    assert span.end_time_unix_nano == NOON_NS


@pytest.mark.parametrize("given", ["AAECAwQFBgcICQoLDA0ODw==", "xyz", 5, None])
async def test_an_id_that_is_not_hexadecimal_is_none(given: object) -> None:
    """So the span is refused by itself, and the others of its export are taken."""
    export = await read(around({"traceId": given, "spanId": "010203040506070A"}))

    (span,) = export.resource_spans[0].scope_spans[0].spans
    assert (span.trace_id, span.span_id) == (b"", bytes((*range(1, 8), 10)))


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ("{", "body: is not JSON"),
        ("[]", "body: must be a JSON object"),
        ('{"resourceSpans": 5}', "resourceSpans: must be a list"),
        ('{"resourceSpans": [[]]}', "resourceSpans[0]: must be an object"),
        (
            '{"resourceSpans": [{}, {"scopeSpans": {}}]}',
            "resourceSpans[1].scopeSpans: must be a list",
        ),
        ('{"resourceSpans": [{"resource": 5}]}', "resourceSpans[0].resource: must be an object"),
        (json.dumps(around({"status": "OK"})), f"{SPAN}.status: must be an object"),
        (json.dumps(around("x")), f"{SPAN}: must be an object"),
        (json.dumps(around({"endTimeUnixNano": "noon"})), f"{SPAN}: endTimeUnixNano field: "),
        (
            json.dumps(around({"attributes": [{"value": {"intValue": 2**63}}]})),
            f"{SPAN}: attributes field: ",
        ),
        (json.dumps(around({"attributes": {"key": "value"}})), f"{SPAN}: attributes field: "),
    ],
)
async def test_what_is_no_export_is_refused_by_its_place(given: str, refusal: str) -> None:
    """The field says where, the description what."""
    with pytest.raises(InvalidInput) as refused:
        await read_export(given.encode())

    assert refused.value.message.startswith(refusal)


def test_an_answer_says_what_was_refused_in_json() -> None:
    """Whole numbers of 64 bits are texts in protobuf's JSON."""
    refused = ExportTracePartialSuccess(rejected_spans=1, error_message="why")

    assert written_answer(ExportTraceServiceResponse()) == {}
    assert written_answer(ExportTraceServiceResponse(partial_success=refused)) == {
        "partialSuccess": {"rejectedSpans": "1", "errorMessage": "why"}
    }
