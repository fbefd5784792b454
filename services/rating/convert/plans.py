"""Plans between the wire and the domain; every bad field of a plan is named at once."""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from kit.decimals import plain
from kit.errors import INVALID_FIELD, InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.ids import parse_id
from kit.paging import Page
from kit.rpc.wire import parse_time, render_decimal, render_time
from services.rating.convert.fields import (
    check_length,
    parse_amount,
    parse_category,
    parse_currency,
    parse_dimensions,
    parse_name,
    parse_positive_quantity,
    parse_quantity,
    parse_version,
    render_category,
    take,
)
from services.rating.model import (
    DIMENSIONS_MAX,
    PRICES_MAX,
    TIERS_MAX,
    Dimensions,
    GraduatedPrice,
    PackagePrice,
    Plan,
    PlanVersion,
    Price,
    PriceModel,
    StandardPrice,
    Tier,
    may_meet,
)
from tollkeeper.api.rating.v1 import plan_pb2, rating_service_pb2

_ZERO = Decimal(0)
_ONE = Decimal(1)


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
    if message.HasField("create_time"):
        violations.add(f"{field}.create_time", "must be absent: the service sets it")
    effective_time = None
    if message.HasField("effective_time"):
        effective_time = take(
            violations, f"{field}.effective_time", parse_time, message.effective_time
        )
    plan = Plan(
        plan_id=take(violations, f"{field}.plan_id", parse_id, message.plan_id),
        display_name=take(violations, f"{field}.display_name", parse_name, message.display_name),
        currency=take(violations, f"{field}.currency", parse_currency, message.currency),
        base_fee=_amount_or_zero(violations, f"{field}.base_fee", message, "base_fee"),
        prices=take(violations, f"{field}.prices", _prices, message.prices) or (),
        effective_time=effective_time,
        category=take(violations, f"{field}.category", parse_category, message.category),
    )
    violations.raise_if_any()
    return plan


def parse_get_plan(request: rating_service_pb2.GetPlanRequest) -> tuple[str, int | None]:
    """Read which plan is asked for, and which version of it; none is the newest."""
    violations = Violations()
    plan_id = take(violations, "plan_id", parse_id, request.plan_id)
    version = take(violations, "version", parse_version, request.version)
    violations.raise_if_any()
    return plan_id, version


def render_plan(stored: PlanVersion) -> plan_pb2.Plan:
    """Write a stored plan."""
    plan = stored.plan
    message = plan_pb2.Plan(
        plan_id=plan.plan_id,
        version=stored.version,
        display_name=plan.display_name,
        currency=plan.currency,
        base_fee=render_decimal(plan.base_fee),
        prices=map(_render_price, plan.prices),
        category=render_category(plan.category),
        create_time=render_time(stored.create_time),
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


def _prices(messages: Sequence[plan_pb2.Price], field: str) -> tuple[Price, ...]:
    check_length(messages, field, PRICES_MAX, reason=INVALID_FIELD)
    violations = Violations()
    prices = tuple(
        take(violations, f"{field}[{index}]", _price, message)
        for index, message in enumerate(messages)
    )
    _check_ids_differ(violations, messages, field)
    _check_filters_are_disjoint(violations, messages, field)
    violations.raise_if_any()
    return prices


def _price(message: plan_pb2.Price, field: str) -> Price:
    violations = Violations()
    included_quantity = _ZERO
    if message.HasField("included_quantity"):
        included_quantity = take(
            violations, f"{field}.included_quantity", parse_quantity, message.included_quantity
        )
    price = Price(
        price_id=take(violations, f"{field}.price_id", parse_id, message.price_id),
        display_name=take(violations, f"{field}.display_name", parse_name, message.display_name),
        meter_id=take(violations, f"{field}.meter_id", parse_id, message.meter_id),
        dimensions=take(violations, f"{field}.dimensions", _price_dimensions, message.dimensions),
        included_quantity=included_quantity,
        model=take(violations, field, _model, message),
        category=take(violations, f"{field}.category", parse_category, message.category),
    )
    violations.raise_if_any()
    return price


def _model(message: plan_pb2.Price, field: str) -> PriceModel:
    match message.WhichOneof("model"):
        case "standard":
            return _standard(message.standard, f"{field}.standard")
        case "graduated":
            return _graduated(message.graduated, f"{field}.graduated")
        case "package":
            return _package(message.package, f"{field}.package")
        case None:
            raise InvalidInput.of(
                f"{field}.model", "one of standard, graduated, package is required"
            )


def _standard(message: plan_pb2.StandardPrice, field: str) -> StandardPrice:
    violations = Violations()
    per_quantity = _ONE
    if message.HasField("per_quantity"):
        per_quantity = take(
            violations, f"{field}.per_quantity", parse_positive_quantity, message.per_quantity
        )
    price = StandardPrice(
        amount=take(violations, f"{field}.amount", parse_amount, message.amount),
        per_quantity=per_quantity,
    )
    violations.raise_if_any()
    return price


def _package(message: plan_pb2.PackagePrice, field: str) -> PackagePrice:
    violations = Violations()
    price = PackagePrice(
        amount=take(violations, f"{field}.amount", parse_amount, message.amount),
        package_size=take(
            violations, f"{field}.package_size", parse_positive_quantity, message.package_size
        ),
    )
    violations.raise_if_any()
    return price


def _graduated(message: plan_pb2.GraduatedPrice, field: str) -> GraduatedPrice:
    field = f"{field}.tiers"
    if not message.tiers:
        raise InvalidInput.of(field, "at least one tier is required")
    check_length(message.tiers, field, TIERS_MAX, reason=INVALID_FIELD)
    violations = Violations()
    tiers = tuple(
        take(violations, f"{field}[{index}]", _tier, message)
        for index, message in enumerate(message.tiers)
    )
    _check_tiers_ascend(violations, message.tiers, field)
    violations.raise_if_any()
    return GraduatedPrice(tiers)


def _tier(message: plan_pb2.Tier, field: str) -> Tier:
    violations = Violations()
    up_to = None
    if message.HasField("up_to"):
        up_to = take(violations, f"{field}.up_to", parse_positive_quantity, message.up_to)
    tier = Tier(
        up_to=up_to,
        unit_amount=_amount_or_zero(violations, f"{field}.unit_amount", message, "unit_amount"),
        flat_amount=_amount_or_zero(violations, f"{field}.flat_amount", message, "flat_amount"),
    )
    violations.raise_if_any()
    return tier


def _check_tiers_ascend(
    violations: Violations, messages: Sequence[plan_pb2.Tier], field: str
) -> None:
    """Refuse tiers that do not begin where the one before ended, up to a last one without end."""
    start = _ZERO
    for index, message in enumerate(messages[:-1]):
        up_to = _bound(message)
        if not message.HasField("up_to"):
            violations.add(f"{field}[{index}].up_to", "is required: only the last tier has no end")
        elif up_to is not None:
            if up_to <= start:
                violations.add(
                    f"{field}[{index}].up_to",
                    f"must be above {plain(start)}, where the tier before ends",
                )
            start = max(start, up_to)
    if messages[-1].HasField("up_to"):
        last = len(messages) - 1
        violations.add(f"{field}[{last}].up_to", "must be absent: the last tier has no end")


def _bound(message: plan_pb2.Tier) -> Decimal | None:
    """Answer the bound of a tier, or none where it is absent or cannot be read."""
    try:
        return parse_positive_quantity(message.up_to, "up_to")
    except InvalidInput:
        return None


def _check_ids_differ(
    violations: Violations, messages: Sequence[plan_pb2.Price], field: str
) -> None:
    first_by_id: dict[str, int] = {}
    for index, message in enumerate(messages):
        first = first_by_id.setdefault(message.price_id, index)
        if first != index and message.price_id:
            violations.add(f"{field}[{index}].price_id", f"is the id of {field}[{first}] as well")


def _check_filters_are_disjoint(
    violations: Violations, messages: Sequence[plan_pb2.Price], field: str
) -> None:
    """Refuse two prices that could both bill the same usage."""
    filters = [tuple(message.dimensions.items()) for message in messages]
    for later, message in enumerate(messages):
        for earlier in range(later if message.meter_id else 0):
            same_meter = message.meter_id == messages[earlier].meter_id
            if same_meter and may_meet(filters[earlier], filters[later]):
                violations.add(
                    f"{field}[{later}].dimensions",
                    f"may match usage that {field}[{earlier}] bills as well:"
                    " give both another value of the same dimension",
                )
                break


def _price_dimensions(values: Mapping[str, str], field: str) -> Dimensions:
    return parse_dimensions(values, field, DIMENSIONS_MAX)


def _amount_or_zero(
    violations: Violations, field: str, message: plan_pb2.Plan | plan_pb2.Tier, name: str
) -> Decimal:
    if not message.HasField(name):  # type: ignore[arg-type]
        return _ZERO
    return take(violations, field, parse_amount, getattr(message, name))


def _render_price(price: Price) -> plan_pb2.Price:
    message = plan_pb2.Price(
        price_id=price.price_id,
        display_name=price.display_name,
        meter_id=price.meter_id,
        dimensions=dict(price.dimensions),
        included_quantity=render_decimal(price.included_quantity),
        category=render_category(price.category),
    )
    match price.model:
        case StandardPrice(amount, per_quantity):
            message.standard.amount.CopyFrom(render_decimal(amount))
            message.standard.per_quantity.CopyFrom(render_decimal(per_quantity))
        case GraduatedPrice(tiers):
            message.graduated.tiers.extend(map(_render_tier, tiers))
        case PackagePrice(amount, package_size):
            message.package.amount.CopyFrom(render_decimal(amount))
            message.package.package_size.CopyFrom(render_decimal(package_size))
    return message


def _render_tier(tier: Tier) -> plan_pb2.Tier:
    return plan_pb2.Tier(
        up_to=None if tier.up_to is None else render_decimal(tier.up_to),
        unit_amount=render_decimal(tier.unit_amount),
        flat_amount=render_decimal(tier.flat_amount),
    )
