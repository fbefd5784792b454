"""The terms of a plan beside its prices: fees, commitment, trial; between wire and domain."""

from collections.abc import Sequence
from decimal import Decimal

from kit.errors import INVALID_FIELD, InvalidInput, Violations
from kit.ids import parse_id
from kit.rpc.wire import render_decimal
from services.rating.convert.fields import (
    check_length,
    decimal_or,
    parse_amount,
    parse_category,
    parse_name,
    parse_positive_quantity,
    render_category,
    take,
)
from services.rating.model import (
    BASE_FEES_MAX,
    TIERS_MAX,
    BaseFee,
    Commitment,
    CommitmentStep,
    Trial,
)
from tollkeeper.api.rating.v1 import plan_pb2

MONTHS_MAX = 1200
TERM_MONTHS_MAX = 120
TRIAL_DAYS_MAX = 1000

_ONE = Decimal(1)


def parse_base_fees(message: plan_pb2.Plan, field: str) -> tuple[BaseFee, ...]:
    """Read the fees of a plan; their ids differ from each other and from those of its prices."""
    check_length(message.base_fees, field, BASE_FEES_MAX, reason=INVALID_FIELD)
    violations = Violations()
    taken = {price.price_id for price in message.prices}
    for index, fee in enumerate(message.base_fees):
        if fee.fee_id in taken:
            violations.add(f"{field}[{index}].fee_id", "is the id of a price or a fee as well")
        taken.add(fee.fee_id)
    fees = tuple(
        take(violations, f"{field}[{index}]", _base_fee, fee)
        for index, fee in enumerate(message.base_fees)
    )
    violations.raise_if_any()
    return fees


def _base_fee(message: plan_pb2.BaseFee, field: str) -> BaseFee:
    violations = Violations()
    fee = BaseFee(
        fee_id=take(violations, f"{field}.fee_id", parse_id, message.fee_id),
        display_name=take(violations, f"{field}.display_name", parse_name, message.display_name),
        unit_amount=take(violations, f"{field}.unit_amount", parse_amount, message.unit_amount),
        quantity=decimal_or(
            _ONE, violations, f"{field}.quantity", message, parse_positive_quantity
        ),
        category=take(violations, f"{field}.category", parse_category, message.category),
        whole=message.whole,
    )
    violations.raise_if_any()
    return fee


def parse_commitment(message: plan_pb2.Commitment, field: str) -> Commitment:
    """Read a commitment; its steps ascend from 0."""
    if not message.steps:
        raise InvalidInput.of(f"{field}.steps", "at least one step is required")
    check_length(message.steps, f"{field}.steps", TIERS_MAX, reason=INVALID_FIELD)
    violations = Violations()
    if not 0 <= message.term_months <= TERM_MONTHS_MAX:
        violations.add(f"{field}.term_months", f"must be from 0 to {TERM_MONTHS_MAX}")
    _check_steps_ascend(violations, message.steps, f"{field}.steps")
    commitment = Commitment(
        steps=tuple(
            CommitmentStep(
                step.after_months,
                take(violations, f"{field}.steps[{index}].amount", parse_amount, step.amount),
            )
            for index, step in enumerate(message.steps)
        ),
        term_months=message.term_months,
    )
    violations.raise_if_any()
    return commitment


def parse_trial(message: plan_pb2.Trial, field: str) -> Trial:
    """Read a trial."""
    if not 1 <= message.days <= TRIAL_DAYS_MAX:
        raise InvalidInput.of(f"{field}.days", f"must be from 1 to {TRIAL_DAYS_MAX}")
    return Trial(message.days, message.includes_usage)


def render_base_fee(fee: BaseFee) -> plan_pb2.BaseFee:
    """Write a fee."""
    return plan_pb2.BaseFee(
        fee_id=fee.fee_id,
        display_name=fee.display_name,
        unit_amount=render_decimal(fee.unit_amount),
        quantity=render_decimal(fee.quantity),
        category=render_category(fee.category),
        whole=fee.whole,
    )


def render_commitment(commitment: Commitment) -> plan_pb2.Commitment:
    """Write a commitment."""
    return plan_pb2.Commitment(
        steps=[
            plan_pb2.CommitmentStep(
                after_months=step.after_months, amount=render_decimal(step.amount)
            )
            for step in commitment.steps
        ],
        term_months=commitment.term_months,
    )


def render_trial(trial: Trial) -> plan_pb2.Trial:
    """Write a trial."""
    return plan_pb2.Trial(days=trial.days, includes_usage=trial.includes_usage)


def _check_steps_ascend(
    violations: Violations, steps: Sequence[plan_pb2.CommitmentStep], field: str
) -> None:
    if steps[0].after_months:
        violations.add(f"{field}[0].after_months", "must be 0: the first step begins the contract")
    for index in range(1, len(steps)):
        months, before = steps[index].after_months, steps[index - 1].after_months
        if not before < months <= MONTHS_MAX:
            violations.add(
                f"{field}[{index}].after_months", f"must be above {before}, up to {MONTHS_MAX}"
            )
