"""What Redis knows of a customer's holds and of what was decided, read without changing anything.

Holds are read in steps, so that Redis is not kept busy however many there are; those that end
meanwhile may be among them or not.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from services.quota.counters import (
    Answer,
    Root,
    keys_of,
    names_beside,
    remembered_answer,
)
from services.quota.holdings import Holding, read_holding
from services.quota.redis_link import Link, Reply, packed
from services.quota.refusals import unavailable

_STEP = 1000
_START = b"0"


class Inspection:
    """Reads; every method may fail with COUNTERS_UNAVAILABLE."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def holdings(self, root: Root) -> list[Holding]:
        """Read all holds of a customer that have not ended, the first to expire first."""
        key = keys_of(root)[0]
        records: dict[bytes, bytes] = {}
        cursor: bytes = _START
        while True:
            command = packed("HSCAN", key, cursor, "MATCH", "h*", "COUNT", _STEP)
            (reply,) = await self._ask([command], [key])
            cursor, flat = reply
            records |= dict(zip(flat[::2], flat[1::2], strict=True))
            if cursor == _START:
                break
        found = [read_holding(name.decode()[1:], record) for name, record in records.items()]
        return sorted(found, key=lambda each: (each.expire_ms, each.name))

    async def decision(self, root: Root, request_id: str) -> Answer | None:
        """Read how a request was answered, if that is remembered still."""
        _, _, *recents = keys_of(root)
        replies = await self._ask(
            [packed("HGET", recent, f"r{request_id}") for recent in recents], recents
        )
        records = [record for record in replies if record is not None]
        if not records:
            return None
        answers = [await self._shown(record, recents) for record in records]
        return max(answers, key=lambda answer: answer.now_ms)

    async def _shown(self, record: bytes, recents: Sequence[str]) -> Answer:
        names = names_beside(record)
        replies = await self._ask([packed("HMGET", recent, *names) for recent in recents], recents)
        found = zip(names * len(recents), chain.from_iterable(replies), strict=True)
        return remembered_answer(record, {name: each for name, each in found if each is not None})

    async def _ask(self, commands: Sequence[bytes], keys: Sequence[str]) -> list[Any]:
        try:
            replies: list[Reply] = await self._link.ask(commands, keys)
        except OSError as error:
            raise unavailable() from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise unavailable() from reply
        return replies
