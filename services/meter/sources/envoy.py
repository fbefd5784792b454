"""Entries of Envoy's access log as usage events, by a mapping.

An entry is usage when one of the mapped quantities stands in it. Entries that Envoy writes while a
request still runs are left out, since the last one has it all. Numbers of dynamic metadata are
doubles, exact up to 2**53.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from services.meter.sources.intake import Draft
from services.meter.sources.mapping import HEADER, METADATA, RESPONSE_HEADER, EnvoyMapping, Place
from tollkeeper.api.meter.v1.meter_pb2 import UsageEvent
from tollkeeper.api.type.v1.subject_pb2 import Subject

# Messages made at run time have no types that a checker knows.
Entry = Any

_ID_BYTES = 16
_MICROSECOND = timedelta(microseconds=1)
_LEVELS = ("customer", "project", "user", "key", "run")


def drafts_of(message: Any, mapping: EnvoyMapping) -> Iterator[Draft]:  # noqa: ANN401 - as Entry.
    """Give a draft for each entry of a message that is usage."""
    for entry in message.http_logs.log_entry:
        if entry.common_properties.intermediate_log_entry:
            continue
        quantities = {
            name: text
            for name, places in mapping.quantities.items()
            if (text := _first(entry, places))
        }
        if quantities:
            yield Draft(_event(entry, quantities, mapping), _namer(mapping))


def _event(entry: Entry, quantities: Mapping[str, str], mapping: EnvoyMapping) -> UsageEvent:
    common = entry.common_properties
    dimensions = {
        name: text for name, places in mapping.dimensions.items() if (text := _first(entry, places))
    }
    return UsageEvent(
        event_id=_event_id(entry),
        source=mapping.source,
        subject=Subject(
            customer_id=_first(entry, mapping.customer),
            project_id=_first(entry, mapping.project),
            user_id=_first(entry, mapping.user),
            key_id=_first(entry, mapping.key),
            run_id=_first(entry, mapping.run),
        ),
        type=mapping.type,
        time=_end(common),
        dimensions=dimensions,
        quantities={"requests": "1", **quantities},
    )


def _event_id(entry: Entry) -> str:
    """Tell requests apart by their ids and their starts.

    A caller may choose the id of its request; choosing an old one must not make it free.
    """
    start = entry.common_properties.start_time
    if entry.request.request_id:
        return f"{entry.request.request_id}-{start.ToMicroseconds()}"
    return blake2b(entry.SerializeToString(deterministic=True), digest_size=_ID_BYTES).hexdigest()


def _end(common: Entry) -> Timestamp:
    took = (
        common.duration if common.HasField("duration") else common.time_to_last_downstream_tx_byte
    )
    end = Timestamp()
    end.FromMicroseconds(common.start_time.ToMicroseconds() + took.ToMicroseconds())
    return end


def _first(entry: Entry, places: Sequence[Place]) -> str:
    """Answer what the first place holds that holds something."""
    return next((text for place in places if (text := _text(entry, *place))), "")


def _text(entry: Entry, kind: str, name: str) -> str:
    if kind == METADATA:
        namespace, _, path = name.partition("/")
        metadata = entry.common_properties.metadata.filter_metadata
        return _metadata_text(metadata[namespace], path) if namespace in metadata else ""
    if kind == HEADER:
        headers = entry.request.request_headers
    elif kind == RESPONSE_HEADER:
        headers = entry.response.response_headers
    else:
        headers = entry.response.response_trailers
    return str(headers[name]) if name in headers else ""


def _metadata_text(struct: Struct, path: str) -> str:
    """Answer the value of a key; a key with points is also a way through nested values."""
    if path in struct.fields:
        return _value_text(struct.fields[path])
    key, _, rest = path.partition(".")
    if rest and key in struct.fields and struct.fields[key].HasField("struct_value"):
        return _metadata_text(struct.fields[key].struct_value, rest)
    return ""


def _value_text(value: Value) -> str:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            return format(Decimal(repr(value.number_value)).normalize(), "f")
        case "bool_value":
            return "true" if value.bool_value else "false"
    return ""


def _namer(mapping: EnvoyMapping) -> Callable[[str], str]:
    def name_of(field: str) -> str:
        places: dict[str, Sequence[Place]] = {
            f"subject.{level}_id": getattr(mapping, level) for level in _LEVELS
        }
        for part, entries in (
            ("dimensions", mapping.dimensions),
            ("quantities", mapping.quantities),
        ):
            places |= {f'{part}["{name}"]': each for name, each in entries.items()}
        if field not in places:
            return field
        return f"{field.removeprefix('subject.')} ({' or '.join(map(str, places[field]))})"

    return name_of
