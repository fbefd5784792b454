"""JSON Schemas of the files in which people write messages of the contract.

A schema says of a file what `cli.contract_files` takes, with the contract's own comments: what the
service sets has no place in a file, what the contract calls required is required. Refuses to say
more than the contract does: bounds and what may stand together are the services' to check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2 as descriptors

Schema = dict[str, Any]

_FIELD = descriptors.FieldDescriptorProto
_MESSAGE_FIELDS_OF_A_FILE = 4
_ENUMS_OF_A_FILE = 5
_FIELDS_OF_A_MESSAGE = 2
_ONEOFS_OF_A_MESSAGE = 8
_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")
_TEXT: Schema = {"type": ["string", "number"]}
_KNOWN: dict[str, Schema] = {
    ".google.type.Decimal": {
        "type": ["number", "string", "null"],
        "pattern": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$",
    },
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": "^[0-9]{1,9}(ms|s|m|h|d)$"},
    ".tollkeeper.api.meter.v1.DimensionValues": {
        "anyOf": [_TEXT, {"type": "array", "items": _TEXT}]
    },
}
_SCALARS: dict[int, Schema] = {
    _FIELD.TYPE_STRING: _TEXT,
    _FIELD.TYPE_BOOL: {"type": "boolean"},
    _FIELD.TYPE_INT32: {"type": "integer"},
    _FIELD.TYPE_INT64: {"type": "integer"},
}


def write_schema(image: descriptors.FileDescriptorSet, message: str, title: str) -> str:
    """Write the schema of a file that holds a message, whose full name is given."""
    contract = _Contract.of(image)
    root = contract.message(f".{message}")
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **root,
        "$defs": dict(sorted(contract.definitions.items())),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


@dataclass
class _Contract:
    """The messages and enums of an image by their full names, with their comments."""

    messages: dict[str, descriptors.DescriptorProto] = field(default_factory=dict)
    enums: dict[str, descriptors.EnumDescriptorProto] = field(default_factory=dict)
    comments: dict[tuple[str, str], str] = field(default_factory=dict)
    definitions: dict[str, Schema] = field(default_factory=dict)

    @classmethod
    def of(cls, image: descriptors.FileDescriptorSet) -> _Contract:
        contract = cls()
        for file in image.file:
            contract._take(file)
        return contract

    def _take(self, file: descriptors.FileDescriptorProto) -> None:
        by_path = {
            tuple(location.path): _sentence(location.leading_comments)
            for location in file.source_code_info.location
        }
        for index, enum in enumerate(file.enum_type):
            name = f".{file.package}.{enum.name}"
            self.enums[name] = enum
            self.comments[name, ""] = by_path.get((_ENUMS_OF_A_FILE, index), "")
        for index, message in enumerate(file.message_type):
            name = f".{file.package}.{message.name}"
            self.messages[name] = message
            path = (_MESSAGE_FIELDS_OF_A_FILE, index)
            self.comments[name, ""] = by_path.get(path, "")
            for number, each in enumerate(message.field):
                comment = by_path.get((*path, _FIELDS_OF_A_MESSAGE, number), "")
                self.comments[name, each.name] = comment
            for number, oneof in enumerate(message.oneof_decl):
                comment = by_path.get((*path, _ONEOFS_OF_A_MESSAGE, number), "")
                self.comments[name, oneof.name] = comment

    def message(self, name: str) -> Schema:
        """Describe a message as a mapping of its fields."""
        message = self.messages[name]
        written = [
            each
            for each in message.field
            if not self.comments[name, each.name].endswith("Set by the service.")
        ]
        schema: Schema = {
            "description": self.comments[name, ""],
            "type": "object",
            "properties": {each.name: self._field(name, each) for each in written},
            "additionalProperties": False,
        }
        required = [
            each.name for each in written if self.comments[name, each.name].endswith("Required.")
        ]
        if required:
            schema["required"] = required
        choices = list(self._choices(name, message))
        if choices:
            schema["oneOf"] = [{"required": [choice]} for choice in choices]
        return schema

    def _choices(self, name: str, message: descriptors.DescriptorProto) -> Iterator[str]:
        """Name the fields of which exactly one is required."""
        for each in message.field:
            if each.HasField("oneof_index") and not each.proto3_optional:
                oneof = message.oneof_decl[each.oneof_index]
                if self.comments[name, oneof.name].endswith("Required."):
                    yield each.name

    def _field(self, name: str, each: descriptors.FieldDescriptorProto) -> Schema:
        description = {"description": self.comments[name, each.name]}
        entry = self._map_entry(name, each)
        if entry is not None:
            return {**description, "type": "object", "additionalProperties": self._type(entry)}
        if each.label == _FIELD.LABEL_REPEATED:
            return {**description, "type": "array", "items": self._type(each)}
        return {**description, **self._type(each)}

    def _map_entry(
        self, name: str, each: descriptors.FieldDescriptorProto
    ) -> descriptors.FieldDescriptorProto | None:
        """Find what a map holds; nothing where the field is none."""
        for nested in self.messages[name].nested_type:
            if nested.options.map_entry and each.type_name == f"{name}.{nested.name}":
                return next(part for part in nested.field if part.name == "value")
        return None

    def _type(self, each: descriptors.FieldDescriptorProto) -> Schema:
        if each.type == _FIELD.TYPE_ENUM:
            return self._refer(each.type_name, self._enum)
        if each.type == _FIELD.TYPE_MESSAGE:
            if each.type_name in _KNOWN:
                return _KNOWN[each.type_name]
            return self._refer(each.type_name, self.message)
        return _SCALARS[each.type]

    def _refer(self, name: str, describe: Any) -> Schema:  # noqa: ANN401 - one of two methods.
        short = name.rpartition(".")[2]
        if short not in self.definitions:
            self.definitions[short] = {}
            self.definitions[short] = describe(name)
        return {"$ref": f"#/$defs/{short}"}

    def _enum(self, name: str) -> Schema:
        """Name the values as files do: AGGREGATION_SUM is `sum`; zero has no word."""
        enum = self.enums[name]
        prefix = f"{_WORD_START.sub('_', enum.name).upper()}_"
        words = [value.name.removeprefix(prefix).lower() for value in enum.value if value.number]
        return {"description": self.comments[name, ""], "enum": words}


def _sentence(comment: str) -> str:
    return " ".join(comment.split())
