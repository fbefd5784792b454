"""Real PostgreSQL and Redis for tests, and a fresh database for each.

`DATABASE_URL` and `REDIS_URL` name servers to use; what is not named is started on loopback for
this session. A server that cannot be had is an error, never a reason to skip. Sessions that died
are cleaned up by the next one.
"""

import asyncio
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from cli.embedded.data_directory import DataDirectory
from cli.embedded.servers import postgres_in, redis_in, remove
from cli.errors import CommandError
from cli.migrations import migrate_all

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers of this session are; `admin_url` may create databases."""

    admin_url: str
    redis_url: str


@contextmanager
def running_servers() -> Iterator[Servers]:
    """Give the servers named by the environment, starting those that are not named."""
    with ExitStack() as stack:
        admin_url = os.environ.get("DATABASE_URL")
        redis_url = os.environ.get("REDIS_URL")
        if admin_url and redis_url:
            yield Servers(admin_url, redis_url)
            return
        directory = stack.enter_context(_session_directory())
        if not admin_url:
            postgres = postgres_in(directory, durable=False)
            stack.callback(postgres.remove)
            stack.callback(postgres.stop)
            admin_url = postgres.start()
        if not redis_url:
            redis = redis_in(directory, durable=False)
            stack.callback(redis.stop)
            redis_url = redis.start()
        yield Servers(admin_url, redis_url)


@contextmanager
def fresh_database(servers: Servers, template: str | None = None) -> Iterator[str]:
    """Make a database, as a copy of `template` when given, and drop it afterwards."""
    name = f"test_{secrets.token_hex(8)}"
    copied = f' TEMPLATE "{template}"' if template else ""
    execute(servers.admin_url, f'CREATE DATABASE "{name}"{copied}')
    try:
        yield database_at(servers.admin_url, name)
    finally:
        execute(servers.admin_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def migrated_template(servers: Servers) -> Iterator[str]:
    """Make a database in which every service that has migrations is at its head; give its name."""
    with fresh_database(servers) as url:
        beside_the_loop(lambda: migrate_all(url, _say_nothing))
        yield database_name(url)


def _say_nothing(_line: str) -> None:
    pass


def database_at(url: str, name: str) -> str:
    """Name another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def database_name(url: str) -> str:
    """Tell which database a URL names."""
    return urlsplit(url).path.removeprefix("/")


def execute(url: str, statement: str) -> None:
    """Run one statement outside of a transaction, whether or not an event loop is running."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    beside_the_loop(lambda: asyncio.run(run()))


def beside_the_loop(work: Callable[[], Value]) -> Value:
    """Do blocking or loop-making work in a thread, so that the loop of a test is left alone."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


@contextmanager
def _session_directory() -> Iterator[DataDirectory]:
    sessions = Path(tempfile.gettempdir()) / f"tollkeeper-tests-{os.geteuid()}"
    sessions.mkdir(exist_ok=True)
    sessions.chmod(0o711)
    with _alone_in(sessions):
        for abandoned in sorted(sessions.glob("session-*")):
            # Those that live hold their directory and are refused.
            with suppress(CommandError):
                remove(abandoned)
        directory = DataDirectory.open(sessions / f"session-{secrets.token_hex(6)}")
        directory.lock()
    try:
        yield directory
    finally:
        # Other sessions clean up as well, so that two would meet in the same folder.
        with _alone_in(sessions):
            shutil.rmtree(directory.path)
            directory.unlock()


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """Make an empty folder that every account can enter, unlike those of `tmp_path`."""
    folder = Path(tempfile.mkdtemp(prefix="tollkeeper-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def a_data_dir() -> Iterator[Path]:
    """Name a data directory that does not exist yet and that every account can reach."""
    with reachable_folder() as folder:
        yield folder / "data"
        # A test about folders of somebody else leaves one that is not ours to remove.
        with suppress(CommandError):
            remove(folder / "data")


@contextmanager
def _alone_in(sessions: Path) -> Iterator[None]:
    descriptor = os.open(sessions / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
