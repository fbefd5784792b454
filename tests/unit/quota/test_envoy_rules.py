"""Which rule a descriptor of Envoy meets, and what its counter counts."""

from dataclasses import dataclass

import pytest

from services.quota.envoy.configuration import read_rules
from services.quota.envoy.fields import File
from services.quota.envoy.rules import (
    Entry,
    Limit,
    Match,
    Rule,
    Rules,
    Unit,
    applied,
    covers,
)

TEXT = """
domain: api
descriptors:
  - {key: a, rate_limit: {unit: second, requests_per_unit: 1}}
  - {key: a, value: x, rate_limit: {unit: minute, requests_per_unit: 2}}
  - {key: a, value: white}
  - key: path
    value: /v1/*
    share_threshold: true
    rate_limit: {unit: hour, requests_per_unit: 3}
  - key: path
    value: /*/chat
    rate_limit: {unit: day, requests_per_unit: 4}
  - key: path
    rate_limit: {unit: week, requests_per_unit: 5}
  - key: team
    descriptors:
      - key: user
        value: root
        rate_limit: {unlimited: true}
      - key: user
        rate_limit: {unit: month, requests_per_unit: 6}
  - key: named
    detailed_metric: true
    rate_limit: {unit: year, requests_per_unit: 7}
  - key: outer
    value_to_metric: true
    descriptors:
      - key: inner
        rate_limit: {unit: year, requests_per_unit: 8}
"""
RULES = read_rules([File("api.yaml", TEXT)])


@dataclass(frozen=True)
class Case:
    """A descriptor, the size of the limit it meets, what is counted, and its metric."""

    id: str
    entries: tuple[Entry, ...]
    requests: int | None
    counted: tuple[Entry, ...] = ()
    metric: str = ""


CASES = [
    Case("a key and its value", (("a", "x"),), 2, (("a", "x"),), "api.a_x"),
    Case("a key alone, each value by itself", (("a", "y"),), 1, (("a", "y"),), "api.a"),
    Case("an empty value meets the key alone", (("a", ""),), 1, (("a", ""),), "api.a"),
    Case("a value without a limit is let pass", (("a", "white"),), None),
    Case("an unknown key", (("b", "x"),), None),
    Case("no entry at all", (), None),
    Case("deeper than the rules", (("a", "x"), ("b", "y")), None),
    Case("less deep than the rules", (("team", "red"),), None),
    Case(
        "the first wildcard that covers, its values together",
        (("path", "/v1/chat"),),
        3,
        (("path", "/v1/*"),),
        "api.path_/v1/*",
    ),
    Case(
        "a wildcard in the middle, each value by itself",
        (("path", "/v2/chat"),),
        4,
        (("path", "/v2/chat"),),
        "api.path_/*/chat",
    ),
    Case("no wildcard covers", (("path", "/v2"),), 5, (("path", "/v2"),), "api.path"),
    Case(
        "two levels",
        (("team", "red"), ("user", "ann")),
        6,
        (("team", "red"), ("user", "ann")),
        "api.team.user",
    ),
    Case("a detailed metric", (("named", "n"),), 7, (("named", "n"),), "api.named_n"),
    Case(
        "a value in the metric",
        (("outer", "o"), ("inner", "i")),
        8,
        (("outer", "o"), ("inner", "i")),
        "api.outer_o.inner",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_most_specific_rule_at_the_depth_of_the_descriptor_applies(case: Case) -> None:
    """Key and value go before wildcards, wildcards before the key alone; nothing falls back."""
    match = RULES.find("api", case.entries)
    limit = match and match.rule.limit

    assert (limit and limit.requests_per_unit) == case.requests
    assert (match.counted if match else ()) == case.counted
    assert (match.metric if match else "") == case.metric


def test_an_unlimited_rule_is_a_match_without_a_limit() -> None:
    """It is told apart from having no rule."""
    match = RULES.find("api", (("team", "red"), ("user", "root")))

    assert match is not None
    assert match.rule == Rule(limit=None)


def test_an_override_of_the_caller_stands_in_for_any_rule_of_a_known_domain() -> None:
    """Envoy may send a limit of its own; in a domain that nobody configured it means nothing."""
    override = Limit(9, Unit.HOUR)

    assert RULES.find("api", (("free", "x"),), override) == Match(
        Rule(override), (("free", "x"),), "api.free_x"
    )
    assert RULES.find("other", (("free", "x"),), override) is None


@pytest.mark.parametrize(
    ("pattern", "text", "is_covered"),
    [
        ("a*", "a", True),
        ("a*", "abc", True),
        ("a*c", "ac", True),
        ("a*c", "axd", False),
        ("*", "", True),
        ("ab*ba", "aba", False),
        ("a*b*c", "axxbyyc", True),
        ("a*b*c", "acb", False),
        ("svc*ep*rpc", "svceprpc", True),
        ("svc*ep*rpc", "svcABCrpc", False),
        ("a*bc*c", "abc", False),
    ],
)
def test_each_star_stands_for_any_text(pattern: str, text: str, *, is_covered: bool) -> None:
    """Also for none; the pieces between may not overlap."""
    assert covers(pattern, text) is is_covered


def a_match(name: str = "", *, replaces: str = "") -> Match:
    """Make a match of a limit of one an hour."""
    replaced = frozenset({replaces} - {""})
    return Match(Rule(Limit(1, Unit.HOUR, name), name, replaced), (), name)


def test_a_rule_takes_the_place_of_those_it_replaces() -> None:
    """Only where both apply to one request, and whichever comes first."""
    general, special, other = a_match("general"), a_match(replaces="general"), a_match("other")

    assert applied([general, None, special, other]) == [None, None, special, other]
    assert applied([special, general]) == [special, None]
    assert applied([general, other]) == [general, other]


def test_units_have_the_lengths_of_the_original() -> None:
    """Months have 30 days and years 365."""
    assert {unit.name: unit.seconds for unit in Unit} == {
        "SECOND": 1,
        "MINUTE": 60,
        "HOUR": 3600,
        "DAY": 86_400,
        "WEEK": 604_800,
        "MONTH": 2_592_000,
        "YEAR": 31_536_000,
    }


def test_without_domains_nothing_applies() -> None:
    """An empty configuration limits nobody."""
    assert Rules({}).find("api", (("a", "x"),)) is None
