"""The gate's converters: what is written reads back, and every bad field is named, all at once."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.text_format import Merge, Parse

from services.quota.convert.calls import (
    parse_check,
    parse_commit,
    parse_get_balances,
    parse_release,
    parse_reserve,
    parse_session_call,
)
from services.quota.model import (
    CheckCall,
    CommitCall,
    HoldId,
    ReleaseCall,
    ReserveCall,
    Subject,
)
from tests.quota_builders import a_subject
from tests.refusals import Bad, refusal_of
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

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
UNIT_RULE = "must be 1 to 63 characters of a-z, 0-9 and '_', or a currency such as USD"
ID_RULE = "must be 1 to 64 letters, digits and '_', '.', ':', '@', '-'"
QUANTITY_RULE = "must be from 0 to 1,000,000,000,000,000"
HOLD_RULE = "must be the reservation_id of a ReserveResponse"
TTL_RULE = "must be from 100 milliseconds to 24 hours"
DIMENSIONS_RULE = "names must not be empty, names and values at most 128 long"


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
        (f'reservation_id: "{"x" * 241}.acme"', [f"reservation_id: {HOLD_RULE}"]),
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
