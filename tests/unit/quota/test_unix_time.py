"""Instants as milliseconds since 1970, and back."""

from datetime import UTC, datetime, timedelta, timezone

from services.quota.unix_time import instant_of, unix_ms


def test_milliseconds_are_counted_in_utc_and_cut_off() -> None:
    """Whatever the zone; before 1970 too they begin at the instant or before it."""
    tokyo = timezone(timedelta(hours=9))

    assert unix_ms(datetime(1970, 1, 1, 9, 0, 0, 1_999, tzinfo=tokyo)) == 1
    assert unix_ms(datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=UTC)) == -1


def test_an_instant_comes_back() -> None:
    """Whole milliseconds lose nothing."""
    assert instant_of(1_774_000_000_123) == datetime(2026, 3, 20, 9, 46, 40, 123_000, tzinfo=UTC)
    assert unix_ms(instant_of(1_774_000_000_123)) == 1_774_000_000_123
