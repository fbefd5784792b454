"""The gate over gRPC, on real PostgreSQL and Redis: what is held, booked and given back."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import Conflict, InvalidInput, NotFound, Precondition
from kit.settings import ServiceSettings
from tests.quota_world import (
    ALLOW,
    DENY,
    QuotaWorld,
    Standing,
    a_commit,
    a_limit,
    a_release,
    a_reserve,
    amounts,
    quota_world,
    standings,
    subject,
)
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages

SHORT_TTL_MS = 100


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service that knows one limit of this tenant: 100 tokens a year for each customer."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(a_limit("tokens", capacity="100"))
        yield running


async def after_expiry() -> None:
    """Wait until holds with the shortest life have ended."""
    await asyncio.sleep(2 * SHORT_TTL_MS / 1000)


async def test_a_call_is_held_then_booked(world: QuotaWorld) -> None:
    """A reserve takes its amount, and a commit books what was really used and frees the rest."""
    held = await world.ask("Reserve", a_reserve(30))
    booked = await world.ask("Commit", a_commit(held.reservation_id, 20))

    assert held.decision == ALLOW
    assert held.granted == amounts(tokens=30)
    assert standings(held.limits) == [Standing("tokens", "acme", 0, 30, 70)]
    assert booked.hold_settled
    assert standings(booked.limits) == [Standing("tokens", "acme", 20, 0, 80)]


async def test_limits_of_all_levels_and_windows_decide_together(world: QuotaWorld) -> None:
    """Five levels, two windows, two units; each call is decided and shown by those that cover."""
    await world.put(
        a_limit("b-project", level="LEVEL_PROJECT", capacity="50"),
        a_limit("c-user", level="LEVEL_USER", rolling={"period": "3600s"}, capacity="40"),
        a_limit("d-key", level="LEVEL_KEY", units=["requests"], capacity="5"),
        a_limit("e-run", level="LEVEL_RUN", capacity="20", dimensions={"model": "large"}),
        a_limit("f-other", level="LEVEL_KEY", subject={"keyId": "k2"}, capacity="1"),
    )
    request = a_reserve(10, project="search", user="ann", key="k1", run="r1")
    request.dimensions["model"] = "large"
    request.amounts.extend(amounts(requests=1))

    answer = await world.ask("Reserve", request)

    assert standings(answer.limits) == [
        Standing("b-project", "acme/search", 0, 10, 40),
        Standing("c-user", "acme/ann", 0, 10, 30),
        Standing("d-key", "acme/k1", 0, 1, 4),
        Standing("e-run", "acme/r1", 0, 10, 10),
        Standing("tokens", "acme", 0, 10, 90),
    ]


async def test_a_refused_call_is_charged_nowhere(world: QuotaWorld) -> None:
    """One limit says no, and the other keeps all it had; the answer says who and how much."""
    await world.put(a_limit("narrow", level="LEVEL_PROJECT", capacity="5"))

    answer = await world.ask("Reserve", a_reserve(6, project="search"))

    assert (answer.decision, answer.reservation_id, list(answer.granted)) == (DENY, "", [])
    assert standings(answer.limits) == [
        Standing("narrow", "acme/search", 0, 0, 5, decided=True),
        Standing("tokens", "acme", 0, 0, 100),
    ]
    assert await world.balances(project="search") == [
        Standing("narrow", "acme/search", 0, 0, 5),
        Standing("tokens", "acme", 0, 0, 100),
    ]


async def test_a_refusal_says_when_to_come_back(world: QuotaWorld) -> None:
    """A rate says when the amount has drained, and nothing where it never fits."""
    await world.put(a_limit("rate", rolling={"period": "3600s"}, capacity="10"))
    await world.ask("Commit", a_commit(tokens=10, of=subject()))

    soon = await world.ask("Check", check_of(5))
    never = await world.ask("Check", check_of(11))

    rate, year = soon.limits
    assert (rate.decided, year.decided) == (True, False)
    assert 0 < rate.retry_after.ToSeconds() <= 1_800
    assert rate.HasField("reset_time")
    assert never.limits[0].decided
    assert not never.limits[0].HasField("retry_after")


def check_of(tokens: int) -> messages.CheckRequest:
    """Ask whether tokens would pass for acme."""
    return messages.CheckRequest(subject=subject(), amounts=amounts(tokens=tokens))


async def test_a_check_never_counts(world: QuotaWorld) -> None:
    """However often it is asked, everything is still there."""
    answers = [await world.ask("Check", check_of(100)) for _ in range(3)]

    assert [answer.decision for answer in answers] == [ALLOW] * 3
    assert await world.balances() == [Standing("tokens", "acme", 0, 0, 100)]


async def test_a_release_gives_everything_back(world: QuotaWorld) -> None:
    """The call never ran."""
    held = await world.ask("Reserve", a_reserve(100))
    released = await world.ask("Release", a_release(held.reservation_id))

    assert released.hold_settled
    assert await world.balances() == [Standing("tokens", "acme", 0, 0, 100)]


async def test_an_expired_hold_gives_everything_back(world: QuotaWorld) -> None:
    """Nobody has to end it."""
    await world.ask("Reserve", a_reserve(100, ttl_ms=SHORT_TTL_MS))
    await after_expiry()

    assert await world.balances() == [Standing("tokens", "acme", 0, 0, 100)]


async def test_usage_beyond_its_hold_is_booked_in_full(world: QuotaWorld) -> None:
    """More than was held, and more than the capacity: the excess shows."""
    held = await world.ask("Reserve", a_reserve(60))
    booked = await world.ask("Commit", a_commit(held.reservation_id, 130))
    refused = await world.ask("Reserve", a_reserve(1))

    assert standings(booked.limits) == [Standing("tokens", "acme", 130, 0, 0)]
    assert refused.decision == DENY


@pytest.mark.parametrize("names_subject", [True, False])
async def test_usage_after_the_expiry_is_booked_in_full(
    world: QuotaWorld,
    names_subject: bool,  # noqa: FBT001 - a column of the table.
) -> None:
    """Also where only the hold, which has expired, says whose call it was."""
    held = await world.ask("Reserve", a_reserve(60, ttl_ms=SHORT_TTL_MS))
    await after_expiry()
    of = subject() if names_subject else None

    booked = await world.ask("Commit", a_commit(held.reservation_id, 70, of=of))

    assert not booked.hold_settled
    assert standings(booked.limits) == [Standing("tokens", "acme", 70, 0, 30)]


async def test_usage_without_a_hold_is_booked_in_full(world: QuotaWorld) -> None:
    """With a subject alone, or with a hold that nobody knows any more."""
    alone = await world.ask("Commit", a_commit(tokens=30, of=subject()))
    forgotten = await world.ask("Commit", a_commit("long-ago.acme", 20, of=subject()))

    assert standings(alone.limits) == [Standing("tokens", "acme", 30, 0, 70)]
    assert not forgotten.hold_settled
    assert standings(forgotten.limits) == [Standing("tokens", "acme", 50, 0, 50)]


async def test_a_commit_of_a_hold_finds_its_dimensions(world: QuotaWorld) -> None:
    """What was held on a limit of one model is booked on it, though the commit names no model."""
    await world.put(a_limit("large", dimensions={"model": "large"}, capacity="50"))
    request = a_reserve(10)
    request.dimensions["model"] = "large"

    held = await world.ask("Reserve", request)
    booked = await world.ask("Commit", a_commit(held.reservation_id, 8))

    assert standings(booked.limits) == [
        Standing("large", "acme", 8, 0, 42),
        Standing("tokens", "acme", 8, 0, 92),
    ]


async def test_every_mutation_can_be_repeated(world: QuotaWorld) -> None:
    """Each repeat gets the first answer to the letter, and nothing happens twice."""
    reserve, denied = a_reserve(30), a_reserve(90)
    held = await world.ask("Reserve", reserve)
    refused = await world.ask("Reserve", denied)
    commit = a_commit(held.reservation_id, 20)
    booked = await world.ask("Commit", commit)
    other = await world.ask("Reserve", a_reserve(5))
    release = a_release(other.reservation_id)
    released = await world.ask("Release", release)

    again = [
        await world.ask("Reserve", reserve),
        await world.ask("Reserve", denied),
        await world.ask("Commit", commit),
        await world.ask("Release", release),
    ]

    assert again == [held, refused, booked, released]
    assert await world.balances() == [Standing("tokens", "acme", 20, 0, 80)]


async def test_a_repeat_shows_the_limits_as_they_were(world: QuotaWorld) -> None:
    """The first answer comes back although its limit has been changed, and deleted."""
    reserve = a_reserve(30)
    first = await world.ask("Reserve", reserve)
    await world.put(a_limit("tokens", capacity="7"))
    after_change = await world.ask("Reserve", reserve)
    await world.ask("DeleteLimit", messages.DeleteLimitRequest(request_id="d", limit_id="tokens"))
    after_deletion = await world.ask("Reserve", reserve)

    assert [after_change, after_deletion] == [first, first]


async def test_simultaneous_repeats_take_effect_once(world: QuotaWorld) -> None:
    """Twenty copies of one reserve, as a nervous client sends them, hold its amount once."""
    reserve = a_reserve(10)
    answers = await asyncio.gather(*(world.ask("Reserve", reserve) for _ in range(20)))

    assert answers == answers[:1] * 20
    assert await world.balances() == [Standing("tokens", "acme", 0, 10, 90)]


async def test_a_request_id_with_other_content_is_refused(world: QuotaWorld) -> None:
    """Other amounts, or another method, under the same id; the error says what used it first."""
    held = await world.ask("Reserve", a_reserve(30, request="r"))
    errors = [
        await world.refusal("Reserve", a_reserve(31, request="r")),
        await world.refusal("Commit", a_commit(held.reservation_id, 30, request="r")),
        await world.refusal("Release", a_release(held.reservation_id, request="r")),
    ]

    assert [(type(error), error.reason, error.metadata) for error in errors] == [
        (Conflict, "REQUEST_ID_REUSED", {"request_id": "r", "method": "Reserve"})
    ] * 3
    assert await world.balances() == [Standing("tokens", "acme", 0, 30, 70)]


async def test_a_hold_ends_once(world: QuotaWorld) -> None:
    """Who comes second with another request is told how it ended, and books nothing."""
    held = await world.ask("Reserve", a_reserve(30))
    await world.ask("Commit", a_commit(held.reservation_id, 20))
    errors = [
        await world.refusal("Commit", a_commit(held.reservation_id, 5)),
        await world.refusal("Commit", a_commit(held.reservation_id, 5, of=subject())),
        await world.refusal("Release", a_release(held.reservation_id)),
    ]

    expected = {"reservation_id": held.reservation_id, "state": "COMMITTED"}
    assert [(type(error), error.reason, error.metadata) for error in errors] == [
        (Precondition, "RESERVATION_ENDED", expected)
    ] * 3
    assert await world.balances() == [Standing("tokens", "acme", 20, 0, 80)]


async def test_an_unknown_hold_is_not_found(world: QuotaWorld) -> None:
    """A release, and a commit that names no subject, need the hold."""
    errors = [
        await world.refusal("Release", a_release("nobody.acme")),
        await world.refusal("Commit", a_commit("nobody.acme", 5)),
    ]

    assert [(type(error), error.reason, error.metadata) for error in errors] == [
        (NotFound, "RESERVATION_NOT_FOUND", {"reservation_id": "nobody.acme"})
    ] * 2


async def test_tenants_never_meet(world: QuotaWorld, tenant: str) -> None:
    """The same customer and the hold of another tenant: nothing is seen, nothing is changed."""
    stranger = f"{tenant}-2"
    held = await world.ask("Reserve", a_reserve(30))
    error = await world.refusal("Release", a_release(held.reservation_id), stranger)
    late = await world.ask("Commit", a_commit(held.reservation_id, 5, of=subject()), stranger)

    assert (type(error), error.reason) == (NotFound, "RESERVATION_NOT_FOUND")
    assert (late.hold_settled, list(late.limits)) == (False, [])
    assert await world.balances(stranger) == []
    assert await world.balances() == [Standing("tokens", "acme", 0, 30, 70)]


async def test_a_hold_of_one_customer_is_not_booked_on_another(world: QuotaWorld) -> None:
    """The subject must be of the customer for whom the hold was made."""
    held = await world.ask("Reserve", a_reserve(30))
    error = await world.refusal("Commit", a_commit(held.reservation_id, 5, of=subject("other")))

    assert isinstance(error, InvalidInput)
    assert [violation.field for violation in error.violations] == ["subject.customer_id"]


async def test_a_call_that_nothing_covers_passes(world: QuotaWorld) -> None:
    """Where there is no limit there is no refusal, and its hold ends like any other."""
    request = a_reserve(10**9)
    del request.amounts[:]
    request.amounts.extend(amounts(pictures=3))
    held = await world.ask("Reserve", request)
    booked = await world.ask("Commit", a_commit(held.reservation_id))

    assert held.decision == ALLOW
    assert booked.hold_settled


async def test_more_limits_than_are_decided_at_once_are_an_error(world: QuotaWorld) -> None:
    """Sixty-five limits on one call, and the error says how many may be."""
    await world.put(*(a_limit(f"limit-{number}") for number in range(64)))
    error = await world.refusal("Reserve", a_reserve(1))

    assert (type(error), error.reason, error.metadata) == (
        Precondition,
        "TOO_MANY_LIMITS",
        {"maximum": "64"},
    )
