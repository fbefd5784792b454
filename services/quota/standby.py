"""Answers in place of counters that cannot be reached, and books afterwards what was accepted.

Calls that ask for room are answered by the outage policies of their limits. Usage, and whatever
else ends or changes a hold, is accepted into a journal in memory, and given to the counters when
they are back, under its own request ids, so that what had taken effect unnoticed is not done twice.
Refuses more than the journal holds: then the caller is told that the counters are away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from kit.clock import Clock
from kit.ending import end
from kit.errors import DomainError, Unavailable
from kit.telemetry import get_logger
from services.quota.counters import Answer, Root
from services.quota.coverage import NOTHING
from services.quota.model import Kind, Outcome
from services.quota.operations import Asked, OfHold, Operation, cancel_operation, is_in_shadow
from services.quota.outage import Demand, judge
from services.quota.redis_link import NotAsked
from services.quota.refusals import reused
from services.quota.unix_time import unix_ms

JOURNAL_MAX = 100_000
RETRY_MS = 1000

_PAUSE_S = 0.05
_BOOKED_AT_ONCE = 256
_CLOSING_S = 5.0
_ASKING = frozenset({int(Kind.CHECK), int(Kind.RESERVE), int(Kind.EXTEND)})

Decide = Callable[[Root, Asked], Awaitable[Answer]]
"""Gives an operation to the counters; raises why they did not decide it."""
Probe = Callable[[], Awaitable[None]]
"""Returns when the counters answer; raises OSError while they do not."""
IsLost = Callable[[Root], bool]
"""Tells whether the counters of a customer are lost, and not rebuilt yet."""


class _Given(NamedTuple):
    """What was answered to a request in this outage."""

    kind: int
    fingerprint: bytes
    answer: Answer


class Standby:
    """One for each replica; an outage begins with its first answer and ends when all is booked.

    It ends for each customer on their own, since lost counters come back one by one.

    Args:
        journal_max: How many operations wait at most to be booked.
    """

    def __init__(self, clock: Clock, *, journal_max: int = JOURNAL_MAX) -> None:
        self._clock = clock
        self._journal_max = journal_max
        self._journal: dict[Root, dict[str, Asked]] = {}
        self._journal_count = 0
        self._given: dict[tuple[Root, str], _Given] = {}
        self._spent: dict[Root, Mapping[str, int]] = {}
        self._decide: Decide | None = None
        self._probe: Probe | None = None
        self._is_lost: IsLost = lambda _: False
        self._watching: asyncio.Task[None] | None = None

    def serve(self, decide: Decide, probe: Probe, is_lost: IsLost) -> None:
        """Learn how to book, and how to see that the counters are back, and whose are not yet."""
        self._decide, self._probe, self._is_lost = decide, probe, is_lost

    async def connect(self) -> None:
        """Nothing to open; the first answer starts the work."""

    async def close(self) -> None:
        """Book what waits, for a while, and say what could not be."""
        if self._watching is not None:
            if self._journal:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CLOSING_S):
                        await asyncio.shield(self._watching)
            await end(self._watching)
        if self._journal:
            get_logger().error("usage.unbooked", count=self._journal_count)

    def answer(self, root: Root, asked: Asked, error: Unavailable) -> Answer | DomainError:
        """Answer what the counters did not; `error` where nobody but they can."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        kind, request_id, fingerprint = asked.kind, asked.request_id, asked.fingerprint
        known = self._given.get((root, request_id)) if request_id else None
        if known is not None:
            is_same = known[:2] == (kind, fingerprint)
            return known.answer if is_same else reused(request_id, known.kind)
        if kind not in _ASKING:
            if not self._enter(root, asked):
                return error
            answer = Answer(kind, Outcome.JOURNALLED, self._now_ms(), 0, "", NOTHING, ())
        elif isinstance(asked, OfHold):
            return error
        else:
            answer = self._judged(root, asked)
            if answer.outcome == Outcome.DEGRADED_DENIED and _may_hold(asked, error):
                self._enter(root, cancel_operation(asked))
        if request_id and len(self._given) < self._journal_max:
            self._given[root, request_id] = _Given(kind, fingerprint, answer)
        return answer

    def owes(self, root: Root) -> bool:
        """Tell whether something of a customer was accepted and is not booked yet."""
        return root in self._journal

    def _judged(self, root: Root, operation: Operation) -> Answer:
        coverage = operation.coverage
        demands = [
            Demand(limit.clock.limit, limit.field, operation.sums[limit.slot - 1])
            for limit in coverage.limits
            if limit.clock is not None
        ]
        spent = self._spent.get(root, {})
        verdict = judge(demands, spent, is_shadow=is_in_shadow(operation))
        if operation.kind != Kind.CHECK:
            self._spent[root] = verdict.spent
        waits = [RETRY_MS if refuses else -1 for refuses in verdict.refusals]
        outcome = Outcome.DEGRADED_ALLOWED if verdict.passes else Outcome.DEGRADED_DENIED
        now_ms = self._now_ms()
        return Answer(
            operation.kind,
            outcome,
            now_ms,
            now_ms + operation.detail,
            operation.hold,
            coverage,
            waits,
        )

    def _enter(self, root: Root, asked: Asked) -> bool:
        if self._journal_count >= self._journal_max:
            return False
        of_customer = self._journal.setdefault(root, {})
        self._journal_count += asked.request_id not in of_customer
        of_customer[asked.request_id] = asked
        return True

    async def _watch(self) -> None:
        """Look again and again whose counters are back; book for them, until the outage is over."""
        assert self._decide is not None, "a replica says how to book before it serves"
        assert self._probe is not None, "as above"
        get_logger().warning("counters.away")
        while True:
            await asyncio.sleep(_PAUSE_S)
            with suppress(OSError, DomainError):
                await self._probe()
                await self._book(self._decide)
                self._forget_who_is_back()
                if not (self._journal or self._given or self._spent):
                    get_logger().info("counters.back")
                    return

    async def _book(self, decide: Decide) -> None:
        """Give the journal of whoever is back to the counters; raise when they are away again."""
        back = [root for root in self._journal if not self._is_lost(root)]
        entries = iter([(root, asked) for root in back for asked in self._journal[root].values()])
        while some := list(islice(entries, _BOOKED_AT_ONCE)):
            answers = await asyncio.gather(
                *(decide(root, asked) for root, asked in some), return_exceptions=True
            )
            for (root, asked), answer in zip(some, answers, strict=True):
                if not isinstance(answer, Unavailable):
                    self._booked(root, asked, answer)
            away = [answer for answer in answers if isinstance(answer, Unavailable)]
            if len(away) == len(some):
                raise away[0]

    def _booked(self, root: Root, asked: Asked, answer: Answer | BaseException) -> None:
        of_customer = self._journal[root]
        del of_customer[asked.request_id]
        self._journal_count -= 1
        if not of_customer:
            del self._journal[root]
        if isinstance(answer, Exception) and _is_usage(asked):
            get_logger().error(
                "usage.refused",
                request_id=asked.request_id,
                cause=getattr(answer, "reason", type(answer).__name__),
            )
        elif isinstance(answer, BaseException) and not isinstance(answer, DomainError):
            raise answer

    def _forget_who_is_back(self) -> None:
        """End the outage of every customer whose counters are back and of whom all is booked."""
        waiting = set(self._journal)
        waiting |= {root for root in self._spent if self._is_lost(root)}
        waiting |= {root for root, _ in self._given if self._is_lost(root)}
        self._given = {name: given for name, given in self._given.items() if name[0] in waiting}
        self._spent = {root: spent for root, spent in self._spent.items() if root in waiting}

    def _now_ms(self) -> int:
        return unix_ms(self._clock.now())


def _may_hold(operation: Operation, error: Unavailable) -> bool:
    """Tell whether a reserve may have taken effect although nobody answered it."""
    return operation.kind == Kind.RESERVE and not isinstance(error.__cause__, NotAsked)


def _is_usage(asked: Asked) -> bool:
    return asked.kind in (Kind.COMMIT, Kind.RECORD)
