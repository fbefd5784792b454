"""What usage would cost that has not happened: the price with it less the price without it.

Refuses to read usage: what was used so far is an argument.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from kit.decimals import exactly
from kit.interval import Interval
from kit.money import Money, Rounding, settle
from services.rating.model import (
    UNKNOWN_CONTRACT,
    GivenUsage,
    LineKind,
    PlanVersion,
    Price,
    Rating,
    Usage,
)
from services.rating.pipeline import Terms, rate_period
from services.rating.prices import Dimensions, PercentagePrice, TierSpan
from services.rating.selection import Spans, count_given

_ZERO = Decimal(0)
_EVER = Interval(datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What usage adds to a rating, and to each line that it changes."""

    plan_version: int
    amount: Decimal
    rounded_amount: Money
    lines: tuple[tuple[str, Dimensions, Decimal], ...]


def estimate(
    rated_by: PlanVersion, terms: Terms, so_far: Sequence[Usage], call: Sequence[GivenUsage]
) -> Estimate:
    """Estimate a call on top of what each price has counted so far."""
    added = count_given(rated_by.plan, call, Spans(_EVER, None, None, None, ()))
    open_terms = replace(terms, as_of=terms.as_of or terms.period.end)
    without = rate_period(rated_by, open_terms, so_far)
    both = [_add(usage, more) for usage, more in zip(so_far, added, strict=True)]
    return _difference(rate_period(rated_by, open_terms, both), without)


def estimate_alone(rated_by: PlanVersion, terms: Terms, call: Sequence[GivenUsage]) -> Estimate:
    """Estimate a call by itself: nothing was used before, and nothing is free."""
    plan = rated_by.plan
    bare = replace(
        plan, prices=tuple(map(_without_allowances, plan.prices)), trial=None, commitment=None
    )
    nothing = [Usage((), "")] * len(plan.prices)
    alone = replace(terms, contract=UNKNOWN_CONTRACT, previous_periods=())
    return estimate(replace(rated_by, plan=bare), alone, nothing, call)


def _add(usage: Usage, more: Usage) -> Usage:
    return replace(
        usage,
        entries=usage.entries + more.entries,
        amounts=usage.amounts + more.amounts,
    )


def _difference(after: Rating, before: Rating) -> Estimate:
    amounts = _amounts_of(after)
    with exactly():
        for key, amount in _amounts_of(before).items():
            amounts[key] -= amount
        total = sum(amounts.values(), _ZERO)
    return Estimate(
        after.plan_version,
        total,
        settle(total, after.currency, Rounding.HALF_UP),
        tuple((*key, amount) for key, amount in amounts.items() if amount),
    )


def _amounts_of(rating: Rating) -> dict[tuple[str, Dimensions], Decimal]:
    return {
        (line.price_id, line.usage.dimensions): line.unrounded_amount
        for line in rating.lines
        if line.kind is LineKind.USAGE and line.usage is not None
    }


def _without_allowances(price: Price) -> Price:
    model = price.model
    if isinstance(model, PercentagePrice):
        model = replace(model, free_events=None, free_quantity=None)
    discounts = price.discounts
    return replace(
        price,
        model=model,
        included_quantity=_ZERO,
        rollover=None,
        recurrence=None,
        tier_span=TierSpan.PERIOD,
        maximum_amount=None,
        discounts=discounts and replace(discounts, quantity=_ZERO, amount=_ZERO),
    )
