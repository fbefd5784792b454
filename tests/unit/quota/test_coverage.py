"""Which limits cover a call, and which counter each of them counts on."""

from datetime import UTC, datetime

import pytest

from kit.errors import Precondition
from services.quota.coverage import (
    LimitClock,
    LimitIndex,
    described_hold,
    in_force,
    overridden_in_turn,
    remembered,
)
from services.quota.model import CalendarPeriod, CalendarWindow, Level, Limit, Subject
from tests.quota_builders import a_limit, a_rate, a_subject, covering, unix_ms

FULL_PATH = a_subject("acme", project="search", user="ann", key="k1", run="r1")


def covered(limit: Limit, subject: Subject, **dimensions: str) -> bool:
    """Tell whether a limit covers a call."""
    coverage = LimitIndex([limit]).coverage(subject, tuple(sorted(dimensions.items())))
    return [each.limit_id for each in coverage.limits] == [limit.limit_id]


@pytest.mark.parametrize(
    ("level", "scope", "field"),
    [
        (Level.CUSTOMER, "acme", "x|customer"),
        (Level.PROJECT, "acme/search", "x|project/search"),
        (Level.USER, "acme/ann", "x|user/ann"),
        (Level.KEY, "acme/k1", "x|key/k1"),
        (Level.RUN, "acme/r1", "x|run/r1"),
    ],
)
def test_a_limit_counts_at_its_level(level: Level, scope: str, field: str) -> None:
    """Each subject of the level has a counter of its own, across the levels between."""
    (found,) = covering(a_limit("x", level=level), subject=FULL_PATH).limits

    assert (found.scope, found.field) == (scope, field)


@pytest.mark.parametrize("level", [Level.PROJECT, Level.USER, Level.KEY, Level.RUN])
def test_a_call_that_names_nobody_at_the_level_is_not_covered(level: Level) -> None:
    """A limit of keys says nothing about a call without a key."""
    assert not covered(a_limit(level=level), a_subject("acme"))


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (Subject(""), True),
        (Subject("acme"), True),
        (Subject("other"), False),
        (Subject("acme", project="search", key="k1"), True),
        (Subject("acme", project="search", key="k2"), False),
        (Subject("", run="r1"), True),
        (Subject("", run="r2"), False),
        (FULL_PATH, True),
    ],
)
def test_a_limit_covers_the_paths_that_hold_its_ids(named: Subject, expected: bool) -> None:  # noqa: FBT001 - a column of the table.
    """Every id it names must be there; what it leaves out may be anything."""
    assert covered(a_limit(level=Level.KEY, subject=named), FULL_PATH) is expected


@pytest.mark.parametrize(
    ("wanted", "given", "expected"),
    [
        ({}, {"model": "large"}, True),
        ({"model": "large"}, {"model": "large", "region": "eu"}, True),
        ({"model": "large"}, {"model": "small"}, False),
        ({"model": "large"}, {}, False),
        ({"model": "large", "region": "eu"}, {"model": "large"}, False),
        ({"model": ""}, {}, False),
        ({"model": "gpt-4*"}, {"model": "gpt-4o"}, True),
        ({"model": "gpt-4*"}, {"model": "gpt-4"}, True),
        ({"model": "gpt-4*"}, {"model": "gpt-5"}, False),
        ({"model": "gpt-*-mini"}, {"model": "gpt-4-mini"}, False),
        ({"model": "*"}, {"model": "any"}, True),
        ({"model": "*"}, {}, False),
        ({"model": "**"}, {"model": "*x"}, True),
    ],
)
def test_a_limit_covers_calls_with_all_of_its_dimensions(
    wanted: dict[str, str],
    given: dict[str, str],
    expected: bool,  # noqa: FBT001 - as above.
) -> None:
    """A dimension that is asked for must be there, with that value or with its start."""
    assert covered(a_limit(dimensions=wanted), a_subject(), **given) is expected


def test_a_filter_is_looked_at_once_for_each_subject_with_its_dimensions() -> None:
    """Where it cannot be applied, the limit does not cover the call, and somebody is told."""
    told = list[str]()
    limit = a_limit(only_if="customer.matches(dimensions.pattern)")
    index = LimitIndex([limit], told.append)
    found = [
        [each.limit_id for each in index.coverage(a_subject(), (("pattern", text),)).limits]
        for text in ("^ac", "^b", "(", "(", "^ac")
    ]

    assert found == [["tokens"], [], [], [], ["tokens"]]
    assert told == ["tokens"]


def test_a_filter_that_no_longer_compiles_covers_nothing() -> None:
    """It was stored by a version that knew more; all other limits go on."""
    told = list[str]()
    index = LimitIndex([a_limit("odd", only_if="no(such)"), a_limit("even")], told.append)

    assert [each.limit_id for each in index.coverage(a_subject(), ()).limits] == ["even"]
    assert told == ["odd"]


def test_a_limit_stands_in_for_another_where_it_covers() -> None:
    """Every key has its rate; one has another, and one has none for the large model."""
    index = LimitIndex(
        [
            a_limit("every-key", level=Level.KEY),
            a_limit("k1", level=Level.KEY, subject=Subject("", key="k1"), overrides="every-key"),
            a_limit(
                "k1-large",
                level=Level.KEY,
                subject=Subject("", key="k1"),
                dimensions={"model": "large*"},
                overrides="k1",
            ),
        ]
    )
    asked = [("k1", "large-2"), ("k1", "small"), ("k2", "large-2")]

    found = [
        [limit.limit_id for limit in index.coverage(a_subject(key=key), (("model", model),)).limits]
        for key, model in asked
    ]

    assert found == [["k1-large"], ["k1"], ["every-key"]]


def test_what_a_limit_overrides_is_followed_to_its_end() -> None:
    """A way that leads back ends at the limit itself; one that is gone leads nowhere."""
    overrides = {"a": "b", "b": "c", "c": "", "d": "gone"}

    assert overridden_in_turn(a_limit("x", overrides="a"), overrides) == ["a", "b", "c"]
    assert overridden_in_turn(a_limit("c", overrides="a"), overrides) == ["a", "b", "c"]
    assert overridden_in_turn(a_limit("x", overrides="d"), overrides) == ["d", "gone"]
    assert overridden_in_turn(a_limit("x", overrides="x"), overrides) == ["x"]
    assert overridden_in_turn(a_limit("x"), overrides) == []


def test_limits_end_at_their_instant() -> None:
    """Half-open: at that instant a limit applies no more; the next to end is known."""
    ends = [datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2, 3)]
    ever = a_limit("ever")
    limits = [a_limit(f"day-{end.day}", expire_time=end) for end in ends]

    assert in_force([ever, *limits], ends[0]) == ([ever, *limits[1:]], ends[1])
    assert in_force([ever, *limits], ends[2]) == ([ever], None)


def test_limits_are_ordered_by_id_and_share_the_sums_of_their_units() -> None:
    """Limits of the same units count the same sum, which is added up once."""
    coverage = covering(
        a_limit("c", units=("input", "output")),
        a_limit("a", units=("requests",)),
        a_rate("b", units=("input", "output")),
    )

    assert [(limit.limit_id, limit.slot) for limit in coverage.limits] == [
        ("a", 1),
        ("b", 2),
        ("c", 2),
    ]
    assert coverage.sums({"input": 3, "output": 4, "seconds": 5}) == [0, 7]


def test_a_coverage_can_be_remembered() -> None:
    """What a hold keeps says whose call it was; what an answer keeps says what was shown."""
    limit = a_limit("x", level=Level.PROJECT, units=("input", "output"), capacity=9)
    coverage = LimitIndex([limit]).coverage(FULL_PATH, (("model", "large"),))
    shown = [each._replace(clock=None, field="", slot=0) for each in coverage.limits]

    assert described_hold(coverage.description) == (
        FULL_PATH,
        (("model", "large"),),
        coverage.slots,
        (("x|project/search", 1),),
    )
    assert remembered(coverage.exhibit).limits == shown
    assert remembered(coverage.exhibit).subject.customer == "acme"


def test_a_coverage_is_found_once() -> None:
    """The same subject and dimensions get the same object, which remembers what was rendered."""
    index = LimitIndex([a_limit()])

    assert index.coverage(a_subject(), ()) is index.coverage(a_subject(), ())


def test_coverages_that_show_different_things_have_different_ids() -> None:
    """A changed capacity is another coverage, so that a repeated answer shows the old one."""
    ids = {covering(a_limit(capacity=capacity)).id for capacity in (1, 2)}

    assert len(ids) == 2


def test_more_limits_than_are_decided_at_once_are_refused() -> None:
    """Sixty-four limits on one call are decided, one more is an error that says so."""
    limits = [a_limit(f"limit-{number}") for number in range(65)]

    assert len(covering(*limits[:64]).limits) == 64
    with pytest.raises(Precondition) as refusal:
        covering(*limits)
    assert (refusal.value.reason, refusal.value.metadata) == ("TOO_MANY_LIMITS", {"maximum": "64"})


def test_a_limit_tells_its_window_and_the_next_one() -> None:
    """The terms go on by themselves once the window has ended."""
    clock = LimitClock(a_limit(capacity=5, window=CalendarWindow(CalendarPeriod.DAY, "UTC")))
    days = [unix_ms(f"2026-03-0{day}T00:00") for day in (1, 2, 3, 4)]

    assert clock.terms_at(days[1] - 1) == (5, 0, 1, *days[:3], True)
    assert clock.terms_at(days[1]) == (5, 0, 1, *days[1:], True)
    assert clock.terms_at(days[1] - 1) == (5, 0, 1, *days[:3], True)


def test_a_rate_has_its_burst_as_room() -> None:
    """In parts: a quantum of sixty a minute has a thousand."""
    assert LimitClock(a_rate(capacity=60, burst=90)).terms_at(0) == (
        90_000,
        1,
        1_000,
        0,
        0,
        0,
        True,
    )
