"""What the client says when the gate refuses or fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from tollkeeper import FieldProblem, LimitState, QuotaDenied
from tollkeeper.api.quota.v1.quota_pb2 import LimitStatus
from tollkeeper.errors import parse_limit, parse_status


def a_limit(**changes: object) -> LimitState:
    """Return a limit that refused, with 3 of 60 requests left."""
    values: dict[str, object] = {
        "limit_id": "key-rpm",
        "scope": "acme/k1",
        "units": ("requests",),
        "capacity": 60,
        "used": 57,
        "reserved": 0,
        "remaining": 3,
        "reset_time": None,
        "retry_after": timedelta(milliseconds=1500),
        "decided": True,
    }
    return LimitState(**{**values, **changes})  # type: ignore[arg-type]  # builder


def test_a_denial_says_which_limit_how_much_is_left_and_when_to_retry() -> None:
    """The message alone is enough for a log line."""
    denied = QuotaDenied([a_limit()])

    assert str(denied) == (
        "refused by limit key-rpm of acme/k1: 3 of 60 requests left, retry in 1.500 s"
    )
    assert (denied.limit.limit_id, denied.remaining, denied.retry_after) == (
        "key-rpm",
        3,
        timedelta(milliseconds=1500),
    )


def test_a_denial_waits_for_the_slowest_of_the_limits_that_refused() -> None:
    """Coming back earlier would be refused again; limits that had room do not matter."""
    slow = a_limit(limit_id="customer-day", retry_after=timedelta(hours=2))
    roomy = a_limit(limit_id="project-month", decided=False, retry_after=None)

    denied = QuotaDenied([a_limit(), roomy, slow])

    assert denied.limit is slow
    assert denied.limits == (a_limit(), slow)


def test_an_amount_that_never_fits_has_no_time_to_retry() -> None:
    """Waiting does not help when the amount exceeds the capacity."""
    denied = QuotaDenied([a_limit(), a_limit(limit_id="small", retry_after=None)])

    assert denied.retry_after is None
    assert "the amount never fits" in str(denied)


def test_a_limit_of_time_is_read_in_its_unit() -> None:
    """Quanta become seconds again."""
    status = LimitStatus(
        limit_id="gpu",
        scope="acme",
        units=["seconds"],
        capacity=3_600_000_000,
        used=1_500_000,
        reserved=0,
        remaining=3_598_500_000,
        reset_time=Timestamp(seconds=1_700_000_000),
        retry_after=Duration(seconds=2),
        decided=True,
    )

    assert parse_limit(status) == LimitState(
        limit_id="gpu",
        scope="acme",
        units=("seconds",),
        capacity=Decimal(3600),
        used=Decimal("1.5"),
        reserved=Decimal(0),
        remaining=Decimal("3598.5"),
        reset_time=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        retry_after=timedelta(seconds=2),
        decided=True,
    )


def test_a_status_gives_its_reason_its_fields_and_its_delay() -> None:
    """Every detail of `google.rpc.Status` reaches the caller."""
    details = [Any() for _ in range(3)]
    details[0].Pack(error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="tollkeeper.quota"))
    details[1].Pack(
        error_details_pb2.BadRequest(
            field_violations=[{"field": "subject.customer_id", "description": "is required"}]
        )
    )
    details[2].Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=3)))

    failed = parse_status(status_pb2.Status(code=3, message="bad request", details=details))

    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.reason == "INVALID_FIELD"
    assert failed.problems == (FieldProblem("subject.customer_id", "is required"),)
    assert failed.retry_after == timedelta(seconds=3)
    assert str(failed) == "INVALID_ARGUMENT: bad request; subject.customer_id: is required"


def test_an_unknown_code_is_unknown() -> None:
    """A code of the future is no crash."""
    assert parse_status(status_pb2.Status(code=99)).code is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("decided", [True, False])
def test_a_limit_speaks_for_itself(*, decided: bool) -> None:
    """Balances print well, too."""
    text = str(a_limit(retry_after=None, decided=decided))

    assert text.startswith("limit key-rpm of acme/k1: 3 of 60 requests left")
    assert text.endswith("never fits") is decided
