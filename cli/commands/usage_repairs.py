"""`tollkeeper usage rejected`, `replay` and `erase`: what was not stored, and what has to go."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import (
    MessageToDict,
    ParseDict,
    ParseError,
    SerializeToJsonError,
)

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError, writing
from cli.options import AsJson, DataDir
from cli.output import Column, Output, time_text
from cli.services import Addresses, Services, new_request_id, run
from kit.rpc.wire import parse_time
from tollkeeper.api.meter.v1.meter_service_pb2 import (
    EraseCustomerRequest,
    EraseCustomerResponse,
    EventProblem,
    IngestOutcome,
    ListRejectedEventsRequest,
    RejectedEvent,
    RejectedEventReplay,
    ReplayRejectedEventsRequest,
)

_EVENTS_PER_PAGE = 1_000
_REPLAYS_PER_CALL = 1_000

_Problem = tuple[int, EventProblem]
"""The number of a rejected event, and what is wrong with it."""


def rejected(
    *,
    file: Annotated[
        Path | None,
        typer.Option(help="Write them there as JSON lines, to be repaired and replayed."),
    ] = None,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Show events that were not stored, and why."""

    async def work(services: Services) -> list[RejectedEvent]:
        request = ListRejectedEventsRequest(page_size=_EVENTS_PER_PAGE)
        pages = services.pages(services.meter.ListRejectedEvents, request)
        return [each async for page in pages for each in page.events]

    found = run(data_dir, address, work)
    output = Output(as_json=as_json)
    written = [_written(each) for each in found]
    if file:
        lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in written]
        with writing(file):
            file.write_text("".join(lines), encoding="utf-8")
    output.value({"events": written})
    output.table(
        [Column(title) for title in ("number", "came", "customer", "source", "event", "why")],
        [
            [
                str(each.rejected_event_id),
                time_text(parse_time(each.last_reject_time, "last_reject_time")),
                each.event.subject.customer_id,
                each.event.source,
                each.event.event_id,
                _why(each.violations),
            ]
            for each in found
        ],
        empty="nothing was rejected",
    )
    if file:
        output.say(f"{len(found):,} rejected events in {file}")


def replay(
    numbers: Annotated[
        list[int] | None,
        typer.Argument(
            help="Of rejected events, to store as they were sent.",
            min=1,
            max=2**63 - 1,
            show_default=False,
        ),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option(help="Repaired events, as `tollkeeper usage rejected --file` wrote them."),
    ] = None,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Store events that were rejected: as they were sent, or repaired in a file."""
    if bool(numbers) == bool(file):
        raise CommandError("give either numbers of rejected events, or --file with repaired ones")
    replays = [RejectedEventReplay(rejected_event_id=number) for number in numbers or ()]
    if file:
        replays = list(_read_repaired(file))

    async def work(services: Services) -> tuple[Counter[int], list[_Problem]]:
        outcomes: Counter[int] = Counter()
        problems: list[_Problem] = []
        for first in range(0, len(replays), _REPLAYS_PER_CALL):
            some = replays[first : first + _REPLAYS_PER_CALL]
            request = ReplayRejectedEventsRequest(request_id=new_request_id(), replays=some)
            answer = await services.ask(services.meter.ReplayRejectedEvents, request)
            outcomes.update(answer.outcomes)
            problems += [(some[each.index].rejected_event_id, each) for each in answer.problems]
        return outcomes, problems

    outcomes, problems = run(data_dir, address, work)
    counts = {_name(outcome): count for outcome, count in sorted(outcomes.items())}
    output = Output(as_json=as_json)
    output.value(
        {
            "outcomes": counts,
            "problems": [
                {"rejectedEventId": number, **MessageToDict(problem)}
                for number, problem in problems
            ],
        }
    )
    output.say(", ".join(f"{count:,} {name}" for name, count in counts.items()) or "no events")
    if problems:
        output.table(
            [Column("number"), Column("outcome"), Column("why")],
            [
                [str(number), _name(problem.outcome), _why(problem.violations)]
                for number, problem in problems
            ],
        )
        raise CommandError(f"{len(problems):,} events were not stored")


def erase(
    customer: Annotated[str, typer.Argument(help="The customer.", show_default=False)],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, it cannot be undone.")] = False,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Put pseudonyms in the place of a customer's users, keys and runs. Usage stays as it is."""
    if not yes:
        raise CommandError(f"nobody could tell any more who used what at {customer}; add --yes")
    request = EraseCustomerRequest(request_id=new_request_id(), customer_id=customer)

    async def work(services: Services) -> EraseCustomerResponse:
        return await services.ask(services.meter.EraseCustomer, request)

    answer = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value({"events": answer.event_count, "rejected_events": answer.rejected_event_count})
    output.say(
        f"{answer.event_count:,} events of {customer} name nobody any more,"
        f" {answer.rejected_event_count:,} rejected ones are deleted"
    )


def _written(rejected_event: RejectedEvent) -> dict[str, Any]:
    """Write an event in the JSON of protobuf, which has no words for a time beyond its years."""
    try:
        return MessageToDict(rejected_event)
    except SerializeToJsonError:
        without_time = RejectedEvent()
        without_time.CopyFrom(rejected_event)
        without_time.event.ClearField("time")
        return MessageToDict(without_time)


def _read_repaired(file: Path) -> Iterator[RejectedEventReplay]:
    try:
        # Texts hold other ends of lines than this one as they are.
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read {file}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _read_line(line)
        except (ValueError, RecursionError, ParseError) as error:
            raise CommandError(f"{file}:{number}: is no rejected event: {error}") from None


def _read_line(line: str) -> RejectedEventReplay:
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ParseError("must be a JSON object")
    repaired = ParseDict(fields, RejectedEvent())
    event = repaired.event if repaired.HasField("event") else None
    return RejectedEventReplay(rejected_event_id=repaired.rejected_event_id, event=event)


def _why(violations: Sequence[Any]) -> str:
    return ", ".join(f"{each.field} {each.description}" for each in violations)


def _name(outcome: int) -> str:
    name = IngestOutcome.Name(outcome)  # type: ignore[arg-type] # Any number of the wire.
    return name.removeprefix("INGEST_OUTCOME_").lower()
