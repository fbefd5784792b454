"""Leases against a real gate: decisions without a message, and never one too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal

import pytest

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.integration.test_client import Place, running_place
from tests.quota_world import Standing, a_limit
from tollkeeper import CallFailed, QuotaDenied, QuotaUnavailable, Tollkeeper

CAPACITY = 20_000


@pytest.fixture
async def place(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[Place]:
    """A gate with one limit of 20,000 tokens, and a meter."""
    async with running_place(settings_for, keys, tenant) as place:
        await place.gate.put(a_limit(capacity=str(CAPACITY)))
        yield place


def standing(used: int) -> list[Standing]:
    """Return how the limit stands when nothing is held."""
    return [Standing("tokens", "acme", used, 0, CAPACITY - used)]


async def call(toll: Tollkeeper, held: int, used: int) -> bool:
    """Make a call out of a lease, and say whether it passed."""
    try:
        async with toll.reserve("acme", tokens=held, lease=True) as hold:
            await asyncio.sleep(0)
            hold.commit(tokens=used)
    except QuotaDenied:
        return False
    return True


async def test_what_leased_calls_used_is_booked_when_the_lease_ends(place: Place) -> None:
    """Held 10 each, used 3 each: 3 each are booked and metered, and the rest is free again."""
    async with place.client() as toll:
        passed = [await call(toll, 10, 3) for _ in range(200)]
        await toll.flush()
        created = toll.usage.created

    assert (passed, created) == ([True] * 200, 200)
    assert await place.gate.balances() == standing(600)


async def test_most_leased_calls_ask_nobody(place: Place) -> None:
    """A hold out of a lease names no reservation of its own."""
    asked = 0
    async with place.client() as toll:
        for _ in range(500):
            async with toll.reserve("acme", tokens=1, lease=True) as hold:
                asked += bool(hold.reservation_id)
                hold.commit(tokens=1)

    assert asked <= 25
    assert await place.gate.balances() == standing(500)


async def test_gateways_that_lease_never_pass_one_call_too_many(place: Place) -> None:
    """Three gateways race for 20,000 tokens with calls of 10: at most 2,000 pass."""

    async def gateway() -> int:
        async with place.client() as toll:
            outcomes = [
                sum(await asyncio.gather(*(call(toll, 10, 10) for _ in range(100))))
                for _ in range(12)
            ]
        return sum(outcomes)

    passed = sum(await asyncio.gather(*(gateway() for _ in range(3))))

    assert await place.gate.balances() == standing(passed * 10)
    assert 1_000 <= passed <= 2_000


async def test_a_limit_that_is_used_up_denies_by_name(place: Place) -> None:
    """Where no lease can be had the gate itself answers, with the limit and what is left."""
    async with place.client() as toll:
        async with toll.reserve("acme", tokens=CAPACITY) as hold:
            hold.commit(tokens=CAPACITY)
        with pytest.raises(QuotaDenied, match="limit tokens of acme: 0 of 20000") as denied:
            async with toll.reserve("acme", tokens=1, lease=True):
                pytest.fail("the gate was open")

    assert denied.value.limit.limit_id == "tokens"


async def test_a_leased_call_that_breaks_uses_nothing(place: Place) -> None:
    """What it took goes back to the lease, and from there to the gate."""

    async def break_off(toll: Tollkeeper) -> None:
        async with toll.reserve("acme", tokens=10, lease=True):
            raise ZeroDivisionError

    async with place.client() as toll:
        for _ in range(50):
            with pytest.raises(ZeroDivisionError):
                await break_off(toll)

    assert await place.gate.balances() == standing(0)


async def test_a_lease_of_its_own_decides_without_awaiting(place: Place) -> None:
    """Takes and settlements are booked in full when it is closed; units come in their order."""
    async with place.client() as toll:
        async with toll.lease("acme", tokens=5_000, requests=500) as lease:
            for _ in range(300):
                held = lease.take(10, 1) or await lease.acquire(10, 1)
                lease.settle(held, 3, 1)
            lease.settle(await lease.acquire(10, 1))
        booked = await place.gate.balances()

    assert booked == standing(900)


async def test_a_lease_denies_by_name_what_never_fits(place: Place) -> None:
    """The refusal is the gate's; a smaller call passes after it."""
    async with place.client() as toll, toll.lease("acme", tokens=CAPACITY) as lease:
        with pytest.raises(QuotaDenied, match=f"limit tokens of acme: .* of {CAPACITY}"):
            await lease.acquire(CAPACITY + 1)
        lease.settle(await lease.acquire(CAPACITY // 2), 7)

    assert await place.gate.balances() == standing(7)


async def test_gateways_with_leases_of_their_own_race(place: Place) -> None:
    """Three race for 20,000 tokens with calls of 10: exactly 2,000 pass in the end."""

    async def gateway() -> int:
        passed = 0
        async with place.client() as toll, toll.lease("acme", tokens=2_000) as lease:
            while True:
                try:
                    lease.settle(lease.take(10) or await lease.acquire(10), 10)
                except QuotaDenied:
                    return passed
                passed += 1

    first = sum(await asyncio.gather(*(gateway() for _ in range(3))))
    # What the leases of the race still held when others were refused is free now.
    rest = await gateway()

    assert first + rest == 2_000
    assert await place.gate.balances() == standing(CAPACITY)


async def test_a_lease_of_a_bad_subject_or_of_nothing_is_refused(place: Place) -> None:
    """The error names the field, before any call is made."""
    async with place.client() as toll:
        with pytest.raises(CallFailed, match=r"subject\.customer_id"):
            await toll.lease("", tokens=10)
        with pytest.raises(ValueError, match="at least one unit"):
            toll.lease("acme")


async def test_a_closed_lease_hands_nothing_out(place: Place) -> None:
    """What still runs is settled all the same."""
    async with place.client() as toll:
        lease = await toll.lease("acme", tokens=1_000)
        held = await lease.acquire(10)
        await lease.close()
        assert lease.take(1) is None
        with pytest.raises(QuotaUnavailable, match="closed"):
            await lease.acquire(1)
        lease.settle(held, 12)

    assert await place.gate.balances() == standing(12)


async def test_units_with_fractions_are_leased_as_they_are_written(place: Place) -> None:
    """Half a second is half a second."""
    seconds = a_limit("seconds", units=["seconds"], capacity=str(10 * 1_000_000))
    await place.gate.put(seconds)
    async with place.client() as toll, toll.lease("acme", seconds=5) as lease:
        held = await lease.acquire(Decimal("0.5"))
        lease.settle(held, Decimal("0.25"))
        with pytest.raises(ValueError, match="smallest step"):
            lease.take(Decimal("0.0000001"))

    (stood,) = [each for each in await place.gate.balances() if each.limit == "seconds"]
    assert (stood.used, stood.reserved) == (250_000, 0)
