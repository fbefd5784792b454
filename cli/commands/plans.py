"""`tollkeeper plans`: check, test, compare and apply plan files, and look at plans."""

from collections.abc import Sequence
from importlib.resources import files as files_of
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.commands.plan_simulation import simulate
from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.options import AsJson, DataDir
from cli.output import Column, Output, time_text
from cli.plan_applying import apply_plan_file
from cli.plan_differences import Change, Comparison, Fate, changes_between, compare
from cli.plan_files import PlanFile, read_plan_file
from cli.plan_subscribers import Subscriber, load_subscribers
from cli.plan_texts import amount_text, meter_text, price_text, window_text
from cli.services import Addresses, Services, run
from kit.rpc.wire import parse_time
from tollkeeper.api.rating.v1.plan_pb2 import Plan
from tollkeeper.api.rating.v1.rating_service_pb2 import GetPlanRequest, ListPlansRequest

app = typer.Typer(
    no_args_is_help=True, help="Check, test, compare and apply plan files, and look at plans."
)

app.command()(simulate)

Files = Annotated[
    list[Path], typer.Argument(help="Plan files, YAML.", metavar="FILE...", show_default=False)
]

_PLANS_PER_PAGE = 1000


@app.command()
def validate(plan_files: Files, *, as_json: AsJson = False) -> None:
    """Check plan files without a service; every fault is told with its line and column."""
    read = _read_all(plan_files, test=False)
    output = Output(as_json=as_json)
    output.value({"files": [_file_facts(file) for file in read]})
    for file in read:
        output.say(
            f"{file.path}: plan {file.plan.plan_id} (prices: {len(file.plan.prices)},"
            f" meters: {len(file.meters)}, examples: {len(file.examples)})"
        )


@app.command("test")
def try_examples(plan_files: Files, *, as_json: AsJson = False) -> None:
    """Rate the examples of plan files, without a service, and tell each that does not hold."""
    read = _read_all(plan_files, test=True)
    output = Output(as_json=as_json)
    output.value({"files": [_file_facts(file) for file in read]})
    for file in read:
        count = len(file.examples)
        output.say(f"{file.path}: {count} {'example holds' if count == 1 else 'examples hold'}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of plan files, for editors."""
    Output().say(
        files_of("cli").joinpath("schemas/plan-file.schema.json").read_text("utf-8").rstrip()
    )


@app.command()
def diff(
    file: Annotated[Path, typer.Argument(help="The plan file, YAML.", show_default=False)],
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Show what applying a file would change, and for which subscriptions."""
    plan = read_plan_file(file).plan

    async def work(services: Services) -> tuple[Comparison, list[Subscriber]]:
        comparison = compare(plan, await _load_versions(services, plan.plan_id))
        if comparison.fate is not Fate.NEW_VERSION:
            return comparison, []
        return comparison, await load_subscribers(services, plan)

    comparison, subscribers = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value(
        {
            "plan_id": plan.plan_id,
            "fate": comparison.fate.name,
            "base_version": comparison.base.version if comparison.base else None,
            "changes": [_change_facts(change) for change in comparison.changes],
            "subscriptions": [each.facts() for each in subscribers],
        }
    )
    output.say(f"applying {file} {comparison.fate.value}")
    if comparison.base is not None and comparison.changes:
        _say_changes(output, f"compared with version {comparison.base.version}", comparison.changes)
    if comparison.fate is Fate.NEW_VERSION:
        _say_subscribers(output, subscribers)


@app.command()
def history(
    plan_id: Annotated[str, typer.Argument(help="The plan.", show_default=False)],
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of a plan, each with what it changed of the one before."""
    versions = run(data_dir, address, lambda services: _load_versions(services, plan_id))
    if not versions:
        raise CommandError(f"there is no plan {plan_id}")
    output = Output(as_json=as_json)
    changes = [
        [] if before is None else list(changes_between(before, plan))
        for before, plan in zip([None, *versions], versions, strict=False)
    ]
    output.value(
        {
            "versions": [
                {**_facts(plan), "changes": list(map(_change_facts, changed))}
                for plan, changed in zip(versions, changes, strict=True)
            ]
        }
    )
    for plan, changed in zip(versions, changes, strict=True):
        since = "ever"
        if plan.HasField("effective_time"):
            since = f"{time_text(parse_time(plan.effective_time, 'effective_time'))} UTC"
        put = time_text(parse_time(plan.create_time, "create_time"))
        _say_changes(output, f"version {plan.version}, since {since}, put {put} UTC", changed)


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="The plan file, YAML.", show_default=False)],
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Put the meters and the plan of a file whose examples hold; again it changes nothing."""
    plan_file = read_plan_file(file)
    plan_file.try_examples()
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
                f"{amount_text(plan.base_fee.value)} {plan.currency}",
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
    output.say(
        f"base fee {amount_text(plan.base_fee.value)} {plan.currency} for each billing period"
    )
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
                meter_text(price),
                amount_text(price.included_quantity.value),
                price_text(price),
            ]
            for price in plan.prices
        ],
        empty="it has no prices",
    )
    if plan.limits:
        output.table(
            [
                Column("limit", style="cyan"),
                Column("units"),
                Column("capacity in quanta", right=True),
                Column("window"),
            ],
            [
                [limit.limit_id, ", ".join(limit.units), f"{limit.capacity:,}", window_text(limit)]
                for limit in plan.limits
            ],
        )


async def _list_plans(services: Services, *, show_archived: bool = False) -> list[Plan]:
    plans: list[Plan] = []
    request = ListPlansRequest(page_size=_PLANS_PER_PAGE, show_archived=show_archived)
    async for page in services.pages(services.rating.ListPlans, request):
        plans += page.plans
    return plans


def _facts(plan: Plan) -> dict[str, object]:
    return dict(MessageToDict(plan, preserving_proto_field_name=True))


async def _load_versions(services: Services, plan_id: str) -> list[Plan]:
    """Load every version of a plan, in their order; none where there is no such plan."""
    listed = await _list_plans(services, show_archived=True)
    newest = next((plan.version for plan in listed if plan.plan_id == plan_id), 0)
    requests = [GetPlanRequest(plan_id=plan_id, version=each) for each in range(1, newest + 1)]
    return [(await services.ask(services.rating.GetPlan, each)).plan for each in requests]


def _read_all(paths: Sequence[Path], *, test: bool) -> list[PlanFile]:
    """Read files, and perhaps try their examples; the faults of all of them are told at once."""
    read = list[PlanFile]()
    faults = list[str]()
    for path in paths:
        try:
            file = read_plan_file(path)
            if test:
                file.try_examples()
        except CommandError as error:
            faults.append(str(error))
        else:
            read.append(file)
    if faults:
        raise CommandError("\n".join(faults))
    return read


def _say_changes(output: Output, title: str, changes: Sequence[Change]) -> None:
    output.section(title)
    output.table(
        [Column("field", style="cyan"), Column("before"), Column("after")],
        [[each.field, _shown(each.before), _shown(each.after)] for each in changes],
        empty="nothing before it" if title.startswith("version 1,") else "nothing changed",
    )


def _shown(value: str | None) -> str:
    return "-" if value is None else value or "there"


def _say_subscribers(output: Output, subscribers: Sequence[Subscriber]) -> None:
    affected = [each for each in subscribers if each.is_affected]
    output.section(f"{len(affected)} of {len(subscribers)} subscriptions change")
    output.table(
        [Column("subscription", style="cyan"), Column("customer"), Column("from")],
        [[each.subscription_id, each.customer_id, each.from_text] for each in subscribers],
        empty="nobody subscribes to the plan",
    )


def _change_facts(change: Change) -> dict[str, str | None]:
    return {"field": change.field, "before": change.before, "after": change.after}


def _file_facts(file: PlanFile) -> dict[str, object]:
    return {
        "file": str(file.path),
        "plan_id": file.plan.plan_id,
        "meters": [meter.meter_id for meter in file.meters],
        "examples": [example.name for example in file.examples],
    }
