"""Waiting, at start-up, for a server that may not be up yet; and giving up in words.

Refuses to wait for what time cannot mend, such as a wrong password.
"""

import os
from collections.abc import Awaitable, Callable

import stamina

from kit.errors import CannotStart

_WAIT_INITIAL_S = 0.1
_WAIT_MAX_S = 2.0


async def wait_for(
    server: str,
    ask: Callable[[], Awaitable[None]],
    *,
    faults: tuple[type[Exception], ...],
    may_pass: Callable[[Exception], bool],
    timeout_s: float,
) -> None:
    """Return once `ask` does; `server` names it, such as "Redis at 127.0.0.1:6379".

    Raises:
        CannotStart: it raised one of the faults for longer than the timeout, or one that
            `may_pass` says does not pass.
    """
    try:
        async for attempt in stamina.retry_context(
            on=may_pass,
            attempts=None,
            timeout=timeout_s,
            wait_initial=_WAIT_INITIAL_S,
            wait_max=_WAIT_MAX_S,
        ):
            with attempt:
                await ask()
    except faults as error:
        raise CannotStart(f"cannot reach {server}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Say why in one line, the same whichever library or event loop met it."""
    cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.errno:
        return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
