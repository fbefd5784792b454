"""The gate while its counters cannot be reached: who passes, and what is booked afterwards."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import Conflict, DomainError, NotFound, Unavailable
from kit.settings import ServiceSettings
from tests.own_redis import OwnRedis, own_redis
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
    subject,
)
from tollkeeper import QuotaDenied, Tollkeeper
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages

# Who gives up connecting to a Redis that is killed leaves the socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

DEGRADED = quota_pb2.DECISION_ALLOW_DEGRADED
OPEN = {"outage_policy": "OUTAGE_POLICY_OPEN"}


@pytest.fixture
def redis() -> Iterator[OwnRedis]:
    """A Redis that the test may stop."""
    with own_redis() as own:
        yield own


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str, redis: OwnRedis
) -> AsyncIterator[QuotaWorld]:
    """A quota service on that Redis, which it waits for no longer than usual."""
    async with quota_world(
        settings_for, keys, tenant, redis_url=redis.url, quota_decision_timeout_s=0.2
    ) as running:
        yield running


def leased(allowance: int) -> dict[str, Any]:
    """Make the fields of a limit that admits so much in an outage."""
    return {"outage_policy": "OUTAGE_POLICY_LEASED", "outage_allowance": str(allowance)}


async def settled(world: QuotaWorld, expected: list[Standing]) -> list[Standing]:
    """Look at the balances until they are as expected, or for so long that they will not be."""
    found: list[Standing] = []
    for _ in range(200):
        try:
            found = await world.balances()
        except Unavailable:
            found = []
        if found == expected:
            break
        await asyncio.sleep(0.05)
    return found


async def test_a_closed_limit_refuses_and_says_that_it_could_not_count(
    world: QuotaWorld, redis: OwnRedis
) -> None:
    """With who decided and when to try again; afterwards nothing is held."""
    await world.put(a_limit("closed"), a_limit("open", **OPEN))
    redis.pause()
    answers = await asyncio.gather(*(world.ask("Reserve", a_reserve(10)) for _ in range(20)))
    redis.resume()
    decided = [(each.limit_id, each.decided) for each in answers[0].limits]

    assert {(each.decision, each.degraded) for each in answers} == {(DENY, True)}
    assert {each.reservation_id for each in answers} == {""}
    assert decided == [("closed", True), ("open", False)]
    assert answers[0].limits[0].retry_after.seconds == 1
    fresh = [Standing(name, "acme", 0, 0, 100) for name in ("closed", "open")]
    assert await settled(world, fresh) == fresh


async def test_an_open_limit_lets_calls_pass_and_counts_what_they_used(
    world: QuotaWorld, redis: OwnRedis
) -> None:
    """Once, whether or not Redis had taken note of the hold; and in full."""
    await world.put(a_limit("open", **OPEN))
    redis.pause()
    held = await asyncio.gather(*(world.ask("Reserve", a_reserve(10)) for _ in range(15)))
    commits = [a_commit(each.reservation_id, 8) for each in held]
    during = [await world.ask("Commit", commit) for commit in commits[:10]]
    repeated = [await world.ask("Commit", commit) for commit in commits[:10]]
    redis.resume()
    booked = [Standing("open", "acme", 120, 0, 0)]
    await answered(world, _check())
    after = [await world.ask("Commit", commit) for commit in commits]

    assert {(each.decision, each.degraded) for each in held} == {(DEGRADED, True)}
    assert [each.degraded for each in during + repeated] == [True] * 20
    assert [each.degraded for each in after] == [False] * 15
    assert await settled(world, booked) == booked


async def test_what_is_estimated_is_granted_without_counters_too(
    world: QuotaWorld, redis: OwnRedis
) -> None:
    """The answer says how much; a threshold is not seen where nothing was counted."""
    await world.put(a_limit("open", alertThresholds=[1], **OPEN))
    call = a_reserve(10)
    call.estimates.add(unit="output_tokens", max_quantity=4096, route="chat")
    redis.pause()
    held = await world.ask("Reserve", call)
    redis.resume()
    await answered(world, _check())
    alerts = await world.ask("ListAlerts", messages.ListAlertsRequest())

    assert held.decision == DEGRADED
    assert list(held.granted) == amounts(tokens=10, output_tokens=256)
    assert list(alerts.alerts) == []


async def test_a_leased_limit_admits_its_allowance_for_each_counter(
    world: QuotaWorld, redis: OwnRedis
) -> None:
    """Once in an outage, and anew in the next."""
    await world.put(a_limit("keys", level="LEVEL_KEY", capacity="1000", **leased(25)))
    await world.ask("Check", _check(key="k1"))
    decisions = []
    for _ in range(2):
        redis.kill()
        for key in ("k1", "k2"):
            for _ in range(4):
                answer = await world.ask("Reserve", a_reserve(10, key=key))
                decisions.append(answer.decision)
        await asyncio.to_thread(redis.restart)
        await answered(world, _check(key="k1"))
        await asyncio.sleep(0.3)

    assert decisions == [DEGRADED, DEGRADED, DENY, DENY] * 4


def _check(**ids: str) -> messages.CheckRequest:
    return messages.CheckRequest(subject=subject(**ids), amounts=amounts(tokens=1))


async def answered(world: QuotaWorld, request: messages.CheckRequest) -> None:
    """Ask until the counters answer again."""
    for _ in range(200):
        if not (await world.ask("Check", request)).degraded:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the counters did not come back")


async def test_a_call_that_no_limit_covers_passes(world: QuotaWorld, redis: OwnRedis) -> None:
    """Nothing needs to be known for it."""
    redis.kill()
    answer = await world.ask("Reserve", a_reserve(10))

    assert answer.decision == DEGRADED


async def test_a_hold_of_before_is_settled_afterwards(world: QuotaWorld, redis: OwnRedis) -> None:
    """Commits, releases and records in an outage are accepted, and done when it is over."""
    await world.put(a_limit("closed"))
    one, two = [(await world.ask("Reserve", a_reserve(10))).reservation_id for _ in range(2)]
    redis.kill()
    committed = await world.ask("Commit", a_commit(one, 7))
    released = await world.ask("Release", a_release(two))
    record = messages.RecordRequest(
        request_id="record", subject=subject(), amounts=amounts(tokens=5)
    )
    recorded = await world.ask("Record", record)
    await asyncio.to_thread(redis.restart)
    expected = [Standing("closed", "acme", 12, 0, 88)]

    assert [committed.degraded, released.degraded, recorded.degraded] == [True] * 3
    assert await settled(world, expected) == expected


async def test_a_request_id_means_one_thing_in_an_outage_too(
    world: QuotaWorld, redis: OwnRedis
) -> None:
    """A repeat gets the first answer and spends nothing; other content is refused."""
    await world.put(a_limit("leased", **leased(10)))
    redis.kill()
    first = await world.ask("Reserve", a_reserve(10, request="same"))
    again = await world.ask("Reserve", a_reserve(10, request="same"))
    other = await world.refusal("Reserve", a_reserve(9, request="same"))

    assert first == again
    assert isinstance(other, Conflict)
    assert other.reason == "REQUEST_ID_REUSED"


async def test_a_refused_reserve_that_took_effect_unnoticed_is_undone(
    world: QuotaWorld, redis: OwnRedis
) -> None:
    """And its repeat is decided anew, by the counters."""
    await world.put(a_limit("closed"))
    request = a_reserve(60)
    redis.pause()
    refused = await world.ask("Reserve", request)
    redis.resume()
    await settled(world, [Standing("closed", "acme", 0, 0, 100)])
    await asyncio.sleep(0.3)
    again = await world.ask("Reserve", request)
    await world.ask("Commit", a_commit(again.reservation_id, 60))

    assert (refused.decision, again.decision) == (DENY, ALLOW)
    assert await world.balances() == [Standing("closed", "acme", 60, 0, 40)]


async def test_a_hold_of_an_outage_can_be_released_and_marked(
    world: QuotaWorld, redis: OwnRedis
) -> None:
    """Although no counter ever knew of it."""
    await world.put(a_limit("open", **OPEN))
    redis.kill()
    hold = (await world.ask("Reserve", a_reserve(10))).reservation_id
    await asyncio.to_thread(redis.restart)
    await settled(world, [Standing("open", "acme", 0, 0, 100)])
    mark = messages.MarkDispatchedRequest(request_id="mark", reservation_id=hold)
    marked = await world.ask("MarkDispatched", mark)
    released = await world.ask("Release", a_release(hold))

    assert (marked.hold_open, released.hold_settled) == (False, False)


async def test_what_only_counters_know_is_an_error(world: QuotaWorld, redis: OwnRedis) -> None:
    """Balances, and more of a hold that names nobody."""
    await world.put(a_limit("open", **OPEN))
    hold = (await world.ask("Reserve", a_reserve(10))).reservation_id
    redis.kill()
    errors = [
        await world.refusal("GetBalances", messages.GetBalancesRequest(subject=subject())),
        await world.refusal(
            "Extend",
            messages.ExtendRequest(
                request_id="extend", reservation_id=hold, amounts=amounts(tokens=1)
            ),
        ),
    ]

    assert [error.reason for error in errors] == ["COUNTERS_UNAVAILABLE"] * 2


async def test_a_session_answers_by_outage_policies(world: QuotaWorld, redis: OwnRedis) -> None:
    """Each call by itself, none of them waiting for Redis for long."""
    await world.put(a_limit("open", **OPEN), a_limit("keys", level="LEVEL_KEY"))
    redis.kill()
    calls = [
        messages.SessionCall(call_id=1, reserve=a_reserve(1)),
        messages.SessionCall(call_id=2, reserve=a_reserve(1, key="k1")),
        messages.SessionCall(call_id=3, commit=a_commit("", 1, of=subject())),
        messages.SessionCall(call_id=4, check=_check(key="k1")),
    ]
    stream = world.session(messages.SessionRequest(calls=calls))
    found = {answer.call_id: answer async for response in stream for answer in response.answers}

    assert found[1].reserve.decision == DEGRADED
    assert (found[2].reserve.decision, found[2].reserve.degraded) == (DENY, True)
    assert found[3].commit.degraded
    assert (found[4].check.decision, found[4].check.degraded) == (DENY, True)


async def test_limits_are_loaded_while_redis_is_away(world: QuotaWorld, redis: OwnRedis) -> None:
    """A tenant whose first call comes in an outage is answered by his limits."""
    await world.put(a_limit("open", **OPEN), tenant="other")
    await world.put(a_limit("closed"), tenant="third")
    redis.kill()
    answers = [await world.ask("Reserve", a_reserve(10), name) for name in ("other", "third")]

    assert [answer.decision for answer in answers] == [DEGRADED, DENY]


async def test_the_client_says_that_counters_were_away(world: QuotaWorld, redis: OwnRedis) -> None:
    """On the hold of a call that passed, and on the refusal of one that did not."""
    await world.put(a_limit("open", **OPEN), a_limit("keys", level="LEVEL_KEY"))
    token = dict(world.token())["authorization"].removeprefix("Bearer ")
    redis.kill()
    async with Tollkeeper(token=token, quota=world.address, timeout_s=5.0) as toll:
        async with toll.reserve("acme", tokens=5) as hold:
            held = (hold.is_degraded, hold.granted)
        with pytest.raises(QuotaDenied) as refused:
            await toll.check("acme", key="k1", tokens=5)

    assert held == (True, {"tokens": 5})
    assert refused.value.is_degraded
    assert refused.value.limit.limit_id == "keys"


@pytest.mark.parametrize("forged", ["x-1~!!.acme", "x-1~AAAA.acme", "x-1~.", "x-1~Eg.acme"])
async def test_a_forged_hold_of_an_outage_is_refused(world: QuotaWorld, forged: str) -> None:
    """What does not read as a call names no hold."""
    error = await world.refusal("Release", a_release(forged))

    assert isinstance(error, DomainError)
    assert not isinstance(error, NotFound)
    assert error.reason == "INVALID_FIELD"
