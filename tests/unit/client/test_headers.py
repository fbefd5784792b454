"""HTTP headers out of a decision, as draft-ietf-httpapi-ratelimit-headers-10 writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.unit.client.test_errors import a_limit
from tollkeeper import QuotaDenied, denial_headers, rate_limit_headers

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_each_limit_says_its_capacity_its_rest_and_its_reset() -> None:
    """One item of the list for each limit, in the order of the decision."""
    limits = [
        a_limit(reset_time=NOW + timedelta(seconds=1.2)),
        a_limit(limit_id="budget", capacity=Decimal("12.5"), remaining=Decimal("0.9")),
    ]

    assert rate_limit_headers(limits, NOW) == {
        "RateLimit-Policy": '"key-rpm";q=60, "budget";q=12',
        "RateLimit": '"key-rpm";r=3;t=2, "budget";r=0',
    }


def test_no_figure_is_larger_than_a_field_may_hold() -> None:
    """An integer of a structured field has fifteen digits at most."""
    headers = rate_limit_headers([a_limit(capacity=10**15, remaining=10**15)], NOW)

    assert headers == {
        "RateLimit-Policy": '"key-rpm";q=999999999999999',
        "RateLimit": '"key-rpm";r=999999999999999',
    }


def test_no_limit_has_no_headers() -> None:
    """An empty list would not be a valid field."""
    assert rate_limit_headers([], NOW) == {}


def test_a_denial_says_when_to_come_back() -> None:
    """Whole seconds, rounded up: coming back earlier would be refused again."""
    assert denial_headers(QuotaDenied([a_limit()]), NOW) == {
        "RateLimit-Policy": '"key-rpm";q=60',
        "RateLimit": '"key-rpm";r=3',
        "Retry-After": "2",
    }


def test_what_never_fits_is_not_to_be_retried() -> None:
    """Without Retry-After a client has no reason to come back."""
    assert "Retry-After" not in denial_headers(QuotaDenied([a_limit(retry_after=None)]), NOW)


def test_a_reset_in_the_past_is_now() -> None:
    """Clocks differ; the field is never negative."""
    headers = rate_limit_headers([a_limit(reset_time=NOW - timedelta(seconds=5))], NOW)

    assert headers["RateLimit"] == '"key-rpm";r=3;t=0'
