"""Law: a call of a session is read from its twin as it would be read from itself."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import InvalidInput
from services.quota.convert.calls import parse_session_call
from services.quota.convert.session_calls import read_session_call
from services.quota.convert.twins import SessionRequest
from services.quota.model import Call
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire
from tollkeeper.api.type.v1 import subject_pb2

IDS = st.sampled_from(["acme", "acme", "acme", "acme-2", "", "not an id", "x" * 65])
SUBJECTS = st.none() | st.builds(
    subject_pb2.Subject, customer_id=IDS, project_id=IDS, key_id=st.sampled_from(["", "k1"])
)
DIMENSIONS = st.dictionaries(
    st.sampled_from(["model", "route", "a", "zone", "", "m" * 129]),
    st.sampled_from(["", "large", "v" * 129]),
    max_size=4,
)
AMOUNTS = st.lists(
    st.builds(
        quota_pb2.Amount,
        unit=st.sampled_from(["input_tokens", "requests", "USD", "seconds", "Bad Unit", ""]),
        quantity=st.sampled_from([0, 1, 1200, 10**15, 10**15 + 1, -1]),
    ),
    max_size=3,
)
ESTIMATES = st.lists(
    st.builds(
        wire.Estimate,
        unit=st.sampled_from(["output_tokens", "requests", "Bad Unit"]),
        max_quantity=st.sampled_from([0, 4096, -1]),
        route=st.sampled_from(["", "chat", "x" * 129]),
    ),
    max_size=2,
)
COMMIT_FIELDS = {"request_id", "reservation_id", "amounts", "subject", "dimensions"}
RESERVE_FIELDS = {
    *("request_id", "subject", "dimensions", "amounts"),
    *("ttl", "min_amounts", "mode", "estimates"),
}
REQUEST_IDS = st.sampled_from(["r1", "r1", "r1", "r2", "", "x" * 129, "line\n"])
HOLDS = st.sampled_from(["", "hold-1.acme", "hold-1.acme-2", "nonsense"])
TTLS = st.none() | st.sampled_from([0, 50, 100, 60_000, 25 * 60 * 60 * 1000])


@st.composite
def reserves(draw: st.DrawFn) -> wire.SessionCall:
    """Draw reserves, of which some are not valid."""
    request = wire.ReserveRequest(
        request_id=draw(REQUEST_IDS),
        subject=draw(SUBJECTS),
        dimensions=draw(DIMENSIONS),
        amounts=draw(AMOUNTS),
        min_amounts=draw(st.just([]) | AMOUNTS),
        estimates=draw(st.just([]) | ESTIMATES),
        mode=draw(st.sampled_from([0, 0, 1, 2, 7])),  # type: ignore[arg-type] # as old clients may.
    )
    assert set(request.DESCRIPTOR.fields_by_name) == RESERVE_FIELDS, "each must be drawn here"
    ttl_ms = draw(TTLS)
    if ttl_ms is not None:
        request.ttl.FromMilliseconds(ttl_ms)
    return wire.SessionCall(call_id=1, reserve=request)


@st.composite
def commits(draw: st.DrawFn) -> wire.SessionCall:
    """Draw commits, of which some are not valid."""
    request = wire.CommitRequest(
        request_id=draw(REQUEST_IDS),
        reservation_id=draw(HOLDS),
        subject=draw(SUBJECTS),
        dimensions=draw(DIMENSIONS),
        amounts=draw(AMOUNTS),
    )
    assert set(request.DESCRIPTOR.fields_by_name) == COMMIT_FIELDS, "each must be drawn here"
    return wire.SessionCall(call_id=1, commit=request)


OTHERS = st.sampled_from(
    [
        wire.SessionCall(call_id=1),
        wire.SessionCall(release=wire.ReleaseRequest(request_id="r1", reservation_id="h.acme")),
        wire.SessionCall(release=wire.ReleaseRequest(reservation_id="h.acme")),
        wire.SessionCall(check=wire.CheckRequest(subject=subject_pb2.Subject(customer_id="acme"))),
    ]
)


@given(reserves() | commits() | OTHERS)
def test_a_call_is_read_from_its_twin_as_from_itself(call: wire.SessionCall) -> None:
    """With the same fingerprint, so that a unary call may repeat it; and refused for the same."""
    request = SessionRequest.FromString(wire.SessionRequest(calls=[call]).SerializeToString())

    (twin,) = request.calls
    assert read(lambda twin: read_session_call(twin)[0], twin) == read(parse_session_call, call)


@given(reserves() | commits(), st.data())
def test_fields_may_come_in_any_order_and_again(
    call: wire.SessionCall, data: st.DataObject
) -> None:
    """As the contract's library reads them, although it never writes them so."""
    name = call.WhichOneof("call")
    assert name is not None
    request = getattr(call, name)
    parts = [written_alone(request, field.name) for field, _ in request.ListFields()]
    drawn = data.draw(st.permutations(parts)) + data.draw(st.just([]) | st.permutations(parts))
    cut = b"".join(drawn)[: data.draw(st.just(None) | st.integers(0, 300))]
    twin = SessionRequest().calls.add(call_id=1, **{name: cut})
    try:
        message = wire.SessionCall.FromString(twin.SerializeToString())
    except DecodeError:
        refused = read(lambda twin: read_session_call(twin)[0], twin)
        assert refused == ("INVALID_FIELD", ())
    else:
        assert read(lambda twin: read_session_call(twin)[0], twin) == read(
            parse_session_call, message
        )


def written_alone(request: Message, name: str) -> bytes:
    """Write one field of a message."""
    alone = deepcopy(request)
    for field, _ in request.ListFields():
        if field.name != name:
            alone.ClearField(field.name)
    return alone.SerializeToString()


def read(parse: Callable[[Any], Call], message: object) -> Call | tuple[object, ...]:
    """Read a call, or say why it is refused."""
    try:
        return parse(message)
    except InvalidInput as error:
        return error.reason, error.violations
