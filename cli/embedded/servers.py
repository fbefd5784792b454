"""Which embedded servers a data directory has, and how to be rid of all of it."""

import shutil
from pathlib import Path

from cli.embedded.data_directory import DataDirectory
from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.redis import EmbeddedRedis


def postgres_in(directory: DataDirectory, *, durable: bool = True) -> EmbeddedPostgres:
    """Name the PostgreSQL of a data directory; nothing is started."""
    home = directory.path / "postgres"
    return EmbeddedPostgres(home, directory.log("postgres"), durable=durable)


def redis_in(directory: DataDirectory, *, durable: bool = True) -> EmbeddedRedis:
    """Name the Redis of a data directory; nothing is started."""
    return EmbeddedRedis(directory.path / "redis", directory.log("redis"), durable=durable)


def remove(data_dir: Path) -> None:
    """End the servers a crash left in a data directory, and delete it with all its data.

    Deleting the folder alone would leave behind the cluster that lies elsewhere when root runs it.

    Raises:
        CommandError: Another living process holds the directory, or it is not ours.
    """
    directory = DataDirectory.open(data_dir)
    directory.lock()
    try:
        redis_in(directory).stop()
        postgres = postgres_in(directory)
        postgres.stop()
        postgres.remove()
        shutil.rmtree(directory.path)
    finally:
        directory.unlock()
