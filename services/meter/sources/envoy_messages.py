"""The messages of `envoy.service.accesslog.v3`, of which only the parts used here are declared.

`docs/decisions/0016-envoy-rate-limit-service.md` says why they are not taken from a package.
"""

from typing import Any

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.message_factory import GetMessageClass

from kit.rpc.declaring import declare_message, declare_service

_CORE = "envoy.config.core.v3"
_DATA = "envoy.data.accesslog.v3"
_SERVICE = "envoy.service.accesslog.v3"
_DURATION = ".google.protobuf.Duration"


def _core_file() -> FileDescriptorProto:
    metadata = declare_message(
        "Metadata", {"filter_metadata": (1, "map .google.protobuf.Struct")}, inside=f".{_CORE}"
    )
    return FileDescriptorProto(
        name="tollkeeper/envoy/metadata.proto",
        package=_CORE,
        dependency=[struct_pb2.DESCRIPTOR.name],
        message_type=[metadata],
    )


def _data_file() -> FileDescriptorProto:
    common = declare_message(
        "AccessLogCommon",
        {
            "start_time": (5, ".google.protobuf.Timestamp"),
            "time_to_last_downstream_tx_byte": (12, _DURATION),
            "metadata": (17, f".{_CORE}.Metadata"),
            "duration": (23, _DURATION),
            "intermediate_log_entry": (26, "bool"),
        },
    )
    inside = f".{_DATA}"
    request = declare_message(
        "HTTPRequestProperties",
        {"request_id": (9, "string"), "request_headers": (13, "map string")},
        inside=inside,
    )
    response = declare_message(
        "HTTPResponseProperties",
        {"response_headers": (4, "map string"), "response_trailers": (5, "map string")},
        inside=inside,
    )
    entry = declare_message(
        "HTTPAccessLogEntry",
        {
            "common_properties": (1, f".{_DATA}.AccessLogCommon"),
            "request": (3, f".{_DATA}.HTTPRequestProperties"),
            "response": (4, f".{_DATA}.HTTPResponseProperties"),
        },
    )
    return FileDescriptorProto(
        name="tollkeeper/envoy/access_log.proto",
        package=_DATA,
        dependency=[
            "tollkeeper/envoy/metadata.proto",
            duration_pb2.DESCRIPTOR.name,
            timestamp_pb2.DESCRIPTOR.name,
        ],
        message_type=[common, request, response, entry],
    )


def _service_file() -> FileDescriptorProto:
    inside = f".{_SERVICE}.StreamAccessLogsMessage"
    entries = declare_message(
        "HTTPAccessLogEntries", {"log_entry": (1, f"repeated .{_DATA}.HTTPAccessLogEntry")}
    )
    request = declare_message(
        "StreamAccessLogsMessage", {"http_logs": (2, f"{inside}.HTTPAccessLogEntries")}, [entries]
    )
    response = declare_message("StreamAccessLogsResponse", {})
    method = MethodDescriptorProto(
        name="StreamAccessLogs",
        input_type=inside,
        output_type=f".{_SERVICE}.StreamAccessLogsResponse",
        client_streaming=True,
    )
    return FileDescriptorProto(
        name="tollkeeper/envoy/access_log_service.proto",
        package=_SERVICE,
        dependency=["tollkeeper/envoy/access_log.proto"],
        message_type=[request, response],
        service=[ServiceDescriptorProto(name="AccessLogService", method=[method])],
    )


_FILES = (_core_file(), _data_file(), _service_file())

SERVICE = declare_service(_FILES, f"{_SERVICE}.AccessLogService")
METHOD = f"/{SERVICE.full_name}/StreamAccessLogs"

_STREAM = SERVICE.methods_by_name["StreamAccessLogs"]
# Messages made at run time have no types that a checker knows.
StreamAccessLogsMessage: Any = GetMessageClass(_STREAM.input_type)
StreamAccessLogsResponse: Any = GetMessageClass(_STREAM.output_type)
