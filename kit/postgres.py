"""PostgreSQL: one pool, and the only places in the house that commit: `transaction` and `call`.

Each transaction runs as the service's own role and for one tenant, both set with the
transaction's first statement, so that row-level security holds even for a superuser login.
Refuses session state, which PgBouncer would hand to somebody else, and hidden retries:
a transaction that lost a race raises `TransactionConflict`, and its use case decides.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from kit.errors import CannotStart, Unavailable
from kit.waiting import wait_for

_ENTER = text(
    "SELECT set_config('role', :role, true), set_config('tollkeeper.tenant', :tenant, true)"
)
_INHERITS = text(
    "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role AND pg_has_role(oid, 'USAGE'))"
)
_CONNECT_TIMEOUT_S = 5
_CHECKOUT_TIMEOUT_S = 10
_RETRY_AFTER = timedelta(seconds=1)
_SQLSTATES_OF_LOST_RACES = frozenset({"40001", "40P01"})
_SQLSTATE_CLASSES_OF_OUTAGES = ("08", "57P", "53")
_UNNAMED_STATEMENT = ""
_UNCACHED: Mapping[str, object] = MappingProxyType(
    {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: _UNNAMED_STATEMENT,
    }
)
_OPTION_SERVICE = "tollkeeper_service"


class TransactionConflict(Unavailable):
    """PostgreSQL gave another transaction precedence; the same use case may be run again."""


class Database:
    """The pool of one service.

    `url` is a libpq URL: postgresql://, postgres:// or postgresql+asyncpg://, with a host or
    with `?host=/directory/of/the/socket`. `prepared_statements=False` suits PgBouncer.
    """

    def __init__(
        self,
        url: str,
        service: str,
        *,
        pool_size: int = 10,
        prepared_statements: bool = True,
        startup_timeout_s: float = 60.0,
    ) -> None:
        self.service = service
        self._url = url
        self._role = role_of(service)
        self._startup_timeout_s = startup_timeout_s
        self._prepares = prepared_statements
        self._calls_alone = False
        self.engine = open_engine(
            url, service, pool_size=pool_size, prepared_statements=prepared_statements
        )

    async def connect(self) -> None:
        """Wait for PostgreSQL to answer, within the start-up timeout.

        Raises:
            CannotStart: it does not answer, or refuses the login.
        """
        await wait_for_postgres(self.engine, self._url, self._startup_timeout_s)
        if self._prepares:
            async with self.engine.connect() as connection:
                inherits = await connection.execute(_INHERITS, {"role": self._role})
                self._calls_alone = inherits.scalar_one()

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    @asynccontextmanager
    async def transaction(self, tenant: str) -> AsyncIterator[AsyncConnection]:
        """Open a transaction for one tenant; it commits unless the block raises.

        Raises:
            TransactionConflict: a serialization failure or a deadlock.
            Unavailable: PostgreSQL does not answer. If that happened while committing, the
                outcome is unknown: repeat the use case with the same `request_id`.
        """
        try:
            async with self._entered(tenant) as connection:
                yield connection
        except (DBAPIError, PoolTimeoutError, asyncpg.PostgresError) as error:
            outage = _as_domain_error(error)
            if outage is None:
                raise
            raise outage from error

    async def call(self, tenant: str, statement: str, *arguments: object) -> Any:  # noqa: ANN401 - as SQL says.
        """Run one statement as a transaction by itself, and answer its one value.

        The statement calls a function that sets the service's role and the tenant before all else:
        then that is one message to PostgreSQL and one back. It is an ordinary transaction where
        statements are not prepared, as PgBouncer may hand the two messages of one to different
        servers, and where the login may take the role and does not inherit its rights.

        Raises:
            TransactionConflict, Unavailable: as `transaction`.
            asyncpg.PostgresError: anything else that PostgreSQL refuses.
        """
        if not self._calls_alone:
            async with self.transaction(tenant) as connection:
                raw = await raw_connection(connection)
                return await raw.fetchval(statement, *arguments)
        async with self._outside_transaction() as raw:
            try:
                return await raw.fetchval(statement, *arguments)
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                outage = _outage() if raw.is_closed() else _as_domain_error(error)
                if outage is None:
                    raise
                raise outage from error

    @asynccontextmanager
    async def _outside_transaction(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            connection = await self._checked_out()
            while (raw := await raw_connection(connection)).is_closed():
                # It died while idle; nothing has been done, so another one may.
                await connection.invalidate()
                await connection.close()
                connection = await self._checked_out()
        except (DBAPIError, PoolTimeoutError) as error:
            raise _outage() from error
        try:
            yield raw
        finally:
            if raw.is_closed():
                await connection.invalidate()
            await asyncio.shield(connection.close())

    @asynccontextmanager
    async def _entered(self, tenant: str) -> AsyncIterator[AsyncConnection]:
        connection = await self._connection_in_transaction(tenant)
        try:
            yield connection
        except BaseException:
            await asyncio.shield(connection.close())
            raise
        try:
            await connection.commit()
        finally:
            await asyncio.shield(connection.close())

    async def _connection_in_transaction(self, tenant: str) -> AsyncConnection:
        try:
            return await self._enter(tenant)
        except DBAPIError as error:
            # The pooled connection died while idle; nothing has been done, so a new one may.
            if not error.connection_invalidated:
                raise
            return await self._enter(tenant)

    async def _enter(self, tenant: str) -> AsyncConnection:
        connection = await self._checked_out()
        try:
            await connection.execute(_ENTER, {"role": self._role, "tenant": tenant})
        except BaseException:
            await asyncio.shield(connection.close())
            raise
        return connection

    async def _checked_out(self) -> AsyncConnection:
        try:
            return await self.engine.connect()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise _outage() from error


def role_of(service: str) -> str:
    """Name the role a service's transactions run as; it cannot log in."""
    return f"tollkeeper_{service}"


def service_of(connection: AsyncConnection) -> str:
    """Name the service whose pool a connection comes from, which is also its schema."""
    options = connection.sync_connection.get_execution_options()  # type: ignore[union-attr]
    return cast("str", options[_OPTION_SERVICE])


async def raw_connection(connection: AsyncConnection) -> asyncpg.Connection:
    """Reach asyncpg's connection, inside the same transaction, for `copy_records_to_table`."""
    fairy = await connection.get_raw_connection()
    return cast("asyncpg.Connection", fairy.driver_connection)


def open_engine(
    url: str, service: str, *, pool_size: int = 1, prepared_statements: bool = True
) -> AsyncEngine:
    """Make an engine; it connects when it is first used."""
    _, _, rest = url.partition("://")
    arguments: dict[str, Any] = {
        "dsn": f"postgresql://{rest}",
        "timeout": _CONNECT_TIMEOUT_S,
        "server_settings": {"application_name": f"tollkeeper-{service}"},
        **({} if prepared_statements else _UNCACHED),
    }
    # By its module, where OpenTelemetry replaces it.
    return sqlalchemy_asyncio.create_async_engine(
        "postgresql+asyncpg://",
        connect_args=arguments,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_CHECKOUT_TIMEOUT_S,
        # What is read from JSON is as exact as what is read from NUMERIC.
        json_deserializer=partial(json.loads, parse_float=Decimal),
        execution_options={_OPTION_SERVICE: service},
    )


async def wait_for_postgres(engine: AsyncEngine, url: str, timeout_s: float) -> None:
    """Return when PostgreSQL answers a query.

    Raises:
        CannotStart: it did not within the timeout, or refused the login; names no password.
    """

    async def ask() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    try:
        await wait_for(
            f"PostgreSQL at {_place(url)}",
            ask,
            faults=(OSError, asyncpg.PostgresError, DBAPIError),
            may_pass=_may_pass,
            timeout_s=timeout_s,
        )
    except ValueError:
        # The text of the fault may hold a piece of the URL, and so of the password.
        raise CannotStart(
            "the URL of PostgreSQL cannot be read: see its port and options"
        ) from None


def _may_pass(error: Exception) -> bool:
    starting = (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError)
    return isinstance(error, (OSError, InterfaceError, *starting))


def _place(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or parse_qs(parts.query).get("host", ["localhost"])[0]
    return f"{host}:{parts.port or 5432}"


def _as_domain_error(error: Exception) -> Unavailable | None:
    if isinstance(error, PoolTimeoutError):
        return _outage()
    # What a `raw_connection` raises, SQLAlchemy has not wrapped.
    original = error.orig if isinstance(error, DBAPIError) else error
    sqlstate = str(getattr(original, "sqlstate", None) or "")
    if sqlstate in _SQLSTATES_OF_LOST_RACES:
        return TransactionConflict(
            "UNAVAILABLE",
            "another transaction had precedence; repeat the call",
            retry_after=timedelta(0),
        )
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or sqlstate.startswith(_SQLSTATE_CLASSES_OF_OUTAGES):
        return _outage()
    return None


def _outage() -> Unavailable:
    return Unavailable("UNAVAILABLE", "the database does not answer", retry_after=_RETRY_AFTER)
