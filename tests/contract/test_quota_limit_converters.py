"""Limits between the wire and the domain: what is put reads back, and every bad field is named."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest
from google.protobuf.text_format import Merge, Parse
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from services.quota.convert.limits import (
    parse_customer,
    parse_delete_limit,
    parse_limit,
    parse_put_limit,
    render_limit,
)
from services.quota.model import (
    HOLDS,
    BillingPeriodWindow,
    CalendarPeriod,
    CalendarWindow,
    ConcurrencyWindow,
    Enforcement,
    Level,
    LifetimeWindow,
    Limit,
    RollingRate,
    StoredLimit,
    Subject,
)
from tests.quota_builders import unix_ms
from tests.refusals import Bad, refusal_of
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

NOW_MS = unix_ms("2026-03-01T12:30") + 250
NOW = Timestamp(seconds=NOW_MS // 1000, nanos=250_000_000)
MOST = 10**15

LIMIT = """
    limit_id: "tokens"
    level: LEVEL_KEY
    units: "input_tokens"
    units: "output_tokens"
    capacity: 100
    calendar { period: CALENDAR_PERIOD_DAY time_zone: "Europe/Berlin" }
"""
ROLLING = """
    limit_id: "tokens"
    level: LEVEL_KEY
    units: "tokens"
    capacity: 100
    rolling { period { seconds: 60 } }
"""

UNIT_RULE = "must be 1 to 63 characters of a-z, 0-9 and '_', or a currency such as USD"
ID_RULE = "must be 1 to 64 letters, digits and '_', '.', ':', '@', '-'"
QUANTITY_RULE = "must be from 0 to 1,000,000,000,000,000"
LIMIT_ID_RULE = (
    "must be 1 to 63 characters of a-z, 0-9, '_', '.' and '-', starting with a letter or digit"
)
TOO_FINE = (
    "rolling: the rate is too fine for so large a burst to be counted exactly: capacity and period"
    " have to share a divisor of 77 or more, in quanta and milliseconds"
)
SET_BY_SERVICE = "must be absent: the service sets it"
PERIOD_RULE = "must be whole milliseconds, from 1 second to 366 days"


def message(kind: type[Any], good: str, written: str = "") -> Any:  # noqa: ANN401 - any message.
    """Read a good message, and write something over it."""
    return Merge(written, Parse(good, kind())) if written else Parse(good, kind())


BAD_LIMITS = [
    Bad("bad id", 'limit_id: "A B"', (f"limit_id: {LIMIT_ID_RULE}",)),
    Bad(
        "long name",
        f'display_name: "{"x" * 201}"',
        ("display_name: must have at most 200 characters",),
    ),
    Bad(
        "no level",
        "level: LEVEL_UNSPECIFIED",
        ("level: is required: a level of the subject path",),
    ),
    Bad("bad subject", 'subject { run_id: "?" }', (f"subject.run_id: {ID_RULE}",)),
    Bad(
        "9 dimensions",
        " ".join(f'dimensions {{ key: "d{n}" value: "" }}' for n in range(9)),
        ("dimensions: must have at most 8 entries",),
    ),
    Bad("bad unit", 'units: "a-b"', (f"units[2]: {UNIT_RULE}",)),
    Bad("unit twice", 'units: "input_tokens"', ("units[2]: input_tokens is there already",)),
    Bad(
        "mixed units",
        'units: "seconds" units: "USD" units: "EUR"',
        ("units: must be of one kind: counted things, seconds, or one currency",),
    ),
    Bad(
        "9 units",
        " ".join(f'units: "u{n}"' for n in range(7)),
        ("units: must be 1 to 8 units",),
    ),
    Bad("negative capacity", "capacity: -1", (f"capacity: {QUANTITY_RULE}",)),
    Bad("huge capacity", f"capacity: {MOST + 1}", (f"capacity: {QUANTITY_RULE}",)),
    Bad(
        "no period",
        "calendar { period: CALENDAR_PERIOD_UNSPECIFIED }",
        ("calendar.period: is required: a period of the calendar",),
    ),
    Bad(
        "unknown zone",
        'calendar { time_zone: "Europe/Atlantis" }',
        ("calendar.time_zone: must be an IANA time zone such as Europe/Berlin",),
    ),
    Bad(
        "a path for a zone",
        'calendar { time_zone: "../../etc/passwd" }',
        ("calendar.time_zone: must be an IANA time zone such as Europe/Berlin",),
    ),
    Bad("no rolling period", "rolling { burst: 5 }", (f"rolling.period: {PERIOD_RULE}",)),
    Bad(
        "short rolling period",
        "rolling { period { nanos: 999000000 } }",
        (f"rolling.period: {PERIOD_RULE}",),
    ),
    Bad(
        "long rolling period",
        "rolling { period { seconds: 31622401 } }",
        (f"rolling.period: {PERIOD_RULE}",),
    ),
    Bad(
        "fine rolling period",
        "rolling { period { seconds: 1 nanos: 1 } }",
        (f"rolling.period: {PERIOD_RULE}",),
    ),
    Bad(
        "negative burst",
        "rolling { period { seconds: 1 } burst: -1 }",
        (f"rolling.burst: {QUANTITY_RULE}",),
    ),
    Bad(
        "burst of a rate of nothing",
        "capacity: 0 rolling { period { seconds: 1 } burst: 5 }",
        ("rolling.burst: must be 0 where the capacity is: it never refills",),
    ),
    Bad(
        "too fine a rate",
        "capacity: 1000000007 rolling { period { seconds: 86400 } }",
        (TOO_FINE,),
    ),
    Bad(
        "no anchor",
        "billing_period { months: 13 time_zone: 'Mars' }",
        (
            "billing_period.anchor: is required: a day with year, month and day",
            "billing_period.months: must be from 1 to 12",
            "billing_period.time_zone: must be an IANA time zone such as Europe/Berlin",
        ),
    ),
    Bad(
        "no such day",
        "billing_period { anchor { year: 2026 month: 2 day: 30 } }",
        ("billing_period.anchor: is required: a day with year, month and day",),
    ),
    Bad(
        "units of concurrency",
        "concurrency {}",
        ("units: must be holds alone, or absent, with concurrency",),
    ),
    Bad(
        "holds without concurrency",
        'units: "holds"',
        ("units[2]: holds are counted by a limit of concurrency only",),
    ),
    Bad(
        "overdraft of a rate",
        "rolling { period { seconds: 60 } } overdraft: 1",
        ("overdraft: must be 0 for a rolling rate, which has a burst",),
    ),
    Bad("negative overdraft", "overdraft: -1", (f"overdraft: {QUANTITY_RULE}",)),
    Bad("unknown enforcement", "enforcement: 9", ("enforcement: must be hard, soft or shadow",)),
    Bad(
        "unfinished filter",
        'filter: "size(customer"',
        ("filter: 1:14: Syntax error: missing ')' at '<EOF>'",),
    ),
    Bad(
        "filter of a name that no call has",
        "filter: \"model == 'x'\"",
        ("filter: model is no name here: there are customer, dimensions, key, project, run, user",),
    ),
    Bad(
        "long filter",
        f'filter: "{"x" * 1001}"',
        ("filter: must have at most 1,000 characters",),
    ),
    Bad("bad id of another", 'overrides: "A B"', (f"overrides: {LIMIT_ID_RULE}",)),
    Bad(
        "thresholds that do not ascend",
        "alert_thresholds: [0, 80, 80, 1001]",
        (
            "alert_thresholds[0]: must be from 1 to 1,000",
            "alert_thresholds[2]: must be larger than the one before",
            "alert_thresholds[3]: must be from 1 to 1,000",
        ),
    ),
    Bad(
        "eleven thresholds",
        f"alert_thresholds: {list(range(1, 12))}",
        ("alert_thresholds: must be at most 10",),
    ),
    Bad(
        "thresholds of a rate",
        "rolling { period { seconds: 60 } } alert_thresholds: 80",
        ("alert_thresholds: need a period of time or a lifetime",),
    ),
    Bad(
        "a plan for tokens",
        'plan_id: "pro"',
        ("plan_id: may only be there where the one unit is a currency",),
    ),
    Bad(
        "no end",
        "expire_time {}",
        ("expire_time: is required",),
    ),
    Bad("given create time", "create_time {}", (f"create_time: {SET_BY_SERVICE}",)),
    Bad("given update time", "update_time {}", (f"update_time: {SET_BY_SERVICE}",)),
    Bad(
        "everything at once",
        'limit_id: "?" level: LEVEL_UNSPECIFIED subject { run_id: "?" } units: "?" capacity: -1'
        ' calendar { time_zone: "?" } create_time {}',
        (
            f"limit_id: {LIMIT_ID_RULE}",
            "level: is required: a level of the subject path",
            f"subject.run_id: {ID_RULE}",
            f"units[2]: {UNIT_RULE}",
            f"capacity: {QUANTITY_RULE}",
            "calendar.time_zone: must be an IANA time zone such as Europe/Berlin",
            f"create_time: {SET_BY_SERVICE}",
        ),
    ),
]


@pytest.mark.parametrize("bad", BAD_LIMITS, ids=lambda bad: bad.id)
def test_a_bad_limit_is_refused_with_every_bad_field(bad: Bad) -> None:
    """Merged over a good one; the fields are named in the order of the contract."""
    assert refusal_of(parse_limit, message(quota_pb2.Limit, LIMIT, bad.written)) == list(bad.named)


def test_a_budget_comes_back_with_its_plan() -> None:
    """Only where the unit is a currency; its id is like any other."""
    budget = message(quota_pb2.Limit, ROLLING, 'plan_id: "pro"')
    budget.units[:] = ["USD"]
    stored = StoredLimit(parse_limit(budget), NOW.ToDatetime(UTC), NOW.ToDatetime(UTC))

    assert render_limit(stored).plan_id == "pro"
    budget.plan_id = "A B"
    assert refusal_of(parse_limit, budget) == [f"plan_id: {LIMIT_ID_RULE}"]


def test_a_bad_limit_is_named_inside_its_request() -> None:
    """A put names what is wrong by its path."""
    request = wire.PutLimitRequest(limit=message(quota_pb2.Limit, ROLLING, "capacity: -1"))

    assert refusal_of(parse_put_limit, request) == [
        "request_id: is required",
        f"limit.capacity: {QUANTITY_RULE}",
    ]


def test_a_limit_without_units_or_window_is_refused() -> None:
    """Both are required."""
    assert refusal_of(parse_limit, quota_pb2.Limit(limit_id="x", level=quota_pb2.LEVEL_KEY)) == [
        "units: must be 1 to 8 units",
        "window: is required: calendar, rolling, billing_period, lifetime or concurrency",
    ]


def test_other_questions_about_limits_are_refused_field_by_field() -> None:
    """A deletion names what it lacks; a list is of a customer who can be."""
    assert refusal_of(parse_delete_limit, wire.DeleteLimitRequest()) == [
        "request_id: is required",
        "limit_id: is required",
    ]
    assert refusal_of(parse_customer, "a/b") == [f"customer_id: {ID_RULE}"]


ids = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
subject_ids = st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_.:@-]{1,20}", fullmatch=True))
windows = st.one_of(
    st.builds(
        CalendarWindow,
        st.sampled_from(CalendarPeriod),
        st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
    ),
    st.builds(RollingRate, st.integers(1_000, 60_000), st.integers(0, 10**6)),
    st.builds(
        BillingPeriodWindow,
        st.dates(date(1970, 1, 1)),
        st.integers(1, 12),
        st.sampled_from(["UTC", "America/New_York"]),
    ),
    st.just(LifetimeWindow()),
)
limits = st.builds(
    Limit,
    limit_id=ids,
    display_name=st.text(max_size=20),
    level=st.sampled_from(Level),
    subject=st.builds(Subject, *[subject_ids] * 5),
    dimensions=st.dictionaries(ids, ids, max_size=8).map(
        lambda found: tuple(sorted(found.items()))
    ),
    units=st.sampled_from([("seconds",), ("USD",), ("a", "b"), ("requests",)]),
    capacity=st.integers(1, 10**6),
    window=windows,
    enforcement=st.sampled_from(Enforcement),
    filter=st.sampled_from(["", 'dimensions.model.startsWith("gpt")', "true"]),
    overrides=st.one_of(st.just(""), ids),
    expire_time=st.one_of(
        st.none(),
        st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - as Hypothesis wants them.
    ),
)


@given(limit=limits, overdraft=st.integers(0, MOST))
def test_a_limit_with_an_overdraft_comes_back_as_it_was_put(limit: Limit, overdraft: int) -> None:
    """All but rates may have one; concurrency has the one unit that it counts."""
    prepaid = replace(limit, window=LifetimeWindow(), overdraft=overdraft)
    flying = replace(limit, window=ConcurrencyWindow(), units=(HOLDS,))
    now = NOW.ToDatetime(tzinfo=UTC)
    rendered = [render_limit(StoredLimit(each, now, now)) for each in (prepaid, flying)]
    for each in rendered:
        each.ClearField("create_time")
        each.ClearField("update_time")

    assert list(map(parse_limit, rendered)) == [prepaid, flying]


@given(limit=limits)
def test_a_limit_comes_back_as_it_was_put(limit: Limit) -> None:
    """What is rendered reads as the same limit, once the times of the service are taken off."""
    stored = StoredLimit(limit, NOW.ToDatetime(tzinfo=UTC), NOW.ToDatetime(tzinfo=UTC))
    rendered = render_limit(stored)

    assert (rendered.create_time, rendered.update_time) == (NOW, NOW)
    rendered.ClearField("create_time")
    rendered.ClearField("update_time")
    assert parse_limit(rendered) == limit
