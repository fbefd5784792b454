"""One import from file to report: check every row, send what was not sent yet, remember how far.

Nothing is sent of a file with a row that cannot be used, unless such rows are to be skipped. How
far an import came is kept in the data directory; as events have an identity, sending more than
needed counts nothing twice.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import jwt

from cli.errors import CommandError
from cli.importing.columns import ColumnMapping, Mapped, Mapper
from cli.importing.tables import FORMATS as TABLE_FORMATS
from cli.importing.tables import columns_of, read_table
from cli.replay.mapping import event_time
from cli.replay.readers import AZURE, EVENTS, MOONCAKE, read_rows
from cli.replay.sending import Pace, Tally, send_to_meter
from cli.services import Services
from kit.errors import Violation
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

FORMATS = (*TABLE_FORMATS, AZURE, MOONCAKE, EVENTS)
AHEAD_MAX = timedelta(hours=1)

_POSITION_EVERY = 10_000
_PROBLEMS_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What to import, and how.

    Args:
        file: The file.
        file_format: One of `FORMATS`.
        mapping: Which column is what.
        skips_bad: Whether rows that cannot be used are left out.
        from_start: Whether everything is sent, however far an earlier import came.
        patience_s: How long a meter that does not answer is waited for.
        positions: The folder that keeps how far imports came.
    """

    file: Path
    file_format: str
    mapping: ColumnMapping
    skips_bad: bool
    from_start: bool
    patience_s: float
    positions: Path


@dataclass(slots=True)
class Checked:
    """What reading the whole file has shown."""

    rows: int = 0
    bad: list[tuple[int, Violation]] = field(default_factory=list)
    bad_rows: int = 0
    earliest: datetime | None = None
    latest: datetime | None = None


@dataclass(slots=True)
class ImportReport:
    """What an import has done; `resumed` rows were taken by an earlier one."""

    checked: Checked
    resumed: int = 0
    tally: Tally = field(default_factory=Tally)

    @property
    def is_complete(self) -> bool:
        """Tell whether every row was taken."""
        return not (self.tally.untaken or self.checked.bad_rows)


def check(options: ImportOptions, now: datetime) -> Checked:
    """Read the whole file, and note every row that cannot be used with each field that is bad.

    Raises:
        CommandError: The file cannot be read, or a column is not there.
    """
    _check_columns(options)
    checked = Checked()
    for mapped in mapped_rows(options, now):
        checked.rows += 1
        if mapped.violations:
            checked.bad_rows += 1
            checked.bad += [(mapped.line, violation) for violation in mapped.violations]
        else:
            time = event_time(mapped.event)
            checked.earliest = min(checked.earliest or time, time)
            checked.latest = max(checked.latest or time, time)
    if not checked.rows:
        raise CommandError(f"{options.file} holds no rows")
    return checked


def mapped_rows(options: ImportOptions, now: datetime) -> Iterator[Mapped]:
    """Read the file and give the event of each row."""
    mapper = Mapper(options.mapping, now + AHEAD_MAX)
    if options.file_format in TABLE_FORMATS:
        yield from map(mapper.map, read_table(options.file, options.file_format))
        return
    for row in read_rows(options.file, options.file_format):
        yield mapper.complete(row.line, row.event, is_whole=options.file_format == EVENTS)


async def send(
    services: Services,
    options: ImportOptions,
    checked: Checked,
    now: datetime,
    advance: Callable[[int], None],
) -> ImportReport:
    """Send every row that can be used and was not taken by an earlier import of the same.

    Raises:
        CommandError: The meter refused to take events at all, or did not answer in time.
    """
    position = _Position.find(services, options)
    start = 0 if options.from_start else position.load()
    report = ImportReport(checked, resumed=min(start, checked.rows))
    names: dict[tuple[str, str], int] = {}
    done = report.resumed
    advance(done)

    def events() -> Iterator[UsageEvent]:
        for number, mapped in enumerate(mapped_rows(options, now)):
            if number < start:
                continue
            if not mapped.violations:
                names[mapped.event.source, mapped.event.event_id] = mapped.line
                yield mapped.event

    def settled(event: UsageEvent, _was_taken: bool) -> None:  # noqa: FBT001 - called by position.
        nonlocal done
        names.pop((event.source, event.event_id), None)
        advance(1)
        done += 1
        if done % _POSITION_EVERY == 0 and not report.tally.untaken:
            # So many rows at least, as they are settled in their order.
            position.save(done)

    def named(event: UsageEvent) -> str:
        return f"line {names.get((event.source, event.event_id), 0)}"

    report.tally = Tally(name=named, problems_max=_PROBLEMS_MAX)
    await send_to_meter(
        services, events(), Pace(patience_s=options.patience_s), settled, report.tally
    )
    if not report.tally.untaken:
        position.save(checked.rows)
    return report


def facts(options: ImportOptions, report: ImportReport) -> dict[str, object]:
    """Give the report as values for JSON."""
    checked, tally = report.checked, report.tally
    return {
        "file": options.file.name,
        "format": options.file_format,
        "rows": checked.rows,
        "resumed": report.resumed,
        "start_time": checked.earliest.isoformat() if checked.earliest else None,
        "end_time": checked.latest.isoformat() if checked.latest else None,
        "outcomes": {
            "created": tally.created,
            "duplicate": tally.duplicate,
            "not_taken": tally.untaken,
            "bad": checked.bad_rows,
        },
        "bad": [
            {"line": line, "field": each.field, "description": each.description}
            for line, each in checked.bad
        ],
        "problems": list(tally.problems),
        "complete": report.is_complete,
    }


def _check_columns(options: ImportOptions) -> None:
    """Refuse a mapping that names a column which no row can have."""
    if options.file_format not in TABLE_FORMATS:
        return
    try:
        columns = columns_of(options.file, options.file_format)
    except UnicodeDecodeError:
        raise CommandError(f"{options.file}:1: is not text in UTF-8") from None
    except OSError as error:
        raise CommandError(f"cannot read {options.file}: {error.strerror}") from None
    if columns is None:
        return
    known = set(columns)
    missing = [
        f"{option}: there is no column {column!r}"
        for option, column in options.mapping.columns()
        if column
        and not column.startswith("=")
        and column.partition(".")[0] not in known
        and column not in known
    ]
    if missing:
        raise CommandError(f"{'; '.join(missing)}; {options.file} has {', '.join(columns)}")


@dataclass(frozen=True, slots=True)
class _Position:
    """How many rows of one import were taken, kept in a file that names the import."""

    path: Path

    @classmethod
    def find(cls, services: Services, options: ImportOptions) -> "_Position":
        """Name an import by its file's content, its mapping, the meter and the tenant."""
        with options.file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        told = [
            digest,
            options.file_format,
            repr(options.mapping),
            services.connection.addresses["meter"],
            _tenant(services.connection.token),
        ]
        name = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        return cls(options.positions / f"{name}.position")

    def load(self) -> int:
        """Answer how many rows were taken; none when nothing is known."""
        try:
            return int(self.path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0

    def save(self, rows: int) -> None:
        """Keep how many rows were taken; an import that cannot keep it goes on without."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = self.path.with_suffix(".new")
            beside.write_text(str(rows), encoding="ascii")
            beside.replace(self.path)
        except OSError:
            return


def _tenant(token: str) -> str:
    """Read whose token it is, without trusting it: the meter will verify it."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("tid", ""))
    except jwt.InvalidTokenError:
        return ""
