"""`tollkeeper up` and `tollkeeper migrate`, with the real services and servers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli.embedded.processes import start_mark
from cli.migrations import services_with_migrations
from cli.service_process import is_serving
from cli.supervisor import SERVICES
from tests.command_line import Outcome, Tollkeeper
from tests.servers import a_data_dir, execute

COMMAND = Path(sys.executable).with_name("tollkeeper")
ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A place for a data directory that every account can reach."""
    with a_data_dir() as folder:
        yield folder


@contextmanager
def a_run_of(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run a command without the servers of this session; it is gone afterwards."""
    environment = {
        key: value for key, value in os.environ.items() if key not in {"DATABASE_URL", "REDIS_URL"}
    }
    with subprocess.Popen(
        command,
        env={**environment, "TERM": "xterm", "COLUMNS": "100"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def up(data_dir: Path, *arguments: str) -> list[str | Path]:
    """Give the command that runs everything on free ports."""
    return [COMMAND, "up", "--data-dir", data_dir, "--port-base", "0", *arguments]


def pids(data_dir: Path) -> dict[str, int]:
    """Tell every process that was written down in the data directory."""
    return {
        str(record.relative_to(data_dir)): int(record.read_text().split()[0])
        for record in data_dir.glob("*/*.pid")
    }


def living(processes: dict[str, int]) -> set[str]:
    """Tell which of the processes live."""
    return {name for name, pid in processes.items() if start_mark(pid) is not None}


def facts_of(running: subprocess.Popen[str]) -> dict[str, Any]:
    """Read the JSON object that a start prints; a failed one is explained by what it said."""
    assert running.stdout
    assert running.stderr
    line = running.stdout.readline()
    assert line, running.stderr.read()
    return dict(json.loads(line))


def lines_until(running: subprocess.Popen[str], last: str) -> str:
    """Read what a command prints, up to the line that contains `last`."""
    assert running.stdout
    read: list[str] = []
    while not read or (last not in read[-1] and read[-1]):
        read.append(running.stdout.readline())
    return "".join(read)


def test_all_services_serve_until_the_signal_to_end(data_dir: Path) -> None:
    """One JSON object tells programs where everything is; SIGTERM ends it all, in order."""
    with a_run_of(*up(data_dir, "--json", "--tenant", "acme")) as running:
        facts = facts_of(running)
        serving = {service: is_serving(address) for service, address in facts["addresses"].items()}
        processes = pids(data_dir)
        running.send_signal(signal.SIGTERM)
        rest, errors = running.communicate(timeout=60)

    assert serving == dict.fromkeys(SERVICES, True)
    assert facts.keys() == {"addresses", "data_dir", "tenant", "token"}
    assert (facts["data_dir"], facts["tenant"]) == (str(data_dir.resolve()), "acme")
    assert len(processes) == len(SERVICES) + 2
    assert (running.returncode, rest, errors.splitlines()[-1]) == (0, "", "stopped")
    assert living(processes) == set()


def test_ctrl_c_on_a_terminal_ends_everything(data_dir: Path) -> None:
    """A person sees where everything is, the key, and how to end it."""
    with a_run_of(sys.executable, "-c", ON_A_TERMINAL, *up(data_dir)) as running:
        shown = lines_until(running, "Ctrl-C ends everything.")
        processes = pids(data_dir)
        assert running.stdin
        running.stdin.write("\x03")
        running.stdin.flush()
        running.communicate(timeout=60)

    assert "Tollkeeper is up" in shown
    assert "admin key of tenant" in shown
    assert len(processes) == len(SERVICES) + 2
    assert running.returncode == 0
    assert living(processes) == set()


def test_after_a_kill_the_next_start_serves(data_dir: Path) -> None:
    """Nobody has to clean up after kill -9."""
    with a_run_of(*up(data_dir, "--json")) as killed:
        before = facts_of(killed)
        processes = pids(data_dir)
    with a_run_of(*up(data_dir, "--json")) as running:
        after = facts_of(running)
        left = living(processes)
        serving = {service: is_serving(address) for service, address in after["addresses"].items()}
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=60)

    assert left == set()
    assert serving == dict.fromkeys(SERVICES, True)
    assert after["token"] == before["token"]


def test_migrate_brings_every_schema_to_its_newest_revision(
    tollkeeper: Tollkeeper, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice is as good as once."""
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    said = "".join(f"{service} is migrated\n" for service in services_with_migrations())

    assert [tollkeeper("migrate"), tollkeeper("migrate")] == [Outcome(0, said, "")] * 2


def test_migrate_uses_the_embedded_server_where_none_is_given(
    tollkeeper: Tollkeeper, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data directory is ready for the next start, and no server is left."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    said = "".join(f"{service} is migrated\n" for service in services_with_migrations())

    assert tollkeeper("migrate", "--data-dir", data_dir) == Outcome(0, said, "")
    assert pids(data_dir) == {}


def test_a_schema_of_a_newer_version_is_refused(
    tollkeeper: Tollkeeper, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version must not write into what it does not understand."""
    execute(database_url, "UPDATE rating.alembic_version SET version_num = '9999'")
    monkeypatch.setenv("DATABASE_URL", database_url)

    outcome = tollkeeper("migrate")

    assert outcome.status == 1
    assert outcome.errors.startswith("tollkeeper: ")
    assert "9999" in outcome.errors
    assert len(outcome.errors.splitlines()) == 1


def test_a_missing_server_is_one_clear_error(
    tollkeeper: Tollkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is named; the password is not."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/db")

    outcome = tollkeeper("migrate")

    assert outcome.status == 1
    assert outcome.errors.startswith(
        "tollkeeper: cannot use PostgreSQL at 127.0.0.1:1 (DATABASE_URL): "
    )
    assert "secret" not in outcome.errors
