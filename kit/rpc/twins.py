"""Twins: messages of a contract, with parts of them left as the bytes they are on the wire.

Where the same parts come again and again, what they say can then be looked up instead of read, and
a part that was written before put in as it is. Twins are made of the contract's own descriptors, so
that they never differ from it. Refuses nothing: bytes that are no message are found when they are
read. A part is cut into its fields only where it is written as protobuf's libraries write it.
"""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

# A byte of a length has seven bits of it, and one that says whether more follow.
_MORE = 0x80


class Uncut(Exception):
    """A part is not written in the way that can be cut."""


def make_twins(
    package: str, modules: Iterable[ModuleType], left_as_bytes: Iterable[str]
) -> Callable[[str], Any]:
    """Make twins of the messages of a package, and answer how one is had by its name.

    Messages of other packages, entries of maps and what is `left_as_bytes`, names of messages, are
    bytes; everything else is the same.
    """
    twins = FileDescriptorProto(name="twins.proto", package=package, syntax="proto3")
    for module in modules:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        twins.message_type.extend(file.message_type)
        twins.enum_type.extend(file.enum_type)
    named = frozenset(f".{package}.{name}" for name in left_as_bytes)
    for message in twins.message_type:
        _leave_as_bytes(message, f".{package}.", named)
    pool = DescriptorPool()
    pool.Add(twins)
    return lambda name: GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))


def cut(data: bytes) -> tuple[bytes, list[bytes]]:
    """Cut a message into fields that are bytes, and give their tags and contents.

    Raises:
        Uncut: a length has more than two bytes, or more than it needs; or a field is cut short.
        IndexError: a field is cut short.
    """
    tags, fields = bytearray(), []
    at, size = 0, len(data)
    while at < size:
        tags.append(data[at])
        start, length = at + 2, data[at + 1]
        if length >= _MORE:
            high = data[start]
            if not 0 < high < _MORE:
                raise Uncut
            length += (high << 7) - _MORE
            start += 1
        at = start + length
        fields.append(data[start:at])
    if at != size:
        raise Uncut
    return bytes(tags), fields


def _leave_as_bytes(message: DescriptorProto, prefix: str, named: frozenset[str]) -> None:
    for field in message.field:
        is_message = field.type == FieldDescriptorProto.TYPE_MESSAGE
        is_foreign = not field.type_name.startswith(prefix)
        is_entry = field.type_name.startswith(f"{prefix}{message.name}.")
        if is_message and (is_foreign or is_entry or field.type_name in named):
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("type_name")
            if field.label != FieldDescriptorProto.LABEL_REPEATED and not field.HasField(
                "oneof_index"
            ):
                # As of a message, it is known whether the field is there.
                field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
    del message.nested_type[:]
