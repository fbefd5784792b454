"""Plans at a real rating service: put, read, listed, and never changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
import pytest
from google.protobuf.text_format import Parse
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from cli.signing_keys import SigningKeys
from kit.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from kit.postgres import Database
from kit.settings import ServiceSettings
from tests.rating_world import NOON, World, a_meter_message, a_plan_message, metered_world
from tollkeeper.api.rating.v1 import plan_pb2
from tollkeeper.api.rating.v1 import rating_service_pb2 as messages

FEBRUARY = "effective_time { seconds: 1769904000 }"


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A rating and a meter service, with the meters that the plans name."""
    async with metered_world(settings_for, keys, tenant) as running:
        await running.put_meter(a_meter_message("tokens"))
        await running.put_meter(a_meter_message("a", "model", "region"))
        await running.put_meter(a_meter_message("b"))
        await running.put_meter(a_meter_message("c"))
        yield running


def stored(plan: plan_pb2.Plan, version: int) -> plan_pb2.Plan:
    """Tell how a plan comes back: with its version, and when it was put."""
    answer = plan_pb2.Plan()
    answer.CopyFrom(plan)
    answer.version = version
    answer.create_time.FromDatetime(NOON)
    return answer


EVERY_KIND = """
    plan_id: "full" display_name: "Full" currency: "JPY" base_fee { value: "100.5" }
    prices {
      price_id: "a" display_name: "A" meter_id: "a" included_quantity { value: "0.5" }
      dimensions { key: "model" value: "large" } dimensions { key: "region" value: "eu" }
      standard { amount { value: "0.000000000000000000000001" } per_quantity { value: "1000000" } }
      category: PRODUCT_CATEGORY_PROFESSIONAL_SERVICE
    }
    prices {
      price_id: "b" meter_id: "b" included_quantity { value: "0" }
      graduated {
        tiers {
          up_to { value: "10" } unit_amount { value: "1.5" } flat_amount { value: "0" }
        }
        tiers { unit_amount { value: "1" } flat_amount { value: "7" } }
      }
      category: PRODUCT_CATEGORY_ELECTRONIC_SERVICE
    }
    prices {
      price_id: "c" meter_id: "c" included_quantity { value: "0" }
      package { amount { value: "25" } package_size { value: "10" } }
      category: PRODUCT_CATEGORY_ELECTRONIC_SERVICE
    }
    effective_time { seconds: 1769904000 nanos: 123456000 }
    category: PRODUCT_CATEGORY_PROFESSIONAL_SERVICE
"""


async def test_a_plan_comes_back_as_it_was_put(world: World) -> None:
    """Every kind of price survives the database with every digit."""
    plan = Parse(EVERY_KIND, plan_pb2.Plan())

    answer = await world.put_plan(plan)
    got = await world.ask("GetPlan", messages.GetPlanRequest(plan_id="full"))

    assert answer == got.plan == stored(plan, version=1)


async def test_the_same_content_is_the_same_version(world: World) -> None:
    """Putting a plan again under another request id stores nothing."""
    first = await world.put_plan(request_id="put-1")
    again = await world.put_plan(request_id="put-2")

    assert again == first


async def test_other_content_is_a_new_version_from_its_time_on(world: World) -> None:
    """Versions count up, and both are kept as they were."""
    old = await world.put_plan()
    new = await world.put_plan(a_plan_message(f'base_fee {{ value: "120" }} {FEBRUARY}'), "put-2")

    assert [
        (await world.ask("GetPlan", messages.GetPlanRequest(plan_id="pro", version=version))).plan
        for version in (1, 2, 0)
    ] == [old, new, new]
    assert (old.version, new.version) == (1, 2)


async def test_an_older_version_put_again_is_that_version(world: World) -> None:
    """Applying an old file again answers what it once made, though a newer version exists."""
    old = await world.put_plan()
    await world.put_plan(a_plan_message(FEBRUARY), "put-2")

    assert await world.put_plan(request_id="put-3") == old


async def test_other_content_for_the_same_time_is_refused(world: World) -> None:
    """Two versions cannot be in effect from the same time, whether it is named or since ever."""
    await world.put_plan()
    await world.put_plan(a_plan_message(FEBRUARY), "put-2")
    other = a_plan_message('base_fee { value: "120" }')
    later = a_plan_message(f'base_fee {{ value: "120" }} {FEBRUARY}')

    since_ever = await world.refusal("PutPlan", messages.PutPlanRequest(request_id="3", plan=other))
    february = await world.refusal("PutPlan", messages.PutPlanRequest(request_id="4", plan=later))

    assert (type(since_ever), since_ever.reason, since_ever.metadata) == (
        AlreadyExists,
        "PLAN_VERSION_EXISTS",
        {"plan_id": "pro", "effective_time": ""},
    )
    assert february.metadata == {"plan_id": "pro", "effective_time": "2026-02-01T00:00:00Z"}
    newest = await world.ask("GetPlan", messages.GetPlanRequest(plan_id="pro"))
    assert newest.plan.version == 2


async def test_a_request_id_means_one_request(world: World) -> None:
    """A repeat gets the first answer; other content under the same id is refused."""
    first = await world.put_plan(request_id="put-1")
    repeated = await world.put_plan(request_id="put-1")
    reused = await world.refusal(
        "PutPlan", messages.PutPlanRequest(request_id="put-1", plan=a_plan_message(FEBRUARY))
    )

    assert repeated == first
    assert (type(reused), reused.reason) == (Conflict, "REQUEST_ID_REUSED")


async def test_versions_put_at_once_are_counted_one_by_one(world: World) -> None:
    """Ten versions put by ten callers at once get ten numbers."""
    plans = [a_plan_message(f"effective_time {{ seconds: {day * 86400} }}") for day in range(1, 11)]

    answers = await asyncio.gather(
        *(world.put_plan(plan, f"put-{index}") for index, plan in enumerate(plans))
    )

    assert sorted(answer.version for answer in answers) == list(range(1, 11))


async def test_the_same_plan_put_at_once_is_one_version(world: World) -> None:
    """Ten callers who put the same plan at once all get the one version."""
    answers = await asyncio.gather(*(world.put_plan(request_id=f"put-{n}") for n in range(10)))

    assert {answer.version for answer in answers} == {1}


async def test_plans_are_listed_in_pages_by_id(world: World) -> None:
    """A list holds the newest version of each plan, in order, page by page."""
    for plan_id in ("c", "a", "b"):
        await world.put_plan(a_plan_message(f'plan_id: "{plan_id}"'), f"put-{plan_id}")
    await world.put_plan(a_plan_message(f'plan_id: "a" {FEBRUARY}'), "put-a2")

    first = await world.ask("ListPlans", messages.ListPlansRequest(page_size=2))
    second = await world.ask(
        "ListPlans", messages.ListPlansRequest(page_size=2, page_token=first.next_page_token)
    )

    assert [(plan.plan_id, plan.version) for plan in first.plans] == [("a", 2), ("b", 1)]
    assert [(plan.plan_id, plan.version) for plan in second.plans] == [("c", 1)]
    assert second.next_page_token == ""


async def test_a_page_token_that_is_none_is_refused(world: World) -> None:
    """A token from elsewhere is named as such."""
    refusal = await world.refusal("ListPlans", messages.ListPlansRequest(page_token="x"))

    assert (type(refusal), refusal.reason) == (InvalidInput, "INVALID_PAGE_TOKEN")


@pytest.mark.parametrize(
    ("version", "metadata"),
    [(0, {"plan_id": "pro"}), (7, {"plan_id": "pro", "version": "7"})],
)
async def test_a_plan_that_is_not_there_is_not_found(
    world: World, version: int, metadata: dict[str, str]
) -> None:
    """The plan, and the version if one was asked for, are named."""
    refusal = await world.refusal(
        "GetPlan", messages.GetPlanRequest(plan_id="pro", version=version)
    )

    assert (type(refusal), refusal.reason, refusal.metadata) == (
        NotFound,
        "PLAN_NOT_FOUND",
        metadata,
    )


async def test_a_bad_plan_changes_nothing(world: World) -> None:
    """Every bad field is named, and nothing is stored."""
    request = messages.PutPlanRequest(
        request_id="put-1", plan=a_plan_message('currency: "X" base_fee { value: "NaN" }')
    )

    refusal = await world.refusal("PutPlan", request)

    assert isinstance(refusal, InvalidInput)
    assert [violation.field for violation in refusal.violations] == [
        "plan.currency",
        "plan.base_fee",
    ]
    assert not (await world.ask("ListPlans", messages.ListPlansRequest())).plans


async def test_tenants_never_meet(world: World) -> None:
    """A plan of one tenant is nothing to another, who may use its id and request id."""
    await world.put_plan()
    their_plan = Parse('plan_id: "pro" currency: "EUR"', plan_pb2.Plan())

    refusal = await world.refusal("GetPlan", messages.GetPlanRequest(plan_id="pro"), "other")
    theirs = await world.put_plan(their_plan, tenant="other")

    assert refusal.reason == "PLAN_NOT_FOUND"
    assert theirs.version == 1
    ours = await world.ask("ListPlans", messages.ListPlansRequest())
    assert [plan.currency for plan in ours.plans] == ["USD"]


@pytest.mark.parametrize(
    ("method", "request_message", "scope"),
    [
        ("PutPlan", messages.PutPlanRequest(), "rating.write"),
        ("GetPlan", messages.GetPlanRequest(), "rating.read"),
        ("ListPlans", messages.ListPlansRequest(), "rating.read"),
        ("Rate", messages.RateRequest(), "rating.read"),
    ],
)
async def test_each_method_needs_its_scope(
    world: World, method: str, request_message: object, scope: str
) -> None:
    """A token without the scope is told which one it lacks."""
    others = world.token("rating.none", "meter.read", "meter.write")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.method(method)(request_message, metadata=others)

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert scope in (caught.value.details() or "")


@pytest.mark.parametrize(
    "statement", ["UPDATE rating.plan_versions SET version = 2", "DELETE FROM rating.plan_versions"]
)
async def test_a_stored_version_cannot_be_changed(
    world: World, database_url: str, statement: str
) -> None:
    """The service's own role may neither change nor remove a version."""
    await world.put_plan()
    database = Database(database_url, "rating")

    with pytest.raises(ProgrammingError, match="permission denied"):
        async with database.transaction(world.tenant) as transaction:
            await transaction.execute(text(statement))
    await database.close()
