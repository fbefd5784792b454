"""Spans of AI calls as usage events: what counts, what counts once, and how faults are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from kit.errors import Violation
from kit.settings import BadSettings
from services.meter.model import Fate, Outcome
from services.meter.sources.mapping import OtlpMapping, load_mapping
from services.meter.sources.otlp import SpanDraft, drafts_of, render_answer

NOON_NS = 1_772_366_400_000_000_000

Value = str | int | float | bool | list[str]


def a_value(value: Value) -> AnyValue:
    """Write a value as OTLP does."""
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case str():
            return AnyValue(string_value=value)
    return AnyValue(array_value=ArrayValue(values=[a_value(each) for each in value]))


def attributes(values: Mapping[str, Value]) -> list[KeyValue]:
    """Write attributes."""
    return [KeyValue(key=key, value=a_value(value)) for key, value in values.items()]


def a_request(
    values: Mapping[str, Value],
    *,
    resource: Mapping[str, Value] | None = None,
    scope: str = "instrumentation",
    status: Status.StatusCode.ValueType = Status.STATUS_CODE_UNSET,
    trace_id: bytes = bytes(range(16)),
) -> ExportTraceServiceRequest:
    """Make a request with one span: a chat of Acme's at noon."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add()
    spans.resource.attributes.extend(attributes(resource or {}))
    scoped = spans.scope_spans.add()
    scoped.scope.name = scope
    given = {"gen_ai.operation.name": "chat", "customer.id": "acme", **values}
    scoped.spans.append(
        Span(
            trace_id=trace_id,
            span_id=bytes(range(1, 9)),
            start_time_unix_nano=NOON_NS - 10**9,
            end_time_unix_nano=NOON_NS,
            attributes=attributes(given),
            status=Status(code=status),
        )
    )
    return request


def without_operation(values: Mapping[str, Value]) -> ExportTraceServiceRequest:
    """Make a request with a span that does not say what kind of call it was."""
    request = a_request(values)
    del request.resource_spans[0].scope_spans[0].spans[0].attributes[0]
    return request


def drafts(request: ExportTraceServiceRequest, **mapping: object) -> list[SpanDraft]:
    """Convert, with words of the mapping's file."""
    return list(drafts_of(request, OtlpMapping.model_validate(mapping)))


def test_a_chat_becomes_an_event_with_every_part_by_itself() -> None:
    """The whole is what the span says, and the parts are quantities beside it."""
    (span,) = drafts(
        a_request(
            {
                "gen_ai.request.model": "large",
                "gen_ai.response.model": "large-2026-01-01",
                "gen_ai.provider.name": "acme.ai",
                "gen_ai.usage.input_tokens": 1_000,
                "gen_ai.usage.cache_read.input_tokens": 640,
                "gen_ai.usage.cache_write.input_tokens": 100,
                "gen_ai.usage.output_tokens": 250,
                "gen_ai.usage.reasoning.output_tokens": 200,
            },
            resource={"service.name": "assistant"},
        )
    )

    assert span.draft.violations == ()
    assert MessageToDict(span.draft.event, preserving_proto_field_name=True) == {
        "event_id": "000102030405060708090a0b0c0d0e0f-0102030405060708",
        "source": "assistant",
        "subject": {"customer_id": "acme"},
        "type": "llm.call",
        "time": "2026-03-01T12:00:00Z",
        "dimensions": {"model": "large", "provider": "acme.ai", "operation": "chat"},
        "quantities": {
            "requests": "1",
            "input_tokens": "1000",
            "cached_input_tokens": "640",
            "cache_write_input_tokens": "100",
            "output_tokens": "250",
            "reasoning_tokens": "200",
        },
    }


def test_older_names_of_the_conventions_are_understood() -> None:
    """Prompt and completion tokens are input and output; what is created in a cache is written."""
    (span,) = drafts(
        a_request(
            {
                "gen_ai.system": "openai",
                "gen_ai.usage.prompt_tokens": 7,
                "gen_ai.usage.cache_creation.input_tokens": 2,
                "gen_ai.usage.completion_tokens": 5.0,
            }
        )
    )

    assert dict(span.draft.event.quantities) == {
        "requests": "1",
        "input_tokens": "7",
        "cache_write_input_tokens": "2",
        "output_tokens": "5.0",
    }
    assert span.draft.event.dimensions["provider"] == "openai"
    assert span.draft.event.source == "otlp"


@pytest.mark.parametrize("model", ["gen_ai.request.model", "gen_ai.response.model"])
def test_a_call_that_does_not_name_its_operation_counts(model: str) -> None:
    """So do the AI SDK of Vercel and older instrumentation: a model and tokens are a call."""
    (span,) = drafts(without_operation({model: "large", "gen_ai.usage.prompt_tokens": 7}))

    assert dict(span.draft.event.quantities) == {"requests": "1", "input_tokens": "7"}
    assert dict(span.draft.event.dimensions) == {"model": "large"}


@dataclass(frozen=True)
class Ignored:
    """A span that is no usage."""

    id: str
    request: ExportTraceServiceRequest
    mapping: dict[str, object] = field(default_factory=dict)


@pytest.mark.parametrize(
    "case",
    [
        Ignored("no AI call", a_request({"gen_ai.operation.name": "GET /"})),
        Ignored(
            "the sum of calls inside",
            a_request(
                {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 1_500}
            ),
        ),
        Ignored("no operation and no model", without_operation({"gen_ai.usage.input_tokens": 1})),
        Ignored("no operation and no usage", without_operation({"gen_ai.request.model": "m"})),
        Ignored(
            "no operation, where one is asked for",
            without_operation({"gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 1}),
            {"operations": ["chat"]},
        ),
        Ignored("a call that failed", a_request({}, status=Status.STATUS_CODE_ERROR)),
        Ignored(
            "instrumentation that repeats another",
            a_request({"gen_ai.usage.input_tokens": 1}, scope="framework"),
            {"ignored_scopes": ["framework"]},
        ),
    ],
    ids=lambda case: case.id,
)
def test_what_is_no_usage_is_left_alone(case: Ignored) -> None:
    """Exporters send every span of a program; those that are no usage are not even rejected."""
    assert drafts(case.request, **case.mapping) == []


def test_a_call_that_failed_after_using_something_counts() -> None:
    """Tokens that were used are usage, whatever became of the call."""
    request = a_request({"gen_ai.usage.input_tokens": 9}, status=Status.STATUS_CODE_ERROR)

    assert drafts(request)[0].draft.event.quantities["input_tokens"] == "9"


@pytest.mark.parametrize(
    ("values", "resource", "customer"),
    [
        pytest.param({"tenant": "b"}, {}, "b", id="an attribute"),
        pytest.param({}, {"tenant": "r"}, "r", id="the resource"),
        pytest.param({"baggage.tenant": "g"}, {}, "g", id="copied baggage"),
        pytest.param(
            {"http.request.header.baggage": ["a=1,tenant=Z%C3%BCrich;ttl=5", "b=2"]},
            {},
            "Zürich",
            id="the header",
        ),
        pytest.param({"http.request.header.baggage": "tenant=x"}, {}, "x", id="the header as text"),
        pytest.param({"tenant": 17}, {"tenant": "r"}, "17", id="a number, before the resource"),
        pytest.param({"http.request.header.baggage": ["tenants=x"]}, {}, "", id="nowhere"),
    ],
)
def test_the_customer_stands_where_the_mapping_says(
    values: Mapping[str, Value], resource: Mapping[str, Value], customer: str
) -> None:
    """The first place that holds something counts."""
    (span,) = drafts(
        a_request(values, resource=resource),
        customer=["span:tenant", "baggage:tenant", "resource:tenant"],
    )

    assert span.draft.event.subject.customer_id == customer


def test_levels_and_dimensions_can_be_mapped() -> None:
    """Every level of the subject has its place, and dimensions replace the usual ones."""
    (span,) = drafts(
        a_request({"team": "t1", "enduser.id": "u1", "gen_ai.request.model": "m"}),
        project="span:team",
        user=["span:enduser.id"],
        dimensions={"kind": "span:gen_ai.operation.name", "absent": "span:absent"},
    )

    subject = span.draft.event.subject
    assert (subject.project_id, subject.user_id) == ("t1", "u1")
    assert dict(span.draft.event.dimensions) == {"kind": "chat"}


def test_a_quantity_is_named_as_its_attribute_is() -> None:
    """By the one that was sent, and by the first of those that could have been."""
    (span,) = drafts(a_request({"gen_ai.usage.prompt_tokens": 7}))

    names = [span.draft.name_of(f'quantities["{each}_tokens"]') for each in ("input", "output")]
    assert names == [
        "attribute gen_ai.usage.prompt_tokens",
        "attribute gen_ai.usage.output_tokens",
    ]


def test_quantities_can_be_mapped() -> None:
    """Names that conventions do not have, in the place of theirs; parts stay parts."""
    quantities = {
        "input_tokens": "span:llm.input",
        "cached_input_tokens": ["span:llm.cached", "span:llm.cache_read"],
        "images": "span:llm.images",
    }
    values: dict[str, Value] = {
        "llm.input": 5,
        "llm.cache_read": 6,
        "llm.images": 2,
        "gen_ai.usage.output_tokens": 1,
    }

    (span,) = drafts(a_request(values), quantities=quantities)
    (part,) = drafts(a_request(values), quantities={"cached_input_tokens": "span:llm.cache_read"})

    assert dict(span.draft.event.quantities) == {
        "requests": "1",
        "input_tokens": "5",
        "cached_input_tokens": "6",
        "images": "2",
    }
    assert span.draft.violations == (
        Violation(
            "attributes llm.cache_read", "must be at most llm.input, which includes them: 6 of 5"
        ),
    )
    assert part.draft.violations == ()


@pytest.mark.parametrize(
    ("values", "violations"),
    [
        pytest.param(
            {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.cache_read.input_tokens": 11},
            [
                (
                    "attributes gen_ai.usage.cache_read.input_tokens",
                    "must be at most gen_ai.usage.input_tokens, which includes them: 11 of 10",
                )
            ],
            id="cached",
        ),
        pytest.param(
            {
                "gen_ai.usage.input_tokens": 10,
                "gen_ai.usage.cache_read.input_tokens": 6,
                "gen_ai.usage.cache_creation.input_tokens": 5,
            },
            [
                (
                    (
                        "attributes gen_ai.usage.cache_read.input_tokens and"
                        " gen_ai.usage.cache_creation.input_tokens"
                    ),
                    "must be at most gen_ai.usage.input_tokens, which includes them: 11 of 10",
                )
            ],
            id="cached both ways",
        ),
        pytest.param(
            {"gen_ai.usage.cache_write.input_tokens": 3},
            [
                (
                    "attributes gen_ai.usage.cache_write.input_tokens",
                    "must be at most gen_ai.usage.input_tokens, which includes them: 3 of 0",
                )
            ],
            id="a part without its whole",
        ),
        pytest.param(
            {"gen_ai.usage.output_tokens": 1.0, "gen_ai.usage.reasoning.output_tokens": 2},
            [
                (
                    "attributes gen_ai.usage.reasoning.output_tokens",
                    "must be at most gen_ai.usage.output_tokens, which includes them: 2 of 1",
                )
            ],
            id="reasoning",
        ),
    ],
)
def test_a_part_larger_than_its_whole_is_named(
    values: Mapping[str, Value], violations: list[tuple[str, str]]
) -> None:
    """Whoever counts parts beside the whole is told so, instead of being billed a guess."""
    (span,) = drafts(a_request(values))

    found = [(each.field, each.description) for each in span.draft.violations]
    assert [(name, text.replace("1.0", "1")) for name, text in found] == violations


def test_ids_that_cannot_tell_spans_apart_are_named() -> None:
    """An id of zeros is no id."""
    (span,) = drafts(a_request({}, trace_id=bytes(16)))

    assert span.draft.violations == (
        Violation("trace_id", "must have 16 bytes that are not all zero"),
    )


def test_an_answer_names_what_was_not_taken() -> None:
    """Each refused span is counted; the first are named with every fault, by their own words."""
    spans = [drafts(a_request({}))[0]] * 30
    bad = Fate(Outcome.REJECTED, (Violation("customer", "is required"), Violation("time", "bad")))

    answer = render_answer(spans, [Fate(Outcome.CREATED), *[bad] * 29])

    assert answer.partial_success.rejected_spans == 29
    assert answer.partial_success.error_message.startswith(
        "000102030405060708090a0b0c0d0e0f-0102030405060708: customer is required, time bad; "
    )
    assert answer.partial_success.error_message.endswith("; and 9 more")
    assert not render_answer(spans, [Fate(Outcome.DUPLICATE)] * 30).HasField("partial_success")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("otlp: {customer: nowhere}", "otlp.customer: must be a place such as span:customer.id"),
        ("otlp: {customer: 'header:x'}", "is of none of the kinds span, resource, baggage"),
        ("otlp: {quantities: {a: 'baggage:x'}}", "baggage:x is of none of the kinds span"),
        ("envoy: {customer: 'metadata:x'}", "metadata:x must read metadata:<namespace>/<key>"),
        ("otlp: {customers: 'span:x'}", "otlp.customers: Extra inputs are not permitted"),
        ("[1]", "the file: Input should be a valid dictionary"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_file_with_a_fault_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    """The message names the file and the place of the fault."""
    file = tmp_path / "sources.yaml"
    file.write_text(text)

    with pytest.raises(BadSettings) as refused:
        load_mapping(file)

    assert str(file) in str(refused.value)
    assert fault in str(refused.value)


def test_a_file_may_say_little() -> None:
    """What is not said stays as it is by default; no file at all is fine."""
    assert load_mapping(None).otlp == OtlpMapping()
