"""Ending background tasks when a service stops.

Refuses to wait for ever for a task whose cancellation got lost in what it was waiting for: that was
seen where it arrived during a call of redis-py.
"""

import asyncio
from contextlib import suppress
from typing import Any

_AGAIN_S = 5.0


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended; raise what one of them failed with."""
    for task in tasks:
        while not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=_AGAIN_S)
        with suppress(asyncio.CancelledError):
            task.result()
