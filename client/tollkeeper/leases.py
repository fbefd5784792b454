"""The leases of one client: those that were asked for, and those that calls share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tollkeeper.api.quota.v1.quota_service_pb2 import ReserveRequest, SessionCall
from tollkeeper.lease import Ask, Lease, LeasedCalls, Quanta

CALLS_TO_BOUND = 1024
"""A shared lease holds at most so many of its largest calls without use."""
QUANTA_MAX = 10**15
LEASES_MAX = 1000

# The subject, the dimensions and the units of calls that share a lease.
_Key = tuple[bytes, tuple[tuple[str, str], ...], tuple[str, ...]]


class Leases:
    """Makes leases, and ends them with the client.

    Args:
        ask: sends a call to the gate.
        submit: sends a settlement until the gate has taken it.
        new_request_id: makes idempotency keys.
    """

    def __init__(
        self,
        ask: Ask,
        submit: Callable[[SessionCall], Awaitable[object]],
        new_request_id: Callable[[], str],
    ) -> None:
        self._ask = ask
        self._submit = submit
        self._new_request_id = new_request_id
        self._shared: dict[_Key, Lease] = {}
        self._own: list[Lease] = []

    def make(self, calls: LeasedCalls, most: Quanta) -> Lease:
        """Return a lease of its own, which is ended with the client at the latest."""
        self._own = [each for each in self._own if not each.is_closed]
        lease = self._lease(calls, most)
        self._own.append(lease)
        return lease

    def of(self, request: ReserveRequest) -> Lease:
        """Return the lease that calls agreeing in subject, dimensions and units share.

        A new one asks the gate for nothing yet.
        """
        units = tuple(amount.unit for amount in request.amounts)
        dimensions = tuple(sorted(request.dimensions.items()))
        key = (request.subject.SerializeToString(), dimensions, units)
        most = tuple(
            min(QUANTA_MAX, CALLS_TO_BOUND * amount.quantity) for amount in request.amounts
        )
        lease = self._shared.get(key)
        if lease is None:
            if len(self._shared) >= LEASES_MAX:
                self._shared = {k: each for k, each in self._shared.items() if not each.is_idle}
            calls = LeasedCalls(request.subject, dict(request.dimensions), units)
            lease = self._shared[key] = self._lease(calls, most)
        lease.raise_bound(most)
        return lease

    async def close(self) -> None:
        """Commit what was used of each lease and give the rest back."""
        await asyncio.gather(*(lease.close() for lease in (*self._shared.values(), *self._own)))

    def _lease(self, calls: LeasedCalls, most: Quanta) -> Lease:
        return Lease(self._ask, self._submit, self._new_request_id, calls, most)
