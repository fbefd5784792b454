"""`tollkeeper margins`: what is left of revenue once providers are paid."""

from decimal import Decimal
from typing import Annotated

import typer

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.options import AsJson, DataDir
from cli.output import Column, Output, quantity_text, warn
from cli.services import Addresses, Services, new_request_id, run
from cli.simulated_customers import (
    calendar_periods,
    find_customers,
    parse_span,
    parse_zone_option,
)
from kit.decimals import exactly, parse_decimal, plain
from kit.errors import InvalidInput
from services.rating.convert.margins import CUSTOMERS_MAX
from services.rating.margins import Margin as MarginValue
from services.rating.margins import MarginScope as Scope
from tollkeeper.api.rating.v1.margin_pb2 import Margin, MarginScope
from tollkeeper.api.rating.v1.rating_service_pb2 import (
    GetMarginsRequest,
    GetMarginsResponse,
    ReportMarginsRequest,
)

_TIMEOUT_S = 3600.0
_SCOPES = {"customer": Scope.CUSTOMER, "model": Scope.MODEL, "plan": Scope.PLAN}
_NUMBERS = {
    MarginScope.MARGIN_SCOPE_TOTAL: Scope.TOTAL,
    MarginScope.MARGIN_SCOPE_CUSTOMER: Scope.CUSTOMER,
    MarginScope.MARGIN_SCOPE_MODEL: Scope.MODEL,
    MarginScope.MARGIN_SCOPE_PLAN: Scope.PLAN,
}
_TENTH = Decimal("0.1")


def margins(
    *,
    since: Annotated[str, typer.Option(help="From when.")],
    until: Annotated[str, typer.Option(help="Until when.")],
    by: Annotated[str, typer.Option(help=f"What to list: {', '.join(_SCOPES)}.")] = "customer",
    currency: Annotated[str, typer.Option(help="The currency of the report.")] = "USD",
    rate: Annotated[
        list[str] | None,
        typer.Option(
            help="What one of another currency is worth in it, as EUR=1.08; repeatable.",
            show_default=False,
        ),
    ] = None,
    below: Annotated[
        str,
        typer.Option(
            help="Report each margin below so many percent as an alert, once.", show_default=False
        ),
    ] = "",
    time_zone: Annotated[str, typer.Option(help="Whose calendar cuts the months.")] = "UTC",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Show what is left of revenue once providers are paid, and report thin margins."""
    if by not in _SCOPES:
        raise CommandError(f"--by {by!r} is none of {', '.join(_SCOPES)}")
    interval = parse_span(since, until)
    try:
        minimum = parse_decimal(below, "--below") if below else None
    except InvalidInput as error:
        raise CommandError(error.message) from None
    request = GetMarginsRequest(
        periods=calendar_periods(interval.start, interval.end, parse_zone_option(time_zone)),
        currency=currency,
        exchange_rates=dict(map(_parse_rate, rate or ())),
    )

    async def work(services: Services) -> tuple[list[GetMarginsResponse], int]:
        customers, agreed = await find_customers(services, interval, "")
        if not customers:
            raise CommandError("nobody was subscribed then")
        answers: list[GetMarginsResponse] = []
        alerts = 0
        for first in range(0, len(customers), CUSTOMERS_MAX):
            del request.customers[:], request.overrides[:]
            request.customers.extend(customers[first : first + CUSTOMERS_MAX])
            named = {each.customer_id for each in request.customers}
            request.overrides.extend(each for each in agreed if each.customer_id in named)
            answers.append(
                await services.ask(services.rating.GetMargins, request, timeout_s=_TIMEOUT_S)
            )
            if minimum is not None:
                alerts += await _report(services, request, minimum)
        return answers, alerts

    answers, alerts = run(data_dir, address, work)
    _show(Output(as_json=as_json), answers, _SCOPES[by], alerts if below else None)


async def _report(services: Services, request: GetMarginsRequest, minimum: Decimal) -> int:
    report = ReportMarginsRequest(request_id=new_request_id(), margins=request)
    report.minimum_percent.value = plain(minimum)
    answer = await services.ask(services.rating.ReportMargins, report, timeout_s=_TIMEOUT_S)
    return len(answer.alerts)


def _parse_rate(text: str) -> tuple[str, str]:
    code, _, rate = text.partition("=")
    if not rate:
        raise CommandError(f"--rate {text!r} is not written as EUR=1.08")
    return code, rate


def _added(answers: list[GetMarginsResponse]) -> list[MarginValue]:
    """Add up the margins of several answers; customers are in one only."""
    sums: dict[tuple[Scope, str], MarginValue] = {}
    for answer in answers:
        for margin in answer.margins:
            value = _value(margin)
            known = sums.get((value.scope, value.name))
            if known is not None:
                with exactly():
                    revenue, cost = known.revenue + value.revenue, known.cost + value.cost
                value = MarginValue(value.scope, value.name, revenue, cost)
            sums[value.scope, value.name] = value
    return list(sums.values())


def _value(margin: Margin) -> MarginValue:
    return MarginValue(
        _NUMBERS[margin.scope],
        margin.name,
        Decimal(margin.revenue.value),
        Decimal(margin.cost.value),
    )


def _show(
    output: Output, answers: list[GetMarginsResponse], scope: Scope, alerts: int | None
) -> None:
    currency = answers[0].currency
    margins_ = _added(answers)
    (total,) = (margin for margin in margins_ if margin.scope is Scope.TOTAL)
    listed = sorted(
        (margin for margin in margins_ if margin.scope is scope),
        key=lambda margin: (margin.amount, margin.name),
    )
    uncosted = sum(each.event_count for answer in answers for each in answer.uncosted)
    output.value(
        {
            "currency": currency,
            "total": _facts(total),
            "margins": [_facts(margin) for margin in listed],
            "uncosted_events": uncosted,
            **({} if alerts is None else {"new_alerts": alerts}),
        }
    )
    output.table(
        [
            Column(scope.name.lower(), style="cyan"),
            Column(f"revenue in {currency}", right=True),
            Column("cost", right=True),
            Column("margin", right=True),
            Column("%", right=True),
        ],
        [_row(margin.name or "(none)", margin) for margin in listed] + [_row("all", total)],
    )
    if alerts is not None:
        output.say(f"{alerts:,} margins are reported for the first time")
    if uncosted:
        models = {(each.provider, each.model) for answer in answers for each in answer.uncosted}
        names = ", ".join(" ".join(filter(None, each)) or "no model" for each in sorted(models))
        warn(f"the cost of {uncosted:,} events is not known: {names}")


def _row(name: str, margin: MarginValue) -> list[str]:
    return [
        name,
        _cents(margin.revenue),
        _cents(margin.cost),
        _cents(margin.amount),
        "" if margin.percent is None else str(margin.percent.quantize(_TENTH)),
    ]


def _cents(amount: Decimal) -> str:
    return quantity_text(amount.quantize(Decimal("0.01")))


def _facts(margin: MarginValue) -> dict[str, object]:
    return {
        "name": margin.name,
        "revenue": plain(margin.revenue),
        "cost": plain(margin.cost),
        "margin": plain(margin.amount),
        "margin_percent": None if margin.percent is None else plain(margin.percent),
    }
