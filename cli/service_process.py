"""One service as a child process: started, watched, asked to drain, and ended for certain."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.embedded.processes import Step, end_recorded, how_it_ended, keep_record, last_lines, size

_HEALTH_WAIT_S = 1.0
# A little more than a service takes at most to drain.
DRAIN_WAIT_S = 15.0
_KILL_WAIT_S = 10.0
_LEFTOVER_END = (Step(signal.SIGTERM, DRAIN_WAIT_S), Step(signal.SIGKILL, _KILL_WAIT_S))


def serve_command(service: str) -> Sequence[str]:
    """Give the command that serves; -P keeps the current folder's files from being imported."""
    return (sys.executable, "-P", "-m", f"services.{service}", "serve")


@dataclass(slots=True)
class ServiceProcess:
    """A service and the process that currently is it.

    The child's standard input is a pipe that nobody writes to: it ends when this process dies, and
    the service then drains by itself.
    """

    name: str
    address: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    record: Path
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _log_begin: int = field(init=False, default=0)

    def start(self) -> None:
        """Start the process; `is_serving` tells when it is ready."""
        self._forget()
        self._log_begin = size(self.log)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the supervisor alone, which ends the services in order.
                start_new_session=True,
            )
        keep_record(self.record, self._process)

    def is_serving(self) -> bool:
        """Ask the service's health."""
        return is_serving(self.address)

    def how_it_ended(self) -> str | None:
        """Say how the process ended; None while it lives."""
        return how_it_ended(self._process)

    def last_words(self) -> str:
        """Quote the end of what it has logged since it was started."""
        return last_lines(self.log, self._log_begin)

    def ask_to_end(self) -> None:
        """Ask the process to drain and end; returns at once."""
        if self._process:
            self._process.send_signal(signal.SIGTERM)

    def wait_ended(self, deadline: float) -> None:
        """Return once the process is gone, ending it by force after the deadline.

        Args:
            deadline: On the monotonic clock.
        """
        if self._process:
            try:
                self._process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._forget()

    def _forget(self) -> None:
        if self._process and self._process.stdin:
            self._process.stdin.close()
        self._process = None
        self.record.unlink(missing_ok=True)


def is_serving(address: str) -> bool:
    """Ask the health of whatever serves at an address."""
    # A channel kept open would log every restart of the service as an incident of its own.
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_HEALTH_WAIT_S
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def end_services(processes: Sequence[ServiceProcess]) -> None:
    """Ask all to drain at once, and return when every process is gone."""
    for process in processes:
        process.ask_to_end()
    deadline = time.monotonic() + DRAIN_WAIT_S
    for process in processes:
        process.wait_ended(deadline)


def end_leftover_service(record: Path, name: str) -> None:
    """End the process of an earlier run that died without ending it."""
    end_recorded(record, _LEFTOVER_END, what=f"service {name}")
