"""What the calls of each tenant have used, learned here and shared with the other replicas.

Every replica learns from the commits that it sees and estimates from memory. Every few seconds it
adds its news to the tallies in Redis, and takes those that it was asked about. Refuses to remember
more than so many tallies: those that nobody asked about for longest are forgotten, and while Redis
is away news beyond a bound are lost, since nothing but a guess depends on them.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import msgpack
from redis.exceptions import RedisError

from kit.ending import end
from kit.redis_pool import RedisPool, Script
from kit.telemetry import get_logger
from services.quota.learning import (
    WEIGHT_MAX,
    Tally,
    estimate,
    hold_name,
    series_in,
    series_of,
)
from services.quota.model import Amounts, CommitCall, ReserveCall

SHARE_S = 2.0
TALLIES_PER_TENANT_MAX = 5_000
TALLIES_MAX = 50_000
KEPT_MS = 30 * 24 * 60 * 60 * 1000

SCRIPT = Path(__file__).with_name("learn.lua")
_FIELDS_PER_CALL = 500

Key = tuple[str, str]
"""A series and a unit."""


class Estimators:
    """One for each replica.

    Args:
        share_s: How often news are shared.
    """

    def __init__(self, redis: RedisPool, *, share_s: float = SHARE_S) -> None:
        self._redis = redis
        self._share_s = share_s
        self._script = Script(SCRIPT)
        self._known: OrderedDict[tuple[str, Key], Tally] = OrderedDict()
        self._news: dict[str, dict[Key, Tally]] = defaultdict(dict)
        self._sharing: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Begin to share."""
        self._sharing = asyncio.create_task(self._share_forever())

    async def close(self) -> None:
        """Share what was learned last, and stop."""
        if self._sharing is None:
            return
        await end(self._sharing)
        with suppress(OSError, RedisError):
            await self.share()

    def estimated(self, tenant: str, call: ReserveCall, base: str) -> tuple[ReserveCall, str]:
        """Add to the amounts of a call what is estimated, and say so in the name of its hold."""
        parts, amounts = [], dict(call.amounts)
        for unit, quantity_max, route in call.estimates:
            series = series_of(call.dimensions, route)
            quantity = estimate(self._tally(tenant, (series, unit)), unit, quantity_max)
            parts.append((series, quantity))
            amounts[unit] = quantity
        return call._replace(amounts=amounts), hold_name(base, parts)

    def learn(self, tenant: str, call: CommitCall) -> None:
        """Learn from the commit of a hold for which something was estimated."""
        if call.hold is None:
            return
        for series in series_in(call.hold.name):
            self._learn(tenant, series, call.amounts)

    async def share(self) -> None:
        """Add the news to what all replicas know, and take what they know.

        Raises:
            OSError, RedisError: Redis does not answer; the news are kept.
        """
        for tenant in list(self._news):
            news = self._news.pop(tenant)
            fields = list(news)
            for start in range(0, len(fields), _FIELDS_PER_CALL):
                some = fields[start : start + _FIELDS_PER_CALL]
                try:
                    shared = await self._exchange(tenant, [(key, news[key]) for key in some])
                except (OSError, RedisError):
                    self._take_back(tenant, {key: news[key] for key in fields[start:]})
                    raise
                for key, tally in zip(some, shared, strict=True):
                    since = self._news[tenant].get(key) if tenant in self._news else None
                    self._remember(tenant, key, tally.joined(since) if since else tally)

    def _tally(self, tenant: str, key: Key) -> Tally | None:
        known = self._known.get((tenant, key))
        if known is not None:
            self._known.move_to_end((tenant, key))
        # To be asked about, even if nothing was learned here.
        news = self._news[tenant]
        if len(news) < TALLIES_PER_TENANT_MAX:
            news.setdefault(key, Tally())
        return known

    def _learn(self, tenant: str, series: str, amounts: Amounts) -> None:
        news = self._news[tenant]
        for unit, quantity in amounts.items():
            key = (series, unit)
            if key not in news and len(news) >= TALLIES_PER_TENANT_MAX:
                continue
            news[key] = news.get(key, Tally()).seeing(quantity)
            known = self._known.get((tenant, key), Tally())
            self._remember(tenant, key, known.seeing(quantity))

    def _remember(self, tenant: str, key: Key, tally: Tally) -> None:
        self._known[tenant, key] = tally
        self._known.move_to_end((tenant, key))
        if len(self._known) > TALLIES_MAX:
            self._known.popitem(last=False)

    def _take_back(self, tenant: str, unshared: Mapping[Key, Tally]) -> None:
        news = self._news[tenant]
        for key, tally in unshared.items():
            news[key] = tally.joined(news.get(key, Tally()))

    async def _exchange(self, tenant: str, news: Sequence[tuple[Key, Tally]]) -> Sequence[Tally]:
        flat: list[object] = []
        for (series, unit), tally in news:
            flat += (f"{series} {unit}", flat_of(tally))
        key = f"tollkeeper:quota:estimates:{tenant}"
        arguments = (
            cast("bytes", msgpack.packb(flat, use_bin_type=False)),
            *(WEIGHT_MAX, TALLIES_PER_TENANT_MAX, KEPT_MS),
        )
        answer = await self._script.run(self._redis.client, [key], arguments)
        return [tally_of(each) for each in cast("list[Any]", msgpack.unpackb(answer))]

    async def _share_forever(self) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(self._share_s)
            try:
                await self.share()
                is_failing = False
            except (OSError, RedisError) as error:
                if not is_failing:
                    get_logger().warning("estimates.unshared", cause=type(error).__name__)
                is_failing = True


def flat_of(tally: Tally) -> list[int]:
    """Write a tally as the script reads it."""
    return [figure for bucket, figures in tally.buckets.items() for figure in (bucket, *figures)]


def tally_of(flat: Sequence[int] | Mapping[int, int]) -> Tally:
    """Read a tally as the script writes it: Lua knows no empty list from an empty map."""
    if not flat:
        return Tally()
    figures = cast("Sequence[int]", flat)
    return Tally(
        {
            bucket: (weight, largest)
            for bucket, weight, largest in zip(
                figures[::3], figures[1::3], figures[2::3], strict=True
            )
        }
    )
