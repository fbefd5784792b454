"""Brings a service's schema to the newest revision, and gives its role exactly what it needs.

Revisions are plain files in `services/<service>/migrations`, run by Alembic in one transaction
under an advisory lock, so that replicas may race. Each service has its own schema, version table
and role; the role cannot log in. Refuses a database that is newer than the code.
"""

import asyncio
import hashlib
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, TypeVar

from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, DateTime, LargeBinary, Table, Text, func, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import SchemaItem

from kit.errors import CannotStart
from kit.postgres import open_engine, role_of, wait_for_postgres

Result = TypeVar("Result")

_VERSION_TABLE = "alembic_version"
_STARTUP_TIMEOUT_S = 60.0
_ROLE_ATTEMPTS_MAX = 20
_ROLE_PAUSE_S = 0.05
_SQLSTATE_INSUFFICIENT_PRIVILEGE = "42501"
# Roles belong to the whole cluster, where no advisory lock reaches: unique_violation,
# duplicate_object, and internal_error for "tuple concurrently updated".
_SQLSTATES_OF_ROLE_RACES = frozenset({"23505", "42710", "XX000"})
_CREATE_ROLE = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
    CREATE ROLE {role} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
  END IF;
END $$
"""
# Since PostgreSQL 16 membership comes in kinds, and set_config('role', …) needs the kind SET.
_GRANT_ROLE = """
DO $$ DECLARE
  kind text := CASE WHEN current_setting('server_version_num')::int < 160000
               THEN 'MEMBER' ELSE 'SET' END;
BEGIN
  IF NOT pg_has_role('{role}', kind) THEN
    GRANT {role} TO CURRENT_USER;
  END IF;
END $$
"""
# Alembic's `op` is one global per process.
_one_at_a_time = threading.Lock()


def migrate(url: str, service: str, *, directory: Path | None = None) -> None:
    """Bring the schema of a service to its newest revision; harmless when it is there.

    Blocks, and runs an event loop of its own: call it outside of one, or in a thread.

    Raises:
        CannotStart: PostgreSQL does not answer, the login may not do this, or the schema is newer.
    """
    script = _script(service, directory)

    def upgrade(connection: Connection) -> None:
        _prepare_schema(connection, service)
        with _one_at_a_time:
            _upgrade(connection, service, script)

    async def run() -> None:
        engine = open_engine(url, service)
        try:
            await wait_for_postgres(engine, url, _STARTUP_TIMEOUT_S)
            await _provide_role(engine, service)
            await _in_transaction(engine, upgrade)
        finally:
            await engine.dispose()

    asyncio.run(run())


async def is_current(url: str, service: str, *, directory: Path | None = None) -> bool:
    """Tell whether the schema of a service is at its newest revision.

    Raises:
        CannotStart: the schema is newer than this code.
    """
    script = _script(service, directory)

    def compare(connection: Connection) -> bool:
        return _current(connection, service, script) == set(script.get_heads())

    engine = open_engine(url, service)
    try:
        return await _in_transaction(engine, compare)
    finally:
        await engine.dispose()


class SchemaOperations(Protocol):
    """What a revision's `op` can do, as far as the kit needs it."""

    def create_table(self, table_name: str, *columns: SchemaItem, schema: str) -> Table:
        """Create a table."""
        ...

    def execute(self, sqltext: str) -> None:
        """Run a statement."""
        ...


def enable_tenant_isolation(operations: SchemaOperations, service: str, table: str) -> None:
    """Let the service's role use a table, but only the rows of the transaction's tenant.

    For the `op` of a revision. The table needs a column `tenant_id`. PostgreSQL refuses to COPY
    into such a table: copy into a temporary one and INSERT from there.
    """
    role, name = role_of(service), f'"{service}"."{table}"'
    tenant = "tenant_id = (SELECT current_setting('tollkeeper.tenant'))"
    operations.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    operations.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    operations.execute(
        f"CREATE POLICY tenant_isolation ON {name} TO {role} USING ({tenant}) WITH CHECK ({tenant})"
    )
    operations.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role}")


def create_idempotency_table(operations: SchemaOperations, service: str) -> None:
    """Create the table in which `kit.idempotency.Once` keeps first answers."""
    operations.create_table(
        "idempotency",
        Column("tenant_id", Text, primary_key=True),
        Column("request_id", Text, primary_key=True),
        Column("method", Text, nullable=False),
        Column("fingerprint", LargeBinary, nullable=False),
        Column("answer", LargeBinary),
        Column("create_time", DateTime(timezone=True), nullable=False, server_default=func.now()),
        schema=service,
    )
    enable_tenant_isolation(operations, service, "idempotency")


def _script(service: str, directory: Path | None) -> ScriptDirectory:
    if directory is None:
        spec = find_spec(f"services.{service}")
        if spec is None or not spec.submodule_search_locations:
            raise CannotStart(f"there is no service {service!r}")
        directory = Path(spec.submodule_search_locations[0]) / "migrations"
    config = Config()
    config.set_main_option("path_separator", "newline")
    config.set_main_option("script_location", str(directory).replace("%", "%%"))
    config.set_main_option("version_locations", str(directory).replace("%", "%%"))
    return ScriptDirectory.from_config(config)


async def _provide_role(engine: AsyncEngine, service: str) -> None:
    role = role_of(service)

    def provide(connection: Connection) -> None:
        connection.execute(text(_CREATE_ROLE.format(role=role)))
        connection.execute(text(_GRANT_ROLE.format(role=role)))

    for attempt in range(_ROLE_ATTEMPTS_MAX):
        try:
            return await _in_transaction(engine, provide)
        except DBAPIError as error:
            sqlstate = getattr(error.orig, "sqlstate", None)
            if sqlstate == _SQLSTATE_INSUFFICIENT_PRIVILEGE:
                raise CannotStart(
                    f"this login may not create or use the role {role}; let an administrator run:"
                    f" CREATE ROLE {role} NOLOGIN; GRANT {role} TO <the login>"
                ) from error
            if sqlstate not in _SQLSTATES_OF_ROLE_RACES or attempt == _ROLE_ATTEMPTS_MAX - 1:
                raise
            await asyncio.sleep(_ROLE_PAUSE_S * (attempt + 1))
    return None


async def _in_transaction(engine: AsyncEngine, work: Callable[[Connection], Result]) -> Result:
    async with engine.begin() as connection:
        return await connection.run_sync(work)


def _prepare_schema(connection: Connection, service: str) -> None:
    digest = hashlib.sha256(f"tollkeeper.migrations.{service}".encode()).digest()
    key = int.from_bytes(digest[:8], signed=True)
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
    connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{service}"'))
    connection.execute(text(f'GRANT USAGE ON SCHEMA "{service}" TO {role_of(service)}'))


def _upgrade(connection: Connection, service: str, script: ScriptDirectory) -> None:
    _current(connection, service, script)

    def revisions(at: tuple[str, ...], _: MigrationContext) -> list[RevisionStep]:
        # Private, but Alembic's own cookbook runs revisions this way; it takes several heads.
        return script._upgrade_revs("head", at)  # type: ignore[arg-type]  # noqa: SLF001

    context = _context(connection, service, fn=revisions)
    with Operations.context(context):
        context.run_migrations()
    # Whoever serves, by a login that is a member only, has to see whether the schema is current.
    table = f'"{service}".{_VERSION_TABLE}'
    connection.execute(text(f"GRANT SELECT ON {table} TO {role_of(service)}"))


def _current(connection: Connection, service: str, script: ScriptDirectory) -> set[str]:
    at = set(_context(connection, service).get_current_heads())
    unknown = at - {revision.revision for revision in script.walk_revisions()}
    if unknown:
        raise CannotStart(
            f"the schema {service!r} of the database is at revision {', '.join(sorted(unknown))},"
            " which this version does not know: a newer version has migrated it"
        )
    return at


def _context(connection: Connection, service: str, **options: object) -> MigrationContext:
    return MigrationContext.configure(
        connection,
        opts={"version_table": _VERSION_TABLE, "version_table_schema": service, **options},
    )
