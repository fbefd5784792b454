"""CloudEvents at a real meter, by HTTP in every mode and by gRPC: the same event, counted once."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from cloudevents.core.bindings.http import (
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent as SdkEvent

from cli.signing_keys import SigningKeys
from kit.errors import CannotStart
from kit.settings import ServiceSettings
from services.meter import __main__ as meter
from tests.http_caller import post
from tests.meter_front import Front, meter_front
from tests.meter_world import (
    CONFLICT,
    DUPLICATE,
    NOON,
    REJECTED,
    an_event,
)
from tollkeeper.api.meter.v1 import cloud_event_pb2
from tollkeeper.api.meter.v1 import meter_service_pb2 as messages

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
COMPRESSED = {"content-encoding": "gzip"}


@pytest.fixture
async def front(
    settings_for: Callable[..., ServiceSettings],
    keys: SigningKeys,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Front]:
    """A meter at noon that takes HTTP, with bodies of 100,000 bytes."""
    monkeypatch.setenv("TOLLKEEPER_METER_HTTP_BYTES_MAX", "100000")
    async with meter_front(settings_for, keys, tenant, monkeypatch) as running:
        await running.world.put_meter()
        yield running


def a_cloud_event(event_id: str = "e1", **attributes: object) -> dict[str, object]:
    """Write the event that `an_event` is, as a CloudEvent."""
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "gateway",
        "type": "llm.call",
        "subject": "acme",
        "time": "2026-03-01T12:00:00Z",
        "data": {"model": "small", "tokens": 10},
        **attributes,
    }


def an_sdk_event(event_id: str) -> SdkEvent:
    """Make the same event with the CloudEvents SDK."""
    attributes = {
        "id": event_id,
        "source": "gateway",
        "type": "llm.call",
        "subject": "acme",
        "time": NOON,
        "specversion": "1.0",
        "datacontenttype": "application/json",
    }
    return SdkEvent(attributes, {"model": "small", "tokens": 10})


def a_message(event_id: str = "e1", **attributes: str) -> cloud_event_pb2.CloudEvent:
    """Write the event that `an_event` is, as a CloudEvent in protobuf."""
    event = cloud_event_pb2.CloudEvent(
        id=event_id,
        source="gateway",
        spec_version="1.0",
        type="llm.call",
        text_data='{"model": "small", "tokens": 10}',
    )
    for name, text in {"subject": "acme", **attributes}.items():
        event.attributes[name].ce_string = text
    event.attributes["time"].ce_timestamp.FromDatetime(NOON)
    return event


async def test_every_way_of_sending_is_the_same_event(front: Front) -> None:
    """Structured, binary, batched, in protobuf or as a usage event: created once, then known."""
    split = {"dimensions": {"model": "small"}, "quantities": {"tokens": "10"}}
    encoded = base64.b64encode(json.dumps(split).encode()).decode()
    with_bytes = a_cloud_event(data_base64=encoded)
    del with_bytes["data"]
    binary = {
        "ce-id": "e1",
        "ce-specversion": "1.0",
        "ce-source": "gate%77ay",
        "ce-type": "llm.call",
        "ce-subject": "acme",
        "ce-time": "2026-03-01T13:00:00.000000+01:00",
    }

    first = await front.send(a_cloud_event(traceparent="00-1-1-00"))
    others = [
        await front.send(a_cloud_event(data=split)),
        await front.send(with_bytes),
        await front.send({"model": "small", "tokens": 1e1}, "application/json", binary),
    ]
    batch = await front.send([a_cloud_event(), a_cloud_event("e2")], BATCH)
    in_protobuf = await front.world.ask(
        "IngestCloudEvents", messages.IngestCloudEventsRequest(events=[a_message()])
    )
    plain = await front.world.ingest(an_event("e1"), an_event("e2"))

    assert (first.status, first.json) == (200, {"outcome": "CREATED"})
    assert [each.json for each in others] == [{"outcome": "DUPLICATE"}] * 3
    assert (batch.status, batch.json) == (
        200,
        {"outcomes": ["DUPLICATE", "CREATED"], "problems": []},
    )
    assert list(in_protobuf.outcomes) == [DUPLICATE]
    assert list(plain.outcomes) == [DUPLICATE, DUPLICATE]
    assert await front.world.usage() == [("acme", "20", 2)]


@pytest.mark.parametrize(
    "write", [to_binary_event, to_structured_event], ids=["binary", "structured"]
)
async def test_the_cloudevents_sdk_is_understood(front: Front, write: Any) -> None:  # noqa: ANN401 - of the SDK.
    """What the SDK of CloudEvents writes in either mode is taken as it is."""
    written = write(an_sdk_event("e1"))
    headers = {name: value for name, value in written.headers.items() if name != "content-type"}

    answer = await front.send(written.body, written.headers["content-type"], headers)

    assert (answer.status, answer.json) == (200, {"outcome": "CREATED"})
    assert [stored.event for stored in await front.world.events()] == [an_event("e1")]


async def test_levels_of_the_subject_are_extension_attributes(front: Front) -> None:
    """A project, a user, a key and a run have attributes of their own."""
    levels = {"projectid": "p", "userid": "u", "keyid": "k", "runid": "r"}

    await front.send(a_cloud_event(**levels))
    again = await front.world.ask(
        "IngestCloudEvents", messages.IngestCloudEventsRequest(events=[a_message(**levels)])
    )

    (stored,) = await front.world.events()
    subject = stored.event.subject
    assert (subject.project_id, subject.user_id, subject.key_id, subject.run_id) == tuple("pukr")
    assert list(again.outcomes) == [DUPLICATE]


async def test_a_number_is_never_a_float(front: Front) -> None:
    """Digits that a float cannot hold arrive as they were written."""
    body = json.dumps(a_cloud_event()).replace('"tokens": 10', '"tokens": 0.1234567890123456789e1')

    answer = await front.send(body.encode())

    assert answer.json == {"outcome": "CREATED"}
    assert await front.world.usage() == [("acme", "1.234567890123456789", 1)]


async def test_a_conflict_and_a_fault_are_problems_that_name_the_field(front: Front) -> None:
    """A single event that is not taken is a 4xx with every field of the CloudEvent."""
    await front.send(a_cloud_event())

    conflict = await front.send(a_cloud_event(data={"model": "small", "tokens": 11}))
    fault = await front.send(
        {"specversion": "0.3", "id": 5, "time": "yesterday", "data": {"tokens": -1, "deep": []}}
    )

    assert (conflict.status, conflict.headers["content-type"]) == (409, "application/problem+json")
    assert conflict.json == {
        "title": "Conflict",
        "status": 409,
        "reason": "CONFLICT",
        "detail": 'data["tokens"]: is "11", and "10" is stored',
        "violations": [{"field": 'data["tokens"]', "description": 'is "11", and "10" is stored'}],
    }
    assert fault.status == 400
    assert [(each["field"], each["description"]) for each in fault.json["violations"]] == [
        ("id", "must be a text"),
        ("time", "must be a time of RFC 3339, as 2026-03-01T12:00:00Z"),
        ("specversion", "must be 1.0"),
        ('data["deep"]', "must be a text, a number or a truth value"),
        ("id", "is required"),
        ("source", "is required"),
        ("subject", "is required"),
        ("type", "is required"),
        ("time", "is required"),
        ('data["tokens"]', "must be at least 0"),
    ]


async def test_a_bad_event_of_a_batch_does_not_spoil_the_others(front: Front) -> None:
    """The answer is 207: outcomes in order, and the bad fields with the place of their event."""
    answer = await front.send([a_cloud_event(), 7, a_cloud_event("e2", subject=None)], BATCH)
    message = a_message("e3")
    message.text_data = '{"tokens": [1]}'
    in_protobuf = await front.world.ask(
        "IngestCloudEvents",
        messages.IngestCloudEventsRequest(events=[message, a_message("e1", subject="zeta")]),
    )

    assert answer.status == 207
    assert answer.json["outcomes"] == ["CREATED", "REJECTED", "REJECTED"]
    assert [(p["index"], p["violations"][0]) for p in answer.json["problems"]] == [
        (1, {"field": "events[1]", "description": "must be a JSON object"}),
        (2, {"field": "events[2].subject", "description": "is required"}),
    ]
    assert list(in_protobuf.outcomes) == [REJECTED, CONFLICT]
    assert [each.violations[0].field for each in in_protobuf.problems] == [
        'events[0].data["tokens"]',
        "events[1].subject",
    ]
    assert len(await front.world.events()) == 1


ROUTES = "events are sent with POST /v1/events, spans with POST /v1/traces"
NO_FORMAT = (
    f"content-type: must be {STRUCTURED}, {BATCH}, or JSON with the headers ce-id, ce-source, …"
)


async def test_a_body_may_be_compressed(front: Front) -> None:
    """By gzip, whole or in members that follow one another."""
    first = json.dumps(a_cloud_event("e1")).encode()
    second = json.dumps(a_cloud_event("e2")).encode()

    whole = await front.send(gzip.compress(first), headers=COMPRESSED)
    members = gzip.compress(second[:50]) + gzip.compress(second[50:])
    parts = await front.send(members, headers={"content-encoding": "x-gzip"})

    assert (whole.json, parts.json) == ({"outcome": "CREATED"}, {"outcome": "CREATED"})
    assert await front.world.usage() == [("acme", "20", 2)]


@dataclass(frozen=True)
class Refused:
    """A request that is refused as a whole."""

    id: str
    status: int
    reason: str
    detail: str
    body: object = b""
    content_type: str = STRUCTURED
    headers: Mapping[str, str] | None = None
    path: str = "/v1/events"
    method: str = "POST"


@pytest.mark.parametrize(
    "case",
    [
        Refused("no JSON", 400, "INVALID_FIELD", "body: is not JSON", b"{"),
        Refused("no UTF-8", 400, "INVALID_FIELD", "body: is not text in UTF-8", b"\xff"),
        Refused("no object", 400, "INVALID_FIELD", "body: must be a JSON object", [1]),
        Refused("no array", 400, "INVALID_FIELD", "body: must be a JSON array", {}, BATCH),
        Refused(
            "nothing in it",
            400,
            "INVALID_FIELD",
            "events: is required: 1 to 10,000 events",
            [],
            BATCH,
        ),
        Refused(
            "too many",
            413,
            "PAYLOAD_TOO_LARGE",
            "events: must have at most 10,000 events, and has 10,001",
            [1] * 10_001,
            BATCH,
        ),
        Refused(
            "too large",
            413,
            "PAYLOAD_TOO_LARGE",
            "the body has more than 100,000 bytes",
            b" " * 100_001,
        ),
        Refused("too deep", 400, "INVALID_FIELD", "body: is not JSON", b"[" * 90_000),
        Refused(
            "not a number",
            400,
            "INVALID_FIELD",
            "body: holds NaN, which is not JSON",
            b'{"a": NaN}',
        ),
        Refused(
            "a key twice", 400, "INVALID_FIELD", 'body: has the key "a" twice', b'{"a": 1, "a": 1}'
        ),
        Refused(
            "another format",
            415,
            "INVALID_FIELD",
            f"content-type: must be {STRUCTURED} or {BATCH}",
            b"",
            "application/cloudevents+avro",
        ),
        Refused("no format", 415, "INVALID_FIELD", NO_FORMAT, b"", "text/plain"),
        Refused(
            "another encoding",
            415,
            "INVALID_FIELD",
            "content-encoding: must be gzip or absent",
            b"",
            headers={"content-encoding": "br"},
        ),
        Refused(
            "not compressed",
            400,
            "INVALID_FIELD",
            "body: is not gzip, as content-encoding says",
            a_cloud_event(),
            headers=COMPRESSED,
        ),
        Refused(
            "cut off",
            400,
            "INVALID_FIELD",
            "body: ends before the gzip in it does",
            gzip.compress(json.dumps(a_cloud_event()).encode())[:-1],
            headers=COMPRESSED,
        ),
        Refused(
            "too large when unpacked",
            413,
            "PAYLOAD_TOO_LARGE",
            "the body has more than 100,000 bytes",
            gzip.compress(b" " * 30_000_000),
            headers=COMPRESSED,
        ),
        Refused(
            "too large and empty",
            413,
            "PAYLOAD_TOO_LARGE",
            "the body has more than 100,000 bytes",
            gzip.compress(b"") * 5_001,
            headers=COMPRESSED,
        ),
        Refused(
            "no token",
            401,
            "UNAUTHENTICATED",
            "authorization must read: Bearer <token>",
            headers={"authorization": "Basic x"},
        ),
        Refused("another path", 404, "NOT_FOUND", ROUTES, path="/"),
        Refused(
            "another method",
            405,
            "METHOD_NOT_ALLOWED",
            ROUTES,
            method="PUT",
        ),
    ],
    ids=lambda case: case.id,
)
async def test_a_request_that_cannot_be_read_is_refused(front: Front, case: Refused) -> None:
    """The problem says what is wrong; nothing is stored."""
    answer = await front.send(
        case.body, case.content_type, case.headers, path=case.path, method=case.method
    )

    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status, answer.json["reason"], answer.json["detail"]) == (
        case.status,
        case.reason,
        case.detail,
    )
    assert await front.world.events() == []


async def test_a_token_decides_whose_usage_it_is_and_whether_it_may(front: Front) -> None:
    """Without the scope nothing is stored; another tenant's event is another event."""
    body = json.dumps(a_cloud_event()).encode()
    ((_, reader),) = front.world.token("meter.read")
    ((_, other),) = front.world.token("meter.ingest", tenant="another-tenant")
    headers = {"content-type": STRUCTURED}

    none = await post(front.address, "/v1/events", body, headers)
    denied = await post(front.address, "/v1/events", body, {**headers, "authorization": reader})
    theirs = await post(front.address, "/v1/events", body, {**headers, "authorization": other})
    ours = await front.send(a_cloud_event())

    assert (none.status, none.headers["www-authenticate"]) == (401, "Bearer")
    assert (denied.status, denied.json["detail"]) == (403, "the token lacks the scope meter.ingest")
    assert (theirs.json, ours.json) == ({"outcome": "CREATED"}, {"outcome": "CREATED"})


async def test_half_a_character_is_named(front: Front) -> None:
    """JSON can write what no text holds; it is refused where it stands, and breaks nothing."""
    body = json.dumps(a_cloud_event(subject="\ud800", data={"\udfff": "x", "tokens": 1})).encode()

    answer = await front.send(body)
    binary = await front.send(
        {"tokens": 1}, "application/json", {"ce-id": "%FF", "ce-specversion": "1.0"}
    )

    assert [each["field"] for each in answer.json["violations"]][:2] == [
        "subject",
        'data["\\udfff"]',
    ]
    assert binary.json["violations"][0] == {
        "field": "id",
        "description": "holds half of a character",
    }


async def test_an_event_of_the_future_is_refused_by_its_time(front: Front) -> None:
    """The rules of usage events hold for CloudEvents."""
    time = (NOON + timedelta(hours=2)).isoformat()

    answer = await front.send(a_cloud_event(time=time))

    assert answer.json["detail"] == "time: must be between 2000-01-01 and one hour from now"


async def test_an_address_in_use_is_said_so(
    front: Front,
    settings_for: Callable[..., ServiceSettings],
) -> None:
    """A second meter does not start where HTTP is served already."""
    host = await meter.build(settings_for("meter"), front.world.clock)

    with pytest.raises(CannotStart, match="cannot listen on"):
        await host.start()


async def test_the_wire_format_is_that_of_cloudevents() -> None:
    """The numbers of our message are those of io.cloudevents.v1, so bytes can be exchanged."""
    fields = cloud_event_pb2.CloudEvent.DESCRIPTOR.fields_by_name
    values = cloud_event_pb2.CloudEventAttributeValue.DESCRIPTOR.fields_by_name

    assert {name: field.number for name, field in fields.items()} == {
        "id": 1,
        "source": 2,
        "spec_version": 3,
        "type": 4,
        "attributes": 5,
        "binary_data": 6,
        "text_data": 7,
        "proto_data": 8,
    }
    assert {name: field.number for name, field in values.items()} == {
        "ce_boolean": 1,
        "ce_integer": 2,
        "ce_string": 3,
        "ce_bytes": 4,
        "ce_uri": 5,
        "ce_uri_ref": 6,
        "ce_timestamp": 7,
    }
