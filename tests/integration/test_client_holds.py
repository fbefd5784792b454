"""Holds that grow, are granted in part, are dispatched or in shadow; usage without a hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.integration.test_client import Place, running_place, standing
from tests.quota_world import Standing, a_limit
from tollkeeper import BlockingTollkeeper, CallFailed, QuotaDenied, Tollkeeper

MAX_TOKENS = 4_096
REAL_TOKENS = 300
SHORT = timedelta(milliseconds=300)


@pytest.fixture
async def place(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[Place]:
    """A gate with a limit of 100 tokens for each customer, and a meter."""
    async with running_place(settings_for, keys, tenant) as place:
        yield place


async def eventually(place: Place, wanted: list[Standing]) -> list[Standing]:
    """Wait until limits stand as they should, for ten seconds at most, and return how they do."""
    for _ in range(200):
        if await place.gate.balances() == wanted:
            break
        await asyncio.sleep(0.05)
    return await place.gate.balances()


async def test_a_hold_grows_and_lives_longer(place: Place) -> None:
    """What is added is held as the rest is, and committed with it."""
    ttl = timedelta(seconds=5)
    async with place.client() as toll, toll.reserve("acme", tokens=40, ttl=ttl) as hold:
        ended_at = hold.expire_time
        added = await hold.extend(tokens=30, ttl=timedelta(seconds=60))
        while_held = await place.gate.balances()
        hold.commit(tokens=55)

    assert (added, hold.granted) == ({"tokens": 30}, {"tokens": 70})
    assert hold.expire_time > ended_at
    assert while_held == standing(0, reserved=70)
    assert await place.gate.balances() == standing(55)


async def test_a_hold_that_cannot_grow_is_as_before(place: Place) -> None:
    """The refusal names the limit; what is left can be had in part."""
    async with place.client() as toll, toll.reserve("acme", tokens=40) as hold:
        with pytest.raises(QuotaDenied, match="limit tokens of acme: 60 of 100"):
            await hold.extend(tokens=61)
        granted = dict(hold.granted)
        added = await hold.extend(tokens=61, min_amounts={"tokens": 1})

    assert (granted, added) == ({"tokens": 40}, {"tokens": 60})
    assert await place.gate.balances() == standing(0)


async def test_a_call_takes_the_part_that_fits(place: Place) -> None:
    """Less is granted than was asked for, and never less than is of use."""
    async with place.client() as toll:
        async with toll.reserve("acme", tokens=250, min_amounts={"tokens": 50}) as hold:
            pass
        with pytest.raises(QuotaDenied):
            async with toll.reserve("acme", tokens=250, min_amounts={"tokens": 101}):
                pytest.fail("the gate was open")

    assert (hold.is_partial, hold.granted) == (True, {"tokens": 100})


async def test_a_call_in_shadow_passes_and_says_what_would_have_refused_it(place: Place) -> None:
    """It is counted as any other."""
    async with place.client() as toll:
        async with toll.reserve("acme", tokens=150, mode="shadow") as hold:
            hold.commit(tokens=150)
        limits = await toll.check("acme", tokens=1, mode="shadow")
        with pytest.raises(ValueError, match="mode is 'soft'"):
            toll.reserve("acme", tokens=1, mode="soft")  # type: ignore[arg-type]  # what is tried.

    assert [limit.limit_id for limit in hold.exceeded] == ["tokens"]
    assert [(limit.exceeded, limit.decided) for limit in limits] == [(True, False)]
    assert await place.gate.balances() == standing(150)


async def test_a_dispatched_call_of_a_dead_gateway_is_booked_at_what_it_held(place: Place) -> None:
    """One that had not left is given back."""
    async with place.client() as toll:
        left = await toll.reserve("acme", tokens=40, ttl=SHORT).__aenter__()
        await left.mark_dispatched()
        await toll.reserve("acme", tokens=25, ttl=SHORT).__aenter__()

    assert await eventually(place, standing(40)) == standing(40)


async def test_usage_without_a_hold_counts_when_it_happened(place: Place) -> None:
    """What was used years ago counts in no window of today; a repeat counts nothing."""
    async with place.client() as toll:
        await toll.record("acme", event_id="e-1", tokens=30)
        await toll.record("acme", event_id="e-2", time=datetime(2020, 1, 1, tzinfo=UTC), tokens=50)
        await toll.record("acme", event_id="e-2", time=datetime(2020, 1, 1, tzinfo=UTC), tokens=50)
        with pytest.raises(CallFailed, match=r"subject\.customer_id"):
            await toll.record("", tokens=1)
        await toll.flush()
        created = toll.usage.created

    assert await place.gate.balances() == standing(30)
    assert created == 2


async def stream(toll: Tollkeeper, tokens: int, most: int) -> tuple[int, dict[str, object]]:
    """Stream an answer of some tokens while the gate lets it, and commit what was streamed."""
    async with toll.reserve("acme", tokens=8, max_amounts={"tokens": most}) as hold:
        await hold.mark_dispatched()
        streamed = 0
        while streamed < tokens and hold.used_so_far(tokens=streamed):
            streamed += 1
            await asyncio.sleep(0.002)
        hold.commit(tokens=streamed)
    return streamed, dict(hold.granted)


async def test_an_answer_faster_than_the_gate_waits_for_its_hold(place: Place) -> None:
    """No token is passed on that is not held, and the last one is the limit's last."""
    async with place.client() as toll, toll.reserve("acme", tokens=8) as hold:
        passed = 0
        while await hold.covers(tokens=passed + 1):
            passed += 1
            assert passed <= hold.granted["tokens"]
        refused = hold.refused
        hold.commit(tokens=passed)

    assert passed == 100
    assert refused is not None
    assert refused.limit.limit_id == "tokens"
    assert await place.gate.balances() == standing(100)


async def test_a_hold_grows_by_itself_with_what_a_stream_uses(place: Place) -> None:
    """It stays ahead of the stream, and below the bound of the call."""
    async with place.client() as toll:
        streamed, granted = await stream(toll, 60, 64)

    assert streamed == 60
    assert granted == {"tokens": 64}
    assert await place.gate.balances() == standing(60)


async def test_a_stream_ends_where_the_limit_does(place: Place) -> None:
    """The last part is granted to the token, and then the gateway is told to end it."""
    async with place.client() as toll:
        streamed, granted = await stream(toll, 1_000, MAX_TOKENS)

    assert (streamed, granted) == (100, {"tokens": 100})
    assert await place.gate.balances() == standing(100)


async def test_long_answers_that_are_short_fit_a_budget_of_what_they_use(place: Place) -> None:
    """Twenty calls may answer 4,096 tokens each and answer 300: a budget of 8,000 admits all.

    Holding 4,096 for each it would admit one.
    """
    budget = 8_000
    await place.gate.put(a_limit(capacity=str(budget)))

    async def watch() -> int:
        seen = 0
        while True:
            (stood,) = await place.gate.balances()
            seen = max(seen, stood.used + stood.reserved)
            assert seen <= budget
            await asyncio.sleep(0.02)

    async with place.client() as toll:
        watching = asyncio.create_task(watch())
        answers = await asyncio.gather(*(stream(toll, REAL_TOKENS, MAX_TOKENS) for _ in range(20)))
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    assert [streamed for streamed, _ in answers] == [REAL_TOKENS] * 20
    assert await place.gate.balances() == [Standing("tokens", "acme", 6_000, 0, 2_000)]


async def test_the_gate_learns_what_calls_of_a_route_use(place: Place) -> None:
    """It begins with little; once it has seen calls it holds what they use, within the bound."""
    await place.gate.put(a_limit(capacity="100000"))
    begun = []
    async with place.client() as toll:
        for _ in range(25):
            async with toll.reserve(
                "acme",
                {"requests": 1},
                dimensions={"model": "large"},
                estimates={"tokens": MAX_TOKENS},
                route="chat",
            ) as hold:
                begun.append(hold.granted["tokens"])
                hold.commit(requests=1, tokens=REAL_TOKENS)

    assert begun[0] < REAL_TOKENS <= begun[-1] < MAX_TOKENS
    assert hold.max_amounts == {"tokens": MAX_TOKENS}


async def test_a_call_out_of_a_lease_grows_out_of_it(place: Place) -> None:
    """It grows as any hold does, and is settled with all that it took."""
    async with place.client() as toll:
        async with toll.reserve("acme", tokens=1, lease=True) as first:
            first.commit(tokens=1)
        await asyncio.sleep(0.1)
        async with toll.reserve("acme", tokens=2, lease=True) as hold:
            is_leased = hold.lease is not None
            added = await hold.extend(tokens=3)
            with pytest.raises(ValueError, match="the lease of this hold is of tokens"):
                await hold.extend(requests=1)
            hold.commit(tokens=4)

    assert (is_leased, added, hold.granted) == (True, {"tokens": 3}, {"tokens": 5})
    assert await place.gate.balances() == standing(5)


async def test_threads_extend_lease_and_record_alike(place: Place) -> None:
    """Everything has a form that waits."""

    def program() -> list[object]:
        with BlockingTollkeeper(place.client()) as toll:
            with toll.reserve("acme", tokens=10) as hold:
                hold.mark_dispatched()
                added = hold.extend(tokens=5)
                goes_on = hold.used_so_far(tokens=1) and hold.covers(tokens=5)
                hold.commit(tokens=12)
            with toll.lease("acme", tokens=64) as lease:
                held = lease.take(4) or lease.acquire(4)
                lease.settle(held, 3)
            toll.record("acme", tokens=2)
            return [added, goes_on, hold.granted, held]

    said = await asyncio.to_thread(program)

    assert said == [{"tokens": 5}, True, {"tokens": 15}, (4,)]
    assert await place.gate.balances() == standing(17)


async def test_amounts_are_what_they_are_written_as(place: Place) -> None:
    """An extension is checked as a reserve is, before anything is sent."""
    async with place.client() as toll, toll.reserve("acme", tokens=10) as hold:
        with pytest.raises(TypeError, match="tokens is a float"):
            await hold.extend(tokens=0.5)  # type: ignore[arg-type]  # what is tried.
        with pytest.raises(ValueError, match="smallest step"):
            await hold.extend(tokens=Decimal("0.5"))

    assert await place.gate.balances() == standing(0)
