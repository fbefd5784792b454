"""Whose usage is rated again: the customers that are subscribed, as invoicing knows them.

Refuses to guess where a segment is asked for that nobody knows.
"""

import csv
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from cli.errors import CommandError
from cli.services import Services
from cli.times import parse_time_option
from kit.errors import InvalidInput
from kit.interval import Interval
from kit.rpc.wire import parse_time, render_interval
from services.invoicing.convert.parties import parse_create_subscription
from services.invoicing.periods import BillingPeriod, periods_until
from services.rating.convert.fields import parse_time_zone
from services.rating.convert.simulations import SEGMENT_LENGTH_MAX
from services.rating.days import add_months, count_days, last_day, local_day, start_of
from tollkeeper.api.invoicing.v1.customer_pb2 import Customer, Subscription
from tollkeeper.api.invoicing.v1.invoicing_service_pb2 import (
    CreateSubscriptionRequest,
    ListCustomersRequest,
    ListSubscriptionsRequest,
)
from tollkeeper.api.rating.v1.rating_pb2 import Proration
from tollkeeper.api.rating.v1.rating_service_pb2 import CustomerOverrides
from tollkeeper.api.rating.v1.simulation_pb2 import (
    SimulatedCalendar,
    SimulatedCustomer,
    SimulatedPeriod,
)
from tollkeeper.api.tax.v1.tax_pb2 import BuyerKind

SEGMENTS = ("plan", "country", "currency", "kind")
_PAGE_SIZE = 1000


def parse_span(since: str, until: str) -> Interval:
    """Read the options `--since` and `--until`.

    Raises:
        CommandError: one is no time, or the first is not before the second.
    """
    start, end = parse_time_option("--since", since), parse_time_option("--until", until)
    if start >= end:
        raise CommandError(f"--since {since} must come before --until {until}")
    return Interval(start, end)


def parse_zone_option(time_zone: str) -> ZoneInfo:
    """Read the option `--time-zone`.

    Raises:
        CommandError: there is no such zone.
    """
    try:
        return parse_time_zone(time_zone, "--time-zone")
    except InvalidInput as error:
        raise CommandError(error.message) from None


def calendar_periods(since: datetime, until: datetime, zone: ZoneInfo) -> list[SimulatedPeriod]:
    """Cut an interval at the months of a calendar; parts of months have parts of the fees."""
    periods: list[SimulatedPeriod] = []
    month = local_day(since, zone).replace(day=1)
    start = since
    while start < until:
        following = add_months(month, 1)
        whole = Interval(start_of(month, zone), start_of(following, zone))
        period = Interval(start, min(until, whole.end))
        message = SimulatedPeriod(period=render_interval(period))
        if period != whole:
            days = count_days(local_day(period.start, zone), last_day(period, zone))
            message.proration.CopyFrom(
                Proration(billed_days=days, period_days=(following - month).days)
            )
        periods.append(message)
        month, start = following, period.end
    return periods


class BillingCalendars:
    """The billing periods of subscriptions that end from one day to another, each list once.

    The days are those of each customer's own calendar, so that midnight is where the customer is.
    """

    def __init__(self, since: date, until: date) -> None:
        self._since, self._until = since, until
        self._numbers: dict[tuple[BillingPeriod, ...], int] = {}

    def number_of(self, subscription: Subscription, time_zone: str) -> int:
        """Answer the position of its periods, from 1; 0 where none has ended by then."""
        written = Subscription()
        written.CopyFrom(subscription)
        written.ClearField("create_time")
        request = CreateSubscriptionRequest(subscription=written)
        parsed = parse_create_subscription(request, parse_time(written.start_time, "start_time"))
        zone = parse_time_zone(time_zone, "time_zone")
        since, until = start_of(self._since, zone), start_of(self._until, zone)
        periods = tuple(
            period
            for period in periods_until(replace(parsed, time_zone=zone.key), until)
            if period.interval.end > since
        )
        return self._numbers.setdefault(periods, len(self._numbers) + 1) if periods else 0

    def calendars(self) -> list[SimulatedCalendar]:
        """Write every list of periods, by its position."""
        return [SimulatedCalendar(periods=map(_simulated, periods)) for periods in self._numbers]


def _simulated(period: BillingPeriod) -> SimulatedPeriod:
    part = Proration(billed_days=period.billed_days, period_days=period.period_days)
    return SimulatedPeriod(
        period=render_interval(period.interval), proration=None if period.is_whole else part
    )


async def find_customers(
    services: Services,
    interval: Interval,
    segment: str,
    calendars: BillingCalendars | None = None,
) -> tuple[list[SimulatedCustomer], list[CustomerOverrides]]:
    """Find who is subscribed within an interval, each on the plan that began last.

    With calendars, each is billed by its own periods, and who has none is left out. Beside them
    comes what was agreed with some of them.

    Raises:
        CommandError: a service does not answer, or the segment is not known.
    """
    segments = read_segments(Path(segment)) if segment and segment not in SEGMENTS else {}
    customers = {each.customer_id: each async for each in _customers(services)}
    latest: dict[str, Subscription] = {}
    async for subscription in _subscriptions(services):
        starts = parse_time(subscription.start_time, "start_time")
        has_ended = (
            subscription.HasField("end_time")
            and parse_time(subscription.end_time, "end_time") <= interval.start
        )
        if starts < interval.end and not has_ended:
            known = latest.get(subscription.customer_id)
            if known is None or parse_time(known.start_time, "start_time") < starts:
                latest[subscription.customer_id] = subscription
    found, agreed = [], []
    for customer_id, subscription in sorted(latest.items()):
        customer = customers[customer_id]
        number = calendars.number_of(subscription, customer.time_zone) if calendars else 0
        if calendars and not number:
            continue
        found.append(
            SimulatedCustomer(
                customer_id=customer_id,
                plan_id=subscription.plan_id,
                segment=segments.get(customer_id) or _segment_of(customer, subscription, segment),
                contract_start=subscription.start_time,
                time_zone=customer.time_zone,
                calendar=number,
            )
        )
        if subscription.HasField("overrides"):
            overrides = subscription.overrides
            agreed.append(CustomerOverrides(customer_id=customer_id, overrides=overrides))
    return found, agreed


def _segment_of(customer: Customer, subscription: Subscription, segment: str) -> str:
    match segment:
        case "plan":
            return subscription.plan_id
        case "country":
            return customer.address.country
        case "currency":
            return customer.currency
        case "kind":
            return BuyerKind.Name(customer.kind).removeprefix("BUYER_KIND_").lower()
    return ""


def read_segments(file: Path) -> Mapping[str, str]:
    """Read a CSV of customers and their segments."""
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CommandError(
            f"--segment is none of {', '.join(SEGMENTS)}, and {file} cannot be read: {error}"
        ) from None
    if not {"customer_id", "segment"} <= set(reader.fieldnames or ()):
        raise CommandError(f"{file} lacks the columns customer_id and segment")
    for number, row in enumerate(rows, 2):
        if not row["segment"] or len(row["segment"]) > SEGMENT_LENGTH_MAX:
            raise CommandError(
                f"{file}, row {number}: a segment has 1 to {SEGMENT_LENGTH_MAX} characters"
            )
    return {row["customer_id"]: row["segment"] for row in rows}


async def _customers(services: Services) -> AsyncIterator[Customer]:
    request = ListCustomersRequest(page_size=_PAGE_SIZE)
    async for page in services.pages(services.invoicing.ListCustomers, request):
        for customer in page.customers:
            yield customer


async def _subscriptions(services: Services) -> AsyncIterator[Subscription]:
    request = ListSubscriptionsRequest(page_size=_PAGE_SIZE)
    async for page in services.pages(services.invoicing.ListSubscriptions, request):
        for subscription in page.subscriptions:
            yield subscription
