"""A program as anybody would instrument it: spans of AI calls, exported by the OpenTelemetry SDK.

Nothing of Tollkeeper is imported. Where to export to stands in OTEL_EXPORTER_OTLP_*; the argument
is the time of the calls, in nanoseconds.
"""

import sys

from opentelemetry import baggage, context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.processor.baggage import ALLOW_ALL_BAGGAGE_KEYS, BaggageSpanProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue


def main(time_ns: int) -> None:
    """Do some work for two customers."""
    provider = TracerProvider(resource=Resource.create({"service.name": "assistant"}))
    provider.add_span_processor(BaggageSpanProcessor(ALLOW_ALL_BAGGAGE_KEYS))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("assistant.instrumentation")

    agent_total: dict[str, AttributeValue] = {
        "customer.id": "acme",
        "gen_ai.usage.input_tokens": 1_500,
        "gen_ai.usage.output_tokens": 300,
    }
    with_span(tracer, "invoke_agent", time_ns, agent_total)
    first: dict[str, AttributeValue] = {
        "customer.id": "acme",
        "gen_ai.request.model": "large",
        "gen_ai.usage.input_tokens": 1_000,
        "gen_ai.usage.cache_read.input_tokens": 640,
        "gen_ai.usage.output_tokens": 250,
        "gen_ai.usage.reasoning.output_tokens": 200,
    }
    with_span(tracer, "chat", time_ns, first)
    second: dict[str, AttributeValue] = {
        "customer.id": "acme",
        "gen_ai.request.model": "small",
        "gen_ai.usage.input_tokens": 500,
        "gen_ai.usage.output_tokens": 50,
    }
    with_span(tracer, "chat", time_ns, second)
    with_span(tracer, "execute_tool", time_ns, {"customer.id": "acme"})

    token = context.attach(baggage.set_baggage("customer.id", "zeta"))
    embedding: dict[str, AttributeValue] = {
        "gen_ai.request.model": "vectors",
        "gen_ai.usage.input_tokens": 70,
    }
    with_span(tracer, "embeddings", time_ns, embedding)
    context.detach(token)
    provider.shutdown()


def with_span(
    tracer: Tracer, operation: str, time_ns: int, attributes: dict[str, AttributeValue]
) -> None:
    """Record one operation, as the conventions for generative AI have it."""
    span = tracer.start_span(
        operation,
        start_time=time_ns - 10**9,
        attributes={
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "acme.ai",
            **attributes,
        },
    )
    span.end(end_time=time_ns)


if __name__ == "__main__":
    main(int(sys.argv[1]))
