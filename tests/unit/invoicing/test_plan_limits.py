"""A plan's limit as the quota service gets it: ids, money, and the day of billing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from google.protobuf.text_format import Parse

from services.invoicing.model import BillingAnchor, CurrencyConversion, Subscription
from services.invoicing.plan_limits import (
    limit_id_of,
    render_delete_limit,
    render_put_limit,
)
from tollkeeper.api.quota.v1.quota_service_pb2 import DeleteLimitRequest, PutLimitRequest
from tollkeeper.api.rating.v1.plan_pb2 import PlanLimit

MIDNIGHT = datetime(2026, 3, 14, 23, tzinfo=UTC)
SUBSCRIPTION = Subscription(
    subscription_id="acme-pro",
    customer_id="acme",
    plan_id="pro",
    start_time=MIDNIGHT,
    end_time=None,
    anchor=BillingAnchor.ANNIVERSARY,
    conversion=CurrencyConversion.REFUSED,
    time_zone="Europe/Berlin",
    create_time=MIDNIGHT,
)
A_LIMIT = Parse('limit_id: "tokens" units: "tokens" capacity: 7 lifetime {}', PlanLimit())


def test_money_counts_by_the_prices_of_the_plan() -> None:
    """A limit in the plan's currency names the plan by whose rate card it counts."""
    limit = Parse(
        'limit_id: "spend" units: "USD" capacity: 5000000 calendar_period: CALENDAR_PERIOD_MONTH',
        PlanLimit(),
    )

    assert render_put_limit(SUBSCRIPTION, limit) == Parse(
        """
        request_id: "acme-pro.spend:put:open"
        limit { limit_id: "acme-pro.spend" display_name: "spend" units: "USD"
                subject { customer_id: "acme" }
                capacity: 5000000 plan_id: "pro"
                calendar { period: CALENDAR_PERIOD_MONTH time_zone: "Europe/Berlin" } }
        """,
        PutLimitRequest(),
    )


@pytest.mark.parametrize(
    ("anchor", "day"), [(BillingAnchor.ANNIVERSARY, 15), (BillingAnchor.CALENDAR, 1)]
)
def test_a_billing_period_begins_on_the_customers_day(anchor: BillingAnchor, day: int) -> None:
    """At 23:00 UTC it is the 15th in Berlin; calendar months begin on the first."""
    limit = Parse('limit_id: "a" units: "a" billing_period {}', PlanLimit())

    window = render_put_limit(replace(SUBSCRIPTION, anchor=anchor), limit).limit.billing_period

    assert (window.anchor.month, window.anchor.day, window.time_zone) == (3, day, "Europe/Berlin")


def test_an_end_is_another_request() -> None:
    """The same end again is the same request; what has ended is deleted."""
    ending = replace(SUBSCRIPTION, end_time=MIDNIGHT)

    put = render_put_limit(ending, A_LIMIT)

    assert (put.request_id, put.limit.expire_time.ToDatetime(UTC)) == (
        "acme-pro.tokens:put:1773529200",
        MIDNIGHT,
    )
    assert render_delete_limit(ending, A_LIMIT) == DeleteLimitRequest(
        request_id="acme-pro.tokens:delete", limit_id="acme-pro.tokens"
    )


def test_long_ids_of_subscriptions_are_cut_and_stay_different() -> None:
    """What the quota service takes has 63 characters at most."""
    ids = [
        limit_id_of(replace(SUBSCRIPTION, subscription_id="s" * 62 + end), A_LIMIT) for end in "ab"
    ]
    longest = PlanLimit(limit_id="l" * 31)

    assert len(set(ids)) == len(ids)
    assert all(each.startswith("s" * 20) for each in ids)
    assert len(limit_id_of(replace(SUBSCRIPTION, subscription_id="s" * 63), longest)) == 63
