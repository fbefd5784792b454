"""When usage counts and is charged: in advance, as a level, over a contract; wire and domain."""

from collections.abc import Iterator

from kit.errors import Violations
from services.rating.convert.fields import (
    decimal_or,
    parse_price_dimensions,
    parse_quantity,
    parse_quantity_name,
    render_optional,
    take,
)
from services.rating.model import Price
from services.rating.prices import Recurrence, Rollover, TierSpan
from tollkeeper.api.rating.v1 import plan_pb2

ROLLOVER_PERIODS_MAX = 60

TIER_SPANS = {
    plan_pb2.TIER_SPAN_PERIOD: TierSpan.PERIOD,
    plan_pb2.TIER_SPAN_CONTRACT: TierSpan.CONTRACT,
    plan_pb2.TIER_SPAN_LIFETIME: TierSpan.LIFETIME,
}
_TIER_SPAN_NUMBERS = {span: number for number, span in TIER_SPANS.items()}
_OF_A_QUANTITY = frozenset(
    {"standard", "graduated", "graduated_percentage", "volume", "stairstep", "package"}
)
_BY_DAYS = frozenset({"standard", "graduated", "volume"})
_WITH_SPANS = frozenset({"graduated", "graduated_percentage", "volume"})
_WITH_FIRST_AMOUNTS = _WITH_SPANS | {"stairstep"}
_IN_ADVANCE = frozenset({"standard", "graduated", "graduated_percentage", "package", "percentage"})
_NOT_IN_ADVANCE = ("minimum_amount", "maximum_amount", "discounts", "rollover")
_NOT_BY_DAYS = ("included_quantity", "discounts")
_NOT_OVER_SPANS = ("included_quantity", "conversion", "discounts", "free_without_usage")


def parse_recurrence(message: plan_pb2.Recurrence, field: str) -> Recurrence:
    """Read how a level recurs."""
    violations = Violations()
    removal = take(violations, f"{field}.removal", parse_price_dimensions, message.removal)
    if message.identity:
        take(violations, f"{field}.identity", parse_quantity_name, message.identity)
    if message.sets_level:
        for name in ("removal", "identity"):
            if getattr(message, name):
                violations.add(f"{field}.{name}", "must be absent where events set the level")
    violations.raise_if_any()
    return Recurrence(message.prorated, removal, message.sets_level, message.identity)


def parse_rollover(message: plan_pb2.Rollover, field: str) -> Rollover:
    """Read how an allowance is kept."""
    violations = Violations()
    if not 1 <= message.periods <= ROLLOVER_PERIODS_MAX:
        violations.add(f"{field}.periods", f"must be from 1 to {ROLLOVER_PERIODS_MAX}")
    maximum = decimal_or(None, violations, f"{field}.maximum_quantity", message, parse_quantity)
    violations.raise_if_any()
    return Rollover(message.periods, maximum)


def timing_misfits(message: plan_pb2.Price) -> Iterator[tuple[str, str]]:
    """Find what cannot stand together; each field with what is wrong with it."""
    if message.billing_timing not in plan_pb2.BillingTiming.values():
        yield "billing_timing", "must be a timing of the contract"
    if message.tier_span not in plan_pb2.TierSpan.values():
        yield "tier_span", "must be a span of the contract"
    if message.billing_timing == plan_pb2.BILLING_TIMING_IN_ADVANCE:
        yield from _advance_misfits(message)
    if message.HasField("recurrence"):
        yield from _fit(message, "recurrence", _OF_A_QUANTITY)
        yield from _absent(message, ("rollover",), "of a recurring price")
        if message.recurrence.prorated:
            yield from _days_misfits(message)
    if message.HasField("rollover"):
        yield from _fit(message, "rollover", _OF_A_QUANTITY)
    yield from _unused_misfits(message)
    if message.tier_span in {plan_pb2.TIER_SPAN_CONTRACT, plan_pb2.TIER_SPAN_LIFETIME}:
        yield from _fit(message, "tier_span", _WITH_SPANS)
        if message.HasField("recurrence"):
            yield "tier_span", "must be the period of a recurring price"
        else:
            yield from _absent(message, _NOT_OVER_SPANS, "where tiers span more than the period")
        if message.billing_timing == plan_pb2.BILLING_TIMING_IN_ADVANCE:
            yield "tier_span", "must be the period where usage is charged in advance"


def _unused_misfits(message: plan_pb2.Price) -> Iterator[tuple[str, str]]:
    if message.free_without_usage:
        yield from _fit(message, "free_without_usage", _WITH_FIRST_AMOUNTS)
        if message.recurrence.prorated:
            yield "free_without_usage", "must be absent where a level is prorated"


def may_include(price: Price) -> bool:
    """Tell whether a price may have an included quantity, as far as its timing goes."""
    is_prorated = price.recurrence is not None and price.recurrence.prorated
    return price.tier_span is TierSpan.PERIOD and not is_prorated


def render_timing(price: Price, message: plan_pb2.Price) -> None:
    """Write when usage counts and is charged into the message of a price."""
    if price.tier_span is not TierSpan.PERIOD:
        message.tier_span = _TIER_SPAN_NUMBERS[price.tier_span]
    if price.in_advance:
        message.billing_timing = plan_pb2.BILLING_TIMING_IN_ADVANCE
    if price.recurrence is not None:
        message.recurrence.prorated = price.recurrence.prorated
        message.recurrence.removal.update(dict(price.recurrence.removal))
        message.recurrence.sets_level = price.recurrence.sets_level
        message.recurrence.identity = price.recurrence.identity
    if price.rollover is not None:
        message.rollover.CopyFrom(
            plan_pb2.Rollover(
                periods=price.rollover.periods,
                maximum_quantity=render_optional(price.rollover.maximum_quantity),
            )
        )


def _advance_misfits(message: plan_pb2.Price) -> Iterator[tuple[str, str]]:
    yield from _fit(message, "billing_timing", _IN_ADVANCE)
    yield from _absent(message, _NOT_IN_ADVANCE, "where usage is charged in advance")
    is_percentage = message.WhichOneof("model") == "percentage"
    if is_percentage and message.virtual_currency.HasField("decimals"):
        yield "virtual_currency.decimals", "must be absent of a percentage in advance"


def _days_misfits(message: plan_pb2.Price) -> Iterator[tuple[str, str]]:
    yield from _fit(message, "recurrence.prorated", _BY_DAYS)
    yield from _absent(message, _NOT_BY_DAYS, "where a level is prorated")
    is_standard = message.WhichOneof("model") == "standard"
    if not is_standard:
        yield from _absent(message, ("conversion",), "where tiers are prorated")
        if message.billing_timing == plan_pb2.BILLING_TIMING_IN_ADVANCE:
            yield "recurrence.prorated", "in advance must be of a standard price"


def _fit(message: plan_pb2.Price, field: str, kinds: frozenset[str]) -> Iterator[tuple[str, str]]:
    kind = message.WhichOneof("model")
    if kind not in kinds:
        yield field, f"is for {', '.join(sorted(kinds))} only, not for {kind}"


def _absent(
    message: plan_pb2.Price, fields: tuple[str, ...], why: str
) -> Iterator[tuple[str, str]]:
    for field in fields:
        if any(each.name == field for each, _ in message.ListFields()):
            yield field, f"must be absent {why}"
