"""Check the servers that the environment names, before anything is started on them.

Messages name the variable, the host and the port, never a user or a password.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import asyncpg
import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException

from cli.errors import CommandError
from kit.errors import CannotStart
from kit.redis_pool import cluster_nodes, is_cluster, node_url

_POSTGRES_FLOOR = 15
_REDIS_FLOOR = (6, 2)
_WAIT_S = 10.0


def check_postgres(url: str) -> None:
    """Connect once.

    Raises:
        CommandError: The URL is malformed, nothing answers, the login is refused, or the server is
            older than PostgreSQL 15.
    """
    place = _place(url, "DATABASE_URL", ("postgresql", "postgres", "postgresql+asyncpg"), 5432)
    try:
        version = asyncio.run(_postgres_version(url))
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
        raise CommandError(f"cannot use PostgreSQL at {place}: {_reason(e)}") from None
    if version < _POSTGRES_FLOOR:
        raise CommandError(
            f"PostgreSQL at {place} is version {version}; {_POSTGRES_FLOOR} or newer is needed"
        )


async def _postgres_version(url: str) -> int:
    _, _, rest = url.partition("://")
    connection = await asyncpg.connect(f"postgresql://{rest}", timeout=_WAIT_S)
    try:
        return int(connection.get_server_version().major)
    finally:
        await connection.close()


def check_redis(url: str) -> None:
    """Connect once; to each node that is named, where it is a cluster.

    Raises:
        CommandError: The URL is malformed, nothing answers, the login is refused, or the server is
            older than Redis 6.2.
    """
    try:
        nodes = [node_url(url, *node) for node in cluster_nodes(url)] if is_cluster(url) else [url]
    except CannotStart:
        raise CommandError("REDIS_URL is not a URL") from None
    for node in nodes:
        place = _place(node, "REDIS_URL", ("redis", "rediss", "unix"), 6379)
        try:
            with redis.Redis.from_url(
                node, socket_connect_timeout=_WAIT_S, socket_timeout=_WAIT_S
            ) as client:
                version = str(client.info("server")["redis_version"])
        except (redis.RedisError, OSError, ValueError) as error:
            raise CommandError(f"cannot use Redis at {place}: {_reason(error)}") from None
        if tuple(int(part) for part in version.split(".")[:2]) < _REDIS_FLOOR:
            raise CommandError(f"Redis at {place} is version {version}; 6.2 or newer is needed")


@contextmanager
def open_redis(url: str, *, timeout_s: float) -> Iterator[redis.Redis]:
    """Open a client of Redis or of a cluster; raise redis-py's error when it does not answer."""
    if not is_cluster(url):
        with redis.Redis.from_url(url, socket_timeout=timeout_s) as client:
            yield client
        return
    parts = urlsplit(url)
    try:
        cluster = RedisCluster(
            startup_nodes=[_cluster_node(*node) for node in cluster_nodes(url)],
            username=parts.username,
            password=parts.password,
            socket_timeout=timeout_s,
            ssl=parts.scheme.startswith("rediss"),
        )
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error
    with cluster:
        # The two clients take the same commands, and share no type.
        yield cast("redis.Redis", cluster)


def _cluster_node(host: str, port: int) -> ClusterNode:
    # redis-py gives this class no types.
    return cast("ClusterNode", cast("Any", ClusterNode)(host, port))


def _place(url: str, variable: str, schemes: tuple[str, ...], port: int) -> str:
    try:
        parts = urlsplit(url)
        place = f"{parts.hostname or 'the local socket'}:{parts.port or port} ({variable})"
    except ValueError:
        raise CommandError(f"{variable} is not a URL") from None
    if parts.scheme not in schemes:
        raise CommandError(f"{variable} must start with {schemes[0]}://")
    return place


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_WAIT_S:.0f} s"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error).strip().partition("\n")[0] or type(error).__name__
