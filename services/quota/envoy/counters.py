"""The counters of descriptors in Redis, changed only by `envoy.lua`.

A domain's counters are spread over the slots of a cluster by what they count, and a request meets
each of them by itself, as in the original. Where a refused request must spare its other limits,
all counters of a domain share one slot, so that a request is decided at once. Refuses to judge:
`verdict.py` does.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
from redis.exceptions import NoScriptError, RedisError, ResponseError

from kit.errors import Unavailable
from kit.redis_pool import RedisPool, Script
from services.quota.envoy.verdict import Counted, Hit

SCRIPT = Path(__file__).parent.with_name("envoy.lua")
SLOTS_PER_DOMAIN = 8
ADDEND_MAX = 2**53 - 1


class Request(NamedTuple):
    """What one call counts: its hits, of which those without a limit are not counted.

    `uncounted` are the places of hits whose windows are known to be over, so nobody is asked.
    """

    tenant: str
    domain: str
    hits: tuple[Hit, ...]
    uncounted: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Call:
    """One run of the script: its keys, its requests, and to whom each of its answers goes."""

    keys: dict[str, int] = field(default_factory=dict)
    requests: list[int] = field(default_factory=list)
    units_ms: list[int] = field(default_factory=list)
    goes_to: list[tuple[int, int]] = field(default_factory=list)


class Counters:
    """The script and the keys; counting a batch of requests is one round trip.

    Args:
        stops: Whether a refused request charges only the limits that refuse it.
    """

    def __init__(self, redis: RedisPool, *, stops: bool = False) -> None:
        self._client = redis.client
        self._script = Script(SCRIPT)
        self._stops = stops

    async def connect(self) -> None:
        """Load the script."""
        await self._script.load(self._client)

    async def close(self) -> None:
        """Nothing to close; the pool belongs to the service."""

    async def count(self, batch: Sequence[Request]) -> list[list[Counted | None] | Exception]:
        """Count requests, and answer the counters of each one's hits, or why there are none.

        After a failure nobody knows what was counted; the original does not know either.
        """
        calls = self._calls(batch)
        answers: list[list[Counted | None] | Exception] = [
            [None] * len(request.hits) for request in batch
        ]
        for call, reply in zip(calls, await self._run(calls), strict=True):
            if isinstance(reply, Exception):
                for place, _ in call.goes_to:
                    answers[place] = reply
                continue
            now_ms, *counts = msgpack.unpackb(reply)
            for (place, hit), unit_ms, count in zip(
                call.goes_to, call.units_ms, counts, strict=True
            ):
                counted = answers[place]
                if isinstance(counted, list):
                    counted[hit] = Counted(count, unit_ms - now_ms % unit_ms)
        return answers

    def _calls(self, batch: Sequence[Request]) -> list[_Call]:
        calls: dict[str, _Call] = {}
        for place, request in enumerate(batch):
            spares = self._stops and bool(request.uncounted)
            grouped: dict[str, list[int]] = {}
            for number, hit in enumerate(request.hits):
                limit = None if hit.match is None else hit.match.rule.limit
                if hit.match is None or limit is None or number in request.uncounted:
                    continue
                name = hit.match.counter
                shard = 0 if self._stops else shard_of(name)
                slot = slot_of(request.tenant, request.domain, shard)
                call = calls.get(slot)
                if call is None:
                    call = calls[slot] = _Call()
                index = call.keys.setdefault(f"{slot}:{name}", len(call.keys) + 1)
                seconds = limit.unit.seconds
                addend = 0 if spares else min(hit.addend, ADDEND_MAX)
                grouped.setdefault(slot, []).extend(
                    (index, seconds, limit.requests_per_unit, addend)
                )
                call.units_ms.append(seconds * 1000)
                call.goes_to.append((place, number))
            for slot, flat in grouped.items():
                calls[slot].requests += (len(flat) // 4, *flat)
        return list(calls.values())

    async def _run(self, calls: Sequence[_Call]) -> list[Any]:
        try:
            replies = await self._send(calls)
            lost = [place for place, reply in enumerate(replies) if _is_script_lost(reply)]
            if lost:
                await self._script.load(self._client)
                again = await self._send([calls[place] for place in lost])
                for place, reply in zip(lost, again, strict=True):
                    replies[place] = reply
        except (OSError, RedisError):
            return [unavailable()] * len(calls)
        return [
            unavailable() if isinstance(reply, Exception) and not _is_mistake(reply) else reply
            for reply in replies
        ]

    async def _send(self, calls: Sequence[_Call]) -> list[Any]:
        if not calls:
            return []
        async with self._client.pipeline(transaction=False) as pipeline:
            for call in calls:
                argument = msgpack.packb(self._stops) + msgpack.packb(call.requests)
                # In a cluster too, where redis-py has no `evalsha` of several nodes.
                pipeline.execute_command(
                    "EVALSHA", self._script.sha, len(call.keys), *call.keys, argument
                )
            return await pipeline.execute(raise_on_error=False)


def slot_of(tenant: str, domain: str, shard: int) -> str:
    """Name the part of a domain whose counters share a slot."""
    return f"tollkeeper:quota:envoy:{{{tenant}/{domain}/{shard}}}"


def shard_of(counter: str) -> int:
    """Tell in which part of its domain a counter is."""
    return zlib.crc32(counter.encode()) % SLOTS_PER_DOMAIN


def unavailable() -> Unavailable:
    """Make the error of counters that did not answer."""
    return Unavailable("COUNTERS_UNAVAILABLE", "the counters did not answer in time")


def _is_script_lost(reply: object) -> bool:
    return isinstance(reply, NoScriptError)


def _is_mistake(error: Exception) -> bool:
    """Tell what only a mistake of ours can cause from what passes or an operator mends."""
    return isinstance(error, ResponseError) and "script" in str(error) and "OOM" not in str(error)
