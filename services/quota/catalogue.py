"""The limits of every tenant in memory, kept as fresh as Redis says they must be.

Each tenant has a version in Redis, a random token that every change of a limit replaces after it
was committed. Every replica compares the versions of the tenants it knows several times a second
and loads anew what differs, also when Redis lost them. Limits that end at an instant end by
Redis's clock, like their windows. Refuses to decide by limits it has never
loaded, but goes on with those it has while Redis or PostgreSQL is away.
"""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, cast

from redis.exceptions import RedisError

from kit.clock import Clock
from kit.ending import end
from kit.errors import DomainError
from kit.postgres import Database
from kit.redis_pool import RedisPool
from kit.telemetry import get_logger, meter
from services.quota import store
from services.quota.coverage import Coverage, LimitIndex, in_force
from services.quota.model import Dimensions, Limit, Subject
from services.quota.rate_cards import RETRY_S, RateCards
from services.quota.rebuilding import MadeMs
from services.quota.refusals import unavailable
from services.quota.unix_time import unix_ms

REFRESH_S = 0.25

_VERSIONS = "tollkeeper:quota:limit_versions"
_VERSION_BYTES = 8
_VERSION_WAIT_S = 0.25
_TENANTS_PER_LOOK = 1000
_filter_failures = meter.create_counter(
    "quota.filter_failures", description="Calls to which the filter of a limit cannot be applied."
)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The limits of a tenant as of a version, which look at them this was, and what applies.

    Args:
        made_ms: When each limit was made, by its id.
        changes_at: When the first of the limits ends that are in the index.
    """

    number: int
    version: bytes | None
    limits: Sequence[Limit]
    made_ms: MadeMs
    index: LimitIndex
    changes_at: datetime | None


class LimitCatalogue:
    """All limits, by tenant; a tenant's are loaded when it is first asked for."""

    def __init__(
        self,
        database: Database,
        redis: RedisPool,
        cards: RateCards,
        clock: Clock,
        *,
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._database = database
        self._cards = cards
        self._redis = redis
        self._refresh_s = refresh_s
        self._loaded: dict[str, _Loaded] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._numbers = count(1)
        self._clock = clock
        self._redis_ahead_s: float | None = None
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def connect(self) -> None:
        """Begin to compare versions, and to look at rate cards."""
        self._tasks = (
            asyncio.create_task(self._refresh_forever()),
            asyncio.create_task(self._refresh_cards_forever()),
        )

    async def close(self) -> None:
        """Stop comparing versions."""
        await end(*self._tasks)

    def is_loaded(self, tenant: str) -> bool:
        """Tell whether the limits of a tenant are in memory."""
        return tenant in self._loaded

    def cover(self, tenant: str, subject: Subject, dimensions: Dimensions) -> Coverage:
        """Find what covers a call of a tenant whose limits are in memory.

        Raises:
            Precondition: TOO_MANY_LIMITS.
            Unavailable: RATE_CARD_UNAVAILABLE.
        """
        return self._loaded[tenant].index.coverage(subject, dimensions)

    def index(self, tenant: str) -> LimitIndex:
        """Answer the limits of a tenant that are in memory."""
        return self._loaded[tenant].index

    def made_ms(self, tenant: str) -> MadeMs:
        """Answer when each of them was made."""
        return self._loaded[tenant].made_ms

    async def load(self, tenant: str) -> None:
        """Load the limits of a tenant unless they are; who comes meanwhile waits for the same.

        While Redis does not answer they are loaded as they are in PostgreSQL.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        if tenant in self._loaded:
            return
        loading = self._loading.get(tenant)
        if loading is None:
            loading = self._loading[tenant] = asyncio.create_task(self._load_first(tenant))
            loading.add_done_callback(lambda _: self._loading.pop(tenant))
        await asyncio.shield(loading)

    async def announce(self, tenant: str) -> None:
        """Tell every replica that the limits of a tenant have changed, and load them here.

        Raises:
            Unavailable: COUNTERS_UNAVAILABLE, Redis could not be told; to be repeated.
        """
        version = secrets.token_bytes(_VERSION_BYTES)
        try:
            await cast("Any", self._redis.client.hset(_VERSIONS, tenant, version))
            await self._reload(tenant)
        except (OSError, RedisError) as error:
            raise unavailable() from error

    async def refresh(self) -> None:
        """Compare the versions of all known tenants once, and load what differs."""
        await self._look_at_the_clock()
        tenants = list(self._loaded)
        for start in range(0, len(tenants), _TENANTS_PER_LOOK):
            some = tenants[start : start + _TENANTS_PER_LOOK]
            versions = await cast("Any", self._redis.client.hmget(_VERSIONS, some))
            for tenant, version in zip(some, versions, strict=True):
                if version != self._loaded[tenant].version:
                    await self._reload(tenant)

    async def _reload(self, tenant: str) -> None:
        number = next(self._numbers)
        await self._look_at_the_clock()
        # The version is read first: a change in between makes it differ, and is loaded next time.
        await self._take_over(tenant, number, await self._version(tenant))

    async def _load_first(self, tenant: str) -> None:
        number = next(self._numbers)
        version = None
        with suppress(OSError, RedisError):
            async with asyncio.timeout(_VERSION_WAIT_S):
                await self._look_at_the_clock()
                version = await self._version(tenant)
        await self._take_over(tenant, number, version)

    async def _take_over(self, tenant: str, number: int, version: bytes | None) -> None:
        async with self._database.transaction(tenant) as transaction:
            stored = await store.load_limits(transaction, tenant)
        plans = {one.limit.plan_id for one in stored} - {""}
        await self._cards.want(tenant, plans)
        known = self._loaded.get(tenant)
        if known is None or known.number < number:
            limits = [one.limit for one in stored]
            index, changes_at = self._indexed(tenant, limits)
            made_ms = {one.limit.limit_id: unix_ms(one.create_time) for one in stored}
            self._loaded[tenant] = _Loaded(number, version, limits, made_ms, index, changes_at)

    def renew(self) -> None:
        """Leave out the limits that have ended since the tenant's were looked at."""
        now = self._now()
        for tenant, loaded in self._loaded.items():
            if loaded.changes_at is not None and loaded.changes_at <= now:
                self._index_anew(tenant)

    def _index_anew(self, tenant: str) -> None:
        loaded = self._loaded[tenant]
        index, changes_at = self._indexed(tenant, loaded.limits)
        self._loaded[tenant] = replace(loaded, index=index, changes_at=changes_at)

    def _indexed(self, tenant: str, limits: Sequence[Limit]) -> tuple[LimitIndex, datetime | None]:
        told = set[str]()

        def filter_failed(limit_id: str) -> None:
            _filter_failures.add(1)
            if limit_id not in told:
                told.add(limit_id)
                get_logger().warning("limit.filter_failed", tenant=tenant, limit_id=limit_id)

        applying, changes_at = in_force(limits, self._now())
        index = LimitIndex(applying, filter_failed, cards=self._cards.of(tenant))
        return index, changes_at

    def _now(self) -> datetime:
        """Tell the time of Redis, also while it is away; until it was seen, our own."""
        if self._redis_ahead_s is None:
            return self._clock.now()
        return datetime.fromtimestamp(_loop_s() + self._redis_ahead_s, UTC)

    async def _look_at_the_clock(self) -> None:
        seconds, microseconds = await cast("Any", self._redis.client.time())
        self._redis_ahead_s = seconds + microseconds / 1_000_000 - _loop_s()

    async def _version(self, tenant: str) -> bytes | None:
        version: bytes | None = await cast("Any", self._redis.client.hget(_VERSIONS, tenant))
        return version

    async def _refresh_forever(self) -> None:
        is_failing = False
        while True:
            await asyncio.sleep(self._pause_s())
            self.renew()
            try:
                await self.refresh()
                is_failing = False
            except (OSError, RedisError, DomainError) as error:
                if not is_failing:
                    get_logger().warning("limits.stale", cause=type(error).__name__)
                is_failing = True

    async def _refresh_cards_forever(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            for tenant in await self._cards.refresh():
                if tenant in self._loaded:
                    self._index_anew(tenant)

    def _pause_s(self) -> float:
        """Wait until the next look, or until the next limit ends."""
        now = self._now()
        ends = [each.changes_at for each in self._loaded.values() if each.changes_at is not None]
        return min([self._refresh_s, *((end - now).total_seconds() for end in ends)])


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
