"""The folder in which one machine keeps everything: servers, keys, logs and who is running.

One process at a time owns it. A folder written by a newer version, and a folder full of somebody
else's files, are left exactly as they are.
"""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cli.embedded.processes import Recorded, describe, recorded
from cli.errors import CommandError

FORMAT = 1
DEFAULT = Path(".tollkeeper")
# What may lie in a folder whose making was cut short.
_BEFORE_VERSION = frozenset({"lock", "version.new"})


@dataclass(slots=True)
class DataDirectory:
    """An opened data directory; `lock` it before starting servers in it."""

    path: Path
    _lock: int | None = None

    @classmethod
    def open(cls, path: Path) -> "DataDirectory":
        """Make the folder if it is missing, after checking that it is ours to use.

        Raises:
            CommandError: It was written by a newer version, is not empty and no data directory, or
                cannot be made.
        """
        resolved = path.resolve()
        _refuse_foreign(resolved)
        try:
            # PostgreSQL, when it may not run as root, must be able to pass through.
            resolved.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            if not (resolved / "version").exists():
                unfinished = resolved / "version.new"
                unfinished.write_text(f"{FORMAT}\n")
                unfinished.replace(resolved / "version")
            for folder in ("keys", "logs", "run"):
                (resolved / folder).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CommandError(f"cannot use data directory {resolved}: {error.strerror}") from None
        return cls(resolved)

    def lock(self) -> None:
        """Claim the directory for this process until `unlock` or its end, however it ends.

        Raises:
            CommandError: Another living process has claimed it.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            other = holder(self.path)
            raise CommandError(
                f"data directory {self.path} is in use by another tollkeeper"
                + (f" (process {other.pid})" if other else "")
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, describe(os.getpid()).encode(), 0)
        self._lock = descriptor

    def unlock(self) -> None:
        """Let others claim the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def log(self, name: str) -> Path:
        """Name the log file of a server or service."""
        return self.path / "logs" / f"{name}.log"

    def record(self, service: str) -> Path:
        """Name the file that tells which process a service is."""
        return self.path / "run" / f"{service}.pid"


def holder(path: Path) -> Recorded | None:
    """Tell which living process has claimed a data directory last."""
    return recorded(path / "lock")


def _refuse_foreign(path: Path) -> None:
    try:
        text = (path / "version").read_text().strip()
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            if any(entry.name not in _BEFORE_VERSION for entry in path.iterdir()):
                raise CommandError(
                    f"{path} is not empty and not a data directory of tollkeeper; "
                    "name another one by --data-dir"
                ) from None
        return
    except OSError as error:
        raise CommandError(f"cannot use data directory {path}: {error.strerror}") from None
    if not (text.isascii() and text.isdigit()):
        raise CommandError(f"{path} is not a data directory of tollkeeper: its version is unclear")
    if int(text) > FORMAT:
        raise CommandError(
            f"data directory {path} was written by a newer tollkeeper (format {text}, this one "
            f"knows {FORMAT}); nothing was changed. Use that version or another --data-dir"
        )
