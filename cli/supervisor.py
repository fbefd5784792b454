"""Everything on one machine: servers, migrations, keys and the five services, as one thing.

    with Supervisor(SupervisorOptions(port_base=0)) as running:
        ...  # running.addresses, running.admin_token, running.database_url

On entering, all of it runs and serves, or nothing does and one `CommandError` says why. While
inside, a service or server that dies is started again. On leaving, services drain first, then
Redis ends, then PostgreSQL, and no process is left. What a killed supervisor left behind is ended
by the next one in the same data directory.

Enter it from the main thread, before the first gRPC call and outside of an event loop.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from cli.embedded import loopback
from cli.embedded.data_directory import DEFAULT, DataDirectory
from cli.embedded.servers import postgres_in, redis_in
from cli.errors import CommandError, Interrupted
from cli.given_servers import check_postgres, check_redis
from cli.keys import ApiKeys, tell_services
from cli.migrations import migrate_all
from cli.running import Running
from cli.service_process import (
    ServiceProcess,
    end_leftover_service,
    end_services,
    serve_command,
)
from cli.signing_keys import SigningKeys
from cli.watch import Watch

SERVICES = ("quota", "meter", "rating", "tax", "invoicing")
DEFAULT_PORT_BASE = 7301
_PORT_LAST = 65_535
_SERVING_WAIT_S = 90.0
_STARTING_POLL_S = 0.05
_WATCHING_POLL_S = 0.1
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorOptions:
    """What to run, and where.

    Args:
        data_dir: Servers, keys and logs live here.
        port_base: The port of the first service; the others follow. 0 chooses free ones.
        tenant: Whom the admin key speaks for.
        database_url: A PostgreSQL to use instead of an embedded one.
        redis_url: A Redis to use instead of an embedded one.
        report: Receives a line for every step and every incident, possibly from another thread.
        services: The names of the services, in the order of their ports.
        command: Gives the command that serves, by service name.
    """

    data_dir: Path = DEFAULT
    port_base: int = DEFAULT_PORT_BASE
    tenant: str = "default"
    database_url: str | None = None
    redis_url: str | None = None
    report: Callable[[str], None] = field(default=lambda _: None)
    services: tuple[str, ...] = SERVICES
    command: Callable[[str], Sequence[str]] = serve_command


class Supervisor:
    """Runs everything while it is entered; see the module."""

    def __init__(self, options: SupervisorOptions) -> None:
        self._options = options
        self._report = options.report
        self._stop_requested = threading.Event()
        self._undo = ExitStack()

    def __enter__(self) -> Running:
        starting = ExitStack()
        try:
            running = self._start(starting)
        except BaseException:
            with _deaf_to_signals():
                starting.close()
            raise
        self._undo = starting
        return running

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with _deaf_to_signals():
            self._undo.close()

    def request_stop(self) -> None:
        """Ask for the end, from a signal handler or another thread; returns at once.

        While everything is still starting, entering then raises `Interrupted`.
        """
        self._stop_requested.set()

    def wait_for_stop(self) -> None:
        """Return once a stop was requested."""
        # An untimed wait would keep signal handlers from running.
        while not self._stop_requested.wait(1.0):
            pass

    def _start(self, undo: ExitStack) -> Running:
        """Start everything; `undo` holds at any moment what takes back what was done so far."""
        options = self._options
        directory = DataDirectory.open(options.data_dir)
        directory.lock()
        undo.callback(directory.unlock)
        for service in options.services:
            end_leftover_service(directory.record(service), service)
        addresses = self._choose_addresses()
        watch = Watch(self._report)
        database_url = self._start_postgres(directory, watch, undo)
        redis_url = self._start_redis(directory, watch, undo)
        migrate_all(database_url, self._step)
        keys = SigningKeys.load_or_make(directory.path / "keys")
        api_keys = ApiKeys(directory.path / "keys", keys.issuer_key())
        # Redis may have been emptied; the ledger remembers.
        tell_services(redis_url, api_keys.revoked())
        running = Running(
            data_dir=directory.path,
            addresses=addresses,
            database_url=database_url,
            redis_url=redis_url,
            tenant=options.tenant,
            admin_token=api_keys.admin_token(options.tenant),
            keys_file=keys.public_file,
            issuer_key_file=keys.issuer_file,
            service_key_file=keys.service_file,
        )
        self._start_services(directory, running, watch, undo)
        undo.callback(running.forget)
        running.save()
        undo.enter_context(watch.keeping())
        return running

    def _choose_addresses(self) -> Mapping[str, str]:
        services, base = self._options.services, self._options.port_base
        if base == 0:
            ports = loopback.choose_ports(len(services))
        else:
            ports = tuple(range(base, base + len(services)))
            for service, port in zip(services, ports, strict=True):
                _check_port(service, port)
        return {
            service: f"{loopback.HOST}:{port}"
            for service, port in zip(services, ports, strict=True)
        }

    def _start_postgres(self, directory: DataDirectory, watch: Watch, undo: ExitStack) -> str:
        if self._options.database_url:
            check_postgres(self._options.database_url)
            return self._options.database_url
        embedded = postgres_in(directory)
        undo.callback(embedded.stop)
        url = embedded.start()
        watch.add(embedded)
        self._step(f"PostgreSQL runs on {_place(url)}")
        return url

    def _start_redis(self, directory: DataDirectory, watch: Watch, undo: ExitStack) -> str:
        if self._options.redis_url:
            check_redis(self._options.redis_url)
            return self._options.redis_url
        embedded = redis_in(directory)
        undo.callback(embedded.stop)
        url = embedded.start()
        watch.add(embedded)
        self._step(f"Redis runs on {_place(url)}")
        return url

    def _start_services(
        self, directory: DataDirectory, running: Running, watch: Watch, undo: ExitStack
    ) -> None:
        environment = _environment(running)
        processes = [
            ServiceProcess(
                name=service,
                address=address,
                command=self._options.command(service),
                environment={**environment, f"TOLLKEEPER_{service.upper()}_LISTEN": address},
                log=directory.log(service),
                record=directory.record(service),
            )
            for service, address in running.addresses.items()
        ]
        undo.callback(end_services, processes)
        for process in processes:
            process.start()
        deadline = time.monotonic() + _SERVING_WAIT_S
        for process in processes:
            self._wait_serving(process, deadline)
            watch.add(process)
            self._step(f"{process.name} serves on {process.address}")

    def _wait_serving(self, process: ServiceProcess, deadline: float) -> None:
        while not process.is_serving():
            self._check_stop()
            end = process.how_it_ended()
            if end:
                raise CommandError(
                    f"service {process.name} ended while starting ({end}):\n{process.last_words()}"
                )
            if time.monotonic() > deadline:
                raise CommandError(
                    f"service {process.name} was not ready after {_SERVING_WAIT_S:.0f} s; "
                    f"see {process.log}:\n{process.last_words()}"
                )
            time.sleep(_STARTING_POLL_S)

    def _step(self, line: str) -> None:
        self._report(line)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stop_requested.is_set():
            raise Interrupted


def _check_port(service: str, port: int) -> None:
    if not 0 < port <= _PORT_LAST:
        raise CommandError(f"there is no port {port} for {service}; choose another --port-base")
    if not loopback.is_free(port):
        raise CommandError(
            f"port {port} for {service} is in use; end the program that listens there or choose "
            "other ports by --port-base"
        )


def _environment(running: Running) -> dict[str, str]:
    addresses = {
        f"TOLLKEEPER_{service.upper()}_ADDRESS": address
        for service, address in running.addresses.items()
    }
    return {
        **addresses,
        "DATABASE_URL": running.database_url,
        "REDIS_URL": running.redis_url,
        "TOLLKEEPER_KEYS_FILE": str(running.keys_file),
        "TOLLKEEPER_SERVICE_KEY_FILE": str(running.service_key_file),
        "TOLLKEEPER_PARENT_PIPE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _place(url: str) -> str:
    return url.rpartition("@")[2].partition("/")[0]


@contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Let no second Ctrl-C cut the orderly end short; every wait in it is bounded."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A handler that does nothing, since children would inherit an ignored signal.
    before = {number: signal.signal(number, _hear_nothing) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear_nothing(_signal: int, _frame: FrameType | None) -> None:
    pass
