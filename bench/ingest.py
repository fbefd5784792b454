"""Ingest: how many events in a second are durable, deduplicated and rolled up, through gRPC.

The meter runs as its own process on a durable PostgreSQL of its own. Events are of 1,000 customers,
keys and four models, with two quantities; meters add one up by model. The raw limit beside it is
COPY of the same events, by one connection in transactions of 1,000 rows, into one table with the
same columns and indexes, without deduplication and rollups; the better of two runs counts.

Single events are measured beside a bare gRPC server that answers what it gets.

The figures at the top are of batches of 1,000 without duplicates by 16 callers, with one meter, and
of calls with a single event by 64 callers. A duplicate repeats an event of the batch before. A
caller of `StreamEvents` has one stream with at most 4 batches that are not answered. `cpu_us` is
how many microseconds of a processor the service spends on an event, `sender_cpu_us` this process,
`database_cpu_us` PostgreSQL. Two cores give at most 2,000,000 / their sum.
"""

import argparse
import asyncio
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc.aio
import uvloop

from bench import call
from bench.rig import Rig, cpu_seconds_of, running
from kit.rpc.channel import open_channel
from kit.rpc.wire import render_time
from services.meter.convert.events import parse_event
from services.meter.model import IncomingEvent, UsageEvent
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

_INGEST = "/tollkeeper.api.meter.v1.MeterService/IngestEvents"
_STREAM = "/tollkeeper.api.meter.v1.MeterService/StreamEvents"
_BATCHES_UNDER_WAY_MAX = 4
_SOURCE = "gateway-000"
_MODELS = ("large", "medium", "small", "tiny")
_CUSTOMERS = 1_000
_EVENTS = 100_000
_RAW_BATCH = 1_000
_CASE_S = 1.5
_AHEAD = timedelta(hours=1)
_RAW_TABLE = """
CREATE SCHEMA raw;
CREATE TABLE raw.events (LIKE meter.events INCLUDING DEFAULTS, fingerprint bytea);
ALTER TABLE raw.events ADD PRIMARY KEY (tenant_id, event_id, source);
CREATE INDEX ON raw.events (tenant_id, type, time, source, event_id);
CREATE INDEX ON raw.events (
    tenant_id, customer_id, date_bin(INTERVAL '1 minute', time, TIMESTAMPTZ '2000-01-01 00:00Z')
);
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One way of sending, and how many meters count each event."""

    batch: int
    callers: int
    duplicate_percent: int = 0
    meters: int = 1
    streams: bool = False

    @property
    def tenant(self) -> str:
        """The tenant that has so many meters."""
        return f"bench-{self.meters}"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a case reached; `events_per_s` counts what was sent, duplicates included."""

    batch: int
    callers: int
    duplicate_percent: int
    meters: int
    streams: bool
    events: int
    events_per_s: int
    p50_ms: float
    p99_ms: float
    cpu_us: float
    sender_cpu_us: float
    database_cpu_us: float


WARM_UP = Case(batch=1_000, callers=2)
TOP = Case(batch=1_000, callers=16)
SINGLE = Case(batch=1, callers=64)
CASES = [
    *(
        Case(batch, callers, duplicate_percent)
        for batch in (1, 100, 1_000, 5_000)
        for callers in (1, 4, 16)
        for duplicate_percent in (0, 30)
    ),
    SINGLE,
    Case(batch=1_000, callers=16, meters=4),
    *(Case(batch, callers, streams=True) for batch in (1, 100, 1_000) for callers in (1, 4)),
]


def run(arguments: Sequence[str]) -> dict[str, Any]:
    """Measure, and answer the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench ingest", description=__doc__)
    parser.add_argument("--top", action="store_true", help="only the figures at the top")
    cases = [TOP, SINGLE] if parser.parse_args(arguments).top else CASES
    with running("meter") as rig, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(rig, cases))


async def _measure(rig: Rig, cases: Sequence[Case]) -> dict[str, Any]:
    events = _make_events()
    written = [_written(event) for event in events]
    database = await asyncpg.connect(rig.database_url)
    await database.execute(_RAW_TABLE)
    copied = [await _copy(database, events, run=0)]
    async with open_channel(rig.address) as channel:
        sender = _Sender(channel, rig, database)
        for case in {each.tenant: each for each in cases}.values():
            await sender.put_meters(case)
        await sender.run(written, WARM_UP, number=0)
        figures = [await sender.run(written, case, number) for number, case in enumerate(cases, 1)]
    copied.append(await _copy(database, events, run=1))
    await database.close()
    echo = await call.measure(written, SINGLE.callers, _CASE_S)
    top, single = figures[cases.index(TOP)], figures[cases.index(SINGLE)]
    return {
        "events_per_s": top.events_per_s,
        "p99_ms": top.p99_ms,
        "ratio_to_copy": round(top.events_per_s / max(copied), 3),
        "copy_rows_per_s": max(copied),
        "single_events_per_s": single.events_per_s,
        "single_p99_ms": single.p99_ms,
        "single_ratio_to_echo": round(single.events_per_s / echo.per_s, 3),
        "echo_per_s": echo.per_s,
        "service_peak_mb": rig.peak_memory_mb(),
        "cases": [asdict(each) for each in figures],
    }


def _make_events() -> list[meter_pb2.UsageEvent]:
    draw = random.Random(1)
    start = datetime.now(UTC) - timedelta(minutes=1)
    return [_make_event(draw, number, start) for number in range(_EVENTS)]


def _make_event(draw: random.Random, number: int, start: datetime) -> meter_pb2.UsageEvent:
    customer = draw.randrange(_CUSTOMERS)
    event = meter_pb2.UsageEvent(
        event_id=f"{draw.getrandbits(96):024x}",
        source=_SOURCE,
        type="llm.call",
        time=render_time(start + timedelta(microseconds=100 * number + draw.randrange(10**6))),
        dimensions={"model": draw.choice(_MODELS), "provider": "acme"},
        quantities={
            "input_tokens": str(draw.randrange(1, 9_000)),
            "output_tokens": str(draw.randrange(1, 2_000)),
        },
    )
    event.subject.customer_id = f"customer-{customer}"
    event.subject.key_id = f"key-{customer}-{draw.randrange(3)}"
    return event


async def _copy(
    database: asyncpg.Connection, events: Sequence[meter_pb2.UsageEvent], run: int
) -> int:
    """Copy the events as raw rows, and answer how many went in a second."""
    now = datetime.now(UTC)
    latest_us = int((now + _AHEAD).timestamp()) * 10**6
    incoming = [parse_event(event, latest_us) for event in events]
    rows = [
        (TOP.tenant, f"raw-{run}", *each.event()[1:], now, bytes.fromhex(each.fingerprint))
        for each in incoming
        if isinstance(each, IncomingEvent)
    ]
    columns = ("tenant_id", *UsageEvent._fields, "ingest_time", "fingerprint")
    started_s = time.perf_counter()
    for first in range(0, len(rows), _RAW_BATCH):
        await database.copy_records_to_table(
            "events", schema_name="raw", records=rows[first : first + _RAW_BATCH], columns=columns
        )
    return round(len(rows) / (time.perf_counter() - started_s))


class _Sender:
    """Sends events of a case; what is measured is the call alone."""

    def __init__(self, channel: grpc.aio.Channel, rig: Rig, database: asyncpg.Connection) -> None:
        self._database = database
        self._ingest: Any = channel.unary_unary(
            _INGEST, response_deserializer=messages.IngestEventsResponse.FromString
        )
        self._stream: Any = channel.stream_stream(
            _STREAM, response_deserializer=messages.StreamEventsResponse.FromString
        )
        self._stub = MeterServiceStub(channel)
        self._rig = rig

    async def put_meters(self, case: Case) -> None:
        """Put the meters that count every event of a case."""
        for number in range(case.meters):
            meter = meter_pb2.Meter(
                meter_id=f"meter-{number}",
                event_type="llm.call",
                aggregation=meter_pb2.AGGREGATION_SUM,
                quantity=("input_tokens", "output_tokens")[number % 2],
                group_by=["model"],
            )
            request = messages.PutMeterRequest(request_id=meter.meter_id, meter=meter)
            await self._stub.PutMeter(
                request, metadata=self._rig.metadata(case.tenant, "meter.write")
            )

    async def run(self, events: Sequence[bytes], case: Case, number: int) -> Figures:
        """Send until the time or the events are over."""
        requests = _requests(events, case, source=f"gateway-{number:03}".encode())
        before_s = await self._cpu_seconds()
        metadata = self._rig.metadata(case.tenant, "meter.ingest")
        latencies_s: list[float] = []
        answered = 0
        started_s = time.perf_counter()

        async def stream_in_turn() -> None:
            nonlocal answered
            sent_s: deque[float] = deque()
            stream = self._stream(metadata=metadata)
            for request in requests:
                sent_s.append(time.perf_counter())
                await stream.write(_as_batch(request))
                is_over = time.perf_counter() - started_s > _CASE_S
                while len(sent_s) >= (1 if is_over else _BATCHES_UNDER_WAY_MAX):
                    answer = await stream.read()
                    latencies_s.append(time.perf_counter() - sent_s.popleft())
                    answered += len(answer.outcomes)
                if is_over:
                    break
            await stream.done_writing()
            while (answer := await stream.read()) != grpc.aio.EOF:
                latencies_s.append(time.perf_counter() - sent_s.popleft())
                answered += len(answer.outcomes)

        async def call_in_turn() -> None:
            nonlocal answered
            for request in requests:
                before_s = time.perf_counter()
                answer = await self._ingest(request, metadata=metadata)
                after_s = time.perf_counter()
                latencies_s.append(after_s - before_s)
                answered += len(answer.outcomes)
                if after_s - started_s > _CASE_S:
                    return

        send = stream_in_turn if case.streams else call_in_turn
        await asyncio.gather(*(send() for _ in range(case.callers)))
        elapsed_s = time.perf_counter() - started_s
        cpu_us = [
            round((after - before) / answered * 1e6, 1)
            for after, before in zip(await self._cpu_seconds(), before_s, strict=True)
        ]
        latencies_s.sort()
        return Figures(
            **asdict(case),
            events=answered,
            events_per_s=round(answered / elapsed_s),
            p50_ms=round(latencies_s[len(latencies_s) // 2] * 1000, 1),
            p99_ms=round(latencies_s[len(latencies_s) * 99 // 100] * 1000, 1),
            cpu_us=cpu_us[0],
            sender_cpu_us=cpu_us[1],
            database_cpu_us=cpu_us[2],
        )

    async def _cpu_seconds(self) -> tuple[float, float, float]:
        """Tell how long processors have worked for the service, for this process, and for SQL."""
        rows = await self._database.fetch("SELECT pid FROM pg_stat_activity")
        return (
            self._rig.cpu_seconds(),
            time.process_time(),
            sum(cpu_seconds_of(row["pid"]) for row in rows),
        )


def _requests(events: Sequence[bytes], case: Case, source: bytes) -> Iterator[bytes]:
    """Make requests out of written events, as if they came from `source`."""
    fresh = iter(events)
    sent: list[bytes] = []
    for position in range(len(events)):
        is_repeat = position % 100 < case.duplicate_percent and position >= case.batch
        sent.append(sent[position - case.batch] if is_repeat else next(fresh))
    batches = (sent[first : first + case.batch] for first in range(0, len(sent), case.batch))
    return iter([b"".join(batch).replace(_SOURCE.encode(), source) for batch in batches])


def _written(event: meter_pb2.UsageEvent) -> bytes:
    # Protobuf messages are joined by joining their bytes.
    return messages.IngestEventsRequest(events=[event]).SerializeToString()


def _as_batch(request: bytes) -> bytes:
    """Write the events of a call as a batch of a stream."""
    events = messages.IngestEventsRequest.FromString(request).events
    return messages.StreamEventsRequest(events=events).SerializeToString()
