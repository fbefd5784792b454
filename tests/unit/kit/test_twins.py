"""Twins: the same messages with parts left as bytes, and these cut into their fields."""

import pytest

from kit.rpc.twins import Uncut, cut, make_twins
from tollkeeper.api.meter.v1 import cloud_event_pb2, meter_pb2, meter_service_pb2
from tollkeeper.api.type.v1.subject_pb2 import Subject

twin = make_twins(
    "tollkeeper.api.meter.v1",
    (cloud_event_pb2, meter_pb2, meter_service_pb2),
    left_as_bytes=("Rounding",),
)


def test_what_is_named_foreign_or_an_entry_is_left_as_bytes() -> None:
    """Everything else is read, and whether a part is there is still known."""
    event = meter_pb2.UsageEvent(
        event_id="e1", subject=Subject(customer_id="acme"), quantities={"tokens": "1"}
    )
    meter = meter_pb2.Meter(meter_id="m", rounding=meter_pb2.Rounding(precision=2))
    request = meter_service_pb2.IngestEventsRequest(events=[event])

    twin_request = twin("IngestEventsRequest").FromString(request.SerializeToString())
    twin_meter = twin("Meter").FromString(meter.SerializeToString())

    (twin_event,) = twin_request.events
    assert twin_event.event_id == "e1"
    assert twin_event.subject == Subject(customer_id="acme").SerializeToString()
    assert list(twin_event.quantities) == [b"\x0a\x06tokens\x12\x011"]
    assert (twin_event.HasField("subject"), twin_event.HasField("time")) == (True, False)
    assert twin_meter.rounding == b"\x10\x02"
    assert twin_request.SerializeToString() == request.SerializeToString()


def test_a_message_is_cut_into_its_fields() -> None:
    """Contents may have lengths of one or two bytes."""
    long = "x" * 300
    subject = Subject(customer_id="acme", user_id=long, run_id="r")

    assert cut(subject.SerializeToString()) == (b"\x0a\x1a\x2a", [b"acme", long.encode(), b"r"])
    assert cut(b"") == (b"", [])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x0a\x05acme", id="cut short"),
        pytest.param(b"\x0a", id="without a length"),
        pytest.param(b"\x0a\x81", id="half a length"),
        pytest.param(b"\x0a\x81\x00a", id="a length longer than it needs to be"),
        pytest.param(b"\x0a\x80\x80\x01" + b"a" * 2**14, id="a length of three bytes"),
    ],
)
def test_what_libraries_do_not_write_is_not_cut(data: bytes) -> None:
    """It is left to them to read it."""
    with pytest.raises((Uncut, IndexError)):
        cut(data)
