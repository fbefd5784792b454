"""OpenTelemetry's exporters at a real meter: spans of AI calls are usage, each counted once."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from cli.embedded.loopback import HOST, choose_ports
from cli.signing_keys import SigningKeys
from kit.rpc.channel import open_channel
from kit.settings import BadSettings, ServiceSettings
from services.meter.sources.settings import load_source_settings
from tests import instrumented_program
from tests.http_caller import Answered
from tests.meter_front import Front, meter_front
from tests.meter_world import NOON, World, a_meter, meter_world
from tests.unit.meter.test_otlp import NOON_NS, a_request

PROTOBUF = "application/x-protobuf"
PROGRAM = Path(instrumented_program.__file__)


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon, with meters of tokens."""
    async with meter_world(settings_for, keys, tenant) as running:
        for quantity in ("input_tokens", "cached_input_tokens", "output_tokens", ""):
            await running.put_meter(a_meter(quantity or "calls", quantity=quantity))
        yield running


async def export(world: World, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
    """Export spans with the token of this test's tenant."""
    async with open_channel(world.address) as channel:
        answer: ExportTraceServiceResponse = await stub(channel).Export(
            request, metadata=world.token("meter.ingest")
        )
        return answer


def stub(channel: grpc.aio.Channel) -> Any:  # noqa: ANN401 - generated without types.
    """Make the stub of OpenTelemetry's own code."""
    return TraceServiceStub(channel)  # type: ignore[no-untyped-call] # As above.


async def run_the_program(address: str, headers: str) -> None:
    """Run the instrumented program, and wait until it has exported everything."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{address}",
        "OTEL_EXPORTER_OTLP_HEADERS": headers,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), str(NOON_NS)),
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await program.communicate()
    assert (program.returncode, said.decode()) == (0, "")


async def test_a_program_of_the_sdk_appears_as_usage(world: World) -> None:
    """Calls count once, their cached and reasoning tokens too; agents and tools do not count."""
    ((_, token),) = world.token("meter.ingest")

    await run_the_program(world.address, f"authorization={token}")

    assert await world.usage("input_tokens") == [("acme", "1500", 2), ("zeta", "70", 1)]
    assert await world.usage("cached_input_tokens") == [("acme", "640", 1)]
    assert await world.usage("output_tokens") == [("acme", "300", 2)]
    assert await world.usage("calls", group_by=["model"]) == [
        ("acme large", "1", 1),
        ("acme small", "1", 1),
        ("zeta vectors", "1", 1),
    ]
    assert {stored.event.source for stored in await world.events()} == {"assistant"}


async def test_a_repeated_export_changes_nothing(world: World) -> None:
    """An exporter that got no answer sends again; the span is counted once."""
    request = a_request({"gen_ai.usage.input_tokens": 5})

    answers = [await export(world, request) for _ in range(2)]

    assert answers == [ExportTraceServiceResponse()] * 2
    assert await world.usage("input_tokens") == [("acme", "5", 1)]


async def test_a_refused_span_is_named_and_the_others_are_taken(world: World) -> None:
    """Partial success says how many and why, in the exporter's own words."""
    good = a_request({"gen_ai.usage.input_tokens": 5})
    bad = a_request(
        {"customer.id": "", "gen_ai.usage.output_tokens": -1, "gen_ai.request.model": "m" * 129},
        trace_id=b"2" * 16,
    )
    late = a_request({}, trace_id=b"3" * 16)
    late.resource_spans[0].scope_spans[0].spans[0].end_time_unix_nano = 2**64 - 1
    changed = a_request({"gen_ai.usage.input_tokens": 6})
    request = ExportTraceServiceRequest()
    for each in (good, bad, late, changed):
        request.MergeFrom(each)

    answer = await export(world, request)

    assert answer.partial_success.rejected_spans == 3
    assert answer.partial_success.error_message == (
        f"{b'2'.hex() * 16}-0102030405060708: "
        "customer_id (span:customer.id or baggage:customer.id or resource:customer.id) is required,"
        ' dimensions["model"] (span:gen_ai.request.model or span:gen_ai.response.model)'
        " must have at most 128 characters, no control ones,"
        " attribute gen_ai.usage.output_tokens must be at least 0; "
        f"{b'3'.hex() * 16}-0102030405060708: "
        "end_time_unix_nano must be between 2000-01-01 and one hour from now; "
        "000102030405060708090a0b0c0d0e0f-0102030405060708: "
        'attribute gen_ai.usage.input_tokens is "6", and "5" is stored'
    )
    assert await world.usage("input_tokens") == [("acme", "5", 1)]


async def test_a_large_export_is_taken_whole(world: World) -> None:
    """More spans than a batch of events may have are all counted."""
    request = a_request({"gen_ai.usage.input_tokens": 1})
    spans = request.resource_spans[0].scope_spans[0].spans
    for number in range(1, 12_000):
        spans.add().CopyFrom(spans[0])
        spans[-1].span_id = number.to_bytes(8, "big")

    answer = await export(world, request)

    assert answer == ExportTraceServiceResponse()
    assert await world.usage("input_tokens") == [("acme", "12000", 12_000)]


async def test_a_call_without_a_token_is_refused_at_the_meters_address(world: World) -> None:
    """The meter's own address knows nobody without a token."""
    async with open_channel(world.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub(channel).Export(ExportTraceServiceRequest())

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_address_of_its_own_may_take_calls_without_a_token(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On loopback they are those of one tenant; the mapping's file says whose usage it is."""
    (port,) = choose_ports(1)
    (tmp_path / "sources.yaml").write_text("otlp: {customer: 'resource:service.name'}")
    monkeypatch.setenv("TOLLKEEPER_METER_SOURCES_LISTEN", f"{HOST}:{port}")
    monkeypatch.setenv("TOLLKEEPER_METER_SOURCES_TENANT", tenant)
    monkeypatch.setenv("TOLLKEEPER_METER_SOURCES_CONFIG", str(tmp_path / "sources.yaml"))

    async with meter_world(settings_for, keys, tenant) as world:
        await world.put_meter(a_meter("input_tokens", quantity="input_tokens"))
        await run_the_program(f"{HOST}:{port}", "")

        assert await world.usage("input_tokens") == [("assistant", "1570", 3)]


def test_no_token_is_needed_on_loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that others can reach is refused when it would take calls without a token."""
    monkeypatch.setenv("TOLLKEEPER_METER_SOURCES_LISTEN", "0.0.0.0:4317")
    monkeypatch.setenv("TOLLKEEPER_METER_HTTP_LISTEN", "localhost:7312")
    monkeypatch.setenv("TOLLKEEPER_METER_SOURCES_TENANT", "a tenant!")

    with pytest.raises(BadSettings) as refused:
        load_source_settings()

    assert str(refused.value) == (
        "bad settings: TOLLKEEPER_METER_SOURCES_TENANT is no tenant; "
        "TOLLKEEPER_METER_SOURCES_LISTEN must be on loopback with TOLLKEEPER_METER_SOURCES_TENANT,"
        " which lets calls pass without a token"
    )


def test_noon_is_noon() -> None:
    """The spans of these tests happen when the clock of the meter stands."""
    assert timedelta(microseconds=NOON_NS // 1000).total_seconds() == NOON.timestamp()


@pytest.fixture
async def front(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Front]:
    """A meter of tokens that takes HTTP."""
    async with meter_front(settings_for, keys, tenant, monkeypatch) as running:
        await running.world.put_meter(a_meter("input_tokens", quantity="input_tokens"))
        yield running


async def send(
    front: Front, body: bytes, content_type: str, encoding: str = "identity"
) -> Answered:
    """Post an export."""
    headers = {"content-encoding": encoding}
    return await front.send(body, content_type, headers, path="/v1/traces")


def with_a_bad_span() -> ExportTraceServiceRequest:
    """Make an export with a span of 7 tokens and one of nobody."""
    request = a_request({"gen_ai.usage.input_tokens": 7})
    request.MergeFrom(a_request({"customer.id": ""}, trace_id=b"2" * 16))
    return request


async def test_spans_may_come_by_http(front: Front) -> None:
    """An exporter of OTLP over HTTP is answered as by gRPC; what is no export is refused."""
    export = with_a_bad_span().SerializeToString()

    taken = await send(front, export, PROTOBUF)
    bad = await send(front, b"\xff", PROTOBUF)
    other = await send(front, b"", "")

    answer = ExportTraceServiceResponse.FromString(taken.body)
    assert (taken.status, answer.partial_success.rejected_spans) == (200, 1)
    assert taken.headers["content-type"] == PROTOBUF
    assert await front.world.usage("input_tokens") == [("acme", "7", 1)]
    assert (bad.status, bad.json["detail"]) == (400, "body: is no ExportTraceServiceRequest")
    assert (other.status, other.json["violations"][0]["field"]) == (415, "content-type")


async def test_spans_may_come_compressed_as_collectors_send_them(
    front: Front,
) -> None:
    """They are the same spans: what comes again as it is counts no second time."""
    export = with_a_bad_span()

    answers = [
        await send(front, gzip.compress(export.SerializeToString()), PROTOBUF, "gzip"),
        await send(front, export.SerializeToString(), PROTOBUF),
    ]

    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body
    assert await front.world.usage("input_tokens") == [("acme", "7", 1)]


async def test_spans_may_come_in_json_as_browsers_and_node_send_them(
    front: Front,
) -> None:
    """The answer is JSON too, and a span has one identity in every format."""
    span = {
        "traceId": "000102030405060708090A0B0C0D0E0F",
        "spanId": "0102030405060708",
        "name": "chat large",
        "kind": 3,
        "startTimeUnixNano": str(NOON_NS - 10**9),
        "endTimeUnixNano": str(NOON_NS),
        "attributes": [
            {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
            {"key": "customer.id", "value": {"stringValue": "acme"}},
            {"key": "gen_ai.usage.input_tokens", "value": {"intValue": 7}},
        ],
        "droppedAttributesCount": 0,
        "events": [],
        "status": {"code": 0},
    }
    scoped = {"scope": {"name": "instrumentation"}, "spans": [span, {**span, "spanId": "none"}]}
    export = {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [scoped]}]}

    taken = await send(front, json.dumps(export).encode(), "application/json; charset=utf-8")
    again = await send(
        front, a_request({"gen_ai.usage.input_tokens": 7}).SerializeToString(), PROTOBUF
    )
    bad = await send(front, b'{"resourceSpans": [5]}', "application/json")

    assert (taken.status, taken.headers["content-type"]) == (200, "application/json")
    assert taken.json == {
        "partialSuccess": {
            "rejectedSpans": "1",
            "errorMessage": "000102030405060708090a0b0c0d0e0f-: "
            "span_id must have 8 bytes that are not all zero",
        }
    }
    assert (again.status, again.body) == (200, b"")
    assert await front.world.usage("input_tokens") == [("acme", "7", 1)]
    assert (bad.status, bad.json["violations"]) == (
        400,
        [{"field": "resourceSpans[0]", "description": "must be an object"}],
    )
