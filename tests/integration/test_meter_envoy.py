"""The real Envoy reports usage by its access log: from dynamic metadata and from headers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from google.protobuf.json_format import ParseDict

from cli.signing_keys import SigningKeys
from kit.clock import ManualClock, SystemClock
from kit.interval import Interval
from kit.rpc.auth import TokenIssuer
from kit.rpc.channel import open_channel
from kit.settings import ServiceSettings
from services.meter import __main__ as meter
from services.meter.sources.envoy_messages import (
    METHOD,
    StreamAccessLogsMessage,
    StreamAccessLogsResponse,
)
from tests.integration.test_meter_streams import end_the_meters_connections, nothing_is_stored
from tests.meter_world import NOON, World, a_meter, meter_world
from tests.real_envoy import logging_envoy
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

AROUND_NOW = Interval(
    datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
)
MAPPING = """
envoy:
  source: gateway
  customer: "header:x-customer-id"
  key: "metadata:billing/key.id"
  dimensions: {model: ["metadata:billing/model", "header:x-model"]}
  quantities:
    tokens: ["metadata:billing/tokens", "response-header:x-usage-tokens"]
"""


@pytest.fixture(autouse=True)
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meters of this test read the mapping above."""
    file = tmp_path / "sources.yaml"
    file.write_text(MAPPING)
    monkeypatch.setenv("TOLLKEEPER_METER_SOURCES_CONFIG", str(file))


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service at noon."""
    async with meter_world(settings_for, keys, tenant) as running:
        await running.put_meter()
        yield running


def an_entry(request_id: str = "r1", **parts: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON.
    """Write an entry as Envoy does: a call of Acme's that used 30 tokens."""
    return {
        "common_properties": {
            "start_time": "2026-03-01T11:59:58Z",
            "duration": "2s",
            **parts.pop("common", {}),
        },
        "request": {"request_id": request_id, "request_headers": {"x-customer-id": "acme"}},
        "response": {"response_headers": {"x-usage-tokens": "30"}},
        **parts,
    }


def a_message(*entries: dict[str, Any]) -> Any:  # noqa: ANN401 - made at run time.
    """Write a message of the stream."""
    return ParseDict({"http_logs": {"log_entry": entries}}, StreamAccessLogsMessage())


async def send(world: World, messages: Iterable[Any]) -> None:
    """Send messages as Envoy does, and wait until all are taken."""
    async with open_channel(world.address) as channel:
        call: Any = channel.stream_unary(
            METHOD,
            request_serializer=StreamAccessLogsMessage.SerializeToString,
            response_deserializer=StreamAccessLogsResponse.FromString,
        )
        await call(iter(messages), metadata=world.token("meter.ingest"))


async def test_entries_are_usage_by_the_mapping(world: World) -> None:
    """Metadata comes before headers, nested keys are found, and the end decides the time."""
    metadata = {
        "filter_metadata": {"billing": {"tokens": 1200, "model": "large", "key": {"id": "k1"}}}
    }

    await send(world, [a_message(an_entry(), an_entry("r2", common={"metadata": metadata}))])

    assert await world.usage(group_by=["model"]) == [("acme ", "30", 1), ("acme large", "1200", 1)]
    first, second = (stored.event for stored in await world.events())
    assert (first.event_id, first.source) == ("r1-1772366398000000", "gateway")
    assert first.time.ToDatetime(NOON.tzinfo) == NOON
    assert dict(first.quantities) == {"requests": "1", "tokens": "30"}
    assert second.subject.key_id == "k1"


async def test_what_is_no_usage_is_left_alone(world: World) -> None:
    """Entries of running requests, and of those that used nothing, are not stored."""
    running = an_entry(common={"intermediate_log_entry": True})

    await send(world, [a_message(running, an_entry("r2", response={})), StreamAccessLogsMessage()])

    assert await world.events() == []


async def test_a_request_counts_once_and_an_old_id_is_not_free(world: World) -> None:
    """The same entry again is known; another request that took its id is another event."""
    later = an_entry(common={"start_time": "2026-03-01T11:59:59Z"})
    unnamed = [an_entry(""), an_entry("", common={"start_time": "2026-03-01T11:00:00Z"})]

    for _ in range(2):
        await send(world, [a_message(an_entry(), later, *unnamed)])

    assert await world.usage() == [("acme", "120", 4)]


async def test_a_bad_entry_does_not_spoil_the_others(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not stored; the log says how many and the first reason, by the place of the mapping."""
    bad = an_entry("r2", request={"request_id": "r2"})

    await send(world, [a_message(bad, an_entry())])

    assert await world.usage() == [("acme", "30", 1)]
    assert "customer_id (header:x-customer-id)" in capsys.readouterr().out


async def test_entries_outlast_a_database_that_is_away(
    world: World, database_url: str, tenant: str
) -> None:
    """Envoy never repeats, so what was read is stored again until it is."""
    async with nothing_is_stored(database_url, tenant):
        sending = asyncio.create_task(send(world, [a_message(an_entry())]))
        await end_the_meters_connections(database_url)
    await sending

    assert await world.usage() == [("acme", "30", 1)]


async def test_the_real_envoy_reports_what_calls_used(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    tmp_path: Path,
    database_url: str,
) -> None:
    """Calls through Envoy are usage, with headers of both sides and metadata of a filter."""
    host = await meter.build(settings_for("meter"), SystemClock())
    address = await host.start()
    issuer = TokenIssuer(keys.issuer_key())
    async with open_channel(address) as channel:
        world = World(
            MeterServiceStub(channel), issuer, tenant, ManualClock(datetime.now(UTC)), address
        )
        await world.put_meter(a_meter())
        ((_, token),) = world.token("meter.ingest")
        log = {
            "common_config": {
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": "service"},
                    "initial_metadata": [{"key": "authorization", "value": token}],
                }
            },
            "additional_request_headers_to_log": ["x-customer-id", "x-model"],
            "additional_response_headers_to_log": ["x-usage-tokens"],
        }
        async with logging_envoy(tmp_path, address, log, [_metadata_of_the_model()]) as envoy:
            for customer, model in (("acme", "large"), ("acme", "small"), ("zeta", "large")):
                await envoy.get("/", {"x-customer-id": customer, "x-model": model})
            await _until_stored(database_url, 3)
        rows = await world.usage(interval=AROUND_NOW, group_by=["model"])
    await host.stop(2)

    assert rows == [("acme large", "30", 1), ("acme small", "30", 1), ("zeta large", "30", 1)]


def _metadata_of_the_model() -> dict[str, Any]:
    """Let Envoy put the model of a header into dynamic metadata, as an AI gateway would."""
    return {
        "name": "envoy.filters.http.header_to_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.filters.http.header_to_metadata.v3.Config",
            "request_rules": [
                {
                    "header": "x-model",
                    "on_header_present": {"metadata_namespace": "billing", "key": "model"},
                    "remove": True,
                }
            ],
        },
    }


async def _until_stored(database_url: str, count: int) -> None:
    database = await asyncpg.connect(database_url)
    async with asyncio.timeout(30):
        while await database.fetchval("SELECT count(*) FROM meter.events") < count:  # noqa: ASYNC110 - only PostgreSQL knows.
            await asyncio.sleep(0.02)
    await database.close()
