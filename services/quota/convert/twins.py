"""The messages of the contract, with small parts left as the bytes they are on the wire.

A gateway sends the same few subjects, dimensions and amounts again and again. Where they stay
bytes, what they say is looked up instead of read, and a part of an answer that was written before
is put in as it is. The twins are made of the contract's own descriptors, so that they never differ
from it: messages of other packages, amounts, statuses of limits, entries of maps, and the reserves
and commits of a session are bytes, everything else is the same. Refuses nothing: bytes that are no
message are found when they are read.
"""

from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from tollkeeper.api.quota.v1 import quota_pb2, quota_service_pb2

_PACKAGE = "tollkeeper.api.quota.v1"
_LEFT_AS_BYTES = frozenset(
    f".{_PACKAGE}.{name}" for name in ("Amount", "LimitStatus", "ReserveRequest", "CommitRequest")
)


def _left_as_bytes(message: DescriptorProto) -> None:
    for field in message.field:
        is_message = field.type == FieldDescriptorProto.TYPE_MESSAGE
        is_foreign = not field.type_name.startswith(f".{_PACKAGE}.")
        is_entry = field.type_name.startswith(f".{_PACKAGE}.{message.name}.")
        if is_message and (is_foreign or is_entry or field.type_name in _LEFT_AS_BYTES):
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("type_name")
            if field.label != FieldDescriptorProto.LABEL_REPEATED and not field.HasField(
                "oneof_index"
            ):
                # As of a message, it is known whether the field is there.
                field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
    del message.nested_type[:]


def _twins() -> DescriptorPool:
    twins = FileDescriptorProto(name="twins.proto", package=_PACKAGE, syntax="proto3")
    for module in (quota_pb2, quota_service_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        twins.message_type.extend(file.message_type)
        twins.enum_type.extend(file.enum_type)
    for message in twins.message_type:
        _left_as_bytes(message)
    pool = DescriptorPool()
    pool.Add(twins)
    return pool


_POOL = _twins()


def _twin(name: str) -> Any:  # noqa: ANN401 - made at run time.
    return GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


SessionRequest = _twin("SessionRequest")
SessionResponse = _twin("SessionResponse")
GetBalancesResponse = _twin("GetBalancesResponse")
LimitStatus = _twin("LimitStatus")
