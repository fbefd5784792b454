"""What the client does when the gate, the meter or its own gateway is killed with SIGKILL."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.scopes import all_scopes
from cli.signing_keys import SigningKeys
from kit.rpc.auth import TokenIssuer
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.quota_world import Standing, a_limit, quota_world
from tests.service_process import ServiceProcess
from tollkeeper import Tollkeeper, UsageNotReported
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

NOBODY = "127.0.0.1:1"
CAPACITY = 100_000
# Reports one event after another, says which it has taken, and never ends by itself.
GATEWAY = """
import asyncio, itertools, sys
from pathlib import Path
from tollkeeper import Tollkeeper

async def main():
    client = Tollkeeper(token="t", meter=sys.argv[1], spool=Path(sys.argv[2]))
    async with client as toll:
        for number in itertools.count():
            await toll.report("acme", event_id=f"e-{number:06}", tokens=1)
            print(number, flush=True)
            await asyncio.sleep(0)

asyncio.run(main())
"""


@dataclass(frozen=True)
class Place:
    """A gate that can be killed, and a token for it."""

    gate: ServiceProcess
    token: str

    def client(self, timeout_s: float) -> Tollkeeper:
        """Return a client of the gate, without a meter."""
        return Tollkeeper(
            token=self.token,
            quota=self.gate.address,
            meter=NOBODY,
            timeout_s=timeout_s,
            close_timeout_s=20.0,
        )

    async def restart(self) -> None:
        """Kill the gate, and start it again."""
        await self.gate.kill()
        await self.gate.start()

    async def standing(self) -> Standing:
        """Say how the limit stands."""
        async with self.client(10.0) as toll:
            (limit,) = await toll.balances("acme")
        used, reserved, remaining = map(int, (limit.used, limit.reserved, limit.remaining))
        return Standing(limit.limit_id, limit.scope, used, reserved, remaining)


def standing(used: int) -> Standing:
    """Return how the limit stands when nothing is held."""
    return Standing("tokens", "acme", used, 0, CAPACITY - used)


@pytest.fixture
async def place(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[Place]:
    """A gate with one limit, as a process of its own."""
    async with quota_world(settings_for, keys, tenant) as world:
        await world.put(a_limit(capacity=str(CAPACITY)))
    token = TokenIssuer(keys.issuer_key()).issue(
        tenant, all_scopes(), "key", datetime.now(UTC) + timedelta(hours=1)
    )
    gate = ServiceProcess("quota", settings_for("quota"))
    await gate.start()
    yield Place(gate, token)
    await gate.kill()


async def close_without_a_meter(toll: Tollkeeper) -> None:
    """Close a client whose events nobody takes."""
    toll._close_timeout_s = 0.1
    with pytest.raises(UsageNotReported):
        await toll.__aexit__(None, None, None)


async def test_calls_outlive_a_gate_that_is_killed_twice(place: Place) -> None:
    """Every call passes, and is counted once, whatever was under way when the gate died."""
    is_over = False

    async def call_in_turn(toll: Tollkeeper) -> int:
        used = 0
        while not is_over:
            async with toll.reserve("acme", tokens=10) as hold:
                await asyncio.sleep(0.001)
                hold.commit(tokens=3)
            used += 3
        return used

    toll = await place.client(120.0).__aenter__()
    calls = asyncio.gather(*(call_in_turn(toll) for _ in range(16)))
    for _ in range(2):
        await asyncio.sleep(0.3)
        await place.restart()
    await asyncio.sleep(0.3)
    is_over = True
    used = sum(await calls)
    await close_without_a_meter(toll)

    assert used > 0
    assert await place.standing() == standing(used)


async def test_what_ends_while_the_gate_is_gone_is_booked_when_it_is_back(place: Place) -> None:
    """The call does not wait for the gate, and nothing is lost."""
    toll = await place.client(0.2).__aenter__()
    async with toll.reserve("acme", tokens=40) as used, toll.reserve("acme", tokens=40):
        await place.gate.kill()
        used.commit(tokens=7)
    assert len(toll._settlements) == 2
    await place.gate.start()
    await toll._settlements.close(20.0)
    await close_without_a_meter(toll)

    assert await place.standing() == standing(7)


async def test_a_caller_that_hangs_up_while_the_gate_thinks_leaves_no_hold(place: Place) -> None:
    """The hold that comes after it is given back."""

    async def call(toll: Tollkeeper) -> None:
        async with toll.reserve("acme", tokens=40):
            pytest.fail("the caller had gone")

    async with place.client(20.0) as toll:
        await toll.check("acme", tokens=0)
        place.gate.send(signal.SIGSTOP)
        calling = asyncio.create_task(call(toll))
        await asyncio.sleep(0.05)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        place.gate.send(signal.SIGCONT)
        # Its answer comes after that of the call before it.
        await toll.check("acme", tokens=0)
        await toll._settlements.close(20.0)

    assert await place.standing() == standing(0)


async def test_usage_survives_the_gateway_and_reaches_the_meter_in_order(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str, tmp_path: Path
) -> None:
    """What the gateway was told is taken, the meter gets from the next one, once."""
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY, NOBODY, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert gateway.stdout is not None, "it was asked for"
    for _ in range(500):
        await gateway.stdout.readline()
    gateway.kill()
    said = await gateway.stdout.read()
    await gateway.wait()
    told_count = 500 + said.count(b"\n")
    token = TokenIssuer(keys.issuer_key()).issue(
        tenant, all_scopes(), "key", datetime.now(UTC) + timedelta(hours=1)
    )

    async with hosted("meter", settings_for("meter")) as meter:
        client = Tollkeeper(token=token, meter=meter, spool=tmp_path)
        async with client as toll:
            order = [each.event_id for each in waiting_events(toll)]
            await toll.flush()
            created = toll.usage.created

    assert order == sorted(order)
    # One event more may have been taken and not yet told.
    assert told_count <= created <= told_count + 1


def waiting_events(toll: Tollkeeper) -> list[UsageEvent]:
    """Return what the client's spool has for the meter, the next first."""
    return [UsageEvent.FromString(each) for each in toll._reporter._pending.peek(1_000)]


async def test_a_full_spool_drops_where_that_was_chosen(tmp_path: Path) -> None:
    """The call goes on, the report counts what was lost, and closing says so."""
    client = Tollkeeper(
        token="t",
        meter=NOBODY,
        spool=tmp_path,
        spool_bytes_max=1_000,
        when_full="drop",
        close_timeout_s=0.1,
    )
    toll = await client.__aenter__()
    for number in range(100):
        await toll.report("acme", event_id=f"e-{number}", tokens=1)
    kept = len(toll._reporter._pending)
    with pytest.raises(UsageNotReported):
        await toll.__aexit__(None, None, None)

    assert (kept > 0, toll.usage.dropped) == (True, 100 - kept)


async def test_a_full_spool_lets_calls_wait_otherwise(tmp_path: Path) -> None:
    """Nothing is lost: who reports waits for room."""
    client = Tollkeeper(
        token="t", meter=NOBODY, spool=tmp_path, spool_bytes_max=200, close_timeout_s=0.1
    )
    toll = await client.__aenter__()

    async def report() -> None:
        for number in range(100):
            await toll.report("acme", event_id=f"e-{number}", tokens=1)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(report(), 0.2)
    with pytest.raises(UsageNotReported, match="wait in the spool"):
        await toll.__aexit__(None, None, None)

    assert toll.usage.dropped == 0
