"""The order in which a period is rated, from usage to settled lines; the same for every price.

Usage -> conversion of the quantity -> what is included -> the price -> conversion of virtual
credits -> usage discount -> percentage and fixed discount -> maximum -> rounding, half up, once for
each line -> what is missing to the minimum of the price -> what is missing to the commitment of the
plan. Refuses to fetch usage and to choose the version of a plan: both are arguments.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact
from typing import get_args

from kit.decimals import EXACT, exactly, plain
from kit.errors import InvalidInput
from kit.interval import Interval
from kit.money import Money, Rounding, settle
from services.rating.adjustments import (
    take_off_amount,
    take_off_excess,
    take_off_percent,
    take_off_usage,
)
from services.rating.advance import charge_increases, charge_percentages
from services.rating.allowances import include, keep
from services.rating.conversion import convert, convert_quantity
from services.rating.entry_pricing import price_entries, price_metered_amount, price_percentage
from services.rating.fees import (
    check_contract,
    prorate,
    rate_fees,
    true_up_plan,
    true_up_price,
    usage_interval,
)
from services.rating.model import (
    UNKNOWN_CONTRACT,
    USAGE_MAX,
    Contract,
    Discounts,
    FormulaStep,
    LineKind,
    PeriodToRate,
    Plan,
    PlanVersion,
    Price,
    Proration,
    RatedLine,
    Rating,
    Stage,
    Trial,
    Usage,
    UsageEntry,
    UsageReference,
)
from services.rating.prices import (
    ContextTierPrice,
    CostPlusPrice,
    Dimensions,
    DynamicPrice,
    MatrixPrice,
    PercentagePrice,
    QuantityModel,
    TierSpan,
    TimeOfUsePrice,
    VirtualCurrency,
)
from services.rating.pricing import divide, price_quantity
from services.rating.recurrence import Level, level_of, price_days
from services.rating.selection import Spans

_ZERO = Decimal(0)
_ONE = Decimal(1)
FIRST_USAGE = datetime(2000, 1, 1, tzinfo=UTC)
"""Before it the meter takes no usage."""
_NO_DISCOUNTS = Discounts(_ZERO, _ZERO, _ZERO)
_QUANTITY_MODELS = get_args(QuantityModel)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a period is rated by beside the usage: whose it is, and which part of it is billed.

    `as_of` is where usage ends in a period that is still open.
    """

    customer_id: str
    period: Interval
    proration: Proration | None = None
    contract: Contract = UNKNOWN_CONTRACT
    as_of: datetime | None = None
    previous_periods: tuple[Interval, ...] = ()


KnownLines = dict[tuple[int, int, str, Trial | None], list[RatedLine]]
"""Lines of prices that were rated before, by price and usage, which are held somewhere else."""


def terms_of(to_rate: PeriodToRate) -> Terms:
    """Answer by what a period is rated that is asked for."""
    return Terms(
        to_rate.customer_id,
        to_rate.period,
        to_rate.proration,
        to_rate.contract,
        to_rate.as_of,
        to_rate.previous_periods,
    )


def spans_of(plan: Plan, terms: Terms) -> Spans:
    """Answer when usage is counted: when it is billed, and what was used before."""
    begin = terms.period.start
    contract = terms.contract.start
    billed = _billed_span(plan, terms)
    return Spans(
        period=billed,
        level=None if billed is None else _since_first_usage(billed.start),
        contract=Interval(contract, begin) if contract and contract < begin else None,
        lifetime=_since_first_usage(begin),
        previous=terms.previous_periods,
    )


def _since_first_usage(end: datetime) -> Interval | None:
    return Interval(FIRST_USAGE, end) if end > FIRST_USAGE else None


def _billed_span(plan: Plan, terms: Terms) -> Interval | None:
    billed = usage_interval(plan, terms.period, terms.contract)
    if billed is None or terms.as_of is None or terms.as_of >= billed.end:
        return billed
    return Interval(billed.start, terms.as_of) if billed.start < terms.as_of else None


def rate_period(
    rated_by: PlanVersion,
    terms: Terms,
    usages: Sequence[Usage],
    known: KnownLines | None = None,
) -> Rating:
    """Rate one period of one customer; `usages` holds what each price of the plan counts, in order.

    `known` is given again for other plans and the same terms, but for what was billed before. A
    price that they have in common, the same object with the same usage, is rated once.

    Raises:
        InvalidInput: a quantity, or an amount in minor units, is too large to be billed, or an
            amount has more digits than can be computed exactly.
        Precondition: CONTRACT_START_REQUIRED.
    """
    check_contract(rated_by, terms.contract)
    plan = rated_by.plan
    try:
        with exactly():
            lines = list(rate_fees(plan, terms.period, terms.proration, terms.contract))
            for price, usage in zip(plan.prices, usages, strict=True):
                lines.extend(_lines_of(plan, price, terms, usage, known))
            total = _sum_of(lines, plan)
            if plan.commitment is not None and terms.as_of is None:
                missing = true_up_plan(plan, total, terms.period, terms.proration, terms.contract)
                lines.extend(missing)
                total = _sum_of(lines, plan)
    except Inexact as error:
        raise InvalidInput.of(
            "quantity", f"comes to an amount of more than {EXACT.prec} digits"
        ) from error
    return Rating(plan.plan_id, rated_by.version, plan.currency, tuple(lines), total)


def _lines_of(
    plan: Plan, price: Price, terms: Terms, usage: Usage, known: KnownLines | None
) -> list[RatedLine]:
    if known is None:
        return _rate_price(plan, price, terms, usage)
    key = id(price), id(usage), plan.currency, plan.trial
    lines = known.get(key)
    if lines is None:
        lines = known[key] = _rate_price(plan, price, terms, usage)
    return lines


def _rate_price(plan: Plan, price: Price, terms: Terms, usage: Usage) -> list[RatedLine]:
    """Rate one price: a line for its usage, or for each group of it, within its bounds."""
    lines: list[RatedLine] = []
    interval = _interval_of(plan, price, terms)
    left = _Left.of(price, terms)
    for group, part in _groups(price, usage):
        quantity, steps = _price_usage(plan, price, part, terms)
        if left is not None:
            steps += left.take_off(sum((step.amount for step in steps), _ZERO))
        unrounded_amount = sum((step.amount for step in steps), _ZERO)
        assert unrounded_amount >= 0, "no price gives a negative fee"
        values = ", ".join(value or "other" for _, value in group)
        line = RatedLine(
            kind=LineKind.USAGE,
            price_id=price.price_id,
            description=f"{price.name}: {values}" if group else price.name,
            quantity=quantity,
            unit=usage.unit,
            unrounded_amount=unrounded_amount,
            amount=settle(unrounded_amount, plan.currency, Rounding.HALF_UP),
            steps=steps,
            usage=UsageReference(
                price.meter_id,
                terms.customer_id,
                interval,
                tuple(sorted((*price.dimensions, *group))) if group else price.dimensions,
                usage.excluded,
            ),
            category=price.category,
            period=terms.period,
        )
        if left is not None:
            left.billed(line)
        lines.append(line)
    if price.minimum_amount is not None and terms.as_of is None:
        billed = _sum_of(lines, plan)
        lines += true_up_price(plan, price, billed, terms.period, terms.proration)
    return lines


@dataclass(slots=True)
class _Left:
    """What is left of a price's fixed discount and of its maximum, line by line."""

    discounts: Discounts
    maximum: Decimal | None
    discount_left: Decimal
    maximum_left: Decimal

    @classmethod
    def of(cls, price: Price, terms: Terms) -> "_Left | None":
        if price.discounts is None and price.maximum_amount is None:
            return None
        discounts = price.discounts or _NO_DISCOUNTS
        maximum = None
        if price.maximum_amount is not None:
            maximum = prorate(price.maximum_amount, terms.proration)
        return cls(discounts, maximum, discounts.amount, maximum or _ZERO)

    def take_off(self, amount: Decimal) -> tuple[FormulaStep, ...]:
        """The adjustments in their order: percentage, fixed discount, maximum."""
        steps = [*take_off_percent(self.discounts.percent, amount)]
        rest = amount + sum((step.amount for step in steps), _ZERO)
        fixed = [*take_off_amount(self.discount_left, rest)]
        taken = sum((step.amount for step in fixed), _ZERO)
        self.discount_left += taken
        steps += fixed
        if self.maximum is not None:
            steps += take_off_excess(self.maximum, rest + taken, self.maximum_left)
        return tuple(steps)

    def billed(self, line: RatedLine) -> None:
        """Count what a line came to, as it was rounded."""
        self.maximum_left -= line.amount.to_decimal()


def _sum_of(lines: Iterable[RatedLine], plan: Plan) -> Money:
    return Money(plan.currency, sum(line.amount.minor_units for line in lines))


def _groups(price: Price, usage: Usage) -> Iterator[tuple[Dimensions, Usage]]:
    """Keep usage apart by the dimensions a price groups by, ordered by their values.

    What was used before has a group of its own only where it is a level that stays.
    """
    if not price.group_by:
        yield (), usage
        return
    entries, amounts, before = (
        _by_group(price, each) for each in (usage.entries, usage.amounts, usage.before)
    )
    earlier = [_by_group(price, each) for each in usage.earlier]
    standing = () if price.recurrence is None else before
    for group in sorted({*entries, *amounts, *standing}):
        yield (
            group,
            Usage(
                tuple(entries.get(group, ())),
                usage.unit,
                tuple(amounts.get(group, ())),
                before=tuple(before.get(group, ())),
                earlier=tuple(tuple(each.get(group, ())) for each in earlier),
            ),
        )


def _by_group(price: Price, entries: Sequence[UsageEntry]) -> dict[Dimensions, list[UsageEntry]]:
    groups: dict[Dimensions, list[UsageEntry]] = {}
    for entry in entries:
        group = tuple((name, entry.dimensions.get(name, "")) for name in price.group_by)
        groups.setdefault(group, []).append(entry)
    return groups


def _price_usage(
    plan: Plan, price: Price, usage: Usage, terms: Terms
) -> tuple[Decimal, tuple[FormulaStep, ...]]:
    """Answer what was used, and the steps of its price up to the usage discount."""
    quantity = sum((entry.quantity for entry in usage.entries), _ZERO)
    level = None
    if price.recurrence is not None:
        level = level_of(
            price.recurrence,
            usage,
            terms.period,
            proration=terms.proration,
            start=(_billed_span(plan, terms) or terms.period).start,
            zone=terms.contract.time_zone,
        )
        quantity = level.units
    _check_quantity(price, quantity)
    if price.in_advance:
        return quantity, _charge_events(plan, price, usage, level)
    if level is None or price.recurrence is None or not price.recurrence.prorated:
        return quantity, _price_quantity(price, quantity, usage, terms)
    prorated = divide(level.unit_days, Decimal(level.period_days))
    if price.conversion is not None:
        return prorated, _price_quantity(price, prorated, usage, terms)
    priced = price_days(price.model, level)
    return prorated, _in_currency(price, priced)


def _charge_events(
    plan: Plan, price: Price, usage: Usage, level: Level | None
) -> tuple[FormulaStep, ...]:
    if isinstance(price.model, PercentagePrice):
        rate = _ONE if price.virtual_currency is None else price.virtual_currency.rate
        return tuple(charge_percentages(price.model, usage.entries, rate, plan.currency))

    def amount_of(quantity: Decimal) -> Decimal:
        if price.conversion is not None:
            quantity = convert(price.conversion, quantity)
        _, quantity = include(price.included_quantity, _ZERO, quantity)
        return sum((step.amount for step in _price_model(price, quantity, usage)), _ZERO)

    return tuple(charge_increases(price, usage.entries, level, amount_of, plan.currency))


def _price_quantity(
    price: Price, quantity: Decimal, usage: Usage, terms: Terms
) -> tuple[FormulaStep, ...]:
    """The pipeline up to the price: convert the quantity, include, price, take usage off."""
    steps: tuple[FormulaStep, ...] = ()
    if price.conversion is not None:
        converted, quantity = convert_quantity(price.conversion, quantity)
        steps += converted
    before = None
    if isinstance(price.model, _QUANTITY_MODELS):
        included, quantity = include(price.included_quantity, _kept_of(price, usage), quantity)
        steps += included
        before = _before_of(price, usage, terms)
    priced = _price_model(price, quantity, usage, before)
    if price.discounts is not None and price.discounts.quantity:
        amount_of_rest = None
        if isinstance(price.model, _QUANTITY_MODELS):
            rest = max(quantity - price.discounts.quantity, _ZERO)
            amount_of_rest = sum((step.amount for step in _price_model(price, rest, usage)), _ZERO)
        amount = sum((step.amount for step in priced), _ZERO)
        free = price.discounts.quantity
        priced += (*take_off_usage(free, quantity, amount, amount_of_rest),)
    return steps + priced


def _kept_of(price: Price, usage: Usage) -> Decimal:
    if price.rollover is None:
        return _ZERO
    used = []
    for entries in usage.earlier:
        quantity = sum((entry.quantity for entry in entries), _ZERO)
        if price.conversion is not None:
            quantity = convert(price.conversion, quantity)
        used.append(quantity)
    return keep(price.rollover, price.included_quantity, used)


def _before_of(price: Price, usage: Usage, terms: Terms) -> Decimal | None:
    """Answer what fills the tiers already; nothing where they begin with the period."""
    if price.tier_span is TierSpan.PERIOD:
        return None
    begun = terms.contract.start
    is_first = begun is None or begun >= terms.period.start
    if is_first and not usage.before:
        return None
    return sum((entry.quantity for entry in usage.before), _ZERO)


def _interval_of(plan: Plan, price: Price, terms: Terms) -> Interval:
    """Answer the span of the query that reproduces the quantity of a price."""
    billed = _billed_span(plan, terms) or terms.period
    if price.recurrence is None:
        return billed
    return _since_first_usage(billed.end) or billed


def _price_model(
    price: Price, quantity: Decimal, usage: Usage, before: Decimal | None = None
) -> tuple[FormulaStep, ...]:
    """Price a quantity, or the parts of the usage, in the plan's currency."""
    match price.model:
        case MatrixPrice() | ContextTierPrice() | TimeOfUsePrice() as model:
            priced = price_entries(model, usage.entries)
            priced += _include_share(price.included_quantity, quantity, priced)
        case DynamicPrice() | CostPlusPrice() as model:
            priced = price_metered_amount(model, quantity, usage.amounts)
        case PercentagePrice() as model:
            priced = price_percentage(model, usage.entries)
        case _ if price.free_without_usage and not quantity:
            priced = (FormulaStep("no usage", _ZERO, _ZERO, _ZERO),)
        case _ as model:
            priced = price_quantity(model, quantity, before)
    return _in_currency(price, priced)


def _in_currency(price: Price, priced: tuple[FormulaStep, ...]) -> tuple[FormulaStep, ...]:
    if price.virtual_currency is None:
        return priced
    return _convert_credits(price.virtual_currency, priced)


def _include_share(
    included: Decimal, quantity: Decimal, priced: Sequence[FormulaStep]
) -> tuple[FormulaStep, ...]:
    """Take what is included off all parts of the usage, in proportion."""
    if not included or not quantity:
        return ()
    used = min(quantity, included)
    amount = -divide(sum((step.amount for step in priced), _ZERO) * used, quantity)
    description = f"included: up to {plain(included)}"
    return (FormulaStep(description, used, divide(amount, used), amount, Stage.INCLUDED),)


def _convert_credits(
    currency: VirtualCurrency, steps: Sequence[FormulaStep]
) -> tuple[FormulaStep, ...]:
    """Turn steps in credits into the plan's currency; each names its credits."""
    converted = [
        FormulaStep(
            f"{step.description} ({plain(step.amount)} {currency.code})",
            step.quantity,
            step.unit_amount * currency.rate,
            step.amount * currency.rate,
            step.stage,
            step.tier,
        )
        for step in steps
    ]
    if currency.decimals is not None:
        exact = sum((step.amount for step in steps), _ZERO)
        places = Decimal(1).scaleb(-currency.decimals)
        rounded = exact.quantize(places, context=Context(EXACT.prec, ROUND_HALF_UP))
        description = f"rounded to {plain(rounded)} {currency.code}"
        difference = (rounded - exact) * currency.rate
        converted.append(
            FormulaStep(description, rounded - exact, currency.rate, difference, Stage.CREDITS)
        )
    return tuple(converted)


def _check_quantity(price: Price, quantity: Decimal) -> None:
    assert quantity >= 0, "usage is never negative"
    if quantity > USAGE_MAX:
        raise InvalidInput.of(
            "quantity", f"of price {price.price_id} is above {plain(USAGE_MAX)}, too much to rate"
        )
