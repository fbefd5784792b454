"""The client against a real gate and a real meter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.scopes import all_scopes
from cli.signing_keys import SigningKeys
from kit.rpc.auth import TokenIssuer
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.quota_world import QuotaWorld, Standing, a_limit, quota_world
from tollkeeper import (
    BlockingTollkeeper,
    CallFailed,
    QuotaDenied,
    QuotaUnavailable,
    Tollkeeper,
    UsageNotReported,
)


class ModelBroke(Exception):
    """What a gateway sees when the model's provider fails."""


@dataclass(frozen=True)
class Place:
    """A gate with one limit of 100 tokens a year, a meter, and how to become their client."""

    gate: QuotaWorld
    meter: str
    token: str

    def client(self, **options: object) -> Tollkeeper:
        """Return a client; options replace."""
        defaults = {
            "token": self.token,
            "quota": self.gate.address,
            "meter": self.meter,
            "timeout_s": 5.0,
        }
        return Tollkeeper(**{**defaults, **options})  # type: ignore[arg-type]  # builder


@asynccontextmanager
async def running_place(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[Place]:
    """Run a gate and a meter."""
    async with (
        quota_world(settings_for, keys, tenant) as gate,
        hosted("meter", settings_for("meter")) as meter,
    ):
        await gate.put(a_limit())
        token = TokenIssuer(keys.issuer_key()).issue(
            tenant, all_scopes(), "key", datetime.now(UTC) + timedelta(hours=1)
        )
        yield Place(gate, meter, token)


@pytest.fixture
async def place(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[Place]:
    """A gate and a meter."""
    async with running_place(settings_for, keys, tenant) as place:
        yield place


def standing(used: int, reserved: int = 0) -> list[Standing]:
    """Return how the limit of 100 tokens stands."""
    return [Standing("tokens", "acme", used, reserved, max(0, 100 - used - reserved))]


async def test_a_block_that_commits_is_booked_and_metered(place: Place) -> None:
    """The gate books what was used and not what was held; the meter has one event of it."""
    async with place.client() as toll:
        async with toll.reserve("acme", tokens=40) as hold:
            while_held = await place.gate.balances()
            hold.commit(tokens=12)
        await toll.flush()
        report = toll.usage

    assert while_held == standing(0, reserved=40)
    assert await place.gate.balances() == standing(12)
    assert (report.created, report.duplicate, report.refused) == (1, 0, 0)


async def test_more_than_was_held_is_booked_in_full(place: Place) -> None:
    """Usage that happened is booked, also beyond the hold and beyond the limit."""
    async with place.client() as toll, toll.reserve("acme", tokens=40) as hold:
        hold.commit(tokens=130)

    assert await place.gate.balances() == standing(130)


async def test_a_block_that_breaks_gives_its_hold_back(place: Place) -> None:
    """The exception reaches the gateway, and nothing is booked or metered."""
    async with place.client() as toll:
        with pytest.raises(ModelBroke):
            async with toll.reserve("acme", tokens=40):
                raise ModelBroke
        created = toll.usage.created

    assert created == 0
    assert await place.gate.balances() == standing(0)


async def test_what_was_committed_before_the_block_broke_is_booked(place: Place) -> None:
    """The call ran; what came after it does not undo it."""

    async def commit_and_break(toll: Tollkeeper) -> None:
        async with toll.reserve("acme", tokens=40) as hold:
            hold.commit(tokens=7)
            raise ModelBroke

    async with place.client() as toll:
        with pytest.raises(ModelBroke):
            await commit_and_break(toll)

    assert await place.gate.balances() == standing(7)


async def test_a_block_that_commits_nothing_gives_its_hold_back(place: Place) -> None:
    """A cache hit uses no tokens."""
    async with place.client() as toll, toll.reserve("acme", tokens=40):
        pass

    assert await place.gate.balances() == standing(0)


async def test_a_cancelled_block_settles_all_the_same(place: Place) -> None:
    """A caller that hangs up in the middle of a stream leaves no hold behind."""
    started = asyncio.Event()

    async def stream(toll: Tollkeeper) -> None:
        async with toll.reserve("acme", tokens=40) as hold:
            hold.commit(tokens=5)
            started.set()
            await asyncio.sleep(3600)

    async with place.client() as toll:
        task = asyncio.create_task(stream(toll))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The settlement was shielded; a balance asked on the same stream comes after it.
        await toll.check("acme", tokens=0)

    assert await place.gate.balances() == standing(5)


async def test_a_denial_names_the_limit_and_what_is_left(place: Place) -> None:
    """Of many callers at once exactly those pass for whom there is room."""

    async def call(toll: Tollkeeper) -> str:
        try:
            async with toll.reserve("acme", tokens=10) as hold:
                hold.commit(tokens=10)
        except QuotaDenied as denied:
            return f"{denied.limit.limit_id}: {denied.limit.capacity}"
        return "passed"

    async with place.client() as toll:
        outcomes = await asyncio.gather(*(call(toll) for _ in range(25)))

    assert sorted(outcomes) == ["passed"] * 10 + ["tokens: 100"] * 15
    assert await place.gate.balances() == standing(100)


async def test_a_bad_request_names_its_field(place: Place) -> None:
    """The error of the service reaches the caller with the field and the reason."""
    async with place.client() as toll:
        with pytest.raises(CallFailed, match=r"subject\.customer_id") as failed:
            async with toll.reserve("", tokens=1):
                pytest.fail("the gate was open")

    assert failed.value.reason == "INVALID_FIELD"


async def test_a_gate_that_is_gone_is_unavailable(place: Place) -> None:
    """The caller hears of it within its time, and decides by itself."""
    async with place.client(quota="127.0.0.1:1", timeout_s=0.3) as toll:
        with pytest.raises(QuotaUnavailable, match="no answer from the quota service"):
            await toll.check("acme", tokens=1)


async def report_two(client: Tollkeeper) -> None:
    """Report two events, and close the client."""
    async with client as toll:
        await toll.report("acme", event_id="e-1", tokens=3)
        await toll.report("acme", event_id="e-2", tokens=4)


async def test_usage_waits_in_the_spool_while_the_meter_is_gone(
    place: Place, tmp_path: Path
) -> None:
    """One process cannot deliver; the next one does, and nothing is counted twice."""
    with pytest.raises(UsageNotReported, match=r"^2 usage events .* wait in the spool$"):
        await report_two(place.client(meter="127.0.0.1:1", spool=tmp_path, close_timeout_s=0.2))

    async with place.client(spool=tmp_path) as toll:
        await toll.flush()
        report = toll.usage

    assert (report.created, report.duplicate, report.refused) == (2, 0, 0)


async def test_a_refused_event_is_not_lost_silently(place: Place) -> None:
    """Flushing says which event was refused, and why."""
    async with place.client() as toll:
        await toll.report("acme", event_id="e-1", event_type="No Such Type", tokens=1)

        with pytest.raises(UsageNotReported, match=r"event 'e-1' of 'gateway' is REJECTED.*type"):
            await toll.flush()


async def test_a_token_that_is_not_taken_loses_no_event(place: Place, tmp_path: Path) -> None:
    """Closing says what is wrong at once; the events wait for a better token."""
    with pytest.raises(UsageNotReported, match="2 usage events wait: UNAUTHENTICATED"):
        await report_two(place.client(token="not-a-token", spool=tmp_path))

    async with place.client(spool=tmp_path) as toll:
        await toll.flush()
        created = toll.usage.created

    assert created == 2


async def test_threads_use_the_same_client(place: Place) -> None:
    """Without an event loop of its own a program reserves, commits and reports alike."""

    def program() -> tuple[int, str]:
        with BlockingTollkeeper(place.client()) as toll:
            with toll.reserve("acme", tokens=40) as hold:
                hold.commit(tokens=12)
            toll.report("acme", event_id="e-1", tokens=1)
            toll.flush()
            with pytest.raises(QuotaDenied) as denied, toll.reserve("acme", tokens=89):
                pytest.fail("the gate was open")
            return toll.usage.created, denied.value.limit.limit_id

    assert await asyncio.to_thread(program) == (2, "tokens")
    assert await place.gate.balances() == standing(12)
