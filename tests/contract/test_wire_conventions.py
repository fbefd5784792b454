"""The conventions of the wire, read from the descriptors of every service.

Every rule is a function from a descriptor to its offences. The rules run over the whole contract; a
guilty contract proves that each can fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    FileDescriptor,
    MethodDescriptor,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.text_format import Parse

import tollkeeper.api
from tollkeeper.api.auth.v1.required_scope_pb2 import required_scope

API = Path(tollkeeper.api.__path__[0])
SERVICES = ("invoicing", "meter", "quota", "rating", "tax")
READING_VERBS = (
    "BatchConvert", "BatchDetermine", "BatchQuery", "BatchRate", "Check", "Convert", "Determine",
    "Estimate", "Explain", "Export", "Get", "List", "Preview", "Query", "Rate", "Simulate",
    "Summarize", "Validate", "Verify", "Watch",
)  # fmt: skip
MUTATIONS_WITHOUT_REQUEST_ID = {
    "tollkeeper.api.meter.v1.MeterService.IngestEvents": "events carry an identity of their own",
    "tollkeeper.api.meter.v1.MeterService.IngestCloudEvents": "as IngestEvents",
    "tollkeeper.api.meter.v1.MeterService.ImportUsage": "as IngestEvents",
    "tollkeeper.api.meter.v1.MeterService.StreamEvents": "events carry an identity of their own",
    "tollkeeper.api.quota.v1.QuotaService.Session": "each request in the stream carries its own",
}
SPECIAL_SCOPES = {"meter.ingest", "quota.decide"}
SHARED_REASONS = {
    "ERROR_REASON_UNSPECIFIED": 0,
    "ERROR_REASON_INVALID_FIELD": 1,
    "ERROR_REASON_REQUEST_ID_REUSED": 2,
    "ERROR_REASON_UNAUTHENTICATED": 3,
    "ERROR_REASON_PERMISSION_DENIED": 4,
    "ERROR_REASON_INVALID_PAGE_TOKEN": 5,
    "ERROR_REASON_PAYLOAD_TOO_LARGE": 6,
    "ERROR_REASON_UNAVAILABLE": 100,
    "ERROR_REASON_DEADLINE_EXCEEDED": 101,
    "ERROR_REASON_INTERNAL": 102,
}


def contract_files() -> list[FileDescriptor]:
    """Load every file of the contract."""
    modules = sorted(path.relative_to(API) for path in API.rglob("*_pb2.py"))
    return [
        import_module(".".join(("tollkeeper.api", *path.with_suffix("").parts))).DESCRIPTOR
        for path in modules
    ]


FILES = contract_files()
METHODS = [
    method
    for file in FILES
    for service in file.services_by_name.values()
    for method in service.methods
]


def messages(descriptors: Iterable[Descriptor]) -> Iterator[Descriptor]:
    """Go through messages and those inside them."""
    for descriptor in descriptors:
        yield descriptor
        yield from messages(descriptor.nested_types)


MESSAGES = [message for file in FILES for message in messages(file.message_types_by_name.values())]


def named(descriptor: MethodDescriptor | Descriptor) -> str:
    """Name a descriptor for the report of a test."""
    return str(descriptor.full_name).removeprefix("tollkeeper.api.")


def unpaged(method: MethodDescriptor) -> list[str]:
    """Find lists that do not page."""
    if not method.name.startswith("List"):
        return []
    sent = {"page_size": FieldDescriptor.TYPE_INT32, "page_token": FieldDescriptor.TYPE_STRING}
    answered = {"next_page_token": FieldDescriptor.TYPE_STRING}
    return [
        f"{message.name} lacks {name}"
        for message, wanted in ((method.input_type, sent), (method.output_type, answered))
        for name, kind in wanted.items()
        if name not in message.fields_by_name or message.fields_by_name[name].type != kind
    ]


def unrepeatable(method: MethodDescriptor) -> list[str]:
    """Find mutations that cannot be repeated safely."""
    if method.name.startswith(READING_VERBS) or method.full_name in MUTATIONS_WITHOUT_REQUEST_ID:
        return []
    request_id = method.input_type.fields_by_name.get("request_id")
    if request_id is None or request_id.type != FieldDescriptor.TYPE_STRING:
        return [f"{method.input_type.name} lacks request_id"]
    return []


def unguarded(method: MethodDescriptor) -> list[str]:
    """Find methods that ask for no scope, or for one that does not fit."""
    service = method.containing_service.file.package.split(".")[2]
    scope = method.GetOptions().Extensions[required_scope]
    verb = "read" if method.name.startswith(READING_VERBS) else "write"
    if scope in SPECIAL_SCOPES and scope.startswith(f"{service}."):
        return []
    return [] if scope == f"{service}.{verb}" else [f"{method.name} asks for {scope!r}"]


def unlike_its_method(method: MethodDescriptor) -> list[str]:
    """Find methods whose messages are not their own, so that neither could change alone."""
    wanted = (f"{method.name}Request", f"{method.name}Response")
    found = (method.input_type.name, method.output_type.name)
    return [] if found == wanted else [f"{method.name} takes and returns {found}"]


def naming_a_tenant(message: Descriptor) -> list[str]:
    """Find fields that name the tenant, which comes from the verified caller alone."""
    return [
        f"{message.name}.{field.name}" for field in message.fields if "tenant" in field.name.lower()
    ]


def inexact(message: Descriptor) -> list[str]:
    """Find binary fractions, which hold neither money nor quantities."""
    fractions = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
    return [f"{message.name}.{field.name}" for field in message.fields if field.type in fractions]


def test_the_contract_is_all_here() -> None:
    """The rules below see the methods of all five services."""
    assert {method.containing_service.file.package for method in METHODS} == {
        f"tollkeeper.api.{service}.v1" for service in SERVICES
    }


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_every_list_pages(method: MethodDescriptor) -> None:
    """A List takes a page size and a token, and answers the next one, from its first version."""
    assert unpaged(method) == []


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_every_mutation_can_be_repeated(method: MethodDescriptor) -> None:
    """A mutation carries the request id by which a repeat is known."""
    assert unrepeatable(method) == []


def test_the_exceptions_to_request_ids_exist() -> None:
    """An exception names a method of the contract, and why it needs no request id."""
    assert set(MUTATIONS_WITHOUT_REQUEST_ID) <= {method.full_name for method in METHODS}


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_every_method_asks_for_a_scope_of_its_service(method: MethodDescriptor) -> None:
    """Reading asks for `<service>.read`, changing for `<service>.write`, the hot paths for more."""
    assert unguarded(method) == []


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_every_method_has_messages_of_its_own(method: MethodDescriptor) -> None:
    """`DoThing` takes `DoThingRequest` and returns `DoThingResponse`."""
    assert unlike_its_method(method) == []


@pytest.mark.parametrize("message", MESSAGES, ids=named)
def test_no_message_names_a_tenant(message: Descriptor) -> None:
    """A body cannot say whose data it is about."""
    assert naming_a_tenant(message) == []


@pytest.mark.parametrize("message", MESSAGES, ids=named)
def test_no_message_holds_a_binary_fraction(message: Descriptor) -> None:
    """Money and quantities cross the wire as decimals and integers."""
    assert inexact(message) == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_can_fail_in_the_shared_ways(service: str) -> None:
    """The reasons that every service has carry the same numbers everywhere."""
    errors = import_module(f"tollkeeper.api.{service}.v1.errors_pb2").DESCRIPTOR
    reasons = dict(errors.enum_types_by_name["ErrorReason"].values_by_name.items())

    assert {
        name: reasons[name].number for name in SHARED_REASONS if name in reasons
    } == SHARED_REASONS


@pytest.mark.parametrize("service", SERVICES)
def test_reasons_are_capitals_behind_their_prefix(service: str) -> None:
    """`ErrorInfo.reason` is the name of the enum value without ERROR_REASON_."""
    errors = import_module(f"tollkeeper.api.{service}.v1.errors_pb2").DESCRIPTOR
    names = list(errors.enum_types_by_name["ErrorReason"].values_by_name)

    assert [
        name for name in names if not re.fullmatch(r"ERROR_REASON_[A-Z]+(_[A-Z]+)*", name)
    ] == []


GUILTY = """
    name: "guilty.proto" package: "tollkeeper.api.rating.v1" syntax: "proto3"
    message_type { name: "Request" field { name: "tenant_id" number: 1 type: TYPE_STRING } }
    message_type { name: "Response" field { name: "price" number: 1 type: TYPE_DOUBLE } }
    service {
      name: "Guilty"
      method {
        name: "ListThings"
        input_type: ".tollkeeper.api.rating.v1.Request"
        output_type: ".tollkeeper.api.rating.v1.Response"
      }
      method {
        name: "PutThing"
        input_type: ".tollkeeper.api.rating.v1.Request"
        output_type: ".tollkeeper.api.rating.v1.Response"
      }
    }
"""


def test_each_rule_finds_the_guilty() -> None:
    """A rule that finds nothing has proven nothing unless it can find something."""
    pool = DescriptorPool()
    pool.Add(Parse(GUILTY, FileDescriptorProto()))
    listing, putting = pool.FindServiceByName("tollkeeper.api.rating.v1.Guilty").methods
    request, response = putting.input_type, putting.output_type

    assert unpaged(listing) == [
        "Request lacks page_size",
        "Request lacks page_token",
        "Response lacks next_page_token",
    ]
    assert unrepeatable(putting) == ["Request lacks request_id"]
    assert unguarded(putting) == ["PutThing asks for ''"]
    assert unlike_its_method(putting) == ["PutThing takes and returns ('Request', 'Response')"]
    assert naming_a_tenant(request) == ["Request.tenant_id"]
    assert inexact(response) == ["Response.price"]
