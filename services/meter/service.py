"""The servicer of the meter: each method parses, calls a use case and renders."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc.aio

from kit.clock import Clock
from kit.idempotency import Once, fingerprint
from kit.ids import parse_id
from kit.paging import page_size
from kit.rpc.auth import caller
from kit.rpc.wire import render_time
from services.meter.convert.events import (
    check_event_count,
    parse_events,
    render_cloud_event_outcomes,
    render_event,
    render_outcomes,
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
from services.meter.sources.cloudevents import draft_of, given_message
from services.meter.sources.intake import Intake, draft_all
from services.meter.streams import EventStream
from services.meter.usecases.ingestion import Ingestion
from services.meter.usecases.meters import Meters
from services.meter.usecases.questions import Questions
from services.meter.usecases.usage import Usage
from tollkeeper.api.meter.v1 import meter_service_pb2 as wire
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]

_ROWS_DEFAULT = 1_000
_EVENTS_DEFAULT = 100
_METERS_DEFAULT = 50
_ROWS_MAX = 10_000
_METERS_MAX = 1_000


class MeterService(MeterServiceServicer):
    """Serves `tollkeeper.api.meter.v1.MeterService`."""

    def __init__(self, ingestion: Ingestion, meters: Meters, usage: Usage, clock: Clock) -> None:
        self._ingestion = ingestion
        self._intake = Intake(ingestion, clock)
        self._meters = meters
        self._usage = usage
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
        event = await self._usage.get_event(caller(context).tenant, identity)
        return wire.GetEventResponse(event=render_event(event))

    async def PutMeter(
        self, request: wire.PutMeterRequest, context: Context
    ) -> wire.PutMeterResponse:
        now = self._clock.now()
        meter = parse_put_meter(request, now)
        once = Once(
            request.request_id,
            "PutMeter",
            fingerprint(request),
            wire.PutMeterResponse,
            render_put_meter,
            now,
        )
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
