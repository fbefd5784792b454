"""The servicer of the meter: each method parses, calls a use case and renders."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from kit.clock import Clock
from kit.idempotency import Once, fingerprint
from kit.ids import parse_id
from kit.paging import page_size
from kit.rpc.auth import caller
from kit.rpc.wire import render_time
from services.meter.convert.event_bytes import parse_events
from services.meter.convert.events import (
    check_event_count,
    render_cloud_event_outcomes,
    render_event,
    render_import_outcomes,
    render_outcomes,
    render_replay_outcomes,
)
from services.meter.convert.meters import parse_put_meter, render_meter, render_put_meter
from services.meter.convert.reading import (
    parse_batch_query,
    parse_event_query,
    parse_identity,
    parse_summarize_usage,
    parse_usage_query,
    parse_watch,
    render_batch_answer,
    render_usage_row,
    render_usage_summary,
)
from services.meter.convert.records import (
    parse_amendment,
    parse_close_periods,
    parse_customer,
    parse_late_query,
    parse_replays,
    parse_verify,
    parse_void,
    render_amended,
    render_closed,
    render_erased,
    render_found_event,
    render_late_event,
    render_rejected,
    render_revision,
    render_verified,
    render_voided,
    repaired,
)
from services.meter.sources.cloudevents import draft_of, given_message
from services.meter.sources.intake import Intake, draft_all
from services.meter.streams import EventStream
from services.meter.usecases.closing import Closing
from services.meter.usecases.corrections import Corrections
from services.meter.usecases.erasure import Erasure
from services.meter.usecases.ingestion import Ingestion
from services.meter.usecases.meters import Meters
from services.meter.usecases.questions import Questions
from services.meter.usecases.rejections import Rejections
from services.meter.usecases.usage import Usage
from services.meter.usecases.verification import Verification
from tollkeeper.api.meter.v1 import meter_service_pb2 as wire
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]

_ROWS_DEFAULT = 1_000
_EVENTS_DEFAULT = 100
_METERS_DEFAULT = 50
_ROWS_MAX = 10_000
_METERS_MAX = 1_000
_RECORDS_MAX = 1_000

Value = TypeVar("Value")
Answer = TypeVar("Answer", bound=Message)


@dataclass(frozen=True, slots=True)
class Records:
    """The use cases about what is kept: closing it, correcting, repairing, verifying, erasing."""

    closing: Closing
    corrections: Corrections
    rejections: Rejections
    verification: Verification
    erasure: Erasure


class MeterService(MeterServiceServicer):
    """Serves `tollkeeper.api.meter.v1.MeterService`."""

    def __init__(
        self, ingestion: Ingestion, meters: Meters, usage: Usage, records: Records, clock: Clock
    ) -> None:
        self._ingestion = ingestion
        self._intake = Intake(ingestion, clock)
        self._meters = meters
        self._usage = usage
        self._records = records
        self._questions = Questions(usage)
        self._clock = clock
        self._streams: set[EventStream] = set()

    async def IngestEvents(
        self, request: wire.IngestEventsRequest, context: Context
    ) -> wire.IngestEventsResponse:
        events = parse_events(request, self._clock.now())
        return render_outcomes(await self._ingestion.ingest_events(caller(context).tenant, events))

    async def IngestCloudEvents(
        self, request: wire.IngestCloudEventsRequest, context: Context
    ) -> wire.IngestCloudEventsResponse:
        check_event_count(len(request.events))
        drafts = await draft_all(map(given_message, request.events), draft_of)
        fates = await self._intake.store(caller(context).tenant, drafts)
        return render_cloud_event_outcomes(fates)

    async def StreamEvents(
        self, requests: AsyncIterator[wire.StreamEventsRequest], context: Context
    ) -> AsyncGenerator[wire.StreamEventsResponse, None]:
        stream = EventStream(self._ingestion, caller(context).tenant, self._clock)
        self._streams.add(stream)
        try:
            async for response in stream.answers(requests):
                yield response
        finally:
            self._streams.discard(stream)

    def drain(self) -> None:
        """Let every stream answer what it has read, and end; nothing is watched any more."""
        self._questions.stop()
        for stream in self._streams:
            stream.drain()

    async def QueryUsage(
        self, request: wire.QueryUsageRequest, context: Context
    ) -> wire.QueryUsageResponse:
        query = parse_usage_query(request)
        size = page_size(request.page_size, _ROWS_DEFAULT, _ROWS_MAX)
        page = await self._usage.query_usage(
            caller(context).tenant, query, size, request.page_token
        )
        return wire.QueryUsageResponse(
            rows=[render_usage_row(row, query) for row in page.items],
            next_page_token=page.next_page_token,
        )

    async def BatchQueryUsage(
        self, request: wire.BatchQueryUsageRequest, context: Context
    ) -> AsyncGenerator[wire.BatchQueryUsageResponse, None]:
        queries = parse_batch_query(request)
        answers = self._questions.answer_each(caller(context).tenant, queries)
        async with aclosing(answers):
            async for index, answer in answers:
                yield render_batch_answer(index, answer, queries[index])

    async def WatchUsage(
        self, request: wire.WatchUsageRequest, context: Context
    ) -> AsyncGenerator[wire.WatchUsageResponse, None]:
        query, min_interval = parse_watch(request)
        watched = self._questions.watch(caller(context).tenant, query, min_interval)
        async with aclosing(watched):
            async for rows in watched:
                yield wire.WatchUsageResponse(
                    rows=[render_usage_row(row, query) for row in rows],
                    read_time=render_time(self._clock.now()),
                )

    async def SummarizeUsage(
        self, request: wire.SummarizeUsageRequest, context: Context
    ) -> wire.SummarizeUsageResponse:
        customer_id, interval = parse_summarize_usage(request)
        size = page_size(request.page_size, _ROWS_DEFAULT, _ROWS_MAX)
        page = await self._usage.summarize_usage(
            caller(context).tenant, customer_id, interval, size, request.page_token
        )
        return wire.SummarizeUsageResponse(
            summaries=[render_usage_summary(summary) for summary in page.items],
            next_page_token=page.next_page_token,
        )

    async def ListEvents(
        self, request: wire.ListEventsRequest, context: Context
    ) -> wire.ListEventsResponse:
        query = parse_event_query(request)
        size = page_size(request.page_size, _EVENTS_DEFAULT, _ROWS_MAX)
        page = await self._usage.list_events(
            caller(context).tenant, query, size, request.page_token
        )
        return wire.ListEventsResponse(
            events=[render_event(event) for event in page.items],
            next_page_token=page.next_page_token,
        )

    async def GetEvent(
        self, request: wire.GetEventRequest, context: Context
    ) -> wire.GetEventResponse:
        identity = parse_identity(request.source, request.event_id)
        found = await self._records.corrections.get_event(caller(context).tenant, identity)
        return render_found_event(*found)

    async def ListEventRevisions(
        self, request: wire.ListEventRevisionsRequest, context: Context
    ) -> wire.ListEventRevisionsResponse:
        customer_id = parse_customer(request.customer_id)
        size = page_size(request.page_size, _EVENTS_DEFAULT, _RECORDS_MAX)
        page = await self._records.corrections.list_revisions(
            caller(context).tenant, customer_id, size, request.page_token
        )
        return wire.ListEventRevisionsResponse(
            revisions=[render_revision(revision) for revision in page.items],
            next_page_token=page.next_page_token,
        )

    async def ImportUsage(
        self, request: wire.ImportUsageRequest, context: Context
    ) -> wire.ImportUsageResponse:
        events = parse_events(request, self._clock.now())
        fates = await self._ingestion.import_usage(caller(context).tenant, events)
        return render_import_outcomes(fates)

    async def ClosePeriods(
        self, request: wire.ClosePeriodsRequest, context: Context
    ) -> wire.ClosePeriodsResponse:
        ends = parse_close_periods(request)
        once = self._once(request, "ClosePeriods", wire.ClosePeriodsResponse, render_closed)
        return await self._records.closing.close_periods(caller(context).tenant, ends, once)

    async def ListLateEvents(
        self, request: wire.ListLateEventsRequest, context: Context
    ) -> wire.ListLateEventsResponse:
        customer_id, interval = parse_late_query(request)
        size = page_size(request.page_size, _EVENTS_DEFAULT, _RECORDS_MAX)
        page = await self._records.closing.list_late_events(
            caller(context).tenant, customer_id, interval, size, request.page_token
        )
        return wire.ListLateEventsResponse(
            events=[render_late_event(late) for late in page.items],
            next_page_token=page.next_page_token,
        )

    async def AmendEvent(
        self, request: wire.AmendEventRequest, context: Context
    ) -> wire.AmendEventResponse:
        amended, reason = parse_amendment(request, self._clock.now())
        once = self._once(request, "AmendEvent", wire.AmendEventResponse, render_amended)
        return await self._records.corrections.amend_event(
            caller(context).tenant, amended, reason, once
        )

    async def VoidEvent(
        self, request: wire.VoidEventRequest, context: Context
    ) -> wire.VoidEventResponse:
        identity, reason = parse_void(request)
        once = self._once(request, "VoidEvent", wire.VoidEventResponse, render_voided)
        return await self._records.corrections.void_event(
            caller(context).tenant, identity, reason, once
        )

    async def VerifyUsage(
        self, request: wire.VerifyUsageRequest, context: Context
    ) -> AsyncGenerator[wire.VerifyUsageResponse, None]:
        interval, differences_max = parse_verify(request)
        days = self._records.verification.verify(caller(context).tenant, interval)
        async with aclosing(days):
            async for verified in days:
                yield render_verified(verified, differences_max)

    async def ListRejectedEvents(
        self, request: wire.ListRejectedEventsRequest, context: Context
    ) -> wire.ListRejectedEventsResponse:
        size = page_size(request.page_size, _EVENTS_DEFAULT, _RECORDS_MAX)
        page = await self._records.rejections.list_rejected_events(
            caller(context).tenant, size, request.page_token
        )
        return wire.ListRejectedEventsResponse(
            events=[render_rejected(rejected) for rejected in page.items],
            next_page_token=page.next_page_token,
        )

    async def ReplayRejectedEvents(
        self, request: wire.ReplayRejectedEventsRequest, context: Context
    ) -> wire.ReplayRejectedEventsResponse:
        numbers = parse_replays(request)
        once = self._once(
            request,
            "ReplayRejectedEvents",
            wire.ReplayRejectedEventsResponse,
            render_replay_outcomes,
        )
        return await self._records.rejections.replay(
            caller(context).tenant,
            numbers,
            lambda kept: repaired(request, kept, self._clock.now()),
            once,
        )

    async def EraseCustomer(
        self, request: wire.EraseCustomerRequest, context: Context
    ) -> wire.EraseCustomerResponse:
        customer_id = parse_customer(request.customer_id)
        once = self._once(request, "EraseCustomer", wire.EraseCustomerResponse, render_erased)
        return await self._records.erasure.erase_customer(caller(context).tenant, customer_id, once)

    def _once(
        self,
        request: Any,  # noqa: ANN401 - of any mutation.
        method: str,
        answer_type: type[Answer],
        render: Callable[[Value], Answer],
    ) -> Once[Value, Answer]:
        """Tell one mutation apart from every other."""
        now = self._clock.now()
        return Once(request.request_id, method, fingerprint(request), answer_type, render, now)

    async def PutMeter(
        self, request: wire.PutMeterRequest, context: Context
    ) -> wire.PutMeterResponse:
        meter = parse_put_meter(request, self._clock.now())
        once = self._once(request, "PutMeter", wire.PutMeterResponse, render_put_meter)
        return await self._meters.put_meter(caller(context).tenant, meter, once)

    async def GetMeter(
        self, request: wire.GetMeterRequest, context: Context
    ) -> wire.GetMeterResponse:
        meter_id = parse_id(request.meter_id, "meter_id")
        meter = await self._meters.get_meter(caller(context).tenant, meter_id)
        return wire.GetMeterResponse(meter=render_meter(meter))

    async def ListMeters(
        self, request: wire.ListMetersRequest, context: Context
    ) -> wire.ListMetersResponse:
        size = page_size(request.page_size, _METERS_DEFAULT, _METERS_MAX)
        page = await self._meters.list_meters(caller(context).tenant, size, request.page_token)
        return wire.ListMetersResponse(
            meters=[render_meter(meter) for meter in page.items],
            next_page_token=page.next_page_token,
        )
