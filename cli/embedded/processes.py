"""Start a server as a child, know it again after a crash of its starter, and end it for certain.

A process is known by its id together with the moment it began, so that an id which the system has
meanwhile given to a stranger is never signalled. Nothing here ends a process by name.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import CommandError

_POLL_S = 0.02
_PROC_STATE = 0
_PROC_START_TICKS = 19
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Step:
    """One way to ask a process to end, and how long to wait for it."""

    signal: signal.Signals
    wait_s: float


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group a server runs as; its starter must be root to choose another."""

    user: int
    group: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A process that an earlier run wrote down and that is still alive."""

    pid: int
    start_mark: str


def start_mark(pid: int) -> str | None:
    """Tell when the process began, in a form that no other process shares; None once it is gone.

    A process that has ended but was not collected by its parent counts as gone.
    """
    if sys.platform == "linux":
        return _start_mark_from_proc(pid)
    return _start_mark_from_ps(pid)


def _start_mark_from_proc(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in brackets and may itself hold spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    if fields[_PROC_STATE] in {"Z", "X"}:
        return None
    return f"{boot_id}:{fields[_PROC_START_TICKS]}"


def _start_mark_from_ps(pid: int) -> str | None:
    state, _, began = _ask_ps(pid, "stat=,lstart=").partition(" ")
    if not state or state.startswith("Z"):
        return None
    return began.strip()


def program_name(pid: int) -> str | None:
    """Name the program that a living process runs; None once it is gone."""
    if start_mark(pid) is None:
        return None
    if sys.platform == "linux":
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return Path(_ask_ps(pid, "comm=")).name


def _ask_ps(pid: int, columns: str) -> str:
    answer = subprocess.run(
        ["/bin/ps", "-o", columns, "-p", str(pid)],
        check=False,
        capture_output=True,
        text=True,
        env={"LC_ALL": "C", "TZ": "UTC"},
    )
    return answer.stdout.strip()


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    record: Path,
    account: Account | None = None,
    parent_death: signal.Signals | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own and write it down in `record`.

    Args:
        command: The program and its arguments.
        log: Receives standard output and standard error, appended.
        record: The file from which `recorded` finds the process again.
        account: Run as this account instead of the caller's.
        parent_death: Sent by the kernel when the starter dies; Linux only, and only from the main
            thread, because the kernel watches the thread that started the child.
    """
    hook: Callable[[], None] | None = None
    if parent_death and _LIBC and threading.current_thread() is threading.main_thread():
        hook = _parent_death_hook(_LIBC, parent_death, os.getpid())
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.user if account else None,
            group=account.group if account else None,
            extra_groups=[] if account else None,
            preexec_fn=hook,  # noqa: PLW1509  # Two system calls, no lock taken; no threads yet.
        )
    keep_record(record, process)
    return process


def _parent_death_hook(
    libc: ctypes.CDLL, parent_death: signal.Signals, parent: int
) -> Callable[[], None]:
    def watch_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(parent_death), 0, 0, 0)
        # The parent may have died between fork and prctl; then the signal would never come.
        if os.getppid() != parent:
            os._exit(1)

    return watch_parent


def keep_record(record: Path, child: subprocess.Popen[bytes]) -> None:
    """Write down a child so that a later run can find it; without a record it must not live."""
    unfinished = record.with_suffix(".new")
    try:
        unfinished.write_text(describe(child.pid))
        unfinished.replace(record)
    except OSError:
        child.kill()
        child.wait()
        raise


def describe(pid: int) -> str:
    """Render a living process as `recorded` reads it."""
    return f"{pid}\n{start_mark(pid) or ''}\n"


def recorded(record: Path) -> Recorded | None:
    """Find the process an earlier run wrote down; None when it is gone or its id was reused."""
    try:
        lines = record.read_text().splitlines()
    except FileNotFoundError:
        return None
    match lines:
        case [pid, mark] if pid.isascii() and pid.isdigit() and start_mark(int(pid)) == mark:
            return Recorded(int(pid), mark)
        case _:
            return None


def end(process: Recorded, steps: Sequence[Step], *, what: str) -> None:
    """End a process by the steps, each harsher than the last, and return once it is gone.

    Raises:
        CommandError: The process belongs to somebody else or outlived every step.
    """
    for step in steps:
        if start_mark(process.pid) != process.start_mark:
            return
        try:
            os.kill(process.pid, step.signal)
        except ProcessLookupError:
            return
        except PermissionError:
            raise CommandError(
                f"{what} of an earlier run (process {process.pid}) belongs to another user; "
                "end it as that user"
            ) from None
        if _gone_within(process, step.wait_s):
            return
    raise CommandError(f"{what} (process {process.pid}) does not end, not even by SIGKILL")


def _gone_within(process: Recorded, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if start_mark(process.pid) != process.start_mark:
            return True
        time.sleep(_POLL_S)
    return False


def end_recorded(record: Path, steps: Sequence[Step], *, what: str) -> bool:
    """End what `record` names, if it still lives, and forget it; tell whether it lived."""
    survivor = recorded(record)
    if survivor:
        end(survivor, steps, what=what)
    record.unlink(missing_ok=True)
    return survivor is not None


def size(log: Path) -> int:
    """Tell where the next line of a log will begin."""
    return log.stat().st_size if log.exists() else 0


def written_since(log: Path, begin: int) -> str:
    """Read what was written to a log since it had a size."""
    with log.open("rb") as lines:
        lines.seek(begin)
        return lines.read().decode(errors="replace")


def last_lines(log: Path, begin: int, count: int = 8) -> str:
    """Quote the end of what was written to a log since it had a size, for an error message."""
    lines = written_since(log, begin).splitlines()
    return "\n".join(f"  {line}" for line in lines[-count:])


def how_it_ended(process: subprocess.Popen[bytes] | None) -> str | None:
    """Say how a child ended; None while it lives or when there is none."""
    code = process.poll() if process else None
    if code is None:
        return None
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
