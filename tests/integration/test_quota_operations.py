"""What a hold can go through, and the kinds of limits, over gRPC on real PostgreSQL and Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import NotFound, Precondition
from kit.settings import ServiceSettings
from tests.quota_world import (
    ALLOW,
    DENY,
    PARTIAL,
    QuotaWorld,
    Standing,
    a_commit,
    a_limit,
    a_release,
    a_reserve,
    amounts,
    quota_world,
    request_id,
    standings,
    subject,
)
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages

SHORT_TTL_MS = 100
LIFETIME: dict[str, Any] = {"lifetime": {}}


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service that knows one limit of this tenant: 100 tokens a year for each customer."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(a_limit("tokens", capacity="100"))
        yield running


def an_extend(hold: str, tokens: int = 0, **fields: Any) -> messages.ExtendRequest:  # noqa: ANN401 - any field.
    """Ask for more tokens of a hold."""
    return messages.ExtendRequest(
        request_id=request_id(),
        reservation_id=hold,
        amounts=amounts(tokens=tokens) if tokens else [],
        **fields,
    )


def a_dispatch(hold: str) -> messages.MarkDispatchedRequest:
    """Say that the call of a hold has left."""
    return messages.MarkDispatchedRequest(request_id=request_id(), reservation_id=hold)


def a_record(tokens: int, at: datetime | None = None) -> messages.RecordRequest:
    """Ask to book tokens of acme that were used at an instant."""
    request = messages.RecordRequest(
        request_id=request_id(), subject=subject(), amounts=amounts(tokens=tokens)
    )
    if at is not None:
        request.event_time.FromDatetime(at)
    return request


async def after_expiry() -> None:
    """Wait until holds with the shortest life have ended."""
    await asyncio.sleep(2 * SHORT_TTL_MS / 1000)


async def test_a_hold_grows_while_its_call_runs(world: QuotaWorld) -> None:
    """What is added is held like the rest, by name or with the subject, and settled with it."""
    held = await world.ask("Reserve", a_reserve(30))
    more = await world.ask("Extend", an_extend(held.reservation_id, 40))
    most = await world.ask("Extend", an_extend(held.reservation_id, 30, subject=subject()))
    refused = await world.ask("Extend", an_extend(held.reservation_id, 1))
    await world.ask("Commit", a_commit(held.reservation_id, 90))

    assert (more.decision, list(more.granted)) == (ALLOW, amounts(tokens=40))
    assert standings(more.limits) == [Standing("tokens", "acme", 0, 70, 30)]
    assert standings(most.limits) == [Standing("tokens", "acme", 0, 100, 0)]
    assert (refused.decision, list(refused.granted)) == (DENY, [])
    assert refused.expire_time == held.expire_time
    assert await world.balances() == [Standing("tokens", "acme", 90, 0, 10)]


async def test_a_hold_lives_longer_when_it_is_extended(world: QuotaWorld) -> None:
    """Time alone may be added; it never becomes less."""
    held = await world.ask("Reserve", a_reserve(30, ttl_ms=SHORT_TTL_MS))
    longer = await world.ask("Extend", an_extend(held.reservation_id, ttl={"seconds": 60}))
    same = await world.ask("Extend", an_extend(held.reservation_id, ttl={"seconds": 1}))
    await after_expiry()

    assert longer.expire_time.ToDatetime() > held.expire_time.ToDatetime() + timedelta(seconds=30)
    assert same.expire_time == longer.expire_time
    assert await world.balances() == [Standing("tokens", "acme", 0, 30, 70)]


async def test_a_hold_that_ended_cannot_grow(world: QuotaWorld) -> None:
    """Each way of ending is told; an unknown hold is not found."""
    committed, released, expired = [
        (await world.ask("Reserve", a_reserve(1, ttl_ms=ttl_ms))).reservation_id
        for ttl_ms in (0, 0, SHORT_TTL_MS)
    ]
    await world.ask("Commit", a_commit(committed, 1))
    await world.ask("Release", a_release(released))
    await after_expiry()
    states = [
        (await world.refusal("Extend", an_extend(hold, 1))).metadata["state"]
        for hold in (committed, released, expired)
    ]
    unknown = await world.refusal("Extend", an_extend("none.acme", 1))

    assert states == ["COMMITTED", "RELEASED", "EXPIRED"]
    assert isinstance(unknown, NotFound)


async def test_a_hold_grows_on_the_limits_that_it_was_made_under(world: QuotaWorld) -> None:
    """A limit that was put since is not taken from; one that is left still decides."""
    held = await world.ask("Reserve", a_reserve(30))
    await world.put(a_limit("another", capacity="5"))
    more = await world.ask("Extend", an_extend(held.reservation_id, 40, subject=subject()))
    refused = await world.ask("Extend", an_extend(held.reservation_id, 31))
    await world.ask("Release", a_release(held.reservation_id))

    assert (more.decision, refused.decision) == (ALLOW, DENY)
    assert standings(more.limits) == [
        Standing("another", "acme", 0, 0, 5),
        Standing("tokens", "acme", 0, 70, 30),
    ]
    assert await world.balances() == [
        Standing("another", "acme", 0, 0, 5),
        Standing("tokens", "acme", 0, 0, 100),
    ]


async def test_a_part_is_granted_where_not_all_fits(world: QuotaWorld) -> None:
    """The largest part that fits, at least what is asked at the least."""
    await world.put(a_limit("small", level="LEVEL_KEY", capacity="25"))
    first = a_reserve(60, key="k1")
    first.min_amounts.extend(amounts(tokens=10))
    second = a_reserve(60, key="k1")
    second.min_amounts.extend(amounts(tokens=1))
    granted = await world.ask("Reserve", first)
    refused = await world.ask("Reserve", second)

    assert (granted.decision, list(granted.granted)) == (PARTIAL, amounts(tokens=25))
    assert [(s.limit_id, s.reserved, s.exceeded) for s in granted.limits] == [
        ("small", 25, True),
        ("tokens", 25, False),
    ]
    assert refused.decision == DENY


async def test_an_extension_may_be_granted_in_part(world: QuotaWorld) -> None:
    """A stream goes on with what there is."""
    held = await world.ask("Reserve", a_reserve(90))
    request = an_extend(held.reservation_id, 40, min_amounts=amounts(tokens=5))
    more = await world.ask("Extend", request)

    assert (more.decision, list(more.granted)) == (PARTIAL, amounts(tokens=10))
    assert await world.ask("Extend", request) == more


async def test_a_call_that_never_left_gives_everything_back(world: QuotaWorld) -> None:
    """One that has left is booked at what it held, until its commit says what it used."""
    kept = await world.ask("Reserve", a_reserve(30, ttl_ms=SHORT_TTL_MS))
    await world.ask("Reserve", a_reserve(20, ttl_ms=SHORT_TTL_MS))
    marked = await world.ask("MarkDispatched", a_dispatch(kept.reservation_id))
    await after_expiry()
    expired = await world.balances()
    late = await world.ask("Commit", a_commit(kept.reservation_id, 12))

    assert marked.hold_open
    assert expired == [Standing("tokens", "acme", 30, 0, 70)]
    assert not late.hold_settled
    assert standings(late.limits) == [Standing("tokens", "acme", 12, 0, 88)]


async def test_a_call_that_failed_late_gives_back_what_was_booked(world: QuotaWorld) -> None:
    """A release after the expiry of a dispatched hold takes the booking back, once."""
    held = await world.ask("Reserve", a_reserve(30, ttl_ms=SHORT_TTL_MS))
    await world.ask("MarkDispatched", a_dispatch(held.reservation_id))
    await after_expiry()
    released = await world.ask("Release", a_release(held.reservation_id))
    again = await world.refusal("Release", a_release(held.reservation_id))

    assert not released.hold_settled
    assert isinstance(again, Precondition)
    assert await world.balances() == [Standing("tokens", "acme", 0, 0, 100)]


async def test_an_expired_hold_cannot_be_dispatched(world: QuotaWorld) -> None:
    """The answer says that it is not there any more; an unknown one is not found."""
    held = await world.ask("Reserve", a_reserve(30, ttl_ms=SHORT_TTL_MS))
    await after_expiry()
    marked = await world.ask("MarkDispatched", a_dispatch(held.reservation_id))
    unknown = await world.refusal("MarkDispatched", a_dispatch("none.acme"))

    assert not marked.hold_open
    assert isinstance(unknown, NotFound)


async def test_usage_is_recorded_when_it_happened(world: QuotaWorld) -> None:
    """Usage of a window that is over counts in none that follow, but in a lifetime it does."""
    await world.put(a_limit("ever", capacity="1000", **LIFETIME))
    await world.put(a_limit("rate", capacity="3600", rolling={"period": "3600s"}))
    now = datetime.now(UTC)
    await world.ask("Record", a_record(7))
    await world.ask("Record", a_record(11, at=now - timedelta(days=366)))
    answer = await world.ask("Record", a_record(1_000, at=now - timedelta(seconds=600)))

    by_id = {status.limit_id: status for status in answer.limits}
    assert by_id["ever"].used == 1_018
    assert by_id["ever"].exceeded
    assert by_id["tokens"].used == 1_007
    assert 390 <= by_id["rate"].used <= 407


async def test_only_so_many_holds_are_open_at_once(world: QuotaWorld) -> None:
    """Whatever they hold; a commit makes room again, and an extension takes none."""
    await world.put(a_limit("flying", units=[], capacity="2", concurrency={}, level="LEVEL_KEY"))
    first = await world.ask("Reserve", a_reserve(1, key="k1"))
    second = await world.ask("Reserve", a_reserve(1, key="k1"))
    third = await world.ask("Reserve", a_reserve(1, key="k1"))
    await world.ask("Extend", an_extend(first.reservation_id, 5))
    await world.ask("Commit", a_commit(second.reservation_id, 1))
    fourth = await world.ask("Reserve", a_reserve(1, key="k1"))
    other = await world.ask("Reserve", a_reserve(1, key="k2"))

    decisions = [answer.decision for answer in (first, second, third, fourth, other)]
    assert decisions == [ALLOW, ALLOW, DENY, ALLOW, ALLOW]
    assert standings(third.limits)[0] == Standing("flying", "acme/k1", 0, 2, 0, decided=True)


async def test_the_place_of_a_call_that_had_left_is_free_after_its_expiry(
    world: QuotaWorld,
) -> None:
    """Its tokens stay booked, but nothing is ever booked on concurrency."""
    await world.put(a_limit("flying", units=["holds"], capacity="1", concurrency={}))
    held = await world.ask("Reserve", a_reserve(30, ttl_ms=SHORT_TTL_MS))
    await world.ask("MarkDispatched", a_dispatch(held.reservation_id))
    await after_expiry()

    assert await world.balances() == [
        Standing("flying", "acme", 0, 0, 1),
        Standing("tokens", "acme", 30, 0, 70),
    ]


async def test_a_lifetime_with_an_overdraft_is_used_up_once(world: QuotaWorld) -> None:
    """Capacity and overdraft together can be taken, and never come back."""
    await world.put(a_limit("prepaid", capacity="20", overdraft="5", **LIFETIME))
    allowed = await world.ask("Reserve", a_reserve(25))
    await world.ask("Commit", a_commit(allowed.reservation_id, 25))
    refused = await world.ask("Reserve", a_reserve(1))

    prepaid = refused.limits[0]
    assert (allowed.decision, refused.decision, prepaid.decided) == (ALLOW, DENY, True)
    assert (prepaid.capacity, prepaid.used, prepaid.remaining) == (25, 25, 0)
    assert not prepaid.HasField("reset_time")
    assert not prepaid.HasField("retry_after")


async def test_a_billing_period_ends_on_its_day(world: QuotaWorld) -> None:
    """Anchored on a 31st, the period ends on the last day of a shorter month."""
    await world.put(
        a_limit("bill", billing_period={"anchor": {"year": 2025, "month": 1, "day": 31}})
    )
    answer = await world.ask(
        "Check", messages.CheckRequest(subject=subject(), amounts=amounts(tokens=1))
    )

    ends = answer.limits[0].reset_time.ToDatetime(tzinfo=UTC)
    following = ends + timedelta(days=1)
    assert (ends.hour, ends.minute) == (0, 0)
    assert ends.day == 31 or following.day == 1


async def test_soft_and_shadow_limits_never_refuse(world: QuotaWorld) -> None:
    """They count, and say that there was no room; a hard one beside them still refuses."""
    await world.put(
        a_limit("a-soft", capacity="10", enforcement="ENFORCEMENT_SOFT"),
        a_limit("b-shadow", capacity="20", enforcement="ENFORCEMENT_SHADOW"),
    )
    passed = await world.ask("Reserve", a_reserve(15))
    booked = await world.ask("Commit", a_commit(passed.reservation_id, 25))
    refused = await world.ask("Reserve", a_reserve(80))

    assert passed.decision == ALLOW
    assert [s.exceeded for s in passed.limits] == [True, False, False]
    assert [(s.used, s.remaining, s.exceeded) for s in booked.limits] == [
        (25, 0, True),
        (25, 0, True),
        (25, 75, False),
    ]
    assert refused.decision == DENY
    assert [(s.decided, s.exceeded) for s in refused.limits] == [
        (False, True),
        (False, True),
        (True, True),
    ]


async def test_in_shadow_nothing_refuses_and_everything_counts(world: QuotaWorld) -> None:
    """A gateway sees what would happen before it enforces."""
    request = a_reserve(130)
    request.mode = messages.MODE_SHADOW
    held = await world.ask("Reserve", request)
    checked = await world.ask(
        "Check",
        messages.CheckRequest(
            subject=subject(), amounts=amounts(tokens=1), mode=messages.MODE_SHADOW
        ),
    )

    assert (held.decision, checked.decision) == (ALLOW, ALLOW)
    assert [(s.reserved, s.exceeded, s.decided) for s in held.limits] == [(130, True, False)]
    assert checked.limits[0].exceeded


async def test_a_session_carries_every_operation(world: QuotaWorld) -> None:
    """Calls of one customer are decided in their order, and show what all of them have left."""
    held = await world.ask("Reserve", a_reserve(10))
    hold = held.reservation_id
    calls = messages.SessionRequest(
        calls=[
            messages.SessionCall(call_id=1, mark_dispatched=a_dispatch(hold)),
            messages.SessionCall(call_id=2, extend=an_extend(hold, 5, subject=subject())),
            messages.SessionCall(call_id=3, commit=a_commit(hold, 14, of=subject())),
            messages.SessionCall(call_id=4, record=a_record(6)),
        ]
    )
    answers = {
        answer.call_id: answer
        async for response in world.session(calls)
        for answer in response.answers
    }

    assert answers[1].mark_dispatched.hold_open
    assert [each.quantity for each in answers[2].extend.granted] == [5]
    left = [Standing("tokens", "acme", 20, 0, 80)]
    assert standings(answers[2].extend.limits) == left
    assert standings(answers[3].commit.limits) == left
    assert standings(answers[4].record.limits) == left


async def test_a_request_id_is_of_one_operation(world: QuotaWorld) -> None:
    """The error names the method by which it was used before."""
    held = await world.ask("Reserve", a_reserve(10, request="once"))
    request = an_extend(held.reservation_id, 5)
    request.request_id = "once"
    error = await world.refusal("Extend", request)

    assert (error.reason, error.metadata["method"]) == ("REQUEST_ID_REUSED", "Reserve")
