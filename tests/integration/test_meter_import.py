"""`tollkeeper import` at a real meter, and the real traces through every way in.

The traces are published ones; their README tells what they add up to.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from cli.embedded.loopback import HOST, choose_ports
from cli.importing.columns import ColumnMapping
from cli.importing.importing import ImportOptions, ImportReport, check, send
from cli.importing.tables import CSV
from cli.replay.readers import AZURE, MOONCAKE, read_rows
from cli.services import Connection, Services
from cli.signing_keys import SigningKeys
from kit.interval import Interval
from kit.rpc.channel import open_channel
from kit.settings import DEFAULT_ADDRESSES, ServiceSettings
from tests.http_caller import post
from tests.integration.test_meter_otlp import stub
from tests.meter_world import CREATED, World, a_meter, meter_world
from tests.unit.meter.test_otlp import Value, attributes
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

COMMAND = Path(sys.executable).with_name("tollkeeper")
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TRACES = {
    "code": (SHARED / "azure-llm-trace-2023" / "code.csv", AZURE),
    "conv": (SHARED / "azure-llm-trace-2023" / "conv.csv", AZURE),
    "mooncake": (SHARED / "mooncake-conversation-trace" / "conversation_trace.jsonl", MOONCAKE),
}
CALLS = ColumnMapping(
    source="=import/test",
    event_id="call",
    time="time",
    time_unit="",
    type="=llm.call",
    levels={"customer": "customer_id"},
    dimensions={},
    quantities={"tokens": "tokens"},
)
AZURE_COLUMNS = replace(
    CALLS,
    event_id="",
    time="TIMESTAMP",
    quantities={"input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"},
)
EVER = Interval(datetime(2023, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
METERS = ("calls", "input_tokens", "cached_input_tokens", "output_tokens")
# As the READMEs beside the traces have it; what is cached, by their rule.
PUBLISHED = {
    "code": (6_614, 13_451_809, 0, 181_863),
    "conv": (14_524, 17_236_779, 0, 2_933_279),
    "mooncake": (9_023, 110_159_505, 39_630_047, 3_127_469),
}
BATCH = 1_000


def options(
    file: Path, file_format: str, mapping: ColumnMapping, folder: Path, **more: bool
) -> ImportOptions:
    """Make the options of an import."""
    return ImportOptions(
        file=file,
        file_format=file_format,
        mapping=mapping,
        skips_bad=False,
        from_start=more.get("from_start", False),
        patience_s=60,
        positions=folder / "imports",
    )


@dataclass(frozen=True)
class Meter:
    """A meter that takes gRPC and HTTP."""

    world: World
    http: str

    async def take(self, options: ImportOptions, tenant: str = "") -> ImportReport:
        """Do what the command does, without a process of its own."""
        ((_, authorization),) = self.world.token(tenant=tenant)
        addresses = {**DEFAULT_ADDRESSES, "meter": self.world.address}
        connection = Connection(addresses, authorization.removeprefix("Bearer "))
        now = self.world.clock.now()
        checked = check(options, now)
        assert checked.bad == []
        async with Services(connection) as services:
            return await send(services, options, checked, now, lambda _: None)

    async def run(self, *arguments: object) -> tuple[int, str, str]:
        """Run the command in a process of its own: its status, output and errors."""
        process = await self.start(*arguments)
        output, errors = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), errors.decode()

    async def start(self, *arguments: object) -> asyncio.subprocess.Process:
        """Start the command."""
        ((_, authorization),) = self.world.token()
        environment = {
            "TOLLKEEPER_TOKEN": authorization.removeprefix("Bearer "),
            "TOLLKEEPER_METER_ADDRESS": self.world.address,
        }
        return await asyncio.create_subprocess_exec(
            COMMAND,
            "import",
            *map(str, arguments),
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )


@pytest.fixture
async def meter(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Meter]:
    """A meter that runs while the test does."""
    (port,) = choose_ports(1)
    monkeypatch.setenv("TOLLKEEPER_METER_HTTP_LISTEN", f"{HOST}:{port}")
    async with meter_world(settings_for, keys, tenant) as world:
        yield Meter(world, f"{HOST}:{port}")


async def put_meters(world: World, tenant: str) -> None:
    """Put the meters of calls."""
    for meter_id in METERS:
        quantity = "" if meter_id == "calls" else meter_id
        await world.put_meter(a_meter(meter_id, quantity=quantity, group_by=[]), tenant=tenant)


async def totals(world: World, tenant: str) -> dict[str, tuple[int, ...]]:
    """Ask what each trace adds up to."""
    found = {
        meter_id: {
            customer: int(quantity)
            for customer, quantity, _ in await world.usage(meter_id, EVER, tenant)
        }
        for meter_id in METERS
    }
    return {
        name: tuple(found[meter_id].get(name, 0) for meter_id in METERS) for name in found["calls"]
    }


@cache
def batches(name: str) -> list[list[UsageEvent]]:
    """Read a trace as usage events, once for every way of sending them."""
    file, trace_format = TRACES[name]
    events = [row.event for row in read_rows(file, trace_format)]
    return [events[first : first + BATCH] for first in range(0, len(events), BATCH)]


async def by_import(meter: Meter, tenant: str, folder: Path) -> None:
    """Import the files."""
    for name, (file, trace_format) in TRACES.items():
        mapping = replace(AZURE_COLUMNS, levels={"customer": f"={name}"})
        file_format = CSV if trace_format == AZURE else trace_format
        report = await meter.take(options(file, file_format, mapping, folder), tenant)
        assert report.is_complete


async def by_grpc(meter: Meter, tenant: str, _folder: Path) -> None:
    """Send usage events."""
    for name in TRACES:
        for number, events in enumerate(batches(name)):
            for place, event in enumerate(events):
                event.event_id, event.source = f"{number}-{place}", name
                event.subject.customer_id = name
            answer = await meter.world.ingest(*events, tenant=tenant)
            assert set(answer.outcomes) == {CREATED}


async def by_otlp(meter: Meter, tenant: str, _folder: Path) -> None:
    """Export spans."""
    names = {
        "input_tokens": "gen_ai.usage.input_tokens",
        "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
        "output_tokens": "gen_ai.usage.output_tokens",
    }
    async with open_channel(meter.world.address) as channel:
        for trace, name in enumerate(TRACES, 1):
            for number, events in enumerate(batches(name), 1):
                request = ExportTraceServiceRequest()
                spans = request.resource_spans.add().scope_spans.add().spans
                for place, event in enumerate(events, 1):
                    counts = {
                        names[quantity]: int(text)
                        for quantity, text in event.quantities.items()
                        if quantity in names
                    }
                    told: dict[str, Value] = {
                        "gen_ai.operation.name": "chat",
                        "customer.id": name,
                        **counts,
                    }
                    spans.add(
                        trace_id=bytes([trace]) * 16,
                        span_id=(number * BATCH + place).to_bytes(8, "big"),
                        end_time_unix_nano=event.time.ToNanoseconds(),
                        attributes=attributes(told),
                    )
                answer = await stub(channel).Export(
                    request, metadata=meter.world.token(tenant=tenant)
                )
                assert not answer.HasField("partial_success")


async def by_cloudevents(meter: Meter, tenant: str, _folder: Path) -> None:
    """Post batches of CloudEvents."""
    ((_, authorization),) = meter.world.token(tenant=tenant)
    headers = {
        "content-type": "application/cloudevents-batch+json",
        "authorization": authorization,
    }
    for name in TRACES:
        for number, events in enumerate(batches(name)):
            batch = [
                {
                    "specversion": "1.0",
                    "id": f"{number}-{place}",
                    "source": name,
                    "type": event.type,
                    "subject": name,
                    "time": event.time.ToJsonString(),
                    "data": {key: int(text) for key, text in event.quantities.items()},
                }
                for place, event in enumerate(events)
            ]
            answer = await post(meter.http, "/v1/events", json.dumps(batch).encode(), headers)
            assert (answer.status, answer.json["problems"]) == (200, [])


WAYS: Sequence[Callable[[Meter, str, Path], Awaitable[None]]] = (
    by_import,
    by_grpc,
    by_otlp,
    by_cloudevents,
)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published traces are not beside this checkout")
async def test_the_real_traces_add_up_to_the_same_by_every_way(
    meter: Meter, tenant: str, tmp_path: Path
) -> None:
    """Import, gRPC, OTLP, CloudEvents give the published totals; 35.98 % of Mooncake is cached."""
    found = {}
    for way in WAYS:
        theirs = f"{tenant}-{way.__name__.removeprefix('by_')}"
        await put_meters(meter.world, theirs)
        await way(meter, theirs, tmp_path)
        found[way.__name__] = await totals(meter.world, theirs)

    assert found == {way.__name__: PUBLISHED for way in WAYS}
    _, whole, cached, _ = found["by_import"]["mooncake"]
    assert round(100 * cached / whole, 2) == 35.98


def a_table(folder: Path, rows: int, last: str = "") -> Path:
    """Write a CSV file of so many calls, each of one token."""
    file = folder / "usage.csv"
    lines = (f"2026-03-01T10:00:00,acme,{number},1\n" for number in range(rows))
    file.write_text("time,customer_id,call,tokens\n" + "".join(lines) + last)
    return file


COLUMNS = ("--id", "call", "--quantity", "tokens=tokens")


async def test_an_import_is_repeated_without_counting_twice(meter: Meter, tmp_path: Path) -> None:
    """The same import again sends nothing; from the start it sends duplicates."""
    await meter.world.put_meter()
    file = a_table(tmp_path, 1_500)

    reports = [
        await meter.take(options(file, CSV, CALLS, tmp_path, from_start=from_start))
        for from_start in (False, False, True)
    ]

    assert [
        (report.resumed, report.tally.created, report.tally.duplicate) for report in reports
    ] == [(0, 1_500, 0), (1_500, 0, 0), (0, 0, 1_500)]
    assert await meter.world.usage() == [("acme", "1500", 1_500)]


async def test_bad_rows_are_all_named_and_nothing_is_sent(meter: Meter, tmp_path: Path) -> None:
    """Unless they are to be skipped; then the others are imported, and the command says so."""
    await meter.world.put_meter()
    file = a_table(tmp_path, 10, "soon,acme,x,1\n2026-03-01,,y,-1\n")
    arguments = (file, *COLUMNS, "--data-dir", tmp_path / "data")

    status, _, errors = await meter.run(*arguments)
    before = await meter.world.usage()
    skipping, output, _ = await meter.run(*arguments, "--skip-bad")

    assert (status, before) == (1, [])
    assert errors.splitlines() == [
        f"{file}:12: time: is not a time such as 2026-03-01T12:00:00Z",
        f"{file}:13: customer_id: is required",
        f"{file}:13: tokens: must be at least 0",
        "tollkeeper: 2 of 12 rows cannot be used; nothing was imported",
    ]
    assert (skipping, await meter.world.usage()) == (0, [("acme", "10", 10)])
    assert "10 counted, 0 counted before, 0 not taken, 2 bad" in output


async def test_a_conflict_is_named_by_its_line(meter: Meter, tmp_path: Path) -> None:
    """What the meter does not take is told with the line, the field and the reason."""
    await meter.take(options(a_table(tmp_path, 3), CSV, CALLS, tmp_path))
    file = a_table(tmp_path, 2, "2026-03-01T10:00:00,acme,2,9\n")

    report = await meter.take(options(file, CSV, CALLS, tmp_path))

    assert not report.is_complete
    assert report.tally.problems == [
        'CONFLICT line 4: events[2].quantities["tokens"]: is "9", and "1" is stored'
    ]


async def test_an_import_that_was_killed_goes_on_where_it_was(meter: Meter, tmp_path: Path) -> None:
    """It skips what was taken, and the usage is exact."""
    await meter.world.put_meter()
    file = a_table(tmp_path, 30_000)
    arguments = (file, *COLUMNS, "--json", "--data-dir", tmp_path / "data")
    process = await meter.start(*arguments)
    async with asyncio.timeout(60):
        while not list((tmp_path / "data").glob("imports/*.position")):  # noqa: ASYNC110 - only the file tells.
            await asyncio.sleep(0.01)
    process.kill()
    await process.communicate()
    counted = await meter.world.usage()

    status, output, _ = await meter.run(*arguments)

    report = json.loads(output)
    assert (status, report["resumed"] >= 10_000, counted < [("acme", "30000", 30_000)]) == (
        0,
        True,
        True,
    )
    assert await meter.world.usage() == [("acme", "30000", 30_000)]
