"""Rebuilds the counters of customers that Redis has lost, when they are asked for.

Usage comes from the meter, open holds from the memory of each replica. Meanwhile the customer's
limits follow their outage policies, and what is accepted is booked afterwards. Refuses to guess:
without the meter a customer's counters stay lost.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgpack

from kit.clock import Clock
from kit.ending import end
from kit.errors import DomainError
from kit.telemetry import get_logger, meter
from services.quota.catalogue import LimitCatalogue
from services.quota.clients import UsageClient
from services.quota.counters import Answer, Batch, Decided, Root, keys_of
from services.quota.coverage import Coverage
from services.quota.epochs import Epoch, Epochs
from services.quota.expiry_index import ExpiryIndex
from services.quota.open_holds import OpenHold, OpenHolds
from services.quota.rebuilding import Rebuilt, fresh, rebuild, starts_of
from services.quota.redis_link import Link, check_replies, packed
from services.quota.unix_time import unix_ms

_SCRIPT = Path(__file__).with_name("rebuild.lua").read_bytes()
_PAUSE_S = 0.1
_PAUSE_MAX_S = 2.0
_REBUILT_AT_ONCE = 16
_FOLLOW_UPS_S = (0.3, 0.3, 1.0, 3.0, 10.0)
"""How long to wait before counters are set once more, and each time that it could not be done."""

_rebuilt = meter.create_counter(
    "quota.rebuilt_customers", description="Customers whose counters were rebuilt after a loss."
)

Reconcile = Callable[[str, str], Awaitable[object]]
"""Sets the counters of a customer of a tenant by the meter."""

Owes = Callable[[Root], bool]
"""Tells whether something of a customer was accepted and is not booked yet."""


class Recovery:
    """One for each replica: the counters ask it for their epoch, and say what is lost."""

    def __init__(
        self,
        link: Link,
        index: ExpiryIndex,
        epochs: Epochs,
        catalogue: LimitCatalogue,
        *,
        usage: UsageClient,
        clock: Clock,
    ) -> None:
        self._link = link
        self._index = index
        self._epochs = epochs
        self._catalogue = catalogue
        self._usage = usage
        self._clock = clock
        self._holds = OpenHolds()
        self._turn = asyncio.Semaphore(_REBUILT_AT_ONCE)
        self._rebuilding: dict[Root, asyncio.Task[None]] = {}
        self._following: set[asyncio.Task[None]] = set()
        self._reconcile: Reconcile | None = None
        self._owes: Owes = lambda _: False
        self._restored: Epoch | None = None
        self._decided_ms = self._lost_ms = 0
        self._watching: asyncio.Task[None] | None = None

    def serve(self, reconcile: Reconcile, owes: Owes) -> None:
        """Learn how to set the counters of a customer by the meter once more, and when."""
        self._reconcile, self._owes = reconcile, owes

    async def connect(self) -> None:
        """Begin to look whether there is a new epoch."""
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Leave what is being rebuilt to others."""
        watching = [self._watching] if self._watching is not None else []
        await end(*watching, *self._rebuilding.values(), *self._following)

    @property
    def epoch(self) -> str | None:
        """Answer the token of the epoch; nothing while it is not known that nothing is lost."""
        current = self._epochs.current
        if current is None:
            return None
        if current is not self._restored:
            self._restore(current)
        return current.token

    async def _watch(self) -> None:
        """See a new epoch also while nobody calls."""
        while True:
            await asyncio.sleep(_PAUSE_S)
            current = self._epochs.current
            if current is not None and current is not self._restored:
                self._restore(current)

    def _restore(self, epoch: Epoch) -> None:
        """Let all open holds that this replica knows of be there again."""
        self._restored = epoch
        self._lost_ms = max(epoch.lost_ms, self._decided_ms + 1)
        self._index.forget()
        for root in self._holds.customers(self._now_ms()):
            if isinstance(root, Root):
                self.lost(root)

    async def may_begin(self, root: Root) -> bool:
        """Tell whether a customer of whom nothing is kept is new; else have him rebuilt."""
        before = self._epochs.current
        try:
            await self._epochs.look()
        except (OSError, DomainError):
            return False
        if before is None or self._epochs.current is not before:
            return False
        if before.number == 1:
            return True
        self.lost(root)
        return False

    def lost(self, root: Root) -> None:
        """Have the counters of a customer rebuilt, unless they are being."""
        if root not in self._rebuilding:
            task = self._rebuilding[root] = asyncio.create_task(self._rebuild_until_done(root))
            task.add_done_callback(lambda _: self._rebuilding.pop(root, None))

    def is_lost(self, root: Root) -> bool:
        """Tell whether the counters of a customer are lost, as far as is known, and not rebuilt."""
        return self.epoch is None or root in self._rebuilding

    def note(self, batch: Batch, decided: Decided) -> None:
        """Note the holds that a batch has made, changed or ended."""
        for operation, answer in zip(batch.operations, decided.answers, strict=True):
            if operation.hold and isinstance(answer, Answer):
                self._decided_ms = answer.now_ms
                self._holds.note(
                    batch.root,
                    operation,
                    outcome=answer.outcome,
                    now_ms=answer.now_ms,
                    expire_ms=answer.detail,
                    hold=answer.hold,
                )

    async def _rebuild_until_done(self, root: Root) -> None:
        pause_s = _PAUSE_S
        while True:
            epoch = self._epochs.current
            if epoch is not None:
                try:
                    async with self._turn:
                        await self._rebuild(root, epoch)
                except (OSError, DomainError) as error:
                    if pause_s == _PAUSE_S:
                        cause = getattr(error, "reason", type(error).__name__)
                        get_logger().warning("counters.unrebuilt", tenant=root.tenant, cause=cause)
                    pause_s = min(2 * pause_s, _PAUSE_MAX_S)
                else:
                    _rebuilt.add(1)
                    self._follow_up(root)
                    return
            await asyncio.sleep(pause_s)

    def _follow_up(self, root: Root) -> None:
        """Have calls counted that were under way when the counters were lost."""
        task = asyncio.create_task(self._reconcile_once(root))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _reconcile_once(self, root: Root) -> None:
        """Set counters by the meter, once all is booked that it may have heard of already."""
        assert self._reconcile is not None, "a replica says how before it serves"
        cause = ""
        for pause_s in _FOLLOW_UPS_S:
            await asyncio.sleep(pause_s)
            if self._owes(root):
                cause = "UNBOOKED"
                continue
            try:
                await self._reconcile(*root)
            except DomainError as error:
                cause = error.reason
            else:
                return
        get_logger().warning("counters.unreconciled", tenant=root.tenant, cause=cause)

    async def _rebuild(self, root: Root, epoch: Epoch) -> None:
        await self._catalogue.load(root.tenant)
        index = self._catalogue.index(root.tenant)
        now_ms = self._now_ms()
        made_ms = self._catalogue.made_ms(root.tenant)
        starts_ms = starts_of(index.clocks_of(root.customer), now_ms, made_ms)
        usage_since = await self._usage.since(*root, starts_ms, self._lost_ms)
        counters = list(rebuild(index, usage_since, now_ms, made_ms))
        holds = self._holds.of(root, now_ms)
        known = {counter.field for counter in counters}
        for _, hold in holds:
            counters += _missing(hold.coverage, known, now_ms)
        keys = keys_of(root)
        argument = _argument(epoch, counters, holds)
        command = packed("EVAL", _SCRIPT, len(keys), *keys, argument)
        asked = [(command, keys[0])]
        if holds:
            first_ms = min(hold.expire_ms for _, hold in holds)
            asked += filter(None, [self._index.note("/".join(root), first_ms, now_ms)])
        check_replies(await self._link.ask(*map(list, zip(*asked, strict=True))))

    def _now_ms(self) -> int:
        return unix_ms(self._clock.now())


def _missing(coverage: Coverage, known: set[str], now_ms: int) -> list[Rebuilt]:
    """Make the counters from which a hold took and of which nothing was used."""
    made = []
    for limit in coverage.limits:
        if limit.field not in known and limit.clock is not None:
            known.add(limit.field)
            made.append(fresh(limit.field, limit.clock, now_ms))
    return made


def _argument(
    epoch: Epoch, counters: list[Rebuilt], holds: Sequence[tuple[str, OpenHold]]
) -> bytes:
    flat = [
        part
        for each in counters
        for part in (each.field, each.stamp_ms, each.taken, each.taken, each.drain, each.scale)
    ]
    records = [
        (
            name,
            hold.expire_ms,
            hold.coverage.description,
            int(hold.phase),
            hold.made_ms,
            list(hold.amounts),
        )
        for name, hold in holds
    ]
    # The script's reader knows no binary strings, so bytes go as the older raw strings.
    return b"".join(
        msgpack.packb(part, use_bin_type=False) for part in (epoch.token, flat, records)
    )
