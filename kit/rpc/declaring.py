"""Declares messages of other people's protocols at run time: only the parts that are used.

Their packages bring hundreds of files, some over those of others. Numbers and names are those of
the original, so both sides understand each other; what is left out is ignored when it comes.
"""

from collections.abc import Iterable, Mapping

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    EnumValueDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import Default

_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
    "bool": FieldDescriptorProto.TYPE_BOOL,
}
_REPEATED, _MAP, _ENUM = "repeated ", "map ", "enum "


def declare_enum(name: str, values: Mapping[str, int]) -> EnumDescriptorProto:
    """Declare an enumeration."""
    listed = [EnumValueDescriptorProto(name=each, number=values[each]) for each in values]
    return EnumDescriptorProto(name=name, value=listed)


def declare_message(
    name: str,
    fields: Mapping[str, tuple[int, str]],
    nested: Iterable[DescriptorProto] = (),
    enums: Iterable[EnumDescriptorProto] = (),
    inside: str = "",
) -> DescriptorProto:
    """Declare a message; each field has a number and a kind.

    A kind is `string`, `uint32`, `bool`, `.a.Message` or `enum .an.Enum`, or one of them behind
    `repeated `. `map ` stands before the kind of a map's values, whose keys are texts; `inside` is
    then the full name of what the message is declared in.
    """
    declared = DescriptorProto(name=name, nested_type=nested, enum_type=enums)
    for each, (number, kind) in fields.items():
        if kind.startswith(_MAP):
            entry = _map_entry(each, kind.removeprefix(_MAP))
            declared.nested_type.append(entry)
            kind = f"{_REPEATED}{inside}.{name}.{entry.name}"  # noqa: PLW2901 - what it stands for.
        declared.field.append(_field(number, each, kind))
    return declared


def declare_service(files: Iterable[FileDescriptorProto], name: str) -> ServiceDescriptor:
    """Make the files known, in their order, and answer one of their services."""
    pool = Default()
    for file in files:
        file.syntax = "proto3"
        pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(name)


def _field(number: int, name: str, kind: str) -> FieldDescriptorProto:
    is_many = kind.startswith(_REPEATED)
    kind = kind.removeprefix(_REPEATED)
    field = FieldDescriptorProto(name=name, number=number)
    field.label = FieldDescriptorProto.LABEL_REPEATED if is_many else field.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    elif kind.startswith(_ENUM):
        field.type, field.type_name = field.TYPE_ENUM, kind.removeprefix(_ENUM)
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, kind
    return field


def _map_entry(field: str, kind: str) -> DescriptorProto:
    name = "".join(part.capitalize() for part in field.split("_")) + "Entry"
    entry = declare_message(name, {"key": (1, "string"), "value": (2, kind)})
    entry.options.map_entry = True
    return entry
