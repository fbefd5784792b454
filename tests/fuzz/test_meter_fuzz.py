"""Malformed input to every way into a real meter: it never crashes, halves or keeps silent.

Calls, streams, exports, CloudEvents of both kinds and raw bytes come in by several senders at once.
Whatever is refused names a field; whatever is acknowledged is stored, and nothing else is.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import grpc.aio
import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from cli.embedded.loopback import HOST, choose_ports
from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput
from kit.interval import Interval
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.settings import ServiceSettings
from tests.fuzz.malformed import (
    an_odd_cloud_event,
    an_odd_event,
    an_odd_export,
    an_odd_message,
    mangled,
)
from tests.http_caller import post
from tests.meter_world import CONFLICT, REJECTED, World, a_meter, meter_world
from tests.unit.meter.test_otlp_json import as_json
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

SERVICE = "/tollkeeper.api.meter.v1.MeterService"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SENDERS = 6
BATCH_MAX = 12
EVER = Interval(datetime(2023, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


@dataclass
class Fuzzer:
    """Sends, and keeps account of what was said."""

    world: World
    channel: grpc.aio.Channel
    http: str
    draw: random.Random
    number: int = 0
    said: Counter[str] = field(default_factory=Counter)

    def next(self) -> int:
        """Number what is sent, sometimes with a number that was there before."""
        self.number += 1
        return self.draw.randrange(self.number) if self.draw.random() < 0.2 else self.number

    def some(self, make: Callable[[random.Random, int], Any]) -> list[Any]:
        """Make a batch."""
        return [make(self.draw, self.next()) for _ in range(self.draw.randrange(1, BATCH_MAX))]

    async def call_with_events(self) -> None:
        """Call IngestEvents."""
        request = messages.IngestEventsRequest(events=self.some(an_odd_event))
        answer = await self._unary(f"{SERVICE}/IngestEvents", request.SerializeToString())
        self._note(messages.IngestEventsResponse.FromString(answer), len(request.events))

    async def call_with_cloud_events(self) -> None:
        """Call IngestCloudEvents."""
        request = messages.IngestCloudEventsRequest(events=self.some(an_odd_message))
        answer = await self._unary(f"{SERVICE}/IngestCloudEvents", request.SerializeToString())
        self._note(messages.IngestCloudEventsResponse.FromString(answer), len(request.events))

    async def stream_events(self) -> None:
        """Send some batches over a stream."""
        batches = [
            messages.StreamEventsRequest(batch_id=number, events=self.some(an_odd_event))
            for number in range(self.draw.randrange(1, 5))
        ]
        call = self.world.stub.StreamEvents(iter(batches), metadata=self.world.token())
        answers = [answer async for answer in call]
        assert [answer.batch_id for answer in answers] == [batch.batch_id for batch in batches]
        for batch, answer in zip(batches, answers, strict=True):
            self._note(answer, len(batch.events))

    async def export_spans(self) -> None:
        """Export spans."""
        request = an_odd_export(self.draw, self.next())
        for more in self.some(an_odd_export):
            request.MergeFrom(more)
        data = await self._unary(EXPORT, request.SerializeToString())
        answer = ExportTraceServiceResponse.FromString(data)
        refused = answer.partial_success.rejected_spans
        assert bool(refused) == bool(answer.partial_success.error_message)
        self.said["spans refused"] += refused
        self.said["spans sent"] += len(request.resource_spans)

    async def post_cloud_events(self) -> None:
        """Post one CloudEvent or a batch."""
        batch = self.some(an_odd_cloud_event)
        is_batch = self.draw.random() < 0.5
        kind = "application/cloudevents-batch+json" if is_batch else "application/cloudevents+json"
        answer = await self._post(json.dumps(batch if is_batch else batch[0]).encode(), kind)
        assert answer.status in {200, 207, 400, 409}, answer
        if not is_batch:
            self.said[answer.json.get("outcome") or answer.json["reason"]] += 1
            assert answer.status == 200 or all(each["field"] for each in answer.json["violations"])
            return
        assert len(answer.json["outcomes"]) == len(batch)
        self.said.update(answer.json["outcomes"])
        for problem in answer.json["problems"]:
            assert all(each["field"].startswith("events[") for each in problem["violations"])

    async def send_bytes(self) -> None:
        """Send what is hardly a message; either it is one after all, or it is refused."""
        request = messages.IngestEventsRequest(events=self.some(an_odd_event))
        method = self.draw.choice(("IngestEvents", "IngestCloudEvents"))
        answer = await self._refusable(f"{SERVICE}/{method}", mangled(self.draw, request))
        if answer is not None:
            self._note(messages.IngestEventsResponse.FromString(answer))

    async def export_bytes(self) -> None:
        """Send what is hardly an export."""
        request = an_odd_export(self.draw, self.next())
        await self._refusable(EXPORT, mangled(self.draw, request))

    async def post_spans(self) -> None:
        """Post an export, or what is hardly one."""
        export = an_odd_export(self.draw, self.next())
        in_json = self.draw.random() < 0.5
        plain = json.dumps(as_json(export)).encode() if in_json else export.SerializeToString()
        encoding = self.draw.choice(("identity", "gzip"))
        data = mangled(self.draw, plain) if self.draw.random() < 0.5 else plain
        if encoding == "gzip":
            packed = gzip.compress(data)
            data = mangled(self.draw, packed) if self.draw.random() < 0.2 else packed
        kind = "application/json" if in_json else "application/x-protobuf"
        answer = await self._post(data, kind, "/v1/traces", encoding)
        assert answer.status in {200, 400}, answer
        if answer.status == 400:
            assert answer.json["violations"]
        elif in_json:
            ParseDict(answer.json, ExportTraceServiceResponse())
        else:
            ExportTraceServiceResponse.FromString(answer.body)

    async def post_bytes(self) -> None:
        """Post what is hardly JSON, in a format that may be none."""
        body = json.dumps(self.some(an_odd_cloud_event)).encode()
        kinds = ("application/cloudevents-batch+json", "application/cloudevents+json", "text/x", "")
        answer = await self._post(mangled(self.draw, body), self.draw.choice(kinds))
        assert answer.status in {200, 207, 400, 409, 415}, answer
        self.said[f"HTTP {answer.status}"] += 1

    async def _refusable(self, method: str, data: bytes) -> bytes | None:
        try:
            return await self._unary(method, data)
        except grpc.aio.AioRpcError as error:
            refusal = read_error(error)
        assert isinstance(refusal, InvalidInput), refusal
        self.said["no message"] += 1
        return None

    async def _unary(self, method: str, data: bytes) -> bytes:
        call: Any = self.channel.unary_unary(method)
        answer: bytes = await call(data, metadata=self.world.token())
        return answer

    async def _post(
        self,
        body: bytes,
        content_type: str,
        path: str = "/v1/events",
        encoding: str = "identity",
    ) -> Any:  # noqa: ANN401 - an answer.
        ((_, token),) = self.world.token()
        headers = {
            "authorization": token,
            "content-type": content_type,
            "content-encoding": encoding,
        }
        return await post(self.http, path, body, headers)

    def _note(
        self,
        answer: messages.IngestEventsResponse
        | messages.StreamEventsResponse
        | messages.IngestCloudEventsResponse,
        count: int | None = None,
    ) -> None:
        """Check an answer: an outcome for each event, and a field for each problem."""
        assert count is None or len(answer.outcomes) == count
        problems = {problem.index for problem in answer.problems}
        refused = {
            index
            for index, outcome in enumerate(answer.outcomes)
            if outcome in {CONFLICT, REJECTED}
        }
        assert problems == refused
        for problem in answer.problems:
            assert problem.violations
            for each in problem.violations:
                assert each.field.startswith(f"events[{problem.index}]")
                assert each.description
        self.said.update(messages.IngestOutcome.Name(each)[15:] for each in answer.outcomes)


@pytest.fixture
def http_address(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the meter of the test takes HTTP."""
    (port,) = choose_ports(1)
    monkeypatch.setenv("TOLLKEEPER_METER_HTTP_LISTEN", f"{HOST}:{port}")
    return f"{HOST}:{port}"


@pytest.fixture
async def fuzzer(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    http_address: str,
    draw: random.Random,
) -> AsyncIterator[Fuzzer]:
    """A meter with meters of its own, and who sends to it."""
    async with (
        meter_world(settings_for, keys, tenant) as world,
        open_channel(world.address) as channel,
    ):
        await world.put_meter()
        await world.put_meter(a_meter("calls", quantity="", group_by=[]))
        yield Fuzzer(world, channel, http_address, draw)


async def test_malformed_input_is_named_and_never_half_stored(
    fuzzer: Fuzzer, fuzz_seconds: float, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each answer is checked as it comes; afterwards what is stored agrees with itself."""
    ways = (
        fuzzer.call_with_events,
        fuzzer.call_with_cloud_events,
        fuzzer.stream_events,
        fuzzer.export_spans,
        fuzzer.post_cloud_events,
        fuzzer.send_bytes,
        fuzzer.export_bytes,
        fuzzer.post_bytes,
        fuzzer.post_spans,
    )

    calls = await asyncio.gather(
        *(run_for(fuzz_seconds, ways, fuzzer.draw) for _ in range(SENDERS))
    )

    log = capsys.readouterr().out
    assert "call.failed" not in log, log
    assert fuzzer.said["CREATED"]
    assert fuzzer.said["REJECTED"]
    database = await asyncpg.connect(database_url)
    # Each event has its identity and each identity its event; the meter of calls counts its type.
    apart = await database.fetchval(
        """
        SELECT count(*) FROM meter.events AS event
        FULL JOIN meter.event_identities AS identity USING (tenant_id, source, event_id)
        WHERE event.time IS DISTINCT FROM identity.time
        """
    )
    counted = await database.fetchval("SELECT count(*) FROM meter.events WHERE type = 'llm.call'")
    await database.close()
    usage = await fuzzer.world.usage("calls", EVER, page_size=10_000)
    assert apart == 0
    assert sum(events for _, _, events in usage) == counted
    print(f"{sum(calls):,} requests: {dict(fuzzer.said)}")  # noqa: T201 - the record of a long run.


async def run_for(
    seconds: float, ways: Sequence[Callable[[], Awaitable[None]]], draw: random.Random
) -> int:
    """Send in any way, again and again, until the time is over."""
    end_s = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end_s:
        await draw.choice(ways)()
        count += 1
    return count
