"""Puts the facade for Envoy together: its rules, its counters, and a server of its own.

It has its own address because Envoy calls without a token; whoever can reach that address is
trusted with the limits of one tenant. A call with a token is that of the token's tenant.
"""

from kit import telemetry
from kit.clock import Clock
from kit.hosting import Foundation
from kit.rpc.auth import Caller
from kit.rpc.server import Resource, RpcServer
from kit.settings import ServiceSettings
from services.quota.envoy.batcher import Batcher
from services.quota.envoy.convert import Headers
from services.quota.envoy.counters import Counters
from services.quota.envoy.files import RuleFiles
from services.quota.envoy.kuadrant import KuadrantService
from services.quota.envoy.limiter import Limiter
from services.quota.envoy.mapped import MappedCalls
from services.quota.envoy.messages import KUADRANT_SERVICE, SERVICE
from services.quota.envoy.service import RateLimitService
from services.quota.envoy.settings import EnvoySettings
from services.quota.envoy.verdict import Modes
from services.quota.usecases import Gate

SCOPE = "quota.decide"


class Listener:
    """The server of the facade, opened and closed with the service."""

    def __init__(self, server: RpcServer, grace_s: float) -> None:
        self.address = ""
        self._server = server
        self._grace_s = grace_s

    async def connect(self) -> None:
        """Listen and serve."""
        self.address = await self._server.start()
        await self._server.set_serving()
        telemetry.get_logger().info("envoy.serving", address=self.address)

    async def close(self) -> None:
        """Let running calls end."""
        await self._server.stop(self._grace_s)


def facade(
    foundation: Foundation,
    settings: ServiceSettings,
    envoy: EnvoySettings,
    gate: Gate,
    clock: Clock,
) -> tuple[Resource, ...]:
    """Make what is to be opened for the facade, its server last; nothing without an address."""
    if envoy.listen is None or envoy.config is None:
        return ()
    files = RuleFiles(envoy.config, merges_domains=envoy.merges_domains)
    counters = Counters(foundation.redis, stops=envoy.stops)
    batcher = Batcher(counters, timeout_s=settings.quota_decision_timeout_s)
    limiter = Limiter(
        files,
        batcher,
        Modes(is_shadow=envoy.is_shadow, is_quota=envoy.is_quota),
        near_ratio=envoy.near_ratio,
        local_cache_size=envoy.local_cache_size,
    )
    nameless = None
    if envoy.tenant is not None:
        nameless = Caller(envoy.tenant, frozenset({SCOPE}), "envoy")
    headers = Headers(envoy.limit_header, envoy.remaining_header, envoy.reset_header)
    server = RpcServer(
        settings.service,
        envoy.listen,
        foundation.verifier,
        default_deadline_s=settings.default_deadline_s,
        message_bytes_max=settings.message_bytes_max,
        nameless=nameless,
    )
    calls = MappedCalls(gate, clock)
    told = headers if envoy.has_headers else None
    servicer = RateLimitService(limiter, calls, told, has_metadata=envoy.has_metadata)
    server.add(servicer, SERVICE, SCOPE)
    server.add(KuadrantService(limiter, calls, told), KUADRANT_SERVICE, SCOPE)
    return files, counters, batcher, Listener(server, settings.drain_s)
