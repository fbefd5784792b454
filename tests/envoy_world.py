"""A real facade for Envoy on a real Redis, at a present that the test may choose."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import yaml

from cli.signing_keys import SigningKeys
from kit.clock import SystemClock
from kit.errors import DomainError
from kit.hosting import Foundation
from kit.redis_pool import RedisPool
from kit.rpc.channel import open_channel
from kit.rpc.status import read_error
from kit.settings import ServiceSettings
from services.quota.envoy import counters
from services.quota.envoy.counters import shard_of, slot_of
from services.quota.envoy.facade import Listener, facade
from services.quota.envoy.messages import METHOD, RateLimitRequest, RateLimitResponse
from services.quota.envoy.rules import Match
from services.quota.envoy.settings import EnvoySettings

LIFE_S = 600


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of one descriptor; `limit` reads as `10 MINUTE`."""

    code: str
    limit: str | None = None
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class EnvoyWorld:
    """A running facade, and whoever asks it."""

    channel: grpc.aio.Channel
    address: str
    redis: RedisPool
    tenant: str
    folder: Path

    async def ask(self, request: Any, metadata: Any = None) -> Any:  # noqa: ANN401 - made at run time.
        """Ask; a failure is raised as the domain error it was."""
        try:
            return await self.call(request, metadata)
        except grpc.aio.AioRpcError as error:
            raise read_error(error) from error

    async def call(self, request: Any, metadata: Any = None) -> Any:  # noqa: ANN401 - as above.
        """Ask; a failure is raised as gRPC's."""
        call: Any = self.channel.unary_unary(
            METHOD,
            request_serializer=RateLimitRequest.SerializeToString,
            response_deserializer=RateLimitResponse.FromString,
        )
        return await call(request, metadata=metadata, timeout=10)

    async def refusal(self, request: Any, metadata: Any = None) -> DomainError:  # noqa: ANN401 - as above.
        """Ask what must fail, and answer how."""
        try:
            answer = await self.ask(request, metadata)
        except DomainError as error:
            return error
        raise AssertionError(f"answered {answer}")

    async def set_clock(self, now_s: int) -> None:
        """Choose the present of `stopped_clock`."""
        await self.redis.client.set(clock_key(self.tenant), now_s)

    def write_rules(self, *domains: Mapping[str, Any]) -> None:
        """Write a file for each domain."""
        for number, domain in enumerate(domains):
            (self.folder / f"{number}.yaml").write_text(yaml.safe_dump(dict(domain)))


def asking(domain: str, *descriptors: Mapping[str, str], hits_addend: int = 0) -> Any:  # noqa: ANN401 - as above.
    """Make a request: `asking("api", {"key": "k1"})`."""
    request = RateLimitRequest(domain=domain, hits_addend=hits_addend)
    for descriptor in descriptors:
        message = request.descriptors.add()
        for key, value in descriptor.items():
            message.entries.add(key=key, value=value)
    return request


def said(response: Any) -> list[Said]:  # noqa: ANN401 - as above.
    """Reduce an answer to what does not depend on the time of day."""
    return [said_of(status) for status in response.statuses]


def said_of(status: Any) -> Said:  # noqa: ANN401 - as above.
    """Reduce what is said of one descriptor."""
    code = RateLimitResponse.Code.Name(status.code)
    if not status.HasField("current_limit"):
        return Said(code, None, status.limit_remaining)
    limit = status.current_limit
    unit = RateLimitResponse.RateLimit.Unit.Name(limit.unit)
    return Said(code, f"{limit.requests_per_unit} {unit}", status.limit_remaining)


def clock_key(tenant: str) -> str:
    """Name the key that holds the present of a tenant's stopped clock."""
    return f"tollkeeper:test-clock:{tenant}"


def stopped_clock(folder: Path, tenant: str) -> Path:
    """Write the script with a present that the test chooses; what it keeps lives for a while.

    These are the only changes to it: Redis would forget at once what ended in 1970.
    """
    source = counters.SCRIPT.read_text()
    for ours, theirs in (
        ("redis.call('TIME')", f"{{redis.call('GET', '{clock_key(tenant)}'), '0'}}"),
        ("'EXAT', ends[index]", f"'EX', {LIFE_S}"),
    ):
        assert source.count(ours) == 1
        source = source.replace(ours, theirs)
    script = folder / "envoy.lua"
    script.write_text(source)
    return script


async def put_counter(
    world: EnvoyWorld, domain: str, match: Match, now_s: int, count: int | None, *, stops: bool
) -> None:
    """Let a counter stand where a case wants it."""
    slot = slot_of(world.tenant, domain, 0 if stops else shard_of(match.counter))
    key = f"{slot}:{match.counter}"
    if count is None:
        await world.redis.client.delete(key)
        return
    assert match.rule.limit is not None
    start_s = now_s - now_s % match.rule.limit.unit.seconds
    await world.redis.client.set(key, f"{start_s} {count}", ex=LIFE_S)


@asynccontextmanager
async def envoy_world(
    redis_url: str,
    keys: SigningKeys,
    tenant: str,
    folder: Path,
    domains: Sequence[Mapping[str, Any]],
    **settings: Any,  # noqa: ANN401 - as the settings.
) -> AsyncIterator[EnvoyWorld]:
    """Run a facade with rules for some domains; keyword arguments are settings of the facade."""
    service = ServiceSettings.model_validate(
        {
            "service": "quota",
            "listen": "127.0.0.1:0",
            "database_url": "postgresql://127.0.0.1/nobody-asks",
            "redis_url": redis_url,
            "keys_file": keys.public_file,
            "quota_decision_timeout_s": 5.0,
            "drain_s": 1.0,
        }
    )
    given = {"listen": "127.0.0.1:0", "config": folder, "tenant": tenant or None, **settings}
    clock = SystemClock()
    foundation = Foundation(service, clock)
    # No domain here is mapped to Tollkeeper's limits, so the gate is not asked.
    no_gate: Any = None
    async with AsyncExitStack() as stack:
        for number, domain in enumerate(domains):
            (folder / f"{number}.yaml").write_text(yaml.safe_dump(dict(domain)))
        stack.push_async_callback(foundation.redis.close)
        listener: Any = None
        for resource in (
            foundation.revocations,
            *facade(foundation, service, EnvoySettings.model_validate(given), no_gate, clock),
        ):
            stack.push_async_callback(resource.close)
            await resource.connect()
            listener = resource
        assert isinstance(listener, Listener)
        channel = await stack.enter_async_context(open_channel(listener.address))
        yield EnvoyWorld(channel, listener.address, foundation.redis, tenant, folder)
