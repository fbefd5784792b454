"""Spans of AI calls, as the OpenTelemetry conventions for generative AI write them, and events.

`gen_ai.usage.input_tokens` includes what was read from and written to a cache, and `output_tokens`
includes reasoning: the parts are quantities of their own, never added to the whole. A part that is
larger than its whole was written by something that counts otherwise; such a span is rejected, since
any sum would be a guess.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple
from urllib.parse import unquote

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from kit.errors import Violation
from services.meter.model import Fate
from services.meter.sources.intake import Draft
from services.meter.sources.mapping import BAGGAGE, RESOURCE, OtlpMapping, Place
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.type.v1.subject_pb2 import Subject

_TRACE_ID_BYTES = 16
_SPAN_ID_BYTES = 8
_NANOS_PER_SECOND = 10**9
_NAMED_MAX = 20
_DEFAULT_SOURCE = "otlp"
_OPERATION = "gen_ai.operation.name"
_MODELS = ("gen_ai.request.model", "gen_ai.response.model")
_BAGGAGE_HEADER = "http.request.header.baggage"

# What each whole includes.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "input_tokens": ("cached_input_tokens", "cache_write_input_tokens"),
    "output_tokens": ("reasoning_tokens",),
}
_LEVELS = ("customer", "project", "user", "key", "run")

Attributes = Mapping[str, AnyValue]


class SpanDraft(NamedTuple):
    """A span that is usage, and how to name it to whoever exported it."""

    span_id: str
    draft: Draft


def drafts_of(request: ExportTraceServiceRequest, mapping: OtlpMapping) -> Iterator[SpanDraft]:
    """Give a draft for each span that is usage; other spans are nobody's business here."""
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for span in _spans(resource_spans, mapping):
            attributes = _attributes(span.attributes)
            if _is_usage(span, attributes, mapping):
                yield _draft(span, attributes, resource, mapping)


def render_answer(spans: Sequence[SpanDraft], fates: Sequence[Fate]) -> ExportTraceServiceResponse:
    """Say how many spans were not taken, and of the first ones which and why."""
    refused = [
        f"{span.span_id}: " + ", ".join(f"{v.field} {v.description}" for v in fate.violations)
        for span, fate in zip(spans, fates, strict=True)
        if fate.violations
    ]
    if not refused:
        return ExportTraceServiceResponse()
    more = len(refused) - _NAMED_MAX
    text = "; ".join(refused[:_NAMED_MAX]) + (f"; and {more} more" if more > 0 else "")
    return ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=len(refused), error_message=text)
    )


def _spans(resource_spans: ResourceSpans, mapping: OtlpMapping) -> Iterator[Span]:
    for scope_spans in resource_spans.scope_spans:
        if scope_spans.scope.name not in mapping.ignored_scopes:
            yield from scope_spans.spans


def _attributes(listed: Sequence[KeyValue]) -> Attributes:
    return {each.key: each.value for each in listed}


def _is_usage(span: Span, attributes: Attributes, mapping: OtlpMapping) -> bool:
    operation = attributes[_OPERATION].string_value if _OPERATION in attributes else ""
    if operation not in mapping.operations:
        return False
    has_usage = any(_attribute(places, attributes) for places in mapping.quantities.values())
    if not operation:
        return has_usage and any(name in attributes for name in _MODELS)
    return has_usage or span.status.code != Status.STATUS_CODE_ERROR


def _draft(
    span: Span, attributes: Attributes, resource: Attributes, mapping: OtlpMapping
) -> SpanDraft:
    looker = _Looker(attributes, resource)
    event = UsageEvent(
        event_id=f"{span.trace_id.hex()}-{span.span_id.hex()}",
        source=looker.text(RESOURCE, "service.name") or _DEFAULT_SOURCE,
        subject=Subject(
            customer_id=looker.first(mapping.customer),
            project_id=looker.first(mapping.project),
            user_id=looker.first(mapping.user),
            key_id=looker.first(mapping.key),
            run_id=looker.first(mapping.run),
        ),
        type=mapping.type,
        time=_time(span),
    )
    for name, places in mapping.dimensions.items():
        if value := looker.first(places):
            event.dimensions[name] = value
    event.quantities["requests"] = "1"
    for name, places in mapping.quantities.items():
        if attribute := _attribute(places, attributes):
            event.quantities[name] = _text(attributes[attribute])
    violations = (*_bad_ids(span), *_parts_beyond_their_whole(attributes, mapping))
    return SpanDraft(event.event_id, Draft(event, _namer(attributes, mapping), violations))


class _Looker:
    """Looks for texts in the places of one span."""

    def __init__(self, attributes: Attributes, resource: Attributes) -> None:
        self._attributes = attributes
        self._resource = resource

    def first(self, places: Sequence[Place]) -> str:
        """Answer what the first place holds that holds something."""
        return next((text for place in places if (text := self.text(*place))), "")

    def text(self, kind: str, name: str) -> str:
        """Answer what one place holds."""
        if kind == BAGGAGE:
            return self._baggage(name)
        attributes = self._resource if kind == RESOURCE else self._attributes
        return _text(attributes[name]) if name in attributes else ""

    def _baggage(self, name: str) -> str:
        """Look where baggage ends up in a span.

        Processors copy its entries into attributes, and instrumentation of servers can record the
        header itself (https://www.w3.org/TR/baggage/).
        """
        for copied in (name, f"baggage.{name}"):
            if copied in self._attributes:
                return _text(self._attributes[copied])
        header = self._attributes.get(_BAGGAGE_HEADER)
        if header is None:
            return ""
        lines = [each.string_value for each in header.array_value.values] or [header.string_value]
        members = (member for line in lines for member in line.split(","))
        for member in members:
            key, _, value = member.partition(";")[0].partition("=")
            if key.strip() == name:
                return unquote(value.strip())
        return ""


def _text(value: AnyValue) -> str:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "int_value":
            return str(value.int_value)
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "double_value":
            # Some write whole numbers as doubles; what is none is refused as a quantity.
            return format(Decimal(repr(value.double_value)), "f")
        case other:
            return f"({other or 'nothing'})"


def _time(span: Span) -> Timestamp:
    """Answer when the call ended, since only then it is known what was used."""
    nanos = span.end_time_unix_nano or span.start_time_unix_nano
    return Timestamp(seconds=nanos // _NANOS_PER_SECOND, nanos=nanos % _NANOS_PER_SECOND)


def _bad_ids(span: Span) -> Iterator[Violation]:
    for name, value, size in (
        ("trace_id", span.trace_id, _TRACE_ID_BYTES),
        ("span_id", span.span_id, _SPAN_ID_BYTES),
    ):
        if len(value) != size or not any(value):
            yield Violation(name, f"must have {size} bytes that are not all zero")


def _parts_beyond_their_whole(attributes: Attributes, mapping: OtlpMapping) -> Iterator[Violation]:
    for whole, parts in _PARTS.items():
        wholes = mapping.quantities.get(whole, ())
        each = (_attribute(mapping.quantities.get(part, ()), attributes) for part in parts)
        names = [name for name in each if name]
        if not wholes or not names:
            continue
        whole_name = _name_of_one(wholes, attributes)
        count = sum(_count(attributes, name) for name in names)
        whole_count = _count(attributes, whole_name)
        if count > whole_count:
            yield Violation(
                f"attributes {' and '.join(names)}",
                f"must be at most {whole_name}, which includes them: {count} of {whole_count}",
            )


def _attribute(places: Sequence[Place], attributes: Attributes) -> str:
    """Answer the name of the first attribute of several that is there, or nothing."""
    return next((place.name for place in places if place.name in attributes), "")


def _name_of_one(places: Sequence[Place], attributes: Attributes) -> str:
    """Answer the name of the first attribute that is there, or where none is, that could be."""
    return _attribute(places, attributes) or places[0].name


def _count(attributes: Attributes, name: str) -> Decimal:
    """Answer a count; what is no number counts nothing here, as it is refused by itself."""
    try:
        count = Decimal(_text(attributes[name])) if name in attributes else Decimal(0)
    except InvalidOperation:
        return Decimal(0)
    return count if count.is_finite() else Decimal(0)


def _namer(attributes: Attributes, mapping: OtlpMapping) -> Callable[[str], str]:
    places: dict[str, Sequence[Place]] = {
        f"subject.{level}_id": getattr(mapping, level) for level in _LEVELS
    }
    places |= {f'dimensions["{name}"]': each for name, each in mapping.dimensions.items()}
    quantities = {
        f'quantities["{name}"]': _name_of_one(each, attributes)
        for name, each in mapping.quantities.items()
        if each
    }
    others = {"time": "end_time_unix_nano", "source": "resource service.name"}

    def name_of(field: str) -> str:
        if field in places:
            listed = " or ".join(map(str, places[field]))
            return f"{field.removeprefix('subject.')} ({listed})"
        if field in quantities:
            return f"attribute {quantities[field]}"
        return others.get(field, field)

    return name_of
