"""`tollkeeper quota`: what operators of the gate need besides its limits."""

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.commands.alerts import alerts
from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.options import AsJson, DataDir
from cli.output import Column, Output
from cli.services import Addresses, Services, new_request_id, run
from services.quota.envoy.configuration import count_limits
from services.quota.envoy.fields import BadConfiguration
from services.quota.envoy.files import load_rules
from tollkeeper.api.quota.v1.quota_pb2 import Decision, Reservation
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    ExplainDecisionRequest,
    ExplainDecisionResponse,
    GetCounterAuditRequest,
    ListReservationsRequest,
    RebuildCountersRequest,
)

app = typer.Typer(
    no_args_is_help=True, help="See who holds what, why calls were refused, and check the gate."
)
app.command()(alerts)

_HOLDS_PER_PAGE = 1000


@app.command()
def holds(
    customer: Annotated[str, typer.Argument(help="Whose holds.")],
    *,
    limit: Annotated[str, typer.Option(help="Only those that took from this limit.")] = "",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """List the open holds of a customer, the first to expire first."""

    async def work(services: Services) -> list[Reservation]:
        found: list[Reservation] = []
        request = ListReservationsRequest(
            customer_id=customer, limit_id=limit, page_size=_HOLDS_PER_PAGE
        )
        async for page in services.pages(services.quota.ListReservations, request):
            found += page.reservations
        return found

    _show_holds(Output(as_json=as_json), run(data_dir, address, work))


@app.command()
def explain(
    customer: Annotated[str, typer.Argument(help="Whose call.")],
    request_id: Annotated[str, typer.Argument(help="The request id of the call.")],
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Say why a call was decided as it was, while it is remembered: ten minutes at least."""
    request = ExplainDecisionRequest(customer_id=customer, decided_request_id=request_id)

    async def work(services: Services) -> ExplainDecisionResponse:
        return await services.ask(services.quota.ExplainDecision, request)

    explained = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value(MessageToDict(explained, preserving_proto_field_name=True))
    decision = Decision.Name(explained.decision).removeprefix("DECISION_")
    output.say(f"{decision} at {explained.decide_time.ToJsonString()}")
    for reason in explained.reasons:
        output.say(reason)
    if not as_json and explained.holders:
        _show_holds(output, list(explained.holders))


def _show_holds(output: Output, found: list[Reservation]) -> None:
    output.value(
        {"reservations": [MessageToDict(each, preserving_proto_field_name=True) for each in found]}
    )
    output.table(
        [
            Column("hold"),
            Column("of"),
            Column("expires"),
            Column("state"),
            Column("holds"),
        ],
        [
            (
                each.reservation_id,
                "/".join(filter(None, (each.subject.project_id, each.subject.key_id))) or "-",
                each.expire_time.ToJsonString(),
                _state(each),
                ", ".join(f"{held.quantity:,} of {held.limit_id}" for held in each.held),
            )
            for each in found
        ],
        empty="there are no open holds",
    )


def _state(hold: Reservation) -> str:
    if hold.awaits_commit:
        return "awaits commit"
    return "dispatched" if hold.dispatched else "open"


@app.command()
def audit(
    *,
    customer: Annotated[str, typer.Option(help="Only this customer; else every one.")] = "",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Derive what open holds have taken anew, and show counters that differ; any is an error."""
    request = GetCounterAuditRequest(customer_id=customer)
    found = run(
        data_dir, address, lambda services: services.ask(services.quota.GetCounterAudit, request)
    )
    output = Output(as_json=as_json)
    output.value(
        {
            "holds": found.hold_count,
            "counters": found.counter_count,
            "drifts": [
                {
                    "limit": drift.limit_id,
                    "scope": drift.scope,
                    "counted": drift.counted,
                    "derived": drift.derived,
                }
                for drift in found.drifts
            ],
        }
    )
    output.table(
        [
            Column("limit", style="cyan"),
            Column("scope"),
            Column("counted", right=True),
            Column("by holds", right=True),
        ],
        [
            (drift.limit_id, drift.scope, f"{drift.counted:,}", f"{drift.derived:,}")
            for drift in found.drifts
        ],
        empty=f"{found.counter_count:,} counters agree with {found.hold_count:,} open holds",
    )
    if found.drifts:
        raise CommandError(f"{len(found.drifts):,} counters do not agree with the open holds")


@app.command()
def rebuild(
    customer: Annotated[str, typer.Argument(help="Whose counters.")],
    *,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Set the counters of a customer anew, from the meter and from the open holds."""
    request = RebuildCountersRequest(request_id=new_request_id(), customer_id=customer)
    rebuilt = run(
        data_dir, address, lambda services: services.ask(services.quota.RebuildCounters, request)
    )
    output = Output(as_json=as_json)
    output.value(
        {
            "counters": rebuilt.counter_count,
            "holds": rebuilt.hold_count,
            "changed": [
                {
                    "limit": change.limit_id,
                    "scope": change.scope,
                    "used_before": change.used_before,
                    "used": change.used_after,
                    "reserved_before": change.reserved_before,
                    "reserved": change.reserved_after,
                }
                for change in rebuilt.changed
            ],
        }
    )
    output.table(
        [
            Column("limit", style="cyan"),
            Column("scope"),
            Column("used before", right=True),
            Column("used now", right=True),
            Column("held before", right=True),
            Column("held now", right=True),
        ],
        [
            (
                change.limit_id,
                change.scope,
                f"{change.used_before:,}",
                f"{change.used_after:,}",
                f"{change.reserved_before:,}",
                f"{change.reserved_after:,}",
            )
            for change in rebuilt.changed
        ],
        empty=f"{rebuilt.counter_count:,} counters say what the meter says",
    )


@app.command()
def check_config(
    file: Annotated[Path, typer.Argument(help="A YAML file of Envoy's rules, or a folder.")],
    *,
    merge_domains: Annotated[
        bool, typer.Option("--merge-domains", help="Let several files hold rules of one domain.")
    ] = False,
) -> None:
    """Check rules for Envoy: every fault of every file, with its line."""
    try:
        rules = load_rules(file, merges_domains=merge_domains)
    except BadConfiguration as error:
        raise CommandError(f"the rules cannot be used:\n{error}") from error
    mapped = f", {len(rules.mappings)} mapped to Tollkeeper's limits" if rules.mappings else ""
    print(f"{file}: good, {len(rules.domains)} domains, {count_limits(rules)} limits{mapped}")
