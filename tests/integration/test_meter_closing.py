"""Late, wrong and old events at a real meter service: closed periods, corrections, imports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stamina

from cli.signing_keys import SigningKeys
from kit.errors import Conflict, InvalidInput, NotFound, Precondition, Unavailable
from kit.interval import Interval
from kit.rpc.wire import render_interval, render_time
from kit.settings import ServiceSettings
from tests.meter_world import (
    CONFLICT,
    CREATED,
    DUPLICATE,
    NOON,
    REJECTED,
    TODAY,
    World,
    a_meter,
    an_event,
    meter_world,
    some_events,
)
from tollkeeper.api.meter.v1 import cloud_event_pb2, meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

HOUR = timedelta(hours=1)
AGGREGATIONS = ("SUM", "MIN", "MAX", "AVERAGE", "LATEST", "WEIGHTED_SUM")


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon, with a meter of tokens."""
    async with meter_world(settings_for, keys, tenant) as running:
        await running.put_meter(a_meter(group_by=()))
        yield running


async def close(world: World, end: datetime, *customers: str) -> list[messages.ClosedPeriod]:
    """Close the time of customers."""
    request = messages.ClosePeriodsRequest(
        request_id=f"close-{end.isoformat()}-{customers}",
        periods=[
            messages.ClosedPeriod(customer_id=customer, end_time=render_time(end))
            for customer in customers
        ],
    )
    return list((await world.ask("ClosePeriods", request)).periods)


async def late_events(world: World, **fields: Any) -> list[str]:  # noqa: ANN401 - of any query.
    """List late events, and name them by their ids."""
    answer = await world.ask("ListLateEvents", messages.ListLateEventsRequest(**fields))
    return [late.event.event.event_id for late in answer.events]


def of_tokens(event_id: str, tokens: str, **fields: Any) -> meter_pb2.UsageEvent:  # noqa: ANN401 - of any event.
    """Make an event of so many tokens."""
    return an_event(event_id, quantities={"tokens": tokens}, **fields)


async def test_what_comes_after_the_closing_is_kept_and_not_counted(world: World) -> None:
    """Only events of that customer before the end are late, and a repeat is still a duplicate."""
    await world.ingest(of_tokens("in time", "1", time=NOON - HOUR))
    await close(world, NOON, "acme")

    late = of_tokens("late", "10", time=NOON - HOUR)
    events = [
        late,
        of_tokens("open", "100"),
        of_tokens("zeta", "1000", customer_id="zeta", time=NOON - HOUR),
    ]
    first = await world.ingest(*events, late)
    again = await world.ingest(late)
    other = await world.ingest(of_tokens("late", "11", time=NOON - HOUR))

    assert list(first.outcomes) == [CREATED, CREATED, CREATED, DUPLICATE]
    assert list(first.late) == [0]
    assert (list(again.outcomes), list(again.late)) == ([DUPLICATE], [])
    assert list(other.outcomes) == [CONFLICT]
    assert await world.usage() == [("acme", "101", 2), ("zeta", "1000", 1)]
    assert await late_events(world) == ["late"]
    assert await late_events(world, customer_id="zeta") == []
    before = render_interval(Interval(NOON - HOUR, NOON))
    assert await late_events(world, ingest_interval=before) == []


async def test_late_events_of_large_calls_are_told_apart_too(world: World) -> None:
    """A call that is copied at once loses none of its late events."""
    await close(world, NOON, "acme")

    answer = await world.ingest(*some_events(300), *some_events(5, 300, time=NOON - HOUR))

    assert list(answer.late) == [300, 301, 302, 303, 304]
    assert await world.usage() == [("acme", "3000", 300)]
    assert await late_events(world, page_size=2) == ["e300", "e301"]


async def test_every_way_of_asking_says_that_an_event_is_late(world: World) -> None:
    """Streams and CloudEvents name its position as calls do; GetEvent answers it apart."""
    await close(world, NOON, "acme")
    late = of_tokens("late", "10", time=NOON - HOUR)
    batch = messages.StreamEventsRequest(events=[of_tokens("in time", "1"), late])
    cloud = cloud_event_pb2.CloudEvent(
        id="cloud", source="gateway", spec_version="1.0", type="llm.call", text_data='{"tokens":5}'
    )
    cloud.attributes["subject"].ce_string = "acme"
    cloud.attributes["time"].ce_timestamp.FromDatetime(NOON - HOUR)

    streamed = [
        list(answer.late)
        async for answer in world.stub.StreamEvents(iter([batch]), metadata=world.token())
    ]
    sent = await world.ask("IngestCloudEvents", messages.IngestCloudEventsRequest(events=[cloud]))
    found = await world.ask("GetEvent", messages.GetEventRequest(source="gateway", event_id="late"))

    assert (streamed, list(sent.late)) == ([[1]], [0])
    assert not found.HasField("event")
    assert (found.late.event.event.event_id, found.late.closed_until.ToDatetime(UTC)) == (
        "late",
        NOON,
    )


async def test_an_end_never_moves_back(world: World) -> None:
    """Closing less than is closed changes nothing, and is said."""
    await close(world, NOON, "acme")

    closed = await close(world, NOON - HOUR, "acme", "zeta")

    assert [(each.customer_id, each.end_time) for each in closed] == [
        ("acme", render_time(NOON)),
        ("zeta", render_time(NOON - HOUR)),
    ]


async def test_every_event_is_counted_or_late_while_a_period_is_closed(world: World) -> None:
    """Calls that run at the same time as the closing: usage does not change after its answer."""
    calls = [some_events(50, first=50 * number, time=NOON - HOUR) for number in range(12)]

    async def close_and_ask() -> list[tuple[str, str, int]]:
        await asyncio.sleep(0.02)
        await close(world, NOON, "acme")
        return await world.usage()

    ingesting = asyncio.gather(*(world.ingest(*events) for events in calls))
    usage = await close_and_ask()
    answers = await ingesting

    late = sum(len(answer.late) for answer in answers)
    assert await world.usage() == usage
    assert sum(row[2] for row in usage) + late == 600
    assert len(await late_events(world, page_size=1_000)) == late


async def put_all(world: World) -> None:
    """Put a meter of every aggregation that reads a quantity, and one of different users."""
    for name in AGGREGATIONS:
        meter = a_meter(name.lower(), group_by=())
        meter.aggregation = meter_pb2.Aggregation.Value(f"AGGREGATION_{name}")
        await world.put_meter(meter)
    users = a_meter("users", quantity="", group_by=())
    users.aggregation = meter_pb2.AGGREGATION_UNIQUE_COUNT
    users.unique_by = "model"
    await world.put_meter(users)


async def figures(world: World) -> list[str]:
    """Answer what every meter says of today until noon."""
    until_noon = Interval(TODAY.start, NOON)
    found = []
    for meter_id in (*(name.lower() for name in AGGREGATIONS), "users"):
        rows = await world.usage(meter_id, until_noon)
        found.append(rows[0][1] if rows else "")
    return found


async def test_an_amended_event_counts_as_it_should_have_been(world: World) -> None:
    """Every aggregation follows, the history is kept, and retries of both contents are repeats."""
    await put_all(world)
    original = of_tokens("b", "9", time=NOON - 2 * HOUR, dimensions={"model": "large"})
    await world.ingest(
        of_tokens("a", "1", time=NOON - 3 * HOUR),
        original,
        of_tokens("c", "2", time=NOON - 2 * HOUR + timedelta(minutes=1)),
    )
    before = await figures(world)
    amended = of_tokens("b", "4", time=NOON - HOUR)

    answer = await world.ask(
        "AmendEvent",
        messages.AmendEventRequest(request_id="r", event=amended, reason="wrong model"),
    )
    found = await world.ask("GetEvent", messages.GetEventRequest(source="gateway", event_id="b"))
    retries = await world.ingest(original, amended, of_tokens("b", "5"))

    assert before == ["12", "1", "9", "4", "2", "18420", "2"]
    assert await figures(world) == ["7", "1", "4", "2.333333333333333333", "4", "25140", "1"]
    assert found.event.event == amended
    assert [(each.revision, each.event) for each in found.revisions] == [
        (1, original),
        (2, amended),
    ]
    assert (answer.revision.kind, answer.revision.reason) == (
        meter_pb2.REVISION_KIND_AMENDED,
        "wrong model",
    )
    assert list(retries.outcomes) == [DUPLICATE, DUPLICATE, CONFLICT]


async def test_a_voided_event_no_longer_counts_and_does_not_come_back(world: World) -> None:
    """Usage is what the others say; its identity stays taken; it cannot be corrected again."""
    await put_all(world)
    wrong = of_tokens("b", "9", time=NOON - 2 * HOUR, dimensions={"model": "large"})
    await world.ingest(of_tokens("a", "1", time=NOON - 3 * HOUR), wrong)
    request = messages.VoidEventRequest(
        request_id="r", source="gateway", event_id="b", reason="a test"
    )

    first = await world.ask("VoidEvent", request)
    again = await world.ask("VoidEvent", request)
    retry = await world.ingest(wrong, of_tokens("b", "5"))
    request.request_id = "other"
    refusal = await world.refusal("VoidEvent", request)
    found = await world.ask("GetEvent", messages.GetEventRequest(source="gateway", event_id="b"))

    assert again == first
    assert list(retry.outcomes) == [DUPLICATE, CONFLICT]
    assert (type(refusal), refusal.reason) == (Precondition, "EVENT_VOIDED")
    assert not found.HasField("event")
    assert [each.kind for each in found.revisions] == [
        meter_pb2.REVISION_KIND_ORIGINAL,
        meter_pb2.REVISION_KIND_VOIDED,
    ]
    assert await figures(world) == ["1", "1", "1", "1", "1", "10800", "1"]


async def test_what_corrected_events_were_is_listed_by_customer(world: World) -> None:
    """Every state of every corrected event of the customer, page by page; of no other's."""
    await world.ingest(*(of_tokens(f"e{n}", "1") for n in range(3)), an_event("z", customer_id="z"))
    for event_id in ("e0", "e2", "z"):
        await world.ask(
            "VoidEvent",
            messages.VoidEventRequest(
                request_id=event_id, source="gateway", event_id=event_id, reason="wrong"
            ),
        )

    pages = []
    request = messages.ListEventRevisionsRequest(customer_id="acme", page_size=3)
    while True:
        answer = await world.ask("ListEventRevisions", request)
        pages.append([(each.event.event_id, each.revision) for each in answer.revisions])
        request.page_token = answer.next_page_token
        if not answer.next_page_token:
            break
    bad = await world.refusal("ListEventRevisions", messages.ListEventRevisionsRequest())

    assert pages == [[("e0", 1), ("e0", 2), ("e2", 1)], [("e2", 2)]]
    assert [each.field for each in bad.violations] == ["customer_id"]


async def test_corrections_and_traffic_at_once_leave_usage_exact(world: World) -> None:
    """Events come into the very quarters that are counted anew; who loses a race repeats."""
    await put_all(world)
    await world.ingest(*some_events(40, time=NOON - HOUR))

    async def void(number: int) -> None:
        request = messages.VoidEventRequest(
            request_id=f"v{number}", source="gateway", event_id=f"e{number}", reason="a test"
        )
        async for attempt in stamina.retry_context(on=Unavailable, wait_max=0.2):
            with attempt:
                await world.ask("VoidEvent", request)

    await asyncio.gather(
        *(void(number) for number in range(20)),
        *(world.ingest(*some_events(20, 100 + 20 * n, time=NOON - HOUR)) for n in range(10)),
    )

    assert await world.usage() == [("acme", "2200", 220)]
    assert await differences(world) == 0


async def test_what_lies_in_a_closed_period_is_not_corrected(world: World) -> None:
    """Neither what is billed nor into what is billed; the refusal says until when."""
    await world.ingest(of_tokens("billed", "1", time=NOON - 2 * HOUR), of_tokens("open", "1"))
    await close(world, NOON - HOUR, "acme")

    refusals = [
        await world.refusal("VoidEvent", void_of("billed")),
        await world.refusal(
            "AmendEvent",
            messages.AmendEventRequest(
                request_id="b", event=of_tokens("open", "1", time=NOON - 2 * HOUR), reason="x"
            ),
        ),
    ]
    missing = await world.refusal("VoidEvent", void_of("nothing"))

    assert [(type(each), each.reason) for each in refusals] == [(Precondition, "PERIOD_CLOSED")] * 2
    assert refusals[0].metadata["closed_until"] == (NOON - HOUR).isoformat()
    assert (type(missing), missing.reason) == (NotFound, "EVENT_NOT_FOUND")


def void_of(event_id: str) -> messages.VoidEventRequest:
    """Make the request that takes an event back."""
    return messages.VoidEventRequest(
        request_id=f"void-{event_id}", source="gateway", event_id=event_id, reason="x"
    )


async def test_bad_corrections_name_every_field(world: World) -> None:
    """Also those of the event itself."""
    refusals = [
        await world.refusal("AmendEvent", messages.AmendEventRequest(event=an_event("", type="A"))),
        await world.refusal("VoidEvent", messages.VoidEventRequest(reason="x" * 501)),
        await world.refusal(
            "ClosePeriods", messages.ClosePeriodsRequest(periods=[messages.ClosedPeriod()])
        ),
    ]

    assert [type(each) for each in refusals] == [InvalidInput] * 3
    assert [[each.field for each in refusal.violations] for refusal in refusals] == [
        ["reason", "event.event_id", "event.type"],
        ["source", "event_id", "reason"],
        ["periods[0].customer_id", "periods[0].end_time"],
    ]


async def test_imported_history_is_not_billed(world: World) -> None:
    """It counts where it is asked for, once, and stays apart for meters that are put later."""
    history = [of_tokens(f"h{number}", "5", time=NOON - HOUR) for number in range(3)]

    first = await world.ask("ImportUsage", messages.ImportUsageRequest(events=history))
    again = await world.ask("ImportUsage", messages.ImportUsageRequest(events=history))
    await world.ingest(of_tokens("new", "1"), history[0])
    await world.put_meter(a_meter("later", group_by=()))

    edge = Interval(TODAY.start, NOON + timedelta(minutes=1))
    assert list(first.outcomes) == [CREATED] * 3
    assert list(again.outcomes) == [DUPLICATE] * 3
    for meter_id in ("tokens", "later"):
        assert await world.usage(meter_id) == [("acme", "1", 1)]
        assert await world.usage(meter_id, edge) == [("acme", "1", 1)]
        assert await world.usage(meter_id, include_billed=True) == [("acme", "16", 4)]
        assert await world.usage(meter_id, edge, include_billed=True) == [("acme", "16", 4)]
    assert [event.billed for event in await world.events()] == [True] * 3 + [False]


async def differences(world: World) -> int:
    """Count how many rollups are not what the events say."""
    call = world.stub.VerifyUsage(messages.VerifyUsageRequest(), metadata=world.token())
    return sum([day.difference_count async for day in call])


async def test_rejected_events_are_kept_repaired_and_replayed(world: World) -> None:
    """The same content is kept once; what is stored leaves the list, the rest stays."""
    bad = an_event("bad", type="A")
    worse = an_event("worse", type="A")
    await world.ingest(bad, an_event("good"), worse)
    await world.ingest(bad)

    answered = await world.ask("ListRejectedEvents", messages.ListRejectedEventsRequest())
    listed = sorted(answered.events, key=lambda each: each.event.event_id)
    repaired = an_event("bad")
    request = messages.ReplayRejectedEventsRequest(
        request_id="r",
        replays=[
            messages.RejectedEventReplay(
                rejected_event_id=listed[0].rejected_event_id, event=repaired
            ),
            messages.RejectedEventReplay(rejected_event_id=listed[1].rejected_event_id),
        ],
    )
    answer = await world.ask("ReplayRejectedEvents", request)
    again = await world.ask("ReplayRejectedEvents", request)
    left = (await world.ask("ListRejectedEvents", messages.ListRejectedEventsRequest())).events
    request.request_id = "other"
    refusal = await world.refusal("ReplayRejectedEvents", request)

    assert [(each.event, each.attempt_count) for each in listed] == [(bad, 2), (worse, 1)]
    assert [each.field for each in listed[0].violations] == ["type"]
    assert list(answer.outcomes) == [CREATED, REJECTED]
    assert again == answer
    assert [each.event for each in left] == [worse]
    assert (type(refusal), refusal.reason) == (NotFound, "REJECTED_EVENT_NOT_FOUND")
    assert await world.usage() == [("acme", "20", 2)]


async def test_a_customer_is_erased_and_usage_stays(world: World) -> None:
    """Users, keys and runs become pseudonyms everywhere; how many there were stays the same."""
    meter = a_meter("users", quantity="", group_by=())
    meter.aggregation = meter_pb2.AGGREGATION_UNIQUE_COUNT
    meter.unique_by = "subject.user_id"
    await world.put_meter(meter)
    events = [of_tokens(f"e{number}", "1") for number in range(4)]
    for event, user in zip(events, ("ann", "bob", "ann", ""), strict=True):
        event.subject.user_id = user
    other = of_tokens("other", "1", customer_id="zeta")
    other.subject.user_id = "ann"
    await world.ingest(*events, other, an_event("bad", type="A"))
    await close(world, NOON, "acme")
    late = of_tokens("late", "1", time=NOON - HOUR)
    late.subject.user_id = "ann"
    await world.ingest(late)

    request = messages.EraseCustomerRequest(request_id="r", customer_id="acme")
    answer = await world.ask("EraseCustomer", request)

    assert (answer.event_count, answer.rejected_event_count) == (5, 1)
    users = [each.event.subject.user_id for each in await world.events(customer_id="acme")]
    assert (users[0] == users[2] != users[1], users[3]) == (True, "")
    assert all(user.startswith("erased-") for user in users[:3])
    theirs = await world.events(customer_id="zeta")
    assert theirs[0].event.subject.user_id == "ann"
    assert await world.usage("users") == [("acme", "2", 3), ("zeta", "1", 1)]
    assert await differences(world) == 0
    retry = await world.ingest(events[0])
    assert list(retry.outcomes) == [DUPLICATE]


async def test_a_request_id_of_a_correction_is_used_once(world: World) -> None:
    """Another content under the same id is refused, and changes nothing."""
    await world.ingest(of_tokens("a", "1"), of_tokens("b", "1"))
    request = void_of("a")
    await world.ask("VoidEvent", request)
    request.event_id = "b"

    refusal = await world.refusal("VoidEvent", request)

    assert (type(refusal), refusal.reason) == (Conflict, "REQUEST_ID_REUSED")
    assert await world.usage() == [("acme", "1", 1)]
