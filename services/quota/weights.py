"""What the units of a call cost under a plan, as fractions that a budget counts exactly.

A card names what one unit of each meter costs; a tariff is what is left of it for calls with some
dimensions. Money is counted in millionths of the currency, and every amount is rounded up to one,
so that a budget never counts less than the card says. Refuses fractions whose numerator times
denominator reaches 2^53, where the decision script would lose digits: such a price is rounded up.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, isqrt
from typing import NamedTuple

from services.quota.model import Amounts, Dimensions

QUANTA_PER_SECOND = 1_000_000
MONEY_QUANTA = 1_000_000
"""How many quanta one unit of a currency has."""
MONEY_MAX = 2**52
"""The most that one call counts on a budget, in quanta."""

_PRODUCT_MAX = 2**53
_SECONDS = "seconds"


@dataclass(frozen=True, slots=True)
class CardEntry:
    """What one unit costs.

    Args:
        meter: Which meter counts the units; each meter is priced by one price.
        unit: The unit of the gate that this meter counts.
        dimensions: What a call must have.
        filters: The values that a dimension may have for the meter to count the call.
        event_amount: What each call costs beside its units.
        context: The unit whose amount chooses the tier; empty where there are no tiers.
        above: The tier holds calls in which that amount is larger.
    """

    price: str
    meter: str
    unit: str
    dimensions: Dimensions
    filters: tuple[tuple[str, frozenset[str]], ...]
    unit_amount: Decimal
    event_amount: Decimal
    context: str
    above: Decimal


@dataclass(frozen=True, slots=True)
class RateCard:
    """What units cost under a version of a plan, in its currency."""

    plan_id: str
    version: int
    currency: str
    entries: tuple[CardEntry, ...]


class Tier(NamedTuple):
    """What a quantum costs, `num / den`, in calls whose context is larger than `above`."""

    above: int
    num: int
    den: int
    event: int


class UnitPrice(NamedTuple):
    """What a unit costs; the tier with the largest bound comes first, the last takes the rest."""

    unit: str
    context: str
    tiers: tuple[Tier, ...]

    def tier(self, amounts: Amounts, *, is_more: bool = False) -> Tier:
        """Find the tier of a call; of one that runs, whose size is not known, it is the dearest."""
        if self.context:
            size = amounts.get(self.context)
            if size is None and is_more:
                return max(self.tiers, key=lambda tier: Fraction(tier.num, tier.den))
            for tier in self.tiers:
                if (size or 0) > tier.above:
                    return tier
        return self.tiers[-1]


class Tariff(NamedTuple):
    """What calls with some dimensions cost, in quanta of the currency."""

    currency: str
    prices: tuple[UnitPrice, ...]

    def amount_of(self, amounts: Amounts, *, is_more: bool = False) -> int:
        """Add up what amounts cost, and what of them is money already.

        Where they are more of a call that has begun, what each call costs was counted before.
        """
        total = amounts.get(self.currency, 0)
        for price in self.prices:
            quantity = amounts.get(price.unit, 0)
            if quantity:
                _, num, den, event = price.tier(amounts, is_more=is_more)
                total -= -quantity * num // den
                if not is_more:
                    total += event
        return min(total, MONEY_MAX)

    def weight_of(
        self, unit: str, amounts: Amounts, *, is_more: bool = False
    ) -> tuple[int, int] | None:
        """Answer what a quantum of a unit costs in a call, as a fraction; nothing if it is free."""
        if unit == self.currency:
            return 1, 1
        tiers = [
            price.tier(amounts, is_more=is_more) for price in self.prices if price.unit == unit
        ]
        total = sum((Fraction(tier.num, tier.den) for tier in tiers), Fraction(0))
        return bounded(total) if total else None


def read_tariff(flat: Iterable[object]) -> Tariff:
    """Read back a tariff that was written as nested lists."""
    currency, prices = flat
    assert isinstance(currency, str)
    assert isinstance(prices, list)
    return Tariff(
        currency,
        tuple(
            UnitPrice(unit, context, tuple(Tier(*tier) for tier in tiers))
            for unit, context, tiers in prices
        ),
    )


def tariff_of(card: RateCard, dimensions: Dimensions) -> Tariff:
    """Find what prices calls with these dimensions: of each meter the most specific price.

    Of prices that are equally specific the first in the plan is taken, as rating does.
    """
    given = dict(dimensions)
    by_meter = defaultdict[str, list[CardEntry]](list)
    for entry in card.entries:
        if _matches(entry, given):
            by_meter[entry.meter].append(entry)
    prices = [_unit_price(matching) for matching in by_meter.values()]
    return Tariff(card.currency, tuple(price for price in prices if price is not None))


def bounded(amount: Fraction) -> tuple[int, int]:
    """Write a price as a fraction that the script can count by, rounded up where it must be."""
    num, den = amount.numerator, amount.denominator
    if num * den < _PRODUCT_MAX:
        return num, den
    den = max(isqrt((_PRODUCT_MAX - 1) * den // num), 1)
    den = max(min(den, (_PRODUCT_MAX - 1) // ceil(amount * den)), 1)
    return min(ceil(amount * den), MONEY_MAX), den


def _matches(entry: CardEntry, given: Mapping[str, str]) -> bool:
    return all(given.get(name) == value for name, value in entry.dimensions) and all(
        given.get(name, "") in values for name, values in entry.filters
    )


def _unit_price(matching: list[CardEntry]) -> UnitPrice | None:
    best = max(matching, key=lambda entry: len(entry.dimensions))
    tiers = [
        _tier(entry)
        for entry in matching
        if (entry.price, entry.dimensions) == (best.price, best.dimensions)
    ]
    if not any(tier.num or tier.event for tier in tiers):
        return None
    return UnitPrice(best.unit, best.context, tuple(sorted(tiers, reverse=True)))


def _tier(entry: CardEntry) -> Tier:
    num, den = bounded(Fraction(entry.unit_amount) * MONEY_QUANTA / quanta_of(entry.unit))
    return Tier(
        above=floor(entry.above * quanta_of(entry.context)),
        num=num,
        den=den,
        event=min(ceil(entry.event_amount * MONEY_QUANTA), MONEY_MAX),
    )


def quanta_of(unit: str) -> int:
    """Answer how many quanta one unit has that is not a currency."""
    return QUANTA_PER_SECOND if unit == _SECONDS else 1


def is_money(unit: str) -> bool:
    """Tell whether a unit is a currency, whose codes alone are written in capitals."""
    return unit.isupper()
