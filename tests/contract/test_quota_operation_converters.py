"""Calls that change a hold or book without one, read from the wire; every bad field is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.text_format import Parse
from google.protobuf.timestamp_pb2 import Timestamp

from services.quota.convert.calls import (
    parse_check,
    parse_extend,
    parse_mark_dispatched,
    parse_record,
    parse_reserve,
    parse_session_call,
)
from services.quota.model import (
    CheckCall,
    Estimate,
    ExtendCall,
    HoldId,
    MarkDispatchedCall,
    RecordCall,
    Subject,
)
from tests.quota_builders import unix_ms
from tests.refusals import Bad, refusal_of
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire
from tollkeeper.api.quota.v1.quota_pb2 import Amount
from tollkeeper.api.type.v1 import subject_pb2

EXTEND = """
    request_id: "r1"
    reservation_id: "hold-1.acme"
    amounts { unit: "tokens" quantity: 50 }
    min_amounts { unit: "tokens" quantity: 10 }
    ttl { seconds: 2 }
    mode: MODE_SHADOW
"""
RECORD = """
    request_id: "r1"
    subject { customer_id: "acme" }
    dimensions { key: "model" value: "large" }
    amounts { unit: "tokens" quantity: 5 }
    event_time { seconds: 1772368200 nanos: 250000000 }
"""
HOLD = HoldId("hold-1", "acme")
ACME = subject_pb2.Subject(customer_id="acme")


def test_an_extension_is_read() -> None:
    """Without a subject it is that of the hold."""
    call = parse_extend(Parse(EXTEND, wire.ExtendRequest()))

    assert call == ExtendCall(
        request_id="r1",
        fingerprint=call.fingerprint,
        hold=HOLD,
        subject=None,
        dimensions=(),
        amounts={"tokens": 50},
        ttl_ms=2_000,
        least={"tokens": 10},
        is_shadow=True,
    )


def test_an_extension_may_be_of_time_alone() -> None:
    """Then nothing more is held."""
    call = parse_extend(
        wire.ExtendRequest(request_id="r1", reservation_id="hold-1.acme", ttl=Duration(seconds=3))
    )

    assert (call.amounts, call.least, call.ttl_ms) == ({}, {}, 3_000)


def test_a_record_is_read_with_its_time() -> None:
    """In milliseconds of Unix time; 0 stands for now."""
    request = Parse(RECORD, wire.RecordRequest())
    call = parse_record(request)
    request.ClearField("event_time")

    assert call == RecordCall(
        "r1",
        call.fingerprint,
        Subject("acme"),
        (("model", "large"),),
        {"tokens": 5},
        unix_ms("2026-03-01T12:30") + 250,
    )
    assert parse_record(request).event_ms == 0


def test_a_session_carries_them() -> None:
    """Each is read as by itself."""
    marked = wire.MarkDispatchedRequest(request_id="r1", reservation_id="hold-1.acme")
    extend = Parse(EXTEND, wire.ExtendRequest())
    record = Parse(RECORD, wire.RecordRequest())
    dispatched = parse_mark_dispatched(marked)

    assert dispatched == MarkDispatchedCall("r1", dispatched.fingerprint, HOLD)
    assert parse_session_call(wire.SessionCall(mark_dispatched=marked)) == dispatched
    assert parse_session_call(wire.SessionCall(extend=extend)) == parse_extend(extend)
    assert parse_session_call(wire.SessionCall(record=record)) == parse_record(record)


def test_a_check_in_shadow_is_read() -> None:
    """Nothing refuses it."""
    request = wire.CheckRequest(
        subject=ACME,
        amounts=[Amount(unit="tokens", quantity=5)],
        mode=wire.MODE_SHADOW,
    )

    assert parse_check(request) == CheckCall(Subject("acme"), (), {"tokens": 5}, is_shadow=True)


BAD_EXTENSIONS = [
    Bad(
        "nothing at all",
        "",
        (
            "request_id: is required",
            "reservation_id: is required",
        ),
    ),
    Bad(
        "neither amounts nor time",
        'request_id: "r" reservation_id: "h.acme"',
        ("amounts: is required where there is no ttl",),
    ),
    Bad(
        "another customer",
        'request_id: "r" reservation_id: "h.acme" ttl { seconds: 1 }'
        ' subject { customer_id: "other" }',
        ("subject.customer_id: must be acme, for whom the hold was made",),
    ),
    Bad(
        "least of other units, more than all, no mode, no time",
        'request_id: "r" reservation_id: "h.acme" amounts { unit: "a" quantity: 5 }'
        ' min_amounts { unit: "b" quantity: 1 } min_amounts { unit: "a" quantity: 6 }'
        " ttl { nanos: 1 } mode: 7",
        (
            "ttl: must be from 100 milliseconds to 24 hours",
            "min_amounts[0].unit: b is not among the amounts",
            "min_amounts[1].quantity: must not exceed the amount",
            "mode: must be enforce or shadow",
        ),
    ),
]


@pytest.mark.parametrize("bad", BAD_EXTENSIONS, ids=lambda bad: bad.id)
def test_a_bad_extension_is_refused_with_every_bad_field(bad: Bad) -> None:
    """All of them at once."""
    request = Parse(bad.written, wire.ExtendRequest())

    assert refusal_of(parse_extend, request) == list(bad.named)


OTHERS: list[tuple[Callable[[Any], object], Any, list[str]]] = [
    (
        parse_record,
        wire.RecordRequest(event_time=Timestamp(nanos=-1)),
        [
            "request_id: is required",
            "subject.customer_id: is required",
            "amounts: is required",
            "event_time: must have nanos between 0 and 999,999,999",
        ],
    ),
    (
        parse_mark_dispatched,
        wire.MarkDispatchedRequest(),
        ["request_id: is required", "reservation_id: is required"],
    ),
    (
        parse_reserve,
        wire.ReserveRequest(
            request_id="r",
            subject=ACME,
            amounts=[Amount(unit="holds", quantity=1)],
            min_amounts=[Amount(unit="holds", quantity=1)],
            mode=wire.Mode.ValueType(9),
        ),
        [
            "amounts[0].unit: holds are counted by themselves: one each reserve",
            "min_amounts[0].unit: holds are counted by themselves: one each reserve",
            "mode: must be enforce or shadow",
        ],
    ),
]


@pytest.mark.parametrize(("parse", "request_", "named"), OTHERS)
def test_the_others_are_refused_field_by_field(
    parse: Callable[[Any], object],
    request_: Any,  # noqa: ANN401 - any message.
    named: list[str],
) -> None:
    """A record, a dispatch, and terms of a reserve."""
    assert refusal_of(parse, request_) == named


def a_reserve() -> wire.ReserveRequest:
    """Ask to hold five tokens."""
    return wire.ReserveRequest(
        request_id="r1",
        subject=subject_pb2.Subject(customer_id="acme"),
        amounts=[Amount(unit="tokens", quantity=5)],
    )


def test_estimates_are_read_beside_the_amounts() -> None:
    """Each a unit of its own, in the order of the request."""
    request = a_reserve()
    request.estimates.add(unit="output_tokens", max_quantity=4096, route="chat")
    request.estimates.add(unit="seconds")

    assert parse_reserve(request).estimates == (
        Estimate("output_tokens", 4096, "chat"),
        Estimate("seconds", 0, ""),
    )


def test_bad_estimates_are_refused_all_at_once() -> None:
    """A unit among the amounts, one twice, one that is none, bad bounds; and too many."""
    request = a_reserve()
    request.estimates.add(unit="tokens")
    request.estimates.add(unit="a-b", max_quantity=-1, route="x" * 129)
    for number in range(6):
        request.estimates.add(unit=f"u{number}")
    request.estimates.add(unit="u0")

    assert refusal_of(parse_reserve, request) == [
        "estimates: must have at most 8 entries",
        "estimates[0].unit: tokens is there already",
        (
            "estimates[1].unit: must be 1 to 63 characters of a-z, 0-9 and '_', or a currency"
            " such as USD"
        ),
        "estimates[1].max_quantity: must be from 0 to 1,000,000,000,000,000",
        "estimates[1].route: must have at most 128 characters",
        "estimates[8].unit: u0 is there already",
    ]
