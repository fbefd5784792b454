"""Plans as JSON documents: each value by the type of its field, so that every digit is kept.

A kind of price is named in its document. A field that a document lacks has its default, so that
documents stored before the field was there stay readable. Refuses kinds it does not know.
"""

import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

from services.rating import prices
from services.rating.prices import Dimensions

_KINDS: dict[str, type] = {
    "standard": prices.StandardPrice,
    "graduated": prices.GraduatedPrice,
    "package": prices.PackagePrice,
    "volume": prices.VolumePrice,
    "stairstep": prices.StairstepPrice,
    "graduated_percentage": prices.GraduatedPercentagePrice,
    "percentage": prices.PercentagePrice,
    "dynamic": prices.DynamicPrice,
    "cost_plus": prices.CostPlusPrice,
    "matrix": prices.MatrixPrice,
    "context_tiers": prices.ContextTierPrice,
    "time_of_use": prices.TimeOfUsePrice,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_WRITERS: dict[type, Callable[[Any], str]] = {
    Decimal: str,
    datetime: datetime.isoformat,
    ZoneInfo: attrgetter("key"),
    Enum: attrgetter("name"),
}
_READERS: dict[type, Callable[[Any], Any]] = {datetime: datetime.fromisoformat}


def write_document(value: Any) -> Any:  # noqa: ANN401 - any value of the model, as JSON has it.
    """Write a value of the model as JSON."""
    if is_dataclass(value):
        return _write_fields(value)
    if isinstance(value, tuple | frozenset):
        ordered = sorted(value) if isinstance(value, frozenset) else value
        return [write_document(each) for each in ordered]
    for type_, write in _WRITERS.items():
        if isinstance(value, type_):
            return write(value)
    return value


def read_document(hint: Any, document: Any) -> Any:  # noqa: ANN401 - as above.
    """Read a value of a type of the model."""
    arguments = typing.get_args(hint)
    if hint == Dimensions:
        value: Any = tuple(sorted(document.items()))
    elif typing.get_origin(hint) in {types.UnionType, typing.Union}:
        value = _read_one_of(arguments, document)
    elif typing.get_origin(hint) in {tuple, frozenset}:
        value = typing.get_origin(hint)(read_document(arguments[0], each) for each in document)
    elif is_dataclass(hint):
        value = _read_fields(hint, document)
    elif issubclass(hint, Enum):
        value = hint[document]
    else:
        value = _READERS.get(hint, hint)(document)
    return value


def _write_fields(value: Any) -> dict[str, Any]:  # noqa: ANN401 - as above.
    kind: type = type(value)
    hints = _hints(kind)
    document: dict[str, Any] = {"kind": _NAMES[kind]} if kind in _NAMES else {}
    for name, hint in hints.items():
        content = getattr(value, name)
        document[name] = dict(content) if hint == Dimensions else write_document(content)
    return document


def _read_fields(kind: Any, document: dict[str, Any]) -> Any:  # noqa: ANN401 - as above.
    hints = _hints(kind)
    known = {name: hint for name, hint in hints.items() if name in document}
    return kind(**{name: read_document(hint, document[name]) for name, hint in known.items()})


def _read_one_of(types_: tuple[Any, ...], document: Any) -> Any:  # noqa: ANN401 - as above.
    if document is None:
        return None
    if isinstance(document, dict) and "kind" in document:
        if document["kind"] not in _KINDS:
            raise ValueError(f"a stored price has the unknown kind {document['kind']!r}")
        return read_document(_KINDS[document["kind"]], document)
    (only,) = (each for each in types_ if each is not types.NoneType)
    return read_document(only, document)


@cache
def _hints(model: type) -> dict[str, Any]:
    """Answer the types of the fields; what follows from other fields is not kept."""
    hints = typing.get_type_hints(model)
    return {field.name: hints[field.name] for field in fields(model) if field.init}
