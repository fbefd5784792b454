"""The gate's converters: what is written reads back, and every bad field is named, all at once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.text_format import Merge, Parse
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from services.quota.convert.calls import (
    parse_check,
    parse_commit,
    parse_get_balances,
    parse_release,
    parse_reserve,
    parse_session_call,
)
from services.quota.convert.limits import (
    parse_customer,
    parse_delete_limit,
    parse_limit,
    parse_put_limit,
    render_limit,
)
from services.quota.model import (
    CalendarPeriod,
    CalendarWindow,
    CheckCall,
    CommitCall,
    HoldId,
    Level,
    Limit,
    ReleaseCall,
    ReserveCall,
    RollingRate,
    StoredLimit,
    Subject,
)
from tests.quota_builders import a_subject, unix_ms
from tests.refusals import Bad, refusal_of
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

NOW_MS = unix_ms("2026-03-01T12:30") + 250
NOW = Timestamp(seconds=NOW_MS // 1000, nanos=250_000_000)
MOST = 10**15

RESERVE = """
    request_id: "r1"
    subject { customer_id: "acme" key_id: "k1" }
    dimensions { key: "model" value: "large" }
    amounts { unit: "tokens" quantity: 5 }
    amounts { unit: "USD" quantity: 7 }
    ttl { seconds: 2 }
"""
CHECK = """
    subject { customer_id: "acme" }
    amounts { unit: "tokens" quantity: 5 }
"""
COMMIT = """
    request_id: "r1"
    reservation_id: "hold-1.acme"
    amounts { unit: "tokens" quantity: 5 }
    subject { customer_id: "acme" }
"""
RELEASE = """
    request_id: "r1"
    reservation_id: "hold-1.acme"
"""
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
HOLD_RULE = "must be the reservation_id of a ReserveResponse"
TTL_RULE = "must be from 100 milliseconds to 24 hours"
DIMENSIONS_RULE = "names must not be empty, names and values at most 128 long"
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


def cleared(kind: type[Any], good: str, field: str) -> Any:  # noqa: ANN401 - as above.
    """Read a good message without one of its fields."""
    found = message(kind, good)
    found.ClearField(field)
    return found


def test_a_reserve_is_read() -> None:
    """Everything it says, and a fingerprint of it."""
    call = parse_reserve(message(wire.ReserveRequest, RESERVE))

    assert call == ReserveCall(
        request_id="r1",
        fingerprint=call.fingerprint,
        subject=Subject("acme", key="k1"),
        dimensions=(("model", "large"),),
        amounts={"tokens": 5, "USD": 7},
        ttl_ms=2_000,
    )
    assert len(call.fingerprint) == 8


def test_a_commit_a_check_and_a_release_are_read() -> None:
    """Each as its own value; a session names which it is."""
    commit = parse_commit(message(wire.CommitRequest, COMMIT))
    release = parse_release(message(wire.ReleaseRequest, RELEASE))
    hold, subject = HoldId("hold-1", "acme"), a_subject()

    assert commit == CommitCall("r1", commit.fingerprint, hold, subject, (), {"tokens": 5})
    assert release == ReleaseCall("r1", release.fingerprint, hold)
    assert parse_check(message(wire.CheckRequest, CHECK)) == CheckCall(subject, (), {"tokens": 5})
    assert (
        parse_session_call(
            wire.SessionCall(call_id=7, release=message(wire.ReleaseRequest, RELEASE))
        )
        == release
    )


def test_what_may_be_left_out_has_its_default() -> None:
    """A hold lives a minute; a commit of a hold needs neither subject nor amounts."""
    alone = wire.CommitRequest(request_id="r1", reservation_id="hold-1.acme")
    commit = parse_commit(alone)

    assert parse_reserve(cleared(wire.ReserveRequest, RESERVE, "ttl")).ttl_ms == 60_000
    assert commit == CommitCall("r1", commit.fingerprint, HoldId("hold-1", "acme"), None, (), {})


def test_a_fingerprint_is_of_the_content() -> None:
    """It is the same however maps are ordered, and differs by method and by any field."""
    first, second = wire.ReserveRequest(), wire.ReserveRequest()
    for request, names in ((first, "abcdefgh"), (second, "hgfedcba")):
        Merge(RESERVE, request)
        for name in names:
            request.dimensions[name] = name
    other = message(wire.ReserveRequest, RESERVE, "ttl { nanos: 1000000 }")
    release = message(wire.ReleaseRequest, RELEASE)
    commit = wire.CommitRequest(request_id="r1", reservation_id="hold-1.acme")
    prints = [
        parse_reserve(first).fingerprint,
        parse_reserve(other).fingerprint,
        parse_release(release).fingerprint,
        parse_commit(commit).fingerprint,
    ]

    assert parse_reserve(first).fingerprint == parse_reserve(second).fingerprint
    assert release.SerializeToString() == commit.SerializeToString()
    assert len(set(prints)) == len(prints)


BAD_RESERVES = [
    Bad(
        "long request id",
        f'request_id: "{"x" * 129}"',
        ("request_id: must have at most 128 characters",),
    ),
    Bad(
        "control character",
        'request_id: "a\\n"',
        ("request_id: must have printable characters only",),
    ),
    Bad(
        "bad customer",
        'subject { customer_id: "a/b" }',
        (f"subject.customer_id: {ID_RULE}",),
    ),
    Bad(
        "long project",
        f'subject {{ project_id: "{"x" * 65}" }}',
        (f"subject.project_id: {ID_RULE}",),
    ),
    Bad(
        "every id bad",
        'subject { project_id: " " user_id: "{" key_id: "}" run_id: "\\303\\251" }',
        tuple(f"subject.{level}_id: {ID_RULE}" for level in ("project", "user", "key", "run")),
    ),
    Bad(
        "17 dimensions",
        " ".join(f'dimensions {{ key: "d{n}" value: "" }}' for n in range(16)),
        ("dimensions: must have at most 16 entries",),
    ),
    Bad(
        "nameless dimension",
        'dimensions { key: "" value: "x" }',
        (f"dimensions: {DIMENSIONS_RULE}",),
    ),
    Bad(
        "long dimension",
        f'dimensions {{ key: "model" value: "{"x" * 129}" }}',
        (f"dimensions: {DIMENSIONS_RULE}",),
    ),
    Bad("unit missing", "amounts { quantity: 1 }", (f"amounts[2].unit: {UNIT_RULE}",)),
    Bad(
        "unit unknown as a currency",
        'amounts { unit: "XXZ" quantity: 1 }',
        (f"amounts[2].unit: {UNIT_RULE}",),
    ),
    Bad(
        "unit twice",
        'amounts { unit: "tokens" quantity: 1 }',
        ("amounts[2].unit: tokens is there already",),
    ),
    Bad(
        "negative",
        'amounts { unit: "x" quantity: -1 }',
        (f"amounts[2].quantity: {QUANTITY_RULE}",),
    ),
    Bad(
        "huge",
        f'amounts {{ unit: "x" quantity: {MOST + 1} }}',
        (f"amounts[2].quantity: {QUANTITY_RULE}",),
    ),
    Bad(
        "17 units",
        " ".join(f'amounts {{ unit: "u{n}" }}' for n in range(15)),
        ("amounts: must have at most 16 units",),
    ),
    Bad("ttl too short", "ttl { seconds: 0 nanos: 99999999 }", (f"ttl: {TTL_RULE}",)),
    Bad("ttl too long", "ttl { seconds: 86400 nanos: 1000000 }", (f"ttl: {TTL_RULE}",)),
    Bad(
        "everything at once",
        'request_id: "\\001" subject { key_id: "?" } dimensions { key: "" value: "" }'
        ' amounts { unit: "?" quantity: -1 } ttl { seconds: -9 }',
        (
            "request_id: must have printable characters only",
            f"subject.key_id: {ID_RULE}",
            f"dimensions: {DIMENSIONS_RULE}",
            f"amounts[2].unit: {UNIT_RULE}",
            f"amounts[2].quantity: {QUANTITY_RULE}",
            f"ttl: {TTL_RULE}",
        ),
    ),
]


@pytest.mark.parametrize("bad", BAD_RESERVES, ids=lambda bad: bad.id)
def test_a_bad_reserve_is_refused_with_every_bad_field(bad: Bad) -> None:
    """Merged over a good one; the fields are named in the order of the contract."""
    assert refusal_of(parse_reserve, message(wire.ReserveRequest, RESERVE, bad.written)) == list(
        bad.named
    )


@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("request_id", ["request_id: is required"]),
        ("subject", ["subject.customer_id: is required"]),
        ("amounts", ["amounts: is required"]),
    ],
)
def test_a_reserve_without_a_required_field_is_refused(field: str, named: list[str]) -> None:
    """What is left out is named like what is wrong."""
    assert refusal_of(parse_reserve, cleared(wire.ReserveRequest, RESERVE, field)) == named


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ('reservation_id: "hold-1"', [f"reservation_id: {HOLD_RULE}"]),
        ('reservation_id: "Hold.acme"', [f"reservation_id: {HOLD_RULE}"]),
        ('reservation_id: "hold-1.a/b"', [f"reservation_id: {HOLD_RULE}"]),
        (f'reservation_id: "{"x" * 41}.acme"', [f"reservation_id: {HOLD_RULE}"]),
        (
            'reservation_id: "hold-1.other"',
            ["subject.customer_id: must be other, for whom the hold was made"],
        ),
        ('subject { key_id: "?" }', [f"subject.key_id: {ID_RULE}"]),
        ('amounts { unit: "x" quantity: -1 }', [f"amounts[1].quantity: {QUANTITY_RULE}"]),
    ],
)
def test_a_bad_commit_is_refused(written: str, named: list[str]) -> None:
    """By its hold, its subject and its amounts."""
    assert refusal_of(parse_commit, message(wire.CommitRequest, COMMIT, written)) == named


def test_a_commit_of_nothing_and_nobody_is_refused() -> None:
    """Without a hold there must be a subject."""
    assert refusal_of(parse_commit, wire.CommitRequest(request_id="r1")) == [
        "subject.customer_id: is required"
    ]


def test_a_release_a_check_and_a_question_are_refused_field_by_field() -> None:
    """Each names what it lacks."""
    assert refusal_of(parse_release, wire.ReleaseRequest()) == [
        "request_id: is required",
        "reservation_id: is required",
    ]
    assert refusal_of(parse_check, wire.CheckRequest()) == [
        "subject.customer_id: is required",
        "amounts: is required",
    ]
    assert refusal_of(parse_get_balances, wire.GetBalancesRequest()) == [
        "subject.customer_id: is required"
    ]
    assert refusal_of(parse_session_call, wire.SessionCall(call_id=1)) == ["call: is required"]
    assert refusal_of(parse_delete_limit, wire.DeleteLimitRequest()) == [
        "request_id: is required",
        "limit_id: is required",
    ]
    assert refusal_of(parse_customer, "a/b") == [f"customer_id: {ID_RULE}"]


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
        "window: is required: calendar or rolling",
    ]


ids = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,20}", fullmatch=True)
subject_ids = st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_.:@-]{1,20}", fullmatch=True))
windows = st.one_of(
    st.builds(
        CalendarWindow,
        st.sampled_from(CalendarPeriod),
        st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]),
    ),
    st.builds(RollingRate, st.integers(1_000, 60_000), st.integers(0, 10**6)),
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
    filter=st.sampled_from(["", 'dimensions.model.startsWith("gpt")', "true"]),
    overrides=st.one_of(st.just(""), ids),
    expire_time=st.one_of(
        st.none(),
        st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - as Hypothesis wants them.
    ),
)


@given(limit=limits)
def test_a_limit_comes_back_as_it_was_put(limit: Limit) -> None:
    """What is rendered reads as the same limit, once the times of the service are taken off."""
    stored = StoredLimit(limit, NOW.ToDatetime(tzinfo=UTC), NOW.ToDatetime(tzinfo=UTC))
    rendered = render_limit(stored)

    assert (rendered.create_time, rendered.update_time) == (NOW, NOW)
    rendered.ClearField("create_time")
    rendered.ClearField("update_time")
    assert parse_limit(rendered) == limit
