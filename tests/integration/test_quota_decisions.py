"""The gate over gRPC, on real PostgreSQL and Redis: what is held, booked and given back."""

from collections.abc import AsyncIterator, Callable

import pytest

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.quota_world import (
    ALLOW,
    QuotaWorld,
    Standing,
    a_commit,
    a_limit,
    a_reserve,
    quota_world,
    standings,
)


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service that knows nothing of this tenant."""
    async with quota_world(settings_for, keys, tenant) as running:
        yield running


async def test_a_call_is_held_then_booked(world: QuotaWorld) -> None:
    """A reserve takes its amount, and a commit books what was really used and frees the rest."""
    await world.put(a_limit(capacity="100"))

    held = await world.ask("Reserve", a_reserve(30))
    booked = await world.ask("Commit", a_commit(held.reservation_id, 20))

    assert held.decision == ALLOW
    assert standings(held.limits) == [Standing("tokens", "acme", 0, 30, 70)]
    assert booked.hold_settled
    assert standings(booked.limits) == [Standing("tokens", "acme", 20, 0, 80)]
