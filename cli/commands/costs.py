"""`tollkeeper costs`: what providers charge for models."""

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict

from cli.embedded.data_directory import DEFAULT
from cli.errors import CommandError
from cli.litellm_prices import LiteLLMPrices, rate_text, read_litellm_prices
from cli.options import AsJson, DataDir
from cli.output import Column, Output, time_text, warn
from cli.services import Addresses, Services, new_request_id, run
from cli.times import parse_time_option
from kit.rpc.wire import parse_time, render_time
from services.rating.convert.costs import COSTS_MAX
from tollkeeper.api.rating.v1.provider_cost_pb2 import ProviderCost
from tollkeeper.api.rating.v1.rating_service_pb2 import (
    GetProviderCostRequest,
    ListProviderCostsRequest,
    PutProviderCostsRequest,
)

app = typer.Typer(no_args_is_help=True, help="Import, list and show what providers charge.")

_WARNINGS_SHOWN_MAX = 5
_PAGE_SIZE = 1000


@app.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(help="LiteLLM's model_prices_and_context_window.json.", show_default=False),
    ],
    *,
    since: Annotated[
        str, typer.Option(help="From when they count. By default since ever.", show_default=False)
    ] = "",
    provider: Annotated[
        list[str] | None,
        typer.Option(help="Import this provider only, as openai; repeatable.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is there.")] = False,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Put the prices that LiteLLM publishes, with every digit; the same again changes nothing."""
    time = parse_time_option("--since", since) if since else None
    prices = read_litellm_prices(file, time, provider or ())
    if not prices.costs:
        raise CommandError(f"{file} holds no price of {', '.join(provider or ['any provider'])}")
    output = Output(as_json=as_json)
    created = unchanged = 0
    if not dry_run:
        created, unchanged = run(data_dir, address, lambda services: _put(services, prices, output))
    output.value(
        {
            "models": len(prices.costs),
            "rates": sum(len(cost.rates) for cost in prices.costs),
            "created": created,
            "unchanged": unchanged,
            "skipped_prices": dict(prices.skipped),
            "skipped_models": prices.warnings,
        }
    )
    for text in prices.warnings[:_WARNINGS_SHOWN_MAX]:
        warn(text)
    if len(prices.warnings) > _WARNINGS_SHOWN_MAX:
        warn(f"and {len(prices.warnings) - _WARNINGS_SHOWN_MAX} more; see them by --json")
    for name, count in prices.skipped.most_common():
        output.say(f"left out {name} of {count} models: it has no counterpart")
    output.say(
        f"{len(prices.costs):,} models are there"
        if dry_run
        else f"{created:,} costs are new, {unchanged:,} were there"
    )


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="The model.", show_default=False)],
    *,
    provider: Annotated[
        str, typer.Option(help="The provider; needed where several have the model.")
    ] = "",
    time: Annotated[str, typer.Option(help="When. By default now.", show_default=False)] = "",
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """Show what a provider charges for a model."""
    request = GetProviderCostRequest(provider=provider, model=model)
    if time:
        request.time.CopyFrom(render_time(parse_time_option("--time", time)))

    async def work(services: Services) -> ProviderCost:
        return (await services.ask(services.rating.GetProviderCost, request)).cost

    cost = run(data_dir, address, work)
    output = Output(as_json=as_json)
    output.value(dict(MessageToDict(cost, preserving_proto_field_name=True)))
    output.section(f"{cost.model} of {cost.provider}, revision {cost.revision}")
    output.say(f"since {_since(cost)}, in {cost.currency} for one unit")
    output.table(
        [Column("quantity", style="cyan"), Column("part of"), Column("costs", right=True)],
        [[rate.quantity, rate.part_of, rate_text(rate)] for rate in cost.rates],
    )


@app.command("list")
def list_(
    *,
    provider: Annotated[str, typer.Option(help="List this provider only.")] = "",
    model: Annotated[str, typer.Option(help="List this model only.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 100,
    data_dir: DataDir = DEFAULT,
    address: Addresses = None,
    as_json: AsJson = False,
) -> None:
    """List every revision of what providers charge, by provider and model."""
    request = ListProviderCostsRequest(provider=provider, model=model)
    costs, has_more = run(data_dir, address, lambda services: _list(services, request, limit))
    output = Output(as_json=as_json)
    output.value(
        {
            "costs": [MessageToDict(each, preserving_proto_field_name=True) for each in costs],
            "has_more": has_more,
        }
    )
    if not costs:
        output.say("no costs are known; `tollkeeper costs import` reads LiteLLM's price list")
        return
    output.table(
        [
            Column("provider", style="cyan"),
            Column("model", style="cyan"),
            Column("revision", right=True),
            Column("since"),
            Column("currency"),
            Column("rates", right=True),
        ],
        [
            [
                each.provider,
                each.model,
                str(each.revision),
                _since(each),
                each.currency,
                str(len(each.rates)),
            ]
            for each in costs
        ],
    )
    if has_more:
        output.say(f"and more: see them by --limit, now {limit:,}, --provider or --model")


async def _list(
    services: Services, request: ListProviderCostsRequest, limit: int
) -> tuple[list[ProviderCost], bool]:
    """Read so many, and tell whether others follow."""
    costs: list[ProviderCost] = []
    while True:
        request.page_size = min(limit - len(costs), _PAGE_SIZE)
        page = await services.ask(services.rating.ListProviderCosts, request)
        costs += page.costs
        request.page_token = page.next_page_token
        if not page.next_page_token or len(costs) >= limit:
            return costs, bool(page.next_page_token)


def _since(cost: ProviderCost) -> str:
    if not cost.HasField("effective_time"):
        return "ever"
    return f"{time_text(parse_time(cost.effective_time, 'effective_time'))} UTC"


async def _put(services: Services, prices: LiteLLMPrices, output: Output) -> tuple[int, int]:
    created = unchanged = 0
    with output.progress("costs", len(prices.costs)) as advance:
        for first in range(0, len(prices.costs), COSTS_MAX):
            costs = prices.costs[first : first + COSTS_MAX]
            request = PutProviderCostsRequest(request_id=new_request_id(), costs=costs)
            answer = await services.ask(services.rating.PutProviderCosts, request)
            created += answer.created_count
            unchanged += answer.unchanged_count
            advance(len(costs))
    return created, unchanged
