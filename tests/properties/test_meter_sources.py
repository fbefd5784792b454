"""What others send, drawn at random: each draft is an event or names what is wrong, never a crash.

`METER_SOURCES_EXAMPLES` is how many are drawn for each test.
"""

from __future__ import annotations

import json
import os
from typing import Any

from google.protobuf.json_format import ParseDict
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from services.meter.convert.events import parse_event
from services.meter.convert.exact_json import NotJson, read_json
from services.meter.model import Fate, IncomingEvent
from services.meter.sources import envoy, otlp
from services.meter.sources.cloudevents import draft_of, given_message, given_structured
from services.meter.sources.envoy_messages import StreamAccessLogsMessage
from services.meter.sources.intake import Draft
from services.meter.sources.mapping import EnvoyMapping, OtlpMapping
from tests.meter_builders import LONG_AFTER_US
from tests.unit.meter.test_otlp import a_request
from tollkeeper.api.meter.v1.cloud_event_pb2 import CloudEvent

EXAMPLES = settings(max_examples=int(os.environ.get("METER_SOURCES_EXAMPLES", "100")))
BYTES = st.binary(max_size=200)
WORDS = st.sampled_from(
    ["id", "source", "type", "subject", "time", "specversion", "data", "data_base64", "runid"]
)
TEXTS = st.one_of(
    st.text(max_size=70),
    st.sampled_from(["1.0", "acme", "llm.call", "2026-03-01T12:00:00Z", "application/json", "-1"]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["dimensions", "quantities", "tokens", "model"]), TEXTS),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
CLOUD_EVENTS = st.dictionaries(st.one_of(WORDS, TEXTS), st.one_of(TEXTS, JSON), max_size=9)
VALUES = st.one_of(
    st.builds(AnyValue, string_value=TEXTS.filter(str.isprintable)),
    st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1)),
    st.builds(AnyValue, double_value=st.floats()),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, bytes_value=BYTES),
    st.just(AnyValue()),
    st.builds(
        AnyValue,
        array_value=st.builds(
            ArrayValue, values=st.lists(st.builds(AnyValue, string_value=st.just("a=b")))
        ),
    ),
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        [
            "customer.id",
            "gen_ai.request.model",
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.reasoning.output_tokens",
            "http.request.header.baggage",
        ]
    ),
    VALUES,
)


def settle(draft: Draft) -> None:
    """Check a draft as the intake does, and that what is wrong has a name."""
    parsed = parse_event(draft.event, LONG_AFTER_US)
    found = [*draft.violations]
    if isinstance(parsed, Fate):
        found += parsed.violations
        names = [draft.name_of(each.field) for each in parsed.violations]
        assert all(names)
    assert found or isinstance(parsed, IncomingEvent)
    assert all(each.description for each in found)
    # Every name can be written into an answer.
    "".join(each.field for each in found).encode()


@EXAMPLES
@given(CLOUD_EVENTS)
def test_any_cloud_event_is_an_event_or_names_its_faults(event: dict[str, Any]) -> None:
    """Whatever JSON stands where an event should be."""
    try:
        read = read_json(json.dumps(event))
    except NotJson:
        return
    settle(draft_of(given_structured(read)))


@EXAMPLES
@given(JSON)
def test_any_json_is_an_event_or_names_its_faults(event: object) -> None:
    """Also what is no object at all."""
    settle(draft_of(given_structured(event)))


@EXAMPLES
@given(BYTES, BYTES, st.dictionaries(st.sampled_from(["subject", "time", "x"]), TEXTS))
def test_any_message_is_an_event_or_names_its_faults(
    text: bytes, event_id: bytes, attributes: dict[str, str]
) -> None:
    """Whatever data a CloudEvent in protobuf has."""
    event = CloudEvent(binary_data=text, id=event_id.hex())
    for name, value in attributes.items():
        if value.isprintable():
            event.attributes[name].ce_string = value
    settle(draft_of(given_message(event)))


@EXAMPLES
@given(ATTRIBUTES, BYTES, st.integers(0, 2**64 - 1))
def test_any_span_is_an_event_or_names_its_faults(
    values: dict[str, AnyValue], trace_id: bytes, time_ns: int
) -> None:
    """Whatever values attributes, ids and times have."""
    request = a_request({})
    span: Span = request.resource_spans[0].scope_spans[0].spans[0]
    span.attributes.extend(KeyValue(key=key, value=value) for key, value in values.items())
    span.trace_id, span.end_time_unix_nano = trace_id, time_ns

    for found in otlp.drafts_of(request, OtlpMapping()):
        settle(found.draft)


@EXAMPLES
@given(
    st.dictionaries(st.sampled_from(["llm_input_token", "llm_output_token", "x"]), JSON),
    st.dictionaries(
        st.sampled_from(["x-customer-id", "x-ai-eg-model"]), st.text("aé \t", max_size=70)
    ),
    st.integers(-(10**9), 10**11),
)
def test_any_entry_is_an_event_or_names_its_faults(
    metadata: dict[str, Any], headers: dict[str, str], seconds: int
) -> None:
    """Whatever Envoy was given to log."""
    try:
        message = ParseDict(
            {
                "http_logs": {
                    "log_entry": [
                        {
                            "common_properties": {
                                "metadata": {"filter_metadata": {"io.envoy.ai_gateway": metadata}}
                            },
                            "request": {"request_headers": headers},
                        }
                    ]
                }
            },
            StreamAccessLogsMessage(),
        )
    except (ValueError, UnicodeError):
        return
    message.http_logs.log_entry[0].common_properties.start_time.seconds = seconds
    for draft in envoy.drafts_of(message, EnvoyMapping()):
        settle(draft)
