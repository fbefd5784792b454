"""Calls that come one after the other share round trips, once some came together."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from kit.clock import SystemClock
from services.quota.batcher import Batcher
from services.quota.counters import Answer, Batch, Decided, Root
from services.quota.coverage import NOTHING
from services.quota.envoy import batcher as of_envoy
from services.quota.envoy.counters import Request
from services.quota.model import Kind, Outcome
from services.quota.operations import Operation
from services.quota.standby import Standby

ACME = Root("t", "acme")


class Counters:
    """Counters that decide everything a turn later, and note how much they were asked at once."""

    def __init__(self) -> None:
        self.round_trips: list[int] = []

    async def decide(self, batches: Sequence[Batch]) -> list[Decided | Exception]:
        """Decide."""
        self.round_trips.append(sum(len(batch.operations) for batch in batches))
        await asyncio.sleep(0)
        answer = Answer(Kind.RECORD, Outcome.COMMITTED, 0, 0, "", NOTHING, ())
        return [Decided([answer] * len(batch.operations), more_is_due=False) for batch in batches]

    async def count(self, batch: Sequence[Request]) -> list[of_envoy.Answer | Exception]:
        """Count."""
        self.round_trips.append(len(batch))
        await asyncio.sleep(0)
        return [[] for _ in batch]


async def in_turns(*calls: Any) -> None:  # noqa: ANN401 - coroutines.
    """Make calls, each two turns of the event loop after the one before."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(call))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)


async def test_calls_that_follow_shared_ones_gather() -> None:
    """The first go as they come; whoever comes back after some that shared waits for others."""
    counters = Counters()
    batcher = Batcher(
        cast("Any", counters), lambda *_: NOTHING, Standby(SystemClock()), lambda *_: None
    )

    def call() -> Any:  # noqa: ANN401 - a coroutine.
        return batcher.decide(ACME, Operation(Kind.RECORD, NOTHING, "", b"", "", 0, 0, ()))

    await in_turns(call(), call())
    await asyncio.gather(call(), call())
    await in_turns(call(), call(), call())
    await call()
    await call()

    assert counters.round_trips == [1, 1, 2, 3, 1, 1]


async def test_requests_of_envoy_gather_too() -> None:
    """As the calls do."""
    counters = Counters()
    batcher = of_envoy.Batcher(cast("Any", counters), timeout_s=1)
    request = Request("t", "domain", ())

    await in_turns(batcher.count(request), batcher.count(request))
    await asyncio.gather(batcher.count(request), batcher.count(request))
    await in_turns(batcher.count(request), batcher.count(request), batcher.count(request))

    assert counters.round_trips == [1, 1, 2, 3]
