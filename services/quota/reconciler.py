"""Sets the counters of a customer anew while calls run, from the meter and the open holds.

For when they are right by themselves but not as the meter is: events were voided or amended, or
imported. What is settled while the meter is asked is added. Refuses to mend what was lost;
`recovery.py` does.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from kit.clock import Clock
from services.quota.catalogue import LimitCatalogue
from services.quota.clients import UsageClient
from services.quota.counters import Root, keys_of
from services.quota.coverage import LimitIndex
from services.quota.epochs import Epochs
from services.quota.holdings import counted_by
from services.quota.rebuilding import Rebuilt, counts_usage, fresh, rebuild, starts_of
from services.quota.recovery import Recovery
from services.quota.redis_link import Link, NotAsked, Reply, packed
from services.quota.refusals import unavailable
from services.quota.unix_time import unix_ms

_SCRIPT = Path(__file__).with_name("reconcile.lua").read_bytes()
_LOOK = None
_TURNS_MAX = 5
_STILL_S = 0.02
_LOOKS_MAX = 40
_ARRIVAL_S = 1.0
"""How long an event takes at most to reach the meter after its commit, as a rule."""


class Change(NamedTuple):
    """A counter that was set anew, with what was used and held before and after, in quanta."""

    limit_id: str
    scope: str
    used_before: int
    held_before: int
    used_after: int
    held_after: int


class Reconciled(NamedTuple):
    """What was set anew."""

    counters_count: int
    holds_count: int
    changed: Sequence[Change]


class _Counted(NamedTuple):
    """How a counter stood before the meter was asked."""

    stamp_ms: int
    settled: int


class _Standing(NamedTuple):
    """How counters stood, by their fields, and how often they had been set anew by then."""

    turn: int
    counters: Mapping[str, _Counted]


class Reconciler:
    """Asks for one customer at a time."""

    def __init__(
        self,
        link: Link,
        epochs: Epochs,
        recovery: Recovery,
        catalogue: LimitCatalogue,
        *,
        usage: UsageClient,
        clock: Clock,
    ) -> None:
        self._link = link
        self._epochs = epochs
        self._recovery = recovery
        self._catalogue = catalogue
        self._usage = usage
        self._clock = clock

    async def reconcile(self, tenant: str, customer: str) -> Reconciled:
        """Set the counters of a customer, which takes a second or two.

        Who finds that somebody else has set them meanwhile begins again, since how they stood
        before says nothing about what was settled since.

        Raises:
            Precondition: TOO_MANY_LIMITS, EVENTS_EXPIRED.
            Unavailable: COUNTERS_UNAVAILABLE, also while what was lost is being rebuilt, or others
                set them again and again; METER_UNAVAILABLE; RATE_CARD_UNAVAILABLE.
        """
        root = Root(tenant, customer)
        for _ in range(_TURNS_MAX):
            reconciled = await self._reconcile(root)
            if reconciled is not None:
                return reconciled
        raise unavailable()

    async def _reconcile(self, root: Root) -> Reconciled | None:
        """Set the counters, unless somebody else has set them while the meter was asked."""
        tenant, customer = root
        await self._catalogue.load(tenant)
        index, made_ms = self._catalogue.index(tenant), self._catalogue.made_ms(tenant)
        standing, now_ms = await self._look(root)
        await asyncio.sleep(_ARRIVAL_S)
        starts_ms = starts_of(index.clocks_of(customer), now_ms, made_ms)
        usage_since = await self._usage.since(tenant, customer, starts_ms, now_ms)
        used = {each.field: each for each in rebuild(index, usage_since, now_ms, made_ms)}
        counters = _counting(index, customer, standing.counters, now_ms) | used
        targets = _targets(counters.values(), standing.counters)
        answer = await self._ask(root, standing.turn, targets)
        if not answer:
            return None
        set_count, holds_count, changes = answer
        changed = [
            Change(*counted_by(customer, field.decode()), *figures)
            for field, *figures in _rows(changes, 5)
        ]
        return Reconciled(set_count, holds_count, sorted(changed))

    async def _look(self, root: Root) -> tuple[_Standing, int]:
        """Read how counters stand, and at which instant: if it can be, one of stillness.

        Where nothing was settled it does not matter whether a call is metered a little before its
        commit or after.
        """
        standing, seen_ms = await self._standing(root), self._now_ms()
        for _ in range(_LOOKS_MAX):
            await asyncio.sleep(_STILL_S)
            still_ms = (seen_ms + self._now_ms()) // 2
            before, standing = standing, await self._standing(root)
            if standing == before:
                return standing, still_ms
            seen_ms = self._now_ms()
        return standing, seen_ms

    async def _standing(self, root: Root) -> _Standing:
        turn, found = await self._ask(root, _LOOK, ())
        rows = _rows(found, 3)
        return _Standing(turn, {field.decode(): _Counted(*figures) for field, *figures in rows})

    def _now_ms(self) -> int:
        return unix_ms(self._clock.now())

    async def _ask(self, root: Root, turn: int | None, targets: Sequence[object]) -> Any:  # noqa: ANN401 - msgpack.
        may_begin = False
        reply = await self._run(root, may_begin, turn, targets)
        if reply == [None] and await self._recovery.may_begin(root):
            may_begin = True
            reply = await self._run(root, may_begin, turn, targets)
        if isinstance(reply, bytes):
            return msgpack.unpackb(reply, raw=True)
        self._recovery.lost(root)
        raise unavailable(NotAsked("the counters of the customer were lost"))

    async def _run(self, root: Root, *asked: object) -> Reply:
        epoch = self._epochs.current
        if epoch is None:
            raise unavailable(NotAsked("counters may be lost"))
        key = keys_of(root)[0]
        argument = b"".join(map(msgpack.packb, (epoch.token, *asked)))
        try:
            (reply,) = await self._link.ask([packed("EVAL", _SCRIPT, 1, key, argument)], [key])
        except OSError as error:
            raise unavailable(error) from error
        if isinstance(reply, Exception):
            raise unavailable() from reply
        return reply


def _rows(flat: Sequence[Any], width: int) -> Iterable[tuple[Any, ...]]:
    return zip(*(flat[column::width] for column in range(width)), strict=True)


def _counting(
    index: LimitIndex, customer: str, fields: Iterable[str], now_ms: int
) -> dict[str, Rebuilt]:
    """Make the counters anew that count usage by a limit there is, as if nothing was used."""
    clocks = {clock.limit.limit_id: clock for clock in index.clocks_of(customer)}
    found: dict[str, Rebuilt] = {}
    for field in fields:
        limit_id, _ = counted_by(customer, field)
        clock = clocks.get(limit_id)
        if clock is not None and counts_usage(clock):
            found[field] = fresh(field, clock, now_ms)
    return found


def _targets(counters: Iterable[Rebuilt], standing: Mapping[str, _Counted]) -> Sequence[object]:
    """Say what is to be set; rolling rates are not, since they say what happens now."""
    flat: list[object] = []
    for counter in counters:
        if not counter.drain:
            known = standing.get(counter.field)
            was_there = known is not None
            flat += (counter.field, counter.stamp_ms, counter.taken, was_there, *(known or (0, 0)))
    return flat
