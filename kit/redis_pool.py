"""Redis: one bounded pool with timeouts, and Lua scripts that load themselves.

Refuses to retry a command by itself: after a timeout nobody knows whether it happened, and
only the caller knows whether repeating it is harmless.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError
from redis.maint_notifications import MaintNotificationsConfig

from kit.errors import CannotStart
from kit.waiting import wait_for


class RedisPool:
    """The pool of one service; `client` answers bytes and speaks RESP3.

    `timeout_s` bounds connecting, each command, and the wait for a free connection.

    Raises:
        CannotStart: the URL cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 2.0,
        connections_max: int = 64,
        startup_timeout_s: float = 60.0,
    ) -> None:
        self._startup_timeout_s = startup_timeout_s
        self._connections = _open_pool(url, timeout_s, connections_max)
        self.client: Redis = Redis.from_pool(self._connections)

    async def connect(self) -> None:
        """Wait for Redis to answer, within the start-up timeout.

        Raises:
            CannotStart: it does not answer, or refuses the login; names no password.
        """
        await wait_for(
            f"Redis at {self._place()}",
            self.ping,
            faults=(OSError, RedisError),
            may_pass=_may_pass,
            timeout_s=self._startup_timeout_s,
        )

    async def ping(self) -> None:
        """Return when Redis answers; raise redis-py's error when it does not."""
        await cast("Any", self.client.ping())

    async def close(self) -> None:
        """Close every connection."""
        await self.client.aclose()
        await self._connections.disconnect()

    def _place(self) -> str:
        options = self._connections.connection_kwargs
        if "path" in options:
            return str(options["path"])
        return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


class Script:
    """A Lua script of a file, called by its digest."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def load(self, client: Redis) -> None:
        """Make the script known to Redis, which forgets it at a restart."""
        await cast("Any", client.script_load(self.text))

    async def run(
        self, client: Redis, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int]
    ) -> Any:  # noqa: ANN401 - what a script answers is known to its caller.
        """Run the script, loading it first when Redis does not know it."""
        try:
            return await self._call(client, keys, arguments)
        except NoScriptError:
            # Nothing was run, so this is no repetition.
            await self.load(client)
            return await self._call(client, keys, arguments)

    async def _call(
        self, client: Redis, keys: Sequence[str | bytes], arguments: Sequence[str | bytes | int]
    ) -> Any:  # noqa: ANN401 - as `run`.
        return await cast("Any", client.evalsha(self.sha, len(keys), *keys, *arguments))


def _open_pool(url: str, timeout_s: float, connections_max: int) -> BlockingConnectionPool:
    try:
        return BlockingConnectionPool.from_url(
            url,
            max_connections=connections_max,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            protocol=3,
            retry=Retry(NoBackoff(), 0),
            # They belong to a managed Redis and cost a round trip at each connection.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError:
        # The text of the fault may hold a piece of the URL, and so of the password.
        raise CannotStart("the URL of Redis cannot be read: see its port and options") from None


def _may_pass(error: Exception) -> bool:
    return isinstance(error, (OSError, RedisError)) and not isinstance(error, AuthenticationError)
