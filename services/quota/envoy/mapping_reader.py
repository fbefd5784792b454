"""Reads how a domain is mapped to Tollkeeper's limits, from a file like those of the rules."""

import re

import yaml

from services.quota.envoy.fields import TAG, FieldReader, Fields, is_null
from services.quota.envoy.mapping import (
    LEVELS,
    TTL_MS_DEFAULT,
    CallMapping,
    Source,
)

TTL_S_MAX = 24 * 60 * 60
QUANTITY_MAX = 10**15

_FIELDS = (
    "subject",
    "dimensions",
    "call_id",
    "unit",
    "phase",
    "each_call",
    "ttl_seconds",
    "unsettled",
)
_UNSETTLED = ("release", "book")
_UNIT = re.compile(r"[a-z0-9_]{1,63}|[A-Z]{3}")


def read_mapping(reader: FieldReader, node: yaml.Node) -> CallMapping | None:
    """Read a mapping; what is wrong is noted."""
    fields = reader.fields(node, "mapping", _FIELDS)
    if fields is None:
        return None
    subject = _subject(reader, node, fields)
    phase_key, settle_value = _phase(reader, fields)
    call_id_key = reader.text(fields, "call_id")
    if phase_key and not call_id_key:
        reader.note(node.start_mark, "a mapping with a phase needs a call_id, to find the hold by")
    ttl_s = reader.whole(fields, "ttl_seconds", TTL_S_MAX)
    if ttl_s == 0:
        reader.note(fields["ttl_seconds"].start_mark, "ttl_seconds must be at least 1")
    unsettled = reader.text(fields, "unsettled") or _UNSETTLED[0]
    if unsettled not in _UNSETTLED:
        reader.note(fields["unsettled"].start_mark, "unsettled must be release or book")
    return CallMapping(
        subject,
        dimensions=_texts(reader, fields, "dimensions"),
        call_id_key=call_id_key,
        unit_key=reader.text(fields, "unit"),
        phase_key=phase_key,
        settle_value=settle_value,
        each_call=_each_call(reader, fields),
        ttl_ms=TTL_MS_DEFAULT if ttl_s is None else ttl_s * 1000,
        books_unsettled=unsettled == "book",
    )


def _subject(reader: FieldReader, mapping: yaml.Node, fields: Fields) -> tuple[Source, ...]:
    node = fields.get("subject")
    levels = None if node is None else reader.fields(node, "subject", LEVELS)
    if levels is None:
        if node is None:
            reader.note(mapping.start_mark, "the mapping has no subject")
        return (Source(),) * len(LEVELS)
    if "customer" not in levels and node is not None:
        reader.note(node.start_mark, "the subject has no customer")
    return tuple(_source(reader, levels, level) for level in LEVELS)


def _source(reader: FieldReader, levels: Fields, level: str) -> Source:
    """Read where an id comes from: `api_key`, or `{value: acme}` for always the same."""
    node = levels.get(level)
    if not isinstance(node, yaml.MappingNode):
        return Source(key=reader.text(levels, level))
    fields = reader.fields(node, level, ("value",)) or {}
    value = reader.text(fields, "value")
    if not value:
        reader.note(node.start_mark, f"{level} has no value")
    return Source(value=value)


def _phase(reader: FieldReader, fields: Fields) -> tuple[str, str]:
    """Read `{key: phase, settle: done}`."""
    node = fields.get("phase")
    if node is None:
        return "", ""
    phase = reader.fields(node, "phase", ("key", "settle"))
    if phase is None:
        return "", ""
    key, settle = reader.text(phase, "key"), reader.text(phase, "settle")
    if not (key and settle):
        reader.note(node.start_mark, "a phase needs a key, and the value settle")
    return key, settle


def _texts(reader: FieldReader, fields: Fields, name: str) -> dict[str, str]:
    """Read texts by the keys of entries."""
    node = fields.get(name)
    if node is None or is_null(node):
        return {}
    if not isinstance(node, yaml.MappingNode):
        reader.note(node.start_mark, f"{name} must be a map")
        return {}
    texts = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or not isinstance(value, yaml.ScalarNode):
            reader.note(key.start_mark, f"{name} must be a map of texts")
        elif key.value in texts:
            reader.note(key.start_mark, f"the field {key.value} is given twice")
        else:
            texts[key.value] = value.value
    return texts


def _each_call(reader: FieldReader, fields: Fields) -> dict[str, int]:
    node = fields.get("each_call")
    if node is None or is_null(node):
        return {}
    if not isinstance(node, yaml.MappingNode):
        reader.note(node.start_mark, "each_call must be a map")
        return {}
    amounts = {}
    for key, value in node.value:
        if not (isinstance(key, yaml.ScalarNode) and _UNIT.fullmatch(key.value)):
            reader.note(key.start_mark, "a unit is a lower-case name or a currency")
        elif not (value.tag == f"{TAG}int" and re.fullmatch("[0-9]{1,16}", value.value)):
            reader.note(value.start_mark, f"{key.value} must be a whole number of quanta")
        elif int(value.value) > QUANTITY_MAX:
            reader.note(value.start_mark, f"{key.value} must be at most {QUANTITY_MAX}")
        else:
            amounts[key.value] = int(value.value)
    return amounts
