"""Explanations, estimates and rate cards between the wire and the domain."""

from collections.abc import Mapping
from datetime import datetime

from kit.errors import InvalidInput, Violation, Violations
from kit.ids import parse_id
from kit.rpc.wire import parse_time, render_decimal, render_money
from services.rating.convert.fields import (
    check_length,
    parse_price_dimensions,
    parse_version,
    take,
)
from services.rating.convert.ratings import (
    LINE_KINDS,
    parse_given_usage,
    parse_rate,
    render_line,
    render_step,
)
from services.rating.estimating import Estimate
from services.rating.explaining import amounts_so_far, explain
from services.rating.model import (
    GivenUsage,
    LineKind,
    PeriodToRate,
    PlanVersion,
    RatedLine,
    Rating,
)
from services.rating.prices import Dimensions
from services.rating.rate_card import RateCardEntry
from tollkeeper.api.rating.v1 import rating_pb2, rating_service_pb2

CALL_ENTRIES_MAX = 100

_KINDS_BY_NUMBER = {
    rating_pb2.LINE_KIND_UNSPECIFIED: LineKind.USAGE,
    **{number: kind for kind, number in LINE_KINDS.items()},
}


def parse_explain_line(
    request: rating_service_pb2.ExplainLineRequest,
) -> tuple[PeriodToRate, LineKind, str, Dimensions]:
    """Read which line of which rating is explained."""
    violations = Violations()
    kind = _KINDS_BY_NUMBER.get(request.kind)
    if kind is None:
        violations.add("kind", "must be a kind of the contract")
    to_rate = violations.take("rate", lambda: _parse_rate_of(request))
    group = take(violations, "group", _parse_group, request.group)
    violations.raise_if_any()
    assert kind is not None, "a bad kind was refused"
    return to_rate, kind, request.price_id, group


def render_explanation(rating: Rating, line: RatedLine) -> rating_service_pb2.ExplainLineResponse:
    """Write the explanation of a line."""
    return rating_service_pb2.ExplainLineResponse(
        plan_id=rating.plan_id,
        plan_version=rating.plan_version,
        line=render_line(line),
        steps=[
            rating_service_pb2.ExplainedStep(
                step=render_step(step), amount_so_far=render_decimal(amount)
            )
            for step, amount in amounts_so_far(line)
        ],
        text=explain(rating, line),
    )


def parse_estimate_cost(
    request: rating_service_pb2.EstimateCostRequest,
) -> tuple[PeriodToRate, tuple[GivenUsage, ...]]:
    """Read the period and the usage that has not happened."""
    if not request.quantities:
        raise InvalidInput.of("quantities", "at least one is required")
    check_length(request.quantities, "quantities", CALL_ENTRIES_MAX)
    violations = Violations()
    to_rate = violations.take("rate", lambda: _parse_rate_of(request))
    call = take(violations, "quantities", parse_given_usage, request.quantities)
    violations.raise_if_any()
    return to_rate, call


def render_estimate(estimate: Estimate) -> rating_service_pb2.EstimateCostResponse:
    """Write an estimate."""
    return rating_service_pb2.EstimateCostResponse(
        plan_version=estimate.plan_version,
        amount=render_decimal(estimate.amount),
        rounded_amount=render_money(estimate.rounded_amount),
        lines=[
            rating_service_pb2.LineEstimate(
                price_id=price_id, dimensions=dict(dimensions), amount=render_decimal(amount)
            )
            for price_id, dimensions, amount in estimate.lines
        ],
    )


def parse_get_rate_card(
    request: rating_service_pb2.GetRateCardRequest, now: datetime
) -> tuple[str, int | None, datetime]:
    """Read which plan is asked for, which version of it, and when."""
    violations = Violations()
    plan_id = take(violations, "plan_id", parse_id, request.plan_id)
    version = take(violations, "plan_version", parse_version, request.plan_version)
    instant = now
    if request.HasField("time"):
        instant = take(violations, "time", parse_time, request.time)
    violations.raise_if_any()
    return plan_id, version, instant


def render_rate_card(
    version: PlanVersion, entries: tuple[RateCardEntry, ...]
) -> rating_service_pb2.GetRateCardResponse:
    """Write a rate card."""
    return rating_service_pb2.GetRateCardResponse(
        plan_id=version.plan.plan_id,
        plan_version=version.version,
        currency=version.plan.currency,
        entries=map(_render_entry, entries),
    )


def _parse_rate_of(
    request: rating_service_pb2.ExplainLineRequest | rating_service_pb2.EstimateCostRequest,
) -> PeriodToRate:
    """Read what is rated, naming its fields within the request."""
    try:
        return parse_rate(request.rate)
    except InvalidInput as error:
        inner = tuple(
            Violation(f"rate.{each.field}", each.description) for each in error.violations
        )
        raise InvalidInput(
            error.reason, f"rate.{error.message}", metadata=error.metadata, violations=inner
        ) from error


def _parse_group(values: Mapping[str, str], field: str) -> Dimensions:
    return parse_price_dimensions(values, field)


def _render_entry(entry: RateCardEntry) -> rating_service_pb2.RateCardEntry:
    return rating_service_pb2.RateCardEntry(
        price_id=entry.price_id,
        meter_id=entry.meter_id,
        dimensions=dict(entry.dimensions),
        context_quantity=entry.context_quantity,
        context_above=None if entry.context_above is None else render_decimal(entry.context_above),
        unit_amount=render_decimal(entry.unit_amount),
        event_amount=render_decimal(entry.event_amount) if entry.event_amount else None,
        is_exact=entry.is_exact,
    )
