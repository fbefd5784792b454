"""The kinds of price there are, as values: what a quantity, an event or a row of a table costs.

Every amount is a `Decimal` in major units of the plan's currency, or in virtual credits where the
price says so. Refuses to know how an amount comes about (`pricing`) and what a plan is (`model`).
"""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, auto
from zoneinfo import ZoneInfo

Dimensions = tuple[tuple[str, str], ...]
"""Names of dimensions and their values, ordered by name."""


@dataclass(frozen=True, slots=True)
class StandardPrice:
    """`amount` buys `per_quantity` units, and a part of them costs its part."""

    amount: Decimal
    per_quantity: Decimal


@dataclass(frozen=True, slots=True)
class Tier:
    """The units up to and including `up_to`, from where the tier before ended; no bound is no end.

    The flat amount is due once the tier is reached; that of the first tier always.
    """

    up_to: Decimal | None
    unit_amount: Decimal
    flat_amount: Decimal


@dataclass(frozen=True, slots=True)
class GraduatedPrice:
    """Each tier prices the units that fall into it; tiers ascend, and only the last has no end."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class VolumePrice:
    """The tier in which the quantity ends prices all units, and its flat amount is due."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Stair:
    """What any quantity costs that ends within; no bound is no end."""

    up_to: Decimal | None
    amount: Decimal


@dataclass(frozen=True, slots=True)
class StairstepPrice:
    """The stair in which the quantity ends has one amount for all of it."""

    stairs: tuple[Stair, ...]


@dataclass(frozen=True, slots=True)
class PercentageTier:
    """A tier whose units are money, of which a percentage is due."""

    up_to: Decimal | None
    rate_percent: Decimal
    flat_amount: Decimal


@dataclass(frozen=True, slots=True)
class GraduatedPercentagePrice:
    """Each tier takes its percentage of the money that falls into it."""

    tiers: tuple[PercentageTier, ...]


@dataclass(frozen=True, slots=True)
class PackagePrice:
    """Units are sold in packages of `package_size`; a part of a package costs the whole."""

    amount: Decimal
    package_size: Decimal


@dataclass(frozen=True, slots=True)
class PercentagePrice:
    """A percentage of each event's quantity and a fixed amount for each, bounded for each event.

    The first `free_events`, and the first `free_quantity`, cost nothing; where both are set, the
    first that is used up ends both. An event that is free as a whole is spared fixed and bounds.
    """

    rate_percent: Decimal
    fixed_amount: Decimal
    free_events: int | None
    free_quantity: Decimal | None
    minimum_amount: Decimal | None
    maximum_amount: Decimal | None


@dataclass(frozen=True, slots=True)
class DynamicPrice:
    """The events say themselves what they cost: another meter adds their amounts up."""

    amount_meter_id: str


@dataclass(frozen=True, slots=True)
class CostPlusPrice:
    """What the usage cost its seller, as another meter adds it up, and a markup on that."""

    cost_meter_id: str
    markup_percent: Decimal


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """What usage of these dimensions costs; a dimension that is not named may have any value."""

    dimensions: Dimensions
    amount: Decimal

    @property
    def name(self) -> str:
        """What people read."""
        return ", ".join(f"{name} {value}" for name, value in self.dimensions) or "other"


@dataclass(frozen=True, slots=True)
class MatrixPrice:
    """A table over dimensions; of the rows that match, the one that names most dimensions wins.

    Among rows that name as many, the first does. The row without dimensions takes what is left.
    What follows from the rows is kept: the dimensions they name, their names, and which is tried
    before which.
    """

    rows: tuple[MatrixRow, ...]
    per_quantity: Decimal
    named: tuple[str, ...] = field(init=False, compare=False, repr=False)
    row_names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    order: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        rows = self.rows
        follows = {
            "named": tuple(sorted({name for row in rows for name, _ in row.dimensions})),
            "row_names": tuple(row.name for row in rows),
            "order": tuple(sorted(range(len(rows)), key=lambda at: -len(rows[at].dimensions))),
        }
        for name, value in follows.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class ContextTier:
    """What calls cost whose context ends within; no bound is no end."""

    up_to: Decimal | None
    amount: Decimal


@dataclass(frozen=True, slots=True)
class ContextTierPrice:
    """The size of a call, its quantity `context_quantity`, chooses the price of the whole call."""

    context_quantity: str
    tiers: tuple[ContextTier, ...]
    per_quantity: Decimal


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """Hours of some days of the week (0 is Monday); one that ends before it starts spans midnight.

    Its hours after midnight belong to the day on which it starts.
    """

    weekdays: frozenset[int]
    start_hour: int
    end_hour: int
    amount: Decimal

    def covers(self, weekday: int, hour: int) -> bool:
        """Tell whether an hour of a day lies within."""
        if self.start_hour < self.end_hour:
            return weekday in self.weekdays and self.start_hour <= hour < self.end_hour
        if hour >= self.start_hour:
            return weekday in self.weekdays
        return hour < self.end_hour and (weekday - 1) % 7 in self.weekdays


@dataclass(frozen=True, slots=True)
class TimeOfUsePrice:
    """The hour of use, in a time zone, chooses the amount: the first window that covers it."""

    time_zone: ZoneInfo
    windows: tuple[TimeWindow, ...]
    other_amount: Decimal
    per_quantity: Decimal


QuantityModel = (
    StandardPrice
    | GraduatedPrice
    | GraduatedPercentagePrice
    | VolumePrice
    | StairstepPrice
    | PackagePrice
)
"""What prices the sum of the usage, whatever it is made of."""
EntryModel = MatrixPrice | ContextTierPrice | TimeOfUsePrice
"""What chooses an amount for each part of the usage."""
MeteredAmountModel = DynamicPrice | CostPlusPrice
"""What takes the amount from another meter."""
PriceModel = QuantityModel | EntryModel | MeteredAmountModel | PercentagePrice


class QuantityRounding(Enum):
    """How a converted quantity is rounded."""

    HALF_UP = auto()
    UP = auto()
    DOWN = auto()


@dataclass(frozen=True, slots=True)
class QuantityConversion:
    """How the metered quantity becomes the priced one: divided, then rounded, if at all.

    A negative number of decimals rounds to tens or hundreds.
    """

    divisor: Decimal
    rounding: QuantityRounding | None
    decimals: int


class TierSpan(Enum):
    """From where usage fills tiers."""

    PERIOD = auto()
    CONTRACT = auto()
    LIFETIME = auto()


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Usage is a level that stays until it changes; a change is billed for its days if prorated.

    Usage that matches `removal` takes away; an empty one matches nothing. Where it sets the level,
    it says what is there instead of how that changes. With an identity, the dimension of this name
    says what is there, and each such thing counts once.
    """

    prorated: bool
    removal: Dimensions
    sets_level: bool = False
    identity: str = ""

    @property
    def depends_on_order(self) -> bool:
        """Whether the sum of all changes does not tell the level."""
        return self.sets_level or bool(self.identity)


@dataclass(frozen=True, slots=True)
class Rollover:
    """What is included and not used is kept for some periods, up to a maximum if there is one."""

    periods: int
    maximum_quantity: Decimal | None


@dataclass(frozen=True, slots=True)
class VirtualCurrency:
    """Credits in which a price is written, and what one is worth in the plan's currency.

    With decimals, what a price comes to is rounded half up in credits before it is converted.
    """

    code: str
    rate: Decimal
    decimals: int | None
