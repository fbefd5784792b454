"""Migrations: repeatable, safe to race, all or nothing, and never backwards."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from kit.errors import CannotStart
from kit.migrations import is_current, migrate
from kit.postgres import Database
from tests.notes_schema import (
    BROKEN_REVISION,
    FIRST_REVISION,
    SECOND_REVISION,
    SERVICE,
    insert_note,
    list_notes,
    write_revisions,
)
from tests.servers import beside_the_loop, database_at, database_name

NEWER = (
    "the schema 'notes' of the database is at revision 0002, which this version does not know:"
    " a newer version has migrated it"
)


@pytest.fixture
def url(empty_database_url: str) -> str:
    """A fresh database without anything in it."""
    return empty_database_url


async def query(url: str, statement: str) -> list[tuple[object, ...]]:
    """Ask PostgreSQL as the login itself."""
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def columns(url: str) -> list[str]:
    """List the columns of the notes."""
    found = await query(
        url,
        "SELECT column_name::text FROM information_schema.columns"
        " WHERE table_schema = 'notes' AND table_name = 'notes' ORDER BY ordinal_position",
    )
    return [str(name) for (name,) in found]


async def in_thread(work: Callable[[], None]) -> None:
    """Run what makes an event loop of its own."""
    await asyncio.to_thread(work)


async def test_a_schema_is_brought_to_its_newest_revision(url: str, tmp_path: Path) -> None:
    """From nothing to the head, step by step, and again without effect."""
    folder = write_revisions(tmp_path, FIRST_REVISION)
    current = [await is_current(url, SERVICE, directory=folder)]
    await in_thread(partial(migrate, url, SERVICE, directory=folder))
    current.append(await is_current(url, SERVICE, directory=folder))

    write_revisions(tmp_path, FIRST_REVISION, SECOND_REVISION)
    current.append(await is_current(url, SERVICE, directory=folder))
    await in_thread(partial(migrate, url, SERVICE, directory=folder))
    await in_thread(partial(migrate, url, SERVICE, directory=folder))
    current.append(await is_current(url, SERVICE, directory=folder))

    assert current == [False, True, False, True]
    assert await columns(url) == ["tenant_id", "note_id", "colour"]


async def test_replicas_that_migrate_at_once_do_it_once(url: str, tmp_path: Path) -> None:
    """Every one of them returns, and the schema is as if one had run."""
    folder = write_revisions(tmp_path, FIRST_REVISION, SECOND_REVISION)

    racing = (asyncio.to_thread(migrate, url, SERVICE, directory=folder) for _ in range(5))
    await asyncio.gather(*racing)

    assert await is_current(url, SERVICE, directory=folder)
    assert await columns(url) == ["tenant_id", "note_id", "colour"]


async def test_a_revision_that_fails_changes_nothing(url: str, tmp_path: Path) -> None:
    """Half a revision is rolled back, the schema stays where it was."""
    await in_thread(
        partial(migrate, url, SERVICE, directory=write_revisions(tmp_path, FIRST_REVISION))
    )
    folder = write_revisions(tmp_path, FIRST_REVISION, BROKEN_REVISION)

    with pytest.raises(Exception, match="division by zero"):
        await in_thread(partial(migrate, url, SERVICE, directory=folder))

    assert await columns(url) == ["tenant_id", "note_id"]
    assert not await is_current(url, SERVICE, directory=folder)


async def test_a_database_of_a_newer_version_is_left_alone(url: str, tmp_path: Path) -> None:
    """An older version neither migrates nor serves it, and says why."""
    newer, older = tmp_path / "newer", tmp_path / "older"
    newer.mkdir()
    older.mkdir()
    write_revisions(newer, FIRST_REVISION, SECOND_REVISION)
    write_revisions(older, FIRST_REVISION)
    await in_thread(partial(migrate, url, SERVICE, directory=newer))

    with pytest.raises(CannotStart) as migrating:
        await in_thread(partial(migrate, url, SERVICE, directory=older))
    with pytest.raises(CannotStart) as serving:
        await is_current(url, SERVICE, directory=older)

    assert (str(migrating.value), str(serving.value)) == (NEWER, NEWER)
    assert await columns(url) == ["tenant_id", "note_id", "colour"]


async def test_the_role_of_a_service_has_no_power(url: str, tmp_path: Path) -> None:
    """It cannot log in, passes no policy, and owns nothing; every table forces its policy."""
    folder = write_revisions(tmp_path, FIRST_REVISION)
    await in_thread(partial(migrate, url, SERVICE, directory=folder))

    role = await query(
        url,
        "SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb"
        " FROM pg_roles WHERE rolname = 'tollkeeper_notes'",
    )
    tables = await query(
        url,
        "SELECT relname::text, relrowsecurity, relforcerowsecurity FROM pg_class"
        " WHERE relnamespace = 'notes'::regnamespace AND relkind = 'r' ORDER BY relname",
    )

    assert role == [(False, False, False, False, False)]
    assert tables == [
        ("alembic_version", False, False),
        ("idempotency", True, True),
        ("notes", True, True),
    ]


@pytest.fixture
async def login(url: str) -> str:
    """A login that owns the database and may create roles, but is no superuser."""
    name = database_name(url)
    owner = f"owner_{name}"
    await query(url, f"CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD 'hunter2'")
    await query(url, f"ALTER DATABASE {name} OWNER TO {owner}")
    return owner


def as_login(url: str, login: str) -> str:
    """Name the same database for another login."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{login}:hunter2@{rest.rpartition('@')[2]}"


async def test_a_login_that_is_no_superuser_can_migrate_and_serve(
    url: str, login: str, tmp_path: Path
) -> None:
    """It creates the role if need be, becomes a member, and may then act as it."""
    folder = write_revisions(tmp_path, FIRST_REVISION)
    own = as_login(url, login)

    try:
        await in_thread(partial(migrate, own, login, directory=await renamed(folder, login)))
        roles = await query(
            own, f"SELECT set_config('role', 'tollkeeper_{login}', true), current_user::text"
        )
    finally:
        await drop(url, login, f"tollkeeper_{login}")

    assert roles == [(f"tollkeeper_{login}", f"tollkeeper_{login}")]


async def test_a_login_that_owns_nothing_can_serve(url: str, login: str, tmp_path: Path) -> None:
    """Migrations may be run by another login than the service's, which is a mere member."""
    folder = write_revisions(tmp_path, FIRST_REVISION)
    await in_thread(partial(migrate, url, SERVICE, directory=folder))
    await query(url, f"ALTER DATABASE {database_name(url)} OWNER TO CURRENT_USER")
    await query(url, f"GRANT tollkeeper_notes TO {login}")
    database = Database(as_login(url, login), SERVICE)

    try:
        current = await is_current(as_login(url, login), SERVICE, directory=folder)
        async with database.transaction("acme") as transaction:
            await insert_note(transaction, "acme", "n1")
            notes = await list_notes(transaction)
    finally:
        await database.close()
        await drop(url, login)

    assert (current, notes) == (True, [("acme", "n1")])


async def test_a_login_that_may_not_create_roles_is_told_what_to_ask_for(
    url: str, login: str, tmp_path: Path
) -> None:
    """The line names the role and the statements an administrator has to run."""
    folder = write_revisions(tmp_path, FIRST_REVISION)
    await query(url, f"ALTER ROLE {login} NOCREATEROLE")

    try:
        with pytest.raises(CannotStart) as refused:
            await in_thread(
                partial(
                    migrate, as_login(url, login), login, directory=await renamed(folder, login)
                )
            )
    finally:
        await drop(url, login)

    assert str(refused.value) == (
        f"this login may not create or use the role tollkeeper_{login}; let an administrator run:"
        f" CREATE ROLE tollkeeper_{login} NOLOGIN; GRANT tollkeeper_{login} TO <the login>"
    )


async def renamed(folder: Path, service: str) -> Path:
    """Give the schema of the revisions another name, so that its role is a fresh one."""
    revision = folder / "0001_revision.py"
    revision.write_text(revision.read_text().replace('"notes"', f'"{service}"'))
    return folder


async def drop(url: str, *roles: str) -> None:
    """Drop roles, which outlive the database, with everything they have in it."""
    for role in roles:
        found = await query(url, f"SELECT FROM pg_roles WHERE rolname = '{role}'")
        for _ in found:
            await query(url, f"REASSIGN OWNED BY {role} TO CURRENT_USER")
            await query(url, f"DROP OWNED BY {role}")
            await query(url, f"DROP ROLE {role}")


async def test_roles_are_shared_by_the_databases_of_a_server(url: str, tmp_path: Path) -> None:
    """Two databases migrated at once on one server both succeed, though the role is one."""
    folder = write_revisions(tmp_path, FIRST_REVISION)
    other = f"{database_name(url)}_other"
    await query(url, f"CREATE DATABASE {other}")
    urls = [url, database_at(url, other)]

    await asyncio.gather(
        *(asyncio.to_thread(migrate, each, SERVICE, directory=folder) for each in urls)
    )
    current = [await is_current(each, SERVICE, directory=folder) for each in urls]
    await query(url, f"DROP DATABASE {other} WITH (FORCE)")

    assert current == [True, True]


def test_a_service_that_does_not_exist_is_named() -> None:
    """A misspelt service is one clear line."""
    with pytest.raises(CannotStart, match=r"^there is no service 'mete'$"):
        beside_the_loop(partial(migrate, "postgresql://nowhere", "mete"))
