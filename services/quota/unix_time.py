"""Instants as milliseconds since 1970, as counters and holds have them. Never a float."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def unix_ms(instant: datetime) -> int:
    """Count the whole milliseconds since 1970 of an aware instant."""
    return (instant - _EPOCH) // _MILLISECOND


def instant_of(milliseconds: int) -> datetime:
    """Answer the instant, in UTC, so many milliseconds after 1970."""
    return _EPOCH + milliseconds * _MILLISECOND
