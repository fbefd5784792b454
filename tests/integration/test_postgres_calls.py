"""Calls of the database that are a transaction by themselves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex

import asyncpg
import pytest

from kit.errors import Unavailable
from kit.migrations import migrate
from kit.postgres import Database, role_of
from tests.notes_schema import FIRST_REVISION, SERVICE, list_notes, write_revisions

KEEP = "SELECT notes.keep($1, $2)"
# Answers as whom it was called, and as whom it ran.
FUNCTION = """
CREATE FUNCTION notes.keep(tenant text, note text) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    entered text := current_setting('role');
BEGIN
    PERFORM
        set_config('role', 'tollkeeper_notes', true),
        set_config('tollkeeper.tenant', tenant, true);
    INSERT INTO notes.notes VALUES (tenant, note);
    IF note = 'last' THEN
        PERFORM set_config('role', 'none', true);
        PERFORM pg_terminate_backend(pg_backend_pid());
        PERFORM pg_sleep(10);
    END IF;
    RETURN ARRAY[entered, current_user];
END $$;
REVOKE ALL ON FUNCTION notes.keep FROM PUBLIC;
GRANT EXECUTE ON FUNCTION notes.keep TO tollkeeper_notes
"""
ROLE = role_of(SERVICE)
ALONE, WITHIN = ["none", ROLE], [ROLE, ROLE]


@pytest.fixture
async def url(empty_database_url: str, tmp_path: Path) -> str:
    """A database with a table of notes, and a function that keeps one."""
    revisions = write_revisions(tmp_path, FIRST_REVISION)
    await asyncio.to_thread(migrate, empty_database_url, SERVICE, directory=revisions)
    await run(empty_database_url, FUNCTION)
    return empty_database_url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """A pool of one connection."""
    opened = Database(url, SERVICE, pool_size=1)
    await opened.connect()
    yield opened
    await opened.close()


async def run(url: str, statements: str) -> None:
    """Run statements as the owner."""
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()


async def notes_of(database: Database, tenant: str) -> list[tuple[str, str]]:
    """List what a tenant sees."""
    async with database.transaction(tenant) as transaction:
        return await list_notes(transaction)


async def test_a_call_commits_and_leaves_nothing_of_its_tenant_behind(database: Database) -> None:
    """It enters for itself, and the next user of the connection enters anew."""
    assert await database.call("acme", KEEP, "acme", "n1") == ALONE

    assert await notes_of(database, "acme") == [("acme", "n1")]
    assert await notes_of(database, "other") == []


async def test_a_call_that_fails_changes_nothing_and_gives_its_connection_back(
    database: Database,
) -> None:
    """What PostgreSQL refuses is told as it says it."""
    await database.call("acme", KEEP, "acme", "n1")

    with pytest.raises(asyncpg.UniqueViolationError):
        await database.call("acme", KEEP, "acme", "n1")

    assert await database.call("acme", KEEP, "acme", "n2") == ALONE
    assert await notes_of(database, "acme") == [("acme", "n1"), ("acme", "n2")]


async def test_connections_that_died_while_idle_are_replaced(url: str) -> None:
    """After a restart of PostgreSQL the next call simply works, however many had died."""
    database = Database(url, SERVICE, pool_size=3)
    await database.connect()
    await asyncio.gather(*(notes_of(database, "acme") for _ in range(3)))
    await run(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'tollkeeper-notes' AND datname = current_database()",
    )
    await asyncio.sleep(0.05)

    assert await database.call("acme", KEEP, "acme", "n1") == ALONE

    await database.close()


async def test_a_connection_that_dies_within_a_call_is_an_outage(database: Database) -> None:
    """Nobody knows whether it was done; the next call has another connection."""
    with pytest.raises(Unavailable, match="the database does not answer"):
        await database.call("acme", KEEP, "acme", "last")

    assert await database.call("acme", KEEP, "acme", "n1") == ALONE
    assert await notes_of(database, "acme") == [("acme", "n1")]


async def test_a_caller_that_goes_away_gives_the_connection_back(database: Database) -> None:
    """The only connection of the pool serves the next call."""
    await run_until_it_waits(database)

    assert await database.call("acme", KEEP, "acme", "n1") == ALONE


async def run_until_it_waits(database: Database) -> None:
    """Call something that takes long, and cancel it."""
    calling = asyncio.create_task(database.call("acme", "SELECT pg_sleep(30)"))
    await asyncio.sleep(0.1)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


@pytest.mark.parametrize("reason", ["no prepared statements", "no inherited rights"])
async def test_a_call_is_an_ordinary_transaction_where_it_has_to_be(url: str, reason: str) -> None:
    """Behind PgBouncer, and for a login that takes the role without inheriting its rights."""
    login = f"login_{token_hex(4)}"
    await run(
        url,
        f"CREATE ROLE {login} LOGIN NOINHERIT PASSWORD 'hunter2'; GRANT {ROLE} TO {login}",
    )
    scheme, _, rest = url.partition("://")
    as_login = f"{scheme}://{login}:hunter2@{rest.rpartition('@')[2]}"
    prepares = reason != "no prepared statements"
    database = Database(as_login if prepares else url, SERVICE, prepared_statements=prepares)
    await database.connect()

    assert await database.call("acme", KEEP, "acme", "n1") == WITHIN

    assert await notes_of(database, "acme") == [("acme", "n1")]
    await database.close()
    await run(url, f"DROP OWNED BY {login}; DROP ROLE {login}")
