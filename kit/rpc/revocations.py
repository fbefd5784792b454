"""Which API keys are revoked: a copy of Redis's list, refreshed in the background.

Redis keeps the sorted set `tollkeeper:revoked_keys`: the member is a key id, the score when its
last token expires, in Unix seconds. Refuses to forget: while Redis is away, or after it was
emptied, what was once seen as revoked stays so until its expiry.
"""

import asyncio
from datetime import datetime
from typing import Any

from redis.exceptions import RedisError

from kit.clock import Clock, SystemClock
from kit.ending import end
from kit.redis_pool import RedisPool
from kit.telemetry import get_logger

REVOKED_KEYS = "tollkeeper:revoked_keys"

_SYSTEM_CLOCK = SystemClock()


class Revocations:
    """The revoked keys, at most `refresh_s` old while Redis answers."""

    def __init__(
        self, redis: RedisPool, clock: Clock = _SYSTEM_CLOCK, *, refresh_s: float = 1.0
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._refresh_s = refresh_s
        self._expiry_by_key: dict[str, float] = {}
        self._refreshing: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Read the list, and keep reading it."""
        await self.refresh()
        self._refreshing = asyncio.create_task(self._refresh_forever())

    async def close(self) -> None:
        """Stop reading the list."""
        if self._refreshing is not None:
            await end(self._refreshing)

    def is_revoked(self, key_id: str) -> bool:
        """Tell whether a key is known to be revoked."""
        return key_id in self._expiry_by_key

    async def revoke(self, key_id: str, expires: datetime) -> None:
        """Revoke a key whose last token expires at `expires`."""
        await self._redis.client.zadd(REVOKED_KEYS, {key_id: expires.timestamp()}, gt=True)
        await self._redis.client.zremrangebyscore(REVOKED_KEYS, "-inf", self._now_s())
        await self.refresh()

    async def refresh(self) -> None:
        """Read the list once; raise redis-py's error when Redis does not answer."""
        now_s = self._now_s()
        listed: Any = await self._redis.client.zrangebyscore(
            REVOKED_KEYS, now_s, "+inf", withscores=True
        )
        known = {key: score for key, score in self._expiry_by_key.items() if score >= now_s}
        self._expiry_by_key = known | {key.decode(): score for key, score in listed}

    async def _refresh_forever(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.refresh()
                failing = False
            except (OSError, RedisError) as error:
                if not failing:
                    get_logger().warning("revocations.stale", cause=type(error).__name__)
                failing = True

    def _now_s(self) -> float:
        return self._clock.now().timestamp()
