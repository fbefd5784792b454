"""Where traces and metrics go when telemetry is on: exporters, providers, instrumented libraries.

Imported only then, by `kit.telemetry`, since it takes half a second.
"""

from collections.abc import Sequence
from typing import Any, cast

import grpc.aio
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_client_interceptors
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter


def export_to(endpoint: str, service: str) -> None:
    """Send spans and metrics to a collector, without TLS where the endpoint is `http://`."""
    insecure = endpoint.startswith("http://")
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint, insecure))
    start(service, OTLPSpanExporter(endpoint, insecure), reader)


def start(service: str, exporter: SpanExporter, reader: MetricReader) -> None:
    """Make the providers of this process, and instrument PostgreSQL and Redis."""
    resource = Resource.create({"service.name": f"tollkeeper-{service}"})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([reader], resource=resource))
    SQLAlchemyInstrumentor().instrument()
    RedisInstrumentor().instrument()


def shutdown() -> None:
    """Send what is waiting to be sent."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        if isinstance(provider, TracerProvider | MeterProvider):
            provider.shutdown()


def client_interceptors() -> Sequence[grpc.aio.ClientInterceptor]:
    """Make what a channel needs to pass the trace on."""
    interceptors: Sequence[grpc.aio.ClientInterceptor] = cast("Any", aio_client_interceptors)()
    return interceptors
