"""Calls of a session, read from the wire without looking at what was seen before.

Reserves and commits come by the ten thousand each second, with the same subjects, dimensions and
amounts again and again. Their twins leave them as bytes; these are cut into fields, which are
looked up. Whatever is rare or may be wrong is read as any other call is, also what is not written
as the library writes it. Refuses nothing by itself, so that there is one rule of what is valid.
"""

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from kit.errors import InvalidInput
from kit.idempotency import parse_request_id
from kit.rpc.twins import Uncut, cut
from services.quota.convert.calls import (
    TTL_MS_DEFAULT,
    fingerprint,
    parse_estimates,
    parse_session_call,
    parse_ttl_ms,
)
from services.quota.convert.fields import (
    CALL_DIMENSIONS_MAX,
    UNITS_MAX,
    parse_amounts,
    parse_dimensions,
    parse_hold,
    read_subject,
)
from services.quota.model import (
    NOTHING_ASKED,
    Amounts,
    Call,
    CommitCall,
    Dimensions,
    ReserveCall,
)
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

_REMEMBERED_MAX = 65_536
_SHAPES_MAX = 1024
# A length of this or more takes two bytes.
_MORE = 0x80
# The tags of the fields that are looked up, in the order in which they are written: request_id,
# subject, dimensions, amounts, ttl, estimates.
_RESERVE = re.compile(rb"\x0a\x12(\x1a*)(\x22+)(\x2a?)(\x42*)")
_SUBJECT_END = 2
# request_id, reservation_id, amounts, subject, dimensions.
_COMMIT = re.compile(rb"\x0a(\x12?)(\x1a*)\x22(\x2a*)")

# As the class itself, without what Python does for names of arguments.
_new_reserve = cast("Any", partial(tuple.__new__, ReserveCall))
_NOTHING: Sequence[bytes] = ()


def read_session_call(twin: Any) -> tuple[Call, Sequence[bytes]]:  # noqa: ANN401 - made at run time.
    """Read one call of a session from its twin, as `parse_session_call` reads the call.

    Beside it are the amounts of a reserve as they were written, if they were looked up.
    """
    name = twin.WhichOneof("call")
    try:
        if name == "reserve":
            return _reserve(twin.reserve)
        if name == "commit":
            return _commit(twin.commit), _NOTHING
    except (InvalidInput, DecodeError, UnicodeDecodeError, IndexError, Uncut):
        pass
    try:
        call = wire.SessionCall.FromString(twin.SerializeToString())
    except DecodeError as error:
        raise InvalidInput("INVALID_FIELD", "the call is no message of its type") from error
    return parse_session_call(call), _NOTHING


def _reserve(data: bytes) -> tuple[ReserveCall, Sequence[bytes]]:
    tags, fields = cut(data)
    dimensions_end, amounts_end, ttl_end = _reserve_shape(tags)
    dimensions: Dimensions = ()
    if dimensions_end > _SUBJECT_END:
        dimensions, data = _dimensions(tags, fields, _SUBJECT_END, dimensions_end, data)
    written = fields[dimensions_end:amounts_end]
    amounts = _amounts(written)
    estimates = map(wire.Estimate.FromString, fields[ttl_end:])
    call: ReserveCall = _new_reserve(
        (
            parse_request_id(fields[0].decode()),
            fingerprint(b"Reserve", data),
            read_subject(fields[1]),
            dimensions,
            amounts,
            _ttl_ms(fields[amounts_end]) if ttl_end > amounts_end else TTL_MS_DEFAULT,
            NOTHING_ASKED,
            False,
            parse_estimates(list(estimates), amounts) if ttl_end < len(fields) else (),
        )
    )
    return call, written


def _commit(data: bytes) -> CommitCall:
    tags, fields = cut(data)
    hold_end, amounts_end = _commit_shape(tags)
    dimensions: Dimensions = ()
    if amounts_end + 1 < len(fields):
        dimensions, data = _dimensions(tags, fields, amounts_end + 1, len(fields), data)
    subject = read_subject(fields[amounts_end])
    hold = parse_hold(fields[1].decode(), "reservation_id") if hold_end > 1 else None
    if hold is not None and hold.customer != subject.customer:
        raise Uncut
    return CommitCall(
        parse_request_id(fields[0].decode()),
        fingerprint(b"Commit", data),
        hold,
        subject,
        dimensions,
        _amounts(fields[hold_end:amounts_end]),
    )


@lru_cache(maxsize=_SHAPES_MAX)
def _reserve_shape(tags: bytes) -> tuple[int, int, int]:
    """Say where the dimensions, the amounts and the ttl of a reserve end."""
    found = _RESERVE.fullmatch(tags)
    if found is None:
        raise Uncut
    return found.end(1), found.end(2), found.end(3)


@lru_cache(maxsize=_SHAPES_MAX)
def _commit_shape(tags: bytes) -> tuple[int, int]:
    """Say where the hold and the amounts of a commit end."""
    found = _COMMIT.fullmatch(tags)
    if found is None:
        raise Uncut
    return found.end(1), found.end(2)


def _amounts(written: Sequence[bytes]) -> Amounts:
    amounts = dict(map(_amount, written))
    if len(amounts) != len(written) or len(amounts) > UNITS_MAX:
        raise Uncut
    return amounts


def _dimensions(
    tags: bytes, fields: Sequence[bytes], start: int, end: int, data: bytes
) -> tuple[Dimensions, bytes]:
    """Read dimensions in the order of their names, and give the message with them in this order."""
    given = fields[start:end]
    dimensions = tuple(map(_dimension, given))
    if any(one[0] >= other[0] for one, other in pairwise(dimensions)):
        ordered = sorted(given, key=_dimension)
        dimensions = tuple(map(_dimension, ordered))
        data = b"".join(map(_field, tags, (*fields[:start], *ordered, *fields[end:])))
    if len(dict(dimensions)) != len(dimensions) or len(dimensions) > CALL_DIMENSIONS_MAX:
        raise Uncut
    return dimensions, data


def _field(tag: int, content: bytes) -> bytes:
    """Write a field as it was before it was cut out."""
    length = len(content)
    if length < _MORE:
        return bytes((tag, length)) + content
    return bytes((tag, length % _MORE + _MORE, length // _MORE)) + content


@lru_cache(maxsize=_REMEMBERED_MAX)
def _amount(data: bytes) -> tuple[str, int]:
    ((unit, quantity),) = parse_amounts([quota_pb2.Amount.FromString(data)], "amounts").items()
    return unit, quantity


@lru_cache(maxsize=_REMEMBERED_MAX)
def _dimension(data: bytes) -> tuple[str, str]:
    entry = wire.ReserveRequest.DimensionsEntry.FromString(data)
    (dimension,) = parse_dimensions({entry.key: entry.value}, "dimensions", count_max=1)
    return dimension


@lru_cache(maxsize=_REMEMBERED_MAX)
def _ttl_ms(data: bytes) -> int:
    return parse_ttl_ms(Duration.FromString(data))
