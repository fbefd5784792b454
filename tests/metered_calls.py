"""Calls that the gate decides and the meter stores, as a gateway makes them."""

from datetime import UTC, datetime
from itertools import count
from typing import Any

from kit.rpc.channel import open_channel
from tests.meter_world import an_event
from tests.quota_world import QuotaWorld, a_commit, a_reserve, subject
from tollkeeper.api.meter.v1.meter_service_pb2 import IngestEventsRequest
from tollkeeper.api.meter.v1.meter_service_pb2_grpc import MeterServiceStub

_numbers = count()


async def use(world: QuotaWorld, meter: str, tokens: int, **ids: str) -> Any:  # noqa: ANN401 - an answer.
    """Make a call that is committed at the gate and stored by the meter, if the gate lets it."""
    held = await world.ask("Reserve", a_reserve(tokens, request="", ttl_ms=0, **ids))
    if held.reservation_id:
        await world.ask("Commit", a_commit(held.reservation_id, tokens))
        await store(world, meter, tokens, **ids)
    return held


async def store(world: QuotaWorld, meter: str, tokens: int, **ids: str) -> str:
    """Store an event of now that the gate did not see, and answer its id."""
    event = an_event(
        f"event-{next(_numbers)}",
        time=datetime.now(UTC),
        dimensions={},
        quantities={"tokens": str(tokens)},
    )
    event.subject.CopyFrom(subject(**ids))
    await tell(world, meter, "IngestEvents", IngestEventsRequest(events=[event]))
    return event.event_id


async def tell(world: QuotaWorld, meter: str, method: str, request: Any) -> Any:  # noqa: ANN401 - any message.
    """Call the meter."""
    async with open_channel(meter) as channel:
        stub: Any = MeterServiceStub(channel)
        metadata = world.token("meter.ingest", "meter.write")
        return await getattr(stub, method)(request, metadata=metadata)
