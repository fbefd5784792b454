"""Kuadrant's rate limit service on the wire, for domains that are mapped to Tollkeeper's limits.

Kuadrant's filter for Envoy asks it: to hold what a call may use and to commit what it used, or to
check before and to report after. A domain with rules has no holds, and is refused here.
"""

from typing import Any

from kit.errors import InvalidInput
from kit.rpc.auth import caller
from services.quota.envoy.convert import Headers, parse_descriptors, parse_request, render_decided
from services.quota.envoy.limiter import Limiter
from services.quota.envoy.mapped import MappedCalls
from services.quota.envoy.mapping import CallMapping
from services.quota.envoy.messages import (
    KuadrantCommitResponse,
    KuadrantReserveResponse,
    RateLimitResponse,
)

TTL_MS_MIN = 100
TTL_MS_MAX = 24 * 60 * 60 * 1000


class KuadrantService:
    """Serves `kuadrant.service.ratelimit.v1.RateLimitService`."""

    def __init__(self, limiter: Limiter, calls: MappedCalls, headers: Headers | None) -> None:
        self._limiter = limiter
        self._calls = calls
        self._has_headers = headers is not None

    async def CheckRateLimit(self, request: Any, context: object) -> Any:  # noqa: ANN401, N802 - as the RPC, whose messages are made at run time.
        """Tell whether a call would pass; as in Limitador it is for one, whatever is added."""
        tenant, mapping = caller(context).tenant, self._mapping(request.domain)
        decided = await self._calls.check(tenant, mapping, parse_request(request))
        return render_decided(decided, has_headers=self._has_headers)

    async def Report(self, request: Any, context: object) -> Any:  # noqa: ANN401, N802 - as above.
        """Book what was used."""
        tenant, mapping = caller(context).tenant, self._mapping(request.domain)
        decided = await self._calls.report(tenant, mapping, parse_request(request))
        return render_decided(decided, has_headers=self._has_headers)

    async def Reserve(self, request: Any, context: object) -> Any:  # noqa: ANN401, N802 - as above.
        """Hold what a call may use."""
        tenant, mapping = caller(context).tenant, self._mapping(request.domain)
        descriptors = [
            each._replace(addend=request.amount)
            for each in parse_descriptors(request, request.amount)
        ]
        hold = await self._calls.reserve(tenant, mapping, descriptors, _ttl_ms(request))
        code = RateLimitResponse.OK if hold else RateLimitResponse.OVER_LIMIT
        return KuadrantReserveResponse(code=code, reservation_id=hold)

    async def Commit(self, request: Any, context: object) -> Any:  # noqa: ANN401, N802 - as above.
        """Book what the call used, and end its hold."""
        tenant, mapping = caller(context).tenant, self._mapping(request.domain)
        descriptors = [
            each._replace(addend=request.actual_amount)
            for each in parse_descriptors(request, request.actual_amount)
        ]
        is_released = await self._calls.commit(tenant, mapping, descriptors, request.reservation_id)
        return KuadrantCommitResponse(reservation_released=is_released)

    def _mapping(self, domain: str) -> CallMapping:
        mapping = self._limiter.mapping(domain)
        if mapping is None:
            raise InvalidInput.of("domain", "is not mapped to Tollkeeper's limits")
        return mapping


def _ttl_ms(request: Any) -> int:  # noqa: ANN401 - as above.
    """Read how long a hold lives; 0 when the request does not say."""
    if not request.HasField("ttl"):
        return 0
    ttl_ms = int(request.ttl.ToMilliseconds())
    if not TTL_MS_MIN <= ttl_ms <= TTL_MS_MAX:
        raise InvalidInput.of("ttl", "must be from 100 milliseconds to 24 hours")
    return ttl_ms
