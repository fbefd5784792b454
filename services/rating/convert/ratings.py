"""Ratings between the wire and the domain: what is to be rated, and the lines it comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial

from google.type.interval_pb2 import Interval as IntervalMessage

from kit.decimals import parse_decimal
from kit.errors import INVALID_FIELD, InvalidInput, Violations
from kit.ids import parse_id
from kit.interval import Interval
from kit.rpc.wire import (
    parse_interval,
    parse_time,
    render_decimal,
    render_interval,
    render_money,
)
from services.rating.convert.fields import (
    amount_or_zero,
    check_ascending,
    check_length,
    decimal_or,
    parse_amount,
    parse_customer_id,
    parse_dimensions,
    parse_quantity,
    parse_time_zone,
    parse_version,
    render_category,
    take,
    take_each,
)
from services.rating.convert.prices import parse_prices
from services.rating.convert.terms import parse_commitment
from services.rating.model import (
    NO_OVERRIDES,
    Contract,
    EarlierPeriod,
    FormulaStep,
    GivenUsage,
    LineKind,
    Overrides,
    PeriodToRate,
    Proration,
    RatedLine,
    Rating,
    Stage,
    UsageEntry,
    UsageReference,
)
from tollkeeper.api.rating.v1 import rating_pb2, rating_service_pb2

BATCH_MAX = 1000
GIVEN_QUANTITIES_MAX = 10_000
GIVEN_DIMENSIONS_MAX = 16
GIVEN_QUANTITIES_OF_EVENT_MAX = 16
PERIOD_DAYS_MAX = 5 * 366
PREVIOUS_PERIODS_MAX = 60
EARLIER_PERIODS_MAX = 120

LINE_KINDS = {
    LineKind.BASE_FEE: rating_pb2.LINE_KIND_BASE_FEE,
    LineKind.USAGE: rating_pb2.LINE_KIND_USAGE,
    LineKind.TRUE_UP: rating_pb2.LINE_KIND_TRUE_UP,
    LineKind.FEE: rating_pb2.LINE_KIND_FEE,
}
_STAGES = {
    Stage.CONVERSION: rating_pb2.STAGE_CONVERSION,
    Stage.INCLUDED: rating_pb2.STAGE_INCLUDED,
    Stage.PRICE: rating_pb2.STAGE_PRICE,
    Stage.CREDITS: rating_pb2.STAGE_CREDITS,
    Stage.USAGE_DISCOUNT: rating_pb2.STAGE_USAGE_DISCOUNT,
    Stage.DISCOUNT: rating_pb2.STAGE_DISCOUNT,
    Stage.MINIMUM: rating_pb2.STAGE_MINIMUM,
    Stage.MAXIMUM: rating_pb2.STAGE_MAXIMUM,
}


def parse_rate(request: rating_service_pb2.RateRequest) -> PeriodToRate:
    """Read what is to be rated."""
    check_length(request.given_usage.quantities, "given_usage.quantities", GIVEN_QUANTITIES_MAX)
    violations = Violations()
    proration = given_usage = contract_start = as_of = None
    overrides = NO_OVERRIDES
    if request.HasField("overrides"):
        overrides = take(violations, "overrides", parse_overrides, request.overrides)
    if request.HasField("contract_start"):
        contract_start = take(violations, "contract_start", parse_time, request.contract_start)
    if request.HasField("as_of"):
        as_of = take(violations, "as_of", parse_time, request.as_of)
    if request.HasField("proration"):
        proration = take(violations, "proration", parse_proration, request.proration)
    if request.HasField("given_usage"):
        quantities = request.given_usage.quantities
        given_usage = take(violations, "given_usage.quantities", parse_given_usage, quantities)
    to_rate = PeriodToRate(
        customer_id=take(violations, "customer_id", parse_customer_id, request.customer_id),
        plan_id=take(violations, "plan_id", parse_id, request.plan_id),
        plan_version=take(violations, "plan_version", parse_version, request.plan_version),
        period=take(violations, "period", parse_period, request.period),
        proration=proration,
        contract=Contract(
            start=contract_start,
            time_zone=take(violations, "time_zone", parse_time_zone, request.time_zone),
            billed_before=amount_or_zero(violations, "billed_before", request),
        ),
        as_of=as_of,
        previous_periods=take(
            violations, "previous_periods", _previous_periods, request.previous_periods
        ),
        overrides=overrides,
        given_usage=given_usage,
        earlier_periods=take(
            violations, "earlier_periods", _earlier_periods, request.earlier_periods
        ),
    )
    if to_rate.earlier_periods:
        for name, is_stated in (
            ("previous_periods", bool(request.previous_periods)),
            ("billed_before", request.HasField("billed_before")),
        ):
            if is_stated:
                violations.add(name, "must be absent where there are earlier_periods")
        last = to_rate.earlier_periods[-PREVIOUS_PERIODS_MAX:]
        to_rate = replace(to_rate, previous_periods=tuple(each.period for each in last))
    if to_rate.period is not None:
        _check_times(violations, to_rate)
    violations.raise_if_any()
    return to_rate


def parse_batch_rate(
    request: rating_service_pb2.BatchRateRequest,
) -> tuple[PeriodToRate | InvalidInput, ...]:
    """Read a batch: each request, or what is wrong with it."""
    if not request.requests:
        raise InvalidInput.of("requests", "at least one is required")
    check_length(request.requests, "requests", BATCH_MAX)
    return tuple(map(_parse_one_of_batch, request.requests))


def render_rating(rating: Rating) -> rating_pb2.Rating:
    """Write a rating."""
    return rating_pb2.Rating(
        plan_id=rating.plan_id,
        plan_version=rating.plan_version,
        currency=rating.currency,
        lines=map(render_line, rating.lines),
        total=render_money(rating.total),
        needs_earlier_periods=rating.needs_earlier_periods,
    )


def parse_overrides(message: rating_service_pb2.PlanOverrides, field: str) -> Overrides:
    """Read what was agreed instead of what a plan says."""
    violations = Violations()
    commitment = None
    if message.HasField("commitment"):
        commitment = take(violations, f"{field}.commitment", parse_commitment, message.commitment)
    overrides = Overrides(
        base_fee=decimal_or(None, violations, f"{field}.base_fee", message, parse_amount),
        prices=take(violations, f"{field}.prices", parse_prices, message.prices),
        commitment=commitment,
    )
    violations.raise_if_any()
    return overrides


def _previous_periods(messages: Sequence[IntervalMessage], field: str) -> tuple[Interval, ...]:
    check_length(messages, field, PREVIOUS_PERIODS_MAX, reason=INVALID_FIELD)
    periods = take_each(messages, field, parse_period)
    violations = Violations()
    check_ascending(violations, periods, lambda index: f"{field}[{index}]")
    violations.raise_if_any()
    return periods


def _earlier_periods(
    messages: Sequence[rating_pb2.EarlierPeriod], field: str
) -> tuple[EarlierPeriod, ...]:
    check_length(messages, field, EARLIER_PERIODS_MAX, reason=INVALID_FIELD)
    periods = take_each(messages, field, _earlier_period)
    violations = Violations()
    intervals = [each.period for each in periods]
    check_ascending(violations, intervals, lambda index: f"{field}[{index}].period")
    violations.raise_if_any()
    return periods


def _earlier_period(message: rating_pb2.EarlierPeriod, field: str) -> EarlierPeriod:
    violations = Violations()
    proration = None
    if message.HasField("proration"):
        proration = take(violations, f"{field}.proration", parse_proration, message.proration)
    period = take(violations, f"{field}.period", parse_period, message.period)
    violations.raise_if_any()
    return EarlierPeriod(period, proration)


def _check_times(violations: Violations, to_rate: PeriodToRate) -> None:
    period, start, as_of = to_rate.period, to_rate.contract.start, to_rate.as_of
    if start is not None and start > period.end:
        violations.add("contract_start", "must not be after the end of the period")
    if as_of is not None and not period.start <= as_of <= period.end:
        violations.add("as_of", "must be within the period")
    if to_rate.previous_periods and to_rate.previous_periods[-1].end > period.start:
        name = "earlier_periods" if to_rate.earlier_periods else "previous_periods"
        violations.add(name, "must end before the period begins")


def _parse_one_of_batch(
    request: rating_service_pb2.RateRequest,
) -> PeriodToRate | InvalidInput:
    try:
        return parse_rate(request)
    except InvalidInput as error:
        return error


def parse_period(message: IntervalMessage, field: str) -> Interval:
    """Read a period."""
    period = parse_interval(message, field)
    if period.duration > timedelta(days=PERIOD_DAYS_MAX):
        raise InvalidInput.of(field, f"must be at most {PERIOD_DAYS_MAX} days long")
    return period


def parse_proration(message: rating_pb2.Proration, field: str) -> Proration:
    """Read a part of a period."""
    violations = Violations()
    if message.billed_days < 1:
        violations.add(f"{field}.billed_days", "must be at least 1")
    if message.period_days < message.billed_days:
        violations.add(f"{field}.period_days", "must not be below billed_days")
    if message.period_days > PERIOD_DAYS_MAX:
        violations.add(f"{field}.period_days", f"must be at most {PERIOD_DAYS_MAX}")
    violations.raise_if_any()
    return Proration(message.billed_days, message.period_days)


def parse_given_usage(
    messages: Sequence[rating_service_pb2.UsageQuantity], field: str
) -> tuple[GivenUsage, ...]:
    """Read usage that the caller gives."""
    return take_each(messages, field, _given_event)


def _given_event(message: rating_service_pb2.UsageQuantity, field: str) -> GivenUsage:
    violations = Violations()
    time = quantities = None
    if message.HasField("time"):
        time = take(violations, f"{field}.time", parse_time, message.time)
    if message.quantities:
        quantities = take(violations, f"{field}.quantities", _quantities, message.quantities)
    given = GivenUsage(
        meter_id=take(violations, f"{field}.meter_id", parse_id, message.meter_id),
        entry=UsageEntry(
            dimensions=take(
                violations, f"{field}.dimensions", _given_dimensions, message.dimensions
            ),
            quantity=take(violations, f"{field}.quantity", parse_quantity, message.quantity),
            time=time,
            quantities=quantities or {},
        ),
    )
    violations.raise_if_any()
    return given


def _given_dimensions(values: Mapping[str, str], field: str) -> Mapping[str, str]:
    return dict(parse_dimensions(values, field, GIVEN_DIMENSIONS_MAX))


def _quantities(values: Mapping[str, str], field: str) -> Mapping[str, Decimal]:
    if len(values) > GIVEN_QUANTITIES_OF_EVENT_MAX:
        raise InvalidInput.of(field, f"must have at most {GIVEN_QUANTITIES_OF_EVENT_MAX} entries")
    violations = Violations()
    quantities = {
        name: violations.take(
            f"{field}.{name}", partial(parse_decimal, text, f"{field}.{name}", minimum=Decimal(0))
        )
        for name, text in sorted(values.items())
    }
    violations.raise_if_any()
    return quantities


def render_line(line: RatedLine) -> rating_pb2.RatedLine:
    """Write a rated line."""
    return rating_pb2.RatedLine(
        kind=LINE_KINDS[line.kind],
        price_id=line.price_id,
        description=line.description,
        quantity=render_decimal(line.quantity),
        unit=line.unit,
        unrounded_amount=render_decimal(line.unrounded_amount),
        amount=render_money(line.amount),
        steps=map(render_step, line.steps),
        usage=None if line.usage is None else _render_usage(line.usage),
        category=render_category(line.category),
        period=render_interval(line.period),
    )


def render_step(step: FormulaStep) -> rating_pb2.FormulaStep:
    """Write a step of a line."""
    return rating_pb2.FormulaStep(
        description=step.description,
        quantity=render_decimal(step.quantity),
        unit_amount=render_decimal(step.unit_amount),
        amount=render_decimal(step.amount),
        stage=_STAGES[step.stage],
        tier=step.tier,
    )


def _render_usage(usage: UsageReference) -> rating_pb2.UsageReference:
    return rating_pb2.UsageReference(
        meter_id=usage.meter_id,
        customer_id=usage.customer_id,
        interval=render_interval(usage.interval),
        dimensions=dict(usage.dimensions),
        excluded=[rating_pb2.UsageFilter(dimensions=dict(each)) for each in usage.excluded],
    )
