"""Logs, traces and metrics: structured logs always, OpenTelemetry when an endpoint is set.

Off, `@traced` costs one comparison and no span exists. Refuses to record values: spans and logs
carry names, ids and durations, never quantities, money, tokens or local variables.
"""

import logging
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import grpc.aio
import structlog
from opentelemetry import metrics, propagate, trace
from opentelemetry.trace import SpanKind, StatusCode
from stamina.instrumentation import RetryDetails, set_on_retry_hooks
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from kit.errors import DomainError
from kit.settings import ServiceSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace.export import SpanExporter

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
UseCase = Callable[Parameters, Coroutine[Any, Any, Result]]

meter = metrics.get_meter("tollkeeper")
"""Makes instruments; they measure nothing until telemetry is configured."""

_call_duration = meter.create_histogram(
    "rpc.server.duration", unit="ms", description="How long calls took, by method and status."
)
_tracer = trace.get_tracer("tollkeeper")
# The text of an exception may hold a value, and so belongs into no span.
_WITHOUT_TEXTS: Any = {"record_exception": False, "set_status_on_exception": False}
_SERVER_FAULTS = frozenset({"UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED"})


class _Switch:
    """Whether calls and use cases are traced in this process."""

    on = False


def get_logger() -> FilteringBoundLogger:
    """Make a logger: `log.info("period.closed", invoices=3)` writes one line to standard error."""
    return cast("FilteringBoundLogger", structlog.get_logger())


def configure(service: str, settings: ServiceSettings) -> None:
    """Set up logs for this process, and traces and metrics when an OTLP endpoint is set."""
    configure_logs(settings.log_level)
    if settings.otlp_endpoint is None:
        return
    _exporting().export_to(settings.otlp_endpoint, service)
    _Switch.on = True


def start(service: str, exporter: "SpanExporter", reader: "MetricReader") -> None:
    """Send spans and metrics of this process, from now until `shutdown`, as OpenTelemetry allows.

    Call it once, before the first pool is made.
    """
    _exporting().start(service, exporter, reader)
    _Switch.on = True


def shutdown() -> None:
    """Send what is waiting to be sent; harmless when nothing was started."""
    if _Switch.on:
        _Switch.on = False
        _exporting().shutdown()


def _exporting() -> ModuleType:
    # Half a second to import, which only a process that exports anything shall wait for.
    return import_module("kit.telemetry_export")


def is_on() -> bool:
    """Tell whether traces and metrics go anywhere."""
    return _Switch.on


def traced(name: str) -> Callable[[UseCase[Parameters, Result]], UseCase[Parameters, Result]]:
    """Make a use case a span of that name, such as `meter.ingest`, when telemetry is on."""

    def decorate(use_case: UseCase[Parameters, Result]) -> UseCase[Parameters, Result]:
        async def spanned(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            with _tracer.start_as_current_span(name, **_WITHOUT_TEXTS) as span:
                try:
                    return await use_case(*args, **kwargs)
                except DomainError:
                    raise
                except Exception:
                    span.set_status(StatusCode.ERROR)
                    raise

        @wraps(use_case)
        def called(
            *args: Parameters.args, **kwargs: Parameters.kwargs
        ) -> Coroutine[Any, Any, Result]:
            return (spanned if _Switch.on else use_case)(*args, **kwargs)

        return called

    return decorate


@contextmanager
def server_call(method: str, context: grpc.aio.ServicerContext[object, object]) -> Iterator[None]:
    """Make one served call a span, a child of the caller's, and measure it.

    `method` is the full name, such as `tollkeeper.api.meter.v1.MeterService/QueryUsage`.
    """
    service, _, name = method.partition("/")
    labels = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    carrier = {key: str(value) for key, value in context.invocation_metadata() or ()}
    started_s = time.perf_counter()
    with _tracer.start_as_current_span(
        method,
        context=propagate.extract(carrier),
        kind=SpanKind.SERVER,
        attributes=labels,
        **_WITHOUT_TEXTS,
    ) as span:
        try:
            yield
        finally:
            status = _status_of(context)
            span.set_attribute("rpc.grpc.status_code", status.value[0])
            if status.name in _SERVER_FAULTS:
                span.set_status(StatusCode.ERROR)
            duration_ms = (time.perf_counter() - started_s) * 1000
            _call_duration.record(duration_ms, {**labels, "rpc.grpc.status_code": status.name})


def client_interceptors() -> Sequence[grpc.aio.ClientInterceptor]:
    """Make what a channel needs to pass the trace on; nothing when telemetry is off."""
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (
        _exporting().client_interceptors() if _Switch.on else ()
    )
    return interceptors


def trace_id() -> str | None:
    """Name the trace of the running call, in 32 hexadecimal digits, or nothing without one."""
    span = trace.get_current_span().get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else None


def configure_logs(level: str) -> None:
    """Write logs to standard error: JSON lines, or for people when that is a terminal."""
    is_terminal = sys.stderr.isatty()
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    plain_traceback = structlog.dev.plain_traceback
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=plain_traceback)]
        if is_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard library; what they warn of looks like our own lines.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
    set_on_retry_hooks([_log_retry])


def _log_retry(details: RetryDetails) -> None:
    get_logger().warning(
        "waiting", cause=str(details.caused_by), seconds=round(details.wait_for, 2)
    )


def _add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event


def _status_of(context: grpc.aio.ServicerContext[object, object]) -> grpc.StatusCode:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    failed = sys.exc_info()[0] is not None
    return grpc.StatusCode.CANCELLED if failed else grpc.StatusCode.OK
