"""A plan's limit as the quota service has it, for the customer of one subscription.

Its id begins with the subscription's, and every request about it has an id of its own content, so
that repeating one changes nothing. Refuses to know when it is put.
"""

import hashlib
import re
from datetime import date
from zoneinfo import ZoneInfo

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date

from kit.rpc.wire import render_time
from services.invoicing.model import BillingAnchor, Subscription
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1.quota_service_pb2 import DeleteLimitRequest, PutLimitRequest
from tollkeeper.api.rating.v1.plan_pb2 import PlanLimit
from tollkeeper.api.type.v1.subject_pb2 import Subject

_PREFIX_LENGTH_MAX = 31
_DIGEST_LENGTH = 10
_CURRENCY = re.compile(r"[A-Z]{3}")


def render_put_limit(subscription: Subscription, limit: PlanLimit) -> PutLimitRequest:
    """Write the request that puts a limit until the subscription ends."""
    end = subscription.end_time
    until = "open" if end is None else f"{end.timestamp():.0f}"
    return PutLimitRequest(
        request_id=f"{limit_id_of(subscription, limit)}:put:{until}",
        limit=_render(subscription, limit, None if end is None else render_time(end)),
    )


def render_delete_limit(subscription: Subscription, limit: PlanLimit) -> DeleteLimitRequest:
    """Write the request that deletes a limit."""
    limit_id = limit_id_of(subscription, limit)
    return DeleteLimitRequest(request_id=f"{limit_id}:delete", limit_id=limit_id)


def limit_id_of(subscription: Subscription, limit: PlanLimit) -> str:
    """Name a limit of a subscription; long ids of subscriptions are cut, and stay different."""
    prefix = subscription.subscription_id
    if len(prefix) > _PREFIX_LENGTH_MAX:
        digest = hashlib.sha256(prefix.encode()).hexdigest()[:_DIGEST_LENGTH]
        prefix = f"{prefix[: _PREFIX_LENGTH_MAX - _DIGEST_LENGTH - 1]}-{digest}"
    return f"{prefix}.{limit.limit_id}"


def _render(
    subscription: Subscription, limit: PlanLimit, expire_time: Timestamp | None
) -> quota_pb2.Limit:
    message = quota_pb2.Limit(
        limit_id=limit_id_of(subscription, limit),
        display_name=limit.display_name or limit.limit_id,
        level=limit.level,
        subject=Subject(customer_id=subscription.customer_id),
        dimensions=limit.dimensions,
        units=limit.units,
        capacity=limit.capacity,
        overdraft=limit.overdraft,
        enforcement=limit.enforcement,
        expire_time=expire_time,
    )
    if _CURRENCY.fullmatch(limit.units[0]):
        message.plan_id = subscription.plan_id
    match limit.WhichOneof("window"):
        case "calendar_period":
            message.calendar.period = limit.calendar_period
            message.calendar.time_zone = subscription.time_zone
        case "rolling":
            message.rolling.CopyFrom(limit.rolling)
        case "lifetime":
            message.lifetime.SetInParent()
        case "concurrency":
            message.concurrency.SetInParent()
        case _:
            anchor = message.billing_period.anchor
            anchor.CopyFrom(_anchor(subscription))
            message.billing_period.time_zone = subscription.time_zone
    return message


def _anchor(subscription: Subscription) -> Date:
    """Answer a day on which a billing period of the subscription begins."""
    start: date = subscription.start_time.astimezone(ZoneInfo(subscription.time_zone)).date()
    if subscription.anchor is BillingAnchor.CALENDAR:
        start = start.replace(day=1)
    return Date(year=start.year, month=start.month, day=start.day)
