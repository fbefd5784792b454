"""Malformed input: good events with something wrong, and bytes that are hardly anything.

Everything is drawn from one source of randomness, so that a failure can be repeated.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.meter_world import an_event
from tests.unit.meter.test_otlp import a_request
from tollkeeper.api.meter.v1 import cloud_event_pb2, meter_pb2

ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "\x1f",
    "\x7f",
    "\t",
    "\n",
    "a" * 64,
    "a" * 129,
    "b" * 5_000,
    "é",
    "💶" * 40,
    "\u2028",
    "\ufeff",
    "\\N",
    "\\.",
    "%s",
    "'; DROP TABLE meter.events; --",
    '"',
    "{}",
    "[]",
    "null",
    "-1",
    "1e400",
    "1e-30",
    "9" * 39,
    "0." + "1" * 19,
    "NaN",
    "Infinity",
    "1_000",
    "٣",
    "0x10",
    "1,5",
    "true",
)
ODD_NUMBERS = (0, -1, 1, 2**31 - 1, -(2**31), 2**62, -(2**62), 253_402_300_800)
ODD_JSON: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e308,
    "",
    [],
    {},
    [[]],
    {"a": {"b": {}}},
    "\ud800",
    "x" * 200,
    {"dimensions": 1, "quantities": []},
)


def an_odd_event(draw: random.Random, number: int) -> meter_pb2.UsageEvent:
    """Make a usage event with up to three things wrong; sometimes nothing is."""
    event = an_event(f"e{number}")
    for _ in range(draw.randrange(4)):
        draw.choice(_SPOILERS)(event, draw)
    return event


def an_odd_cloud_event(draw: random.Random, number: int) -> dict[str, Any]:
    """Make a CloudEvent in JSON with up to three things wrong."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"c{number}",
        "source": "fuzz",
        "type": "llm.call",
        "subject": "acme",
        "time": "2026-03-01T12:00:00Z",
        "data": {"model": "small", "tokens": 10},
    }
    for _ in range(draw.randrange(4)):
        where = draw.choice((event, event.get("data")))
        if isinstance(where, dict):
            key = draw.choice((*where, *ODD_TEXTS, "data_base64", "datacontenttype", "projectid"))
            if draw.random() < 0.3:
                where.pop(key, None)
            else:
                # A copy, as what is put here may itself be spoiled.
                where[key] = deepcopy(draw.choice((*ODD_JSON, *ODD_TEXTS)))
    return event


def an_odd_message(draw: random.Random, number: int) -> cloud_event_pb2.CloudEvent:
    """Make a CloudEvent in protobuf with something wrong."""
    event = cloud_event_pb2.CloudEvent(
        id=f"p{number}", source="fuzz", spec_version="1.0", type="llm.call"
    )
    event.attributes["subject"].ce_string = "acme"
    event.attributes["time"].ce_string = "2026-03-01T12:00:00Z"
    event.text_data = json.dumps(an_odd_cloud_event(draw, number).get("data"))
    for _ in range(draw.randrange(3)):
        attribute = event.attributes[draw.choice(("subject", "time", "runid", "x", ""))]
        match draw.randrange(5):
            case 0:
                attribute.ce_string = draw.choice(ODD_TEXTS)
            case 1:
                attribute.ce_integer = draw.choice((0, -1, 2**31 - 1))
            case 2:
                attribute.ce_timestamp.seconds = draw.choice(ODD_NUMBERS)
            case 3:
                attribute.ce_bytes = draw.randbytes(4)
            case _:
                event.proto_data.type_url = draw.choice(ODD_TEXTS)
    return event


def an_odd_export(draw: random.Random, number: int) -> ExportTraceServiceRequest:
    """Make an export with a span with something wrong."""
    values: dict[str, Any] = {"gen_ai.usage.input_tokens": 10}
    names = (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.request.model",
        "customer.id",
        "http.request.header.baggage",
    )
    odd = (*ODD_TEXTS, *ODD_NUMBERS, 0.5, float("nan"), float("inf"), -1e300, True, ["a", "b=c"])
    for _ in range(draw.randrange(4)):
        values[draw.choice(names)] = draw.choice(odd)
    trace_id = draw.choice((number.to_bytes(16, "big"), b"", bytes(16), draw.randbytes(3)))
    request = a_request(values, trace_id=trace_id)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.end_time_unix_nano = draw.choice((span.end_time_unix_nano, 0, 1, 2**64 - 1))
    return request


def mangled(draw: random.Random, message: Message | bytes) -> bytes:
    """Write a message, and flip, cut, repeat or invent bytes of it."""
    data = bytearray(message if isinstance(message, bytes) else message.SerializeToString())
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(len(data) + 1)
        match draw.randrange(4):
            case 0 if data:
                data[place % len(data)] ^= 1 << draw.randrange(8)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = draw.randbytes(draw.randrange(1, 9))
            case _:
                data[place:place] = data[:place][-20:]
    return bytes(data)


def _spoil_text(event: meter_pb2.UsageEvent, draw: random.Random) -> None:
    setattr(event, draw.choice(("event_id", "source", "type")), draw.choice(ODD_TEXTS))


def _spoil_subject(event: meter_pb2.UsageEvent, draw: random.Random) -> None:
    level = draw.choice(("customer_id", "project_id", "user_id", "key_id", "run_id"))
    setattr(event.subject, level, draw.choice(ODD_TEXTS))


def _spoil_time(event: meter_pb2.UsageEvent, draw: random.Random) -> None:
    event.time.seconds = draw.choice(ODD_NUMBERS)
    event.time.nanos = draw.choice((0, -1, 999_999_999, 10**9, -(2**31)))


def _spoil_map(event: meter_pb2.UsageEvent, draw: random.Random) -> None:
    entries = draw.choice((event.dimensions, event.quantities))
    for _ in range(draw.choice((1, 2, 20))):
        entries[draw.choice(ODD_TEXTS)] = draw.choice(ODD_TEXTS)


_SPOILERS: tuple[Callable[[meter_pb2.UsageEvent, random.Random], None], ...] = (
    _spoil_text,
    _spoil_subject,
    _spoil_time,
    _spoil_map,
)
