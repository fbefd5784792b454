"""`tollkeeper replay`: send a recorded trace and show what the meter made of it."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.options import AsJson, DataDir
from cli.output import Column, Output, quantity_text, time_text
from cli.replay.readers import EVENTS, FORMATS
from cli.replay.replaying import (
    ReplayOptions,
    ReplayReport,
    prepare,
    report_facts,
    send_and_compare,
)
from cli.replay.sending import CONFLICT, PATIENCE_S, Pace
from cli.services import Addresses, Services, run
from cli.times import parse_time_option

_CUSTOMER = "replay"


File = Annotated[Path, typer.Argument(help="The trace.", show_default=False)]
Format = Annotated[str, typer.Option("--format", help=f"One of auto, {', '.join(FORMATS)}.")]
Customer = Annotated[
    list[str] | None,
    typer.Option(help=f"Whose calls they are, by default {_CUSTOMER}'s; several take turns."),
]
Customers = Annotated[
    int, typer.Option(min=0, max=100_000, help="Spread the calls over this many customers.")
]
Model = Annotated[
    list[str] | None, typer.Option(help="The model of the calls; several take turns.")
]
Source = Annotated[
    str,
    typer.Option(
        help="Who reports the usage; by default named after the file's content, so that the same "
        "file counts once."
    ),
]
Since = Annotated[str, typer.Option(help="Move the times so that the first call happens then.")]
SpeedUp = Annotated[
    float, typer.Option(min=0, help="How much faster than recorded; 0 is as fast as possible.")
]
ThroughGate = Annotated[
    bool,
    typer.Option(
        "--through-gate",
        help="Reserve and commit every call at the gate, whose limits may refuse it. Else the "
        "usage goes straight to the meter.",
    ),
]
Patience = Annotated[
    float, typer.Option(min=1, help="Seconds to wait for a service that has died.")
]


def replay(
    file: File,
    *,
    trace_format: Format = "auto",
    customer: Customer = None,
    customers: Customers = 0,
    model: Model = None,
    project: Annotated[str, typer.Option(help="The project of the calls.")] = "",
    key: Annotated[str, typer.Option(help="The API key of the calls.")] = "",
    source: Source = "",
    since: Since = "",
    speed_up: SpeedUp = 0,
    through_gate: ThroughGate = False,
    patience: Patience = PATIENCE_S,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Replay a recorded trace: Azure LLM CSV, Mooncake JSON lines, or usage events."""
    if trace_format not in {"auto", *FORMATS}:
        raise CommandError(f"--format {trace_format!r} is none of auto, {', '.join(FORMATS)}")
    if not (math.isfinite(speed_up) and math.isfinite(patience)):
        raise CommandError("--speed-up and --patience are finite numbers")
    if customer and customers:
        raise CommandError("--customer and --customers exclude each other")
    numbered = tuple(f"{_CUSTOMER}-{number}" for number in range(1, customers + 1))
    output = Output(as_json=as_json)
    prepared = prepare(
        ReplayOptions(
            file=file,
            trace_format=trace_format,
            customers=numbered or tuple(customer or [_CUSTOMER]),
            models=tuple(model or ()),
            project=project,
            key=key,
            source=source,
            since=parse_time_option("--since", since) if since else None,
            through_gate=through_gate,
            pace=Pace(speed_up=speed_up, patience_s=patience),
        ),
        datetime.now(UTC),
    )

    async def work(services: Services) -> ReplayReport:
        with output.progress("calls", prepared.found.call_count) as advance:
            return await send_and_compare(services, prepared, advance)

    report = run(data_dir, address, work)
    _show(output, report)
    if not report.is_complete:
        raise CommandError(_what_is_wrong(report))


def _what_is_wrong(report: ReplayReport) -> str:
    tally = report.tally
    if not tally.problems:
        return "the meter does not have what was sent; see above"
    is_conflict = CONFLICT in tally.problems[0]
    hint = "; --source NAME makes it usage of its own" if is_conflict else ""
    return f"{tally.untaken:,} events were not taken{hint}; the first: {tally.problems[0]}"


def _show(output: Output, report: ReplayReport) -> None:
    prepared, tally = report.prepared, report.tally
    found, shift = prepared.found, prepared.mapping.shift
    output.value(report_facts(report))
    output.section(f"{prepared.options.file.name}: {found.call_count:,} calls")
    output.say(f"{time_text(found.earliest + shift)} to {time_text(found.latest + shift)} UTC")
    if prepared.trace_format != EVENTS:
        output.say(f"source {prepared.mapping.source}")
    output.say(
        f"{tally.created:,} counted, {tally.duplicate:,} counted before, "
        f"{tally.untaken:,} not taken, {sum(tally.denied.values()):,} refused by the gate"
    )
    for limit, count in sorted(tally.denied.items()):
        output.say(f"  limit {limit} refused {count:,}")
    output.table(
        [Column("meter"), Column("sent", right=True), Column("the meter says", right=True)],
        [
            [total.meter_id, quantity_text(total.sent), quantity_text(total.metered)]
            for total in report.totals
        ],
        empty="no meter counts any of it",
    )
    if any(not total.alone for total in report.totals):
        output.say("The meters count all usage of these customers in that time, not only this.")
