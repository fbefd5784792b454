"""Who holds what, and why a call was refused, over gRPC on real PostgreSQL and Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput, NotFound
from kit.settings import ServiceSettings
from tests.quota_world import (
    DENY,
    QuotaWorld,
    a_commit,
    a_limit,
    a_reserve,
    quota_world,
    request_id,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages

SHORT_TTL_MS = 100


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service with 100 tokens a year for each customer, and 20 for each key."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(a_limit("tokens", capacity="100"))
        await running.put(a_limit("of-key", capacity="20", level="LEVEL_KEY"))
        yield running


async def reservations(
    world: QuotaWorld, tenant: str = "", page_size: int = 2, limit_id: str = ""
) -> list[quota_pb2.Reservation]:
    """List all holds of acme, page by page."""
    request = messages.ListReservationsRequest(
        customer_id="acme", page_size=page_size, limit_id=limit_id
    )
    found: list[quota_pb2.Reservation] = []
    while True:
        page = await world.ask("ListReservations", request, tenant)
        found += page.reservations
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def held(*quantities: tuple[str, str, int]) -> list[quota_pb2.HeldAmount]:
    """Write what a hold took."""
    return [
        quota_pb2.HeldAmount(limit_id=limit_id, scope=scope, quantity=quantity)
        for limit_id, scope, quantity in quantities
    ]


async def test_open_holds_are_listed_by_their_expiry(world: QuotaWorld) -> None:
    """With all that they took, whose they are and in which state; ended ones are gone."""
    now = datetime.now(UTC)
    long = await world.ask("Reserve", a_reserve(5, ttl_ms=90_000, key="k1"))
    short = await world.ask("Reserve", a_reserve(7, ttl_ms=30_000))
    ended = await world.ask("Reserve", a_reserve(9))
    await world.ask("Commit", a_commit(ended.reservation_id, 9))
    middle = await world.ask("Reserve", a_reserve(3, ttl_ms=60_000))
    await world.ask(
        "MarkDispatched",
        messages.MarkDispatchedRequest(
            request_id=request_id(), reservation_id=middle.reservation_id
        ),
    )

    found = await reservations(world)
    ids = [each.reservation_id for each in found]
    assert ids == [short.reservation_id, middle.reservation_id, long.reservation_id]
    assert [each.dispatched for each in found] == [False, True, False]
    assert list(found[2].held) == held(("of-key", "acme/k1", 5), ("tokens", "acme", 5))
    assert found[2].subject.key_id == "k1"
    assert found[2].expire_time == long.expire_time
    assert abs((found[2].create_time.ToDatetime(UTC) - now).total_seconds()) < 60
    on_key = await reservations(world, limit_id="of-key")
    assert [each.reservation_id for each in on_key] == [long.reservation_id]


async def test_a_call_that_never_committed_is_listed(world: QuotaWorld) -> None:
    """It has expired and is booked, and waits for its commit."""
    left = await world.ask("Reserve", a_reserve(5, ttl_ms=SHORT_TTL_MS))
    await world.ask(
        "MarkDispatched",
        messages.MarkDispatchedRequest(request_id=request_id(), reservation_id=left.reservation_id),
    )
    await asyncio.sleep(2 * SHORT_TTL_MS / 1000)
    await world.balances()

    assert [each.awaits_commit for each in await reservations(world)] == [True]


async def test_holds_of_another_tenant_are_not_listed(world: QuotaWorld) -> None:
    """Two tenants may both have a customer acme."""
    await world.ask("Reserve", a_reserve(5))

    assert await reservations(world, tenant="another") == []


async def test_a_refusal_is_explained(world: QuotaWorld) -> None:
    """Every limit as it stood then, the sentence for who refused, and who held most of it."""
    small = await world.ask("Reserve", a_reserve(6, key="k1"))
    large = await world.ask("Reserve", a_reserve(12, key="k1"))
    await world.ask("Reserve", a_reserve(19, key="k2"))
    refused = await world.ask("Reserve", a_reserve(3, key="k1", request="refused"))
    await world.ask("Commit", a_commit(small.reservation_id, 1))
    await world.ask("Reserve", a_reserve(2, key="k1"))

    explained = await world.ask("ExplainDecision", a_question("refused"))
    assert explained.decision == DENY
    assert list(explained.limits) == list(refused.limits)
    assert [each.reservation_id for each in explained.holders] == [large.reservation_id]
    (reason,) = explained.reasons
    assert reason.startswith(
        "of-key of acme/k1 refused: of 20 were 0 used and 18 held, so 2 were left; the call fits"
    )


def a_question(request: str) -> messages.ExplainDecisionRequest:
    """Ask why a call of acme was decided as it was."""
    return messages.ExplainDecisionRequest(customer_id="acme", decided_request_id=request)


async def test_calls_that_were_decided_together_are_explained_as_they_were_answered(
    world: QuotaWorld,
) -> None:
    """They share their figures; what comes later changes none of them, nor does a repeat."""
    calls = [
        messages.SessionCall(call_id=number, reserve=a_reserve(number, request=f"call-{number}"))
        for number in (1, 2, 3)
    ]
    asked = messages.SessionRequest(calls=calls)
    first = [answer async for response in world.session(asked) for answer in response.answers]
    await world.ask("Reserve", a_reserve(6))
    again = [answer async for response in world.session(asked) for answer in response.answers]

    assert [answer.reserve.limits[0].reserved for answer in first] == [6, 6, 6]
    assert again == first
    for answer in first:
        explained = await world.ask("ExplainDecision", a_question(f"call-{answer.call_id}"))
        assert list(explained.limits) == list(answer.reserve.limits)


async def test_what_passed_or_was_booked_is_explained_too(world: QuotaWorld) -> None:
    """There are its figures, and no reasons; what never fits says so."""
    passed = await world.ask("Reserve", a_reserve(6, request="passed"))
    booked = await world.ask("Commit", a_commit(passed.reservation_id, 4, request="booked"))
    await world.ask("Reserve", a_reserve(101, request="never"))

    explained = [
        await world.ask("ExplainDecision", a_question(request))
        for request in ("passed", "booked", "never")
    ]
    assert list(explained[0].limits) == list(passed.limits)
    assert list(explained[1].limits) == list(booked.limits)
    assert explained[1].decision == quota_pb2.DECISION_UNSPECIFIED
    assert [len(each.reasons) for each in explained] == [0, 0, 1]
    assert explained[2].reasons[0].endswith("the call asked for more than ever fits")


async def test_what_nobody_decided_cannot_be_explained(world: QuotaWorld) -> None:
    """An unknown request is not found; a question without one is refused field by field."""
    unknown = await world.refusal("ExplainDecision", a_question("never-asked"))
    empty = await world.refusal("ExplainDecision", messages.ExplainDecisionRequest())
    unnamed = await world.refusal("ListReservations", messages.ListReservationsRequest())

    assert isinstance(unknown, NotFound)
    assert unknown.reason == "DECISION_NOT_FOUND"
    assert isinstance(empty, InvalidInput)
    assert [each.field for each in empty.violations] == ["customer_id", "decided_request_id"]
    assert isinstance(unnamed, InvalidInput)
    assert [each.field for each in unnamed.violations] == ["customer_id"]
