"""Days and months on a customer's calendar.

Refuses to know which of them are billed.
"""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from kit.interval import Interval

_INSTANT = timedelta(microseconds=1)
_DAY = timedelta(days=1)
MONTHS_OF_A_YEAR = 12


def local_day(instant: datetime, zone: ZoneInfo) -> date:
    """Answer the day on which an instant lies."""
    return instant.astimezone(zone).date()


def last_day(period: Interval, zone: ZoneInfo) -> date:
    """Answer the day on which a period ends; one that ends at midnight ends the day before."""
    return local_day(period.end - _INSTANT, zone)


def count_days(first: date, last: date) -> int:
    """Count days, both ends inclusive; none where the last comes before the first."""
    return max((last - first) // _DAY + 1, 0)


def start_of(day: date, zone: ZoneInfo) -> datetime:
    """Answer the first instant of a day."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)


def add_months(day: date, months: int) -> date:
    """Go months ahead; a day that the month does not have is its last."""
    years, month = divmod(day.month - 1 + months, MONTHS_OF_A_YEAR)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def whole_months(first: date, day: date) -> int:
    """Count the whole months from one day to another, which is not before it."""
    months = (day.year - first.year) * MONTHS_OF_A_YEAR + day.month - first.month
    return months if add_months(first, months) <= day else months - 1
