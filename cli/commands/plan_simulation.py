"""`tollkeeper plans simulate`: what real usage would have cost by other plans."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.protobuf.json_format import MessageToDict

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.options import AsJson, DataDir
from cli.output import Column, Output, money_text, warn
from cli.plan_files import PlanFile, read_plan_file
from cli.services import Addresses, Services, run
from cli.simulated_customers import (
    SEGMENTS,
    BillingCalendars,
    calendar_periods,
    find_customers,
    parse_span,
    parse_zone_option,
)
from cli.simulation_files import row_writers, rows_of
from cli.simulation_plot import FORMATS, bucket_name, change_text, draw_report
from kit.errors import DomainError, Violation
from kit.interval import Interval
from kit.rpc.status import read_error
from services.rating.days import local_day
from tollkeeper.api.rating.v1.rating_service_pb2 import SimulateRequest
from tollkeeper.api.rating.v1.simulation_pb2 import (
    CandidateReport,
    CustomerChange,
    SegmentOutcome,
    SimulationReport,
)

_Months = Annotated[
    bool,
    typer.Option(
        "--months",
        help="Rate months of the calendar instead of each subscription's billing periods.",
    ),
]
_SHOWN_MAX = 5
_TIMEOUT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class _Exports:
    csv: Path | None
    parquet: Path | None
    plot: Path | None


def simulate(
    files: Annotated[
        list[Path], typer.Argument(help="Plan files; they need not be applied.", show_default=False)
    ],
    *,
    since: Annotated[str, typer.Option(help="From when usage is rated again.")],
    until: Annotated[
        str, typer.Option(help="Until when; billing periods that end in between are rated.")
    ],
    segment: Annotated[
        str,
        typer.Option(
            help=f"Count customers by {', '.join(SEGMENTS)}, or by a CSV of customer_id,segment."
        ),
    ] = "",
    current: Annotated[
        str,
        typer.Option(
            help="Take everybody with usage to be on this plan now, and ask no subscriptions."
        ),
    ] = "",
    months: _Months = False,
    time_zone: Annotated[str, typer.Option(help="Whose calendar cuts the months.")] = "UTC",
    csv: Annotated[
        Path | None, typer.Option(help="Write a row for each customer.", show_default=False)
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="The same as Parquet.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help=f"Draw the changes; ends in {' or '.join(f'.{each}' for each in FORMATS)}.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Rate real usage again by other plans: revenue now and then, winners and losers."""
    plan_files = [read_plan_file(file) for file in files]
    interval = parse_span(since, until)
    if plot is not None and plot.suffix.removeprefix(".").lower() not in FORMATS:
        raise CommandError(f"--plot {plot} must end in .svg or .png")
    zone = parse_zone_option(time_zone)
    request = SimulateRequest(
        candidates=[file.plan for file in plan_files],
        periods=calendar_periods(interval.start, interval.end, zone),
        current_plan_id=current,
    )
    output = Output(as_json=as_json)
    exports = _Exports(csv, parquet, plot)

    async def work(services: Services) -> SimulationReport:
        if not current:
            days = local_day(interval.start, zone), local_day(interval.end, zone)
            calendars = None if months else BillingCalendars(*days)
            await _name_customers(services, request, interval, segment, calendars)
        return await _simulate(services, request, plan_files, output, exports)

    report = run(data_dir, address, work)
    output.value(dict(MessageToDict(report, preserving_proto_field_name=True)))
    for candidate in report.candidates:
        _show(output, candidate)
    if report.failed_count:
        warn(f"{report.failed_count:,} customers could not be rated; --csv says why")
    if plot is not None:
        draw_report(report, f"{since} to {until}", plot)


async def _name_customers(
    services: Services,
    request: SimulateRequest,
    interval: Interval,
    segment: str,
    calendars: BillingCalendars | None,
) -> None:
    found, agreed = await find_customers(services, interval, segment, calendars)
    if not found:
        raise CommandError(
            "nobody was subscribed then, or had a billing period that ended: try --months,"
            " or name the plan of everybody with usage by --current"
        )
    request.customers.extend(found)
    request.overrides.extend(agreed)
    request.calendars.extend(calendars.calendars() if calendars else ())


async def _simulate(
    services: Services,
    request: SimulateRequest,
    files: list[PlanFile],
    output: Output,
    exports: _Exports,
) -> SimulationReport:
    plan_ids = [file.plan.plan_id for file in files]
    answers = services.rating.Simulate(request, metadata=services.metadata, timeout=_TIMEOUT_S)
    with ExitStack() as stack:
        writers = stack.enter_context(row_writers(exports.csv, exports.parquet))
        advance: Callable[[int], None] = _nothing
        done = 0
        try:
            async for answer in answers:
                match answer.WhichOneof("step"):
                    case "progress" if not answer.progress.done_count:
                        total = answer.progress.customer_count
                        advance = stack.enter_context(output.progress("customers", total))
                    case "progress":
                        advance(answer.progress.done_count - done)
                        done = answer.progress.done_count
                    case "outcomes":
                        rows = list(rows_of(answer.outcomes.outcomes, plan_ids))
                        for writer in writers:
                            writer.write(rows)
                    case "report":
                        return answer.report
        except grpc.aio.AioRpcError as error:
            _refuse(files, error)
            raise services.explain(error, request) from None
    raise CommandError("the rating service ended the simulation without a report")


def _nothing(_: int) -> None:
    """Show no progress: a simulation begins with how much there is to do."""


def _refuse(files: list[PlanFile], error: grpc.aio.AioRpcError) -> None:
    """Tell what is wrong with a candidate by the lines of its file."""
    refused = read_error(error)
    if not isinstance(refused, DomainError):
        return
    for index, file in enumerate(files):
        path = f"candidates[{index}]"
        violations = [
            Violation("plan" + each.field.removeprefix(path), each.description)
            for each in refused.violations
            if each.field.startswith(f"{path}.")
        ]
        if violations:
            raise file.refused(violations) from None


def _show(output: Output, candidate: CandidateReport) -> None:
    total = candidate.total
    output.section(f"{candidate.plan_id}: {total.customer_count:,} customers")
    _show_segments(output, [total, *candidate.segments] if _is_segmented(candidate) else [total])
    output.say(
        f"{candidate.winner_count:,} would pay less, {candidate.loser_count:,} more,"
        f" {candidate.unchanged_count:,} the same"
    )
    output.table(
        [Column("change", style="cyan"), Column("customers", right=True)],
        [
            [bucket_name(bucket), f"{bucket.customer_count:,}"]
            for bucket in candidate.distribution
            if bucket.customer_count
        ],
    )
    for title, changes in (("saves most", candidate.winners), ("pays most more", candidate.losers)):
        if changes:
            _show_changes(output, title, changes)
    if candidate.tiers:
        output.table(
            [
                Column("price", style="cyan"),
                Column("tier", right=True),
                Column("customers that reach it", right=True),
            ],
            [
                [each.price_id, str(each.tier), f"{each.customer_count:,}"]
                for each in candidate.tiers
            ],
        )


def _is_segmented(candidate: CandidateReport) -> bool:
    return any(segment.segment for segment in candidate.segments)


def _show_segments(output: Output, segments: Iterable[SegmentOutcome]) -> None:
    output.table(
        [
            Column("segment", style="cyan"),
            Column("customers", right=True),
            Column("now", right=True),
            Column("then", right=True),
            Column("change", right=True),
        ],
        [
            [
                segment.segment or ("others" if number else "all"),
                f"{segment.customer_count:,}",
                money_text(segment.current),
                money_text(segment.simulated),
                change_text(segment.current, segment.simulated),
            ]
            for number, segment in enumerate(segments)
        ],
    )


def _show_changes(output: Output, title: str, changes: Iterable[CustomerChange]) -> None:
    output.table(
        [
            Column(title, style="cyan"),
            Column("segment"),
            Column("now", right=True),
            Column("then", right=True),
            Column("change", right=True),
        ],
        [
            [
                change.customer_id,
                change.segment,
                money_text(change.current),
                money_text(change.simulated),
                change_text(change.current, change.simulated),
            ]
            for change in list(changes)[:_SHOWN_MAX]
        ],
    )
