"""What the client does when the gate answers that it cannot decide for now."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from tollkeeper import CallFailed, QuotaDenied, QuotaUnavailable, Tollkeeper, UsageNotReported
from tollkeeper.api.quota.v1.quota_pb2 import (
    DECISION_ALLOW,
    DECISION_ALLOW_DEGRADED,
    DECISION_DENY,
    LimitStatus,
)
from tollkeeper.api.quota.v1.quota_service_pb2 import (
    CheckResponse,
    CommitRequest,
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


class GateWithoutCounters(Gate):
    """Lets calls of acme pass and refuses others; accepts settlements, and books the third."""

    def _answer(self, call: SessionCall) -> SessionAnswer:
        answer = SessionAnswer(call_id=call.call_id)
        if call.HasField("commit"):
            answer.commit.degraded = len(self.commits) < 3
        elif call.reserve.subject.customer_id == "acme":
            answer.reserve.decision = DECISION_ALLOW_DEGRADED
            answer.reserve.reservation_id = "hold-1~.acme"
            answer.reserve.granted.extend(call.reserve.amounts)
            answer.reserve.degraded = True
        else:
            limit = LimitStatus(limit_id="closed", scope="other", units=["requests"], decided=True)
            answer.reserve.decision = DECISION_DENY
            answer.reserve.limits.append(limit)
            answer.reserve.degraded = True
        return answer

    @property
    def commits(self) -> list[CommitRequest]:
        """The commits so far."""
        return [call.commit for call in self.asked if call.HasField("commit")]


async def decided_without_counters(toll: Tollkeeper) -> tuple[bool, bool]:
    """Make a call that passes and one that does not; say whether each said that it is degraded."""
    async with toll.reserve("acme", requests=1) as hold:
        hold.commit(requests=1)
    with pytest.raises(QuotaDenied, match="limit closed of other") as denied:
        async with toll.reserve("other", requests=1):
            pytest.fail("the gate was open")
    await toll._settlements.close(10)
    # There is no meter, either.
    toll._close_timeout_s = 0.1
    return hold.is_degraded, denied.value.is_degraded


async def test_calls_that_outage_policies_decide_say_so_and_are_settled_until_booked() -> None:
    """The commit is sent again, with its request id, until a counter knows of it."""
    gate = GateWithoutCounters(0, grpc.StatusCode.OK)  # type: ignore[abstract] # as above.
    said = []

    with pytest.raises(UsageNotReported):
        async with calling(gate, timeout_s=10) as toll:
            said.append(await decided_without_counters(toll))

    assert said == [(True, True)]
    assert len(gate.commits) == 3
    assert len({each.request_id for each in gate.commits}) == 1


async def test_a_request_that_the_gate_refuses_is_not_repeated() -> None:
    """It would be refused again."""
    gate = a_gate(failures=10_000, code=grpc.StatusCode.INVALID_ARGUMENT)

    async with calling(gate, timeout_s=10) as toll:
        with pytest.raises(CallFailed, match="INVALID_ARGUMENT: not now"):
            await toll.check("acme", requests=1)

    assert len(gate.asked) == 1
