"""Check the servers that the environment names, before anything is started on them.

Messages name the variable, the host and the port, never a user or a password.
"""

import asyncio
import os
from urllib.parse import urlsplit

import asyncpg
import redis

from cli.errors import CommandError

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
    """Connect once.

    Raises:
        CommandError: The URL is malformed, nothing answers, the login is refused, or the server is
            older than Redis 6.2.
    """
    place = _place(url, "REDIS_URL", ("redis", "rediss", "unix"), 6379)
    try:
        with redis.Redis.from_url(
            url, socket_connect_timeout=_WAIT_S, socket_timeout=_WAIT_S
        ) as client:
            version = str(client.info("server")["redis_version"])
    except (redis.RedisError, OSError, ValueError) as error:
        raise CommandError(f"cannot use Redis at {place}: {_reason(error)}") from None
    if tuple(int(part) for part in version.split(".")[:2]) < _REDIS_FLOOR:
        raise CommandError(f"Redis at {place} is version {version}; 6.2 or newer is needed")


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
