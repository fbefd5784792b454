"""Envoy's rate limit service on the wire: parse, decide, render."""

from typing import Any

from kit.rpc.auth import caller
from services.quota.envoy.convert import (
    Headers,
    add_metadata,
    parse_request,
    render_decided,
    render_verdict,
)
from services.quota.envoy.limiter import Limiter
from services.quota.envoy.mapped import MappedCalls


class RateLimitService:
    """Serves `envoy.service.ratelimit.v3.RateLimitService`."""

    def __init__(
        self,
        limiter: Limiter,
        calls: MappedCalls,
        headers: Headers | None,
        *,
        has_metadata: bool,
    ) -> None:
        self._limiter = limiter
        self._calls = calls
        self._headers = headers
        self._has_metadata = has_metadata

    async def ShouldRateLimit(self, request: Any, context: object) -> Any:  # noqa: ANN401 - the messages are made at run time.
        """Count the hits of a request, and tell whether it is over a limit."""
        descriptors = parse_request(request)
        tenant = caller(context).tenant
        mapping = self._limiter.mapping(request.domain)
        if mapping is not None:
            decided = await self._calls.decide(tenant, mapping, descriptors)
            return render_decided(decided, has_headers=self._headers is not None)
        verdict = await self._limiter.decide(tenant, request.domain, descriptors)
        response = render_verdict(verdict, self._headers)
        if self._has_metadata:
            add_metadata(response, request, verdict)
        return response
