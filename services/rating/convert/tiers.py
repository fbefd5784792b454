"""Tiers of every kind: they ascend without a gap, upper bounds belong to them, the last is open."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TypeVar

from kit.decimals import plain
from kit.errors import INVALID_FIELD, InvalidInput, Violations
from services.rating.convert.fields import (
    amount_or_zero,
    check_length,
    decimal_or,
    parse_amount,
    parse_percent,
    parse_positive_quantity,
    take,
)
from services.rating.model import TIERS_MAX
from services.rating.prices import ContextTier, PercentageTier, Stair, Tier
from tollkeeper.api.rating.v1 import plan_pb2

_ZERO = Decimal(0)


_Bounded = plan_pb2.Tier | plan_pb2.PercentageTier | plan_pb2.Stair | plan_pb2.ContextTier
BoundedMessage = TypeVar(
    "BoundedMessage",
    plan_pb2.Tier,
    plan_pb2.PercentageTier,
    plan_pb2.Stair,
    plan_pb2.ContextTier,
)
Parsed = TypeVar("Parsed")


def parse_tiers(
    messages: Sequence[BoundedMessage],
    field: str,
    parse: Callable[[Violations, BoundedMessage, Decimal | None, str], Parsed],
) -> tuple[Parsed, ...]:
    """Read tiers of one kind, each by its own parser, which notes what is wrong with it."""
    name = field.rpartition(".")[2].removesuffix("s")
    if not messages:
        raise InvalidInput.of(field, f"at least one {name} is required")
    check_length(messages, field, TIERS_MAX, reason=INVALID_FIELD)
    violations = Violations()
    tiers = []
    for index, message in enumerate(messages):
        up_to = None
        if message.HasField("up_to"):
            up_to = take(
                violations, f"{field}[{index}].up_to", parse_positive_quantity, message.up_to
            )
        tiers.append(parse(violations, message, up_to, f"{field}[{index}]"))
    _check_tiers_ascend(violations, messages, field, name)
    violations.raise_if_any()
    return tuple(tiers)


def parse_tier(
    violations: Violations, message: plan_pb2.Tier, up_to: Decimal | None, field: str
) -> Tier:
    """Read a tier of units."""
    return Tier(
        up_to=up_to,
        unit_amount=amount_or_zero(violations, f"{field}.unit_amount", message),
        flat_amount=amount_or_zero(violations, f"{field}.flat_amount", message),
    )


def parse_percentage_tier(
    violations: Violations, message: plan_pb2.PercentageTier, up_to: Decimal | None, field: str
) -> PercentageTier:
    """Read a tier of percentages."""
    return PercentageTier(
        up_to=up_to,
        rate_percent=decimal_or(_ZERO, violations, f"{field}.rate_percent", message, parse_percent),
        flat_amount=amount_or_zero(violations, f"{field}.flat_amount", message),
    )


def parse_stair(
    violations: Violations, message: plan_pb2.Stair, up_to: Decimal | None, field: str
) -> Stair:
    """Read a stair."""
    return Stair(up_to, take(violations, f"{field}.amount", parse_amount, message.amount))


def parse_context_tier(
    violations: Violations, message: plan_pb2.ContextTier, up_to: Decimal | None, field: str
) -> ContextTier:
    """Read a tier of calls."""
    return ContextTier(up_to, take(violations, f"{field}.amount", parse_amount, message.amount))


def _check_tiers_ascend(
    violations: Violations, messages: Sequence[_Bounded], field: str, name: str
) -> None:
    """Refuse tiers that do not begin where the one before ended, up to a last one without end."""
    start = _ZERO
    for index, message in enumerate(messages[:-1]):
        up_to = _bound(message)
        if not message.HasField("up_to"):
            violations.add(
                f"{field}[{index}].up_to", f"is required: only the last {name} has no end"
            )
        elif up_to is not None:
            if up_to <= start:
                violations.add(
                    f"{field}[{index}].up_to",
                    f"must be above {plain(start)}, where the {name} before ends",
                )
            start = max(start, up_to)
    if messages[-1].HasField("up_to"):
        last = len(messages) - 1
        violations.add(f"{field}[{last}].up_to", f"must be absent: the last {name} has no end")


def _bound(message: _Bounded) -> Decimal | None:
    """Answer the bound of a tier, or none where it is absent or cannot be read."""
    try:
        return parse_positive_quantity(message.up_to, "up_to")
    except InvalidInput:
        return None
