"""Calls of a session, read from the wire without looking at what was seen before.

Reserves and commits come by the ten thousand each second, with the same subjects, dimensions and
amounts again and again. Their twins leave these as bytes, which are looked up. Whatever is rare or
may be wrong is read as any other call is. Refuses nothing by itself, so that there is one rule of
what is valid.
"""

from functools import lru_cache
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from kit.errors import InvalidInput
from kit.idempotency import parse_request_id
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
from services.quota.model import Amounts, Call, CommitCall, Dimensions, ReserveCall, Subject
from tollkeeper.api.quota.v1 import quota_pb2
from tollkeeper.api.quota.v1 import quota_service_pb2 as wire

_REMEMBERED_MAX = 65_536


class _Rare(Exception):
    """There is more in a call than is looked up."""


def read_session_call(twin: Any) -> Call:  # noqa: ANN401 - made at run time.
    """Read one call of a session from its twin, as `parse_session_call` reads the call."""
    name = twin.WhichOneof("call")
    try:
        if name == "reserve":
            return _reserve(twin.reserve)
        if name == "commit":
            return _commit(twin.commit)
    except (InvalidInput, DecodeError, _Rare):
        pass
    try:
        call = wire.SessionCall.FromString(twin.SerializeToString())
    except DecodeError as error:
        raise InvalidInput("INVALID_FIELD", "the call is no message of its type") from error
    return parse_session_call(call)


def _reserve(twin: Any) -> ReserveCall:  # noqa: ANN401 - as above.
    if twin.min_amounts or twin.mode:
        raise _Rare
    subject, dimensions, amounts = _content(twin)
    if not amounts:
        raise _Rare
    return ReserveCall(
        parse_request_id(twin.request_id),
        fingerprint(b"Reserve", twin.SerializeToString()),
        subject,
        dimensions,
        amounts,
        _ttl_ms(twin.ttl) if twin.HasField("ttl") else TTL_MS_DEFAULT,
        estimates=parse_estimates(twin.estimates, amounts) if twin.estimates else (),
    )


def _commit(twin: Any) -> CommitCall:  # noqa: ANN401 - as above.
    subject, dimensions, amounts = _content(twin)
    hold = parse_hold(twin.reservation_id, "reservation_id") if twin.reservation_id else None
    if hold is not None and hold.customer != subject.customer:
        raise _Rare
    return CommitCall(
        parse_request_id(twin.request_id),
        fingerprint(b"Commit", twin.SerializeToString()),
        hold,
        subject,
        dimensions,
        amounts,
    )


def _content(twin: Any) -> tuple[Subject, Dimensions, Amounts]:  # noqa: ANN401 - as above.
    """Read on whose behalf what is asked; dimensions are left in the order of their names."""
    given = twin.amounts
    amounts = dict(map(_amount, given))
    if len(amounts) != len(given) or len(amounts) > UNITS_MAX:
        raise _Rare
    entries = twin.dimensions
    dimensions: Dimensions = ()
    if entries:
        ordered = sorted(entries, key=_dimension)
        entries[:] = ordered
        dimensions = tuple(map(_dimension, ordered))
        if len(dict(dimensions)) != len(dimensions) or len(dimensions) > CALL_DIMENSIONS_MAX:
            raise _Rare
    return read_subject(twin.subject), dimensions, amounts


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
