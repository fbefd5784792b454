"""Puts the sources together: what the meter's own address takes besides, and further addresses.

At the further addresses a call without a token can be taken as one tenant's, as exporters and
Envoy on the same machine have none; only the loopback may be opened like that.
"""

from kit import telemetry
from kit.clock import Clock
from kit.hosting import Foundation
from kit.rpc.auth import Caller
from kit.rpc.server import Resource, RpcServer
from kit.settings import ServiceSettings
from services.meter.sources import envoy_messages, otlp_service
from services.meter.sources.envoy_service import AccessLogService
from services.meter.sources.http import SCOPE, HttpFront
from services.meter.sources.http_listener import HttpListener
from services.meter.sources.intake import Intake
from services.meter.sources.mapping import load_mapping
from services.meter.sources.otlp_service import SpanTaker, TraceService
from services.meter.sources.settings import SourceSettings
from services.meter.usecases.ingestion import Ingestion


class Listener:
    """A server at a further address, opened and closed with the service."""

    def __init__(self, server: RpcServer, grace_s: float) -> None:
        self.address = ""
        self._server = server
        self._grace_s = grace_s

    async def connect(self) -> None:
        """Listen and serve."""
        self.address = await self._server.start()
        await self._server.set_serving()
        telemetry.get_logger().info("sources.serving", address=self.address)

    async def close(self) -> None:
        """Let running calls end."""
        await self._server.stop(self._grace_s)


def add_sources(
    foundation: Foundation,
    settings: ServiceSettings,
    sources: SourceSettings,
    ingestion: Ingestion,
    clock: Clock,
) -> tuple[Resource, ...]:
    """Serve the sources at the meter's address, and make what is to be opened besides.

    Raises:
        BadSettings: the file of the mapping cannot be used.
    """
    mapping = load_mapping(sources.sources_config)
    intake = Intake(ingestion, clock)
    spans = SpanTaker(intake, mapping.otlp)
    servers = [foundation.server]
    opened: list[Resource] = []
    if sources.sources_listen is not None:
        server = _further_server(foundation, settings, sources, sources.sources_listen)
        servers.append(server)
        opened.append(Listener(server, settings.drain_s))
    if sources.http_listen is not None:
        front = HttpFront(
            intake,
            spans,
            foundation.verifier,
            nameless=_nameless(sources),
            body_bytes_max=sources.http_bytes_max,
            deadline_s=settings.default_deadline_s,
        )
        opened.append(HttpListener(front, sources.http_listen, settings.drain_s))
    for server in servers:
        access_logs = AccessLogService(intake, mapping.envoy)
        server.add(TraceService(spans), otlp_service.SERVICE, SCOPE)
        server.add(access_logs, envoy_messages.SERVICE, SCOPE)
        server.before_stop(access_logs.drain)
    return tuple(opened)


def _further_server(
    foundation: Foundation, settings: ServiceSettings, sources: SourceSettings, listen: str
) -> RpcServer:
    return RpcServer(
        settings.service,
        listen,
        foundation.verifier,
        default_deadline_s=settings.default_deadline_s,
        message_bytes_max=settings.message_bytes_max,
        nameless=_nameless(sources),
    )


def _nameless(sources: SourceSettings) -> Caller | None:
    if sources.sources_tenant is None:
        return None
    return Caller(sources.sources_tenant, frozenset({SCOPE}), "sources")
