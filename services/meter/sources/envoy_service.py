"""Envoy's access log service on the wire: parse and store; nothing is ever answered.

Envoy sends an entry once, whether or not it is stored, and drops entries when its buffer is full.
So entries that were read are stored again and again until they are, and until then nothing more is
read: Envoy's buffer outlasts what it can.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from kit import telemetry
from kit.errors import Unavailable
from kit.rpc.auth import caller
from services.meter.sources.envoy import drafts_of
from services.meter.sources.envoy_messages import StreamAccessLogsResponse
from services.meter.sources.intake import Draft, Intake
from services.meter.sources.mapping import EnvoyMapping

_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 2.0


class AccessLogService:
    """Serves `envoy.service.accesslog.v3.AccessLogService`."""

    def __init__(self, intake: Intake, mapping: EnvoyMapping) -> None:
        self._intake = intake
        self._mapping = mapping
        self._stopping = asyncio.Event()

    async def StreamAccessLogs(  # noqa: N802 - the name of the method.
        self, requests: AsyncIterator[Any], context: object
    ) -> Any:  # noqa: ANN401 - the messages are made at run time.
        """Store entries until Envoy ends the stream, or the service stops."""
        tenant = caller(context).tenant
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            while (message := await _next(requests, stopping)) is not None:
                await self._store(tenant, list(drafts_of(message, self._mapping)))
        finally:
            stopping.cancel()
        return StreamAccessLogsResponse()

    def drain(self) -> None:
        """Read no more; what was read is stored, and Envoy opens another stream."""
        self._stopping.set()

    async def _store(self, tenant: str, drafts: Sequence[Draft]) -> None:
        if not drafts:
            return
        pause_s = _PAUSE_FIRST_S
        while True:
            try:
                fates = await self._intake.store(tenant, drafts, waits=True)
            except Unavailable:
                telemetry.get_logger().warning("envoy.entries_wait", count=len(drafts))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)
            else:
                break
        refused = [fate for fate in fates if fate.violations]
        if refused:
            first = refused[0].violations[0]
            telemetry.get_logger().warning(
                "envoy.entries_refused",
                count=len(refused),
                field=first.field,
                description=first.description,
            )


async def _next(requests: AsyncIterator[Any], stopping: asyncio.Task[Any]) -> Any:  # noqa: ANN401 - as above.
    """Answer the next message; none when the stream has ended or the service stops."""

    async def read() -> Any:  # noqa: ANN401 - as above.
        return await anext(requests, None)

    reading = asyncio.create_task(read())
    try:
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else None
    finally:
        reading.cancel()
