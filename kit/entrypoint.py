"""`python -m services.<name> serve | migrate | check`: the same for every service.

A service may have more commands, which run once and end.

Refuses to show a traceback for what a person can mend: one line, and exit code 2 for bad
settings, 1 for everything else.
"""

import argparse
import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import uvloop

from kit import telemetry
from kit.clock import Clock, SystemClock
from kit.errors import CannotStart
from kit.hosting import Foundation
from kit.migrations import migrate
from kit.rpc.server import Hosted
from kit.settings import BadSettings, ServiceSettings, load_migration_settings, load_settings

Build = Callable[[ServiceSettings, Clock], Awaitable[Hosted]]
More = Mapping[str, Callable[[ServiceSettings, Clock], Awaitable[None]]]
"""Further commands of a service by their names."""

_NO_MORE: More = MappingProxyType({})

_BAD_SETTINGS_EXIT = 2
_CANNOT_START_EXIT = 1
_READ_BYTES = 4096
_COLLECTOR_THRESHOLDS = (50_000, 20, 100)


def run(service: str, build: Build, more: More = _NO_MORE) -> int:
    """Do what the command line asks, and answer the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m services.{service}")
    parser.add_argument(
        "command",
        choices=("serve", "migrate", "check", *more),
        help="serve calls; bring the schema to its newest revision; only see that all is there; "
        "or what the README of the service says",
    )
    command = parser.parse_args().command
    try:
        _do(command, service, build, more)
    except CannotStart as error:
        print(f"{service}: {error}", file=sys.stderr)  # noqa: T201 - for the person who starts it.
        return _BAD_SETTINGS_EXIT if isinstance(error, BadSettings) else _CANNOT_START_EXIT
    return 0


def _do(command: str, service: str, build: Build, more: More) -> None:
    if command == "migrate":
        telemetry.configure_logs("info")
        migrate(load_migration_settings(service).database_url, service)
        return
    settings = load_settings(service)
    telemetry.configure(service, settings)
    clock = SystemClock()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if command == "check":
            runner.run(Foundation(settings, clock).check())
        elif command in more:
            runner.run(_once(more[command], settings, clock))
        else:
            runner.run(_serve(settings, clock, build))
    telemetry.shutdown()


async def _once(
    work: Callable[[ServiceSettings, Clock], Awaitable[None]],
    settings: ServiceSettings,
    clock: Clock,
) -> None:
    await work(settings, clock)


async def _serve(settings: ServiceSettings, clock: Clock, build: Build) -> None:
    stop = _stop_requested(parent_pipe=settings.parent_pipe)
    hosted = await build(settings, clock)
    starting = asyncio.create_task(hosted.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    log = telemetry.get_logger()
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return
    try:
        log.info("serving", service=settings.service, address=await starting)
        _rest_the_collector()
        await stopping
    finally:
        stopping.cancel()
    log.info("draining", service=settings.service)
    await hosted.stop(settings.drain_s)


def _rest_the_collector() -> None:
    """Look for cycles less often, and never again among what start-up made.

    The default, each 700 new objects, took a quarter of the time of a busy service.
    """
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


def _stop_requested(*, parent_pipe: bool) -> asyncio.Event:
    """Make the event that SIGTERM, SIGINT, or the end of the supervisor sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent_pipe:
        # A thread, since an event loop cannot watch every kind of file.
        threading.Thread(target=_await_end_of_input, args=(loop, stop), daemon=True).start()
    return stop


def _await_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), _READ_BYTES):
        pass
    loop.call_soon_threadsafe(stop.set)
