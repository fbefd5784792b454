"""`tollkeeper quota`: what operators of the gate need besides its limits."""

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError
from services.quota.envoy.configuration import count_limits
from services.quota.envoy.fields import BadConfiguration
from services.quota.envoy.files import load_rules

app = typer.Typer(no_args_is_help=True, help="Check what the gate is configured with.")


@app.callback()
def commands() -> None:
    """Keep the name of the command, of which there is only one."""


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
