"""Intervals: half-open, in UTC, and never empty."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from kit.errors import InvalidInput, Violation
from kit.interval import Interval


def at(hour: int) -> datetime:
    """Make an instant of one day."""
    return datetime(2026, 3, 1, hour, tzinfo=UTC)


def hours(start: int, end: int) -> Interval:
    """Make an interval of one day."""
    return Interval(at(start), at(end))


@pytest.mark.parametrize(
    ("start", "end", "description"),
    [
        pytest.param(at(2), at(2), "must start before it ends", id="empty"),
        pytest.param(at(3), at(2), "must start before it ends", id="backwards"),
        pytest.param(datetime(2026, 3, 1), at(2), "must be given in UTC", id="naive start"),  # noqa: DTZ001 - refused
        pytest.param(at(1), datetime(2026, 3, 2), "must be given in UTC", id="naive end"),  # noqa: DTZ001 - refused
        pytest.param(
            at(1),
            datetime(2026, 3, 2, tzinfo=timezone(timedelta(hours=1))),
            "must be given in UTC",
            id="another zone",
        ),
    ],
)
def test_an_interval_is_in_utc_and_not_empty(
    start: datetime, end: datetime, description: str
) -> None:
    """Naive times, other zones and empty intervals are refused."""
    with pytest.raises(InvalidInput) as refused:
        Interval(start, end)

    assert refused.value.violations == (Violation("interval", description),)


def test_the_start_belongs_to_it_and_the_end_does_not() -> None:
    """Adjacent intervals share no instant and leave none out."""
    instants = [at(1) - timedelta(microseconds=1), at(1), at(2), at(3)]

    assert [hours(1, 3).contains(instant) for instant in instants] == [False, True, True, False]
    assert hours(1, 3).duration == timedelta(hours=2)


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        pytest.param(hours(4, 6), hours(4, 6), id="the same"),
        pytest.param(hours(3, 5), hours(4, 5), id="overlapping before"),
        pytest.param(hours(5, 7), hours(5, 6), id="overlapping after"),
        pytest.param(hours(3, 7), hours(4, 6), id="around"),
        pytest.param(hours(2, 4), None, id="touching before"),
        pytest.param(hours(6, 8), None, id="touching after"),
        pytest.param(hours(1, 2), None, id="apart"),
    ],
)
def test_two_intervals_share_what_lies_in_both(other: Interval, shared: Interval | None) -> None:
    """Touching ends share nothing; both directions agree."""
    interval = hours(4, 6)

    assert (interval.intersection(other), other.intersection(interval)) == (shared, shared)
    assert (interval.overlaps(other), other.overlaps(interval)) == (shared is not None,) * 2


@pytest.mark.parametrize(
    ("cuts", "pieces"),
    [
        pytest.param([], [hours(1, 5)], id="no cut"),
        pytest.param([at(3)], [hours(1, 3), hours(3, 5)], id="one cut"),
        pytest.param([at(4), at(2)], [hours(1, 2), hours(2, 4), hours(4, 5)], id="unordered"),
        pytest.param([at(3), at(3)], [hours(1, 3), hours(3, 5)], id="twice the same"),
        pytest.param([at(1), at(5), at(9)], [hours(1, 5)], id="at the ends and outside"),
    ],
)
def test_the_pieces_make_up_the_whole(cuts: list[datetime], pieces: list[Interval]) -> None:
    """Cuts inside divide; cuts at the ends or outside change nothing."""
    assert list(hours(1, 5).split_at(*cuts)) == pieces
