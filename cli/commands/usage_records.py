"""`tollkeeper usage verify`, `late` and `export`: what stands behind the figures."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, TextIO

import typer
from google.protobuf.json_format import MessageToDict

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError, writing
from cli.options import AsJson, DataDir
from cli.output import Column, Output, time_text
from cli.services import Addresses, Services, run
from cli.times import parse_time_option
from kit.interval import Interval
from kit.rpc.wire import parse_interval, parse_time, render_interval
from tollkeeper.api.meter.v1.meter_pb2 import EventRevision, StoredEvent
from tollkeeper.api.meter.v1.meter_service_pb2 import (
    LateEvent,
    ListEventRevisionsRequest,
    ListEventsRequest,
    ListLateEventsRequest,
    UsageDifference,
    VerifyUsageRequest,
    VerifyUsageResponse,
)

_EVENTS_PER_PAGE = 10_000
_LATE_PER_PAGE = 1_000

Customer = Annotated[str, typer.Option(help="Only of this customer.")]


def verify(
    *,
    since: Annotated[
        str, typer.Option("--from", help="Start, for example 2026-01-01. By default all.")
    ] = "",
    until: Annotated[str, typer.Option("--to", help="End, not included. By default all.")] = "",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Count every meter anew from the stored events, and show what differs from what is kept."""
    if bool(since) != bool(until):
        raise CommandError("--from and --to are given together")
    request = VerifyUsageRequest()
    if since:
        start, end = parse_time_option("--from", since), parse_time_option("--to", until)
        if start >= end:
            raise CommandError(f"--from {time_text(start)} is not before --to {time_text(end)}")
        request.interval.CopyFrom(render_interval(Interval(start, end)))

    async def work(services: Services) -> list[VerifyUsageResponse]:
        return [day async for day in services.stream(services.meter.VerifyUsage, request)]

    days = run(data_dir, address, work)
    differences = [each for day in days for each in day.differences]
    facts = {
        "days": len(days),
        "events": sum(day.event_count for day in days),
        "rollups": sum(day.rollup_count for day in days),
        "differences": sum(day.difference_count for day in days),
    }
    output = Output(as_json=as_json)
    output.value({**facts, "found": [MessageToDict(each) for each in differences]})
    output.say(
        f"{facts['events']:,} events of {facts['days']:,} days against"
        f" {facts['rollups']:,} rollups: {facts['differences']:,} differences"
    )
    if facts["differences"]:
        _show_differences(output, differences)
        raise CommandError(f"{facts['differences']:,} rollups are not what the events say")


def _show_differences(output: Output, differences: list[UsageDifference]) -> None:
    rows = []
    for each in differences:
        span = parse_interval(each.interval, "interval")
        rows.append(
            [
                each.meter_id,
                str(each.version),
                each.customer_id,
                " ".join(each.group),
                time_text(span.start),
                time_text(span.end),
                each.kept or "nothing",
                each.counted or "nothing",
            ]
        )
    columns = ("meter", "version", "customer", "group", "from", "to", "kept", "by the events")
    output.table([Column(title) for title in columns], rows)


def late(
    *,
    customer: Customer = "",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Show events that came after their period was on an invoice; they do not count."""

    async def work(services: Services) -> list[LateEvent]:
        return [each async for each in _late_events(services, customer)]

    found = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value({"events": [MessageToDict(each) for each in found]})
    output.table(
        [Column(title) for title in ("came", "happened", "customer", "source", "event", "used")],
        [
            [
                time_text(parse_time(each.event.ingest_time, "ingest_time")),
                time_text(parse_time(each.event.event.time, "time")),
                each.event.event.subject.customer_id,
                each.event.event.source,
                each.event.event.event_id,
                ", ".join(f"{v} {k}" for k, v in sorted(each.event.event.quantities.items())),
            ]
            for each in found
        ],
        empty="nothing came late",
    )


def export(
    customer: Annotated[str, typer.Argument(help="The customer.", show_default=False)],
    *,
    file: Annotated[
        Path | None, typer.Option(help="Where to, as JSON lines. By default standard output.")
    ] = None,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
) -> None:
    """Write every event that is kept of a customer, one JSON object a line.

    Those that came late, and what corrected ones were before, are lines of their own kinds.
    """

    async def work(services: Services) -> int:
        count = 0
        target = _opened(file) if file else sys.stdout
        try:
            async for stored in _events(services, customer):
                target.write(_line("event", MessageToDict(stored)))
                count += 1
            async for each in _late_events(services, customer):
                target.write(_line("late_event", MessageToDict(each)))
                count += 1
            async for revision in _revisions(services, customer):
                target.write(_line("revision", MessageToDict(revision)))
        finally:
            if file:
                target.close()
        return count

    count = run(data_dir, address, work)
    if file:
        Output().say(f"{count:,} events of {customer} in {file}")


def _opened(file: Path) -> TextIO:
    with writing(file):
        return file.open("w", encoding="utf-8")


def _line(kind: str, content: object) -> str:
    return json.dumps({kind: content}, ensure_ascii=False) + "\n"


async def _events(services: Services, customer: str) -> AsyncIterator[StoredEvent]:
    request = ListEventsRequest(customer_id=customer, page_size=_EVENTS_PER_PAGE)
    async for page in services.pages(services.meter.ListEvents, request):
        for stored in page.events:
            yield stored


async def _late_events(services: Services, customer: str) -> AsyncIterator[LateEvent]:
    request = ListLateEventsRequest(customer_id=customer, page_size=_LATE_PER_PAGE)
    async for page in services.pages(services.meter.ListLateEvents, request):
        for each in page.events:
            yield each


async def _revisions(services: Services, customer: str) -> AsyncIterator[EventRevision]:
    request = ListEventRevisionsRequest(customer_id=customer, page_size=_LATE_PER_PAGE)
    async for page in services.pages(services.meter.ListEventRevisions, request):
        for each in page.revisions:
            yield each
