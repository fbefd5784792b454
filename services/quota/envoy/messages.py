"""The messages of `envoy.service.ratelimit.v3`, of which only the parts used here are declared.

Beside them are those of `kuadrant.service.ratelimit.v1`, which are made of them.

They are declared here and not taken from the package `xds-protos`, because that one installs files
over those of googleapis-common-protos, opentelemetry-proto and the CEL evaluator. Numbers and names
are those of Envoy's API, so both sides understand each other; fields left out are ignored.
"""

from typing import Any

from google.protobuf import duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from google.protobuf.message_factory import GetMessageClass

from kit.rpc.declaring import declare_enum, declare_message, declare_service

_CORE = "envoy.config.core.v3"
_TYPE = "envoy.type.v3"
_COMMON = "envoy.extensions.common.ratelimit.v3"
_SERVICE = "envoy.service.ratelimit.v3"
_KUADRANT = "kuadrant.service.ratelimit.v1"

_UNITS = {"UNKNOWN": 0, "SECOND": 1, "MINUTE": 2, "HOUR": 3, "DAY": 4, "MONTH": 5, "YEAR": 6}


def _header_file() -> FileDescriptorProto:
    header = declare_message("HeaderValue", {"key": (1, "string"), "value": (2, "string")})
    return FileDescriptorProto(
        name="tollkeeper/envoy/header.proto", package=_CORE, message_type=[header]
    )


def _unit_file() -> FileDescriptorProto:
    return FileDescriptorProto(
        name="tollkeeper/envoy/unit.proto",
        package=_TYPE,
        enum_type=[declare_enum("RateLimitUnit", _UNITS)],
    )


def _descriptor_file() -> FileDescriptorProto:
    entry = declare_message("Entry", {"key": (1, "string"), "value": (2, "string")})
    override = declare_message(
        "RateLimitOverride",
        {"requests_per_unit": (1, "uint32"), "unit": (2, f"enum .{_TYPE}.RateLimitUnit")},
    )
    inside = f".{_COMMON}.RateLimitDescriptor"
    descriptor = declare_message(
        "RateLimitDescriptor",
        {
            "entries": (1, f"repeated {inside}.Entry"),
            "limit": (2, f"{inside}.RateLimitOverride"),
            "hits_addend": (3, ".google.protobuf.UInt64Value"),
        },
        (entry, override),
    )
    return FileDescriptorProto(
        name="tollkeeper/envoy/descriptor.proto",
        package=_COMMON,
        dependency=["tollkeeper/envoy/unit.proto", wrappers_pb2.DESCRIPTOR.name],
        message_type=[descriptor],
    )


def _service_file() -> FileDescriptorProto:
    request = declare_message(
        "RateLimitRequest",
        {
            "domain": (1, "string"),
            "descriptors": (2, f"repeated .{_COMMON}.RateLimitDescriptor"),
            "hits_addend": (3, "uint32"),
        },
    )
    method = MethodDescriptorProto(
        name="ShouldRateLimit",
        input_type=f".{_SERVICE}.RateLimitRequest",
        output_type=f".{_SERVICE}.RateLimitResponse",
    )
    return FileDescriptorProto(
        name="tollkeeper/envoy/service.proto",
        package=_SERVICE,
        dependency=[
            "tollkeeper/envoy/header.proto",
            "tollkeeper/envoy/descriptor.proto",
            duration_pb2.DESCRIPTOR.name,
            struct_pb2.DESCRIPTOR.name,
        ],
        message_type=[request, _response()],
        service=[ServiceDescriptorProto(name="RateLimitService", method=[method])],
    )


def _response() -> DescriptorProto:
    inside = f".{_SERVICE}.RateLimitResponse"
    limit = declare_message(
        "RateLimit",
        {
            "requests_per_unit": (1, "uint32"),
            "unit": (2, f"enum {inside}.RateLimit.Unit"),
            "name": (3, "string"),
        },
        enums=(declare_enum("Unit", {**_UNITS, "WEEK": 7}),),
    )
    status = declare_message(
        "DescriptorStatus",
        {
            "code": (1, f"enum {inside}.Code"),
            "current_limit": (2, f"{inside}.RateLimit"),
            "limit_remaining": (3, "uint32"),
            "duration_until_reset": (4, ".google.protobuf.Duration"),
        },
    )
    header = f"repeated .{_CORE}.HeaderValue"
    return declare_message(
        "RateLimitResponse",
        {
            "overall_code": (1, f"enum {inside}.Code"),
            "statuses": (2, f"repeated {inside}.DescriptorStatus"),
            "response_headers_to_add": (3, header),
            "request_headers_to_add": (4, header),
            "dynamic_metadata": (6, ".google.protobuf.Struct"),
        },
        (limit, status),
        (declare_enum("Code", {"UNKNOWN": 0, "OK": 1, "OVER_LIMIT": 2}),),
    )


def _kuadrant_file() -> FileDescriptorProto:
    """Declare `kuadrantrls.proto` of Limitador's server."""
    descriptors = (2, f"repeated .{_COMMON}.RateLimitDescriptor")
    messages = [
        declare_message(
            "ReserveRequest",
            {
                "domain": (1, "string"),
                "descriptors": descriptors,
                "amount": (3, "uint64"),
                "ttl": (4, ".google.protobuf.Duration"),
            },
        ),
        declare_message(
            "ReserveResponse",
            {
                "code": (1, f"enum .{_SERVICE}.RateLimitResponse.Code"),
                "reservation_id": (2, "string"),
            },
        ),
        declare_message(
            "CommitRequest",
            {
                "domain": (1, "string"),
                "descriptors": descriptors,
                "reservation_id": (3, "string"),
                "actual_amount": (4, "uint64"),
            },
        ),
        declare_message("CommitResponse", {"reservation_released": (1, "bool")}),
    ]
    as_envoy = (f".{_SERVICE}.RateLimitRequest", f".{_SERVICE}.RateLimitResponse")
    methods = {
        "CheckRateLimit": as_envoy,
        "Report": as_envoy,
        "Reserve": (f".{_KUADRANT}.ReserveRequest", f".{_KUADRANT}.ReserveResponse"),
        "Commit": (f".{_KUADRANT}.CommitRequest", f".{_KUADRANT}.CommitResponse"),
    }
    listed = [
        MethodDescriptorProto(name=name, input_type=asked, output_type=answered)
        for name, (asked, answered) in methods.items()
    ]
    return FileDescriptorProto(
        name="tollkeeper/envoy/kuadrant.proto",
        package=_KUADRANT,
        dependency=[
            "tollkeeper/envoy/descriptor.proto",
            "tollkeeper/envoy/service.proto",
            duration_pb2.DESCRIPTOR.name,
        ],
        message_type=messages,
        service=[ServiceDescriptorProto(name="RateLimitService", method=listed)],
    )


_FILES = (_header_file(), _unit_file(), _descriptor_file(), _service_file())

SERVICE = declare_service(_FILES, f"{_SERVICE}.RateLimitService")
KUADRANT_SERVICE = declare_service((_kuadrant_file(),), f"{_KUADRANT}.RateLimitService")
METHOD = f"/{SERVICE.full_name}/ShouldRateLimit"

_SHOULD_RATE_LIMIT = SERVICE.methods_by_name["ShouldRateLimit"]
# Messages made at run time have no types that a checker knows.
RateLimitRequest: Any = GetMessageClass(_SHOULD_RATE_LIMIT.input_type)
RateLimitResponse: Any = GetMessageClass(_SHOULD_RATE_LIMIT.output_type)
_KUADRANT_METHODS = KUADRANT_SERVICE.methods_by_name
KuadrantReserveResponse: Any = GetMessageClass(_KUADRANT_METHODS["Reserve"].output_type)
KuadrantCommitResponse: Any = GetMessageClass(_KUADRANT_METHODS["Commit"].output_type)
