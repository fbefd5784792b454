"""The requests that bring events, with each event left as the bytes that it is on the wire."""

from kit.rpc.twins import make_twins
from tollkeeper.api.meter.v1 import cloud_event_pb2, meter_pb2, meter_service_pb2

_twin = make_twins(
    "tollkeeper.api.meter.v1",
    (cloud_event_pb2, meter_pb2, meter_service_pb2),
    left_as_bytes=("UsageEvent",),
)

IngestEventsRequest = _twin("IngestEventsRequest")
REQUEST_TYPES = {
    "IngestEvents": IngestEventsRequest,
    "StreamEvents": _twin("StreamEventsRequest"),
    "ImportUsage": _twin("ImportUsageRequest"),
}
