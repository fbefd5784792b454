"""Redis or Redis Cluster: bounded pools with timeouts, and Lua scripts that load themselves.

Refuses to retry a command by itself: after a timeout nobody knows whether it happened, and
only the caller knows whether repeating it is harmless.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
    RedisClusterException,
    RedisError,
)
from redis.maint_notifications import MaintNotificationsConfig

from kit.errors import CannotStart
from kit.waiting import wait_for

CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")

_PORT = 6379
_MALFORMED = "the URL of Redis cannot be read: see its port and options"


class RedisPool:
    """The connections of one service; `client` answers bytes and speaks RESP3.

    `timeout_s` bounds connecting, each command, and the wait for a free connection. With a URL of
    `redis+cluster://` that names some of its nodes it is a whole cluster.

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
        self._place = _place(url)
        self.client: Redis
        if is_cluster(url):
            # The two clients take the same commands, and share no type.
            self.client = cast("Redis", _open_cluster(url, timeout_s, connections_max))
        else:
            self.client = Redis.from_pool(_open_pool(url, timeout_s, connections_max))

    async def connect(self) -> None:
        """Wait for Redis to answer, within the start-up timeout.

        Raises:
            CannotStart: it does not answer, or refuses the login; names no password.
        """
        await wait_for(
            f"Redis at {self._place}",
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


class _Cluster(RedisCluster):
    """Redis Cluster whose own faults are errors of Redis like all others."""

    async def initialize(self, *more: Any, **options: Any) -> RedisCluster:  # noqa: ANN401 - as redis-py's.
        """Read which nodes there are."""
        try:
            return await super().initialize(*more, **options)
        except RedisClusterException as error:
            raise RedisError(str(error)) from error


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


def is_cluster(url: str) -> bool:
    """Tell whether a URL names a cluster."""
    return url.partition("://")[0] in CLUSTER_SCHEMES


def cluster_nodes(url: str) -> Sequence[tuple[str, int]]:
    """Read which nodes the URL of a cluster names: `redis+cluster://user:word@host:port,host:port`.

    Raises:
        CannotStart: the URL cannot be read.
    """
    _, _, hosts = urlsplit(url).netloc.rpartition("@")
    try:
        places = [urlsplit(f"//{host}") for host in hosts.split(",")]
        nodes = [(place.hostname or "", place.port or _PORT) for place in places]
    except ValueError:
        nodes = []
    if not nodes or not all(host for host, _ in nodes):
        # The text of the fault may hold a piece of the URL, and so of the password.
        raise CannotStart(_MALFORMED)
    return nodes


def node_url(url: str, host: str, port: int) -> str:
    """Make the URL of one node of a cluster, with the login and the options of the cluster's."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme = parts.scheme.removesuffix("+cluster")
    return urlunsplit(parts._replace(scheme=scheme, netloc=f"{login}{at}{place}", path=""))


def _place(url: str) -> str:
    """Say where Redis is, without the login."""
    if is_cluster(url):
        return ", ".join(f"{host}:{port}" for host, port in cluster_nodes(url))
    options = _options(url)
    if "path" in options:
        return str(options["path"])
    return f"{options.get('host', 'localhost')}:{options.get('port', _PORT)}"


def _options(url: str) -> dict[str, Any]:
    try:
        return dict(cast("Any", parse_url(url)))
    except ValueError:
        # As above.
        raise CannotStart(_MALFORMED) from None


def _open_cluster(url: str, timeout_s: float, connections_max: int) -> RedisCluster:
    nodes = cluster_nodes(url)
    options = _options(node_url(url, *nodes[0]))
    for name in ("host", "port", "db"):
        options.pop(name, None)
    is_tls = options.pop("connection_class", None) is SSLConnection
    return _Cluster(
        startup_nodes=[ClusterNode(host, port) for host, port in nodes],
        max_connections=connections_max,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        protocol=3,
        ssl=is_tls,
        # Redirections are followed all the same; they are no repetitions.
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **options,
    )


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
        # As above.
        raise CannotStart(_MALFORMED) from None


def _may_pass(error: Exception) -> bool:
    return isinstance(error, (OSError, RedisError)) and not isinstance(error, AuthenticationError)
