"""What is asked of the counters, worked out from a call and the limits that cover it.

Refuses to decide: how much fits is said where the counters are.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from services.quota.coverage import (
    NOTHING,
    Coverage,
    Slot,
    described_hold,
    sums_of,
    weights_of,
)
from services.quota.model import (
    Amounts,
    CheckCall,
    CommitCall,
    ExtendCall,
    HoldId,
    Kind,
    MarkDispatchedCall,
    RecordCall,
    ReleaseCall,
    ReserveCall,
)

# Plain numbers, since looking up a member of an enumeration takes a while.
_CHECK, _RESERVE, _COMMIT, _RELEASE, _EXTEND, _MARK_DISPATCHED, _RECORD = map(int, Kind)
_NO_FINGERPRINT = bytes(8)
_SHADOW = (1, False, False)
_CANCEL = "tollkeeper:cancel:"

Extra = int | str | Sequence[object]
"""What an operation says besides its sums, as `decide.lua` reads it."""

Slots = Sequence[Slot]


class Operation(NamedTuple):
    """What is asked of the counters that a coverage names.

    Args:
        kind: A `Kind`.
        request_id: Under which the answer is remembered; empty for a check.
        fingerprint: Eight bytes that tell contents of requests apart.
        hold: The hold to make, to change or to end.
        detail: The ttl of a reserve in milliseconds, or of an extended hold, 0 for none; whether a
            commit's subject is known; whether a hold that is released or dispatched may be unknown.
        extra: When what is recorded happened; of a release under what the answer to a reserve is
            remembered that is to be forgotten; of a check, reserve or extend whether it is in
            shadow, what least is accepted, and the flexible units.
        sums: What counts in each slot of the coverage.
        rebased: Asks the same of a hold whose limits were others, given its description.
    """

    kind: int
    coverage: Coverage
    request_id: str
    fingerprint: bytes
    hold: str
    detail: int
    extra: Extra
    sums: Sequence[int]
    rebased: "Callable[[bytes], Operation] | None" = None


# As the class itself, without what Python does for names of arguments.
_new_operation = cast("Any", partial(tuple.__new__, Operation))


class OfHold(NamedTuple):
    """A call of which only its hold says whose it was."""

    call: CommitCall | ExtendCall
    hold: HoldId

    @property
    def kind(self) -> int:
        """Answer its `Kind`."""
        return _COMMIT if isinstance(self.call, CommitCall) else _EXTEND

    @property
    def request_id(self) -> str:
        """Answer under which id the answer is remembered."""
        return self.call.request_id

    @property
    def fingerprint(self) -> bytes:
        """Answer what tells its content apart."""
        return self.call.fingerprint


Asked = Operation | OfHold


def check_operation(call: CheckCall, coverage: Coverage) -> Operation:
    """Ask whether a call would pass; a check of nothing shows how limits stand."""
    extra = _SHADOW if call.is_shadow else 0
    sums = coverage.sums(call.amounts, holds=1 if call.amounts else 0)
    return Operation(_CHECK, coverage, "", _NO_FINGERPRINT, "", 0, extra, sums)


def reserve_operation(call: ReserveCall, coverage: Coverage, name: str) -> Operation:
    """Ask for a hold of a name."""
    request_id, fingerprint, _, _, amounts, ttl_ms, least, is_shadow, _ = call
    sums = coverage.sums(amounts, holds=1)
    extra: Extra = 0
    if least or is_shadow:
        extra = _extra(coverage.slots, amounts, least, is_shadow=is_shadow, holds=1)
    operation: Operation = _new_operation(
        (_RESERVE, coverage, request_id, fingerprint, name, ttl_ms, extra, sums, None)
    )
    return operation


def extend_operation(call: ExtendCall, coverage: Coverage) -> Operation:
    """Ask for more of a hold."""
    slots, amounts = coverage.slots, call.amounts
    extra: Extra = 0
    if call.least or call.is_shadow:
        extra = _extra(slots, amounts, call.least, is_shadow=call.is_shadow, holds=0)
    sums = coverage.sums(amounts, is_more=True)
    operation = Operation(
        _EXTEND,
        coverage,
        call.request_id,
        call.fingerprint,
        call.hold.name,
        call.ttl_ms,
        extra,
        sums,
    )

    def rebased(description: bytes) -> Operation:
        own = described_hold(description).slots
        asked = _extra(own, amounts, call.least, is_shadow=call.is_shadow, holds=0)
        more = sums_of(own, amounts, 0, is_more=True)
        return operation._replace(extra=(*asked, description, more))

    return operation._replace(rebased=rebased)


def commit_operation(call: CommitCall, coverage: Coverage, *, is_known: bool = True) -> Operation:
    """Ask that what a call used be booked; its subject may be unknown, then nothing covers it."""
    request_id, fingerprint, hold, _, _, amounts = call
    name = hold.name if hold else ""
    sums = coverage.sums(amounts)
    return Operation(_COMMIT, coverage, request_id, fingerprint, name, int(is_known), 0, sums)


def record_operation(call: RecordCall, coverage: Coverage) -> Operation:
    """Ask that usage be booked when it happened."""
    request_id, fingerprint, _, _, amounts, event_ms = call
    sums = coverage.sums(amounts)
    return Operation(_RECORD, coverage, request_id, fingerprint, "", 0, event_ms, sums)


def release_operation(call: ReleaseCall | MarkDispatchedCall) -> Operation:
    """Ask that a hold be given back, or be known to be of a call that has left."""
    kind = _RELEASE if isinstance(call, ReleaseCall) else _MARK_DISPATCHED
    request_id, fingerprint, hold = call
    may_be_unknown = int(hold.call is not None)
    return Operation(kind, NOTHING, request_id, fingerprint, hold.name, may_be_unknown, 0, ())


def cancel_operation(reserve: Operation) -> Operation:
    """Ask that a reserve which nobody learned of be undone, so that its repeat is decided anew."""
    return Operation(
        _RELEASE,
        NOTHING,
        f"{_CANCEL}{reserve.hold}",
        reserve.fingerprint,
        reserve.hold,
        0,
        f"r{reserve.request_id}",
        (),
    )


def is_in_shadow(operation: Operation) -> bool:
    """Tell whether a check, a reserve or an extend is asked in shadow."""
    extra = operation.extra
    return not isinstance(extra, int | str) and bool(extra[0])


def granted_amounts(amounts: Amounts, least: Amounts, grants: Sequence[int]) -> Amounts:
    """Answer what is held where of each flexible unit so much beyond the least was granted."""
    added = dict(zip(_flexible_units(amounts, least), grants, strict=True))
    return {
        unit: least[unit] + added[unit] if unit in added else quantity
        for unit, quantity in amounts.items()
    }


def _extra(
    slots: Slots, amounts: Amounts, least: Amounts, *, is_shadow: bool, holds: int
) -> tuple[object, ...]:
    if not least:
        return int(is_shadow), False, False
    smallest, is_more = {**amounts, **least}, not holds
    flexible = [
        [
            amounts[unit] - least[unit],
            *(
                part
                for weight in weights_of(slots, unit, amounts, is_more=is_more)
                for part in weight
            ),
        ]
        for unit in _flexible_units(amounts, least)
    ]
    return int(is_shadow), sums_of(slots, smallest, holds, is_more=is_more), flexible


def _flexible_units(amounts: Amounts, least: Amounts) -> list[str]:
    return [unit for unit in least if least[unit] < amounts[unit]]
