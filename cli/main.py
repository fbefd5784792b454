"""The `tollkeeper` command: mounts the commands and turns what they refuse into one sentence."""

import sys

import typer

from cli.commands import costs, invoices, keys, limits, plans, quota, tax, usage
from cli.commands.demo import demo
from cli.commands.import_usage import import_usage
from cli.commands.margins import margins
from cli.commands.migrate import migrate
from cli.commands.plan_simulation import simulate
from cli.commands.replay import replay
from cli.commands.up import up
from cli.errors import CommandError
from cli.supervisor import Interrupted
from kit.errors import CannotStart

_EXIT_REFUSED = 1
_EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="tollkeeper",
    help="Meter AI usage, enforce quotas, price, tax and invoice it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(up)
app.command()(migrate)
app.command()(replay)
app.command("import")(import_usage)
app.command()(margins)
plans.app.command()(simulate)
app.add_typer(usage.app, name="usage")
app.add_typer(plans.app, name="plans")
app.add_typer(costs.app, name="costs")
app.add_typer(limits.app, name="limits")
app.add_typer(invoices.app, name="invoices")
app.add_typer(tax.app, name="tax")
app.add_typer(keys.app, name="keys")
app.add_typer(quota.app, name="quota")


def main() -> None:
    """Run the command line of this process."""
    try:
        app()
    except (CommandError, CannotStart) as error:
        print(f"tollkeeper: {error}", file=sys.stderr)
        raise SystemExit(_EXIT_REFUSED) from None
    except (Interrupted, KeyboardInterrupt):
        raise SystemExit(_EXIT_INTERRUPTED) from None
