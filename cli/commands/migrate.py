"""`tollkeeper migrate`: bring every schema to its newest revision and end."""

from contextlib import ExitStack

from cli.embedded.data_directory import DEFAULT, DataDirectory
from cli.embedded.servers import postgres_in
from cli.given_servers import check_postgres
from cli.migrations import migrate_all
from cli.options import DataDir, GivenDatabase


def migrate(*, data_dir: DataDir = DEFAULT, database_url: GivenDatabase = None) -> None:
    """Migrate the database of DATABASE_URL, else the embedded one."""
    with ExitStack() as undo:
        if database_url:
            check_postgres(database_url)
            migrate_all(database_url, print)
            return
        directory = DataDirectory.open(data_dir)
        directory.lock()
        undo.callback(directory.unlock)
        postgres = postgres_in(directory)
        undo.callback(postgres.stop)
        migrate_all(postgres.start(), print)
