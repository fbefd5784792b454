"""A process of callers who race for units until all are used: what they do is drawn from a seed.

Run as `python -m tests.chaos.quota_callers ADDRESS TOKEN SEED COUNT`. Each caller holds some units,
says that his call has left, and books what it used, or releases it. Whatever fails or is only
accepted is repeated with the same request id, as a careful gateway does. In the end the process
prints how many units its callers have booked.
"""

import asyncio
import random
import sys
import time
from typing import Any

import grpc.aio

from tests.quota_world import a_commit, a_release, a_reserve, subject
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

PATH = {"customer": "acme", "project": "search", "key": "k1"}
TTL_MS = 4_000
TIMEOUT_S = 120.0

_CALL_S = 3.0
_PAUSE_S = 0.05
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}


class Caller:
    """One caller, and what he has booked."""

    def __init__(self, stub: Any, token: str, draw: random.Random, name: str) -> None:  # noqa: ANN401 - a stub.
        self.booked = 0
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._draw = draw
        self._name = name
        self._requests_count = 0
        self._ends_s = time.monotonic() + TIMEOUT_S

    async def run(self) -> None:
        """Call until all units are used."""
        while time.monotonic() < self._ends_s:
            amount = self._draw.randint(1, 5)
            reserve = a_reserve(amount, request=self._request(), ttl_ms=TTL_MS, **PATH)
            answer = await self._ask("Reserve", reserve)
            if answer.decision == quota_pb2.DECISION_ALLOW:
                await self._call(answer.reservation_id, amount)
            elif not answer.degraded and answer.limits[0].remaining == 0:
                if answer.limits[0].reserved == 0:
                    return
                await asyncio.sleep(4 * _PAUSE_S)
            else:
                await asyncio.sleep(_PAUSE_S)

    async def _call(self, hold: str, amount: int) -> None:
        if self._draw.random() < 0.1:
            await self._booked("Release", a_release(hold, request=self._request()))
            return
        mark = messages.MarkDispatchedRequest(request_id=self._request(), reservation_id=hold)
        marked = await self._booked("MarkDispatched", mark)
        if marked is None or not marked.hold_open:
            # It expired before the call could leave.
            return
        await asyncio.sleep(self._draw.uniform(0, 0.6))
        used = self._draw.randint(0, amount)
        commit = a_commit(hold, used, request=self._request(), of=subject(**PATH))
        await self._booked("Commit", commit)
        self.booked += used

    async def _booked(self, method: str, request: Any) -> Any:  # noqa: ANN401 - any message.
        """Repeat until it is not only accepted but done."""
        while True:
            answer = await self._ask(method, request)
            if answer is None or not answer.degraded:
                return answer
            await asyncio.sleep(_PAUSE_S)

    async def _ask(self, method: str, request: Any) -> Any:  # noqa: ANN401 - as above.
        """Repeat until there is an answer; nothing where the hold is not known any more."""
        while True:
            try:
                return await getattr(self._stub, method)(
                    request, metadata=self._metadata, timeout=_CALL_S, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND and method != "Commit":
                    return None
                if error.code() not in _PASSING:
                    raise
                await asyncio.sleep(_PAUSE_S)

    def _request(self) -> str:
        self._requests_count += 1
        return f"{self._name}-{self._requests_count}"


async def main(address: str, token: str, seed: str, count: str) -> None:
    """Run the callers, and print what they have booked."""
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub = QuotaServiceStub(channel)
        callers = [
            Caller(stub, token, random.Random(f"{seed}/{number}"), f"{seed}-{number}")
            for number in range(int(count))
        ]
        await asyncio.gather(*(caller.run() for caller in callers))
    print(sum(caller.booked for caller in callers))  # noqa: T201 - it is what the process is for.


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
