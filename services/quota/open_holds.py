"""The open holds that this replica has answered, in memory, for when Redis loses them.

Bounded: when it is full some are forgotten, which at worst lets their amounts be used twice.
Refuses to be asked about holds; Redis is, while it has them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, cast

from services.quota.coverage import Coverage
from services.quota.model import HoldPhase, Kind, Outcome
from services.quota.operations import Operation

HOLDS_MAX = 200_000

_PARTS_FORGOTTEN = 200

# Plain numbers, since looking up a member of an enumeration takes a while.
_RESERVE, _EXTEND, _MARK_DISPATCHED = int(Kind.RESERVE), int(Kind.EXTEND), int(Kind.MARK_DISPATCHED)
_ENDING = frozenset({int(Kind.COMMIT), int(Kind.RELEASE)})
_HELD = frozenset({int(Outcome.ALLOWED), int(Outcome.EXCEEDING), int(Outcome.PARTIAL)})


class OpenHold(NamedTuple):
    """A hold as its record in Redis says it; of what was granted in part it says what was asked."""

    expire_ms: int
    made_ms: int
    coverage: Coverage
    amounts: Sequence[int]
    phase: HoldPhase = HoldPhase.OPEN


# As the class itself, without what Python does for names of arguments.
_new_hold = cast("Callable[[tuple[object, ...]], OpenHold]", partial(tuple.__new__, OpenHold))


class OpenHolds:
    """By customer and name; customers are named by any value."""

    def __init__(self, *, holds_max: int = HOLDS_MAX) -> None:
        self._holds_max = holds_max
        self._count = 0
        self._of: dict[object, dict[str, OpenHold]] = {}

    def note(
        self,
        customer: object,
        operation: Operation,
        *,
        outcome: int,
        now_ms: int,
        expire_ms: int,
        hold: str,
    ) -> None:
        """Note what an operation did to a hold."""
        kind = operation.kind
        if kind == _RESERVE:
            # A repeated reserve names the hold of the first one.
            if outcome in _HELD and hold == operation.hold:
                made = (expire_ms, now_ms, operation.coverage, operation.sums, HoldPhase.OPEN)
                self._add(customer, hold, _new_hold(made))
        elif kind in _ENDING:
            self._remove(customer, operation.hold)
        elif kind == _EXTEND and outcome in _HELD:
            self._extend(customer, operation.hold, operation.sums, expire_ms)
        elif kind == _MARK_DISPATCHED:
            holds = self._of.get(customer, {})
            if operation.hold in holds:
                dispatched = holds[operation.hold]._replace(phase=HoldPhase.DISPATCHED)
                holds[operation.hold] = dispatched

    def of(self, customer: object, now_ms: int) -> Sequence[tuple[str, OpenHold]]:
        """Answer the holds of a customer that are open still, by name."""
        holds = self._of.get(customer, {})
        return [(name, hold) for name, hold in holds.items() if hold.expire_ms > now_ms]

    def customers(self, now_ms: int) -> Sequence[object]:
        """Answer who has holds that are open still."""
        return [customer for customer in self._of if self.of(customer, now_ms)]

    def _add(self, customer: object, name: str, hold: OpenHold) -> None:
        if self._count >= self._holds_max:
            self._make_room()
        holds = self._of.get(customer)
        if holds is None:
            holds = self._of[customer] = {}
        self._count += name not in holds
        holds[name] = hold

    def _remove(self, customer: object, name: str) -> None:
        holds = self._of.get(customer)
        if holds is not None and holds.pop(name, None) is not None:
            self._count -= 1
            if not holds:
                del self._of[customer]

    def _extend(self, customer: object, name: str, sums: Sequence[int], expire_ms: int) -> None:
        holds = self._of.get(customer, {})
        known = holds.get(name)
        if known is not None and len(known.amounts) == len(sums):
            amounts = [held + more for held, more in zip(known.amounts, sums, strict=True)]
            holds[name] = known._replace(amounts=amounts, expire_ms=expire_ms)

    def _make_room(self) -> None:
        """Forget some at once, of who came first: looking for them takes a while."""
        forgotten = max(1, self._holds_max // _PARTS_FORGOTTEN)
        oldest = (
            (customer, name) for customer in list(self._of) for name in list(self._of[customer])
        )
        for customer, name in list(islice(oldest, forgotten)):
            self._remove(customer, name)
