"""Plans between the wire and the domain; every bad field of a plan is named at once."""

from datetime import datetime

from kit.errors import Violations
from kit.idempotency import parse_request_id
from kit.ids import parse_id
from kit.paging import Page
from kit.rpc.wire import parse_time, render_decimal, render_time
from services.rating.convert.fields import (
    amount_or_zero,
    parse_category,
    parse_currency,
    parse_name,
    parse_version,
    render_category,
    take,
)
from services.rating.convert.limits import parse_limits, render_limit
from services.rating.convert.prices import parse_prices, render_price
from services.rating.convert.terms import (
    parse_base_fees,
    parse_commitment,
    parse_trial,
    render_base_fee,
    render_commitment,
    render_trial,
)
from services.rating.model import Plan, PlanVersion
from tollkeeper.api.rating.v1 import plan_pb2, rating_service_pb2


def parse_put_plan(request: rating_service_pb2.PutPlanRequest) -> Plan:
    """Read the plan that is put, and make sure that the request has an id."""
    violations = Violations()
    violations.take("request_id", lambda: parse_request_id(request.request_id))
    plan = take(violations, "plan", parse_plan, request.plan)
    violations.raise_if_any()
    return plan


def parse_plan(message: plan_pb2.Plan, field: str) -> Plan:
    """Read a plan as a caller writes it: without what the service sets."""
    violations = Violations()
    if message.version:
        violations.add(f"{field}.version", "must be absent: the service sets it")
    if message.HasField("archive_time"):
        violations.add(f"{field}.archive_time", "must be absent: the service sets it")
    if message.HasField("create_time"):
        violations.add(f"{field}.create_time", "must be absent: the service sets it")
    effective_time = commitment = trial = None
    if message.HasField("commitment"):
        commitment = take(violations, f"{field}.commitment", parse_commitment, message.commitment)
    if message.HasField("trial"):
        trial = take(violations, f"{field}.trial", parse_trial, message.trial)
    if message.HasField("effective_time"):
        effective_time = take(
            violations, f"{field}.effective_time", parse_time, message.effective_time
        )
    plan = Plan(
        plan_id=take(violations, f"{field}.plan_id", parse_id, message.plan_id),
        display_name=take(violations, f"{field}.display_name", parse_name, message.display_name),
        currency=take(violations, f"{field}.currency", parse_currency, message.currency),
        base_fee=amount_or_zero(violations, f"{field}.base_fee", message),
        prices=take(violations, f"{field}.prices", parse_prices, message.prices) or (),
        effective_time=effective_time,
        category=take(violations, f"{field}.category", parse_category, message.category),
        base_fees=violations.take(
            f"{field}.base_fees", lambda: parse_base_fees(message, f"{field}.base_fees")
        ),
        commitment=commitment,
        trial=trial,
        keeps_contracts=message.keeps_contracts,
        limits=violations.take(f"{field}.limits", lambda: parse_limits(message, f"{field}.limits")),
    )
    violations.raise_if_any()
    return plan


def parse_get_plan(
    request: rating_service_pb2.GetPlanRequest,
) -> tuple[str, int | None, datetime | None]:
    """Read which plan is asked for, and which version of it, perhaps by a time."""
    violations = Violations()
    time = None
    plan_id = take(violations, "plan_id", parse_id, request.plan_id)
    version = take(violations, "version", parse_version, request.version)
    if request.HasField("time"):
        time = take(violations, "time", parse_time, request.time)
        if request.version:
            violations.add("time", "must be absent where a version is asked for")
    violations.raise_if_any()
    return plan_id, version, time


def parse_archive_plan(request: rating_service_pb2.ArchivePlanRequest) -> str:
    """Read which plan is archived, and make sure that the request has an id."""
    violations = Violations()
    violations.take("request_id", lambda: parse_request_id(request.request_id))
    plan_id = take(violations, "plan_id", parse_id, request.plan_id)
    violations.raise_if_any()
    return plan_id


def render_archive_plan(stored: PlanVersion) -> rating_service_pb2.ArchivePlanResponse:
    """Write the answer to a plan that was archived."""
    return rating_service_pb2.ArchivePlanResponse(plan=render_plan(stored))


def render_plan(stored: PlanVersion) -> plan_pb2.Plan:
    """Write a stored plan."""
    plan = stored.plan
    message = plan_pb2.Plan(
        plan_id=plan.plan_id,
        version=stored.version,
        display_name=plan.display_name,
        currency=plan.currency,
        base_fee=render_decimal(plan.base_fee),
        prices=map(render_price, plan.prices),
        category=render_category(plan.category),
        create_time=render_time(stored.create_time),
        base_fees=map(render_base_fee, plan.base_fees),
        commitment=None if plan.commitment is None else render_commitment(plan.commitment),
        trial=None if plan.trial is None else render_trial(plan.trial),
        keeps_contracts=plan.keeps_contracts,
        limits=map(render_limit, plan.limits),
        archive_time=None if stored.archive_time is None else render_time(stored.archive_time),
    )
    if plan.effective_time is not None:
        message.effective_time.CopyFrom(render_time(plan.effective_time))
    return message


def render_put_plan(stored: PlanVersion) -> rating_service_pb2.PutPlanResponse:
    """Write the answer to a plan that was put."""
    return rating_service_pb2.PutPlanResponse(plan=render_plan(stored))


def render_plans(page: Page[PlanVersion]) -> rating_service_pb2.ListPlansResponse:
    """Write a page of plans."""
    return rating_service_pb2.ListPlansResponse(
        plans=map(render_plan, page.items), next_page_token=page.next_page_token
    )
