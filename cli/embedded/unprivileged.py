"""The account that PostgreSQL runs as when the command runs as root, and a place it can reach.

PostgreSQL refuses to run as root. An unprivileged account, however, cannot enter a folder below
/root or below a private temporary folder, neither for data nor for the program itself. Permissions
of folders that exist are never changed; what the account must reach is put elsewhere instead.
"""

import os
import pwd
import secrets
import shutil
import stat
from pathlib import Path

from cli.embedded.processes import Account
from cli.errors import CommandError

PLACES = (Path("/var/lib/tollkeeper"), Path("/var/tmp/tollkeeper"))  # noqa: S108  # Checked below.
_OTHERS_ENTER = 0o711


def account_for_servers() -> Account | None:
    """Give the account to run PostgreSQL as; None means the caller's own, who is not root."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise CommandError(
            "PostgreSQL refuses to run as root and this system has no user 'nobody'; "
            "run as an ordinary user or set DATABASE_URL"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def can_reach(account: Account, path: Path) -> bool:
    """Tell whether the account can enter every folder on the way to `path` and `path` itself."""
    resolved = path.resolve()
    return all(_can_enter(account, place) for place in (resolved, *resolved.parents))


def _can_enter(account: Account, place: Path) -> bool:
    status = place.stat()
    if status.st_uid == account.user:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.group:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def make_reachable_place(account: Account) -> Path:
    """Make a new folder outside every private one, which the account can reach."""
    for parent in PLACES:
        try:
            _make_enterable(parent)
            status = parent.lstat()
        except OSError:
            continue
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if ours and not writable_by_others and can_reach(account, parent):
            place = parent / secrets.token_hex(8)
            _make_enterable(place)
            return place
    raise CommandError(
        "PostgreSQL cannot run as root, and user 'nobody' can reach neither the data directory "
        f"nor any of {', '.join(map(str, PLACES))}; use another --data-dir, run as an ordinary "
        "user, or set DATABASE_URL"
    )


def _make_enterable(folder: Path) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        return
    # Whatever the caller's umask takes away from mkdir.
    folder.chmod(_OTHERS_ENTER)


def link_tree(source: Path, target: Path) -> None:
    """Give a tree of programs a second, reachable place, without a copy where links work."""
    unfinished = target.with_name(f"{target.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished, copy_function=_link_or_copy)
    for folder in (unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    unfinished.replace(target)


def _link_or_copy(source: str, target: str) -> str:
    mode = Path(source).stat().st_mode
    if mode & stat.S_IROTH:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    else:
        shutil.copy2(source, target)
        Path(target).chmod(0o755 if mode & stat.S_IXUSR else 0o644)
    return target
