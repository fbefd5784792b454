"""YAML as a tree of texts that know their line and column, for files that people write.

Every scalar stays the text that was written: nothing becomes a float, a date or a boolean on the
way. Refuses what a data file does not need and an attacker does: aliases and anchors, tags, several
documents, deep nesting, large files.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from cli.errors import CommandError

BYTES_MAX = 2**20
DEPTH_MAX = 16

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
# libyaml reads ten times as fast; PyYAML has it on every common platform.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Mark(Protocol):
    """PyYAML's mark of either implementation; it counts from 0."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file; lines and columns count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text. One that is not quoted may mean nothing: `null`, `~` or an empty value."""

    place: Place
    text: str
    is_quoted: bool

    @property
    def is_null(self) -> bool:
        """Whether it stands for nothing."""
        return not self.is_quoted and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    place: Place
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and their values, in the order they were written; a key may stand there twice."""

    place: Place
    entries: tuple[tuple[Scalar, "Node"], ...]


Node = Scalar | Sequence | Mapping


class YamlFault(CommandError):
    """A file that is no YAML, or uses what is refused; names the line and column."""

    def __init__(self, place: Place, description: str) -> None:
        super().__init__(f"{place.line}:{place.column}: {description}")
        self.place = place
        self.description = description


def read_data(path: Path) -> bytes:
    """Read a file that is not too large.

    Raises:
        CommandError: it cannot be opened, or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > BYTES_MAX:
        raise CommandError(f"{path} is too large: at most {BYTES_MAX} bytes are read")
    return data


def parse_tree(data: bytes) -> Node:
    """Parse the content of a file.

    Raises:
        YamlFault: it is no YAML, or uses what is refused.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        raise YamlFault(_end_of(before), "is not UTF-8 text") from error
    try:
        return _document(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlFault(_place(mark), f"is no YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        place = _end_of(text[: int(error.position)])
        raise YamlFault(place, "holds a character that YAML forbids") from error


def _document(events: Iterator[yaml.Event]) -> Node:
    tree: Node | None = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if tree is not None:
                raise YamlFault(_place(event.start_mark), "begins a second document: one is read")
            tree = _node(next(events), events, depth=1)
    if tree is None:
        raise YamlFault(Place(1, 1), "is empty")
    return tree


def _node(event: yaml.Event, events: Iterator[yaml.Event], depth: int) -> Node:
    place = _place(event.start_mark)
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise YamlFault(place, "anchors and aliases are not read: write the value out")
    if depth > DEPTH_MAX:
        raise YamlFault(place, f"is nested deeper than {DEPTH_MAX} levels")
    tag = getattr(event, "tag", None)
    if tag not in {None, "!"}:
        raise YamlFault(place, f"the tag {tag} is not read: write the plain value")
    if isinstance(event, yaml.ScalarEvent):
        return Scalar(place, event.value, is_quoted=bool(event.style))
    if isinstance(event, yaml.SequenceStartEvent):
        return Sequence(place, tuple(_items(events, depth + 1)))
    return Mapping(place, tuple(_entries(events, depth + 1)))


def _items(events: Iterator[yaml.Event], depth: int) -> Iterator[Node]:
    while not isinstance(event := next(events), yaml.SequenceEndEvent):
        yield _node(event, events, depth)


def _entries(events: Iterator[yaml.Event], depth: int) -> Iterator[tuple[Scalar, Node]]:
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _node(event, events, depth)
        if not isinstance(key, Scalar):
            raise YamlFault(key.place, "a key must be a plain text")
        yield key, _node(next(events), events, depth)


def _place(mark: _Mark | None) -> Place:
    assert mark is not None, "PyYAML marks every event of a text"
    return Place(mark.line + 1, mark.column + 1)


def _end_of(text: str) -> Place:
    return Place(text.count("\n") + 1, len(text) - text.rfind("\n"))
