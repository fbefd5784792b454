"""Which customers have holds that expire, and when, so that somebody ends them in time.

An index beside the customers' own keys, in shards so that a cluster spreads it: for each customer
the instant at which his holds are to be looked at next, never later than the first expiry. It is
written in the message that makes the first such hold, so that it is there even if this process
dies at once. What a replica takes from it another gets unless the first is done within the lease.
Each installation has an index of its own, so that several may share one Redis.
Refuses to be the truth: it may name a customer who has nothing due, and a walk over all keys adds
whom it misses.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from services.quota.redis_link import Link, RedisLink, Reply, ReplyError, check_replies, packed

SHARDS_COUNT = 8
LEASE_MS = 500
TAKEN_MAX = 256

_SCRIPT = Path(__file__).with_name("take_due.lua").read_bytes()
_KNOWN_MAX = 100_000
_KEYS_PER_STEP = 1000
_PREFIX, _SUFFIX = b"tollkeeper:quota:{", b"}:expiries"


class ExpiryIndex:
    """The index; customers are named `tenant/customer`, as in the tags of their keys.

    Args:
        installation: Whose index it is; asked again and again, since it is learned at the start.
    """

    def __init__(self, link: Link, installation: Callable[[], str]) -> None:
        self._link = link
        self._installation = installation
        # Until when the index is known to name a customer in time.
        self._known: dict[str, int] = {}
        self._late: dict[str, int] = {}

    def note(self, name: str, expire_ms: int, now_ms: int) -> tuple[bytes, str] | None:
        """Make the command that notes a hold, and name its key; nothing where it is noted."""
        if now_ms < self._known.get(name, 0) <= expire_ms:
            return None
        return self._added(name, expire_ms)

    def noted(self, name: str, expire_ms: int, *, ttl_ms: int, now_ms: int) -> None:
        """Remember what was noted before a hold was made, which has happened by this instant."""
        known_ms = self._known.get(name, 0)
        first_ms = known_ms if 0 < known_ms <= expire_ms else expire_ms
        if first_ms <= now_ms:
            # It has come due meanwhile; whoever took it may have looked before the hold was there.
            first_ms = self._late[name] = now_ms + ttl_ms
        elif len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[name] = first_ms

    def forget(self) -> None:
        """Trust nothing of what Redis was told; it may have lost it."""
        self._known.clear()

    async def take(self) -> list[str]:
        """Take customers that are to be looked at, for as long as the lease.

        Raises:
            OSError: Redis does not answer.
        """
        late, self._late = self._late, {}
        commands = [self._added(name, expire_ms) for name, expire_ms in late.items()]
        for shard in range(SHARDS_COUNT):
            due, taken = keys_of(shard, self._installation())
            commands.append((packed("EVAL", _SCRIPT, 2, due, taken, TAKEN_MAX, LEASE_MS), due))
        replies = await self._ask(commands)
        return [name.decode() for reply in replies[len(late) :] for name in reply]

    async def finish(self, names: Sequence[str]) -> None:
        """Note when to look again at customers that were taken, and give them back.

        Raises:
            OSError: Redis does not answer; another replica looks again after the lease.
        """
        commands = []
        for name, expire_ms in zip(names, await self._first_expiries(names), strict=True):
            if expire_ms is not None:
                commands.append(self._added(name, expire_ms))
            commands.append(self._given_back(name))
        await self._ask(commands)

    async def drop(self, names: Sequence[str]) -> None:
        """Give back customers that were taken, without looking at them again.

        Raises:
            OSError: Redis does not answer; somebody looks again after the lease.
        """
        await self._ask([self._given_back(name) for name in names])

    async def walk(self, node: RedisLink, cursor: bytes) -> bytes:
        """Note the customers of some keys of one node, and answer where to go on; `0` at the end.

        Raises:
            OSError: Redis does not answer.
        """
        scan = packed("SCAN", cursor, "MATCH", _PREFIX + b"*" + _SUFFIX, "COUNT", _KEYS_PER_STEP)
        ((following, keys),) = check_replies(await node.ask([scan]))
        names = [key[len(_PREFIX) : -len(_SUFFIX)].decode() for key in keys]
        expiries = zip(names, await self._first_expiries(names), strict=True)
        await self._ask([self._added(name, ms) for name, ms in expiries if ms is not None])
        return bytes(following)

    def _added(self, name: str, expire_ms: int) -> tuple[bytes, str]:
        due, _ = keys_of(_shard(name), self._installation())
        return packed("ZADD", due, "LT", expire_ms, name), due

    def _given_back(self, name: str) -> tuple[bytes, str]:
        _, taken = keys_of(_shard(name), self._installation())
        return packed("ZREM", taken, name), taken

    async def _first_expiries(self, names: Sequence[str]) -> list[int | None]:
        keys = [f"tollkeeper:quota:{{{name}}}:expiries" for name in names]
        commands = [(packed("ZRANGE", key, 0, 0, "WITHSCORES"), key) for key in keys]
        # A key that is not what it should be keeps only its own customer from being looked at.
        return [
            int(reply[1]) if reply and not isinstance(reply, ReplyError) else None
            for reply in await self._replies(commands)
        ]

    async def _ask(self, commands: Sequence[tuple[bytes, str]]) -> list[Reply]:
        return check_replies(await self._replies(commands))

    async def _replies(self, commands: Sequence[tuple[bytes, str]]) -> list[Reply]:
        replies = await self._link.ask(
            [command for command, _ in commands], [key for _, key in commands]
        )
        for reply in replies:
            if isinstance(reply, OSError):
                raise reply
        return replies


def keys_of(shard: int, installation: str) -> tuple[str, str]:
    """Name the keys of a shard: who is to be looked at, and who is being looked at."""
    tag = f"tollkeeper:quota:{{expiries-{shard}}}"
    return f"{tag}:due:{installation}", f"{tag}:taken:{installation}"


def _shard(name: str) -> int:
    return zlib.crc32(name.encode()) % SHARDS_COUNT
