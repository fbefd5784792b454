"""Retention at a real meter service: months made ahead and dropped, and what stays as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import Precondition
from kit.interval import Interval
from kit.postgres import Database
from kit.rpc.wire import render_interval
from kit.settings import ServiceSettings
from services.meter.usecases.retention import Maintained
from tests.meter_world import (
    CONFLICT,
    CREATED,
    DUPLICATE,
    REJECTED,
    World,
    a_meter,
    an_event,
    meter_world,
)
from tests.retention_world import (
    AFTERWARDS,
    DAY,
    FEBRUARY,
    HOUR,
    JANUARY,
    METERS,
    MINUTE,
    NOW,
    a_year_later,
    figures,
    maintain,
    partitions,
    usage_of_january,
    verified_days,
)
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service with a meter of every aggregation."""
    async with meter_world(settings_for, keys, tenant, NOW) as running:
        for meter in METERS:
            await running.put_meter(meter)
        yield running


@pytest.fixture
async def database(settings_for: Callable[..., ServiceSettings]) -> AsyncIterator[Database]:
    """The database of the service."""
    pool = Database(settings_for("meter").database_url, "meter")
    yield pool
    await pool.close()


async def test_months_are_made_ahead_and_dropped_when_they_are_over(
    world: World, database: Database
) -> None:
    """Four months at a time; what is made already is not made again."""
    first = await maintain(world, database)
    again = await maintain(world, database)
    world.clock.set(AFTERWARDS)
    later = await maintain(world, database)

    assert first.made == ("2040-01", "2040-02", "2040-03", "2040-04")
    assert again == Maintained()
    assert later == Maintained(("2041-03", "2041-04", "2041-05", "2041-06"), ("2040-01",))
    assert await partitions(database) == [
        *("events_2040_02", "events_2040_03", "events_2040_04"),
        *("events_2041_03", "events_2041_04", "events_2041_05", "events_2041_06"),
    ]


async def test_figures_stay_when_their_events_go(world: World, database: Database) -> None:
    """Usage of every aggregation is what it was, by month and by day; the events are gone."""
    await maintain(world, database)
    await world.ingest(*usage_of_january())
    world.clock.set(AFTERWARDS)
    before = await figures(world)
    days = await verified_days(world)
    await world.ingest(an_event("new", time=AFTERWARDS - HOUR))

    done = await maintain(world, database)

    assert done.dropped == ("2040-01",)
    assert await figures(world) == before
    assert days == [(13, 0), (13, 0), (14, 0)]
    assert [each.event.event_id for each in await world.events()] == ["new"]
    assert await verified_days(world) == [(1, 0)]


async def test_a_level_is_carried_from_events_that_are_gone(
    world: World, database: Database
) -> None:
    """A weighted sum goes on from the last level, though the event that set it was dropped."""
    level = {"tokens": "6"}
    await maintain(world, database)
    await world.ingest(an_event("level", time=JANUARY.start, quantities=level))
    world.clock.set(AFTERWARDS)
    await maintain(world, database)

    day = Interval(AFTERWARDS - 2 * DAY, AFTERWARDS - DAY)
    rows = await world.usage("weighted_sum", day)

    assert [(quantity, count) for _, quantity, count in rows] == [(str(6 * 86_400), 0)]


async def test_what_takes_events_that_are_gone_is_refused(world: World, database: Database) -> None:
    """Edges before the horizon, sums of events, and what a meter counts of each of them."""
    await a_year_later(world, database)
    uneven = Interval(JANUARY.start, NOW + MINUTE)

    refused = [
        await world.refusal(
            "QueryUsage",
            messages.QueryUsageRequest(meter_id="sum", interval=render_interval(uneven)),
        ),
        await world.refusal(
            "SummarizeUsage",
            messages.SummarizeUsageRequest(customer_id="acme", interval=render_interval(JANUARY)),
        ),
        await world.refusal(
            "ListEvents",
            messages.ListEventsRequest(meter_id="sum", interval=render_interval(JANUARY)),
        ),
    ]
    since = Interval(FEBRUARY + MINUTE, AFTERWARDS)
    answered = await world.usage("sum", since)

    assert [(type(each), each.reason, each.metadata) for each in refused] == [
        (Precondition, "EVENTS_EXPIRED", {"kept_from": FEBRUARY.isoformat()})
    ] * 3
    assert answered == [("acme", "10", 1)]


async def test_a_version_that_followed_another_can_be_asked_about_for_ever(
    world: World, database: Database
) -> None:
    """The instant of the change, which is no quarter of an hour, takes no event."""
    await maintain(world, database)
    await world.ingest(*usage_of_january())
    world.clock.advance(MINUTE / 7)
    await world.put_meter(a_meter("sum", group_by=["model", "region"], quantity="seconds"), "v2")
    await world.ingest(an_event("two", time=world.clock.now(), quantities={"seconds": "5"}))
    before = await world.usage("sum", JANUARY)
    world.clock.set(AFTERWARDS)

    await maintain(world, database)

    assert before == await world.usage("sum", JANUARY) == [("acme", str(sum(range(40)) + 5), 41)]


async def test_a_meter_that_is_put_later_says_from_when_it_is_exact(
    world: World, database: Database
) -> None:
    """It counts what is kept, and refuses questions about what was gone before."""
    await a_year_later(world, database)

    meter = await world.put_meter(a_meter("later"))

    refused = await world.refusal(
        "QueryUsage",
        messages.QueryUsageRequest(meter_id="later", interval=render_interval(JANUARY)),
    )
    known = await world.usage("later", Interval(FEBRUARY, AFTERWARDS))
    assert meter.backfill.complete
    assert meter.exact_from_time.ToDatetime(UTC) == FEBRUARY
    assert (refused.reason, refused.metadata) == (
        "EVENTS_EXPIRED",
        {"kept_from": FEBRUARY.isoformat()},
    )
    assert known == [("acme", "10", 1)]
    assert await verified_days(world) == [(1, 0)]


async def test_an_identity_outlives_its_event_until_it_was_kept_long_enough(
    world: World, database: Database
) -> None:
    """A late repeat is a duplicate, and other content a conflict that cannot name its fields."""
    await maintain(world, database)
    world.clock.set(NOW + 380 * DAY)
    late = an_event("late", time=NOW, quantities={"tokens": "3"})
    await world.ingest(late)
    world.clock.set(AFTERWARDS)
    await maintain(world, database)

    repeated = await world.ingest(
        late, an_event("late", time=NOW, quantities={"tokens": "4"}), an_event("late", time=NOW)
    )

    assert await world.events() == []
    assert list(repeated.outcomes) == [DUPLICATE, CONFLICT, CONFLICT]
    assert [
        (violation.field, violation.description) for violation in repeated.problems[0].violations
    ] == [("events[1].event_id", "was taken with other content, which is no longer kept")]
    assert await world.usage("sum", JANUARY) == [("acme", "3", 1)]


async def test_an_identity_is_forgotten_with_what_is_kept_of_it(
    world: World, database: Database
) -> None:
    """After retention nothing is left of January: events, late and rejected ones, identities."""
    await maintain(world, database)
    await world.ingest(*usage_of_january(4))
    await world.ask(
        "VoidEvent",
        messages.VoidEventRequest(request_id="v", source="gateway", event_id="e1", reason="wrong"),
    )
    period = messages.ClosePeriodsRequest(request_id="c")
    period.periods.add(customer_id="closed").end_time.FromDatetime(NOW)
    await world.ask("ClosePeriods", period)
    await world.ingest(
        an_event("l", time=NOW - DAY, customer_id="closed"), an_event("bad", customer_id="")
    )
    world.clock.set(AFTERWARDS)

    done = await maintain(world, database)

    rejected = await world.ask("ListRejectedEvents", messages.ListRejectedEventsRequest())
    late = await world.ask("ListLateEvents", messages.ListLateEventsRequest())
    # Four identities and the late one's, the late event, the rejected one, two revisions.
    assert (done.deleted, len(rejected.events), len(late.events)) == (9, 0, 0)
    assert await maintain(world, database) == Maintained()
    again = await world.ingest(an_event("e2", time=AFTERWARDS))
    assert list(again.outcomes) == [CREATED]


async def test_old_history_is_kept_for_as_long_after_it_came(
    world: World, database: Database
) -> None:
    """Imported when it is two years old: also a later meter counts it, and it stays counted."""
    two_years = Interval(JANUARY.start - 730 * DAY, JANUARY.start)
    events = [
        an_event(f"h{number}", time=NOW - 700 * DAY + number * HOUR, quantities={"tokens": "2"})
        for number in range(30)
    ]
    await world.ask("ImportUsage", messages.ImportUsageRequest(events=events[:20]))
    await world.ingest(*events[20:])
    await maintain(world, database)
    later = await world.put_meter(a_meter("later"))
    before = [await world.usage(name, two_years, include_billed=True) for name in ("sum", "later")]
    kept = len(await world.events())
    world.clock.set(NOW + 440 * DAY)

    done = await maintain(world, database)

    assert (kept, before) == (30, [[("acme", "60", 30)]] * 2)
    assert not later.HasField("exact_from_time")
    assert (done.deleted, await world.events()) == (60, [])
    after = [await world.usage(name, two_years, include_billed=True) for name in ("sum", "later")]
    assert after == before


async def test_what_lies_before_the_horizon_is_counted_but_not_corrected(
    world: World, database: Database
) -> None:
    """Old usage that comes now is added; a level among levels that are gone is refused."""
    await a_year_later(world, database)
    before = await world.usage("sum", JANUARY)
    await world.ask("GetMeter", messages.GetMeterRequest(meter_id="sum"))

    refused = await world.ingest(an_event("old", time=NOW))
    free = an_event("old", time=NOW, quantities={"seconds": "1"}, type="other.call")
    taken = await world.ingest(free)
    correction = await world.refusal(
        "VoidEvent",
        messages.VoidEventRequest(request_id="v", source="gateway", event_id="old", reason="wrong"),
    )

    assert list(refused.outcomes) == [REJECTED]
    assert [each.field for each in refused.problems[0].violations] == ["events[0].time"]
    assert list(taken.outcomes) == [CREATED]
    assert correction.reason == "EVENTS_EXPIRED"
    assert await world.usage("sum", JANUARY) == before
