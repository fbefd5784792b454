"""The YAML files of envoyproxy/ratelimit: what is read, and how every fault is named."""

from dataclasses import dataclass

import pytest

from services.quota.envoy.configuration import DEPTH_MAX, count_limits, read_rules
from services.quota.envoy.fields import BadConfiguration, File
from services.quota.envoy.rules import Limit, Rule, Unit

FULL = """\
domain: shop
descriptors:
  - key: status
    value: 404
    rate_limit: &hourly
      name: not-found
      unit: Hour
      requests_per_unit: 10
    shadow_mode: true
    quota_mode: yes
    metadata: {team: {name: web, level: 2}}
  - key: status
    rate_limit: *hourly
  - key: other
    rate_limit:
      unit: DAY
      requests_per_unit: 0
      replaces:
        - name: not-found
        - name: more
  - key: free
    rate_limit:
"""


UNITS = "second, minute, hour, day, month, year, week"


def faults_of(*texts: str, merges_domains: bool = False) -> list[str]:
    """Read files that must be refused; answer the faults, in files named a.yaml, b.yaml."""
    files = [File(f"{name}.yaml", text) for name, text in zip("abc", texts, strict=False)]
    with pytest.raises(BadConfiguration) as refused:
        read_rules(files, merges_domains=merges_domains)
    return [str(fault) for fault in refused.value.faults]


def test_a_file_is_read_whole() -> None:
    """Units in any case, texts as they are written, anchors, names and metadata."""
    rules = read_rules([File("shop.yaml", FULL)])
    status = rules.find("shop", (("status", "404"),))
    other = rules.find("shop", (("other", "x"),))

    assert status is not None
    assert status.rule == Rule(
        limit=Limit(10, Unit.HOUR, "not-found"),
        name="not-found",
        is_shadow=True,
        is_quota=True,
        metadata={"team": {"name": "web", "level": 2}},
    )
    assert other is not None
    assert other.rule == Rule(limit=Limit(0, Unit.DAY), replaces=frozenset({"not-found", "more"}))
    assert rules.find("shop", (("free", "x"),)) is None
    assert count_limits(rules) == 3


def test_all_faults_of_all_files_are_named_at_once_with_their_lines() -> None:
    """A person mends everything in one go."""
    first = """\
domain: shop
limits: []
descriptors:
  - key: a
    value: b
    rate_limit: {unit: fortnight, requests_per_unit: -3}
  - key: a
    value: b
  - value: x
    shadow_mode: maybe
  - not a map
"""
    second = "domain: shop\ndescriptors:\n  - {key: k, unit: second}\n"

    assert faults_of(first, second) == [
        "a.yaml:2: unknown field 'limits': a file has no such field",
        f"a.yaml:6: unknown unit 'fortnight': choose one of {UNITS}",
        "a.yaml:6: requests_per_unit must be a whole number up to 4294967295",
        "a.yaml:7: duplicate descriptor 'shop.a_b'",
        "a.yaml:9: the descriptor has no key",
        "a.yaml:10: shadow_mode must be true or false",
        "a.yaml:11: a descriptor must be a map",
        "b.yaml:1: duplicate domain 'shop'",
        "b.yaml:3: unknown field 'unit': a descriptor has no such field",
    ]


@dataclass(frozen=True)
class Case:
    """A text of one fault, in its third line unless it says otherwise."""

    id: str
    text: str
    fault: str


def below(descriptor: str) -> str:
    """Write a file of one descriptor, which stands in line 3."""
    return f"domain: d\ndescriptors:\n  - {descriptor}\n"


CASES = [
    Case("an empty file", "", "1: is empty"),
    Case("no map", "- 1", "1: a file must be a map"),
    Case("no YAML", "domain: [", "1: is no YAML: expected the node content, but found"),
    Case("no domain", "descriptors: []", "1: the file names no domain"),
    Case("two documents", "domain: d\n---\ndomain: e\n", "2: is no YAML: but found another"),
    Case("descriptors that are no list", "domain: d\ndescriptors: 7", "2: descriptors must be a"),
    Case("a key that is no text", "domain: d\n7: 8", "2: the name of a field must be a text"),
    Case("a field twice", "domain: d\ndomain: e", "2: the field domain is given twice"),
    Case("no unit", below("{key: k, rate_limit: {requests_per_unit: 1}}"), "3: the rate_limit has"),
    Case("no figure", below("{key: k, rate_limit: {unit: day}}"), "3: the rate_limit has no req"),
    Case(
        "a broken figure",
        below("{key: k, rate_limit: {unit: day, requests_per_unit: 1.5}}"),
        "3: requests_per_unit must be a whole number",
    ),
    Case(
        "a figure beyond 32 bits",
        below("{key: k, rate_limit: {unit: day, requests_per_unit: 4294967296}}"),
        "3: requests_per_unit must be a whole number",
    ),
    Case(
        "a unit of what is unlimited",
        below("{key: k, rate_limit: {unlimited: true, unit: day}}"),
        "3: an unlimited rate_limit must name no unit",
    ),
    Case(
        "a replacement of itself",
        below(
            "{key: k, rate_limit: {unit: day, requests_per_unit: 1, name: n, replaces: "
            "[{name: n}]}}"
        ),
        "3: the rate_limit 'n' replaces itself",
    ),
    Case(
        "a replacement without a name",
        below("{key: k, rate_limit: {unit: day, requests_per_unit: 1, replaces: [{}]}}"),
        "3: an entry of replaces has no name",
    ),
    Case(
        "sharing without a wildcard",
        below("{key: k, value: v, share_threshold: true}"),
        "3: share_threshold needs a value with a '*'",
    ),
    Case("metadata that is no map", below("{key: k, metadata: 1}"), "3: metadata must be a map"),
    Case(
        "metadata that no JSON can hold",
        below("{key: k, metadata: {since: 2026-01-01}}"),
        "3: metadata cannot be sent: it holds a date",
    ),
    Case("a value that is no text", below("{key: k, value: [v]}"), "3: value must be a text"),
    Case(
        "descriptors that hold themselves",
        "domain: d\ndescriptors: &all\n  - {key: k, descriptors: *all}\n",
        f"2: descriptors are nested deeper than {DEPTH_MAX} levels",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_fault_is_named_with_its_line(case: Case) -> None:
    """One fault, one line, in words."""
    (fault,) = faults_of(case.text)

    assert fault.startswith(f"a.yaml:{case.fault}")


def test_several_files_may_hold_one_domain_where_that_is_allowed() -> None:
    """Their rules are joined; the same descriptor in both is still a fault."""
    one = below("{key: a, rate_limit: {unit: day, requests_per_unit: 1}}")
    other = below("{key: b, rate_limit: {unit: day, requests_per_unit: 2}}")

    rules = read_rules([File("a", one), File("b", other)], merges_domains=True)

    assert list(rules.domains["d"].children) == ["a", "b"]
    assert faults_of(one, one, merges_domains=True) == ["b.yaml:3: duplicate descriptor 'd.a'"]
