"""Periods rated by usage that the caller gives: no meter is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from google.protobuf.text_format import Parse
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

from cli.signing_keys import SigningKeys
from kit.errors import InvalidInput, NotFound, Precondition, Unavailable
from kit.settings import ServiceSettings
from tests.rating_world import (
    JANUARY,
    World,
    a_plan_message,
    a_rate_request,
    given_tokens,
    rating_world,
)
from tollkeeper.api.rating.v1 import rating_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

FEBRUARY = "effective_time { seconds: 1769904000 }"
MID_FEBRUARY = "period { start_time { seconds: 1771113600 } end_time { seconds: 1773532800 } }"


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating service whose meter service does not answer, with the plan `pro`."""
    async with rating_world(settings_for, keys, tenant) as running:
        await running.put_plan()
        yield running


async def test_a_period_comes_to_its_lines(world: World) -> None:
    """Base fee and usage, each with its formula, and their sum."""
    rating = await world.rate(given_tokens("1234567"))

    expected = f"""
        plan_id: "pro" plan_version: 1 currency: "USD"
        lines {{
          kind: LINE_KIND_BASE_FEE description: "Pro: base fee"
          quantity {{ value: "1" }} unit: "period"
          unrounded_amount {{ value: "100" }} amount {{ currency_code: "USD" units: 100 }}
          steps {{
            description: "base fee" quantity {{ value: "1" }} unit_amount {{ value: "100" }}
            amount {{ value: "100" }} stage: STAGE_PRICE
          }}
          category: PRODUCT_CATEGORY_ELECTRONIC_SERVICE period {{ {JANUARY} }}
        }}
        lines {{
          kind: LINE_KIND_USAGE price_id: "tokens" description: "Tokens"
          quantity {{ value: "1234567" }}
          unrounded_amount {{ value: "4.69134" }}
          amount {{ currency_code: "USD" units: 4 nanos: 690000000 }}
          steps {{
            description: "included: up to 1000000" quantity {{ value: "1000000" }}
            unit_amount {{ value: "0" }} amount {{ value: "0" }} stage: STAGE_INCLUDED
          }}
          steps {{
            description: "0.02 per 1000" quantity {{ value: "234567" }}
            unit_amount {{ value: "0.00002" }} amount {{ value: "4.69134" }} stage: STAGE_PRICE
          }}
          usage {{ meter_id: "tokens" customer_id: "acme" interval {{ {JANUARY} }} }}
          category: PRODUCT_CATEGORY_ELECTRONIC_SERVICE period {{ {JANUARY} }}
        }}
        total {{ currency_code: "USD" units: 104 nanos: 690000000 }}
    """
    assert rating == Parse(expected, rating_pb2.Rating())


async def test_the_version_at_the_start_of_the_period_rates_all_of_it(world: World) -> None:
    """A version that begins in February does not touch January; it rates what starts in it."""
    await world.put_plan(a_plan_message(f'base_fee {{ value: "120" }} {FEBRUARY}'), "put-2")

    january = await world.rate(given_tokens("0"))
    february = await world.rate(f"{given_tokens('0')} {MID_FEBRUARY}")
    by_name = await world.rate(f"{given_tokens('0')} {MID_FEBRUARY} plan_version: 1")

    assert [(each.plan_version, each.total.units) for each in (january, february, by_name)] == [
        (1, 100),
        (2, 120),
        (1, 100),
    ]


async def test_a_plan_that_is_not_in_effect_is_refused(world: World) -> None:
    """A period before the first version of a plan cannot be rated by it."""
    await world.put_plan(a_plan_message(f'plan_id: "new" {FEBRUARY}'), "put-2")

    refusal = await world.refusal("Rate", a_rate_request(f'plan_id: "new" {given_tokens("1")}'))

    assert (type(refusal), refusal.reason, refusal.metadata) == (
        Precondition,
        "PLAN_NOT_IN_EFFECT",
        {"plan_id": "new", "time": "2026-01-01T00:00:00Z"},
    )


@pytest.mark.parametrize(
    ("written", "metadata"),
    [
        ('plan_id: "other"', {"plan_id": "other"}),
        ("plan_version: 7", {"plan_id": "pro", "version": "7"}),
    ],
)
async def test_an_unknown_plan_or_version_is_not_found(
    world: World, written: str, metadata: dict[str, str]
) -> None:
    """The plan, and the version if one was asked for, are named."""
    refusal = await world.refusal("Rate", a_rate_request(f"{written} {given_tokens('1')}"))

    assert (type(refusal), refusal.reason, refusal.metadata) == (
        NotFound,
        "PLAN_NOT_FOUND",
        metadata,
    )


async def test_a_bad_request_names_every_field(world: World) -> None:
    """What is wrong with the period and with the usage is told at once."""
    request = a_rate_request(f'customer_id: "a b" {given_tokens("-1")}')

    refusal = await world.refusal("Rate", request)

    assert isinstance(refusal, InvalidInput)
    assert [violation.field for violation in refusal.violations] == [
        "given_usage.quantities[0].quantity",
        "customer_id",
    ]


async def test_without_given_usage_a_silent_meter_is_told(world: World) -> None:
    """When the meter service does not answer, the caller learns that, and when to try again."""
    refusal = await world.refusal("Rate", a_rate_request())

    assert (type(refusal), refusal.reason) == (Unavailable, "METER_UNAVAILABLE")
    assert refusal.retry_after is not None


async def test_a_batch_answers_each_request_in_order(world: World) -> None:
    """A hundred requests, each tenth of them bad, get their answers at their own positions."""
    requests = [a_rate_request(given_tokens(str(1_000_000 + 1000 * n))) for n in range(100)]
    for bad in requests[::10]:
        bad.plan_id = "other"

    answers = await batch(world, requests)

    assert [answer.index for answer in answers] == list(range(100))
    assert [answer.WhichOneof("result") for answer in answers] == (["error"] + ["rating"] * 9) * 10
    assert [answer.rating.lines[1].unrounded_amount.value for answer in answers[1:10]] == [
        "0.02",
        "0.04",
        "0.06",
        "0.08",
        "0.1",
        "0.12",
        "0.14",
        "0.16",
        "0.18",
    ]


async def test_a_failure_in_a_batch_has_the_details_of_rate(world: World) -> None:
    """Each item fails as `Rate` would have: with its code, its reason and every bad field."""
    unknown = a_rate_request(f'plan_id: "other" {given_tokens("1")}')
    bad = a_rate_request(f'plan_id: "!" {given_tokens("1")}')

    first, second = await batch(world, [unknown, bad])

    info, fields = ErrorInfo(), BadRequest()
    assert first.error.code == 5
    assert first.error.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("tollkeeper.rating", "PLAN_NOT_FOUND")
    assert second.error.code == 3
    assert second.error.details[1].Unpack(fields)
    assert [violation.field for violation in fields.field_violations] == ["plan_id"]


async def test_a_batch_rates_as_rate_does(world: World) -> None:
    """One period alone and in a batch come to the same."""
    request = a_rate_request(
        f"{given_tokens('2345678')} proration {{ billed_days: 17 period_days: 31 }}"
    )

    (answer,) = await batch(world, [request])

    assert answer.rating == (await world.ask("Rate", request)).rating


async def test_a_caller_may_leave_a_batch_early(world: World) -> None:
    """A caller who has seen enough ends the stream, and the service goes on."""
    request = messages.BatchRateRequest(requests=[a_rate_request(given_tokens("1"))] * 1000)
    call = world.method("BatchRate")(request, metadata=world.token())
    async for answer in call:
        assert answer.index == 0
        break
    call.cancel()

    assert (await world.rate(given_tokens("1"))).total.units == 100


async def batch(
    world: World, requests: list[messages.RateRequest]
) -> list[messages.BatchRateResponse]:
    """Rate a batch, and answer everything that comes back."""
    call = world.method("BatchRate")(
        messages.BatchRateRequest(requests=requests), metadata=world.token()
    )
    return [answer async for answer in call]
