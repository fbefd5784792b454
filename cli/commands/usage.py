"""`tollkeeper usage`: ask the meters how much was used."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.call_meters import list_meters
from cli.commands.usage_records import export, late, verify
from cli.commands.usage_repairs import erase, rejected, replay
from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.options import AsJson, DataDir
from cli.output import Column, Output, quantity_text, time_text
from cli.services import Addresses, Services, run
from cli.times import parse_time_option
from kit.decimals import parse_decimal
from kit.interval import Interval
from kit.rpc.wire import parse_interval, render_interval
from tollkeeper.api.meter.v1.meter_pb2 import UsageRow
from tollkeeper.api.meter.v1.meter_service_pb2 import QueryUsageRequest, UsageWindow

_ROWS_PER_PAGE = 10_000
_WINDOWS = ("minute", "hour", "day", "week", "month")

Rows = list[tuple[str, UsageRow]]


app = typer.Typer(invoke_without_command=True)
app.command("verify")(verify)
app.command("late")(late)
app.command("export")(export)
app.command("rejected")(rejected)
app.command("replay")(replay)
app.command("erase")(erase)


@app.callback()
def usage(
    context: typer.Context,
    *,
    meter: Annotated[
        list[str] | None, typer.Option(help="Only these meters; repeatable. By default all.")
    ] = None,
    customer: Annotated[str, typer.Option(help="Only this customer.")] = "",
    since: Annotated[
        str, typer.Option("--from", help="Start, for example 2026-01-01. By default this month's.")
    ] = "",
    until: Annotated[str, typer.Option("--to", help="End, not included. By default now.")] = "",
    by: Annotated[
        list[str] | None, typer.Option(help="Keep apart by a dimension, as model; repeatable.")
    ] = None,
    window: Annotated[
        str, typer.Option(help=f"Cut the time into windows: {', '.join(_WINDOWS)}.")
    ] = "",
    time_zone: Annotated[str, typer.Option(help="Whose calendar the windows follow.")] = "UTC",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Show usage, by meter and customer; or see to the events behind it."""
    if context.invoked_subcommand:
        return
    if window and window not in _WINDOWS:
        raise CommandError(f"--window {window!r} is none of {', '.join(_WINDOWS)}")
    interval = _interval(since, until)
    request = QueryUsageRequest(
        customer_id=customer,
        interval=render_interval(interval),
        group_by=by or [],
        window=UsageWindow.Value(f"USAGE_WINDOW_{(window or 'unspecified').upper()}"),
        time_zone=time_zone,
        page_size=_ROWS_PER_PAGE,
    )

    async def work(services: Services) -> Rows:
        meter_ids = meter or sorted(await list_meters(services))
        return [
            (meter_id, row)
            for meter_id in meter_ids
            for row in await _query(services, request, meter_id)
        ]

    rows = run(data_dir, address, work)
    _show(Output(as_json=as_json), rows, interval, list(by or []), has_windows=bool(window))


def _interval(since: str, until: str) -> Interval:
    now = datetime.now(UTC)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    start = parse_time_option("--from", since) if since else month
    end = parse_time_option("--to", until) if until else now
    if start >= end:
        raise CommandError(f"--from {time_text(start)} is not before --to {time_text(end)}")
    return Interval(start, end)


async def _query(services: Services, template: QueryUsageRequest, meter_id: str) -> list[UsageRow]:
    rows: list[UsageRow] = []
    request = QueryUsageRequest()
    request.CopyFrom(template)
    request.meter_id = meter_id
    async for page in services.pages(services.meter.QueryUsage, request):
        rows += page.rows
    return rows


def _show(
    output: Output, rows: Rows, interval: Interval, dimensions: list[str], *, has_windows: bool
) -> None:
    output.value(
        {
            "start_time": interval.start.isoformat(),
            "end_time": interval.end.isoformat(),
            "rows": [_facts(meter_id, row) for meter_id, row in rows],
        }
    )
    output.say(f"usage from {time_text(interval.start)} to {time_text(interval.end)} UTC")
    windows = [Column("from"), Column("to")] if has_windows else []
    output.table(
        [
            Column("meter", style="cyan"),
            Column("customer"),
            *windows,
            *(Column(dimension) for dimension in dimensions),
            Column("usage", right=True),
            Column("events", right=True),
        ],
        [
            [
                meter_id,
                row.customer_id,
                *(_bounds(row) if has_windows else ()),
                *(row.group.get(dimension, "") for dimension in dimensions),
                quantity_text(parse_decimal(row.quantity.value, "quantity")),
                f"{row.event_count:,}",
            ]
            for meter_id, row in rows
        ],
        empty="nothing was used",
    )


def _bounds(row: UsageRow) -> tuple[str, str]:
    interval = parse_interval(row.interval, "interval")
    return time_text(interval.start), time_text(interval.end)


def _facts(meter_id: str, row: UsageRow) -> dict[str, object]:
    interval = parse_interval(row.interval, "interval")
    return {
        "meter_id": meter_id,
        "customer_id": row.customer_id,
        "start_time": interval.start.isoformat(),
        "end_time": interval.end.isoformat(),
        "group": dict(row.group),
        "quantity": row.quantity.value,
        "event_count": row.event_count,
    }
