"""What is due for a period whatever was used: fees, trials, minimums and commitments.

Days are counted on the customer's calendar, both ends inclusive. Refuses to price usage.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from kit.errors import Precondition
from kit.interval import Interval
from kit.money import Money, Rounding, settle
from services.rating.days import (
    add_months,
    count_days,
    last_day,
    local_day,
    start_of,
    whole_months,
)
from services.rating.model import (
    Commitment,
    Contract,
    FormulaStep,
    LineKind,
    Plan,
    PlanVersion,
    Price,
    ProductCategory,
    Proration,
    RatedLine,
    Stage,
)
from services.rating.prices import TierSpan
from services.rating.pricing import divide

_ZERO = Decimal(0)
_ONE = Decimal(1)
_WHOLE = Proration(1, 1)


@dataclass(frozen=True, slots=True)
class _What:
    """What a line without usage is for."""

    kind: LineKind
    price_id: str
    description: str
    category: ProductCategory


def check_contract(rated_by: PlanVersion, contract: Contract) -> None:
    """Refuse to guess when a contract began.

    Raises:
        Precondition: CONTRACT_START_REQUIRED.
    """
    plan = rated_by.plan
    commitment = plan.commitment
    is_needed = (
        plan.trial is not None
        or any(price.tier_span is TierSpan.CONTRACT for price in plan.prices)
        or (commitment is not None and (len(commitment.steps) > 1 or commitment.term_months > 0))
    )
    if is_needed and contract.start is None:
        raise Precondition(
            "CONTRACT_START_REQUIRED",
            f"the plan {plan.plan_id} depends on when the contract began: give contract_start",
            metadata={"plan_id": plan.plan_id, "version": str(rated_by.version)},
        )


def rate_fees(
    plan: Plan, period: Interval, proration: Proration | None, contract: Contract
) -> Iterator[RatedLine]:
    """Bill each fee x billed days / period days, which is the fee for a whole period."""
    if not plan.base_fee and not plan.base_fees:
        return
    part = _outside_of_trial(plan, period, proration, contract)
    if plan.base_fee:
        step = _step_for_days("base fee", _ONE, plan.base_fee, part)
        what = _What(LineKind.BASE_FEE, "", f"{plan.name}: base fee", plan.category)
        yield _line(plan, what, period, (step,))
    for fee in plan.base_fees:
        due = _WHOLE if fee.whole else part
        step = _step_for_days("fee", fee.quantity, fee.unit_amount, due)
        what = _What(LineKind.FEE, fee.fee_id, fee.name, fee.category)
        yield _line(plan, what, period, (step,))


def usage_interval(plan: Plan, period: Interval, contract: Contract) -> Interval | None:
    """Answer when usage is billed: not within a trial that includes it; nothing for never."""
    if plan.trial is None or not plan.trial.includes_usage or contract.start is None:
        return period
    first = local_day(contract.start, contract.time_zone)
    trial_end = start_of(first + timedelta(days=plan.trial.days), contract.time_zone)
    if trial_end >= period.end:
        return None
    return Interval(max(period.start, trial_end), period.end)


def prorate(amount: Decimal, proration: Proration | None) -> Decimal:
    """Answer the part of an amount that is due for a part of a period."""
    if proration is None or proration.billed_days == proration.period_days:
        return amount
    return divide(amount * proration.billed_days, Decimal(proration.period_days))


def true_up_price(
    plan: Plan, price: Price, billed: Money, period: Interval, proration: Proration | None
) -> Iterator[RatedLine]:
    """Bill what is missing to the minimum of a price, if anything is."""
    if price.minimum_amount is not None:
        part = proration or _WHOLE
        due = _step_for_days("minimum", _ONE, price.minimum_amount, part, Stage.MINIMUM)
        name = f"{price.name}: minimum"
        what = _What(LineKind.TRUE_UP, price.price_id, name, price.category)
        yield from _true_up(plan, what, period, (due, _less("billed", billed.to_decimal())))


def true_up_plan(
    plan: Plan,
    billed: Money,
    period: Interval,
    proration: Proration | None,
    contract: Contract,
) -> Iterator[RatedLine]:
    """Bill what is missing to the commitment of a period, or of a term that ends with it."""
    commitment = plan.commitment
    if commitment is None:
        return
    what = _What(LineKind.TRUE_UP, "", f"{plan.name}: commitment", plan.category)
    less = _less("billed", billed.to_decimal())
    if not commitment.term_months:
        amount = _committed(commitment, contract, period)
        part = proration or _WHOLE
        due = _step_for_days("commitment", _ONE, amount, part, Stage.MINIMUM)
        yield from _true_up(plan, what, period, (due, less))
    elif amount := _committed_of_terms(commitment, contract, period):
        due = FormulaStep("commitment of the term", _ONE, amount, amount, Stage.MINIMUM)
        before = _less("billed before", contract.billed_before)
        yield from _true_up(plan, what, period, (due, before, less))


def needs_earlier_periods(plan: Plan, period: Interval, contract: Contract) -> bool:
    """Tell whether what is due depends on the periods of the contract before this one."""
    if contract.start is None or contract.start >= period.start:
        return False
    if any(price.rollover is not None for price in plan.prices):
        return True
    return ends_term(plan, period, contract)


def ends_term(plan: Plan, period: Interval, contract: Contract) -> bool:
    """Tell whether a term of the commitment ends within a period, and is worth something."""
    commitment = plan.commitment
    if commitment is None or not commitment.term_months or contract.start is None:
        return False
    return bool(_committed_of_terms(commitment, contract, period))


def begin_of_term(commitment: Commitment, contract: Contract, instant: datetime) -> date:
    """Answer the first day of the term that runs at an instant within the contract."""
    assert contract.start is not None, "a term belongs to a contract"
    first = local_day(contract.start, contract.time_zone)
    months = whole_months(first, local_day(instant, contract.time_zone))
    return add_months(first, months - months % commitment.term_months)


def _committed(commitment: Commitment, contract: Contract, period: Interval) -> Decimal:
    months = 0
    if contract.start is not None:
        first = local_day(contract.start, contract.time_zone)
        day = local_day(period.start, contract.time_zone)
        months = whole_months(first, max(first, day))
    return _step_of(commitment, months)


def _committed_of_terms(commitment: Commitment, contract: Contract, period: Interval) -> Decimal:
    """Answer what the terms are worth that end within the period; nothing where none does."""
    assert contract.start is not None, "the contract was checked"
    first = local_day(contract.start, contract.time_zone)
    before = max(local_day(period.start, contract.time_zone), first)
    after = last_day(period, contract.time_zone) + timedelta(days=1)
    ended_before = whole_months(first, before) // commitment.term_months
    ended = whole_months(first, after) // commitment.term_months
    return sum(
        (
            _step_of(commitment, (number - 1) * commitment.term_months)
            for number in range(ended_before + 1, ended + 1)
        ),
        _ZERO,
    )


def _step_of(commitment: Commitment, months: int) -> Decimal:
    return [step.amount for step in commitment.steps if step.after_months <= months][-1]


def _outside_of_trial(
    plan: Plan, period: Interval, proration: Proration | None, contract: Contract
) -> Proration:
    if plan.trial is None or contract.start is None:
        return proration or _WHOLE
    zone = contract.time_zone
    first, last = local_day(period.start, zone), last_day(period, zone)
    begun = local_day(contract.start, zone)
    trial_last = begun + timedelta(days=plan.trial.days - 1)
    free = count_days(max(first, begun), min(last, trial_last))
    if not free:
        return proration or _WHOLE
    days = count_days(first, last)
    part = proration or Proration(days, days)
    return Proration(max(part.billed_days - free, 0), part.period_days)


def _step_for_days(
    name: str,
    quantity: Decimal,
    amount: Decimal,
    part: Proration,
    stage: Stage = Stage.PRICE,
) -> FormulaStep:
    if part.billed_days == part.period_days:
        return FormulaStep(name, quantity, amount, quantity * amount, stage)
    billed, whole = Decimal(part.billed_days), Decimal(part.period_days)
    return FormulaStep(
        f"{name}: {part.billed_days} of {part.period_days} days",
        divide(quantity * billed, whole),
        amount,
        divide(quantity * amount * billed, whole),
        stage,
    )


def _less(name: str, amount: Decimal) -> FormulaStep:
    return FormulaStep(name, _ONE, -amount, -amount, Stage.MINIMUM)


def _true_up(
    plan: Plan, what: _What, period: Interval, steps: tuple[FormulaStep, ...]
) -> Iterator[RatedLine]:
    """Bill what is due beyond what the lines came to, as rounded; nothing where that is enough."""
    line = _line(plan, what, period, steps)
    if line.amount.minor_units > 0:
        yield line


def _line(plan: Plan, what: _What, period: Interval, steps: tuple[FormulaStep, ...]) -> RatedLine:
    amount = sum((step.amount for step in steps), _ZERO)
    return RatedLine(
        kind=what.kind,
        price_id=what.price_id,
        description=what.description,
        quantity=steps[0].quantity,
        unit="period",
        unrounded_amount=amount,
        amount=settle(amount, plan.currency, Rounding.HALF_UP),
        steps=steps,
        usage=None,
        category=what.category,
        period=period,
    )
