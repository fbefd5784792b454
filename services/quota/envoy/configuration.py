"""Reads the YAML files of envoyproxy/ratelimit, and names every fault with its line.

A file holds one domain. Stricter than the original in one thing: a field is accepted only where it
has a meaning, so that `unit` beside `rate_limit`, which the original reads past, is a fault.
Refuses files that refer to themselves.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from services.quota.envoy.fields import (
    BadConfiguration,
    Fault,
    FieldReader,
    Fields,
    File,
    first_line,
    is_null,
)
from services.quota.envoy.mapping_reader import read_mapping
from services.quota.envoy.rules import WILDCARD, Level, Limit, Rule, Rules, Unit, composite_of

REQUESTS_MAX = 2**32 - 1
DEPTH_MAX = 32
DESCRIPTORS_MAX = 100_000

_FILE_FIELDS = ("domain", "descriptors", "mapping")
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
_UNITS = ", ".join(unit.name.lower() for unit in Unit)


def read_rules(files: Iterable[File], *, merges_domains: bool = False) -> Rules:
    """Read the rules of all domains.

    Args:
        files: The files; their order is that of wildcards.
        merges_domains: Whether several files may hold rules of the same domain.

    Raises:
        BadConfiguration: naming every fault of every file.
    """
    rules = Rules({})
    faults: list[Fault] = []
    for file in files:
        found: list[Fault] = []
        _Reader(file, rules, found, merges_domains=merges_domains).read()
        faults += sorted(found, key=lambda fault: fault.line)
    if faults:
        raise BadConfiguration(faults)
    return rules


def count_limits(rules: Rules) -> int:
    """Count the rules that have a limit."""
    waiting, count = list(rules.domains.values()), 0
    while waiting:
        level = waiting.pop()
        waiting += level.children.values()
        count += level.rule is not None and level.rule.limit is not None
    return count


class _Reader(FieldReader):
    """Reads one file; what is wrong is noted, and reading goes on."""

    def __init__(
        self, file: File, rules: Rules, faults: list[Fault], *, merges_domains: bool
    ) -> None:
        super().__init__(file, faults)
        self.rules = rules
        self.merges_domains = merges_domains
        self.descriptors_count = 0

    def read(self) -> None:
        root = self.root()
        fields = None if root is None else self.fields(root, "a file", _FILE_FIELDS)
        if root is None or fields is None:
            return
        domain = self.text(fields, "domain")
        domains, mappings = self.rules.domains, self.rules.mappings
        if not domain:
            self.note(root.start_mark, "the file names no domain")
        elif domain in mappings or (domain in domains and not self.merges_domains):
            self.note(fields["domain"].start_mark, f"duplicate domain {domain!r}")
        if "mapping" in fields:
            self.mapping(fields, domain)
            return
        level = domains.setdefault(domain, Level()) if domain else Level()
        self.descriptors(fields.get("descriptors"), level, domain, 1)

    def mapping(self, fields: Fields, domain: str) -> None:
        node = fields["mapping"]
        if "descriptors" in fields:
            self.note(node.start_mark, "a domain has descriptors or a mapping, not both")
        mapping = read_mapping(self, node)
        if mapping is not None and domain:
            if domain in self.rules.domains:
                self.note(fields["domain"].start_mark, f"duplicate domain {domain!r}")
            self.rules.mappings[domain] = mapping

    def descriptors(self, node: yaml.Node | None, above: Level, path: str, depth: int) -> None:
        if node is None or is_null(node):
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
        if node is None or is_null(node):
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
        if "requests_per_unit" not in fields:
            self.note(node.start_mark, "the rate_limit has no requests_per_unit")
        return self.whole(fields, "requests_per_unit", REQUESTS_MAX) or 0

    def replaces(self, fields: Fields, own_name: str) -> frozenset[str]:
        node = fields.get("replaces")
        if node is None or is_null(node):
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
        if node is None or is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.note(node.start_mark, "metadata must be a map")
            return {}
        try:
            return _plain_map(self.loader.construct_document(node), frozenset())
        except (yaml.YAMLError, TypeError, ValueError) as error:
            self.note(node.start_mark, f"metadata cannot be sent: {first_line(error)}")
            return {}


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
