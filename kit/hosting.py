"""What every service stands on, made from its settings, and ready for its own parts.

A composition root makes one `Foundation`, adds its servicer, and answers `foundation.host()`.
Refuses to serve before PostgreSQL and Redis answer and the schema is current.
"""

import asyncio
from collections.abc import Sequence

import grpc.aio

from kit.clock import Clock
from kit.errors import CannotStart
from kit.migrations import is_current
from kit.postgres import Database
from kit.redis_pool import RedisPool
from kit.rpc.auth import ServiceIdentity, TokenVerifier, load_jwk
from kit.rpc.revocations import Revocations
from kit.rpc.server import Hosted, Resource, RpcServer
from kit.settings import ServiceSettings
from kit.telemetry import get_logger

_MIGRATION_CHECK_PAUSE_S = 0.5


class Foundation:
    """The pools, the identity and the server of one service; nothing is opened yet.

    Raises:
        CannotStart: a URL or a file of keys cannot be read.
    """

    def __init__(self, settings: ServiceSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self.database = Database(
            settings.database_url,
            settings.service,
            pool_size=settings.database_pool_size,
            prepared_statements=settings.database_prepared_statements,
            startup_timeout_s=settings.startup_timeout_s,
        )
        self.redis = RedisPool(
            settings.redis_url,
            timeout_s=settings.redis_timeout_s,
            startup_timeout_s=settings.startup_timeout_s,
        )
        self.revocations = Revocations(self.redis, clock)
        self.verifier = TokenVerifier(load_jwk(settings.keys_file), self.revocations, clock)
        self.server = RpcServer(
            settings.service,
            settings.listen,
            self.verifier,
            default_deadline_s=settings.default_deadline_s,
            message_bytes_max=settings.message_bytes_max,
        )

    def identity(self) -> ServiceIdentity:
        """Make the identity with which this service calls others.

        Raises:
            CannotStart: there is no key for it, or the file cannot be read.
        """
        file = self._settings.service_key_file
        if file is None:
            raise CannotStart("TOLLKEEPER_SERVICE_KEY_FILE is required to call other services")
        return ServiceIdentity(load_jwk(file), self._settings.service, self._clock)

    async def check(self) -> None:
        """Make sure that everything the service needs answers, without serving.

        Raises:
            CannotStart: PostgreSQL or Redis does not answer, or the schema is not current.
        """
        try:
            await self.database.connect()
            await self.redis.connect()
            await _CurrentSchema(self._settings).connect()
        finally:
            await self.redis.close()
            await self.database.close()

    def host(self, *own: Resource, channels: Sequence[grpc.aio.Channel] = ()) -> Hosted:
        """Compose the service; its `own` resources open last and close first."""
        current = _CurrentSchema(self._settings)
        resources: tuple[Resource, ...] = (
            self.database,
            self.redis,
            self.revocations,
            current,
            *own,
        )
        return Hosted(self.server, resources=resources, channels=channels)


class _CurrentSchema:
    """Holds the start back until the schema is current, since migrations may run beside it."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings

    async def connect(self) -> None:
        try:
            async with asyncio.timeout(self._settings.startup_timeout_s):
                await self._wait()
        except TimeoutError as error:
            service = self._settings.service
            raise CannotStart(
                f"the schema {service!r} of the database is not current:"
                f" run python -m services.{service} migrate"
            ) from error

    async def close(self) -> None:
        """Nothing was opened."""

    async def _wait(self) -> None:
        while not await is_current(self._settings.database_url, self._settings.service):
            get_logger().info("waiting", cause="the schema is not current")
            await asyncio.sleep(_MIGRATION_CHECK_PAUSE_S)
