"""One replay from file to comparison: read all, send all, ask the meter for the totals."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from cli.call_meters import (
    CACHED_INPUT_TOKENS,
    CALLS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    put_missing_meters,
)
from cli.errors import CommandError
from cli.output import time_text
from cli.replay.accounting import Account, MeterTotal
from cli.replay.mapping import Mapping, Survey, survey
from cli.replay.readers import EVENTS, MOONCAKE, detect_format, read_rows
from cli.replay.sending import Pace, Tally, send_through_gate, send_to_meter
from cli.services import Services
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

# What the meter service accepts and answers for.
AHEAD_MAX = timedelta(hours=1)
SPAN_MAX = timedelta(days=5 * 365)
SOURCE_LENGTH_MAX = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """What to replay, and how.

    Args:
        file: The trace.
        trace_format: `azure`, `mooncake`, `events`, or `auto` to find out.
        customers: Whose calls they are, in turn.
        models: Their models, in turn.
        project: The project of every call; may be empty.
        key: The API key of every call; may be empty.
        source: Who reports the events; empty makes it of the file's content.
        since: When the first call happened; None leaves the times as they were recorded.
        through_gate: Whether every call asks the gate.
        pace: How fast.
    """

    file: Path
    trace_format: str
    customers: tuple[str, ...]
    models: tuple[str, ...]
    project: str
    key: str
    source: str
    since: datetime | None
    through_gate: bool
    pace: Pace


@dataclass(frozen=True, slots=True)
class Prepared:
    """A replay whose file was read to its end, so that it can be sent."""

    options: ReplayOptions
    trace_format: str
    found: Survey
    mapping: Mapping

    def events(self) -> Iterator[UsageEvent]:
        """Read the file again and give the event of each call."""
        rows = read_rows(self.options.file, self.trace_format)
        return self.mapping.to_events(rows, self.trace_format)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay has done."""

    prepared: Prepared
    tally: Tally
    totals: Sequence[MeterTotal]

    @property
    def is_complete(self) -> bool:
        """Tell whether every call was taken or refused by the gate, and the meters agree."""
        return not self.tally.untaken and all(total.agrees for total in self.totals)


def prepare(options: ReplayOptions, now: datetime) -> Prepared:
    """Read the whole file and decide how its calls become events; sends nothing.

    Raises:
        CommandError: The file or an option cannot be used; it says which and why.
    """
    trace_format = options.trace_format
    if trace_format == "auto":
        trace_format = detect_format(options.file)
    if options.through_gate and trace_format == EVENTS:
        raise CommandError("usage events tell what was used already; only a trace can ask the gate")
    if len(options.source) > SOURCE_LENGTH_MAX:
        raise CommandError(f"--source is longer than {SOURCE_LENGTH_MAX} characters")
    found = survey(options.file, trace_format)
    shift = options.since - found.first if options.since else timedelta()
    if found.latest + shift > now + AHEAD_MAX:
        raise CommandError(
            f"the last call would happen at {time_text(found.latest + shift)}, in the future; "
            "choose an earlier --since"
        )
    if found.latest - found.earliest > SPAN_MAX:
        raise CommandError(f"{options.file} covers more than 5 years; split it")
    mapping = Mapping(
        source=options.source or found.source,
        customers=options.customers,
        models=options.models,
        project=options.project,
        key=options.key,
        shift=shift,
    )
    return Prepared(options, trace_format, found, mapping)


async def send_and_compare(
    services: Services, prepared: Prepared, advance: Callable[[int], None]
) -> ReplayReport:
    """Send every call and compare what the meters say with what was sent.

    Raises:
        CommandError: A service refused to serve, or did not answer within the patience.
    """
    needed = [CALLS, INPUT_TOKENS, OUTPUT_TOKENS]
    if prepared.trace_format == MOONCAKE:
        needed.append(CACHED_INPUT_TOKENS)
    stored = await put_missing_meters(services, needed)
    meters = (
        list(stored.values())
        if prepared.trace_format == EVENTS
        else [stored[meter.meter_id] for meter in needed]
    )
    account, tally = Account(meters), Tally()

    def settled(event: UsageEvent, was_taken: bool) -> None:  # noqa: FBT001 - called by position.
        if was_taken:
            account.add(event)
        advance(1)

    send = send_through_gate if prepared.options.through_gate else send_to_meter
    await send(services, prepared.events(), prepared.options.pace, settled, tally)
    totals = await account.compare(services, prepared.options.pace.patience_s)
    if prepared.trace_format == EVENTS:
        # Every meter of the tenant was asked; those of other quantities say nothing.
        totals = [total for total in totals if total.sent or total.metered]
    return ReplayReport(prepared, tally, totals)


def report_facts(report: ReplayReport) -> dict[str, object]:
    """Give the report as values for JSON; whole numbers are numbers, others decimal text."""
    prepared, tally = report.prepared, report.tally
    mapping, found = prepared.mapping, prepared.found
    return {
        "file": prepared.options.file.name,
        "format": prepared.trace_format,
        "source": None if prepared.trace_format == EVENTS else mapping.source,
        "start_time": (found.earliest + mapping.shift).astimezone(UTC).isoformat(),
        "end_time": (found.latest + mapping.shift).astimezone(UTC).isoformat(),
        "rows": found.call_count,
        "outcomes": {
            "created": tally.created,
            "duplicate": tally.duplicate,
            "not_taken": tally.untaken,
            "denied_by_gate": sum(tally.denied.values()),
        },
        "denied_by_limit": dict(sorted(tally.denied.items())),
        "problems": list(tally.problems),
        "totals": {total.meter_id: _number(total.metered) for total in report.totals},
        "sent": {total.meter_id: _number(total.sent) for total in report.totals},
        "agrees": report.is_complete,
    }


def _number(value: Decimal) -> int | str:
    return int(value) if value == value.to_integral_value() else format(value, "f")
