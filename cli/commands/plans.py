"""`tollkeeper plans`: apply plan files, and look at plans."""

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.embedded.data_directory import DEFAULT
from cli.options import AsJson, DataDir
from cli.output import Column, Output, quantity_text, time_text
from cli.plan_applying import apply_plan_file
from cli.plan_files import read_plan_file
from cli.services import Addresses, Services, run
from kit.decimals import parse_decimal
from kit.rpc.wire import parse_time
from tollkeeper.api.rating.v1.plan_pb2 import GraduatedPrice, Plan, Price
from tollkeeper.api.rating.v1.rating_service_pb2 import GetPlanRequest, ListPlansRequest

app = typer.Typer(no_args_is_help=True, help="Apply plan files, and look at plans.")

_PLANS_PER_PAGE = 1000


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="The plan file, YAML.", show_default=False)],
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Put the meters and the plan of a file; the same content again changes nothing."""
    plan_file = read_plan_file(file)
    plan = run(data_dir, address, lambda services: apply_plan_file(services, plan_file))
    output = Output(as_json=as_json)
    output.value(_facts(plan))
    output.say(f"plan {plan.plan_id} is at version {plan.version}")


@app.command("list")
def list_plans(
    *, data_dir: DataDir = DEFAULT, address: Addresses = None, as_json: AsJson = False
) -> None:
    """List the newest version of every plan."""
    plans = run(data_dir, address, _list_plans)
    output = Output(as_json=as_json)
    output.value({"plans": [_facts(plan) for plan in plans]})
    output.table(
        [
            Column("plan", style="cyan"),
            Column("version", right=True),
            Column("name"),
            Column("base fee", right=True),
            Column("prices", right=True),
        ],
        [
            [
                plan.plan_id,
                str(plan.version),
                plan.display_name,
                f"{_amount(plan.base_fee.value)} {plan.currency}",
                str(len(plan.prices)),
            ]
            for plan in plans
        ],
        empty="there are no plans; put one by `tollkeeper plans apply FILE`",
    )


@app.command()
def show(
    plan_id: Annotated[str, typer.Argument(help="The plan.", show_default=False)],
    *,
    version: Annotated[int, typer.Option(min=0, help="0 is the newest.")] = 0,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Show a plan with every price."""

    async def work(services: Services) -> Plan:
        request = GetPlanRequest(plan_id=plan_id, version=version)
        return (await services.ask(services.rating.GetPlan, request)).plan

    plan = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value(_facts(plan))
    output.section(f"{plan.display_name or plan.plan_id} ({plan.plan_id}, version {plan.version})")
    output.say(f"base fee {_amount(plan.base_fee.value)} {plan.currency} for each billing period")
    if plan.HasField("effective_time"):
        since = time_text(parse_time(plan.effective_time, "effective_time"))
        output.say(f"in effect since {since} UTC")
    output.table(
        [
            Column("price", style="cyan"),
            Column("on the invoice"),
            Column("meter"),
            Column("included", right=True),
            Column(f"price in {plan.currency}"),
        ],
        [
            [
                price.price_id,
                price.display_name,
                _meter(price),
                _amount(price.included_quantity.value),
                _model(price),
            ]
            for price in plan.prices
        ],
        empty="it has no prices",
    )


async def _list_plans(services: Services) -> list[Plan]:
    plans: list[Plan] = []
    request = ListPlansRequest(page_size=_PLANS_PER_PAGE)
    while True:
        page = await services.ask(services.rating.ListPlans, request)
        plans += page.plans
        if not page.next_page_token:
            return plans
        request.page_token = page.next_page_token


def _facts(plan: Plan) -> dict[str, object]:
    return dict(MessageToDict(plan, preserving_proto_field_name=True))


def _meter(price: Price) -> str:
    filters = ", ".join(f"{name}={value}" for name, value in sorted(price.dimensions.items()))
    return f"{price.meter_id} ({filters})" if filters else price.meter_id


def _model(price: Price) -> str:
    match price.WhichOneof("model"):
        case "standard":
            per = price.standard.per_quantity.value or "1"
            return f"{_amount(price.standard.amount.value)} per {_amount(per)}"
        case "package":
            package = price.package
            return (
                f"{_amount(package.amount.value)} per begun {_amount(package.package_size.value)}"
            )
        case _:
            return _tiers(price.graduated)


def _tiers(graduated: GraduatedPrice) -> str:
    texts = []
    for tier in graduated.tiers:
        reach = f"up to {_amount(tier.up_to.value)}" if tier.HasField("up_to") else "then"
        flat = tier.flat_amount.value
        added = f" + {_amount(flat)}" if flat not in {"", "0"} else ""
        texts.append(f"{reach}: {_amount(tier.unit_amount.value)} each{added}")
    return "; ".join(texts)


def _amount(text: str) -> str:
    return quantity_text(parse_decimal(text or "0", "amount"))
