"""Reads the fields of YAML files; every fault is noted with its line, and reading goes on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"

Fields = Mapping[str, yaml.Node]


@dataclass(frozen=True, slots=True)
class File:
    """A file and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong in a file; lines count from 1."""

    file: str
    line: int
    description: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.description}"


class BadConfiguration(Exception):
    """Files that cannot be used, with everything that is wrong in them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))


class FieldReader:
    """Reads the fields of one file."""

    def __init__(self, file: File, faults: list[Fault]) -> None:
        self.file = file
        self.faults = faults
        self.loader = yaml.SafeLoader("")

    def root(self) -> yaml.Node | None:
        """Read the file; nothing when it is no YAML or empty."""
        try:
            self.loader = yaml.SafeLoader(self.file.text)
            root: yaml.Node | None = self.loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.note(mark, f"is no YAML: {error.problem or error.context}")
            return None
        except yaml.YAMLError as error:
            self.note(None, f"is no YAML: {first_line(error)}")
            return None
        if root is None:
            self.note(None, "is empty")
        return root

    def fields(self, node: yaml.Node, what: str, known: tuple[str, ...]) -> Fields | None:
        """Read a map whose keys are known; note those that are not, and those given twice."""
        if not isinstance(node, yaml.MappingNode):
            self.note(node.start_mark, f"{what} must be a map")
            return None
        self.loader.flatten_mapping(node)
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{TAG}str":
                self.note(key.start_mark, "the name of a field must be a text")
            elif key.value not in known:
                self.note(key.start_mark, f"unknown field {key.value!r}: {what} has no such field")
            elif key.value in fields:
                self.note(key.start_mark, f"the field {key.value} is given twice")
            else:
                fields[key.value] = value
        return fields

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        """Read a list."""
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self.note(node.start_mark, f"{what} must be a list")
        return []

    def text(self, fields: Fields, name: str) -> str:
        """Read a text, as it is written: 404 and true are texts too."""
        node = fields.get(name)
        if node is None or is_null(node):
            return ""
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        self.note(node.start_mark, f"{name} must be a text")
        return ""

    def whole(self, fields: Fields, name: str, most: int) -> int | None:
        """Read a whole number from 0 to a most."""
        node = fields.get(name)
        if node is None or is_null(node):
            return None
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        is_whole = node.tag == f"{TAG}int" and text.isascii() and text.isdigit()
        if is_whole and len(text) <= len(str(most)) and int(text) <= most:
            return int(text)
        self.note(node.start_mark, f"{name} must be a whole number up to {most}")
        return None

    def truth(self, fields: Fields, name: str) -> bool:
        """Read true or false; without the field it is false."""
        node = fields.get(name)
        if node is None or is_null(node):
            return False
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{TAG}bool":
            return bool(self.loader.construct_yaml_bool(node))
        self.note(node.start_mark, f"{name} must be true or false")
        return False

    def note(self, mark: Any, description: str) -> None:  # noqa: ANN401 - of either parser.
        """Note a fault."""
        line = 1 if mark is None else mark.line + 1
        self.faults.append(Fault(self.file.name, line, description))


def first_line(error: Exception) -> str:
    """Say what is wrong in one line."""
    return str(error).partition("\n")[0]


def is_null(node: yaml.Node) -> bool:
    """Tell whether a field is there without a value."""
    return bool(node.tag == f"{TAG}null")
