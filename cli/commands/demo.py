"""`tollkeeper demo`: run everything for one month of invented traffic, and reconcile it."""

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from cli.demo import story
from cli.demo.limits import demo_limits
from cli.demo.month import (
    choose_month,
    close_month,
    fetch_documents,
    last_end,
    list_events,
    periods_of,
    put_everything,
    query_balances,
    query_usage,
)
from cli.demo.reconcile import Reconciliation, compare_events, compare_invoices, compare_usage
from cli.demo.traffic import make_calls
from cli.demo.workload import plan_calls, plan_gpu_jobs
from cli.demo.world import CUSTOMERS, METERS
from cli.embedded.servers import remove
from cli.errors import CommandError
from cli.options import GivenDatabase, GivenRedis
from cli.output import Output
from cli.running import Running
from cli.services import Connection, Services
from cli.supervisor import Supervisor, SupervisorOptions

_CALLS = 20_000
_SEED = 7
_ANY_FREE_PORTS = 0


def demo(
    *,
    calls: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="How many AI calls to make.")
    ] = _CALLS,
    seed: Annotated[int, typer.Option(help="Another seed gives other traffic.")] = _SEED,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Keep servers and invoices here. By default everything runs in a temporary "
            "folder, of which the invoices are kept.",
        ),
    ] = None,
    database_url: GivenDatabase = None,
    redis_url: GivenRedis = None,
) -> None:
    """Boot everything, play a busy month, close it, and reconcile every figure."""
    output = Output()
    began_s = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    # Everything shares one machine and is to add up, so a decision may wait.
    os.environ.setdefault("TOLLKEEPER_QUOTA_DECISION_TIMEOUT_S", "5")
    # A tenant of its own finds nothing of an earlier run.
    tenant = f"demo-{secrets.token_hex(4)}"
    with _home(data_dir, tenant) as (suite, invoices):
        supervisor = Supervisor(
            SupervisorOptions(
                data_dir=suite,
                port_base=_ANY_FREE_PORTS,
                tenant=tenant,
                database_url=database_url,
                redis_url=redis_url,
                report=lambda line: output.say(line, style="dim"),
            )
        )
        output.section("Five services, PostgreSQL and Redis, on this machine")
        with supervisor as running:
            result = asyncio.run(_play(output, running, invoices, calls, seed))
        output.say(f"Everything is stopped again, after {time.monotonic() - began_s:.0f} s.")
        if not result.is_clean:
            raise CommandError(f"{len(result.differences):,} figures do not reconcile")


@contextmanager
def _home(data_dir: Path | None, tenant: str) -> Iterator[tuple[Path, Path]]:
    """Give the folders of the servers and of the invoices.

    Of a temporary folder the invoices stay; after a failure, everything stays.
    """
    if data_dir is not None:
        yield data_dir, data_dir / "invoices" / tenant
        return
    folder = Path(tempfile.mkdtemp(prefix="tollkeeper-demo-"))
    # PostgreSQL, when it may not run as root, must be able to pass through.
    folder.chmod(0o711)
    suite = folder / "suite"
    try:
        yield suite, folder / "invoices"
    except CommandError as error:
        raise CommandError(f"{error}\nlogs and data stay in {suite}") from None
    except BaseException:
        remove(suite)
        shutil.rmtree(folder, ignore_errors=True)
        raise
    remove(suite)


async def _play(
    output: Output, running: Running, invoices_folder: Path, call_count: int, seed: int
) -> Reconciliation:
    connection = Connection(running.addresses, running.admin_token)
    async with Services(connection) as services:
        month = await choose_month(services, datetime.now(UTC))
        periods = periods_of(month)
        calls = plan_calls(CUSTOMERS, periods, call_count, seed)
        jobs = plan_gpu_jobs(CUSTOMERS, periods, seed)
        limits = demo_limits(calls)
        story.tell_world(output, month)
        await put_everything(services, month, limits)

        story.tell_plan(output, calls, jobs)
        began_s = time.monotonic()
        with output.progress("calls", len(calls)) as advance:
            traffic = await make_calls(connection, calls, jobs, advance)
        story.tell_traffic(output, traffic, time.monotonic() - began_s)
        story.tell_refusals(output, limits, traffic, await query_balances(services, limits))

        usage = await query_usage(services, periods)
        story.tell_usage(output, usage, jobs, periods)
        with output.progress("invoices", len(CUSTOMERS)) as advance:
            invoices = await close_month(services, last_end(periods), advance)
        files = _save(await fetch_documents(services, invoices), invoices_folder)
        story.tell_invoices(output, invoices, files)

        result = Reconciliation()
        compare_events(result, traffic.used, await list_events(services))
        quantities = {meter.meter_id: meter.quantity for meter in METERS}
        compare_usage(result, traffic.used, month, quantities, usage)
        compare_invoices(result, traffic.used, month, invoices)
        story.tell_reconciliation(output, result)
    return result


def _save(documents: list[tuple[str, bytes]], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, content in documents:
        file = folder / name
        file.write_bytes(content)
        files.append(file)
    return files


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
