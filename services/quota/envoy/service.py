"""Envoy's rate limit service on the wire: parse, decide, render."""

from typing import Any

from kit.rpc.auth import caller
from services.quota.envoy.convert import Headers, add_metadata, parse_request, render_verdict
from services.quota.envoy.limiter import Limiter


class RateLimitService:
    """Serves `envoy.service.ratelimit.v3.RateLimitService`."""

    def __init__(self, limiter: Limiter, headers: Headers | None, *, has_metadata: bool) -> None:
        self._limiter = limiter
        self._headers = headers
        self._has_metadata = has_metadata

    async def ShouldRateLimit(self, request: Any, context: object) -> Any:  # noqa: ANN401 - the messages are made at run time.
        """Count the hits of a request, and tell whether it is over a limit."""
        descriptors = parse_request(request)
        verdict = await self._limiter.decide(caller(context).tenant, request.domain, descriptors)
        response = render_verdict(verdict, self._headers)
        if self._has_metadata:
            add_metadata(response, request, verdict)
        return response
