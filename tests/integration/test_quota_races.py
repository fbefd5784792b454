"""Many callers at once, over many connections and two replicas: law 2, and that sums come out."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any

import grpc.aio
import pytest

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.quota_world import (
    ALLOW,
    QuotaWorld,
    Standing,
    a_commit,
    a_limit,
    a_release,
    a_reserve,
    quota_world,
)
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

CONNECTIONS = 8
CALLERS = 200


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service that knows nothing of this tenant."""
    async with quota_world(settings_for, keys, tenant) as running:
        yield running


@pytest.fixture
async def callers(
    world: QuotaWorld, settings_for: Callable[..., ServiceSettings]
) -> AsyncIterator[Sequence[QuotaServiceStub]]:
    """Stubs over many connections, half of them to a second replica."""
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(hosted("quota", settings_for("quota")))
        stubs = []
        for address, _ in zip(cycle([world.address, second]), range(CONNECTIONS), strict=False):
            # A pool of its own keeps gRPC from sharing one connection.
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(address, options=options)
            await stack.enter_async_context(channel)
            stubs.append(QuotaServiceStub(channel))
        yield stubs


async def ask_all(
    world: QuotaWorld,
    stubs: Sequence[QuotaServiceStub],
    method: str,
    requests: Sequence[Any],
) -> list[Any]:
    """Send all requests at once, spread over the connections."""
    token = world.token()
    return await asyncio.gather(
        *(
            getattr(stub, method)(request, metadata=token)
            for stub, request in zip(cycle(stubs), requests, strict=False)
        )
    )


async def test_of_many_callers_exactly_those_that_fit_pass(
    world: QuotaWorld, callers: Sequence[QuotaServiceStub]
) -> None:
    """Two hundred callers race for the last hundred units of three limits: a hundred pass."""
    await world.put(
        a_limit("customer", capacity="100"),
        a_limit("project", level="LEVEL_PROJECT", capacity="101"),
        a_limit("rate", rolling={"period": "31622400s"}, capacity="102"),
    )
    requests = [a_reserve(1, project="search") for _ in range(CALLERS)]

    answers = await ask_all(world, callers, "Reserve", requests)

    assert Counter(answer.decision == ALLOW for answer in answers) == {True: 100, False: 100}
    assert await world.balances(project="search") == [
        Standing("customer", "acme", 0, 100, 0),
        Standing("project", "acme/search", 0, 100, 1),
        Standing("rate", "acme", 0, 100, 2),
    ]


async def test_sessions_and_single_calls_race_fairly(
    world: QuotaWorld, callers: Sequence[QuotaServiceStub]
) -> None:
    """Whatever way they come, together they get what is there."""
    await world.put(a_limit("tokens", capacity="150"))
    singles = [a_reserve(1) for _ in range(CALLERS)]
    calls = [
        messages.SessionCall(call_id=number, reserve=a_reserve(1)) for number in range(CALLERS)
    ]
    session = world.session(messages.SessionRequest(calls=calls), by=callers[1])

    async def answered() -> list[Any]:
        return [answer.reserve async for response in session for answer in response.answers]

    by_session, by_call = await asyncio.gather(
        answered(), ask_all(world, callers, "Reserve", singles)
    )

    passed = [answer.decision == ALLOW for answer in (*by_session, *by_call)]
    assert (len(passed), sum(passed)) == (2 * CALLERS, 150)


async def test_what_is_used_in_the_end_is_what_was_committed(
    world: QuotaWorld, callers: Sequence[QuotaServiceStub]
) -> None:
    """Commits, releases and refusals in any order leave the sum of the commits, and no hold."""
    await world.put(a_limit("tokens", capacity="1000"))
    reserves = [a_reserve(1 + number % 9) for number in range(CALLERS)]
    holds = await ask_all(world, callers, "Reserve", reserves)
    passed = [hold.reservation_id for hold in holds if hold.decision == ALLOW]
    commits = [a_commit(hold, number % 13) for number, hold in enumerate(passed[::2])]
    releases = [a_release(hold) for hold in passed[1::2]]

    await asyncio.gather(
        ask_all(world, callers, "Commit", commits),
        ask_all(world, callers, "Commit", commits),
        ask_all(world, callers, "Release", releases),
    )

    booked = sum(amount.quantity for commit in commits for amount in commit.amounts)
    assert await world.balances() == [Standing("tokens", "acme", booked, 0, 1000 - booked)]
