"""PostgreSQL and the meter are killed at random while events come in; nothing is lost or doubled.

Senders repeat what has no answer and much of what has one, in other batches and other orders, by
calls and by streams. Killed are the meter, single PostgreSQL processes, and PostgreSQL as a whole,
all with SIGKILL. PostgreSQL runs as in production: with fsync.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import asyncpg
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cli.embedded.data_directory import DataDirectory
from cli.embedded.postgres import EmbeddedPostgres
from cli.errors import CommandError
from cli.signing_keys import SigningKeys
from kit.clock import ManualClock, SystemClock
from kit.errors import Unavailable
from kit.interval import Interval
from kit.migrations import migrate
from kit.rpc.auth import TokenIssuer
from kit.settings import ServiceSettings
from tests.meter_process import MeterProcess
from tests.meter_world import CREATED, DUPLICATE, World, a_meter, an_event
from tests.servers import beside_the_loop, reachable_folder
from tollkeeper.api.meter.v1 import meter_pb2, meter_service_pb2
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub
from tollkeeper.errors import parse_rpc_error

START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
ALL_TIME = Interval(START, START + timedelta(hours=5))
UNEVEN = Interval(START + timedelta(minutes=17), START + timedelta(hours=3, minutes=41))
EVENTS = 2_000
SENDERS = 4
KILLS = 3
MODELS = ("large", "small", "tiny")
TIMEOUT_S = 20
RESTART_S = 120
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}

Identity = tuple[str, str]


@dataclass
class Round:
    """One round: what is killed, who asks, and what was acknowledged."""

    draw: random.Random
    postgres: EmbeddedPostgres
    meter: MeterProcess
    world: World
    acknowledged: Counter[Identity] = field(default_factory=Counter)
    created: Counter[Identity] = field(default_factory=Counter)
    kills: list[str] = field(default_factory=list)

    async def kill_something(self) -> None:
        """Kill the meter, some of PostgreSQL, or all of it, and start again what is gone."""
        what = self.draw.choice(("meter", "backend", "postgres", "both"))
        self.kills.append(what)
        if what == "backend":
            await self._kill_a_backend()
            return
        if what in {"postgres", "both"}:
            assert self.postgres._process is not None
            self.postgres._process.send_signal(signal.SIGKILL)
        if what in {"meter", "both"}:
            await self.meter.kill()
        if what in {"postgres", "both"}:
            await asyncio.to_thread(start_again, self.postgres)
        if what in {"meter", "both"}:
            await self.meter.start()

    async def _kill_a_backend(self) -> None:
        """Kill a process that serves the meter; PostgreSQL then restarts all of them."""
        with suppress(OSError, asyncpg.PostgresError):
            admin = await asyncpg.connect(self.meter.settings.database_url)
            process_id = await admin.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'tollkeeper-meter'"
                " ORDER BY state = 'active' DESC, random() LIMIT 1"
            )
            await admin.close()
            if process_id is not None:
                os.kill(process_id, signal.SIGKILL)

    async def send_all(self, events: Sequence[meter_pb2.UsageEvent]) -> None:
        """Send events until each is acknowledged, and many of them again."""
        pending = list(events)
        while pending:
            size = self.draw.choice((1, 7, 40, 150, 400))
            batches = [pending[first : first + size] for first in range(0, len(pending), size)]
            if self.draw.random() < 0.5:
                await self._send_by_calls(batches)
            else:
                await self._send_by_a_stream(batches)
            pending = [each for each in events if not self.acknowledged[identity_of(each)]]
            pending += self.draw.sample(list(events), len(pending) // 3)
            self.draw.shuffle(pending)

    async def _send_by_calls(self, batches: Sequence[Sequence[meter_pb2.UsageEvent]]) -> None:
        for batch in batches[: self.draw.randrange(1, 12)]:
            request = meter_service_pb2.IngestEventsRequest(events=batch)
            try:
                answer = await self.world.stub.IngestEvents(
                    request, metadata=self.world.token(), timeout=TIMEOUT_S
                )
            except grpc.aio.AioRpcError as error:
                await pause_after(error)
                return
            self._note(batch, answer.outcomes)

    async def _send_by_a_stream(self, batches: Sequence[Sequence[meter_pb2.UsageEvent]]) -> None:
        requests = [
            meter_service_pb2.StreamEventsRequest(batch_id=number, events=batch)
            for number, batch in enumerate(batches)
        ]
        stream = self.world.stub.StreamEvents(
            iter(requests), metadata=self.world.token(), timeout=TIMEOUT_S
        )
        try:
            async for answer in stream:
                self._note(batches[answer.batch_id], answer.outcomes)
        except grpc.aio.AioRpcError as error:
            await pause_after(error)

    def _note(
        self,
        batch: Sequence[meter_pb2.UsageEvent],
        outcomes: Sequence[meter_service_pb2.IngestOutcome.ValueType],
    ) -> None:
        assert set(outcomes) <= {CREATED, DUPLICATE}
        for event, outcome in zip(batch, outcomes, strict=True):
            self.acknowledged[identity_of(event)] += 1
            self.created[identity_of(event)] += outcome == CREATED


async def pause_after(error: grpc.aio.AioRpcError) -> None:
    """Wait a moment after a failure that may pass; others end the round."""
    # The transport calls a broken connection INTERNAL; what a service calls so has a reason.
    is_of_the_transport = not parse_rpc_error(error).reason
    assert error.code() in PASSING or is_of_the_transport, error
    await asyncio.sleep(0.05)


async def patiently(ask: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - whatever is asked for.
    """Ask until servers that were killed are back."""
    deadline_s = time.monotonic() + RESTART_S
    while True:
        try:
            return await ask()
        except (OSError, asyncpg.PostgresError, Unavailable):
            if time.monotonic() > deadline_s:
                raise
        await asyncio.sleep(0.1)


def start_again(postgres: EmbeddedPostgres) -> None:
    """Start PostgreSQL where it was, once the last of its processes has let go of its memory."""
    deadline_s = time.monotonic() + RESTART_S
    while True:
        try:
            postgres.start()
        except CommandError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
        else:
            return


def identity_of(event: meter_pb2.UsageEvent) -> Identity:
    """Tell an event from every other."""
    return event.source, event.event_id


def some_events(draw: random.Random) -> list[meter_pb2.UsageEvent]:
    """Make events of a few hours, customers and models."""
    return [
        an_event(
            f"e{number}",
            source=f"gateway-{number % 3}",
            customer_id=f"customer-{draw.randrange(5)}",
            time=START + timedelta(microseconds=draw.randrange(5 * 3600 * 10**6)),
            dimensions={"model": draw.choice(MODELS)},
            quantities={"tokens": str(draw.choice((draw.randrange(10_000), "0.125", "1e3")))},
        )
        for number in range(EVENTS)
    ]


@pytest.fixture(scope="module")
def postgres() -> Iterator[tuple[EmbeddedPostgres, str]]:
    """A PostgreSQL of its own, with fsync, that can be killed without disturbing others."""
    with reachable_folder() as folder:
        directory = DataDirectory.open(folder / "data")
        directory.lock()
        server = EmbeddedPostgres(directory.path / "postgres", directory.log("postgres"))
        url = server.start()
        beside_the_loop(lambda: migrate(url, "meter"))
        yield server, url
        server.stop()
        server.remove()
        directory.unlock()


async def test_every_acknowledged_event_is_there_once(
    postgres: tuple[EmbeddedPostgres, str],
    redis_url: str,
    keys: SigningKeys,
    tenant: str,
    seed: int,
) -> None:
    """After a round every event is stored once, and every figure is that of a plain model."""
    server, url = postgres
    draw = random.Random(seed)
    settings = ServiceSettings.model_validate(
        {
            "service": "meter",
            "database_url": url,
            "redis_url": redis_url,
            "keys_file": keys.public_file,
        }
    )
    meter = MeterProcess(settings)
    await meter.start()
    try:
        async with grpc.aio.insecure_channel(
            meter.address, options=(("grpc.max_reconnect_backoff_ms", 200),)
        ) as channel:
            issuer, clock = TokenIssuer(keys.issuer_key(), SystemClock()), ManualClock(START)
            world = World(MeterServiceStub(channel), issuer, tenant, clock, meter.address)
            await world.put_meter()
            await world.put_meter(a_meter("calls", quantity=""))
            play = Round(draw, server, meter, world)
            events = some_events(draw)
            await play_out(play, events)
            await check_everything(play, events)
    finally:
        await meter.kill()


async def play_out(play: Round, events: Sequence[meter_pb2.UsageEvent]) -> None:
    """Let senders send overlapping shares, and kill something again and again meanwhile."""
    share = len(events) // SENDERS
    sending = [
        asyncio.create_task(play.send_all(events[first : first + share + share // 2]))
        for first in range(0, len(events), share)
    ]
    for _ in range(KILLS):
        await asyncio.sleep(play.draw.uniform(0.02, 0.6))
        await play.kill_something()
    await asyncio.gather(*sending)


async def check_everything(play: Round, events: Sequence[meter_pb2.UsageEvent]) -> None:
    """Compare what is stored, and what is answered, with the events that were sent."""
    # The last kill may be a moment ago.
    database = await patiently(lambda: asyncpg.connect(play.meter.settings.database_url))
    stored = await database.fetch(
        "SELECT source, event_id FROM meter.events WHERE tenant_id = $1", play.world.tenant
    )
    known = await database.fetch(
        "SELECT source, event_id FROM meter.event_identities WHERE tenant_id = $1",
        play.world.tenant,
    )
    await database.close()
    sent = sorted(identity_of(event) for event in events)

    assert sorted(play.acknowledged) == sent, play.kills
    assert sorted(tuple(row) for row in stored) == sent, play.kills
    assert sorted(tuple(row) for row in known) == sent, play.kills
    assert max(play.created.values()) == 1, play.kills
    for interval in (ALL_TIME, UNEVEN):
        for meter_id in ("tokens", "calls"):
            ask = partial(play.world.usage, meter_id, interval, group_by=["model"])
            rows = await patiently(ask)
            assert rows == added_up(events, meter_id, interval), play.kills


def added_up(
    events: Sequence[meter_pb2.UsageEvent], meter_id: str, interval: Interval
) -> list[tuple[str, str, int]]:
    """Add up events as a meter should, in plain Python."""
    sums: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    counts: Counter[tuple[str, str]] = Counter()
    for event in events:
        if interval.start <= instant(event.time) < interval.end:
            key = (event.subject.customer_id, event.dimensions["model"])
            sums[key] += Decimal(event.quantities["tokens"]) if meter_id == "tokens" else 1
            counts[key] += 1
    return [
        (" ".join(key), format(sums[key].normalize(), "f"), counts[key]) for key in sorted(counts)
    ]


def instant(time: Timestamp) -> datetime:
    """Read a time."""
    return time.ToDatetime(UTC)
