"""Reads the YAML files of envoyproxy/ratelimit, and names every fault with its line.

A file holds one domain. Stricter than the original in one thing: a field is accepted only where it
has a meaning, so that `unit` beside `rate_limit`, which the original reads past, is a fault.
Refuses files that refer to themselves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from services.quota.envoy.rules import WILDCARD, Level, Limit, Rule, Rules, Unit, composite_of

REQUESTS_MAX = 2**32 - 1
DEPTH_MAX = 32
DESCRIPTORS_MAX = 100_000

_FILE_FIELDS = ("domain", "descriptors")
_DESCRIPTOR_FIELDS = (
    "key",
    "value",
    "rate_limit",
    "descriptors",
    "shadow_mode",
    "quota_mode",
    "detailed_metric",
    "value_to_metric",
    "share_threshold",
    "metadata",
)
_LIMIT_FIELDS = ("unit", "requests_per_unit", "unlimited", "name", "replaces")
_TAG = "tag:yaml.org,2002:"
_UNITS = ", ".join(unit.name.lower() for unit in Unit)

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


def read_rules(files: Iterable[File], *, merges_domains: bool = False) -> Rules:
    """Read the rules of all domains.

    Args:
        files: The files; their order is that of wildcards.
        merges_domains: Whether several files may hold rules of the same domain.

    Raises:
        BadConfiguration: naming every fault of every file.
    """
    domains: dict[str, Level] = {}
    faults: list[Fault] = []
    for file in files:
        found: list[Fault] = []
        _Reader(file, domains, found, merges_domains=merges_domains).read()
        faults += sorted(found, key=lambda fault: fault.line)
    if faults:
        raise BadConfiguration(faults)
    return Rules(domains)


def count_limits(rules: Rules) -> int:
    """Count the rules that have a limit."""
    waiting, count = list(rules.domains.values()), 0
    while waiting:
        level = waiting.pop()
        waiting += level.children.values()
        count += level.rule is not None and level.rule.limit is not None
    return count


@dataclass(slots=True)
class _Reader:
    """Reads one file; what is wrong is noted, and reading goes on."""

    file: File
    domains: dict[str, Level]
    faults: list[Fault]
    merges_domains: bool = field(kw_only=True)
    loader: yaml.SafeLoader = field(init=False)
    descriptors_count: int = 0

    def read(self) -> None:
        try:
            self.loader = yaml.SafeLoader(self.file.text)
            root = self.loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.note(mark, f"is no YAML: {error.problem or error.context}")
            return
        except yaml.YAMLError as error:
            self.note(None, f"is no YAML: {_first_line(error)}")
            return
        if root is None:
            self.note(None, "is empty")
            return
        fields = self.fields(root, "a file", _FILE_FIELDS)
        if fields is None:
            return
        domain = self.text(fields, "domain")
        if not domain:
            self.note(root.start_mark, "the file names no domain")
        elif domain in self.domains and not self.merges_domains:
            self.note(fields["domain"].start_mark, f"duplicate domain {domain!r}")
        level = self.domains.setdefault(domain, Level()) if domain else Level()
        self.descriptors(fields.get("descriptors"), level, domain, 1)

    def descriptors(self, node: yaml.Node | None, above: Level, path: str, depth: int) -> None:
        if node is None or _is_null(node):
            return
        if depth > DEPTH_MAX:
            self.note(node.start_mark, f"descriptors are nested deeper than {DEPTH_MAX} levels")
            return
        for item in self.items(node, "descriptors"):
            self.descriptors_count += 1
            if self.descriptors_count > DESCRIPTORS_MAX:
                return
            self.descriptor(item, above, path, depth)
        if self.descriptors_count == DESCRIPTORS_MAX + 1:
            self.note(node.start_mark, f"a file may hold {DESCRIPTORS_MAX} descriptors")

    def descriptor(self, node: yaml.Node, above: Level, path: str, depth: int) -> None:
        fields = self.fields(node, "a descriptor", _DESCRIPTOR_FIELDS)
        if fields is None:
            return
        key, value = self.text(fields, "key"), self.text(fields, "value")
        if not key:
            self.note(node.start_mark, "the descriptor has no key")
        composite = composite_of(key, value)
        path = f"{path}.{composite}"
        level = Level(
            rule=self.rule(fields),
            shares=self.truth(fields, "share_threshold"),
            has_value_metric=self.truth(fields, "value_to_metric"),
        )
        if level.shares and WILDCARD not in composite:
            self.note(
                fields["share_threshold"].start_mark, "share_threshold needs a value with a '*'"
            )
        if key and composite in above.children:
            self.note(node.start_mark, f"duplicate descriptor {path!r}")
        elif key:
            above.add(composite, level)
        self.descriptors(fields.get("descriptors"), level, path, depth + 1)

    def rule(self, descriptor: Fields) -> Rule | None:
        is_shadow = self.truth(descriptor, "shadow_mode")
        is_quota = self.truth(descriptor, "quota_mode")
        has_detailed_metric = self.truth(descriptor, "detailed_metric")
        metadata = self.metadata(descriptor)
        node = descriptor.get("rate_limit")
        if node is None or _is_null(node):
            return None
        fields = self.fields(node, "rate_limit", _LIMIT_FIELDS)
        if fields is None:
            return None
        name = self.text(fields, "name")
        limit = self.limit(node, fields, name)
        return Rule(
            limit=limit,
            name=name,
            replaces=self.replaces(fields, name),
            is_shadow=is_shadow,
            is_quota=is_quota,
            has_detailed_metric=has_detailed_metric,
            metadata=metadata,
        )

    def limit(self, node: yaml.Node, fields: Fields, name: str) -> Limit | None:
        unit_name = self.text(fields, "unit")
        unit = Unit.__members__.get(unit_name.upper())
        if self.truth(fields, "unlimited"):
            if unit is not None:
                self.note(fields["unit"].start_mark, "an unlimited rate_limit must name no unit")
            return None
        if unit is None:
            place = fields.get("unit", node).start_mark
            named = f"unknown unit {unit_name!r}" if unit_name else "the rate_limit has no unit"
            self.note(place, f"{named}: choose one of {_UNITS}")
        requests = self.requests(node, fields)
        return Limit(requests, unit or Unit.SECOND, name)

    def requests(self, node: yaml.Node, fields: Fields) -> int:
        given = fields.get("requests_per_unit")
        if given is None:
            self.note(node.start_mark, "the rate_limit has no requests_per_unit")
            return 0
        text = given.value if isinstance(given, yaml.ScalarNode) else ""
        is_whole = given.tag == f"{_TAG}int" and text.isascii() and text.isdigit()
        if not is_whole or len(text) > len(str(REQUESTS_MAX)) or int(text) > REQUESTS_MAX:
            self.note(
                given.start_mark,
                f"requests_per_unit must be a whole number up to {REQUESTS_MAX}",
            )
            return 0
        return int(text)

    def replaces(self, fields: Fields, own_name: str) -> frozenset[str]:
        node = fields.get("replaces")
        if node is None or _is_null(node):
            return frozenset()
        names = set()
        for item in self.items(node, "replaces"):
            entry = self.fields(item, "an entry of replaces", ("name",))
            name = "" if entry is None else self.text(entry, "name")
            if entry is not None and not name:
                self.note(item.start_mark, "an entry of replaces has no name")
            if name and name == own_name:
                self.note(item.start_mark, f"the rate_limit {name!r} replaces itself")
            names.add(name)
        return frozenset(names - {""})

    def metadata(self, fields: Fields) -> Mapping[str, Any]:
        node = fields.get("metadata")
        if node is None or _is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.note(node.start_mark, "metadata must be a map")
            return {}
        try:
            return _plain_map(self.loader.construct_document(node), frozenset())
        except (yaml.YAMLError, TypeError, ValueError) as error:
            self.note(node.start_mark, f"metadata cannot be sent: {_first_line(error)}")
            return {}

    def fields(self, node: yaml.Node, what: str, known: tuple[str, ...]) -> Fields | None:
        """Read a map whose keys are known; note those that are not, and those given twice."""
        if not isinstance(node, yaml.MappingNode):
            self.note(node.start_mark, f"{what} must be a map")
            return None
        self.loader.flatten_mapping(node)
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                self.note(key.start_mark, "the name of a field must be a text")
            elif key.value not in known:
                self.note(key.start_mark, f"unknown field {key.value!r}: {what} has no such field")
            elif key.value in fields:
                self.note(key.start_mark, f"the field {key.value} is given twice")
            else:
                fields[key.value] = value
        return fields

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self.note(node.start_mark, f"{what} must be a list")
        return []

    def text(self, fields: Fields, name: str) -> str:
        """Read a text, as it is written: 404 and true are texts too."""
        node = fields.get(name)
        if node is None or _is_null(node):
            return ""
        if isinstance(node, yaml.ScalarNode):
            return str(node.value)
        self.note(node.start_mark, f"{name} must be a text")
        return ""

    def truth(self, fields: Fields, name: str) -> bool:
        node = fields.get(name)
        if node is None or _is_null(node):
            return False
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}bool":
            return bool(self.loader.construct_yaml_bool(node))
        self.note(node.start_mark, f"{name} must be true or false")
        return False

    def note(self, mark: Any, description: str) -> None:  # noqa: ANN401 - of either parser.
        line = 1 if mark is None else mark.line + 1
        self.faults.append(Fault(self.file.name, line, description))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == f"{_TAG}null")


def _plain_map(value: Mapping[object, object], inside: frozenset[int]) -> dict[str, Any]:
    """Make sure that a map can be written as JSON; raise TypeError or ValueError."""
    plain: dict[str, Any] = {}
    for key, each in value.items():
        if not isinstance(key, str):
            raise TypeError("its keys must be texts")
        plain[key] = _plain(each, inside | {id(value)})
    return plain


def _plain(value: object, inside: frozenset[int]) -> Any:  # noqa: ANN401 - whatever a file says.
    if id(value) in inside:
        raise ValueError("it refers to itself")
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return _plain_map(value, inside)
        case list():
            return [_plain(each, inside | {id(value)}) for each in value]
        case _:
            raise TypeError(f"it holds a {type(value).__name__}")
