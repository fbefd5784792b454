"""HTTP headers that tell a gateway's own clients how they stand.

`RateLimit` and `RateLimit-Policy` as in draft-ietf-httpapi-ratelimit-headers-10, `Retry-After` as
in RFC 9110.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta

from tollkeeper.amounts import Number
from tollkeeper.errors import LimitState, QuotaDenied

# The largest integer of a structured field.
INTEGER_MAX = 10**15 - 1

_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"'})


def rate_limit_headers(limits: Iterable[LimitState], now: datetime) -> dict[str, str]:
    """Return the headers for the limits of a decision; none when no limit applied.

    Amounts of time and money are rounded down to whole units, since the fields hold integers.
    """
    policies, states = [], []
    for limit in limits:
        name = f'"{limit.limit_id.translate(_ESCAPED)}"'
        policies.append(f"{name};q={_integer(limit.capacity)}")
        state = f"{name};r={_integer(limit.remaining)}"
        if limit.reset_time is not None:
            state += f";t={_seconds_until(limit.reset_time - now)}"
        states.append(state)
    if not states:
        return {}
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def denial_headers(denied: QuotaDenied, now: datetime) -> dict[str, str]:
    """Return the headers for a response with status 429.

    `Retry-After` is left out when the amount never fits.
    """
    headers = rate_limit_headers(denied.limits, now)
    if denied.retry_after is not None:
        headers["Retry-After"] = str(_seconds_until(denied.retry_after))
    return headers


def _integer(amount: Number) -> int:
    return min(int(amount), INTEGER_MAX)


def _seconds_until(duration: timedelta) -> int:
    return max(0, math.ceil(duration / timedelta(seconds=1)))
