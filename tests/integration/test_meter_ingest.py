"""Events at a real meter service: each counted once, whatever is repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.meter_world import CREATED, DUPLICATE, World, an_event, meter_world


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon."""
    async with meter_world(settings_for, keys, tenant) as running:
        yield running


async def test_a_repeated_event_is_counted_once(world: World) -> None:
    """The same event again is a duplicate and adds nothing."""
    await world.put_meter()

    first = await world.ingest(an_event())
    second = await world.ingest(an_event())

    assert (list(first.outcomes), list(second.outcomes)) == ([CREATED], [DUPLICATE])
    assert await world.usage() == [("acme", "10", 1)]
