"""What was agreed with one customer instead of what a plan says.

Refuses to add what the plan does not have.
"""

from dataclasses import replace
from itertools import combinations

from kit.errors import InvalidInput, Violations
from services.rating.model import NO_OVERRIDES, Overrides, Plan, PlanVersion, may_meet


def override(plan: Plan, overrides: Overrides) -> Plan:
    """Answer the plan as it was agreed.

    Raises:
        InvalidInput: a price replaces none, or may bill the usage of another.
    """
    if overrides == NO_OVERRIDES:
        return plan
    violations = Violations()
    known = {price.price_id for price in plan.prices}
    for index, price in enumerate(overrides.prices):
        if price.price_id not in known:
            violations.add(
                f"overrides.prices[{index}].price_id", f"is no price of the plan {plan.plan_id}"
            )
    violations.raise_if_any()
    replaced = {price.price_id: price for price in overrides.prices}
    prices = tuple(replaced.get(price.price_id, price) for price in plan.prices)
    for first, second in combinations(prices, 2):
        if (
            first.meter_id == second.meter_id
            and len(first.dimensions) == len(second.dimensions)
            and may_meet(first.dimensions, second.dimensions)
        ):
            raise InvalidInput.of(
                "overrides.prices",
                f"{first.price_id} and {second.price_id} would both bill the same usage",
            )
    return replace(
        plan,
        base_fee=plan.base_fee if overrides.base_fee is None else overrides.base_fee,
        prices=prices,
        commitment=overrides.commitment or plan.commitment,
    )


def override_version(version: PlanVersion, overrides: Overrides) -> PlanVersion:
    """Answer a version with the plan as it was agreed.

    Raises:
        InvalidInput: as `override`.
    """
    if overrides == NO_OVERRIDES:
        return version
    return replace(version, plan=override(version.plan, overrides))
