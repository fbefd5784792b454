"""Sums by subject path: what the gate rebuilds its counters from equals the events themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput
from kit.interval import Interval
from kit.rpc.wire import render_interval
from kit.settings import ServiceSettings
from tests.meter_world import NOON, TODAY, World, an_event, meter_world
from tollkeeper.api.meter.v1 import meter_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages
from tollkeeper.api.type.v1.subject_pb2 import Subject

MICROSECOND = timedelta(microseconds=1)
MOST = "9" * 20 + "." + "9" * 18


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon, without any meter."""
    async with meter_world(settings_for, keys, tenant) as running:
        yield running


async def summarize(
    world: World,
    interval: Interval = TODAY,
    customer_id: str = "acme",
    **fields: Any,  # noqa: ANN401 - of any request.
) -> messages.SummarizeUsageResponse:
    """Ask for the sums of a customer."""
    request = messages.SummarizeUsageRequest(
        customer_id=customer_id, interval=render_interval(interval), **fields
    )
    answer: messages.SummarizeUsageResponse = await world.ask("SummarizeUsage", request)
    return answer


def an_event_of(event_id: str, project: str, key: str, **fields: Any) -> meter_pb2.UsageEvent:  # noqa: ANN401 - of any event.
    """Make an event with more levels of a subject."""
    event = an_event(event_id, **fields)
    event.subject.project_id, event.subject.key_id = project, key
    return event


async def test_usage_is_summed_by_path_and_dimensions_without_a_meter(world: World) -> None:
    """Every quantity is summed exactly, and what differs in anything else stays apart."""
    await world.ingest(
        an_event_of("a", "search", "k1", quantities={"tokens": MOST, "seconds": "0.5"}),
        an_event_of("b", "search", "k1", quantities={"tokens": "0.000000000000000002"}),
        an_event_of("c", "search", "k1", type="image.call", quantities={"images": "1"}),
        an_event_of("d", "search", "k2"),
        an_event_of("e", "search", "k1", dimensions={}, quantities={}),
        an_event("f"),
        an_event("g", customer_id="zeta"),
    )

    summaries = list((await summarize(world)).summaries)

    small = {"model": "small"}
    expected = [
        meter_pb2.UsageSummary(
            subject=Subject(customer_id="acme"),
            dimensions=small,
            quantities={"tokens": "10"},
            event_count=1,
        ),
        meter_pb2.UsageSummary(
            subject=Subject(customer_id="acme", project_id="search", key_id="k1"),
            dimensions=small,
            quantities={
                "tokens": "100000000000000000000.000000000000000001",
                "seconds": "0.5",
                "images": "1",
            },
            event_count=3,
        ),
        meter_pb2.UsageSummary(
            subject=Subject(customer_id="acme", project_id="search", key_id="k1"), event_count=1
        ),
        meter_pb2.UsageSummary(
            subject=Subject(customer_id="acme", project_id="search", key_id="k2"),
            dimensions=small,
            quantities={"tokens": "10"},
            event_count=1,
        ),
    ]
    assert len(summaries) == 4
    assert all(summary in summaries for summary in expected)
    paths = [(each.subject.project_id, each.subject.key_id) for each in summaries]
    assert paths == sorted(paths)


async def test_sums_are_exact_to_the_microsecond(world: World) -> None:
    """The start of the interval belongs to it and the end does not."""
    await world.ingest(
        an_event("before", time=NOON - MICROSECOND, quantities={"tokens": "1"}),
        an_event("first", time=NOON, quantities={"tokens": "10"}),
        an_event("last", time=NOON + MICROSECOND, quantities={"tokens": "100"}),
    )

    answer = await summarize(world, Interval(NOON, NOON + MICROSECOND))

    assert [dict(each.quantities) for each in answer.summaries] == [{"tokens": "10"}]


async def test_sums_come_in_pages_that_lose_and_repeat_nothing(world: World) -> None:
    """A group appears on one page, whatever its dimensions hold."""
    long = {f"{number:02}" + "k" * 61: "\N{GRINNING FACE}" * 128 for number in range(16)}
    await world.ingest(
        *(an_event_of(f"p{number}", f"p{number % 3}", f"k{number % 4}") for number in range(30)),
        *(
            an_event(f"d{number}", dimensions={**long, "00" + "k" * 61: f"{number}"})
            for number in range(5)
        ),
    )

    whole = await summarize(world)
    pages = [await summarize(world, page_size=6)]
    pages.append(await summarize(world, page_size=6, page_token=pages[-1].next_page_token))
    pages.append(await summarize(world, page_size=6, page_token=pages[-1].next_page_token))

    assert [each for page in pages for each in page.summaries] == list(whole.summaries)
    assert [len(page.summaries) for page in pages] == [6, 6, 5]
    assert pages[-1].next_page_token == ""


async def test_every_bad_field_is_named(world: World) -> None:
    """A token of another customer is refused too."""
    await world.ingest(an_event("a"), an_event("b", dimensions={}))
    token = (await summarize(world, page_size=1)).next_page_token

    bad = await world.refusal("SummarizeUsage", messages.SummarizeUsageRequest())
    other = await world.refusal(
        "SummarizeUsage",
        messages.SummarizeUsageRequest(
            customer_id="zeta", interval=render_interval(TODAY), page_token=token
        ),
    )

    assert [violation.field for violation in bad.violations] == [
        "customer_id",
        "interval.start_time",
        "interval.end_time",
    ]
    assert (type(other), other.reason) == (InvalidInput, "INVALID_PAGE_TOKEN")
