"""Telemetry: one trace from the caller to PostgreSQL and Redis, and logs that join it."""

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from kit import telemetry
from tests.servers import Servers

ROOT = Path(__file__).resolve().parents[2]
METHOD = "tollkeeper.test.v1.EchoService/Ask"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one traced call left: spans and metrics, and the lines of its log."""

    spans: list[dict[str, Any]]
    metrics: str
    logs: list[dict[str, Any]]

    def tree(self) -> list[tuple[str, str, str, str]]:
        """List the spans as kind, name, name of the parent and status, in alphabetical order."""
        names = {span["span"]: span["name"] for span in self.spans}
        return sorted(
            (span["kind"], span["name"], names.get(span["parent"], ""), span["status"])
            for span in self.spans
        )


@pytest.fixture
def servers_of_session(servers: Servers, empty_database_url: str) -> tuple[str, str]:
    """Where PostgreSQL and Redis are."""
    return empty_database_url, servers.redis_url


async def traced_call(urls: tuple[str, str], folder: Path, fault: str = "") -> Seen:
    """Make a traced call in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.traced_call", *urls, str(folder), fault),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    seen = json.loads(out)
    lines = [line for line in err.decode().splitlines() if line.startswith("{")]
    return Seen(seen["spans"], seen["metrics"], [json.loads(line) for line in lines])


async def test_a_call_is_one_trace_from_the_caller_to_the_database(
    servers_of_session: tuple[str, str], tmp_path: Path
) -> None:
    """Each span is a child of the one that caused it, across the wire as within the process."""
    seen = await traced_call(servers_of_session, tmp_path)

    assert seen.tree() == [
        ("CLIENT", f"/{METHOD}", "caller", "UNSET"),
        ("CLIENT", "ECHO", "echo.ask", "UNSET"),
        ("CLIENT", "SELECT", "echo.ask", "UNSET"),
        ("CLIENT", "connect", "echo.ask", "UNSET"),
        ("INTERNAL", "caller", "", "UNSET"),
        ("INTERNAL", "echo.ask", METHOD, "UNSET"),
        ("SERVER", METHOD, f"/{METHOD}", "UNSET"),
    ]
    assert len({span["trace"] for span in seen.spans}) == 1


async def test_spans_carry_no_values(servers_of_session: tuple[str, str], tmp_path: Path) -> None:
    """Neither a parameter of a statement nor an argument of a command nor a tenant is recorded."""
    seen = await traced_call(servers_of_session, tmp_path)

    recorded = " ".join(span["everything"] for span in seen.spans) + seen.metrics
    assert "hunter2" not in recorded
    assert "acme" not in recorded


async def test_a_failed_call_is_an_error_in_its_spans_and_its_log(
    servers_of_session: tuple[str, str], tmp_path: Path
) -> None:
    """The log has the traceback and the trace's own id; the spans have no text of the error."""
    seen = await traced_call(servers_of_session, tmp_path, fault="sesame")

    statuses = {span["name"]: span["status"] for span in seen.spans}
    assert [statuses[name] for name in (METHOD, "echo.ask", "SELECT")] == [
        "ERROR",
        "ERROR",
        "UNSET",
    ]
    assert "sesame" not in " ".join(span["everything"] for span in seen.spans)
    asked, failed = seen.logs
    assert (asked["event"], failed["event"]) == ("asked", "call.failed")
    assert {asked["trace_id"], failed["trace_id"]} == {seen.spans[0]["trace"]}
    assert "RuntimeError: sesame" in failed["exception"]


async def test_calls_are_measured_by_method_and_status(
    servers_of_session: tuple[str, str], tmp_path: Path
) -> None:
    """One histogram, whose labels are few."""
    seen = await traced_call(servers_of_session, tmp_path, fault="sesame")

    (resource,) = json.loads(seen.metrics)["resource_metrics"]
    (scope,) = [each for each in resource["scope_metrics"] if each["scope"]["name"] == "tollkeeper"]
    (metric,) = scope["metrics"]
    (point,) = metric["data"]["data_points"]
    assert resource["resource"]["attributes"]["service.name"] == "tollkeeper-echo"
    assert (metric["name"], metric["unit"], point["count"]) == ("rpc.server.duration", "ms", 1)
    assert point["attributes"] == {
        "rpc.system": "grpc",
        "rpc.service": "tollkeeper.test.v1.EchoService",
        "rpc.method": "Ask",
        "rpc.grpc.status_code": "INTERNAL",
    }


@telemetry.traced("echo.double")
async def double(number: int) -> int:
    """Compute what a use case computes."""
    return 2 * number


async def test_switched_off_a_use_case_is_called_directly() -> None:
    """Without an endpoint no frame stands between the caller and its use case."""
    coroutine: Any = double(21)

    assert coroutine.__qualname__ == "double"
    assert await coroutine == 42
    assert (telemetry.is_on(), telemetry.trace_id(), telemetry.client_interceptors()) == (
        False,
        None,
        (),
    )


@pytest.fixture
def restored_logs() -> Iterator[None]:
    """Logs as they were, once the test ends."""
    configured, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.configure(**configured)
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("restored_logs")
def test_logs_are_lines_of_json_without_local_variables(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each event is one object; a traceback shows code, and never what the variables held."""
    telemetry.configure_logs("info")
    log = telemetry.get_logger()
    log.debug("unheard")
    log.info("heard", invoices=3)
    try:
        fail_with("hunter2".upper())
    except ValueError:
        log.exception("failed")
    logging.getLogger("grpc").warning("a library's %s", "warning")

    heard, failed, foreign = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert (heard["event"], heard["level"], heard["invoices"]) == ("heard", "info", 3)
    assert (failed["event"], failed["level"]) == ("failed", "error")
    assert "ValueError: no" in failed["exception"]
    assert "HUNTER2" not in failed["exception"]
    assert (foreign["event"], foreign["level"]) == ("a library's warning", "warning")


def fail_with(password: str) -> None:
    """Fail while a variable holds a secret."""
    assert password
    raise ValueError("no")
