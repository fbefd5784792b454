"""What the client does when the gate answers that it cannot decide for now."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from tollkeeper import CallFailed, QuotaUnavailable, Tollkeeper
from tollkeeper.api.quota.v1.quota_pb2 import DECISION_ALLOW
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    CheckResponse,
    SessionAnswer,
    SessionCall,
    SessionRequest,
    SessionResponse,
)
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import (
    QuotaServiceServicer,
    add_QuotaServiceServicer_to_server,
)


class Gate(QuotaServiceServicer):
    """Fails the first calls with a status, and allows every later one."""

    def __init__(self, failures: int, code: grpc.StatusCode) -> None:
        self.asked: list[SessionCall] = []
        self._failures = failures
        self._code = code

    async def Session(  # noqa: N802 - the name of the RPC.
        self, requests: AsyncIterator[SessionRequest], _context: object
    ) -> AsyncIterator[SessionResponse]:
        """Answer each call by itself."""
        async for request in requests:
            for call in request.calls:
                self.asked.append(call)
                yield SessionResponse(answers=[self._answer(call)])

    def _answer(self, call: SessionCall) -> SessionAnswer:
        if len(self.asked) > self._failures:
            return SessionAnswer(call_id=call.call_id, check=CheckResponse(decision=DECISION_ALLOW))
        retry = Any()
        retry.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=10_000_000)))
        code, _ = self._code.value
        status = status_pb2.Status(code=code, message="not now", details=[retry])
        return SessionAnswer(call_id=call.call_id, error=status)


def a_gate(failures: int, code: grpc.StatusCode) -> Gate:
    """Make a gate."""
    return Gate(failures, code)  # type: ignore[abstract] # What is not asked needs no answer.


@asynccontextmanager
async def calling(gate: Gate, timeout_s: float) -> AsyncIterator[Tollkeeper]:
    """Serve the gate, and give a client of it."""
    server = grpc.aio.server()
    add_QuotaServiceServicer_to_server(gate, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with Tollkeeper(token="t", quota=address, timeout_s=timeout_s) as toll:
            yield toll
    finally:
        await server.stop(0)


async def test_a_gate_that_cannot_decide_for_now_is_asked_again() -> None:
    """With the same content; the caller only sees the decision."""
    gate = a_gate(failures=3, code=grpc.StatusCode.UNAVAILABLE)

    async with calling(gate, timeout_s=10) as toll:
        assert await toll.check("acme", requests=1) == ()

    assert len(gate.asked) == 4
    assert len({call.check.SerializeToString() for call in gate.asked}) == 1
    assert len({call.call_id for call in gate.asked}) == 4


async def test_a_gate_that_never_decides_is_unavailable_after_the_timeout() -> None:
    """The gateway's own policy then decides; that is another exception than a refused request."""
    gate = a_gate(failures=10_000, code=grpc.StatusCode.UNAVAILABLE)

    async with calling(gate, timeout_s=0.5) as toll:
        with pytest.raises(QuotaUnavailable):
            await toll.check("acme", requests=1)

    assert len(gate.asked) > 1


async def test_a_request_that_the_gate_refuses_is_not_repeated() -> None:
    """It would be refused again."""
    gate = a_gate(failures=10_000, code=grpc.StatusCode.INVALID_ARGUMENT)

    async with calling(gate, timeout_s=10) as toll:
        with pytest.raises(CallFailed, match="INVALID_ARGUMENT: not now"):
            await toll.check("acme", requests=1)

    assert len(gate.asked) == 1
