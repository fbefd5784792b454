"""CloudEvents 1.0 as usage events, whatever format and binding brought them.

The four attributes of an identity and a time map one to one, `subject` is the customer, extension
attributes are the other levels of the subject. Numbers in JSON stay texts from the first to the
last, so none passes through a float. Whatever is wrong is named as CloudEvents name it.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from kit.errors import Violation
from services.meter.convert.exact_json import NotJson, Number, read_json
from services.meter.convert.fields import entry_path
from services.meter.sources.intake import Draft
from tollkeeper.api.meter.v1.cloud_event_pb2 import CloudEvent, CloudEventAttributeValue
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent

SPEC_VERSION: Final = "1.0"

_LEVELS: Final = {
    "subject": "customer_id",
    "projectid": "project_id",
    "userid": "user_id",
    "keyid": "key_id",
    "runid": "run_id",
}
_PARTS: Final = frozenset({"dimensions", "quantities"})
_IS_JSON: Final = re.compile(r"[^;/]+/([^;]+\+)?json\s*(;.*)?", re.IGNORECASE).fullmatch
_NAMES: Final = {
    "event_id": "id",
    "subject": "subject",
    **{f"subject.{level}": name for name, level in _LEVELS.items()},
}
_ENTRY: Final = re.compile(r"(dimensions|quantities)(\[.*\])", re.DOTALL).fullmatch


class Given(NamedTuple):
    """A CloudEvent as it came: its attributes, its data, and what is wrong with them so far."""

    attributes: Mapping[str, object]
    data: object
    violations: tuple[Violation, ...] = ()


def draft_of(given: Given) -> Draft:
    """Turn a CloudEvent into a draft of the usage event it stands for."""
    return _Reading(given).draft()


def given_structured(event: object) -> Given:
    """Take a CloudEvent in the JSON format apart."""
    if not isinstance(event, dict):
        return Given({}, None, (Violation("", "must be a JSON object"),))
    attributes = dict(event)
    data = attributes.pop("data", None)
    encoded = attributes.pop("data_base64", None)
    if encoded is None:
        return Given(attributes, data)
    if data is not None:
        fault = Violation("data_base64", "must be absent when there is data")
        return Given(attributes, data, (fault,))
    try:
        decoded = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
        return Given(attributes, read_json(decoded))
    except NotJson as error:
        return Given(attributes, {}, (Violation("data_base64", str(error)),))
    except (binascii.Error, ValueError):
        return Given(attributes, {}, (Violation("data_base64", "is not Base64"),))


def given_binary(attributes: Mapping[str, str], body: bytes) -> Given:
    """Take a CloudEvent apart whose attributes came beside its data."""
    try:
        return Given(attributes, read_json(body))
    except NotJson as error:
        return Given(attributes, {}, (Violation("data", str(error)),))


def given_message(event: CloudEvent) -> Given:
    """Take a CloudEvent in protobuf apart."""
    attributes: dict[str, object] = {
        "id": event.id,
        "source": event.source,
        "specversion": event.spec_version,
        "type": event.type,
    }
    for name in event.attributes:
        attributes.setdefault(name, _attribute(event.attributes[name]))
    match event.WhichOneof("data"):
        case "text_data":
            body = event.text_data.encode()
        case "proto_data":
            fault = Violation("data", "must be JSON, in text_data or binary_data")
            return Given(attributes, {}, (fault,))
        case _:
            body = event.binary_data
    return given_binary({}, body)._replace(attributes=attributes)


def _attribute(value: CloudEventAttributeValue) -> object:
    kind = value.WhichOneof("attr")
    if kind == "ce_timestamp":
        return value.ce_timestamp
    if kind in {"ce_string", "ce_uri", "ce_uri_ref"}:
        return getattr(value, kind)
    return None if kind is None else getattr(value, kind)


class _Reading:
    """The reading of one event, which notes every fault it meets."""

    def __init__(self, given: Given) -> None:
        self._given = given
        self._violations = list(given.violations)
        self._event = UsageEvent()
        self._is_flat = True

    def draft(self) -> Draft:
        event = self._event
        if not isinstance(self._given.attributes, dict) or self._is_no_event():
            return Draft(event, _no_name, tuple(self._violations))
        event.event_id = self._text("id")
        event.source = self._text("source")
        event.type = self._text("type")
        for name, level in _LEVELS.items():
            setattr(event.subject, level, self._text(name))
        self._read_time()
        self._check_format()
        self._read_data(self._given.data)
        return Draft(event, self._name_of, tuple(self._violations))

    def _is_no_event(self) -> bool:
        return any(not violation.field for violation in self._violations)

    def _text(self, name: str) -> str:
        value = self._given.attributes.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or isinstance(value, Number):
            self._complain(name, "must be a text")
            return ""
        return self._sound(name, value)

    def _sound(self, field: str, text: str) -> str:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                self._complain(field, "holds half of a character")
                return ""
        return text

    def _read_time(self) -> None:
        value = self._given.attributes.get("time")
        if isinstance(value, Timestamp):
            self._event.time.CopyFrom(value)
        elif text := self._text("time"):
            try:
                self._event.time.FromJsonString(text)
            except ValueError:
                self._complain("time", "must be a time of RFC 3339, as 2026-03-01T12:00:00Z")

    def _check_format(self) -> None:
        version = self._text("specversion")
        if version != SPEC_VERSION:
            self._complain("specversion", "must be 1.0" if version else "is required")
        content_type = self._text("datacontenttype")
        if content_type and not _IS_JSON(content_type):
            self._complain("datacontenttype", "must be JSON")

    def _read_data(self, data: object) -> None:
        if not isinstance(data, dict):
            self._complain("data", "is required" if data is None else "must be a JSON object")
        elif data and data.keys() <= _PARTS and all(isinstance(p, dict) for p in data.values()):
            self._is_flat = False
            self._read_entries("data.dimensions", data.get("dimensions", {}), quantities=False)
            self._read_entries("data.quantities", data.get("quantities", {}), quantities=True)
        else:
            self._read_entries("data", data, quantities=None)

    def _read_entries(
        self, field: str, entries: Mapping[str, object], *, quantities: bool | None
    ) -> None:
        """Read dimensions, quantities, or by their kinds both."""
        for key, value in entries.items():
            if value is None:
                continue
            path = entry_path(field, key)
            name = self._sound(path, key)
            text = _scalar(value)
            if text is None:
                self._complain(path, "must be a text, a number or a truth value")
                continue
            is_quantity = isinstance(value, Number) if quantities is None else quantities
            into = self._event.quantities if is_quantity else self._event.dimensions
            into[name] = self._sound(path, text)

    def _complain(self, field: str, description: str) -> None:
        # A name can hold halves of characters too, which no answer can.
        named = field.encode(errors="backslashreplace").decode()
        self._violations.append(Violation(named, description))

    def _name_of(self, field: str) -> str:
        if entry := _ENTRY(field):
            return f"data{entry[2]}" if self._is_flat else f"data.{field}"
        if field in _PARTS:
            return "data" if self._is_flat else f"data.{field}"
        return _NAMES.get(field, field)


def _scalar(value: object) -> str | None:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return str(value)
    return None


def _no_name(field: str) -> str:
    return field


def given_batch(text: bytes) -> Iterator[Given]:
    """Take a batch in the JSON format apart.

    Raises:
        NotJson: it is no JSON array.
    """
    batch = read_json(text)
    if not isinstance(batch, list):
        raise NotJson("must be a JSON array")
    return map(given_structured, batch)
