"""The supervisor: all or nothing at the start, nothing left at the end, and help in between."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis

from cli import service_process
from cli.embedded.processes import start_mark
from cli.embedded.servers import remove
from cli.errors import CommandError, Interrupted
from cli.running import Running
from cli.service_process import is_serving
from cli.supervisor import Supervisor, SupervisorOptions
from tests.servers import a_data_dir

STANDIN = Path(__file__).parents[1] / "standin_service.py"
NOBODY_LISTENS = "127.0.0.1:1"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A place for a data directory that every account can reach."""
    with a_data_dir() as folder:
        yield folder


@pytest.fixture
def given(database_url: str, redis_url: str) -> dict[str, str]:
    """Servers that run already, so that a test need not start its own."""
    return {"database_url": database_url, "redis_url": redis_url}


def standins(**faults: str) -> Callable[[str], Sequence[str]]:
    """Run stand-ins instead of services, some with a fault."""
    return lambda service: (
        *(sys.executable, str(STANDIN), service),
        *([faults[service]] if service in faults else []),
    )


def options(data_dir: Path, **chosen: object) -> SupervisorOptions:
    """Choose two stand-ins on free ports."""
    defaults = {
        "data_dir": data_dir,
        "port_base": 0,
        "services": ("quota", "meter"),
        "command": standins(),
    }
    return SupervisorOptions(**{**defaults, **chosen})  # type: ignore[arg-type]


def pids(data_dir: Path) -> dict[str, int]:
    """Tell every process that the supervisor has written down."""
    return {
        str(record.relative_to(data_dir)): int(record.read_text().split()[0])
        for record in data_dir.glob("*/*.pid")
    }


def living(processes: dict[str, int]) -> set[str]:
    """Tell which of the processes live."""
    return {name for name, pid in processes.items() if start_mark(pid) is not None}


def eventually(holds: Callable[[], bool], wait_s: float = 20.0) -> bool:
    """Wait until something holds."""
    deadline = time.monotonic() + wait_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def a_driver(data_dir: Path) -> subprocess.Popen[str]:
    """Run a supervisor of embedded servers and two stand-ins in a process of its own."""
    script = (
        "import sys; from pathlib import Path; from tests.integration.test_supervisor import *\n"
        "with Supervisor(options(Path(sys.argv[1]))) as running:\n"
        "    print('up', flush=True); time.sleep(600)"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script, data_dir],
        cwd=STANDIN.parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout
    assert driver.stdout.readline() == "up\n"
    return driver


def test_everything_serves_while_it_is_entered_and_nothing_is_left_afterwards(
    data_dir: Path,
) -> None:
    """PostgreSQL, Redis and every service live inside, and not one process outside."""
    with Supervisor(options(data_dir)) as running:
        processes = pids(data_dir)
        serving = {service: is_serving(address) for service, address in running.addresses.items()}
        inside = living(processes)
        noted = Running.load(data_dir)

    assert serving == {"quota": True, "meter": True}
    assert inside == {
        "postgres/server.pid",
        "redis/server.pid",
        "run/quota.pid",
        "run/meter.pid",
    }
    assert noted == running
    assert living(processes) == set()
    with pytest.raises(CommandError, match="nothing is running in"):
        Running.load(data_dir)


def test_what_it_notes_for_other_commands_is_private(data_dir: Path, given: dict[str, str]) -> None:
    """The note holds passwords and a key, so only its owner may read it."""
    with Supervisor(options(data_dir, **given)):
        mode = (data_dir / "run" / "suite.json").stat().st_mode & 0o777

    assert mode == 0o600


def test_a_killed_service_comes_back_at_its_address(data_dir: Path, given: dict[str, str]) -> None:
    """The others go on, and callers find the service where it was."""
    lines: list[str] = []
    with Supervisor(options(data_dir, **given, report=lines.append)) as running:
        before = pids(data_dir)
        os.kill(before["run/meter.pid"], signal.SIGKILL)

        assert eventually(lambda: "meter serves again" in lines)
        after = pids(data_dir)
        assert is_serving(running.addresses["meter"])

    assert "meter ended unexpectedly (killed by SIGKILL); starting it again in 0.2 s" in lines
    assert after["run/meter.pid"] != before["run/meter.pid"]
    assert after["run/quota.pid"] == before["run/quota.pid"]
    assert living(before | after) == set()


def test_killed_servers_come_back_at_their_addresses(data_dir: Path) -> None:
    """Services keep the URLs they were started with, so the servers must keep theirs."""
    lines: list[str] = []
    with Supervisor(options(data_dir, report=lines.append)) as running:
        with redis.Redis.from_url(running.redis_url) as client:
            client.set("kept", "42")
        servers = {name: pid for name, pid in pids(data_dir).items() if "server" in name}
        for pid in servers.values():
            os.kill(pid, signal.SIGKILL)

        assert eventually(lambda: {"PostgreSQL serves again", "Redis serves again"} <= set(lines))
        with redis.Redis.from_url(running.redis_url, decode_responses=True) as client:
            kept = client.get("kept")

    assert kept == "42"


def test_services_end_when_their_supervisor_is_killed(data_dir: Path) -> None:
    """Nothing told them to end, but the pipe to their supervisor has."""
    driver = a_driver(data_dir)
    processes = pids(data_dir)
    services = {"run/quota.pid", "run/meter.pid"}

    driver.kill()
    driver.communicate()

    assert eventually(lambda: not living(processes) & services)
    with pytest.raises(CommandError, match="nothing is running in"):
        Running.load(data_dir)


def test_the_next_start_after_a_kill_works_in_the_same_data_directory(data_dir: Path) -> None:
    """Whatever the killed one left is ended; nobody has to clean up by hand."""
    driver = a_driver(data_dir)
    processes = pids(data_dir)
    driver.kill()
    driver.communicate()

    with Supervisor(options(data_dir)) as running:
        assert is_serving(running.addresses["quota"])
        assert living(processes) == set()


def test_a_busy_port_names_the_port_and_the_service_and_stops_everything(data_dir: Path) -> None:
    """One sentence tells what to change, and nothing was left running."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]

        with pytest.raises(CommandError) as refused, Supervisor(options(data_dir, port_base=port)):
            pass

    assert str(refused.value) == (
        f"port {port} for quota is in use; end the program that listens there or choose other "
        "ports by --port-base"
    )
    assert living(pids(data_dir)) == set()


def test_a_port_beyond_the_last_is_refused(data_dir: Path) -> None:
    """The base must leave room for every service."""
    with (
        pytest.raises(CommandError, match="there is no port 65536 for meter"),
        Supervisor(options(data_dir, port_base=65_535)),
    ):
        pass


def test_a_service_that_cannot_start_is_quoted_and_everything_is_stopped(data_dir: Path) -> None:
    """The reason is in the message itself; the servers and the other service are gone."""
    started: dict[str, int] = {}

    def watch(_line: str) -> None:
        started.update(pids(data_dir))

    faulty = options(data_dir, command=standins(meter="exit"), report=watch)
    with pytest.raises(CommandError) as refused, Supervisor(faulty):
        pass

    assert "service meter ended while starting (exit status 1)" in str(refused.value)
    assert "meter cannot start: a person must mend something" in str(refused.value)
    assert {"postgres/server.pid", "redis/server.pid"} <= started.keys()
    assert living(started | pids(data_dir)) == set()


def test_a_service_that_does_not_drain_is_ended_by_force(
    data_dir: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving takes a bounded time, whatever a service does."""
    monkeypatch.setattr(service_process, "DRAIN_WAIT_S", 0.3)
    with Supervisor(options(data_dir, **given, command=standins(meter="deaf"))):
        processes = pids(data_dir)

    assert living(processes) == set()


def test_a_stop_requested_while_starting_leaves_nothing(data_dir: Path) -> None:
    """Ctrl-C does not have to wait for a start that takes long."""
    started: dict[str, int] = {}

    def stop_at_redis(line: str) -> None:
        started.update(pids(data_dir))
        if line.startswith("Redis runs"):
            supervisor.request_stop()

    supervisor = Supervisor(options(data_dir, report=stop_at_redis))
    with pytest.raises(Interrupted), supervisor:
        pass

    assert started.keys() == {"postgres/server.pid", "redis/server.pid"}
    assert living(started) == set()


def test_a_signal_during_the_end_does_not_cut_it_short(
    data_dir: Path, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An impatient second Ctrl-C must not leave half of the processes."""
    monkeypatch.setattr(service_process, "DRAIN_WAIT_S", 1.0)
    with Supervisor(options(data_dir, **given, command=standins(meter="deaf"))):
        processes = pids(data_dir)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    assert living(processes) == set()


def test_a_second_start_in_the_same_data_directory_is_refused(
    data_dir: Path, given: dict[str, str]
) -> None:
    """Two supervisors would fight over the same servers; the first goes on undisturbed."""
    with Supervisor(options(data_dir, **given)) as running:
        with pytest.raises(CommandError) as refused, Supervisor(options(data_dir)):
            pass

        assert str(refused.value) == (
            f"data directory {running.data_dir} is in use by another tollkeeper "
            f"(process {os.getpid()})"
        )
        assert is_serving(running.addresses["quota"])


def test_a_data_directory_of_a_newer_version_is_left_untouched(data_dir: Path) -> None:
    """An older version would damage what it does not understand."""
    data_dir.mkdir()
    (data_dir / "version").write_text("2\n")

    with (
        pytest.raises(CommandError, match=r"written by a newer tollkeeper \(format 2, this one"),
        Supervisor(options(data_dir)),
    ):
        pass

    assert {path.name: path.read_text() for path in data_dir.iterdir()} == {"version": "2\n"}


def test_a_folder_of_somebody_else_is_left_untouched(data_dir: Path) -> None:
    """A mistyped --data-dir must not fill a home directory."""
    data_dir.mkdir()
    (data_dir / "letters.txt").write_text("dear")

    with (
        pytest.raises(CommandError, match="is not empty and not a data directory"),
        Supervisor(options(data_dir)),
    ):
        pass

    assert [path.name for path in data_dir.iterdir()] == ["letters.txt"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        pytest.param(
            {"database_url": f"postgresql://me:secret@{NOBODY_LISTENS}/db"},
            f"cannot use PostgreSQL at {NOBODY_LISTENS} (DATABASE_URL): ",
            id="no PostgreSQL there",
        ),
        pytest.param(
            {"database_url": "mysql://me:secret@127.0.0.1/db"},
            "DATABASE_URL must start with postgresql://",
            id="not PostgreSQL",
        ),
        pytest.param(
            {"database_url": "postgresql://me:secret@127.0.0.1:port/db"},
            "DATABASE_URL is not a URL",
            id="no URL",
        ),
        pytest.param(
            {"redis_url": f"redis://:secret@{NOBODY_LISTENS}/0"},
            f"cannot use Redis at {NOBODY_LISTENS} (REDIS_URL): ",
            id="no Redis there",
        ),
        pytest.param(
            {"redis_url": "http://:secret@127.0.0.1/0"},
            "REDIS_URL must start with redis://",
            id="not Redis",
        ),
    ],
)
def test_a_missing_server_is_one_clear_error_without_its_password(
    data_dir: Path, given: dict[str, str], chosen: dict[str, str], message: str
) -> None:
    """The variable and the place are named; a password is not."""
    with (
        pytest.raises(CommandError) as refused,
        Supervisor(options(data_dir, **{**given, **chosen})),
    ):
        pass

    assert str(refused.value).startswith(message)
    assert "secret" not in str(refused.value)


def test_a_refused_login_is_one_clear_error(data_dir: Path, given: dict[str, str]) -> None:
    """A wrong password is told apart from a server that is away."""
    parts = urlsplit(given["database_url"])
    place = f"{parts.hostname}:{parts.port}"
    wrong = urlunsplit(parts._replace(netloc=f"stranger:secret@{place}"))

    with (
        pytest.raises(CommandError, match=r"cannot use PostgreSQL at .* \(DATABASE_URL\): "),
        Supervisor(options(data_dir, **{**given, "database_url": wrong})),
    ):
        pass


def test_given_servers_are_used_and_none_is_started(data_dir: Path, given: dict[str, str]) -> None:
    """With both URLs given, the data directory holds keys, logs and notes alone."""
    with Supervisor(options(data_dir, **given)) as running:
        started = living(pids(data_dir))

    assert started == {"run/quota.pid", "run/meter.pid"}
    assert (running.database_url, running.redis_url) == (given["database_url"], given["redis_url"])
    assert {path.name for path in data_dir.iterdir()} == {"keys", "lock", "logs", "run", "version"}


def test_services_learn_their_place_from_the_environment(
    data_dir: Path, given: dict[str, str]
) -> None:
    """Each gets its own address and those of the others, the servers and the keys."""
    with Supervisor(options(data_dir, **given)) as running:
        log = (data_dir / "logs" / "meter.log").read_text()
    told = json.loads(log.partition("environment ")[2].splitlines()[0])

    assert told == {
        "DATABASE_URL": running.database_url,
        "REDIS_URL": running.redis_url,
        "TOLLKEEPER_KEYS_FILE": str(running.keys_file),
        "TOLLKEEPER_METER_ADDRESS": running.addresses["meter"],
        "TOLLKEEPER_METER_LISTEN": running.addresses["meter"],
        "TOLLKEEPER_PARENT_PIPE": "1",
        "TOLLKEEPER_QUOTA_ADDRESS": running.addresses["quota"],
        "TOLLKEEPER_QUOTA_DECISION_TIMEOUT_S": os.environ["TOLLKEEPER_QUOTA_DECISION_TIMEOUT_S"],
        "TOLLKEEPER_SERVICE_KEY_FILE": str(running.service_key_file),
    }


def test_a_data_directory_can_be_removed_with_everything_it_holds(tmp_path: Path) -> None:
    """Also with what root had to put elsewhere, and with servers that a crash left running."""
    tmp_path.chmod(0o700)
    driver = a_driver(tmp_path / "data")
    processes = {name: pid for name, pid in pids(tmp_path / "data").items() if "server" in name}
    elsewhere = tmp_path / "data" / "postgres" / "place"
    place = Path(elsewhere.read_text().strip()) if elsewhere.exists() else tmp_path / "data"
    driver.kill()
    driver.communicate()

    remove(tmp_path / "data")

    assert len(processes) == 2
    assert living(processes) == set()
    assert not place.exists()
    assert not (tmp_path / "data").exists()


def test_a_data_directory_in_use_is_not_removed(data_dir: Path, given: dict[str, str]) -> None:
    """What runs goes on running."""
    with Supervisor(options(data_dir, **given)) as running:
        with pytest.raises(CommandError, match="is in use by another tollkeeper"):
            remove(data_dir)

        assert is_serving(running.addresses["quota"])
