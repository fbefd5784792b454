"""The open holds that this replica has answered, in memory, for when Redis loses them.

Bounded: when it is full the oldest are forgotten, which at worst lets their amounts be used twice.
Refuses to be asked about holds; Redis is, while it has them.
"""

from collections.abc import Callable, Iterable, Sequence
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
        self._holds: dict[tuple[object, str], OpenHold] = {}

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
                if len(self._holds) >= self._holds_max:
                    self._make_room()
                made = (expire_ms, now_ms, operation.coverage, operation.sums, HoldPhase.OPEN)
                self._holds[customer, hold] = _new_hold(made)
        elif kind in _ENDING:
            self._holds.pop((customer, operation.hold), None)
        elif kind == _EXTEND and outcome in _HELD:
            self._extend((customer, operation.hold), operation.sums, expire_ms)
        elif kind == _MARK_DISPATCHED:
            known = self._holds.get((customer, operation.hold))
            if known is not None:
                dispatched = known._replace(phase=HoldPhase.DISPATCHED)
                self._holds[customer, operation.hold] = dispatched

    def of(self, customer: object, now_ms: int) -> Sequence[tuple[str, OpenHold]]:
        """Answer the holds of a customer that are open still, by name."""
        return [
            (name, hold)
            for (whose, name), hold in self._holds.items()
            if whose == customer and hold.expire_ms > now_ms
        ]

    def customers(self) -> Iterable[object]:
        """Answer who has holds."""
        return dict.fromkeys(customer for customer, _ in self._holds)

    def _extend(self, key: tuple[object, str], sums: Sequence[int], expire_ms: int) -> None:
        known = self._holds.get(key)
        if known is not None and len(known.amounts) == len(sums):
            amounts = [held + more for held, more in zip(known.amounts, sums, strict=True)]
            self._holds[key] = known._replace(amounts=amounts, expire_ms=expire_ms)

    def _make_room(self) -> None:
        """Forget some at once, since the first is looked for behind all that are gone."""
        oldest = list(islice(self._holds, max(1, self._holds_max // _PARTS_FORGOTTEN)))
        for key in oldest:
            del self._holds[key]
