"""`tollkeeper import`: bring usage from a file of somebody else into the meter."""

import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.call_meters import CALL_TYPE
from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.importing.columns import LEVELS, TIME_UNITS, ColumnMapping
from cli.importing.importing import FORMATS, ImportOptions, ImportReport, check, facts, send
from cli.importing.tables import FORMATS as TABLE_FORMATS
from cli.importing.tables import format_of
from cli.options import AsJson, DataDir
from cli.output import Output, time_text
from cli.replay.sending import PATIENCE_S
from cli.services import Addresses, Services, run

_SOURCE_LENGTH_MAX = 128

_Column = Annotated[str, typer.Option(metavar="COLUMN")]
_Columns = Annotated[list[str] | None, typer.Option(metavar="NAME=COLUMN")]
Source = Annotated[
    str,
    typer.Option(
        metavar="COLUMN", help="Who reports the usage; by default named after the file's name."
    ),
]
Id = Annotated[
    str,
    typer.Option(
        "--id",
        metavar="COLUMN",
        help="The id of each event; by default made of the row, so that a row counts once.",
    ),
]
TimeUnit = Annotated[
    str, typer.Option(help=f"The unit of times that are numbers: {', '.join(TIME_UNITS)}.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used.")]
FromStart = Annotated[
    bool, typer.Option("--from-start", help="Send all rows, however far an earlier import came.")
]
Check = Annotated[bool, typer.Option("--check", help="Only check every row; send nothing.")]


def import_usage(
    file: Annotated[Path, typer.Argument(help="The file.", show_default=False)],
    *,
    file_format: Annotated[
        str, typer.Option("--format", help=f"One of auto, {', '.join(FORMATS)}.")
    ] = "auto",
    time: _Column = "time",
    time_unit: TimeUnit = "",
    customer: _Column = "customer_id",
    project: _Column = "",
    user: _Column = "",
    key: _Column = "",
    run_column: Annotated[str, typer.Option("--run", metavar="COLUMN")] = "",
    type_column: Annotated[
        str, typer.Option("--type", metavar="COLUMN", help="The type of the events.")
    ] = f"={CALL_TYPE}",
    source: Source = "",
    event_id: Id = "",
    dimension: _Columns = None,
    quantity: _Columns = None,
    skip_bad: SkipBad = False,
    check_only: Check = False,
    from_start: FromStart = False,
    patience: Annotated[float, typer.Option(min=1, help="Seconds to wait for the meter.")] = (
        PATIENCE_S
    ),
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Import usage from CSV, JSON lines or Parquet; each row is an event, counted once.

    COLUMN names a column of the file (`usage.tokens` leads into nested JSON), or is a value for
    every row when it begins with `=`. An import that was interrupted goes on where it was.
    """
    levels = dict(zip(LEVELS, (customer, project, user, key, run_column), strict=True))
    options = ImportOptions(
        file=file,
        file_format=_format(file, file_format),
        mapping=ColumnMapping(
            source=source or f"=import/{file.name}"[: _SOURCE_LENGTH_MAX + 1],
            event_id=event_id,
            time=time,
            time_unit=_time_unit(time_unit),
            type=type_column,
            levels={level: column for level, column in levels.items() if column},
            dimensions=_columns("--dimension", dimension),
            quantities=_columns("--quantity", quantity),
        ),
        skips_bad=skip_bad,
        from_start=from_start,
        patience_s=_patience(patience),
        positions=data_dir / "imports",
    )
    if options.file_format in TABLE_FORMATS and not options.mapping.quantities:
        raise CommandError("name what was used: --quantity input_tokens=COLUMN; repeatable")
    _import(options, Output(as_json=as_json), data_dir, address, check_only=check_only)


def _import(
    options: ImportOptions,
    output: Output,
    data_dir: Path,
    address: list[str] | None,
    *,
    check_only: bool,
) -> None:
    now = datetime.now(UTC)
    checked = check(options, now)
    report = ImportReport(checked)
    for line, violation in checked.bad:
        field = f"{violation.field}: " if violation.field else ""
        print(f"{options.file}:{line}: {field}{violation.description}", file=sys.stderr)
    stops = check_only or (bool(checked.bad_rows) and not options.skips_bad)

    async def work(services: Services) -> ImportReport:
        with output.progress("rows", checked.rows) as advance:
            return await send(services, options, checked, now, advance)

    if not stops:
        report = run(data_dir, address, work)
    _show(output, options, report)
    if checked.bad_rows and not options.skips_bad:
        text = f"{checked.bad_rows:,} of {checked.rows:,} rows cannot be used"
        raise CommandError(text if check_only else f"{text}; nothing was imported")
    if report.tally.untaken:
        raise CommandError(f"{report.tally.untaken:,} rows were not taken by the meter")


def _show(output: Output, options: ImportOptions, report: ImportReport) -> None:
    checked, tally = report.checked, report.tally
    output.value(facts(options, report))
    output.section(f"{options.file.name}: {checked.rows:,} rows")
    if checked.earliest and checked.latest:
        output.say(f"{time_text(checked.earliest)} to {time_text(checked.latest)} UTC")
    output.say(
        f"{tally.created:,} counted, {tally.duplicate:,} counted before, "
        f"{tally.untaken:,} not taken, {checked.bad_rows:,} bad, "
        f"{report.resumed:,} taken by an earlier import"
    )
    for problem in tally.problems:
        output.say(f"  {problem}")


def _format(file: Path, file_format: str) -> str:
    if file_format == "auto":
        return format_of(file)
    if file_format not in FORMATS:
        raise CommandError(f"--format {file_format!r} is none of auto, {', '.join(FORMATS)}")
    return file_format


def _time_unit(unit: str) -> str:
    if unit and unit not in TIME_UNITS:
        raise CommandError(f"--time-unit {unit!r} is none of {', '.join(TIME_UNITS)}")
    return unit


def _patience(patience: float) -> float:
    if not math.isfinite(patience):
        raise CommandError("--patience is a finite number")
    return patience


def _columns(option: str, written: list[str] | None) -> dict[str, str]:
    columns: dict[str, str] = {}
    for text in written or ():
        name, _, column = text.partition("=")
        if not name or not column:
            raise CommandError(f"{option} {text!r} must read NAME=COLUMN")
        if name in columns:
            raise CommandError(f"{option} names {name!r} twice")
        columns[name] = column
    return columns
