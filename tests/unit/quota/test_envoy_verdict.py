"""What the counters of a request say: codes, remainders, statistics, metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from services.quota.envoy.rules import Limit, Match, Rule, Unit
from services.quota.envoy.verdict import (
    REMAINING_MAX,
    Counted,
    Hit,
    Modes,
    Status,
    Tally,
    judge,
    merged,
    tally,
)

NEAR = Decimal("0.8")
NO_METADATA: Mapping[str, Any] = {}
PLAIN = Modes()


def a_hit(
    requests: int | None = 10,
    *,
    addend: int = 1,
    shadow: bool = False,
    quota: bool = False,
    metadata: Mapping[str, Any] = NO_METADATA,
) -> Hit:
    """Make a hit of a limit of 10 a minute; without requests it is unlimited."""
    limit = None if requests is None else Limit(requests, Unit.MINUTE)
    rule = Rule(limit, is_shadow=shadow, is_quota=quota, metadata=metadata)
    return Hit(Match(rule, (), "metric"), addend)


NO_RULE = Hit(None, 1)
UNDER, AT, OVER = Counted(9, 1500), Counted(10, 1500), Counted(11, 1500)


@dataclass(frozen=True)
class Case:
    """Hits, their counters, and whether the request is over."""

    id: str
    hits: tuple[Hit, ...]
    counted: tuple[Counted | None, ...]
    is_over: bool
    modes: Modes = PLAIN


CASES = [
    Case("at the limit passes", (a_hit(),), (AT,), is_over=False),
    Case("above the limit is over", (a_hit(),), (OVER,), is_over=True),
    Case("one of two is over", (a_hit(), a_hit()), (UNDER, OVER), is_over=True),
    Case("nothing to count", (NO_RULE,), (None,), is_over=False),
    Case("unlimited", (a_hit(None),), (None,), is_over=False),
    Case("a limit of nothing refuses", (a_hit(0),), (Counted(1, 1),), is_over=True),
    Case("a look at a limit of nothing", (a_hit(0, addend=0),), (Counted(0, 1),), is_over=False),
    Case("a shadow rule is never over", (a_hit(shadow=True),), (OVER,), is_over=False),
    Case("shadow over all", (a_hit(),), (OVER,), is_over=False, modes=Modes(is_shadow=True)),
    Case("a quota alone", (a_hit(quota=True),), (OVER,), is_over=True),
    Case(
        "one of two quotas has room",
        (a_hit(quota=True), a_hit(quota=True)),
        (OVER, UNDER),
        is_over=False,
    ),
    Case(
        "all quotas are over, a plain rule is not",
        (a_hit(quota=True), a_hit(quota=True), a_hit()),
        (OVER, OVER, UNDER),
        is_over=True,
    ),
    Case(
        "a plain rule is over, a quota has room",
        (a_hit(quota=True), a_hit()),
        (UNDER, OVER),
        is_over=True,
    ),
    Case(
        "all rules are quotas",
        (a_hit(), a_hit()),
        (OVER, UNDER),
        is_over=False,
        modes=Modes(is_quota=True),
    ),
    Case(
        "unlimited is no quota",
        (a_hit(quota=True), a_hit(None, quota=True)),
        (OVER, None),
        is_over=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_request_is_over_by_any_plain_rule_or_by_all_quotas(case: Case) -> None:
    """The overall code, as envoyproxy/ratelimit decides it."""
    assert judge(case.hits, case.counted, case.modes).is_over is case.is_over


def test_each_descriptor_is_told_what_is_left_of_its_limit() -> None:
    """Nothing when over, nothing known without a rule, the most there is when unlimited."""
    limit = Limit(10, Unit.MINUTE)
    hits = (a_hit(), a_hit(), a_hit(shadow=True), NO_RULE, a_hit(None))
    verdict = judge(hits, (UNDER, OVER, OVER, None, None), Modes())

    assert verdict.statuses == (
        Status(is_over=False, limit=limit, remaining=1, reset_s=2),
        Status(is_over=True, limit=limit, remaining=0, reset_s=2),
        Status(is_over=False, limit=limit, remaining=0, reset_s=2),
        Status(is_over=False, limit=None, remaining=0),
        Status(is_over=False, limit=None, remaining=REMAINING_MAX),
    )
    assert verdict.nearest == verdict.statuses[1]


def test_the_nearest_limit_is_the_one_with_the_least_left() -> None:
    """So that headers show what will refuse first."""
    verdict = judge((a_hit(50), a_hit(), NO_RULE), (UNDER, UNDER, None), Modes())

    assert verdict.nearest == verdict.statuses[1]


def test_the_shadow_mode_of_all_domains_is_told_where_it_let_a_request_pass() -> None:
    """Its statistic counts those requests and no others."""
    modes = Modes(is_shadow=True)

    assert judge((a_hit(),), (OVER,), modes).was_shadowed
    assert not judge((a_hit(),), (AT,), modes).was_shadowed


def test_metadata_is_that_of_the_rules_with_room() -> None:
    """Maps are merged; of two other values the first stays."""
    hits = (
        a_hit(metadata={"a": {"x": 1}, "name": "first"}),
        a_hit(metadata={"a": {"y": 2}, "name": "second"}),
        a_hit(metadata={"never": True}),
        a_hit(None, metadata={"unlimited": True}),
    )
    verdict = judge(hits, (UNDER, AT, OVER, None), Modes())

    assert verdict.metadata == {"a": {"x": 1, "y": 2}, "name": "first"}
    assert merged({"a": 1}, {"a": {"b": 2}}) == {"a": 1}


@pytest.mark.parametrize(
    ("counted", "addend", "moved"),
    [
        (7, 1, Tally(1, within_limit=1)),
        (8, 1, Tally(1, within_limit=1)),
        (9, 1, Tally(1, within_limit=1, near_limit=1)),
        (10, 5, Tally(5, within_limit=5, near_limit=2)),
        (11, 1, Tally(1, over_limit=1)),
        (12, 5, Tally(5, over_limit=2, near_limit=2)),
        (40, 40, Tally(40, over_limit=30, near_limit=2)),
        (9, 0, Tally()),
    ],
)
def test_hits_are_within_near_or_over(counted: int, addend: int, moved: Tally) -> None:
    """Of 10 a minute, near begins at 8; a hit that crosses lines is split."""
    assert tally(a_hit(addend=addend), Counted(counted, 1), NEAR) == moved


def test_shadowed_and_remembered_hits_are_counted_as_such() -> None:
    """A shadow rule's hits that would be refused, and hits nobody was asked about."""
    known = Counted(0, 1, is_known_over=True)

    assert tally(a_hit(shadow=True), OVER, NEAR) == Tally(1, over_limit=1, shadow_mode=1)
    assert tally(a_hit(addend=2), known, NEAR) == Tally(
        2, over_limit=2, over_limit_with_local_cache=2
    )
