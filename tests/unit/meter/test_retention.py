"""Retention: which months have to be there, which are over, and what needs events that are gone."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.errors import Precondition
from services.meter.retention import check_kept, cut_of, is_over, month_of, months_to_make

EARLIEST = datetime(2001, 1, 1, tzinfo=UTC)
INSTANTS = st.timedeltas(timedelta(0), timedelta(days=300_000)).map(lambda age: EARLIEST + age)


def test_months_are_those_of_utc() -> None:
    """The last evening of a year elsewhere is the first month of the next, and three follow."""
    evening = datetime(2026, 12, 31, 22, tzinfo=timezone(timedelta(hours=-3)))

    assert months_to_make(evening) == (
        datetime(2027, 1, 1, tzinfo=UTC),
        datetime(2027, 2, 1, tzinfo=UTC),
        datetime(2027, 3, 1, tzinfo=UTC),
        datetime(2027, 4, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("partition", "month"),
    [
        ("events_2026_12", datetime(2026, 12, 1, tzinfo=UTC)),
        ("events_earlier", None),
        ("events_others", None),
    ],
)
def test_a_partition_tells_its_month(partition: str, month: datetime | None) -> None:
    """Two partitions are of no month, and are never dropped."""
    assert month_of(partition) == month


@given(now=INSTANTS, days=st.integers(32, 400), age=st.timedeltas(timedelta(0), timedelta(500)))
def test_nothing_goes_before_its_time(now: datetime, days: int, age: timedelta) -> None:
    """A month that is over has nothing in it that is as young as the retention."""
    retention = timedelta(days=days)
    happened = now - age
    month = happened.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    cut = cut_of(now, retention)

    assert cut <= now - retention < cut + timedelta(days=31)
    assert is_over(month, cut) == (happened < cut)
    assert is_over(month, cut) <= (age > retention)


@given(now=INSTANTS, hours=st.integers(0, 89 * 24))
def test_months_are_made_a_quarter_of_a_year_ahead(now: datetime, hours: int) -> None:
    """Each instant of the next 89 days lies in one of them."""
    then = now + timedelta(hours=hours)

    assert then.replace(day=1, hour=0, minute=0, second=0, microsecond=0) in months_to_make(now)


def test_what_needs_events_that_are_gone_is_refused() -> None:
    """The error says since when they are kept."""
    horizon = datetime(2026, 1, 1, tzinfo=UTC)

    check_kept(horizon, horizon)
    check_kept(datetime(2000, 1, 1, tzinfo=UTC), None)
    with pytest.raises(Precondition) as refused:
        check_kept(horizon - timedelta(microseconds=1), horizon)

    assert (refused.value.reason, refused.value.metadata) == (
        "EVENTS_EXPIRED",
        {"kept_from": "2026-01-01T00:00:00+00:00"},
    )
