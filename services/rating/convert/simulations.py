"""Simulations between the wire and the domain."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

from kit.errors import INVALID_FIELD, InvalidInput, Violations
from kit.ids import parse_id
from kit.rpc.status import render_status
from kit.rpc.wire import parse_time, render_money
from services.rating.convert.fields import (
    check_ascending,
    check_length,
    parse_customer_id,
    parse_time_zone,
    render_optional,
    take,
    take_each,
)
from services.rating.convert.plans import parse_plan
from services.rating.convert.ratings import (
    PERIOD_DAYS_MAX,
    parse_overrides,
    parse_period,
    parse_proration,
)
from services.rating.model import Overrides
from services.rating.simulation import (
    Bucket,
    Change,
    Outcome,
    PlanOutcome,
    Progress,
    SegmentOutcome,
    SimulatedCustomer,
    SimulatedPeriod,
    Simulation,
    SimulationReport,
    Step,
    Tally,
)
from tollkeeper.api.rating.v1 import rating_service_pb2, simulation_pb2

CANDIDATES_MAX = 8
PERIODS_MAX = 60
CUSTOMERS_MAX = 100_000
CALENDARS_MAX = 10_000
OVERRIDES_MAX = 10_000
SEGMENT_LENGTH_MAX = 64
_DOMAIN = "tollkeeper.rating"


def parse_simulate(request: rating_service_pb2.SimulateRequest) -> Simulation:
    """Read what is to be rated again, by which plans."""
    if not request.candidates:
        raise InvalidInput.of("candidates", "at least one is required")
    check_length(request.candidates, "candidates", CANDIDATES_MAX)
    check_length(request.customers, "customers", CUSTOMERS_MAX)
    check_length(request.calendars, "calendars", CALENDARS_MAX)
    violations = Violations()
    calendars = [
        take(violations, f"calendars[{index}].periods", parse_periods, calendar.periods)
        for index, calendar in enumerate(request.calendars)
    ]
    current_plan_id = None
    if request.current_plan_id:
        current_plan_id = take(violations, "current_plan_id", parse_id, request.current_plan_id)
    simulation = Simulation(
        candidates=tuple(
            take(violations, f"candidates[{index}]", parse_plan, plan)
            for index, plan in enumerate(request.candidates)
        ),
        periods=take(violations, "periods", parse_periods, request.periods),
        customers=tuple(
            take(
                violations,
                f"customers[{index}]",
                partial(parse_customer, current_plan_id, calendars=calendars),
                customer,
            )
            for index, customer in enumerate(request.customers)
        ),
        current_plan_id=current_plan_id,
    )
    overrides = parse_customer_overrides(violations, request.overrides)
    violations.raise_if_any()
    customers = with_overrides(violations, simulation.customers, overrides)
    simulation = replace(simulation, customers=customers)
    seen: set[str] = set()
    for index, customer in enumerate(simulation.customers):
        if customer.customer_id in seen:
            violations.add(f"customers[{index}].customer_id", "is named twice")
        seen.add(customer.customer_id)
    for index, plan in enumerate(simulation.candidates):
        if plan.currency != simulation.candidates[0].currency:
            violations.add(f"candidates[{index}].currency", "must be the same for all candidates")
    violations.raise_if_any()
    return simulation


def render_step_of_simulation(step: Step) -> rating_service_pb2.SimulateResponse:
    """Write what a simulation says on its way."""
    match step:
        case Progress(done, customers):
            progress = simulation_pb2.SimulationProgress(done_count=done, customer_count=customers)
            return rating_service_pb2.SimulateResponse(progress=progress)
        case SimulationReport(tallies, customers, failed):
            report = simulation_pb2.SimulationReport(
                candidates=map(_render_tally, tallies),
                customer_count=customers,
                failed_count=failed,
            )
            return rating_service_pb2.SimulateResponse(report=report)
        case outcomes:
            rendered = map(_render_outcome, outcomes)
            several = simulation_pb2.CustomerOutcomes(outcomes=rendered)
            return rating_service_pb2.SimulateResponse(outcomes=several)


def parse_periods(
    messages: Sequence[simulation_pb2.SimulatedPeriod], field: str
) -> tuple[SimulatedPeriod, ...]:
    """Read periods, which ascend."""
    if not messages:
        raise InvalidInput.of(field, "at least one is required")
    check_length(messages, field, PERIODS_MAX, reason=INVALID_FIELD)
    periods = take_each(messages, field, _period)
    violations = Violations()
    intervals = [each.period for each in periods]
    check_ascending(violations, intervals, lambda index: f"{field}[{index}].period")
    if periods[-1].period.end - periods[0].period.start > timedelta(days=PERIOD_DAYS_MAX):
        violations.add(field, f"must span at most {PERIOD_DAYS_MAX} days")
    violations.raise_if_any()
    return periods


def _period(message: simulation_pb2.SimulatedPeriod, field: str) -> SimulatedPeriod:
    violations = Violations()
    proration = None
    if message.HasField("proration"):
        proration = take(violations, f"{field}.proration", parse_proration, message.proration)
    period = SimulatedPeriod(
        take(violations, f"{field}.period", parse_period, message.period), proration
    )
    violations.raise_if_any()
    return period


def parse_customer(
    current_plan_id: str | None,
    message: simulation_pb2.SimulatedCustomer,
    field: str,
    *,
    calendars: Sequence[tuple[SimulatedPeriod, ...]] = (),
) -> SimulatedCustomer:
    """Read a customer, who is on the current plan unless another is named."""
    violations = Violations()
    if not 0 <= message.calendar <= len(calendars):
        violations.add(f"{field}.calendar", f"must be from 0 to {len(calendars)}")
    plan_id = current_plan_id
    if message.plan_id:
        plan_id = take(violations, f"{field}.plan_id", parse_id, message.plan_id)
    contract_start = None
    if message.HasField("contract_start"):
        contract_start = take(
            violations, f"{field}.contract_start", parse_time, message.contract_start
        )
    customer = SimulatedCustomer(
        customer_id=take(
            violations, f"{field}.customer_id", parse_customer_id, message.customer_id
        ),
        plan_id=plan_id,
        segment=take(violations, f"{field}.segment", _segment, message.segment),
        contract_start=contract_start,
        time_zone=take(violations, f"{field}.time_zone", parse_time_zone, message.time_zone),
    )
    violations.raise_if_any()
    if message.calendar:
        return replace(customer, periods=calendars[message.calendar - 1])
    return customer


def parse_customer_overrides(
    violations: Violations, messages: Sequence[rating_service_pb2.CustomerOverrides]
) -> list[tuple[str, Overrides]]:
    """Read what was agreed with customers, each named."""
    if len(messages) > OVERRIDES_MAX:
        violations.add("overrides", f"must have at most {OVERRIDES_MAX:,} customers")
        return []
    return [
        (
            take(
                violations, f"overrides[{index}].customer_id", parse_customer_id, each.customer_id
            ),
            take(violations, f"overrides[{index}].overrides", parse_overrides, each.overrides),
        )
        for index, each in enumerate(messages)
    ]


def with_overrides(
    violations: Violations,
    customers: Sequence[SimulatedCustomer],
    overrides: Sequence[tuple[str, Overrides]],
) -> tuple[SimulatedCustomer, ...]:
    """Give customers what was agreed with them."""
    agreed: dict[str, Overrides] = {}
    named = {customer.customer_id for customer in customers}
    for index, (customer_id, each) in enumerate(overrides):
        if customer_id not in named:
            violations.add(f"overrides[{index}].customer_id", "is none of the customers")
        elif customer_id in agreed:
            violations.add(f"overrides[{index}].customer_id", "is named twice")
        agreed[customer_id] = each
    return tuple(
        replace(customer, overrides=agreed[customer.customer_id])
        if customer.customer_id in agreed
        else customer
        for customer in customers
    )


def _segment(text: str, field: str) -> str:
    if len(text) > SEGMENT_LENGTH_MAX:
        raise InvalidInput.of(field, f"must have at most {SEGMENT_LENGTH_MAX} characters")
    if not text.isprintable():
        raise InvalidInput.of(field, "must have printable characters only")
    return text


def _render_outcome(outcome: Outcome) -> simulation_pb2.CustomerOutcome:
    return simulation_pb2.CustomerOutcome(
        customer_id=outcome.customer_id,
        segment=outcome.segment,
        current=None if outcome.current is None else render_money(outcome.current),
        candidates=map(_render_candidate, outcome.candidates),
        error=None if outcome.error is None else render_status(outcome.error, _DOMAIN),
    )


def _render_candidate(candidate: PlanOutcome) -> simulation_pb2.CandidateOutcome:
    return simulation_pb2.CandidateOutcome(
        total=render_money(candidate.total),
        tiers=[
            simulation_pb2.ReachedTier(price_id=price_id, tier=tier)
            for price_id, tier in candidate.tiers
        ],
    )


def _render_tally(tally: Tally) -> simulation_pb2.CandidateReport:
    return simulation_pb2.CandidateReport(
        plan_id=tally.plan.plan_id,
        total=_render_segment(tally.total),
        segments=map(_render_segment, tally.segments),
        winner_count=tally.winners,
        loser_count=tally.losers,
        unchanged_count=tally.unchanged,
        winners=map(_render_change, tally.largest_savings),
        losers=map(_render_change, tally.largest_increases),
        distribution=[_render_bucket(bucket, count) for bucket, count in tally.distribution],
        tiers=[
            simulation_pb2.TierCount(price_id=price_id, tier=tier, customer_count=count)
            for price_id, tier, count in tally.tiers
        ],
    )


def _render_segment(segment: SegmentOutcome) -> simulation_pb2.SegmentOutcome:
    return simulation_pb2.SegmentOutcome(
        segment=segment.segment,
        customer_count=segment.customers,
        current=render_money(segment.current),
        simulated=render_money(segment.simulated),
    )


def _render_change(change: Change) -> simulation_pb2.CustomerChange:
    return simulation_pb2.CustomerChange(
        customer_id=change.customer_id,
        segment=change.segment,
        current=render_money(change.current),
        simulated=render_money(change.simulated),
    )


def _render_bucket(bucket: Bucket, count: int) -> simulation_pb2.ChangeBucket:
    return simulation_pb2.ChangeBucket(
        above_percent=render_optional(bucket.above),
        up_to_percent=render_optional(bucket.up_to),
        from_nothing=bucket.from_nothing,
        customer_count=count,
    )
