"""OpenTelemetry's trace service on the wire: parse, store, render."""

import asyncio

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    DESCRIPTOR,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from kit.rpc.auth import caller
from services.meter.model import Fate
from services.meter.sources.intake import Intake
from services.meter.sources.mapping import OtlpMapping
from services.meter.sources.otlp import drafts_of, render_answer

SERVICE = DESCRIPTOR.services_by_name["TraceService"]

# Reading a span takes some ten microseconds, in which nothing else is served.
_SPANS_PER_TURN = 500


class SpanTaker:
    """Stores the spans of exports that are usage, whatever brought them."""

    def __init__(self, intake: Intake, mapping: OtlpMapping) -> None:
        self._intake = intake
        self._mapping = mapping

    async def take(
        self, tenant: str, request: ExportTraceServiceRequest
    ) -> ExportTraceServiceResponse:
        """Store the spans that are usage, and say which were not taken.

        Raises:
            Exhausted: OVERLOADED.
        """
        spans = list(drafts_of(request, self._mapping))
        fates: list[Fate] = []
        for first in range(0, len(spans), _SPANS_PER_TURN):
            drafts = [span.draft for span in spans[first : first + _SPANS_PER_TURN]]
            fates += await self._intake.store(tenant, drafts)
            await asyncio.sleep(0)
        return render_answer(spans, fates)


class TraceService:
    """Serves `opentelemetry.proto.collector.trace.v1.TraceService`."""

    def __init__(self, spans: SpanTaker) -> None:
        self._spans = spans

    async def Export(  # noqa: N802 - the name of the method.
        self, request: ExportTraceServiceRequest, context: object
    ) -> ExportTraceServiceResponse:
        """Take an export."""
        return await self._spans.take(caller(context).tenant, request)
