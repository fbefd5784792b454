"""Amounts that the gate estimates, over gRPC on real Redis: a burst fits the budget of its use."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest

from cli.signing_keys import SigningKeys
from kit.errors import Conflict
from kit.rpc.channel import open_channel
from kit.settings import ServiceSettings
from tests.hosting import hosted
from tests.quota_world import (
    ALLOW,
    DENY,
    QuotaWorld,
    Standing,
    a_limit,
    amounts,
    quota_world,
    request_id,
    subject,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as messages
from tollkeeper.api.quota.v1.quota_service_pb2_grpc import QuotaServiceStub

MAX_TOKENS = 4096
REAL_TOKENS = 300
CALLS = 20
FIRST_HOLD = 256
KNOWN_FROM = 20


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[QuotaWorld]:
    """A gate at which acme has just as many tokens as its burst will really use."""
    async with quota_world(settings_for, keys, tenant) as running:
        await running.put(
            a_limit(
                "budget",
                subject={"customerId": "acme"},
                units=["output_tokens"],
                capacity=str(CALLS * REAL_TOKENS),
                lifetime={},
            )
        )
        yield running


def a_chat(customer: str = "acme", request: str = "") -> messages.ReserveRequest:
    """Ask to hold what a chat with the large model will put out."""
    return messages.ReserveRequest(
        request_id=request or request_id(),
        subject=subject(customer),
        dimensions={"model": "large"},
        amounts=amounts(requests=1),
        estimates=[messages.Estimate(unit="output_tokens", max_quantity=MAX_TOKENS, route="chat")],
    )


def a_commit(hold: str, tokens: int = REAL_TOKENS) -> messages.CommitRequest:
    """Book what the chat used."""
    return messages.CommitRequest(
        request_id=request_id(),
        reservation_id=hold,
        amounts=amounts(requests=1, output_tokens=tokens),
    )


def granted(answer: messages.ReserveResponse) -> int:
    """Tell how many tokens are held."""
    return {amount.unit: amount.quantity for amount in answer.granted}["output_tokens"]


async def teach(world: QuotaWorld, count: int = KNOWN_FROM) -> None:
    """Let another customer of the tenant make calls alike."""
    for _ in range(count):
        held = await world.ask("Reserve", a_chat("teacher"))
        await world.ask("Commit", a_commit(held.reservation_id))


def most_taken(answers: Sequence[Any]) -> int:
    """Find the most that any answer showed as used and reserved together."""
    statuses: list[quota_pb2.LimitStatus] = [each for answer in answers for each in answer.limits]
    return max(each.used + each.reserved for each in statuses)


async def test_a_burst_of_calls_alike_fits_the_budget_of_its_real_use(world: QuotaWorld) -> None:
    """Twenty calls that may take 4,096 tokens and take 300; worst-case holds would admit one."""
    await teach(world)
    held = await asyncio.gather(*(world.ask("Reserve", a_chat()) for _ in range(CALLS)))
    refused = await world.ask("Reserve", a_chat())
    booked = await asyncio.gather(
        *(world.ask("Commit", a_commit(each.reservation_id)) for each in held)
    )

    assert [(each.decision, granted(each)) for each in held] == [(ALLOW, REAL_TOKENS)] * CALLS
    assert refused.decision == DENY
    assert most_taken([*held, refused, *booked]) == CALLS * REAL_TOKENS
    assert await world.balances() == [Standing("budget", "acme", 6000, 0, 0)]


async def test_a_burst_of_calls_that_nobody_knows_begins_small_and_grows(
    world: QuotaWorld,
) -> None:
    """Each holds 256 tokens, and what it still needs once it has used most of them."""

    async def chat() -> list[Any]:
        held = await world.ask("Reserve", a_chat())
        extend = messages.ExtendRequest(
            request_id=request_id(),
            reservation_id=held.reservation_id,
            amounts=amounts(output_tokens=REAL_TOKENS - granted(held)),
        )
        await asyncio.sleep(0)
        grown = await world.ask("Extend", extend)
        return [held, grown, await world.ask("Commit", a_commit(held.reservation_id))]

    chats = await asyncio.gather(*(chat() for _ in range(CALLS)))

    assert [granted(held) for held, _, _ in chats] == [FIRST_HOLD] * CALLS
    assert [(held.decision, grown.decision) for held, grown, _ in chats] == [(ALLOW, ALLOW)] * CALLS
    assert most_taken([answer for answers in chats for answer in answers]) <= CALLS * REAL_TOKENS
    assert await world.balances() == [Standing("budget", "acme", 6000, 0, 0)]


async def test_a_session_estimates_and_learns_too(world: QuotaWorld) -> None:
    """The same calls over one stream, one after the other."""
    stream = world.session()

    async def asked(**call: Any) -> messages.SessionAnswer:  # noqa: ANN401 - any call.
        await stream.write(messages.SessionRequest(calls=[messages.SessionCall(call_id=1, **call)]))
        response: Any = await stream.read()
        (answer,) = cast("list[messages.SessionAnswer]", response.answers)
        return answer

    seen = []
    for _ in range(KNOWN_FROM + 1):
        held = (await asked(reserve=a_chat("teacher"))).reserve
        seen.append(granted(held))
        await asked(commit=a_commit(held.reservation_id))
    await stream.done_writing()
    await stream.read()

    assert seen == [*[FIRST_HOLD] * KNOWN_FROM, REAL_TOKENS]


async def test_a_repeat_shows_what_was_granted_at_first(world: QuotaWorld) -> None:
    """Though more is known by then; the same id with another estimate is another request."""
    first = await world.ask("Reserve", a_chat(request="chat-1"))
    await teach(world)
    again = await world.ask("Reserve", a_chat(request="chat-1"))
    later = await world.ask("Reserve", a_chat())
    other = a_chat(request="chat-1")
    other.estimates[0].max_quantity = 5
    error = await world.refusal("Reserve", other)

    assert first == again
    assert (granted(first), granted(later)) == (FIRST_HOLD, REAL_TOKENS)
    assert (type(error), error.reason) == (Conflict, "REQUEST_ID_REUSED")


async def test_calls_of_another_route_or_model_are_not_alike(world: QuotaWorld) -> None:
    """Nothing is known of them; what is known stays within the bound of each call."""
    await teach(world)
    calls = [a_chat("other") for _ in range(3)]
    calls[0].dimensions["model"] = "small"
    calls[1].estimates[0].route = "summary"
    calls[2].estimates[0].max_quantity = 10
    held = [await world.ask("Reserve", call) for call in calls]

    assert [granted(each) for each in held] == [FIRST_HOLD, FIRST_HOLD, 10]


async def test_replicas_learn_from_each_other(
    world: QuotaWorld, settings_for: Callable[..., ServiceSettings]
) -> None:
    """Half of the calls are committed at one and half at another; both know all after a while."""
    async with (
        hosted("quota", settings_for("quota")) as address,
        open_channel(address) as channel,
    ):
        stub = QuotaServiceStub(channel)
        for number in range(KNOWN_FROM):
            held = await world.ask("Reserve", a_chat("teacher"))
            commit = a_commit(held.reservation_id)
            if number % 2:
                await stub.Commit(commit, metadata=world.token())
            else:
                await world.ask("Commit", commit)
        early = await world.ask("Reserve", a_chat("other"))
        late = await until_granted(REAL_TOKENS, world)

    assert (granted(early), late) == (FIRST_HOLD, REAL_TOKENS)


async def until_granted(wanted: int, world: QuotaWorld) -> int:
    """Ask until so much is estimated; it gives up after many times."""
    for _ in range(200):
        held = await world.ask("Reserve", a_chat("other"))
        if granted(held) == wanted:
            break
        await asyncio.sleep(0.1)
    return granted(held)
