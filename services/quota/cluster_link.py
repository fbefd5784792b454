"""A link to Redis Cluster: one pipelined connection to each node, and who has which slot.

Commands are grouped by the node that has their key, so that a batch is one message to each node.
When slots have moved, the node says so, and what it did not do is asked where it sent us; whoever
does not answer may have been replaced, so the slots are read anew. Refuses to repeat a command of
which it is not known that nobody did it.
"""

import asyncio
from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial

from kit.ending import end
from kit.redis_pool import cluster_nodes, node_url
from services.quota.redis_link import NotAsked, RedisLink, Reply, ReplyError, packed

SLOTS_COUNT = 16_384

_ATTEMPTS_MAX = 5
_TRY_AGAIN_PAUSE_S = 0.005
_REFRESH_PAUSE_S = 0.1
_ASKING = packed("ASKING")
_SLOTS = packed("CLUSTER", "SLOTS")


class ClusterLink:
    """The links to all nodes; which there are is read when the first command is asked.

    Args:
        url: `redis+cluster://` or `rediss+cluster://` with some of the nodes.
        timeout_s: How long commands wait for their replies, and for a connection.

    Raises:
        CannotStart: the URL cannot be read.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._seeds = cluster_nodes(url)
        self._links: dict[tuple[str, int], RedisLink] = {}
        self._owners: list[RedisLink | None] = [None] * SLOTS_COUNT
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_s = float("-inf")

    async def ask(self, commands: Sequence[bytes], keys: Sequence[str]) -> list[Reply]:
        """Send commands, each with one of its keys, and answer their replies.

        The reply of a command that its node did not answer is an `OSError`.

        Raises:
            OSError: no node says who has the slots.
        """
        await self._know_slots()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s
        slots = [slot_of(key) for key in keys]
        replies: list[Reply] = [None] * len(commands)
        waiting: Iterable[int] = range(len(commands))
        for _ in range(_ATTEMPTS_MAX):
            await self._ask_owners(commands, slots, waiting, replies)
            waiting = [place for place in waiting if isinstance(replies[place], ReplyError)]
            waiting = await self._follow(commands, slots, waiting, replies)
            if not waiting or loop.time() >= deadline_s:
                break
        return replies

    async def nodes(self) -> Sequence[RedisLink]:
        """Answer a link to every node that has slots.

        Raises:
            OSError: no node says which there are.
        """
        await self._know_slots()
        return list(dict.fromkeys(link for link in self._owners if link is not None))

    def drop(self) -> None:
        """Ask again who has the slots."""
        self._refresh_soon()

    async def close(self) -> None:
        """Close every connection."""
        if self._refreshing is not None:
            with suppress(OSError):
                await end(self._refreshing)
        for link in self._links.values():
            await link.close()

    async def _ask_owners(
        self,
        commands: Sequence[bytes],
        slots: Sequence[int],
        places: Iterable[int],
        replies: list[Reply],
    ) -> None:
        """Ask all owners at once, and put their replies in their places."""
        groups: dict[RedisLink | None, list[int]] = {}
        for place in places:
            groups.setdefault(self._owners[slots[place]], []).append(place)
        found = await asyncio.gather(
            *(
                self._ask_node(link, [commands[place] for place in group])
                for link, group in groups.items()
            )
        )
        for group, answered in zip(groups.values(), found, strict=True):
            for place, reply in zip(group, answered, strict=True):
                replies[place] = reply

    async def _ask_node(self, link: RedisLink | None, commands: Sequence[bytes]) -> list[Reply]:
        if link is None:
            self._refresh_soon()
            return [NotAsked("no node of the cluster has the slot")] * len(commands)
        try:
            return await link.ask(commands)
        except OSError as error:
            self._refresh_soon()
            return [error] * len(commands)

    async def _follow(
        self,
        commands: Sequence[bytes],
        slots: Sequence[int],
        places: Iterable[int],
        replies: list[Reply],
    ) -> list[int]:
        """Go where nodes sent us, and answer which commands are to be asked again."""
        again = []
        is_moving = False
        for place in places:
            asked = self._owners[slots[place]]
            match str(replies[place]).split():
                case ["MOVED", _, address] if asked is not None:
                    self._owners[slots[place]] = self._link(*_address(address, asked.host))
                    self._refresh_soon()
                    again.append(place)
                case ["ASK", _, address] if asked is not None:
                    target = self._link(*_address(address, asked.host))
                    # Twice as many replies: the first says that the node heard that it is asked.
                    reply = (await self._ask_node(target, [_ASKING, commands[place]]))[1]
                    replies[place] = reply
                    if _is_moving(reply):
                        is_moving = True
                        again.append(place)
                case ["TRYAGAIN", *_]:
                    is_moving = True
                    again.append(place)
                case ["CLUSTERDOWN" | "READONLY", *_]:
                    self._refresh_soon()
                case _:
                    pass
        if is_moving:
            # Some keys of a customer are on one node and some on the other, for a moment.
            await asyncio.sleep(_TRY_AGAIN_PAUSE_S)
        return again

    def _link(self, host: str, port: int) -> RedisLink:
        link = self._links.get((host, port))
        if link is None:
            url = node_url(self._url, host, port)
            link = self._links[host, port] = RedisLink(url, timeout_s=self._timeout_s)
        return link

    async def _know_slots(self) -> None:
        if self._refreshed_s == float("-inf"):
            self._refresh_soon()
            if self._refreshing is not None:
                await asyncio.shield(self._refreshing)

    def _refresh_soon(self) -> None:
        """Read who has the slots, unless that is being done or was done a moment ago."""
        if self._refreshing is not None and not self._refreshing.done():
            return
        self._refreshing = asyncio.create_task(self._refresh())
        # Nobody may be waiting for it.
        self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _refresh(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = self._refreshed_s + _REFRESH_PAUSE_S - loop.time()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        known = [partial(self._link, *address) for address in (*self._links, *self._seeds)]
        for link in (make() for make in known):
            with suppress(OSError):
                (reply,) = await link.ask([_SLOTS])
                if not isinstance(reply, ReplyError) and reply:
                    await self._take_over(reply, link.host)
                    self._refreshed_s = loop.time()
                    return
        raise NotAsked("no node of the cluster says who has the slots")

    async def _take_over(self, rows: Sequence[Reply], host: str) -> None:
        """Go on by what a node says of the cluster."""
        owners: list[RedisLink | None] = [None] * SLOTS_COUNT
        for first, last, (owner_host, port, *_), *_ in rows:
            link = self._link(owner_host.decode() if owner_host else host, port)
            owners[first : last + 1] = [link] * (last + 1 - first)
        self._owners = owners
        for address in [name for name, link in self._links.items() if link not in owners]:
            if address not in self._seeds:
                await self._links.pop(address).close()


def slot_of(key: str) -> int:
    """Tell in which slot a key is: the CRC16 of its tag, or of all of it without one."""
    _, opening, rest = key.partition("{")
    tag, closing, _ = rest.partition("}")
    hashed = tag if opening and closing and tag else key
    # The polynomial of XMODEM, as the specification of Redis Cluster says.
    return crc_hqx(hashed.encode(), 0) % SLOTS_COUNT


def _address(text: str, host: str) -> tuple[str, int]:
    """Read where a node sent us; without a host it means its own."""
    named, _, port = text.rpartition(":")
    return named or host, int(port)


def _is_moving(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("TRYAGAIN")
