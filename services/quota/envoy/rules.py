"""The rules of a domain, and which of them applies to a descriptor.

A rule sits in a tree whose levels are the entries of a descriptor. At each level an entry matches
`key_value`, else the first wildcard in the order of the file, else the key alone; the rule applies
only when it sits at the depth of the last entry. This is the matching of envoyproxy/ratelimit, down
to its joining of key and value by an underscore.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b
from typing import Any

from services.quota.envoy.mapping import CallMapping

Entry = tuple[str, str]
"""A key and its value, one step of a descriptor."""

WILDCARD = "*"
COUNTER_LENGTH_MAX = 256


class Unit(IntEnum):
    """A window's length, by its number in Envoy's API; months have 30 days and years 365."""

    SECOND = 1
    MINUTE = 2
    HOUR = 3
    DAY = 4
    MONTH = 5
    YEAR = 6
    WEEK = 7

    @property
    def seconds(self) -> int:
        """How long a window is; windows start at multiples of it since 1970."""
        return _SECONDS[self]


_SECONDS = {
    Unit.SECOND: 1,
    Unit.MINUTE: 60,
    Unit.HOUR: 3600,
    Unit.DAY: 86_400,
    Unit.WEEK: 7 * 86_400,
    Unit.MONTH: 30 * 86_400,
    Unit.YEAR: 365 * 86_400,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """How many hits a window admits."""

    requests_per_unit: int
    unit: Unit
    name: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a file says of one descriptor; without a limit it admits everything."""

    limit: Limit | None
    name: str = ""
    replaces: frozenset[str] = frozenset()
    is_shadow: bool = False
    is_quota: bool = False
    has_detailed_metric: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Level:
    """One level of the tree; `children` are found by key, `key_value` or wildcard.

    `shares` lets all values of a wildcard count together; `has_value_metric` names values in
    metrics.
    """

    rule: Rule | None = None
    shares: bool = False
    has_value_metric: bool = False
    children: dict[str, "Level"] = field(default_factory=dict)
    wildcards: list[str] = field(default_factory=list)

    def add(self, composite: str, child: "Level") -> None:
        """Put a level below this one; nothing may be there yet."""
        assert composite not in self.children, "the reader refuses duplicates"
        self.children[composite] = child
        if WILDCARD in composite:
            self.wildcards.append(composite)


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that applies, which entries tell its counter, and the name of its metric.

    `counter` names the counter within its domain; it is empty where there is none.
    """

    rule: Rule
    counted: tuple[Entry, ...]
    metric: str
    counter: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counter", _counter_of(self.rule.limit, self.counted))


@dataclass(frozen=True, slots=True)
class Rules:
    """All domains: the rules of some, and the mappings of others."""

    domains: dict[str, Level]
    mappings: dict[str, CallMapping] = field(default_factory=dict)

    def find(
        self, domain: str, entries: Sequence[Entry], override: Limit | None = None
    ) -> Match | None:
        """Find the rule of a descriptor; an override of the caller stands in for any rule."""
        level = self.domains.get(domain)
        if level is None:
            return None
        if override is not None:
            return Match(Rule(override), tuple(entries), _metric(domain, entries))
        counted: list[Entry] = []
        path = [domain]
        for key, value in entries:
            step = _step(level, key, value)
            if step is None:
                return None
            level, pattern = step
            counted.append((key, pattern if level.shares else value))
            path.append(_segment(level, key, value, pattern))
        if level.rule is None or not entries:
            return None
        detailed = level.rule.has_detailed_metric
        metric = _metric(domain, counted) if detailed else ".".join(path)
        return Match(level.rule, tuple(counted), metric)


def composite_of(key: str, value: str) -> str:
    """Join a key and the value of a rule, which may have none."""
    return f"{key}_{value}" if value else key


def applied(matches: Sequence[Match | None]) -> list[Match | None]:
    """Leave out the rules that another rule of the same request replaces."""
    replaced: set[str] = set()
    for match in matches:
        if match is not None:
            replaced |= match.rule.replaces
    if not replaced:
        return list(matches)
    return [
        None if match is not None and _is_replaced(match.rule, replaced) else match
        for match in matches
    ]


def covers(pattern: str, text: str) -> bool:
    """Tell whether a pattern matches a text; each `*` in it stands for any text, also none."""
    first, *middle, last = pattern.split(WILDCARD)
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _counter_of(limit: Limit | None, counted: Sequence[Entry]) -> str:
    if limit is None:
        return ""
    # With lengths, so that no two descriptors share a name, whatever their texts hold.
    name = "".join(f"{len(key)}:{key}={len(value)}:{value};" for key, value in counted)
    if len(name) > COUNTER_LENGTH_MAX:
        name = blake2b(name.encode(), digest_size=16).hexdigest()
    return f"{limit.unit.name.lower()}:{name}"


def _is_replaced(rule: Rule, replaced: set[str]) -> bool:
    return rule.limit is not None and rule.name in replaced


def _step(level: Level, key: str, value: str) -> tuple[Level, str] | None:
    """Find the next level, and the value or pattern that led there; empty for a key alone."""
    composite = f"{key}_{value}"
    child = level.children.get(composite)
    if child is not None:
        return child, value
    for wildcard in level.wildcards:
        if covers(wildcard, composite):
            return level.children[wildcard], wildcard.removeprefix(f"{key}_")
    child = level.children.get(key)
    return None if child is None else (child, "")


def _segment(level: Level, key: str, value: str, pattern: str) -> str:
    if level.has_value_metric and not level.shares:
        return composite_of(key, value)
    return composite_of(key, pattern)


def _metric(domain: str, entries: Sequence[Entry]) -> str:
    return ".".join((domain, *(composite_of(key, value) for key, value in entries)))
