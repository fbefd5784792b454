"""`tollkeeper up`: run everything on this machine until Ctrl-C."""

import json
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.embedded.data_directory import DEFAULT
from cli.options import AsJson, DataDir, GivenDatabase, GivenRedis
from cli.running import Running
from cli.supervisor import DEFAULT_PORT_BASE, Supervisor, SupervisorOptions


def up(
    *,
    data_dir: DataDir = DEFAULT,
    port_base: Annotated[
        int,
        typer.Option(help="Port of the first service; the others follow. 0 takes free ones."),
    ] = DEFAULT_PORT_BASE,
    tenant: Annotated[str, typer.Option(help="Whom the printed key speaks for.")] = "default",
    database_url: GivenDatabase = None,
    redis_url: GivenRedis = None,
    as_json: AsJson = False,
) -> None:
    """Run PostgreSQL, Redis and the five services until Ctrl-C."""
    supervisor = Supervisor(
        SupervisorOptions(
            data_dir=data_dir,
            port_base=port_base,
            tenant=tenant,
            database_url=database_url,
            redis_url=redis_url,
            report=_tell_errors if as_json else _tell,
        )
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        supervisor.request_stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    with supervisor as running:
        _show(running, as_json=as_json)
        supervisor.wait_for_stop()
        _tell_errors("stopping: the services drain, then Redis and PostgreSQL end")
    _tell_errors("stopped")


def _tell(line: str) -> None:
    # Whoever reads the lines may leave before the end.
    with suppress(BrokenPipeError):
        print(line, flush=True)


def _tell_errors(line: str) -> None:
    with suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def _show(running: Running, *, as_json: bool) -> None:
    console = Console()
    if as_json:
        facts = {
            "addresses": dict(running.addresses),
            "data_dir": str(running.data_dir),
            "tenant": running.tenant,
            "token": running.admin_token,
        }
        print(json.dumps(facts), flush=True)
    elif console.is_terminal:
        table = Table("service", "address", title="Tollkeeper is up")
        for service, address in running.addresses.items():
            table.add_row(service, address)
        console.print(table)
        console.print(f"admin key of tenant [bold]{running.tenant}[/bold], valid for all services:")
        # Unwrapped, so that it can be copied.
        print(running.admin_token)
        console.print("Ctrl-C ends everything.", style="dim")
    else:
        _tell(f"up: tenant {running.tenant}")
        _tell(f"key {running.admin_token}")
