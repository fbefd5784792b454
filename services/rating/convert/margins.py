"""Margins between the wire and the domain."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial

from google.type.decimal_pb2 import Decimal as DecimalMessage

from kit.decimals import parse_decimal
from kit.errors import InvalidInput, Violation, Violations
from kit.idempotency import parse_request_id
from kit.paging import Page
from kit.rpc.wire import parse_decimal_message, render_decimal, render_interval, render_time
from services.rating.convert.fields import (
    check_length,
    parse_currency,
    render_optional,
    take,
)
from services.rating.convert.simulations import (
    parse_customer,
    parse_customer_overrides,
    parse_periods,
    with_overrides,
)
from services.rating.margins import (
    Margin,
    MarginAlert,
    MarginQuestion,
    MarginReport,
    MarginScope,
)
from tollkeeper.api.rating.v1 import margin_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

CUSTOMERS_MAX = 1000
_PERCENT_MAX = Decimal(100)
_ZERO = Decimal(0)
_SCOPES = {
    MarginScope.TOTAL: margin_pb2.MARGIN_SCOPE_TOTAL,
    MarginScope.CUSTOMER: margin_pb2.MARGIN_SCOPE_CUSTOMER,
    MarginScope.MODEL: margin_pb2.MARGIN_SCOPE_MODEL,
    MarginScope.PLAN: margin_pb2.MARGIN_SCOPE_PLAN,
}


def parse_get_margins(request: messages.GetMarginsRequest) -> MarginQuestion:
    """Read whose margins are asked for."""
    if not request.customers:
        raise InvalidInput.of("customers", "at least one is required")
    check_length(request.customers, "customers", CUSTOMERS_MAX)
    violations = Violations()
    question = MarginQuestion(
        periods=take(violations, "periods", parse_periods, request.periods),
        customers=tuple(
            take(violations, f"customers[{index}]", partial(parse_customer, None), customer)
            for index, customer in enumerate(request.customers)
        ),
        currency=take(violations, "currency", parse_currency, request.currency),
        exchange_rates=take(violations, "exchange_rates", _exchange_rates, request.exchange_rates),
    )
    overrides = parse_customer_overrides(violations, request.overrides)
    violations.raise_if_any()
    customers = with_overrides(violations, question.customers, overrides)
    question = replace(question, customers=customers)
    seen: set[str] = set()
    for index, customer in enumerate(question.customers):
        if customer.customer_id in seen:
            violations.add(f"customers[{index}].customer_id", "is named twice")
        if customer.plan_id is None:
            violations.add(f"customers[{index}].plan_id", "is required")
        seen.add(customer.customer_id)
    violations.raise_if_any()
    return question


def parse_report_margins(
    request: messages.ReportMarginsRequest,
) -> tuple[MarginQuestion, Decimal]:
    """Read whose margins are reported, and below which threshold."""
    violations = Violations()
    violations.take("request_id", lambda: parse_request_id(request.request_id))
    minimum = take(violations, "minimum_percent", _percent, request.minimum_percent)
    question = violations.take("margins", lambda: _margins_of(request))
    violations.raise_if_any()
    return question, minimum


def render_margins(report: MarginReport) -> messages.GetMarginsResponse:
    """Write margins."""
    return messages.GetMarginsResponse(
        currency=report.currency,
        margins=map(_render_margin, report.margins),
        uncosted=[
            margin_pb2.UncostedUsage(provider=provider, model=model, event_count=count)
            for provider, model, count in report.uncosted
        ],
    )


def render_report_margins(alerts: tuple[MarginAlert, ...]) -> messages.ReportMarginsResponse:
    """Write what is reported for the first time."""
    return messages.ReportMarginsResponse(alerts=map(_render_alert, alerts))


def render_margin_alerts(page: Page[MarginAlert]) -> messages.ListMarginAlertsResponse:
    """Write a page of what was reported."""
    return messages.ListMarginAlertsResponse(
        alerts=map(_render_alert, page.items), next_page_token=page.next_page_token
    )


def _margins_of(request: messages.ReportMarginsRequest) -> MarginQuestion:
    try:
        return parse_get_margins(request.margins)
    except InvalidInput as error:
        inner = tuple(
            Violation(f"margins.{each.field}", each.description) for each in error.violations
        )
        raise InvalidInput(
            error.reason, f"margins.{error.message}", metadata=error.metadata, violations=inner
        ) from error


def _exchange_rates(values: Mapping[str, str], field: str) -> Mapping[str, Decimal]:
    violations = Violations()
    rates = {}
    for code, text in sorted(values.items()):
        name = f"{field}.{code}"
        take(violations, name, parse_currency, code)
        rates[code] = violations.take(name, partial(parse_decimal, text, name, minimum=_ZERO))
    violations.raise_if_any()
    return rates


def _percent(message: DecimalMessage, field: str) -> Decimal:
    percent = parse_decimal_message(message, field, minimum=-_PERCENT_MAX)
    if percent > _PERCENT_MAX:
        raise InvalidInput.of(field, "must be at most 100")
    return percent


def _render_margin(margin: Margin) -> margin_pb2.Margin:
    return margin_pb2.Margin(
        scope=_SCOPES[margin.scope],
        name=margin.name,
        revenue=render_decimal(margin.revenue),
        cost=render_decimal(margin.cost),
        margin=render_decimal(margin.amount),
        margin_percent=render_optional(margin.percent),
    )


def _render_alert(alert: MarginAlert) -> margin_pb2.MarginAlert:
    return margin_pb2.MarginAlert(
        alert_id=alert.alert_id,
        margin=_render_margin(alert.margin),
        minimum_percent=render_decimal(alert.minimum_percent),
        interval=render_interval(alert.interval),
        currency=alert.currency,
        create_time=render_time(alert.create_time),
    )
