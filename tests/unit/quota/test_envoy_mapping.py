"""The mapping of a domain to Tollkeeper's limits: how it is read, and how every fault is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.quota.envoy.configuration import read_rules
from services.quota.envoy.fields import BadConfiguration, File
from services.quota.envoy.mapping import (
    CallMapping,
    MappedCall,
    Source,
    Unmappable,
    map_call,
)

FULL = """\
domain: calls
mapping:
  subject:
    customer: organization
    project: {value: search}
    key: api_key
  dimensions: {model: model, x-region: region}
  call_id: request_id
  unit: unit
  phase: {key: phase, settle: done}
  each_call: {requests: 1}
  ttl_seconds: 120
  unsettled: book
"""
MAPPING = CallMapping(
    (Source("organization"), Source(value="search"), Source(), Source("api_key"), Source()),
    dimensions={"model": "model", "x-region": "region"},
    call_id_key="request_id",
    unit_key="unit",
    phase_key="phase",
    settle_value="done",
    each_call={"requests": 1},
    ttl_ms=120_000,
    books_unsettled=True,
)


def test_a_mapping_is_read_whole() -> None:
    """Every field has its place."""
    rules = read_rules([File("calls.yaml", FULL)])

    assert (rules.domains, rules.mappings) == ({}, {"calls": MAPPING})


def test_a_mapping_lies_beside_rules() -> None:
    """One file is a domain of rules, the other one of calls; each domain is there once."""
    rules = File("rules.yaml", "domain: shop\ndescriptors: []\n")
    twice = File("again.yaml", "domain: calls\ndescriptors: []\n")

    found = read_rules([rules, File("calls.yaml", FULL)])
    with pytest.raises(BadConfiguration) as refused:
        read_rules([File("calls.yaml", FULL), twice], merges_domains=True)

    assert (list(found.domains), list(found.mappings)) == (["shop"], ["calls"])
    assert str(refused.value) == "again.yaml:1: duplicate domain 'calls'"


def test_the_example_is_good() -> None:
    """What a reader copies is read."""
    file = Path(__file__).resolve().parents[3] / "examples" / "envoy" / "calls.yaml"

    rules = read_rules([File("calls.yaml", file.read_text())])

    assert rules.mappings["ai-calls"].phase_key == "phase"


@pytest.mark.parametrize(
    ("mapping", "faults"),
    [
        pytest.param("[]", ["2: mapping must be a map"], id="no map"),
        pytest.param("{}", ["2: the mapping has no subject"], id="no subject"),
        pytest.param("{subject: {key: k}}", ["2: the subject has no customer"], id="no customer"),
        pytest.param(
            "{subject: {customer: c, team: t}}",
            ["2: unknown field 'team': subject has no such field"],
            id="a level that is none",
        ),
        pytest.param(
            "{subject: {customer: {value: ''}}}", ["2: customer has no value"], id="no value"
        ),
        pytest.param(
            "{subject: {customer: c}, phase: {key: p, settle: s}}",
            ["2: a mapping with a phase needs a call_id, to find the hold by"],
            id="a phase without a call",
        ),
        pytest.param(
            "{subject: {customer: c}, call_id: r, phase: {key: p}}",
            ["2: a phase needs a key, and the value settle"],
            id="half a phase",
        ),
        pytest.param(
            "{subject: {customer: c}, ttl_seconds: 0, unsettled: keep}",
            ["2: ttl_seconds must be at least 1", "2: unsettled must be release or book"],
            id="two faults",
        ),
        pytest.param(
            "{subject: {customer: c}, ttl_seconds: 86401}",
            ["2: ttl_seconds must be a whole number up to 86400"],
            id="more than a day",
        ),
        pytest.param(
            "{subject: {customer: c}, each_call: {Requests: 1, tokens: 0.5}}",
            [
                "2: a unit is a lower-case name or a currency",
                "2: tokens must be a whole number of quanta",
            ],
            id="amounts that are none",
        ),
        pytest.param(
            "{subject: {customer: c}, dimensions: {model: [a]}}",
            ["2: dimensions must be a map of texts"],
            id="dimensions that are none",
        ),
        pytest.param(
            "{subject: {customer: c}}\ndescriptors: []",
            ["2: a domain has descriptors or a mapping, not both"],
            id="both",
        ),
    ],
)
def test_every_fault_of_a_mapping_is_named(mapping: str, faults: list[str]) -> None:
    """All of a file at once, each with its line."""
    with pytest.raises(BadConfiguration) as refused:
        read_rules([File("calls.yaml", f"domain: calls\nmapping: {mapping}\n")])

    assert [str(fault) for fault in refused.value.faults] == [
        f"calls.yaml:{fault}" for fault in faults
    ]


def test_descriptors_of_one_request_are_one_call() -> None:
    """Entries mean once what they mean, of hits in one unit the most counts."""
    who = (("organization", "acme"), ("api_key", "k-1"), ("model", "large"))
    descriptors = [
        ((*who, ("unit", "tokens"), ("request_id", "r-1")), 40),
        ((("organization", "acme"), ("unit", "tokens")), 60),
        ((("organization", "acme"),), 1),
    ]

    assert map_call(MAPPING, descriptors) == MappedCall(
        ("acme", "search", "", "k-1", ""),
        {"model": "large"},
        {"requests": 1, "tokens": 60},
        ("tokens", "tokens", "requests"),
        "r-1",
        is_settlement=False,
    )


def test_the_phase_says_whether_a_call_is_over() -> None:
    """Another value of its key, or none, is the phase before."""
    who = ("organization", "acme")
    phases = [(who, ("phase", "done")), (who, ("phase", "begun")), (who,)]

    calls = [map_call(MAPPING, [(entries, 1)]) for entries in phases]

    assert [call.is_settlement for call in calls] == [True, False, False]


def test_a_request_of_nobody_is_no_call() -> None:
    """The refusal says which entry is missing."""
    with pytest.raises(Unmappable, match="no descriptor has an entry 'organization'"):
        map_call(MAPPING, [((("api_key", "k-1"),), 1)])
