"""Tenants never meet at the meter: not through a call, and not through any SQL of its role."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from google.protobuf.message import Message
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from cli.signing_keys import SigningKeys
from kit.errors import NotFound
from kit.postgres import Database
from kit.rpc.wire import render_interval
from kit.settings import ServiceSettings
from tests.meter_world import CREATED, TODAY, World, a_meter, an_event, meter_world, some_events
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

STRANGER = "stranger"
INTERVAL = render_interval(TODAY)
TABLES = ["event_identities", "events", "meters", "meter_revisions", "series", "rollups"]


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service that has a meter, events and usage of this test's tenant."""
    async with meter_world(settings_for, keys, tenant) as running:
        await running.put_meter(request_id="put")
        await running.ingest(*some_events(300))
        yield running


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The database of the service, as the service opens it."""
    opened = Database(database_url, "meter")
    yield opened
    await opened.close()


async def test_a_stranger_sees_nothing(world: World) -> None:
    """Another tenant asking for the same ids finds neither meter nor event nor usage."""
    refusals = [
        await world.refusal(method, request, STRANGER)
        for method, request in (
            ("GetMeter", messages.GetMeterRequest(meter_id="tokens")),
            ("QueryUsage", messages.QueryUsageRequest(meter_id="tokens", interval=INTERVAL)),
            ("ListEvents", messages.ListEventsRequest(meter_id="tokens")),
        )
    ]
    meters = await world.ask("ListMeters", messages.ListMetersRequest(), STRANGER)

    assert [type(refusal) for refusal in refusals] == [NotFound] * 3
    assert (list(meters.meters), await world.events(STRANGER)) == ([], [])


async def test_the_same_ids_are_other_things_for_another_tenant(world: World) -> None:
    """Events, meters and request ids of the same names do not touch those of this tenant."""
    await world.put_meter(a_meter(group_by=()), request_id="put", tenant=STRANGER)
    answer = await world.ingest(*some_events(300, quantities={"tokens": "7"}), tenant=STRANGER)

    assert set(answer.outcomes) == {CREATED}
    assert await world.usage(tenant=STRANGER) == [("acme", "2100", 300)]
    assert await world.usage() == [("acme", "3000", 300)]


async def test_a_token_of_another_tenants_page_shows_nothing(world: World) -> None:
    """A page token holds no access: it continues within the caller's own rows."""
    first = await world.ask("ListEvents", messages.ListEventsRequest(page_size=1))
    await world.ingest(an_event("e0"), an_event("zz"), tenant=STRANGER)

    answer = await world.ask(
        "ListEvents", messages.ListEventsRequest(page_token=first.next_page_token), STRANGER
    )

    assert [stored.event.event_id for stored in answer.events] == ["zz"]


@pytest.mark.parametrize("table", TABLES)
async def test_no_statement_of_the_role_reads_another_tenants_rows(
    world: World, database: Database, table: str
) -> None:
    """Row-level security hides every row, even from a statement that names no tenant."""
    counting = text(f"SELECT count(*) FROM meter.{table}")  # noqa: S608 - a name of the table above.

    async with database.transaction(world.tenant) as transaction:
        own = (await transaction.execute(counting)).scalar_one()
    async with database.transaction(STRANGER) as transaction:
        others = (await transaction.execute(counting)).scalar_one()

    assert (own > 0, others) == (True, 0)


async def test_no_statement_of_the_role_writes_another_tenants_rows(
    world: World, database: Database
) -> None:
    """Rows cannot be changed, deleted or planted across the border."""
    changing = text("UPDATE meter.rollups SET quantity = 0")
    deleting = text("DELETE FROM meter.event_identities")
    planting = text("INSERT INTO meter.meter_revisions VALUES (:tenant, 9)")

    async with database.transaction(STRANGER) as transaction:
        changed = await transaction.execute(changing)
        deleted = await transaction.execute(deleting)
    with pytest.raises(ProgrammingError, match="row-level security"):
        async with database.transaction(STRANGER) as transaction:
            await transaction.execute(planting, {"tenant": world.tenant})

    assert (changed.rowcount, deleted.rowcount) == (0, 0)
    assert await world.usage() == [("acme", "3000", 300)]


METHODS: list[tuple[str, Message, str]] = [
    ("IngestEvents", messages.IngestEventsRequest(events=[an_event()]), "meter.ingest"),
    ("PutMeter", messages.PutMeterRequest(request_id="r", meter=a_meter()), "meter.write"),
    ("GetMeter", messages.GetMeterRequest(meter_id="tokens"), "meter.read"),
    ("ListMeters", messages.ListMetersRequest(), "meter.read"),
    ("ListEvents", messages.ListEventsRequest(), "meter.read"),
    ("QueryUsage", messages.QueryUsageRequest(meter_id="tokens", interval=INTERVAL), "meter.read"),
]


@pytest.mark.parametrize(
    ("method", "request_", "scope"), METHODS, ids=[each[0] for each in METHODS]
)
async def test_each_method_needs_its_scope(
    world: World, method: str, request_: Message, scope: str
) -> None:
    """A token with every other scope is refused, and one with this scope alone is taken."""
    others = {"meter.read", "meter.write", "meter.ingest"} - {scope}
    call = getattr(world.stub, method)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(request_, metadata=world.token(*others))
    await call(request_, metadata=world.token(scope))

    assert (refused.value.code(), refused.value.details()) == (
        grpc.StatusCode.PERMISSION_DENIED,
        f"the token lacks the scope {scope}",
    )
