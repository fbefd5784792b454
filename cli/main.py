"""The `tollkeeper` command: mounts the commands and turns what they refuse into one sentence.

Only the command that is called is imported, because what the others need takes longer to load than
most of them take to run.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

import typer

from cli.errors import CommandError, Interrupted
from kit.errors import CannotStart

_EXIT_REFUSED = 1
_EXIT_INTERRUPTED = 130
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "demo": "cli.commands.demo:demo",
        "up": "cli.commands.up:up",
        "migrate": "cli.commands.migrate:migrate",
        "replay": "cli.commands.replay:replay",
        "import": "cli.commands.import_usage:import_usage",
        "margins": "cli.commands.margins:margins",
        "usage": "cli.commands.usage:app",
        "plans": "cli.commands.plans:app",
        "costs": "cli.commands.costs:app",
        "limits": "cli.commands.limits:app",
        "invoices": "cli.commands.invoices:app",
        "tax": "cli.commands.tax:app",
        "keys": "cli.commands.keys:app",
        "quota": "cli.commands.quota:app",
    }
)
"""Where each command is found, in the order of the help."""


def main() -> None:
    """Run the command line of this process."""
    try:
        app_for(sys.argv[1:])()
    except (CommandError, CannotStart) as error:
        print(f"tollkeeper: {error}", file=sys.stderr)
        raise SystemExit(_EXIT_REFUSED) from None
    except (Interrupted, KeyboardInterrupt):
        raise SystemExit(_EXIT_INTERRUPTED) from None


def app_for(words: Sequence[str]) -> typer.Typer:
    """Mount the command that the words name, or all of them where they name none."""
    app = typer.Typer(
        name="tollkeeper",
        help="Meter AI usage, enforce quotas, price, tax and invoice it.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    # With a callback, an app of one command still wants its name.
    app.callback()(_only_commands)
    names = [words[0]] if words and words[0] in COMMANDS else COMMANDS
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def _only_commands() -> None:
    """Meter AI usage, enforce quotas, price, tax and invoice it."""
