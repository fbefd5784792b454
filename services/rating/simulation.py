"""What customers would pay under other plans: outcomes, and what they add up to.

Every figure is a rating of `pipeline`, so that a simulation says what `Rate` would. The tally keeps
what its report needs and no customer beyond, so that it stays small however many there are. Refuses
to read usage, to choose plans, and to compare currencies.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from heapq import heappush, heappushpop
from itertools import pairwise
from zoneinfo import ZoneInfo

from kit.errors import DomainError, InvalidInput
from kit.interval import Interval
from kit.money import Money
from services.rating.days import local_day
from services.rating.fees import begin_of_term
from services.rating.model import (
    NO_OVERRIDES,
    Contract,
    Overrides,
    Plan,
    PlanVersion,
    Proration,
    Rating,
)
from services.rating.prices import (
    GraduatedPercentagePrice,
    GraduatedPrice,
    StairstepPrice,
    VolumePrice,
)

CHANGES_MAX = 20
_EDGES = tuple(map(Decimal, (-50, -25, -10, -5, 0, 5, 10, 25, 50, 100)))
_PERCENT = 100
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class SimulatedPeriod:
    """A period that is rated again, and which part of its fees is due."""

    period: Interval
    proration: Proration | None = None


@dataclass(frozen=True, slots=True)
class SimulatedCustomer:
    """A customer whose usage is rated again; no plan means that nothing is paid now.

    Without periods of its own a customer is billed by those of the simulation. The overrides were
    agreed instead of what the plan says.
    """

    customer_id: str
    plan_id: str | None
    segment: str
    contract_start: datetime | None
    time_zone: ZoneInfo
    periods: tuple[SimulatedPeriod, ...] = ()
    overrides: Overrides = NO_OVERRIDES


@dataclass(frozen=True, slots=True)
class Simulation:
    """What is asked for; without customers, everybody with usage is rated again."""

    candidates: tuple[Plan, ...]
    periods: tuple[SimulatedPeriod, ...]
    customers: tuple[SimulatedCustomer, ...]
    current_plan_id: str | None


ReachedTiers = tuple[tuple[str, int], ...]
"""Prices with several tiers, and the highest tier that was reached of each."""


@dataclass(frozen=True, slots=True)
class PlanOutcome:
    """What all periods of a customer come to by one plan."""

    total: Money
    tiers: ReachedTiers = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a customer pays now and would pay by each candidate, or why that is not known."""

    customer_id: str
    segment: str
    current: Money | None = None
    candidates: tuple[PlanOutcome, ...] = ()
    error: DomainError | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How many customers are done."""

    done: int
    customers: int


@dataclass(slots=True)
class SegmentOutcome:
    """What several customers pay now and would pay."""

    segment: str
    current: Money
    simulated: Money
    customers: int = 0

    def add(self, current: Money, simulated: Money) -> None:
        """Count a customer."""
        self.customers += 1
        self.current += current
        self.simulated += simulated


@dataclass(frozen=True, slots=True)
class Change:
    """What one customer pays now and would pay."""

    customer_id: str
    segment: str
    current: Money
    simulated: Money

    @property
    def minor_units(self) -> int:
        """How much more it would be."""
        return self.simulated.minor_units - self.current.minor_units


@dataclass(frozen=True, slots=True)
class Bucket:
    """Changes above one percentage and up to another; nothing is no bound.

    Both bounds are 0 where nothing changes.
    """

    above: Decimal | None = None
    up_to: Decimal | None = None
    from_nothing: bool = False


def _buckets() -> Iterator[Bucket]:
    for above, up_to in pairwise((None, *_EDGES, None)):
        yield Bucket(above, up_to)
        if up_to == 0:
            yield Bucket(_ZERO, _ZERO)
    yield Bucket(from_nothing=True)


BUCKETS = tuple(_buckets())


def bucket_of(change: Change) -> Bucket:
    """Find the bucket of a change, exactly."""
    now, more = change.current.minor_units, change.minor_units
    if not more:
        return Bucket(_ZERO, _ZERO)
    if not now:
        return Bucket(from_nothing=True)
    # A negative amount turns a comparison of its multiples around.
    assert now > 0, "no plan comes to less than nothing"
    for bucket in BUCKETS:
        if bucket.up_to is None or more * _PERCENT <= int(bucket.up_to) * now:
            return bucket
    raise AssertionError("the last bucket has no bound")


@dataclass(slots=True)
class _Largest:
    """The customers with the largest changes, as few as a reader looks at."""

    _heap: list[tuple[int, str, Change]] = field(default_factory=list)

    def add(self, size: int, change: Change) -> None:
        if len(self._heap) == CHANGES_MAX and size < self._heap[0][0]:
            return
        # Of two that are alike the one that comes first by name is kept, whatever the order.
        entry = (size, _inverse(change.customer_id), change)
        if len(self._heap) < CHANGES_MAX:
            heappush(self._heap, entry)
        else:
            heappushpop(self._heap, entry)

    def ordered(self) -> tuple[Change, ...]:
        return tuple(change for _, _, change in sorted(self._heap, reverse=True))


def _inverse(text: str) -> str:
    return "".join(chr(0x10FFFF - ord(character)) for character in text) + chr(0x10FFFF)


@dataclass(slots=True)
class Tally:
    """What one candidate changes, customer by customer."""

    plan: Plan
    total: SegmentOutcome = field(init=False)
    winners: int = 0
    losers: int = 0
    unchanged: int = 0
    _segments: dict[str, SegmentOutcome] = field(default_factory=dict)
    _saving: _Largest = field(default_factory=_Largest)
    _paying: _Largest = field(default_factory=_Largest)
    _buckets: Counter[Bucket] = field(default_factory=Counter)
    _tiers: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.total = self._nothing("")

    def add_each(self, outcomes: Iterable[Outcome], candidate: int) -> None:
        """Count customers by what they would pay by one of the candidates."""
        for outcome in outcomes:
            if outcome.error is None:
                self._add(outcome, outcome.candidates[candidate])

    def _add(self, outcome: Outcome, candidate: PlanOutcome) -> None:
        current = outcome.current or Money.zero(self.plan.currency)
        change = Change(outcome.customer_id, outcome.segment, current, candidate.total)
        segment = self._segments.get(outcome.segment)
        if segment is None:
            segment = self._segments[outcome.segment] = self._nothing(outcome.segment)
        for sums in (self.total, segment):
            sums.add(current, candidate.total)
        if change.minor_units < 0:
            self.winners += 1
            self._saving.add(-change.minor_units, change)
        elif change.minor_units > 0:
            self.losers += 1
            self._paying.add(change.minor_units, change)
        else:
            self.unchanged += 1
        self._buckets[bucket_of(change)] += 1
        self._tiers.update(candidate.tiers)

    @property
    def segments(self) -> tuple[SegmentOutcome, ...]:
        """Each segment, ordered by name."""
        return tuple(self._segments[name] for name in sorted(self._segments))

    @property
    def largest_savings(self) -> tuple[Change, ...]:
        """Those who would save most."""
        return self._saving.ordered()

    @property
    def largest_increases(self) -> tuple[Change, ...]:
        """Those who would pay most in addition."""
        return self._paying.ordered()

    @property
    def distribution(self) -> tuple[tuple[Bucket, int], ...]:
        """How many customers have which change, from the largest saving on."""
        return tuple((bucket, self._buckets[bucket]) for bucket in BUCKETS)

    @property
    def tiers(self) -> tuple[tuple[str, int, int], ...]:
        """Prices and their tiers in the order of the plan, and how many customers reach them."""
        order = {price.price_id: index for index, price in enumerate(self.plan.prices)}
        reached = sorted(self._tiers.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        return tuple((price_id, tier, count) for (price_id, tier), count in reached)

    def _nothing(self, segment: str) -> SegmentOutcome:
        nothing = Money.zero(self.plan.currency)
        return SegmentOutcome(segment, nothing, nothing)


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What the candidates change, and how many customers were rated and were not."""

    tallies: tuple[Tally, ...]
    customers: int
    failed: int


Step = tuple[Outcome, ...] | Progress | SimulationReport
"""What a simulation says on its way: outcomes of some customers, its progress, at last a report."""


def tiered_prices(plan: Plan) -> frozenset[str]:
    """Name the prices of a plan that have several tiers."""
    return frozenset(price.price_id for price in plan.prices if _has_tiers(price.model))


def tiers_of(tiered: Collection[str], ratings: Iterable[Rating]) -> ReachedTiers:
    """Tell of each price with several tiers the highest that was reached."""
    reached: dict[str, int] = {}
    for rating in ratings:
        for line in rating.lines:
            if line.price_id in tiered:
                tier = max((step.tier for step in line.steps), default=0)
                if tier > reached.get(line.price_id, 0):
                    reached[line.price_id] = tier
    return tuple(reached.items())


def _has_tiers(model: object) -> bool:
    match model:
        case GraduatedPrice(tiers) | VolumePrice(tiers):
            return len(tiers) > 1
        case GraduatedPercentagePrice(percentages):
            return len(percentages) > 1
        case StairstepPrice(stairs):
            return len(stairs) > 1
    return False


def version_in_effect(
    versions: Sequence[PlanVersion], instant: datetime, contract_start: datetime
) -> PlanVersion | None:
    """Find the version that rates a contract at an instant, as the store does.

    The last effective time that has come counts; one that keeps contracts only for those that
    began no earlier than it.
    """
    found: PlanVersion | None = None
    for version in versions:
        since = version.plan.effective_time
        if since is None:
            found = found or version
        elif since <= instant and (not version.plan.keeps_contracts or since <= contract_start):
            before = None if found is None else found.plan.effective_time
            if before is None or since > before:
                found = version
    return found


def contract_of(
    customer: SimulatedCustomer,
    plan: Plan,
    period: Interval,
    earlier: Iterable[tuple[Interval, Money]],
) -> Contract:
    """Say what is known of a contract, and what was billed before in the term of its commitment.

    `earlier` are the periods before, and what they came to.
    """
    start, zone = customer.contract_start, customer.time_zone
    contract = Contract(start, zone, _ZERO)
    commitment = plan.commitment
    if start is None or start >= period.start or not commitment or not commitment.term_months:
        return contract
    term_start = begin_of_term(commitment, contract, period.start)
    billed = (
        total.to_decimal()
        for before, total in earlier
        if local_day(before.start, zone) >= term_start
    )
    return replace(contract, billed_before=sum(billed, _ZERO))


def compare(
    customer: SimulatedCustomer, current: Money | None, candidates: tuple[PlanOutcome, ...]
) -> Outcome:
    """Put side by side what a customer pays and would pay.

    Raises:
        InvalidInput: a candidate is in another currency than what is paid now.
    """
    for candidate in candidates:
        if current is not None and candidate.total.currency != current.currency:
            raise InvalidInput.of(
                "candidates",
                f"in {candidate.total.currency} cannot be compared with {current.currency},"
                f" in which {customer.customer_id} pays now",
            )
    return Outcome(customer.customer_id, customer.segment, current, candidates)
