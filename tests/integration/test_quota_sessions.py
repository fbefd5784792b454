"""Sessions: a stream of calls and the stream of their answers, on a real service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from cli.signing_keys import SigningKeys
from kit.clock import SystemClock
from kit.errors import InvalidInput
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.settings import ServiceSettings
from services.quota import __main__ as composition
from services.quota.convert.twins import SessionRequest
from services.quota.counters import Answer
from services.quota.model import Call
from services.quota.sessions import CALLS_WAITING_MAX, Session
from services.quota.usecases import Gate, Ticket
from tests.quota_world import (
    ALLOW,
    DENY,
    QuotaWorld,
    Standing,
    Stream,
    a_commit,
    a_limit,
    a_release,
    a_reserve,
    amounts,
    quota_world,
    subject,
)
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A quota service that knows one limit of this tenant: 100 tokens a year for each customer."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(a_limit("tokens", capacity="100"))
        yield running


def a_call(call_id: int, **asked: Any) -> messages.SessionCall:  # noqa: ANN401 - any request.
    """Make one call of a session: `a_call(1, reserve=a_reserve(5))`."""
    return messages.SessionCall(call_id=call_id, **asked)


def a_message(*calls: messages.SessionCall) -> messages.SessionRequest:
    """Make a message of calls."""
    return messages.SessionRequest(calls=calls)


async def read(stream: Stream, count: int) -> list[messages.SessionAnswer]:
    """Read as many answers, ordered by call."""
    answers: list[messages.SessionAnswer] = []
    while len(answers) < count:
        response = await stream.read()
        assert isinstance(response, messages.SessionResponse), f"the stream ended: {response}"
        answers += response.answers
    return sorted(answers, key=lambda answer: answer.call_id)


async def converse(
    world: QuotaWorld, *sent: messages.SessionRequest
) -> list[messages.SessionAnswer]:
    """Send messages at once, say that there are no more, and read every answer."""
    stream = world.session(*sent)
    answers = [answer async for response in stream for answer in response.answers]
    return sorted(answers, key=lambda answer: answer.call_id)


async def test_a_session_answers_every_kind_of_call(world: QuotaWorld) -> None:
    """Each under its own number, as the unary method would answer."""
    held, doomed = [(await world.ask("Reserve", a_reserve(10))).reservation_id for _ in range(2)]
    answers = await converse(
        world,
        a_message(
            a_call(1, check=messages.CheckRequest(subject=subject(), amounts=amounts(tokens=5))),
            a_call(2, reserve=a_reserve(20)),
            a_call(3, commit=a_commit(held, 7)),
        ),
        a_message(a_call(4, release=a_release(doomed)), a_call(5, reserve=a_reserve(99))),
    )

    check, reserve, commit, release, denied = answers
    assert check.check.decision == ALLOW
    assert reserve.reserve.decision == ALLOW
    assert (commit.commit.hold_settled, commit.commit.limits[0].used) == (True, 7)
    assert release.release.hold_settled
    assert denied.reserve.decision == DENY


async def test_calls_of_one_customer_are_decided_in_their_order(world: QuotaWorld) -> None:
    """Over many messages: the first hundred of two hundred pass, and none sees less than before."""
    sent = [
        a_message(*(a_call(10 * page + place, reserve=a_reserve(1)) for place in range(10)))
        for page in range(20)
    ]
    answers = await converse(world, *sent)

    reserved = [answer.reserve.limits[0].reserved for answer in answers]
    assert [answer.reserve.decision for answer in answers] == [*[ALLOW] * 100, *[DENY] * 100]
    assert all(number <= shown for number, shown in enumerate(reserved[:100], 1))
    assert reserved == sorted(reserved)
    assert reserved[100:] == [100] * 100


async def test_a_commit_that_names_only_its_hold_keeps_its_place(world: QuotaWorld) -> None:
    """Although its subject has to be looked up, what was sent after it is decided after it."""
    held = (await world.ask("Reserve", a_reserve(100))).reservation_id
    answers = await converse(
        world,
        a_message(
            a_call(1, reserve=a_reserve(1)),
            a_call(2, commit=a_commit(held, 40)),
            a_call(3, reserve=a_reserve(60)),
        ),
    )

    assert [answer.reserve.decision for answer in (answers[0], answers[2])] == [DENY, ALLOW]


async def test_one_bad_call_fails_alone(world: QuotaWorld) -> None:
    """Each error has the status and the details of the unary method; the others are decided."""
    no_units = a_reserve(1)
    del no_units.amounts[:]
    answers = await converse(
        world,
        a_message(
            a_call(1, reserve=a_reserve(1)),
            a_call(2, reserve=no_units),
            a_call(3),
            a_call(4, release=a_release("nobody.acme")),
            a_call(5, reserve=a_reserve(1)),
        ),
    )

    assert [answer.WhichOneof("answer") for answer in answers] == [
        *("reserve", "error", "error", "error", "reserve")
    ]
    assert [reason_of(answer.error) for answer in answers[1:4]] == [
        (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELD"),
        (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_FIELD"),
        (grpc.StatusCode.NOT_FOUND.value[0], "RESERVATION_NOT_FOUND"),
    ]


def reason_of(status: Status) -> tuple[int, str]:
    """Answer the code and the reason of an error."""
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return status.code, info.reason


async def test_a_number_that_waits_already_is_refused(world: QuotaWorld) -> None:
    """Two calls of one number cannot be told apart: the second fails, the first is decided."""
    answers = await converse(
        world, a_message(a_call(1, reserve=a_reserve(1)), a_call(1, reserve=a_reserve(2)))
    )

    assert sorted(str(answer.WhichOneof("answer")) for answer in answers) == ["error", "reserve"]
    assert await world.balances() == [Standing("tokens", "acme", 0, 1, 99)]


async def test_a_number_can_be_used_again_after_its_answer(world: QuotaWorld) -> None:
    """Numbers only tell apart what waits."""
    stream = world.session()
    decisions = []
    for _ in range(2):
        await stream.write(a_message(a_call(1, reserve=a_reserve(1))))
        decisions += [answer.reserve.decision for answer in await read(stream, 1)]
    stream.cancel()

    assert decisions == [ALLOW, ALLOW]


async def test_too_large_a_message_ends_the_session_after_its_answers(world: QuotaWorld) -> None:
    """What came before is answered; nothing of the large message is decided."""
    large = a_message(*(a_call(number, reserve=a_reserve(1)) for number in range(1001)))
    sent = [a_message(a_call(1, reserve=a_reserve(5))), large]
    stream = world.session(*sent)
    answers = await read(stream, 1)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await read(stream, 1)

    error = read_error(failure.value)
    assert answers[0].reserve.decision == ALLOW
    assert isinstance(error, InvalidInput)
    assert (error.reason, error.metadata) == ("PAYLOAD_TOO_LARGE", {"maximum": "1000"})
    assert await world.balances() == [Standing("tokens", "acme", 0, 5, 95)]


async def test_a_caller_who_disappears_leaves_his_calls_decided(world: QuotaWorld) -> None:
    """What was read is decided, and the same request ids find their first answers."""
    requests = [a_reserve(1) for _ in range(50)]
    stream = world.session()
    await stream.write(a_message(*(a_call(n, reserve=each) for n, each in enumerate(requests))))
    await read(stream, 1)
    stream.cancel()

    again = [await world.ask("Reserve", each) for each in requests]

    assert [answer.decision for answer in again] == [ALLOW] * 50
    assert await world.balances() == [Standing("tokens", "acme", 0, 50, 50)]


async def test_a_session_needs_the_scope(world: QuotaWorld) -> None:
    """A token that may only read is refused before anything is read."""
    stream = world.session(a_message(), scopes=["quota.read"])
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stream.read()

    assert failure.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_draining_answers_what_was_read_and_ends_the_stream(
    settings_for: Callable[..., ServiceSettings], world: QuotaWorld
) -> None:
    """A service that stops ends its sessions in order, instead of cutting them off."""
    service = await composition.build(settings_for("quota"), SystemClock())
    address = await service.start()
    async with open_channel(address) as channel:
        stream = world.session(by=QuotaServiceStub(channel))
        await stream.write(a_message(*(a_call(n, reserve=a_reserve(1)) for n in range(30))))
        answers = await read(stream, 1)
        await asyncio.gather(service.stop(30), read_to_end(stream, answers))

    assert len(answers) == 30
    assert await stream.code() is grpc.StatusCode.OK


async def read_to_end(stream: Stream, answers: list[messages.SessionAnswer]) -> None:
    """Read every answer until the stream ends."""
    while isinstance(response := await stream.read(), messages.SessionResponse):
        answers += response.answers


class GateThatAnswersNobody(Gate):
    """Takes every call and never answers."""

    def __init__(self) -> None:
        self.taken = 0

    def submit(
        self,
        tenant: str,  # noqa: ARG002 - as Gate, and the following.
        call: Call,  # noqa: ARG002
        deliver: Callable[[Ticket, Answer | Exception], None],  # noqa: ARG002
        ticket: Ticket,  # noqa: ARG002
    ) -> None:
        """Take a call."""
        self.taken += 1


async def test_a_session_is_not_read_while_too_many_calls_wait() -> None:
    """A caller who sends without end is held back once some thousand calls wait."""
    gate = GateThatAnswersNobody()
    read_messages = 0

    async def endless() -> AsyncIterator[Any]:
        nonlocal read_messages
        while True:
            first = 1_000 * read_messages
            read_messages += 1
            message = a_message(*(a_call(first + n, reserve=a_reserve(1)) for n in range(1_000)))
            yield SessionRequest.FromString(message.SerializeToString())

    waiting = asyncio.ensure_future(anext(Session(gate, "tenant").answers(endless())))
    for _ in range(1_000):
        await asyncio.sleep(0)
    waiting.cancel()

    assert (gate.taken, read_messages) == (5_000, 6)
    assert gate.taken < CALLS_WAITING_MAX + 1_000
