"""Usage of every aggregation equals a plain Python model, however the events arrived."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from services.meter.windows import Calendar, cut
from tests.meter_model import (
    MODELS,
    WEIGHTED,
    UsageByKey,
    entries_of,
    modelled,
    modelled_levels,
    tokens,
)
from tests.meter_strategies import WINDOWS, Question, Traffic, questions, traffic
from tests.meter_world import World, meter_world
from tollkeeper.api.meter.v1 import meter_pb2

ROWS_MAX = 1_000


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service; each example is a tenant of its own."""
    async with meter_world(settings_for, keys, tenant) as running:
        yield running


_tenants = iter(range(10**9))
# Shrinking against a real service takes longer than reading what failed.
REAL_SERVICE = settings(
    max_examples=int(os.environ.get("METER_LAWS_EXAMPLES", "4")),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def put_meters(world: World, tenant: str) -> None:
    """Put a meter of every aggregation, by model and region."""
    for meter in [*(each.meter for each in MODELS), WEIGHTED]:
        await world.put_meter(meter, tenant=tenant)


async def in_turn(calls: Iterable[Awaitable[object]]) -> None:
    """Await one after the other."""
    for call in calls:
        await call


async def answered(world: World, tenant: str, meter_id: str, ask: Question) -> UsageByKey:
    """Ask the service, page by page."""
    rows: list[meter_pb2.UsageRow] = []
    token = None
    while token != "":
        assert len(rows) <= ROWS_MAX, "pages go round in a circle"
        answer = await world.query(
            meter_id,
            ask.interval,
            tenant,
            window=ask.window,
            time_zone=ask.zone,
            group_by=ask.group_by,
            filters=dict(ask.filters),
            page_size=7,
            page_token=token or "",
        )
        rows += answer.rows
        token = answer.next_page_token
    usage = {
        (
            row.customer_id,
            row.interval.start_time.ToDatetime(UTC),
            tuple(row.group[key] for key in ask.group_by),
        ): (Fraction(row.quantity.value), row.event_count)
        for row in rows
    }
    assert len(usage) == len(rows), "a row came twice"
    return usage


@REAL_SERVICE
@given(sent=traffic(), asks=st.lists(questions(), min_size=1, max_size=2))
async def test_usage_is_what_the_events_say_however_they_arrive(
    world: World, sent: Traffic, asks: Sequence[Question]
) -> None:
    """Any order, repetition and splitting, meters before, between or after: the model's usage."""
    tenant = f"example-{next(_tenants)}"
    before, after = sent.calls[: sent.meter_before_call], sent.calls[sent.meter_before_call :]

    for calls in (before, after):
        ingesting = [world.ingest(*call, tenant=tenant) for call in calls]
        await (asyncio.gather(*ingesting) if sent.at_once else in_turn(ingesting))
        await put_meters(world, tenant)

    for ask in asks:
        windows = cut(ask.interval, Calendar(WINDOWS[ask.window], ZoneInfo(ask.zone)))
        for each in MODELS:
            expected = modelled(entries_of(sent.events, each.read), each.add_up, windows, ask)
            assert await answered(world, tenant, each.meter.meter_id, ask) == expected
        levels = modelled_levels(entries_of(sent.events, tokens), windows, ask)
        assert await answered(world, tenant, WEIGHTED.meter_id, ask) == levels
