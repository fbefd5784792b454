"""What an operator sees of the five servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.e2e.world import SERVICES, World, running_world


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """Five servers."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    async with running_world(settings_for, keys, tenant, start) as world:
        yield world


@pytest.mark.parametrize("service", SERVICES)
async def test_health_says_serving(world: World, service: str) -> None:
    """The whole server and the service by its name are SERVING once the start is over."""
    stub = health_pb2_grpc.HealthStub(world.channels[service])
    full_name = f"tollkeeper.api.{service}.v1.{service.capitalize()}Service"

    statuses = [
        (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
        for name in ("", full_name)
    ]

    assert statuses == [health_pb2.HealthCheckResponse.SERVING] * 2


@pytest.mark.parametrize("service", SERVICES)
async def test_reflection_describes_the_contract(world: World, service: str) -> None:
    """A tool that knows nothing finds the service and its methods."""
    full_name = f"tollkeeper.api.{service}.v1.{service.capitalize()}Service"

    names, methods = await asyncio.to_thread(reflect, world.addresses[service], full_name)

    assert full_name in names
    assert methods


def reflect(address: str, full_name: str) -> tuple[list[str], list[str]]:
    """Return the services that the server lists, and the methods of one of them."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        service = DescriptorPool(database).FindServiceByName(full_name)
        return list(database.get_services()), [method.name for method in service.methods]
