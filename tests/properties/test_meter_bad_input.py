"""Whatever is sent to the meter, it answers: what is bad by naming it, and nothing breaks.

Messages are drawn from the contract itself, each field good, extreme or nonsense. `make
test-meter-bad-input` sends many more than CI does.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cli.signing_keys import SigningKeys
from kit.settings import ServiceSettings
from tests.meter_world import NOON, World, a_meter, an_event, meter_world
from tollkeeper.api.meter.v1 import meter_service_pb2 as wire

METHODS = [
    method
    for method in wire.DESCRIPTOR.services_by_name["MeterService"].methods
    if not method.client_streaming and method.name != "WatchUsage"
]
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
}
DEPTH_MAX = 4
SECONDS = int(NOON.timestamp())

GOOD = ("", "acme", "tokens", "gateway", "e1", "llm.call", "model", "small", "1", "10.5", "r1")
NONSENSE = ("1e400", "-1", "NaN", "\0", "'; --", "a\nb\tc", "\\", "{}", "%s", "(" * 400, "x" * 999)
SPECIAL = ("Europe/Berlin", "quantities.tokens", "add(quantities.tokens, 1)", "subject.user_id")
texts = st.one_of(st.sampled_from((*GOOD, *NONSENSE, *SPECIAL)), st.text(max_size=20))
whole = st.one_of(
    st.sampled_from(
        [0, 1, 2, 3, 15, 100, 1_000, SECONDS - 3_600, SECONDS, SECONDS + 60, 2**31 - 1]
    ),
    st.integers(-5, 5),
)
very_whole = st.one_of(
    whole, st.sampled_from([-(2**63), 2**63 - 1, 253_402_300_800, -62_135_596_801])
)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: texts,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT64: very_whole,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=20),
}


def values(field: Any, depth: int) -> st.SearchStrategy[Any]:  # noqa: ANN401 - of any field.
    """Draw values of a field, good and bad."""
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return messages(field.message_type, depth + 1)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return st.one_of(st.sampled_from([each.number for each in field.enum_type.values]), whole)
    return SCALARS.get(field.type, whole)


@st.composite
def messages(draw: st.DrawFn, descriptor: Any, depth: int = 0) -> Any:  # noqa: ANN401 - of any message.
    """Draw a message of any fields."""
    message: Any = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        nested = field.type == FieldDescriptor.TYPE_MESSAGE
        if (nested and depth >= DEPTH_MAX) or not draw(st.integers(0, 4)):
            continue
        if nested and field.message_type.GetOptions().map_entry:
            _fill_map(draw, getattr(message, field.name), field.message_type, depth)
        elif field.is_repeated:
            drawn = draw(st.lists(values(field, depth), max_size=3))
            getattr(message, field.name).extend(drawn)
        elif nested:
            getattr(message, field.name).CopyFrom(draw(values(field, depth)))
        else:
            setattr(message, field.name, draw(values(field, depth)))
    return message


def _fill_map(draw: st.DrawFn, entries: Any, entry: Any, depth: int) -> None:  # noqa: ANN401 - of any map.
    value = entry.fields_by_name["value"]
    for key in draw(st.lists(texts, max_size=3)):
        if value.type == FieldDescriptor.TYPE_MESSAGE:
            entries[key].CopyFrom(draw(values(value, depth)))
        else:
            entries[key] = draw(values(value, depth))


@pytest.fixture
async def world(
    settings_for: Callable[..., ServiceSettings], keys: SigningKeys, tenant: str
) -> AsyncIterator[World]:
    """A meter service with a meter and an event, so that questions may find something."""
    async with meter_world(settings_for, keys, tenant) as running:
        await running.put_meter(a_meter())
        await running.ingest(an_event())
        yield running


async def status_of(world: World, name: str, request: Message) -> grpc.StatusCode:
    """Call a method, and answer how it ended."""
    call = getattr(world.stub, name)(request, metadata=world.token())
    if isinstance(call, grpc.aio.UnaryStreamCall):
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK
    code: grpc.StatusCode = await call.code()
    return code


@settings(
    max_examples=int(os.environ.get("METER_BAD_INPUT_EXAMPLES", "40")),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
async def test_whatever_is_asked_is_answered_or_refused(world: World, data: st.DataObject) -> None:
    """Nothing ends as an internal error, and the service goes on."""
    method = data.draw(st.sampled_from(METHODS), label="method")
    request = data.draw(messages(method.input_type), label="request")

    status = await status_of(world, method.name, request)

    assert status in {grpc.StatusCode.OK, *REFUSALS}, (method.name, request)
