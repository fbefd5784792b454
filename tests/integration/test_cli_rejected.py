"""Events that were not stored, and what tells people apart, at the command line."""

import json

from tests.meter_world import an_event
from tests.shell import MARCH, Shell
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.meter.v1.meter_service_pb2 import IngestEventsRequest, ListEventsRequest


def a_call(event_id: str, tokens: str) -> UsageEvent:
    """Make a call of Acme's by somebody, of so many tokens."""
    event = an_event(event_id, time=MARCH, quantities={"tokens": tokens})
    event.subject.user_id = "ada"
    return event


async def ingest(shell: Shell, *events: UsageEvent) -> None:
    """Send events."""
    await shell.world.call("meter.IngestEvents", IngestEventsRequest(events=events))


async def test_rejected_events_are_shown_repaired_in_a_file_and_replayed(shell: Shell) -> None:
    """A row for each with its reasons; a mended line is stored, one left as it was is not."""
    assert await shell.lines("usage", "rejected") == ["nothing was rejected"]
    await ingest(
        shell,
        a_call("e1", "-1"),
        a_call("e2", "many\u2028"),
        a_call("e3", "5"),
    )

    shown = await shell.lines("usage", "rejected", "--file", "rejected.jsonl")
    file = shell.folder / "rejected.jsonl"
    first, second = map(json.loads, file.read_text().strip().split("\n"))
    first["event"]["quantities"]["tokens"] = "1"
    file.write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in (first, second)))
    replayed = await shell.run("usage", "replay", "--file", file)
    left = await shell.json("usage", "rejected")

    assert shown[0].split() == ["number", "came", "customer", "source", "event", "why"]
    assert shown[1].split()[3:6] == ["acme", "gateway", "e1"]
    assert shown[1].endswith('quantities["tokens"] must be at least 0')
    assert shown[3] == "2 rejected events in rejected.jsonl"
    assert replayed.status == 1
    assert replayed.errors == "tollkeeper: 1 events were not stored\n"
    lines = replayed.output.splitlines()
    assert lines[0] == "1 created, 1 rejected"
    assert lines[2].split()[:2] == [second["rejectedEventId"], "rejected"]
    assert [each["event"]["eventId"] for each in left["events"]] == ["e2"]


async def test_rejected_events_are_replayed_by_their_numbers(shell: Shell) -> None:
    """As they were sent; JSON says the same, and a number that is none is refused whole."""
    beyond = a_call("e2", "1")
    beyond.time.seconds = 2**62
    await ingest(shell, a_call("e1", "-1"), beyond)
    listed = (await shell.json("usage", "rejected"))["events"]
    numbers = [each["rejectedEventId"] for each in listed]

    outcome = await shell.run("usage", "replay", *numbers, "--json")
    unknown = await shell.run("usage", "replay", numbers[0], "999999999")

    assert "time" in listed[0]["event"]
    assert "time" not in listed[1]["event"]
    answered = json.loads(outcome.output)
    assert (outcome.status, answered["outcomes"]) == (1, {"rejected": 2})
    assert [each["rejectedEventId"] for each in answered["problems"]] == list(map(int, numbers))
    assert (unknown.status, unknown.output) == (1, "")
    assert "999999999" in unknown.errors


async def test_a_customers_people_are_erased(shell: Shell) -> None:
    """Nobody is named any more, usage stays, and rejected events are gone."""
    await ingest(shell, a_call("e1", "5"), a_call("e2", "-1"))

    erased = await shell.lines("usage", "erase", "acme", "--yes")
    stored = await shell.world.call("meter.ListEvents", ListEventsRequest(customer_id="acme"))

    assert erased == ["1 events of acme name nobody any more, 1 rejected ones are deleted"]
    (event,) = (each.event for each in stored.events)
    assert event.subject.user_id not in {"", "ada"}
    assert dict(event.quantities) == {"tokens": "5"}


async def test_a_file_that_cannot_be_written_is_said(shell: Shell) -> None:
    """In one sentence."""
    for command in (["rejected"], ["export", "acme"]):
        outcome = await shell.run("usage", *command, "--file", "absent/x")

        assert outcome.status == 1
        assert outcome.errors == "tollkeeper: cannot write absent/x: No such file or directory\n"
