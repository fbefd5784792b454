"""PostgreSQL through kit: one commit, one tenant at a time, and outages that are told clearly."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from kit.errors import CannotStart, Unavailable
from kit.migrations import migrate
from kit.postgres import Database, TransactionConflict, raw_connection, service_of
from tests.notes_schema import (
    FIRST_REVISION,
    SERVICE,
    insert_note,
    list_notes,
    write_revisions,
)

MakeDatabase = Callable[..., Database]
PRECEDENCE = "another transaction had precedence; repeat the call"


@pytest.fixture
async def make_database(empty_database_url: str, tmp_path: Path) -> AsyncIterator[MakeDatabase]:
    """Make pools onto a fresh database with a table of notes."""
    made: list[Database] = []
    revisions = write_revisions(tmp_path, FIRST_REVISION)
    await asyncio.to_thread(migrate, empty_database_url, SERVICE, directory=revisions)

    def make(url: str = empty_database_url, **options: Any) -> Database:  # noqa: ANN401 - as Database.
        made.append(Database(url, SERVICE, **options))
        return made[-1]

    yield make
    await asyncio.gather(*(database.close() for database in made))


@pytest.fixture
def database(make_database: MakeDatabase) -> Database:
    """A pool onto a fresh database with a table of notes."""
    return make_database()


async def run(database: Database, tenant: str, *statements: str) -> None:
    """Run statements in one transaction of a tenant."""
    async with database.transaction(tenant) as transaction:
        for statement in statements:
            await transaction.execute(text(statement))


async def run_raw(database: Database, statement: str) -> None:
    """Run statements in one transaction, on asyncpg's own connection."""
    async with database.transaction("acme") as transaction:
        raw = await raw_connection(transaction)
        await raw.execute(statement)


async def notes_of(database: Database, tenant: str) -> list[tuple[str, str]]:
    """List what a tenant sees."""
    async with database.transaction(tenant) as transaction:
        return await list_notes(transaction)


async def terminate_connections(url: str) -> None:
    """End every pooled connection, as a restart of PostgreSQL does."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'tollkeeper-notes' AND datname = current_database()"
    )
    await connection.close()


async def test_a_block_that_ends_well_commits(database: Database) -> None:
    """What one transaction wrote, the next one reads."""
    async with database.transaction("acme") as transaction:
        await insert_note(transaction, "acme", "n1")

    assert await notes_of(database, "acme") == [("acme", "n1")]


async def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    """Any exception rolls everything back and passes on."""

    async def change_ones_mind() -> None:
        async with database.transaction("acme") as transaction:
            await insert_note(transaction, "acme", "n1")
            raise RuntimeError("not after all")

    with pytest.raises(RuntimeError, match="after all"):
        await change_ones_mind()

    assert await notes_of(database, "acme") == []


async def test_a_cancelled_block_leaves_nothing_and_returns_its_connection(
    make_database: MakeDatabase,
) -> None:
    """A caller that goes away in the middle blocks nobody: the only connection is free again."""
    database = make_database(pool_size=1)
    entered = asyncio.Event()

    async def hang() -> None:
        async with database.transaction("acme") as transaction:
            await insert_note(transaction, "acme", "n1")
            entered.set()
            await asyncio.sleep(3600)

    hanging = asyncio.create_task(hang())
    await entered.wait()
    hanging.cancel()
    with suppress(asyncio.CancelledError):
        await hanging

    async with asyncio.timeout(30):
        assert await notes_of(database, "acme") == []


async def test_a_tenant_sees_its_own_rows_only(database: Database) -> None:
    """Even a statement that forgets the tenant, by a superuser's login, meets no other tenant."""
    for tenant in ("acme", "globex"):
        async with database.transaction(tenant) as transaction:
            await insert_note(transaction, tenant, "n1")

    async with database.transaction("globex") as transaction:
        await transaction.execute(text("UPDATE notes.notes SET note_id = 'changed'"))
        await transaction.execute(text("DELETE FROM notes.notes WHERE tenant_id = 'acme'"))
        assert await list_notes(transaction) == [("globex", "changed")]

    assert await notes_of(database, "acme") == [("acme", "n1")]


async def test_a_tenant_cannot_write_anothers_row(database: Database) -> None:
    """Inserting for another tenant, or handing a row over to it, is refused by the database."""
    insert = "INSERT INTO notes.notes VALUES"
    hand_over = "UPDATE notes.notes SET tenant_id = 'globex'"

    with pytest.raises(DBAPIError, match="violates row-level security"):
        await run(database, "acme", f"{insert} ('globex', 'n1')")
    with pytest.raises(DBAPIError, match="violates row-level security"):
        await run(database, "acme", f"{insert} ('acme', 'n1')", hand_over)


async def test_neither_role_nor_tenant_outlive_their_transaction(
    make_database: MakeDatabase,
) -> None:
    """The next user of the same connection inherits nothing, as PgBouncer demands."""
    database = make_database(pool_size=1)
    state = text(
        "SELECT current_user, session_user, current_setting('tollkeeper.tenant', true) AS tenant"
    )
    async with database.transaction("acme") as transaction:
        inside = (await transaction.execute(state)).one()
    async with database.engine.connect() as connection:
        outside = (await connection.execute(state)).one()

    assert (inside.current_user, inside.tenant) == ("tollkeeper_notes", "acme")
    assert (outside.current_user, outside.tenant) == (outside.session_user, "")


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("CREATE TABLE notes.more (id int)", id="create a table"),
        pytest.param("DROP TABLE notes.notes", id="drop one"),
        pytest.param("ALTER TABLE notes.notes DISABLE ROW LEVEL SECURITY", id="open the wall"),
        pytest.param("TRUNCATE notes.notes", id="truncate, which no policy sees"),
        pytest.param("UPDATE notes.alembic_version SET version_num = '9'", id="fake a revision"),
        pytest.param("SELECT * FROM other.secrets", id="read another service's schema"),
    ],
)
async def test_the_services_role_may_do_nothing_else(database: Database, statement: str) -> None:
    """The role reads and writes rows of its own tables, and that is all."""
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE SCHEMA other"))
        await connection.execute(text("CREATE TABLE other.secrets (id int)"))

    with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
        await run(database, "acme", statement)


async def test_a_broken_constraint_reaches_the_use_case(database: Database) -> None:
    """Errors that mean something to the caller's code are not hidden."""
    insert = "INSERT INTO notes.notes VALUES ('acme', 'n1')"

    with pytest.raises(IntegrityError):
        await run(database, "acme", insert, insert)


async def test_two_transactions_in_each_others_way_raise_a_conflict(database: Database) -> None:
    """Of two that deadlock, one commits, and the other is told that it may try again."""
    async with database.transaction("acme") as transaction:
        await insert_note(transaction, "acme", "n1")
        await insert_note(transaction, "acme", "n2")
    both_hold_one = asyncio.Barrier(2)
    lock = text("SELECT FROM notes.notes WHERE note_id = :note FOR UPDATE")

    async def take(first: str, second: str) -> None:
        async with database.transaction("acme") as transaction:
            await transaction.execute(lock, {"note": first})
            await both_hold_one.wait()
            await transaction.execute(lock, {"note": second})

    outcomes = await asyncio.gather(take("n1", "n2"), take("n2", "n1"), return_exceptions=True)

    assert {type(outcome) for outcome in outcomes} == {TransactionConflict, type(None)}
    assert {str(outcome) for outcome in outcomes} == {PRECEDENCE, "None"}


async def test_a_serialization_failure_raises_a_conflict(database: Database) -> None:
    """A transaction that PostgreSQL could not order is told that it may try again."""
    fail = "DO $$ BEGIN RAISE EXCEPTION 'not orderable' USING ERRCODE = '40001'; END $$"

    with pytest.raises(TransactionConflict, match=PRECEDENCE):
        await run(database, "acme", fail)


async def test_a_connection_that_died_while_idle_is_replaced(
    make_database: MakeDatabase, empty_database_url: str
) -> None:
    """After a restart of PostgreSQL the next transaction simply works."""
    database = make_database(pool_size=2)
    async with database.transaction("acme"), database.transaction("acme"):
        pass

    await terminate_connections(empty_database_url)

    async with database.transaction("acme") as transaction:
        await insert_note(transaction, "acme", "n1")
        assert await list_notes(transaction) == [("acme", "n1")]


async def test_an_outage_within_a_transaction_is_unavailable(
    database: Database, empty_database_url: str
) -> None:
    """A connection that dies while it works is an outage for the caller, before and at commit."""

    async def die(*, before_commit: bool) -> None:
        async with database.transaction("acme") as transaction:
            await insert_note(transaction, "acme", "n1")
            await terminate_connections(empty_database_url)
            if not before_commit:
                await list_notes(transaction)

    for before_commit in (False, True):
        with pytest.raises(Unavailable, match="the database does not answer"):
            await die(before_commit=before_commit)

    assert await notes_of(database, "acme") == []


async def test_a_postgres_that_is_away_is_unavailable(make_database: MakeDatabase) -> None:
    """A pool that cannot connect tells its caller to try again later."""
    database = make_database("postgresql://nobody:hunter2@127.0.0.1:1/tollkeeper")

    with pytest.raises(Unavailable) as outage:
        async with database.transaction("acme"):
            pass

    assert (outage.value.reason, str(outage.value)) == (
        "UNAVAILABLE",
        "the database does not answer",
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        pytest.param(
            "postgresql://app:hunter2@127.0.0.1:1/tollkeeper",
            "cannot reach PostgreSQL at 127.0.0.1:1: Connection refused",
            id="nobody listens",
        ),
        pytest.param(
            "postgresql://app:hunter2@/tollkeeper?host=/nowhere",
            "cannot reach PostgreSQL at /nowhere:5432: No such file or directory",
            id="no socket",
        ),
        pytest.param(
            "postgresql://app:hunter2@127.0.0.1:port/tollkeeper",
            "the URL of PostgreSQL cannot be read: see its port and options",
            id="no port",
        ),
        pytest.param(
            "postgresql://app:hunter2@127.0.0.1:1/tollkeeper?sslmode=hunter2",
            "the URL of PostgreSQL cannot be read: see its port and options",
            id="no such option",
        ),
    ],
)
async def test_a_start_without_postgres_is_one_clear_error(url: str, message: str) -> None:
    """The line names host and port, and never the password."""
    database = Database(url, SERVICE, startup_timeout_s=0.01)

    with pytest.raises(CannotStart) as refused:
        await database.connect()

    assert str(refused.value) == message


async def test_a_start_with_a_database_that_does_not_exist_does_not_wait(
    make_database: MakeDatabase, empty_database_url: str
) -> None:
    """What waiting cannot mend is told at once."""
    database = make_database(f"{empty_database_url}_missing", startup_timeout_s=3600)

    with pytest.raises(CannotStart, match=r'database "\w+_missing" does not exist$'):
        await database.connect()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
async def test_every_spelling_of_the_url_is_understood(
    make_database: MakeDatabase, empty_database_url: str, scheme: str
) -> None:
    """The schemes of libpq, of Heroku and of SQLAlchemy mean the same database."""
    _, _, rest = empty_database_url.partition("://")
    database = make_database(f"{scheme}://{rest}")

    await database.connect()

    assert await notes_of(database, "acme") == []


async def test_without_prepared_statements_none_is_left_on_the_server(
    make_database: MakeDatabase,
) -> None:
    """Behind PgBouncer the next transaction may meet another server connection."""
    named = text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
    counts = []
    for prepared_statements in (True, False):
        database = make_database(pool_size=1, prepared_statements=prepared_statements)
        async with database.transaction("acme") as transaction:
            await list_notes(transaction)
            counts.append((await transaction.execute(named)).scalar_one() > 0)

    assert counts == [True, False]


async def test_a_pool_without_a_free_connection_is_unavailable_in_time(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller waits for a connection, but not for ever."""
    monkeypatch.setattr("kit.postgres._CHECKOUT_TIMEOUT_S", 0.05)
    database = make_database(pool_size=1)

    with pytest.raises(Unavailable, match="the database does not answer"):
        async with database.transaction("acme"), database.transaction("acme"):
            pass


async def test_copying_joins_the_transaction(database: Database) -> None:
    """Rows copied by asyncpg itself are committed or rolled back with everything else."""
    rows = [("acme", f"n{number}") for number in range(3)]
    async with database.transaction("acme") as transaction:
        await transaction.execute(
            text("CREATE TEMP TABLE staged (tenant_id text, note_id text) ON COMMIT DROP")
        )
        connection = await raw_connection(transaction)
        await connection.copy_records_to_table("staged", records=rows)
        await transaction.execute(text("INSERT INTO notes.notes SELECT * FROM staged"))
        assert service_of(transaction) == SERVICE

    assert await notes_of(database, "acme") == rows


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("RESET ROLE; SELECT pg_terminate_backend(pg_backend_pid())", Unavailable),
        ("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$", TransactionConflict),
        ("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100'; END $$", Unavailable),
        (
            "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '23514'; END $$",
            asyncpg.CheckViolationError,
        ),
    ],
    ids=["the connection ends", "a lost race", "a full disk", "a broken constraint"],
)
async def test_what_fails_beside_sqlalchemy_is_told_apart_all_the_same(
    database: Database, statement: str, expected: type[Exception]
) -> None:
    """An outage or a lost race is one, also where asyncpg was spoken to directly."""
    with pytest.raises(expected) as failed:
        await run_raw(database, statement)

    assert type(failed.value) is expected


async def test_numbers_in_json_stay_exact(database: Database) -> None:
    """A number read from JSON is a Decimal, as one read from NUMERIC is."""
    async with database.transaction("acme") as transaction:
        read = await transaction.execute(text("""SELECT '{"price": 0.1}'::jsonb, 0.1::numeric"""))
        assert tuple(read.one()) == ({"price": Decimal("0.1")}, Decimal("0.1"))
