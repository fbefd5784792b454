"""A service as a process: it serves when all is there, drains when asked, and else says why not."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.signing_keys import SigningKeys

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "rating"
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING

Environment = dict[str, str]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended, and what it wrote for people."""

    code: int | None
    lines: list[str]


@pytest.fixture
def port() -> int:
    """A port of loopback that is free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
    return number


@pytest.fixture
def environment(database_url: str, redis_url: str, keys: SigningKeys, port: int) -> Environment:
    """All that a service needs to be told."""
    ours = ("DATABASE_URL", "REDIS_URL", "TOLLKEEPER_", "OTEL_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {
        **inherited,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "TOLLKEEPER_KEYS_FILE": str(keys.public_file),
        "TOLLKEEPER_SERVICE_KEY_FILE": str(keys.service_file),
        "TOLLKEEPER_RATING_LISTEN": f"127.0.0.1:{port}",
        "TOLLKEEPER_STARTUP_TIMEOUT_S": "30",
    }


async def start(command: str, environment: Environment) -> asyncio.subprocess.Process:
    """Start the service with a pipe as its standard input."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"services.{SERVICE}", command),
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> Ended:
    """Wait for the process to end."""
    async with asyncio.timeout(60):
        _, err = await process.communicate()
    return Ended(process.returncode, err.decode().splitlines())


async def run(command: str, environment: Environment, **changes: str) -> Ended:
    """Run the service until it ends by itself."""
    return await ended(await start(command, {**environment, **changes}))


@asynccontextmanager
async def serving(environment: Environment) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the service, and end it if the test did not."""
    process = await start("serve", environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def health_becomes(port: int, status: int) -> bool:
    """Ask for health until it is as expected, for a minute at most."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(60):
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), wait_for_ready=True
        )
        async for answer in watch:
            if answer.status == status:
                watch.cancel()
                return True
    return False


def interrupt(process: asyncio.subprocess.Process) -> None:
    """Press Ctrl-C."""
    process.send_signal(signal.SIGINT)


def end_input(process: asyncio.subprocess.Process) -> None:
    """Die as a supervisor dies: the pipe it held ends."""
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(asyncio.subprocess.Process.terminate, id="SIGTERM"),
        pytest.param(interrupt, id="SIGINT"),
        pytest.param(end_input, id="the supervisor dies"),
    ],
)
async def test_a_service_drains_and_ends_well_when_asked_to(
    environment: Environment, port: int, stop: Callable[[asyncio.subprocess.Process], None]
) -> None:
    """It serves, and after the signal ends with 0 and no traceback."""
    async with serving({**environment, "TOLLKEEPER_PARENT_PIPE": "1"}) as process:
        served = await health_becomes(port, SERVING)
        stop(process)
        end = await ended(process)

    assert served
    assert (end.code, [line.split('"event": "')[1].split('"')[0] for line in end.lines]) == (
        0,
        ["serving", "draining"],
    )


async def test_without_a_supervisor_the_end_of_input_means_nothing(
    environment: Environment, port: int
) -> None:
    """A service of an orchestrator has no input at all, and serves."""
    async with serving(environment) as process:
        end_input(process)
        assert await health_becomes(port, SERVING)
        process.terminate()
        assert (await ended(process)).code == 0


async def test_health_waits_for_the_migrations(
    environment: Environment, empty_database_url: str, port: int
) -> None:
    """A service listens at once, and serves as soon as its schema is current."""
    environment["DATABASE_URL"] = empty_database_url
    async with serving(environment) as process:
        waited = await health_becomes(port, NOT_SERVING)
        migrated = await run("migrate", environment)
        served = await health_becomes(port, SERVING)
        process.terminate()
        end = await ended(process)

    assert (waited, migrated, served, end.code) == (True, Ended(0, []), True, 0)


async def test_a_service_that_waits_ends_when_asked_to(
    environment: Environment, empty_database_url: str, port: int
) -> None:
    """Nobody has to wait for the start-up timeout."""
    environment["DATABASE_URL"] = empty_database_url
    environment["TOLLKEEPER_STARTUP_TIMEOUT_S"] = "3600"
    async with serving(environment) as process:
        assert await health_becomes(port, NOT_SERVING)
        process.terminate()
        end = await ended(process)

    assert end.code == 0
    assert "Traceback" not in "".join(end.lines)


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        pytest.param(
            ("DATABASE_URL", "postgresql://app:hunter2@127.0.0.1:1/tollkeeper"),
            1,
            "rating: cannot reach PostgreSQL at 127.0.0.1:1: Connection refused",
            id="no PostgreSQL",
        ),
        pytest.param(
            ("REDIS_URL", "redis://:hunter2@127.0.0.1:1"),
            1,
            "rating: cannot reach Redis at 127.0.0.1:1: Connection refused",
            id="no Redis",
        ),
        pytest.param(
            ("TOLLKEEPER_KEYS_FILE", "/nowhere/jwks.json"),
            1,
            "rating: cannot read the keys in /nowhere/jwks.json: FileNotFoundError",
            id="no keys",
        ),
        pytest.param(
            ("DATABASE_URL", "mysql://hunter2"),
            2,
            "rating: bad settings: DATABASE_URL must start with postgresql://",
            id="bad settings",
        ),
    ],
)
async def test_what_is_missing_is_one_clear_line(
    environment: Environment, change: tuple[str, str], code: int, line: str
) -> None:
    """The last line names it without a password; there is no traceback, and the code says so."""
    environment["TOLLKEEPER_STARTUP_TIMEOUT_S"] = "0.01"

    end = await run("serve", environment, **dict([change]))

    assert (end.code, end.lines[-1]) == (code, line)
    assert "Traceback" not in "".join(end.lines)
    assert "hunter2" not in "".join(end.lines)


async def test_a_busy_port_is_one_clear_line(environment: Environment, port: int) -> None:
    """A second instance does not share the first one's port, and says who has it."""
    with socket.create_server(("127.0.0.1", port)):
        end = await run("serve", environment)

    assert end == Ended(1, [f"rating: port {port} on 127.0.0.1 is in use by another process"])


async def test_a_schema_that_is_not_current_is_one_clear_line(
    environment: Environment, empty_database_url: str
) -> None:
    """The line says how to migrate."""
    end = await run(
        "check",
        environment,
        DATABASE_URL=empty_database_url,
        TOLLKEEPER_STARTUP_TIMEOUT_S="0.2",
    )

    assert end.code == 1
    assert end.lines[-1] == (
        "rating: the schema 'rating' of the database is not current:"
        " run python -m services.rating migrate"
    )


async def test_checking_serves_nothing_and_says_nothing_when_all_is_there(
    environment: Environment, port: int
) -> None:
    """It may run beside the service, whose port it leaves alone."""
    with socket.create_server(("127.0.0.1", port)):
        end = await run("check", environment)

    assert end == Ended(0, [])
