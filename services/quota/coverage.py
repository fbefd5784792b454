"""Which limits cover a call, and whose counters they are.

A `LimitIndex` holds all limits of a tenant and is never changed: a put limit makes a new index. A
`Coverage` is what it found for one subject with its dimensions; filters are looked at then, and not
again. Its `description` travels with a
hold, so that it can be settled when the limits have changed; its `exhibit` is remembered beside
answers, so that they can be repeated then.
Refuses more limits on one call than the engine decides at once.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import msgpack

from kit.errors import Precondition, Unavailable
from services.quota.counting import GAUGE
from services.quota.crossings import watch
from services.quota.filters import BadFilter, compiled
from services.quota.model import (
    HOLDS,
    LIMITS_PER_CALL_MAX,
    Amounts,
    BillingPeriodWindow,
    CalendarWindow,
    ConcurrencyWindow,
    Dimensions,
    Enforcement,
    Level,
    Limit,
    RollingRate,
    Subject,
)
from services.quota.unix_time import instant_of, unix_ms
from services.quota.weights import RateCard, Tariff, read_tariff, tariff_of
from services.quota.windows import Rate, drain_rate, window_at

_ID_BYTES = 8
_COVERAGES_MAX = 50_000
_HOLDS_ALONE = (HOLDS,)
_CARD_RETRY_AFTER = timedelta(seconds=1)
_LEVEL_NAMES = {level: level.name.lower() for level in Level}
_ANYTHING = "*"
_NO_CARDS: Mapping[str, RateCard] = MappingProxyType({})

Slot = tuple[str, ...] | Tariff
"""What counts together: the amounts of some units, or what all amounts cost."""

FilterFailed = Callable[[str], None]
"""Is told the id of a limit whose filter could not be applied to a call."""


class Terms(NamedTuple):
    """The rule of a limit around some instant, as `decide.lua` reads it.

    Args:
        room: How many parts can be taken.
        drain: How many parts drain each millisecond; 0 in a calendar window.
        scale: How many parts a quantum has.
        start_ms: When the window starts; 0 without one, as the following.
        end_ms: When it ends.
        next_end_ms: When the window after it ends.
        refuses: Whether a call for which there is no room is refused.
    """

    room: int
    drain: int
    scale: int
    start_ms: int
    end_ms: int
    next_end_ms: int
    refuses: bool


class LimitClock:
    """Tells the rule of one limit at any time; it remembers the last window it told."""

    __slots__ = ("_terms", "limit")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        rate = Rate(drain=0, scale=1)
        if isinstance(limit.window, RollingRate):
            rate = drain_rate(limit.capacity, limit.window.period_ms)
        room = limit.admits_at_once * rate.scale
        refuses = limit.enforcement is Enforcement.HARD
        self._terms = Terms(room, rate.drain, rate.scale, 0, 0, 0, refuses)

    def terms_at(self, now_ms: int) -> Terms:
        """Answer the rule with the window that contains an instant, and the one after."""
        terms = self._terms
        window = self.limit.window
        is_current = terms.start_ms <= now_ms < terms.end_ms
        if isinstance(window, CalendarWindow | BillingPeriodWindow) and not is_current:
            current = window_at(window, instant_of(now_ms))
            following = window_at(window, current.end)
            terms = self._terms = terms._replace(
                start_ms=unix_ms(current.start),
                end_ms=unix_ms(current.end),
                next_end_ms=unix_ms(following.end),
            )
        return terms


class CoveringLimit(NamedTuple):
    """A limit that applies to a call, and whose counter it is.

    Args:
        field: The name of the counter among those of the customer.
        slot: Which of the call's sums counts here, from 1.
        clock: Tells the limit's rule; nothing when the limit is only remembered.
    """

    limit_id: str
    scope: str
    units: tuple[str, ...]
    capacity: int
    enforcement: Enforcement
    field: str
    slot: int
    clock: LimitClock | None


class Coverage:
    """The limits that apply to calls of one subject with some dimensions, ordered by id.

    Args:
        slots: What counts somewhere, each once; a limit counts the sum of one.

    `watched` names the limits with thresholds. `id` tells descriptions and exhibits apart.
    `prepared` is for whoever renders answers: what need not be rendered anew each time.
    """

    __slots__ = (
        *("description", "dimensions", "exhibit", "id", "limits", "prepared", "slots", "subject"),
        "watched",
    )

    def __init__(
        self,
        subject: Subject,
        dimensions: Dimensions,
        limits: Sequence[CoveringLimit],
        slots: Sequence[Slot],
    ) -> None:
        self.subject = subject
        self.dimensions = dimensions
        self.limits = limits
        self.slots = slots
        self.description = _describe(subject, dimensions, limits, slots)
        self.exhibit = _exhibit(subject.customer, limits)
        content = self.description + self.exhibit
        self.id = hashlib.blake2b(content, digest_size=_ID_BYTES).digest()
        self.prepared: object = None
        self.watched = watch(
            (None if each.clock is None else each.clock.limit, each.scope) for each in limits
        )

    def sums(self, amounts: Amounts, *, holds: int = 0, is_more: bool = False) -> list[int]:
        """Add up the amounts that count in each slot; so many holds count where holds do."""
        return sums_of(self.slots, amounts, holds, is_more=is_more)


class DescribedHold(NamedTuple):
    """What is known of a hold by its description.

    Args:
        subject: Whose call it was.
        slots: What counted together.
        counted: Which slot counted on the counter of each field.
    """

    subject: Subject
    dimensions: Dimensions
    slots: Sequence[Slot]
    counted: Sequence[tuple[str, int]]


def sums_of(
    slots: Sequence[Slot], amounts: Amounts, holds: int, *, is_more: bool = False
) -> list[int]:
    """Add up the amounts that count in each of some slots; they may be more of a call that runs."""
    sums = []
    for slot in slots:
        if isinstance(slot, Tariff):
            sums.append(slot.amount_of(amounts, is_more=is_more))
            continue
        total = 0
        for unit in slot:
            total += amounts.get(unit, 0)
        sums.append(holds if slot == _HOLDS_ALONE else total)
    return sums


def weights_of(
    slots: Sequence[Slot], unit: str, amounts: Amounts, *, is_more: bool = False
) -> list[tuple[int, int, int]]:
    """Answer which slots grow with a unit of a call, from 1, each by which fraction of integers."""
    weights = []
    for place, slot in enumerate(slots, 1):
        if isinstance(slot, Tariff):
            weight = slot.weight_of(unit, amounts, is_more=is_more)
        else:
            weight = (1, 1) if unit in slot else None
        if weight is not None:
            weights.append((place, *weight))
    return weights


class LimitIndex:
    """All limits of a tenant, found by the most specific id that each of them names.

    A filter that cannot be applied to a call does not cover it; `filter_failed` is told. `cards`
    are those of the plans that limits name; without its card a limit cannot be decided by.
    """

    def __init__(
        self,
        limits: Iterable[Limit],
        filter_failed: FilterFailed = lambda _: None,
        *,
        cards: Mapping[str, RateCard] = _NO_CARDS,
    ) -> None:
        self._filter_failed = filter_failed
        self._cards = cards
        self._clocks: dict[tuple[int, str], list[LimitClock]] = defaultdict(list)
        for limit in limits:
            self._clocks[_most_specific(limit.subject)].append(LimitClock(limit))
        self._found: dict[tuple[Subject, Dimensions], Coverage] = {}

    def coverage(self, subject: Subject, dimensions: Dimensions) -> Coverage:
        """Find what covers a call.

        Raises:
            Precondition: TOO_MANY_LIMITS.
            Unavailable: RATE_CARD_UNAVAILABLE.
        """
        found = self._found.get((subject, dimensions))
        if found is None:
            covering = self._covering(subject, dimensions)
            found = cover(subject, dimensions, covering, self._cards)
            if len(self._found) >= _COVERAGES_MAX:
                self._found.clear()
            self._found[subject, dimensions] = found
        return found

    def clocks_of(self, customer: str) -> Sequence[LimitClock]:
        """Answer the rule of each limit that may cover calls of a customer."""
        return [
            clock
            for clocks in self._clocks.values()
            for clock in clocks
            if clock.limit.subject.customer in ("", customer)
        ]

    def _covering(self, subject: Subject, dimensions: Dimensions) -> Iterable[LimitClock]:
        given = dict(dimensions)
        places = chain([(-1, "")], enumerate(subject))
        candidates = chain.from_iterable(self._clocks.get(place, ()) for place in places)
        found = [
            clock
            for clock in candidates
            if _covers(clock.limit, subject, given)
            and self._passes_filter(clock.limit, subject, dimensions)
        ]
        overridden = {clock.limit.overrides for clock in found}
        return [clock for clock in found if clock.limit.limit_id not in overridden]

    def _passes_filter(self, limit: Limit, subject: Subject, dimensions: Dimensions) -> bool:
        if not limit.filter:
            return True
        try:
            return compiled(limit.filter).is_true_of(subject, dimensions)
        except BadFilter:
            self._filter_failed(limit.limit_id)
            return False


def overridden_in_turn(limit: Limit, overrides: Mapping[str, str]) -> Sequence[str]:
    """Answer what a limit overrides, what that overrides, and so on; the limit itself ends it."""
    chain_of = list[str]()
    following = limit.overrides
    while following:
        chain_of.append(following)
        if following == limit.limit_id:
            break
        following = overrides.get(following, "")
    return chain_of


def in_force(limits: Iterable[Limit], now: datetime) -> tuple[Sequence[Limit], datetime | None]:
    """Answer which limits apply at an instant, and when the first of them ends."""
    applying = [each for each in limits if each.expire_time is None or each.expire_time > now]
    ends = [each.expire_time for each in applying if each.expire_time is not None]
    return applying, min(ends, default=None)


def cover(
    subject: Subject,
    dimensions: Dimensions,
    clocks: Iterable[LimitClock],
    cards: Mapping[str, RateCard] = _NO_CARDS,
) -> Coverage:
    """Bind limits to the counters of a subject.

    Raises:
        Precondition: TOO_MANY_LIMITS.
        Unavailable: RATE_CARD_UNAVAILABLE.
    """
    ordered = sorted(clocks, key=lambda clock: clock.limit.limit_id)
    if len(ordered) > LIMITS_PER_CALL_MAX:
        raise Precondition(
            "TOO_MANY_LIMITS",
            f"{len(ordered)} limits apply to one call; at most {LIMITS_PER_CALL_MAX} may",
            metadata={"maximum": str(LIMITS_PER_CALL_MAX)},
        )
    counted = [_slot(clock.limit, dimensions, cards) for clock in ordered]
    slots = list(dict.fromkeys(counted))
    limits = [
        _covering_limit(clock, subject, slots.index(slot) + 1)
        for clock, slot in zip(ordered, counted, strict=True)
    ]
    return Coverage(subject, dimensions, limits, slots)


def card_unavailable(plan_id: str) -> Unavailable:
    """Make the error of a rate card that cannot be had."""
    return Unavailable(
        "RATE_CARD_UNAVAILABLE",
        f"the rate card of the plan {plan_id} cannot be had",
        metadata={"plan_id": plan_id},
        retry_after=_CARD_RETRY_AFTER,
    )


def remembered(exhibit: bytes) -> Coverage:
    """Read back a coverage of which only the exhibit is left; it can be shown, not decided."""
    customer, rows = cast("Any", msgpack.unpackb(exhibit))
    limits = [
        CoveringLimit(
            limit_id, scope, tuple(units), capacity, Enforcement(enforcement), "", 0, None
        )
        for limit_id, scope, units, capacity, enforcement in rows
    ]
    return Coverage(Subject(customer), (), limits, ())


def described_hold(description: bytes) -> DescribedHold:
    """Read what a description says to the script, and behind that to us."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(description)
    flat, (subject, dimensions, slots) = unpacker
    return DescribedHold(
        Subject(*subject),
        tuple(map(tuple, dimensions)),
        [_read_slot(slot) for slot in slots],
        tuple(zip(flat[::2], flat[1::2], strict=True)),
    )


def _most_specific(subject: Subject) -> tuple[int, str]:
    named = [(place, name) for place, name in enumerate(subject) if name]
    return named[-1] if named else (-1, "")


def _covers(limit: Limit, subject: Subject, dimensions: Mapping[str, str]) -> bool:
    return (
        bool(subject.at(limit.level))
        and all(wanted in ("", given) for wanted, given in zip(limit.subject, subject, strict=True))
        and all(_agrees(wanted, dimensions.get(name)) for name, wanted in limit.dimensions)
    )


def _agrees(wanted: str, given: str | None) -> bool:
    if given is None:
        return False
    if wanted.endswith(_ANYTHING):
        return given.startswith(wanted.removesuffix(_ANYTHING))
    return given == wanted


def _read_slot(packed: Sequence[Any]) -> Slot:
    is_tariff = isinstance(packed[-1], list)
    return read_tariff(packed) if is_tariff else tuple(packed)


def _slot(limit: Limit, dimensions: Dimensions, cards: Mapping[str, RateCard]) -> Slot:
    if not limit.plan_id:
        return limit.units
    card = cards.get(limit.plan_id)
    if card is None or card.currency not in limit.units:
        raise card_unavailable(limit.plan_id)
    return tariff_of(card, dimensions)


def _covering_limit(clock: LimitClock, subject: Subject, slot: int) -> CoveringLimit:
    limit = clock.limit
    name = subject.at(limit.level)
    is_customer = limit.level is Level.CUSTOMER
    level = _LEVEL_NAMES[limit.level]
    mark = GAUGE if isinstance(limit.window, ConcurrencyWindow) else "|"
    return CoveringLimit(
        limit_id=limit.limit_id,
        scope=name if is_customer else f"{subject.customer}/{name}",
        units=limit.units,
        capacity=limit.admits_at_once,
        enforcement=limit.enforcement,
        field=f"{limit.limit_id}{mark}{level}" + ("" if is_customer else f"/{name}"),
        slot=slot,
        clock=clock,
    )


def _describe(
    subject: Subject,
    dimensions: Dimensions,
    limits: Sequence[CoveringLimit],
    slots: Sequence[Slot],
) -> bytes:
    """Pack what the script reads of a hold, and behind it whose call it was and what counted."""
    flat = [part for limit in limits for part in (limit.field, limit.slot)]
    return _packed(flat) + _packed((subject, dimensions, slots))


def _exhibit(customer: str, limits: Sequence[CoveringLimit]) -> bytes:
    rows = [
        (limit.limit_id, limit.scope, limit.units, limit.capacity, int(limit.enforcement))
        for limit in limits
    ]
    return _packed((customer, rows))


def _packed(value: object) -> bytes:
    # The script's reader knows no binary strings, so bytes go as the older raw strings.
    return cast("bytes", msgpack.packb(value, use_bin_type=False))


NOTHING = cover(Subject(""), (), ())
"""The coverage of an operation that books nothing anywhere."""
