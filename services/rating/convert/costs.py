"""What providers charge, between the wire and the domain."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial

from kit.decimals import parse_decimal
from kit.errors import INVALID_FIELD, InvalidInput, Violations
from kit.idempotency import parse_request_id
from kit.paging import Page
from kit.rpc.wire import parse_time, render_decimal, render_time
from services.rating.convert.fields import (
    check_length,
    decimal_or,
    parse_amount,
    parse_currency,
    parse_name,
    parse_quantity,
    parse_quantity_name,
    take,
    take_each,
)
from services.rating.costs import (
    CONTEXT_QUANTITY,
    RATES_MAX,
    CostRate,
    CostStep,
    ProviderCost,
    StoredCost,
    amount_of,
)
from tollkeeper.api.rating.v1 import provider_cost_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

COSTS_MAX = 1000
EVENT_QUANTITIES_MAX = 16
_SHORT_MAX = 63
_MODEL_MAX = 128
_ZERO = Decimal(0)


def parse_put_provider_costs(
    request: messages.PutProviderCostsRequest,
) -> tuple[ProviderCost, ...]:
    """Read what providers charge, and make sure that the request has an id."""
    if not request.costs:
        raise InvalidInput.of("costs", "at least one is required")
    check_length(request.costs, "costs", COSTS_MAX)
    violations = Violations()
    violations.take("request_id", lambda: parse_request_id(request.request_id))
    costs = tuple(
        take(violations, f"costs[{index}]", parse_provider_cost, message)
        for index, message in enumerate(request.costs)
    )
    violations.raise_if_any()
    seen: set[tuple[str, str, datetime | None]] = set()
    for index, cost in enumerate(costs):
        key = (cost.provider, cost.model, cost.effective_time)
        if key in seen:
            violations.add(f"costs[{index}]", "names the provider, model and time of one before it")
        seen.add(key)
    violations.raise_if_any()
    return costs


def parse_provider_cost(message: provider_cost_pb2.ProviderCost, field: str) -> ProviderCost:
    """Read what a provider charges for a model."""
    violations = Violations()
    if message.revision:
        violations.add(f"{field}.revision", "must be absent: the service sets it")
    if message.HasField("create_time"):
        violations.add(f"{field}.create_time", "must be absent: the service sets it")
    effective_time = None
    if message.HasField("effective_time"):
        effective_time = take(
            violations, f"{field}.effective_time", parse_time, message.effective_time
        )
    context = message.context_quantity or CONTEXT_QUANTITY
    cost = ProviderCost(
        provider=take(violations, f"{field}.provider", _short, message.provider),
        model=take(violations, f"{field}.model", _model, message.model),
        currency=take(violations, f"{field}.currency", parse_currency, message.currency),
        effective_time=effective_time,
        rates=take(violations, f"{field}.rates", _rates, message.rates),
        context_quantity=take(
            violations, f"{field}.context_quantity", parse_quantity_name, context
        ),
        source=take(violations, f"{field}.source", parse_name, message.source),
    )
    violations.raise_if_any()
    return cost


def parse_get_provider_cost(
    request: messages.GetProviderCostRequest, now: datetime
) -> tuple[str, str, datetime]:
    """Read whose cost is asked for, and when."""
    violations = Violations()
    wanted = _wanted(violations, request, now)
    violations.raise_if_any()
    return wanted


def parse_list_provider_costs(
    request: messages.ListProviderCostsRequest,
) -> tuple[str, str]:
    """Read of which provider and model costs are listed."""
    violations = Violations()
    provider = take(violations, "provider", _short, request.provider)
    model = "" if not request.model else take(violations, "model", _model, request.model)
    violations.raise_if_any()
    return provider, model


def parse_explain_event_cost(
    request: messages.ExplainEventCostRequest, now: datetime
) -> tuple[tuple[str, str, datetime], str, Mapping[str, Decimal]]:
    """Read an event: whose cost, of which tier, and how much was used."""
    violations = Violations()
    wanted = _wanted(violations, request, now)
    tier = take(violations, "service_tier", _short, request.service_tier)
    quantities = take(violations, "quantities", _quantities, request.quantities)
    violations.raise_if_any()
    return wanted, tier, quantities


def render_put_provider_costs(counts: tuple[int, int]) -> messages.PutProviderCostsResponse:
    """Write how many are new, and how many were there."""
    created, unchanged = counts
    return messages.PutProviderCostsResponse(created_count=created, unchanged_count=unchanged)


def render_provider_cost(stored: StoredCost) -> provider_cost_pb2.ProviderCost:
    """Write what a provider charges for a model."""
    cost = stored.cost
    return provider_cost_pb2.ProviderCost(
        provider=cost.provider,
        model=cost.model,
        currency=cost.currency,
        effective_time=None if cost.effective_time is None else render_time(cost.effective_time),
        rates=map(_render_rate, cost.rates),
        context_quantity=cost.context_quantity,
        source=cost.source,
        revision=stored.revision,
        create_time=render_time(stored.create_time),
    )


def render_provider_costs(page: Page[StoredCost]) -> messages.ListProviderCostsResponse:
    """Write a page of costs."""
    return messages.ListProviderCostsResponse(
        costs=map(render_provider_cost, page.items), next_page_token=page.next_page_token
    )


def render_event_cost(
    stored: StoredCost, steps: tuple[CostStep, ...]
) -> messages.ExplainEventCostResponse:
    """Write what an event cost."""
    return messages.ExplainEventCostResponse(
        cost=render_provider_cost(stored),
        amount=render_decimal(amount_of(steps)),
        steps=[
            provider_cost_pb2.CostStep(
                rate=_render_rate(step.rate),
                quantity=render_decimal(step.quantity),
                amount=render_decimal(step.amount),
            )
            for step in steps
        ],
    )


def _wanted(
    violations: Violations,
    request: messages.GetProviderCostRequest | messages.ExplainEventCostRequest,
    now: datetime,
) -> tuple[str, str, datetime]:
    instant = now
    if request.HasField("time"):
        instant = take(violations, "time", parse_time, request.time)
    return (
        take(violations, "provider", _short, request.provider),
        take(violations, "model", _model, request.model),
        instant,
    )


def _rates(written: Sequence[provider_cost_pb2.CostRate], field: str) -> tuple[CostRate, ...]:
    if not written:
        raise InvalidInput.of(field, "must have at least one entry")
    check_length(written, field, RATES_MAX, reason=INVALID_FIELD)
    rates = take_each(written, field, _rate)
    violations = Violations()
    seen: set[tuple[str, str, Decimal]] = set()
    for index, rate in enumerate(rates):
        key = (rate.quantity, rate.service_tier, rate.context_above)
        if key in seen:
            violations.add(
                f"{field}[{index}]", "names the quantity, tier and context of one before it"
            )
        seen.add(key)
    violations.raise_if_any()
    return rates


def _rate(message: provider_cost_pb2.CostRate, field: str) -> CostRate:
    violations = Violations()
    part_of = ""
    if message.part_of:
        part_of = take(violations, f"{field}.part_of", parse_quantity_name, message.part_of)
        if part_of == message.quantity:
            violations.add(f"{field}.part_of", "must be another quantity")
    rate = CostRate(
        quantity=take(violations, f"{field}.quantity", parse_quantity_name, message.quantity),
        part_of=part_of,
        service_tier=take(violations, f"{field}.service_tier", _short, message.service_tier),
        context_above=decimal_or(
            _ZERO, violations, f"{field}.context_above", message, parse_quantity
        ),
        unit_amount=take(violations, f"{field}.unit_amount", parse_amount, message.unit_amount),
    )
    violations.raise_if_any()
    return rate


def _render_rate(rate: CostRate) -> provider_cost_pb2.CostRate:
    return provider_cost_pb2.CostRate(
        quantity=rate.quantity,
        part_of=rate.part_of,
        service_tier=rate.service_tier,
        context_above=render_decimal(rate.context_above) if rate.context_above else None,
        unit_amount=render_decimal(rate.unit_amount),
    )


def _quantities(values: Mapping[str, str], field: str) -> Mapping[str, Decimal]:
    if not values:
        raise InvalidInput.of(field, "at least one is required")
    if len(values) > EVENT_QUANTITIES_MAX:
        raise InvalidInput.of(field, f"must have at most {EVENT_QUANTITIES_MAX} entries")
    violations = Violations()
    quantities = {
        name: violations.take(
            f"{field}.{name}", partial(parse_decimal, text, f"{field}.{name}", minimum=_ZERO)
        )
        for name, text in sorted(values.items())
    }
    violations.raise_if_any()
    return quantities


def _short(text: str, field: str) -> str:
    return _printable(text, field, _SHORT_MAX)


def _model(text: str, field: str) -> str:
    if not text:
        raise InvalidInput.of(field, "is required")
    return _printable(text, field, _MODEL_MAX)


def _printable(text: str, field: str, length_max: int) -> str:
    if len(text) > length_max:
        raise InvalidInput.of(field, f"must have at most {length_max} characters")
    if not text.isprintable():
        raise InvalidInput.of(field, "must have printable characters only")
    return text
