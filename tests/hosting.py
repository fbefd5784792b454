"""Host a service inside the test, on a free port, with its real composition root."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from kit.clock import Clock, SystemClock
from kit.settings import ServiceSettings

_GRACE_S = 2.0
_SYSTEM_CLOCK = SystemClock()


@asynccontextmanager
async def hosted(
    service: str, settings: ServiceSettings, clock: Clock = _SYSTEM_CLOCK
) -> AsyncIterator[str]:
    """Start the service as `python -m services.<service> serve` would, and give its address."""
    root = import_module(f"services.{service}.__main__")
    host = await root.build(settings, clock)
    try:
        yield await host.start()
    finally:
        await host.stop(_GRACE_S)
