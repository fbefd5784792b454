"""Which limits cover a call, and which counter each of them counts on."""

import pytest

from kit.errors import Precondition
from services.quota.coverage import LimitClock, LimitIndex, described_call, remembered
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
    ],
)
def test_a_limit_covers_calls_with_all_of_its_dimensions(
    wanted: dict[str, str],
    given: dict[str, str],
    expected: bool,  # noqa: FBT001 - as above.
) -> None:
    """A dimension that is asked for must be there with exactly that value."""
    assert covered(a_limit(dimensions=wanted), a_subject(), **given) is expected


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

    assert described_call(coverage.description) == (FULL_PATH, (("model", "large"),))
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

    assert clock.terms_at(days[1] - 1) == (5, 0, 1, *days[:3])
    assert clock.terms_at(days[1]) == (5, 0, 1, *days[1:])
    assert clock.terms_at(days[1] - 1) == (5, 0, 1, *days[:3])


def test_a_rate_has_its_burst_as_room() -> None:
    """In parts: a quantum of sixty a minute has a thousand."""
    assert LimitClock(a_rate(capacity=60, burst=90)).terms_at(0) == (90_000, 1, 1_000, 0, 0, 0)
