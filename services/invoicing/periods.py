"""Billing periods: monthly, between starts of days in the time zone of the subscription.

A period is a half-open UTC interval cut out of a grid of whole months; what the subscription's
start or end cuts off is not billed, and its days are counted for proration. The grid is computed
from the start day alone, never from the period before, so that a subscription of the 31st is back
on the 31st after a short month. Refuses to know the present.
"""

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import count, takewhile
from zoneinfo import ZoneInfo

from kit.errors import InvalidInput, Precondition
from kit.interval import Interval
from services.invoicing.model import BillingAnchor, Subscription

_ONE_DAY = timedelta(days=1)
_MONTHS_PER_YEAR = 12


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """A period and its share of a whole month: `billed_days` of `period_days`."""

    interval: Interval
    billed_days: int
    period_days: int
    last_day: date

    @property
    def is_whole(self) -> bool:
        """Tell whether nothing of the month is cut off."""
        return self.billed_days == self.period_days


def start_of_day(day: date, time_zone: str) -> datetime:
    """Answer the first instant of a day, in UTC, also where clocks change at midnight.

    By PEP 495, a midnight that clocks show twice is the first, and one that they skip is read with
    the offset before the change, which gives the change itself: the first instant of that day.
    """
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(time_zone)).astimezone(UTC)


def day_of(instant: datetime, time_zone: str) -> date:
    """Answer the day an instant belongs to."""
    return instant.astimezone(ZoneInfo(time_zone)).date()


def to_start_of_day(instant: datetime, time_zone: str) -> datetime:
    """Take an instant to the start of its day."""
    return start_of_day(day_of(instant, time_zone), time_zone)


def take_to_days(subscription: Subscription) -> Subscription:
    """Take the start and the end of a subscription to the starts of their days.

    Raises:
        InvalidInput: it would not last a day.
    """
    zone, end_time = subscription.time_zone, subscription.end_time
    taken = replace(
        subscription,
        start_time=to_start_of_day(subscription.start_time, zone),
        end_time=None if end_time is None else to_start_of_day(end_time, zone),
    )
    if taken.end_time is not None and taken.end_time <= taken.start_time:
        raise InvalidInput.of("end_time", "must be at least a day after the start")
    return taken


def end_subscription(
    subscription: Subscription, end_time: datetime, *, billed_until: datetime | None, now: datetime
) -> Subscription:
    """End a subscription at the start of a day; `billed_until` is the end of its last invoice.

    Raises:
        Precondition: SUBSCRIPTION_ENDED, it has ended before now.
        InvalidInput: it would not last a day, or end within a period that is invoiced.
    """
    if subscription.end_time is not None and subscription.end_time <= now:
        raise Precondition(
            "SUBSCRIPTION_ENDED",
            f"the subscription {subscription.subscription_id} has ended",
            metadata={"subscription_id": subscription.subscription_id},
        )
    ending = take_to_days(replace(subscription, end_time=end_time))
    if billed_until is not None and ending.end_time is not None and ending.end_time < billed_until:
        raise InvalidInput.of(
            "end_time",
            f"must not be before {billed_until.isoformat()}, until when the subscription is billed",
        )
    return ending


def periods_until(subscription: Subscription, until: datetime) -> tuple[BillingPeriod, ...]:
    """Answer every period that ended at or before `until`, in order."""
    return tuple(takewhile(lambda period: period.interval.end <= until, _periods(subscription)))


def period_containing(subscription: Subscription, instant: datetime) -> BillingPeriod | None:
    """Answer the period that an instant falls into, if the subscription runs then."""
    ended = subscription.end_time is not None and subscription.end_time <= instant
    if instant < subscription.start_time or ended:
        return None
    return next(period for period in _periods(subscription) if instant < period.interval.end)


def _periods(subscription: Subscription) -> Iterator[BillingPeriod]:
    zone = subscription.time_zone
    start_day = day_of(subscription.start_time, zone)
    end_day = None if subscription.end_time is None else day_of(subscription.end_time, zone)
    for month in count():
        month_start = _month_start(start_day, subscription.anchor, month)
        month_end = _month_start(start_day, subscription.anchor, month + 1)
        if end_day is not None and end_day <= month_start:
            return
        first_day = max(month_start, start_day)
        day_after = month_end if end_day is None else min(month_end, end_day)
        yield BillingPeriod(
            interval=Interval(start_of_day(first_day, zone), start_of_day(day_after, zone)),
            billed_days=(day_after - first_day).days,
            period_days=(month_end - month_start).days,
            last_day=day_after - _ONE_DAY,
        )


def _month_start(start_day: date, anchor: BillingAnchor, month: int) -> date:
    """Answer the day on which a month of the grid begins; month 0 holds the start day."""
    years, month_index = divmod(start_day.month - 1 + month, _MONTHS_PER_YEAR)
    first = date(start_day.year + years, month_index + 1, 1)
    match anchor:
        case BillingAnchor.CALENDAR:
            return first
        case BillingAnchor.ANNIVERSARY:
            _, days_in_month = monthrange(first.year, first.month)
            return first.replace(day=min(start_day.day, days_in_month))
