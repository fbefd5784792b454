"""Notices that Redis has lost counters, and begins a new epoch of them.

Redis holds markers: the token of the epoch, and the instant of the last beat of any replica. Where
a marker is missing, or its beat is older than one that a replica has seen, or that PostgreSQL has
noted for replicas that start, Redis was emptied or is back with an old file. PostgreSQL decides
which epoch it is, so that replicas agree. While that is not settled nobody decides by the counters.
Refuses to mend what was lost: each customer's counters carry the token of their epoch, and
`recovery.py` rebuilds those that carry another one.
"""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert

from kit.clock import Clock
from kit.ending import end
from kit.errors import DomainError
from kit.postgres import Database
from kit.telemetry import get_logger
from kit.waiting import wait_for
from services.quota.expiry_index import SHARDS_COUNT
from services.quota.redis_link import Link, check_replies, packed
from services.quota.tables import counter_epochs
from services.quota.unix_time import unix_ms

PAUSE_S = 0.25

_NOBODY = ""
_BEATS_PER_NOTE = 8
_TOKEN_BYTES = 6


@dataclass(frozen=True, slots=True)
class Epoch:
    """A time in which Redis has lost no counters.

    Args:
        number: 1 for the first, before which there were no counters.
        lost_ms: When this replica last saw the counters that are lost; if it never did, when it
            learned of the epoch.
    """

    installation: str
    number: int
    token: str
    lost_ms: int


class Epochs:
    """The epoch of the counters, kept up by every replica."""

    def __init__(
        self,
        database: Database,
        link: Link,
        clock: Clock,
        *,
        pause_s: float = PAUSE_S,
        startup_timeout_s: float = 60.0,
    ) -> None:
        self._startup_timeout_s = startup_timeout_s
        self._database = database
        self._link = link
        self._clock = clock
        self._pause_s = pause_s
        self._epoch: Epoch | None = None
        self._beat_ms = 0
        self._is_intact = False
        self._seen_ms = 0
        self._looking = asyncio.Lock()
        self._beating: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Learn the epoch, or begin the first or the next one; wait for Redis meanwhile.

        Raises:
            CannotStart: Redis does not answer.
        """
        await wait_for(
            "Redis",
            self.look,
            faults=(OSError,),
            may_pass=lambda error: isinstance(error, OSError),
            timeout_s=self._startup_timeout_s,
        )
        await self._note()
        self._beating = asyncio.create_task(self._beat_forever())

    async def close(self) -> None:
        """Beat no more."""
        if self._beating is not None:
            await end(self._beating)

    def installation(self) -> str:
        """Name the installation, which is known once this is connected."""
        assert self._epoch is not None, "it has been learned"
        return self._epoch.installation

    @property
    def current(self) -> Epoch | None:
        """Answer the epoch; nothing while Redis has lost counters and no new one has begun."""
        return self._epoch if self._is_intact else None

    async def look(self) -> None:
        """Look at the markers, beat, and begin a new epoch where counters were lost.

        Raises:
            OSError: Redis does not answer.
            Unavailable: PostgreSQL does not, and it is needed.
        """
        async with self._looking:
            if self._epoch is None:
                await self._learn()
            assert self._epoch is not None, "it has been learned"
            if await self._is_as_it_was(self._epoch):
                self._is_intact = True
                self._seen_ms = self._now_ms()
                return
            self._is_intact = False
            await self._begin_anew(self._epoch)
            self._is_intact = True

    async def _is_as_it_was(self, epoch: Epoch) -> bool:
        """Read every marker before beating it."""
        beat_ms = max(self._now_ms(), self._beat_ms)
        commands, keys = [], []
        for token_key, beat_key in _markers(epoch.installation):
            commands += [
                packed("GET", token_key),
                packed("ZSCORE", beat_key, "beat"),
                packed("ZADD", beat_key, "GT", beat_ms, "beat"),
            ]
            keys += [token_key, beat_key, beat_key]
        replies = check_replies(await self._link.ask(commands, keys))
        tokens, beats = replies[::3], replies[1::3]
        is_known = all(token == epoch.token.encode() for token in tokens)
        is_recent = all(beat is not None and int(beat) >= self._beat_ms for beat in beats)
        if is_known and is_recent:
            self._beat_ms = max(beat_ms, *map(int, beats))
        return is_known and is_recent

    async def _learn(self) -> None:
        """Read the epoch from PostgreSQL, or write the first one there and to Redis."""
        first = {
            "installation": secrets.token_hex(_TOKEN_BYTES),
            "number": 1,
            "token": secrets.token_hex(_TOKEN_BYTES),
            "beat_ms": 0,
        }
        async with self._database.transaction(_NOBODY) as transaction:
            await transaction.execute(
                insert(counter_epochs).values(tenant_id=_NOBODY, **first).on_conflict_do_nothing()
            )
            row = (await transaction.execute(select(counter_epochs))).one()
        self._epoch = Epoch(row.installation, row.number, row.token, self._now_ms())
        self._beat_ms = row.beat_ms
        if row.number == 1 and row.beat_ms == 0:
            # Nobody has counted for longer than a moment; other replicas may be starting as well.
            await self._mark(self._epoch)

    async def _begin_anew(self, lost: Epoch) -> None:
        """Let the next epoch begin, unless another replica has let it."""
        async with self._database.transaction(_NOBODY) as transaction:
            await transaction.execute(
                update(counter_epochs)
                .where(counter_epochs.c.token == lost.token)
                .values(
                    number=counter_epochs.c.number + 1,
                    token=secrets.token_hex(_TOKEN_BYTES),
                    beat_ms=0,
                )
            )
            row = (await transaction.execute(select(counter_epochs))).one()
        lost_ms = self._seen_ms or self._now_ms()
        self._epoch = Epoch(row.installation, row.number, row.token, lost_ms)
        self._beat_ms = 0
        await self._mark(self._epoch)
        get_logger().warning("counters.lost", epoch=row.number)

    async def _mark(self, epoch: Epoch) -> None:
        commands, keys = [], []
        for token_key, beat_key in _markers(epoch.installation):
            commands += [
                packed("SET", token_key, epoch.token),
                packed("ZADD", beat_key, "GT", self._now_ms(), "beat"),
            ]
            keys += [token_key, beat_key]
        check_replies(await self._link.ask(commands, keys))

    async def _beat_forever(self) -> None:
        beats_count = 0
        while True:
            await asyncio.sleep(self._pause_s)
            # What is away has lost nothing yet; the standby says that it is away.
            with suppress(OSError, DomainError):
                await self.look()
                if beats_count % _BEATS_PER_NOTE == 0:
                    await self._note()
                beats_count += 1

    async def _note(self) -> None:
        """Note the beat in PostgreSQL, for replicas that start."""
        assert self._epoch is not None, "it beats"
        async with self._database.transaction(_NOBODY) as transaction:
            await transaction.execute(
                update(counter_epochs)
                .where(counter_epochs.c.token == self._epoch.token)
                .values(beat_ms=func.greatest(counter_epochs.c.beat_ms, self._beat_ms))
            )

    def _now_ms(self) -> int:
        return unix_ms(self._clock.now())


def _markers(installation: str) -> Sequence[tuple[str, str]]:
    """Name the markers, which are spread over the nodes of a cluster."""
    tags = [f"tollkeeper:quota:{{expiries-{shard}}}" for shard in range(SHARDS_COUNT)]
    return [(f"{tag}:epoch:{installation}", f"{tag}:beat:{installation}") for tag in tags]
