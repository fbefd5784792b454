"""Plans, and the lines that a period of one comes to, as values.

Every amount is a `Decimal` in major units of the plan's currency and exact; only the `amount` of a
line is settled. Refuses to know the kinds of price (`prices`), how a price is computed (`pricing`)
and in which order (`pipeline`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum, auto
from zoneinfo import ZoneInfo

from kit.interval import Interval
from kit.money import Money
from services.rating.prices import (
    Dimensions,
    PriceModel,
    QuantityConversion,
    Recurrence,
    Rollover,
    TierSpan,
    VirtualCurrency,
)

AMOUNT_MAX = Decimal(10**12)
"""The largest amount of a plan. With the bounds below, every product fits `kit.decimals.EXACT`."""
QUANTITY_MAX = Decimal(10**20)
"""The largest quantity of a plan, and of one entry of given usage."""
USAGE_MAX = QUANTITY_MAX * 10_000
"""The largest usage that one price can rate."""
PRICES_MAX = 200
BASE_FEES_MAX = 100
LIMITS_MAX = 50
TIERS_MAX = 100
ROWS_MAX = 1000
DIMENSIONS_MAX = 8


class ProductCategory(Enum):
    """What is sold, as far as tax cares."""

    ELECTRONIC_SERVICE = auto()
    PROFESSIONAL_SERVICE = auto()


def may_meet(first: Dimensions, second: Dimensions) -> bool:
    """Tell whether some usage could match both filters.

    None can when both want a value of the same dimension, and another one.
    """
    values = dict(first)
    return all(values.get(name, value) == value for name, value in second)


@dataclass(frozen=True, slots=True)
class Discounts:
    """What is taken off in this order: usage, a percentage, an amount; never below 0."""

    quantity: Decimal
    percent: Decimal
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """The usage of a meter, filtered by dimensions, and what it costs beyond what is included.

    Usage is kept apart by the dimensions of `group_by`: each group has a line, and is priced by
    itself.
    """

    price_id: str
    display_name: str
    meter_id: str
    dimensions: Dimensions
    included_quantity: Decimal
    model: PriceModel
    category: ProductCategory
    group_by: tuple[str, ...] = ()
    conversion: QuantityConversion | None = None
    virtual_currency: VirtualCurrency | None = None
    minimum_amount: Decimal | None = None
    maximum_amount: Decimal | None = None
    discounts: Discounts | None = None
    in_advance: bool = False
    recurrence: Recurrence | None = None
    tier_span: TierSpan = TierSpan.PERIOD
    rollover: Rollover | None = None
    free_without_usage: bool = False

    @property
    def name(self) -> str:
        """What people read."""
        return self.display_name or self.price_id


@dataclass(frozen=True, slots=True)
class BaseFee:
    """A fee for each billing period; prorated by days unless it is charged whole."""

    fee_id: str
    display_name: str
    unit_amount: Decimal
    quantity: Decimal
    category: ProductCategory
    whole: bool

    @property
    def name(self) -> str:
        """What people read."""
        return self.display_name or self.fee_id


@dataclass(frozen=True, slots=True)
class CommitmentStep:
    """What is committed to from so many months after the contract began."""

    after_months: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Commitment:
    """The least that a plan comes to: in each period, or over terms of so many months.

    The steps ascend, and the first begins with the contract.
    """

    steps: tuple[CommitmentStep, ...]
    term_months: int


@dataclass(frozen=True, slots=True)
class Trial:
    """The first days of a contract, free of the base fee and perhaps of the price of usage."""

    days: int
    includes_usage: bool


class LimitLevel(Enum):
    """At which part of the subject path a limit counts."""

    CUSTOMER = auto()
    PROJECT = auto()
    USER = auto()
    KEY = auto()
    RUN = auto()


class LimitEnforcement(Enum):
    """What happens to a call for which there is no room."""

    HARD = auto()
    SOFT = auto()
    SHADOW = auto()


class LimitWindow(Enum):
    """In which window a capacity counts."""

    HOUR = auto()
    DAY = auto()
    WEEK = auto()
    MONTH = auto()
    YEAR = auto()
    ROLLING = auto()
    BILLING_PERIOD = auto()
    LIFETIME = auto()
    CONCURRENCY = auto()


@dataclass(frozen=True, slots=True)
class PlanLimit:
    """A limit that whoever subscribes to a plan has; amounts are in the quanta of its units.

    A rolling rate refills in its period, and lets so much through at once; other windows have
    neither.
    """

    limit_id: str
    display_name: str
    level: LimitLevel
    dimensions: Dimensions
    units: tuple[str, ...]
    capacity: int
    window: LimitWindow
    overdraft: int
    enforcement: LimitEnforcement
    rolling_ms: int = 0
    burst: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is charged for, and how; no effective time means since ever.

    A version that keeps contracts rates only those that began from its effective time on.
    """

    plan_id: str
    display_name: str
    currency: str
    base_fee: Decimal
    prices: tuple[Price, ...]
    effective_time: datetime | None
    category: ProductCategory
    base_fees: tuple[BaseFee, ...] = ()
    commitment: Commitment | None = None
    trial: Trial | None = None
    keeps_contracts: bool = False
    limits: tuple[PlanLimit, ...] = ()

    @property
    def name(self) -> str:
        """What people read."""
        return self.display_name or self.plan_id


@dataclass(frozen=True, slots=True)
class PlanVersion:
    """A stored plan; it never changes. Versions count from 1 in the order they were put.

    The archive time is that of the plan, of which nothing but that can change.
    """

    plan: Plan
    version: int
    create_time: datetime
    archive_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Proration:
    """A part of a billing period: `billed_days` of `period_days`."""

    billed_days: int
    period_days: int


@dataclass(frozen=True, slots=True)
class Contract:
    """What rating must know of the customer's contract; no start means that it is unknown.

    `billed_before` is what was billed in this term of a commitment before the period.
    """

    start: datetime | None
    time_zone: ZoneInfo
    billed_before: Decimal


UNKNOWN_CONTRACT = Contract(None, ZoneInfo("UTC"), Decimal(0))


@dataclass(frozen=True, slots=True)
class UsageEntry:
    """A part of the usage of a meter: one event, or all events of a group and perhaps an hour.

    `quantity` is what the meter counts of it; `quantities` are those of a single event, by name.
    """

    quantity: Decimal
    dimensions: Mapping[str, str] = field(default_factory=dict)
    event_count: int = 1
    time: datetime | None = None
    quantities: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GivenUsage:
    """Usage that the caller of a rating gives, instead of a meter."""

    meter_id: str
    entry: UsageEntry


@dataclass(frozen=True, slots=True)
class Overrides:
    """A base fee, prices and a commitment that replace those of a plan; nothing leaves them."""

    base_fee: Decimal | None = None
    prices: tuple[Price, ...] = ()
    commitment: Commitment | None = None


NO_OVERRIDES = Overrides()


@dataclass(frozen=True, slots=True)
class EarlierPeriod:
    """A period that was billed before, and which part of its fees."""

    period: Interval
    proration: Proration | None = None


@dataclass(frozen=True, slots=True)
class PeriodToRate:
    """What is asked for: a customer's period, and by which version of which plan.

    No version means the one in effect at the start of the period; no given usage means that the
    meters are asked; `as_of` is where usage ends in a period that is still open. The earlier
    periods are those of the contract as they were billed, the previous ones the last of them.
    """

    customer_id: str
    plan_id: str
    plan_version: int | None
    period: Interval
    proration: Proration | None
    contract: Contract
    as_of: datetime | None
    previous_periods: tuple[Interval, ...]
    overrides: Overrides
    given_usage: tuple[GivenUsage, ...] | None
    earlier_periods: tuple[EarlierPeriod, ...] = ()


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter as far as rating cares: its unit, and the dimensions a price may filter by.

    It counts one quantity of its events, or, where there is none, the events themselves. What it
    says of groups adds up to what it says of all, but for a maximum, a unique count and the like.
    """

    meter_id: str
    unit: str
    dimensions: frozenset[str]
    quantity: str | None
    adds_up: bool = True


@dataclass(frozen=True, slots=True)
class UsageReference:
    """The usage query that reproduces the quantity of a line.

    Usage that matches one of `excluded` as well is not counted: a more specific price counts it.
    """

    meter_id: str
    customer_id: str
    interval: Interval
    dimensions: Dimensions
    excluded: tuple[Dimensions, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What one price counts, none below 0, and the unit that people read.

    `amounts` is what another meter says of the same usage, for prices that take an amount from it.
    `excluded` are the filters of more specific prices, whose usage is left out. `before` is what
    was used before the period, and `earlier` what was used in each period before it, for prices
    that depend on that.
    """

    entries: tuple[UsageEntry, ...]
    unit: str
    amounts: tuple[UsageEntry, ...] = ()
    excluded: tuple[Dimensions, ...] = ()
    before: tuple[UsageEntry, ...] = ()
    earlier: tuple[tuple[UsageEntry, ...], ...] = ()


class LineKind(Enum):
    """What a line is for."""

    BASE_FEE = auto()
    USAGE = auto()
    TRUE_UP = auto()
    FEE = auto()


class Stage(Enum):
    """Where in the pipeline a step stands; the order is that of the pipeline."""

    CONVERSION = auto()
    INCLUDED = auto()
    PRICE = auto()
    CREDITS = auto()
    USAGE_DISCOUNT = auto()
    DISCOUNT = auto()
    MINIMUM = auto()
    MAXIMUM = auto()


@dataclass(frozen=True, slots=True)
class FormulaStep:
    """One step of a formula: `quantity` of something at `unit_amount` each comes to `amount`.

    Only the amount takes part in sums. Where the others come from a division that does not end,
    they are cut for the reader. `tier` is the number of the tier or stair that it prices, if any.
    """

    description: str
    quantity: Decimal
    unit_amount: Decimal
    amount: Decimal
    stage: Stage = Stage.PRICE
    tier: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class RatedLine:
    """A priced line; its steps add up to its unrounded amount, which `amount` rounds half up."""

    kind: LineKind
    price_id: str
    description: str
    quantity: Decimal
    unit: str
    unrounded_amount: Decimal
    amount: Money
    steps: tuple[FormulaStep, ...]
    usage: UsageReference | None
    category: ProductCategory
    period: Interval


@dataclass(frozen=True, slots=True)
class Rating:
    """Everything that a period of a plan comes to; the total is the sum of the lines.

    It may need earlier periods, which nobody named.
    """

    plan_id: str
    plan_version: int
    currency: str
    lines: tuple[RatedLine, ...]
    total: Money
    needs_earlier_periods: bool = False
